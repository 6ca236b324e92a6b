//! Load, as lean as it can be: raw keep-alive connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::machine;

/// Connections that ask at once when throughput is measured.
const CONNECTIONS: usize = 8;

pub fn median(figures: &[f64]) -> f64 {
    percentile(figures, 0.5)
}

/// `part`: of one.
pub fn percentile(figures: &[f64], part: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    figures[(last as f64 * part).round() as usize]
}

/// The times of something done so often, one after the other, in seconds.
pub async fn times<F: Future<Output = ()>>(times: usize, mut work: impl FnMut(usize) -> F) -> Vec<f64> {
    let mut figures = Vec::with_capacity(times);
    for n in 0..times {
        let started = Instant::now();
        work(n).await;
        figures.push(started.elapsed().as_secs_f64());
    }
    figures
}

/// How often a second something is done by so many clients at once.
pub async fn rate<F: Future<Output = ()>>(clients: usize, time: Duration, work: impl Fn(usize, usize) -> F) -> f64 {
    let started = Instant::now();
    let work = &work;
    let each = (0..clients).map(|client| async move {
        let mut n = 0;
        while started.elapsed() < time {
            work(client, n).await;
            n += 1;
        }
        n
    });
    let done: usize = futures::future::join_all(each).await.into_iter().sum();
    done as f64 / started.elapsed().as_secs_f64()
}

/// Rounds of requests.
#[derive(Default)]
pub struct Rounds {
    per_second: Vec<f64>,
    /// CPU time of the server, in microseconds.
    cpu_each: Vec<f64>,
}

impl Rounds {
    /// Asks the server that this process is, over several connections at once, for so long. `request` makes the n-th.
    pub async fn one_more(
        &mut self,
        process: u32,
        address: &str,
        time: Duration,
        request: impl Fn(u64) -> Vec<u8> + Sync,
    ) {
        let (done, cpu, started) = (AtomicU64::new(0), machine::cpu_seconds(process), Instant::now());
        let each = (0..CONNECTIONS).map(|_| async {
            let mut connection = Connection::open(address).await;
            while started.elapsed() < time {
                let n = done.fetch_add(1, Ordering::Relaxed);
                connection.exchange(&request(n)).await;
            }
        });
        futures::future::join_all(each).await;
        let done = done.into_inner() as f64;
        self.per_second.push(done / started.elapsed().as_secs_f64());
        self.cpu_each.push((machine::cpu_seconds(process) - cpu) / done * 1e6);
    }

    pub fn per_second(&self) -> f64 {
        median(&self.per_second)
    }

    pub fn cpu_each(&self) -> f64 {
        median(&self.cpu_each)
    }
}

/// A request in HTTP/1.1.
pub fn request(path: &str, token: &str, body: &str) -> Vec<u8> {
    let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(64 << 10) }
    }

    /// Sends a request and reads its answer; gives the body.
    pub async fn exchange(&mut self, request: &[u8]) -> &[u8] {
        let Self { stream, buffer } = self;
        stream.write_all(request).await.unwrap();
        buffer.clear();
        let (head, length) = loop {
            assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed the connection");
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                break (end + 4, length.parse::<usize>().unwrap());
            }
        };
        while buffer.len() < head + length {
            assert!(stream.read_buf(buffer).await.unwrap() > 0, "the answer broke off");
        }
        &buffer[head..]
    }
}
