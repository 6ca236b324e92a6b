//! A real clamd, and servers that are none: what is asked of every scanner.

#![allow(clippy::unwrap_used)]

use futures::stream;
use tokio::net::TcpListener;

use super::clamd::{Clamd, SIGNATURE, STREAM_MAX, eicar};
use super::*;
use crate::resilience::State;

const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(2);
const LARGE: u64 = 100 << 20;

/// Times for a server that never goes on.
fn short() -> Times {
    Times { greeting: SHORT, piece: SHORT, verdict: SHORT }
}

/// A file, in chunks of some size.
fn file(content: &[u8], chunk: usize) -> (u64, BoxStream<'static, io::Result<Bytes>>) {
    let chunks: Vec<_> = content.chunks(chunk.max(1)).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    (content.len() as u64, stream::iter(chunks).boxed())
}

async fn scan(scanner: &Scanner, content: &[u8], chunk: usize) -> Result<Verdict, ScanError> {
    let (size, body) = file(content, chunk);
    scanner.scan(size, body).await
}

/// A clamd that answers, and the scanner that asks it.
async fn real() -> Option<(Clamd, Scanner)> {
    let clamd = Clamd::start()?;
    let url = clamd.url();
    let answers = async {
        loop {
            // Each time another one, so that no breaker opens.
            let scanner = Scanner::open(&url, LARGE).unwrap();
            if scanner.check().await.is_ok() {
                return scanner;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let scanner = tokio::time::timeout(PATIENCE, answers).await.expect("clamd does not answer");
    Some((clamd, scanner))
}

/// A server that does this with each connection.
async fn server<F, W>(work: F) -> String
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(work(socket));
        }
    });
    url
}

/// One that says which version it is, reads a file to its end, and answers this.
async fn answering(said: &'static [u8]) -> Scanner {
    let url = server(move |mut socket| async move {
        let mut heard = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(length) = socket.read(&mut piece).await {
            heard.extend_from_slice(&piece[..length]);
            if heard == b"zVERSION\0" {
                let _ = socket.write_all(b"ClamAV 1.4.6/27500/Fri Jan  3 2031\0").await;
                return;
            }
            if length == 0 || heard.ends_with(&[0; 4]) {
                break;
            }
        }
        let _ = socket.write_all(said).await;
    });
    Scanner::open(&url.await, LARGE).unwrap()
}

#[tokio::test]
async fn clamd_finds_the_test_virus_and_nothing_in_other_files() {
    let Some((_clamd, scanner)) = real().await else { return };
    let verdict = scan(&scanner, &eicar(), 7).await.unwrap();
    assert_eq!(verdict.signature.as_deref(), Some(SIGNATURE));
    assert!(verdict.engine.starts_with("ClamAV "), "{verdict:?}");
    for clean in [&b""[..], b"A letter", &vec![b'x'; 700_000]] {
        assert_eq!(scan(&scanner, clean, 300_000).await.unwrap().signature, None);
    }
    // Wherever it is: in the last bytes of a file of many pieces.
    let hidden = [vec![b' '; 600_000], eicar()].concat();
    assert!(scan(&scanner, &hidden, 500_000).await.unwrap().signature.is_some());
    assert!(scanner.health().is_up());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_by_us_or_by_clamd_and_is_no_outage() {
    let Some((clamd, scanner)) = real().await else { return };
    let large = vec![b'x'; STREAM_MAX as usize * 4];
    assert!(matches!(scan(&scanner, &large, 100_000).await, Err(ScanError::TooLarge)));
    let careful = Scanner::open(&clamd.url(), STREAM_MAX).unwrap();
    let never = stream::poll_fn(|_| -> std::task::Poll<Option<io::Result<Bytes>>> { panic!("it is sent") });
    assert!(matches!(careful.scan(STREAM_MAX + 1, never.boxed()).await, Err(ScanError::TooLarge)));
    assert!(scanner.health().is_up() && careful.health().is_up());
}

#[tokio::test]
async fn a_clamd_that_was_killed_is_an_outage_and_one_that_is_back_answers() {
    let Some((mut clamd, scanner)) = real().await else { return };
    clamd.stop();
    for _ in 0..5 {
        assert!(scanner.check().await.unwrap_err().is_outage());
    }
    assert_eq!(scanner.health().state, State::Open);
    // Now it is not even asked.
    assert!(matches!(scan(&scanner, b"x", 1).await, Err(ScanError::Unanswered(Unanswered::Open(_)))));
    clamd.start_again();
    let is_back = async {
        while scanner.check().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_back).await.expect("it is not asked again");
    assert!(scan(&scanner, &eicar(), 68).await.unwrap().signature.is_some());
}

#[tokio::test]
async fn a_clamd_that_stands_still_is_not_waited_for_long() {
    let Some((clamd, _)) = real().await else { return };
    clamd.freeze();
    let scanner = Scanner::with(&clamd.url(), LARGE, short()).unwrap();
    let stuck = scan(&scanner, b"x", 1).await.unwrap_err();
    assert!(matches!(stuck, ScanError::Stuck(_)) && stuck.is_outage(), "{stuck:?}");
    clamd.thaw();
}

#[tokio::test]
async fn who_takes_no_bytes_any_more_is_not_waited_for_long() {
    let url = server(|mut socket| async move {
        let mut command = [0; 10];
        let length = socket.read(&mut command).await.unwrap_or_default();
        if command[..length] == *b"zVERSION\0" {
            let _ = socket.write_all(b"ClamAV 1.4.6\0").await;
            return;
        }
        std::future::pending::<()>().await;
    });
    let scanner = Scanner::with(&url.await, u64::MAX, short()).unwrap();
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 65_536]))).boxed();
    let stuck = scanner.scan(0, endless).await.unwrap_err();
    assert!(matches!(stuck, ScanError::Stuck(_)), "{stuck:?}");
}

