//! Load, as lean as it can be: a raw keep-alive connection each client.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The median time of something done so many times, one after the other, in seconds.
pub async fn p50<F: Future<Output = ()>>(times: usize, mut work: impl FnMut(usize) -> F) -> f64 {
    let mut figures = Vec::with_capacity(times);
    for n in 0..times {
        let started = Instant::now();
        work(n).await;
        figures.push(started.elapsed().as_secs_f64());
    }
    median(&mut figures)
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

/// The same request again and again over so many connections; answers a second.
pub async fn requests(address: &str, token: &str, body: &str, connections: usize, time: Duration) -> f64 {
    let request = request(address, token, body);
    let started = Instant::now();
    let each = (0..connections).map(|_| {
        let (request, address) = (request.clone(), address.to_owned());
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut buffer, mut n) = (Vec::new(), 0u64);
            while started.elapsed() < time {
                exchange(&mut stream, &request, &mut buffer).await;
                n += 1;
            }
            n
        })
    });
    let mut done = 0;
    for client in futures::future::join_all(each).await {
        done += client.unwrap();
    }
    done as f64 / started.elapsed().as_secs_f64()
}

pub fn request(address: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /graphql HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends a request and reads its answer; gives the body.
pub async fn exchange<'a>(stream: &mut TcpStream, request: &[u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
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
