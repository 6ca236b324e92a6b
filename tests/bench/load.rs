//! Load, as lean as it can be: raw keep-alive connections.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::machine;
use crate::oriel::Running;

/// Connections that ask at once when throughput is measured.
const CONNECTIONS: usize = 8;
/// What is not answered by then is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections to one server at most where requests come when they are due.
const PEOPLE: usize = 1_000;
/// How long who is refused waits before they ask again.
const REFUSED: Duration = Duration::from_millis(100);
/// What a timer may be late.
const TIMER: Duration = Duration::from_millis(2);

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

/// What came of many requests.
#[derive(Default)]
pub struct Outcome {
    /// How long each took that was answered, in seconds.
    seconds: Vec<f64>,
    /// How many were refused, failed, or were answered with errors.
    errors: usize,
    lasted: f64,
    /// CPU time that the servers took meanwhile, in seconds.
    cpu: f64,
}

impl Outcome {
    fn count(&mut self, answered: Option<f64>) {
        match answered {
            Some(seconds) => self.seconds.push(seconds),
            None => self.errors += 1,
        }
    }

    /// How many were answered in a second.
    pub fn per_second(&self) -> f64 {
        self.seconds.len() as f64 / self.lasted
    }

    /// How long a part of them took at most, in milliseconds. `part`: of one.
    pub fn within(&self, part: f64) -> f64 {
        if self.seconds.is_empty() { f64::INFINITY } else { percentile(&self.seconds, part) * 1e3 }
    }

    /// Of a hundred.
    pub fn errors(&self) -> f64 {
        self.errors as f64 / (self.errors + self.seconds.len()).max(1) as f64 * 1e2
    }

    /// In words, for a note.
    pub fn told(&self) -> String {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|part| self.within(part));
        let each = self.cpu / self.seconds.len().max(1) as f64 * 1e6;
        let (cores, errors) = (self.cpu / self.lasted, self.errors());
        format!(
            "p50 {p50:.2}, p95 {p95:.1}, p99 {p99:.1} ms; CPU {each:.0} us each, {cores:.2} cores; {errors:.2} % errors"
        )
    }
}

/// CPU time of all of them, in seconds.
fn cpu(servers: &[&Running]) -> f64 {
    servers.iter().map(|server| machine::cpu_seconds(server.process())).sum()
}

/// So many clients, each of which asks on when it was answered, for so long; `request` makes the n-th one of a client.
/// The clients take turns over the servers.
pub async fn clients(
    servers: &[&Running],
    clients: usize,
    time: Duration,
    request: impl Fn(usize, u64) -> Vec<u8>,
) -> Outcome {
    let (began, before) = (Instant::now(), cpu(servers));
    let request = &request;
    let each = (0..clients).map(|client| async move {
        let (address, mut outcome) = (&servers[client % servers.len()].address, Outcome::default());
        let mut connection = Connection::open(address).await;
        for n in 0.. {
            if began.elapsed() >= time {
                break;
            }
            let request = request(client, n);
            let asked = Instant::now();
            let answered = connection.answered(&request).await;
            outcome.count(answered.then(|| asked.elapsed().as_secs_f64()));
            if !answered {
                // As people do who are refused. The answer may still come, over the old connection.
                tokio::time::sleep(REFUSED).await;
                connection = Connection::open(address).await;
            }
        }
        outcome
    });
    let mut all = Outcome::default();
    for outcome in futures::future::join_all(each).await {
        all.seconds.extend(outcome.seconds);
        all.errors += outcome.errors;
    }
    (all.lasted, all.cpu) = (began.elapsed().as_secs_f64(), cpu(servers) - before);
    all
}

/// Requests that come at this rate a second, for so long, whether or not those before them are answered; `request` makes
/// the n-th one. Each goes over one of a thousand connections, as a thousand people have; while none is free it waits,
/// and that counts.
pub async fn arrivals(servers: &[&Running], rate: f64, time: Duration, request: impl Fn(u64) -> Vec<u8>) -> Outcome {
    let addresses: Vec<_> = servers.iter().map(|server| Arc::new(People::at(&server.address))).collect();
    let (began, before) = (tokio::time::Instant::now(), cpu(servers));
    let (mut asked, mut all) = (JoinSet::new(), Outcome::default());
    for n in 0..(rate * time.as_secs_f64()) as u64 {
        let due = began + Duration::from_secs_f64(n as f64 / rate);
        tokio::time::sleep_until(due).await;
        let (request, people) = (request(n), Arc::clone(&addresses[n as usize % addresses.len()]));
        // The timer is up to a millisecond late, which nobody waited for; what is later than that somebody did.
        let now = tokio::time::Instant::now();
        let came = if now.duration_since(due) > TIMER { due } else { now };
        asked.spawn(async move {
            let answered = tokio::time::timeout_at(came + PATIENCE, people.ask(&request)).await;
            matches!(answered, Ok(true)).then(|| came.elapsed().as_secs_f64())
        });
        while let Some(done) = asked.try_join_next() {
            all.count(done.unwrap());
        }
    }
    while let Some(done) = asked.join_next().await {
        all.count(done.unwrap());
    }
    (all.lasted, all.cpu) = (began.elapsed().as_secs_f64(), cpu(servers) - before);
    all
}

/// Those who ask one server.
struct People {
    address: String,
    free: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl People {
    fn at(address: &str) -> Self {
        Self { address: address.to_owned(), free: Semaphore::new(PEOPLE), idle: Mutex::default() }
    }

    /// Whether one of them is answered.
    async fn ask(&self, request: &[u8]) -> bool {
        let _one = self.free.acquire().await.unwrap();
        let kept = self.idle.lock().unwrap().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => match Connection::try_open(&self.address).await {
                Ok(connection) => connection,
                Err(_) => return false,
            },
        };
        let answered = connection.answered(request).await;
        if answered {
            self.idle.lock().unwrap().push(connection);
        }
        answered
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
        Self::try_open(address).await.unwrap()
    }

    async fn try_open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer; gives the body.
    pub async fn exchange(&mut self, request: &[u8]) -> &[u8] {
        let (status, body) = self.ask(request).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
        body
    }

    /// Sends a request and reads its answer, whatever its status; gives the body.
    pub async fn receive(&mut self, request: &[u8]) -> &[u8] {
        self.ask(request).await.unwrap().1
    }

    /// Sends a request that may be refused; if it is, the next one waits a moment.
    pub async fn offer(&mut self, request: &[u8]) {
        if !self.answered(request).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the answer has data and no errors.
    async fn answered(&mut self, request: &[u8]) -> bool {
        let asked = tokio::time::timeout(PATIENCE, self.ask(request)).await;
        let Ok(Ok((200, body))) = asked else { return false };
        !body.starts_with(b"{\"errors\"") && !body.windows(11).any(|part| part == b",\"errors\":[")
    }

    async fn ask(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        let Self { stream, buffer } = self;
        stream.write_all(request).await?;
        buffer.clear();
        let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (head, length, status) = loop {
            if stream.read_buf(buffer).await? == 0 {
                return Err(closed());
            }
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                break (end + 4, length.parse::<usize>().unwrap(), head[9..12].parse().unwrap());
            }
        };
        while buffer.len() < head + length {
            if stream.read_buf(buffer).await? == 0 {
                return Err(closed());
            }
        }
        Ok((status, &buffer[head..]))
    }
}