#[tokio::test]
async fn only_the_whole_word_of_a_clamd_makes_a_file_clean() {
    for said in
        ["", "stream: OK", "OK\0", "stream: OKAY\0", " stream: OK\0", "stream:  FOUND\0", "HTTP/1.1 200 OK\r\n\r\n"]
    {
        let error = scan(&answering(said.as_bytes()).await, b"x", 1).await.unwrap_err();
        assert!(error.is_outage(), "{said:?}: {error:?}");
    }
    let long = answering(&[b'x'; 100_000]).await;
    assert!(matches!(scan(&long, b"x", 1).await, Err(ScanError::Garbled(said)) if said.len() == 80));
    let clean = scan(&answering(b"stream: OK\0").await, b"x", 1).await.unwrap();
    assert_eq!(clean, Verdict { engine: "ClamAV 1.4.6/27500/Fri Jan  3 2031".to_owned(), signature: None });
    let refused = scan(&answering(b"stream: Can't allocate memory ERROR\0").await, b"x", 1).await.unwrap_err();
    assert!(matches!(&refused, ScanError::Refused(why) if why == "Can't allocate memory"), "{refused:?}");
    assert!(!refused.is_outage());
}

#[tokio::test]
async fn what_is_said_before_the_end_of_a_file_is_no_verdict() {
    let url = server(|mut socket| async move {
        let mut command = [0; 10];
        let length = socket.read(&mut command).await.unwrap_or_default();
        let version = command[..length] == *b"zVERSION\0";
        let _ = socket.write_all(if version { b"ClamAV 1.4.6\0" } else { b"stream: OK\0" }).await;
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut socket, &mut sink).await;
    });
    let scanner = Scanner::open(&url.await, u64::MAX).unwrap();
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 65_536])));
    let slowly = endless.then(|chunk| async move {
        tokio::task::yield_now().await;
        chunk
    });
    assert!(matches!(scanner.scan(0, slowly.boxed()).await, Err(ScanError::Garbled(_))));
}

#[tokio::test]
async fn a_file_that_breaks_off_is_not_the_scanners_fault() {
    let Some((_clamd, scanner)) = real().await else { return };
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(io::Error::other("the bucket left"))]);
    let error = scanner.scan(8, broken.boxed()).await.unwrap_err();
    assert!(matches!(&error, ScanError::Body(_)) && !error.is_outage(), "{error:?}");
    assert!(scanner.health().is_up());
}

#[test]
fn what_is_no_scanner_is_refused() {
    for url in ["tcp://", "http://localhost:3310", "localhost:3310", "tcp://host/path", "tcp://me@host"] {
        assert_eq!(Scanner::open(url, 1).map(drop), Err(InvalidScannerUrl), "{url}");
    }
    for url in ["tcp://clamav", "tcp://clamav:3310", "tcp://[::1]:3310"] {
        assert!(Scanner::open(url, 1).is_ok(), "{url}");
    }
}
