//! What the operating system tells of processes.

use std::fs::read_to_string;

/// Ticks a second in which Linux counts CPU time for everybody who asks (`USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU time that a process has taken, its ended children not counted, in seconds.
pub fn cpu_seconds(process: u32) -> f64 {
    let stat = read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name stands in brackets and may hold anything; user and system time are the 12th and 13th word behind it.
    let (_, behind) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = behind.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum();
    ticks as f64 / TICKS
}

/// Resident memory of a process, in bytes.
pub fn resident(process: u32) -> u64 {
    let status = read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How many cores there are to be shared.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets this process, and those that it starts, open as many files as it may: a socket is one.
pub fn allow_many_files() {
    let most = rlimit::Resource::NOFILE.get_hard().unwrap();
    rlimit::Resource::NOFILE.set(most, most).unwrap();
}
