//! Connections: accepted, watched while they say nothing, and ended in order.
//!
//! Invariants: a connection that does not bring a whole head of a request in time, its first one or the next, is
//! closed; one more than there is room for is told so and closed, in bounded time and memory. What an open stream or a
//! WebSocket does is the matter of those.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::connections::{Connection, Connections, Full};
use crate::tls::Tls;

/// How long nothing is accepted when the process has no more files to give.
const BREATH: Duration = Duration::from_millis(200);
/// How long a client may take to begin TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of the head of a request: its first line and its headers.
const HEAD: u32 = 64 << 10;
/// Requests of one HTTP/2 connection at the same time.
const STREAMS: u32 = 200;
/// Requests of one HTTP/2 connection that were taken back before they were looked at: more are a flood, and end it.
const TAKEN_BACK: usize = 20;
/// Requests of one HTTP/2 connection that broke the protocol: more end it.
const BROKEN: usize = 100;
/// Bytes of an answer that wait for an HTTP/2 client to read them, for each request.
const UNREAD: usize = 64 << 10;
/// Connections at the same time that are told why they are refused. More are closed without a word.
const TOLD: usize = 64;
/// How long one of them may take to hear it.
const HEARING: Duration = Duration::from_secs(2);

/// How connections are treated.
#[derive(Clone)]
pub struct Terms {
    /// How long one may be without a request, and how long the head of one may take.
    pub idle: Duration,
    /// How many there may be.
    pub room: Connections,
}

/// Serves until `stop`, and then until the requests that run are answered.
pub async fn serve(listener: TcpListener, tls: Option<Tls>, router: Router, terms: Terms, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let told = Arc::new(Semaphore::new(TOLD));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => match terms.room.take(peer.ip()) {
                Ok(place) => {
                    let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                    connections.spawn(begin(stream, tls, peer, router, terms.idle, stop, place));
                }
                // Under TLS nothing can be said before the handshake, which is work.
                Err(full) if tls.is_none() => {
                    if let Ok(permit) = Arc::clone(&told).try_acquire_owned() {
                        connections.spawn(async move {
                            let _ = tokio::time::timeout(HEARING, refuse(stream, full)).await;
                            drop(permit);
                        });
                    }
                }
                Err(_) => {}
            },
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted at the moment");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Says in HTTP/1.1, which every client understands at this point, that there is no room; and why.
async fn refuse(mut stream: TcpStream, full: Full) -> io::Result<()> {
    let (status, body) = full.answer();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\nretry-after: {}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        Full::AGAIN.as_secs(),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    stream.shutdown().await?;
    // Closed with something unread, the answer would be lost on its way.
    let mut unread = [0; 1 << 10];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

#[allow(clippy::too_many_arguments)]
async fn begin(
    stream: TcpStream,
    tls: Option<Tls>,
    peer: SocketAddr,
    router: Router,
    idle: Duration,
    stop: CancellationToken,
    _place: Connection,
) {
    // Small messages go out at once: two in a row would wait for the first to be acknowledged.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps small messages back");
    }
    let Some(tls) = tls else { return talk(stream, peer, router, idle, stop).await };
    let shaking = tokio::time::timeout(idle.min(HANDSHAKE), tls.accept(stream));
    match stop.run_until_cancelled(shaking).await {
        Some(Ok(Ok(stream))) => talk(stream, peer, router, idle, stop).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "a connection did not begin TLS"),
        Some(Err(_)) | None => {}
    }
}

async fn talk<S>(stream: S, peer: SocketAddr, router: Router, idle: Duration, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let service = Heard { router, peer, asked: Arc::clone(&asked) };
    let mut builder = Builder::new(TokioExecutor::new());
    let http1 = &mut builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEAD as usize);
    let http2 = &mut builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(idle).enable_connect_protocol();
    http2.max_concurrent_streams(STREAMS).max_header_list_size(HEAD).max_send_buf_size(UNREAD);
    http2.max_pending_accept_reset_streams(TAKEN_BACK).max_local_error_reset_streams(BROKEN);
    let talking = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut talking = pin!(talking);
    // Until it is known which HTTP it speaks, no clock of the protocol runs.
    let mut first = pin!(tokio::time::sleep(idle));
    let (mut waiting, mut ending) = (true, false);
    loop {
        tokio::select! {
            ended = talking.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(error, "a connection ended");
                }
                return;
            }
            () = first.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = stop.cancelled(), if !ending => {
                ending = true;
                talking.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The router, which learns who asks; and that somebody did.
#[derive(Clone)]
struct Heard {
    router: Router,
    peer: SocketAddr,
    asked: Arc<AtomicBool>,
}

impl<B> Service<Request<B>> for Heard
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as a router always is
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.router.call(request)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::routing::get;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::version::{TLS12, TLS13};
    use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

    use super::*;
    use crate::tls::{Files, tests::write};

    /// When certificates of these tests end.
    const FAR: chrono::DateTime<chrono::Utc> = chrono::DateTime::from_timestamp_nanos(i64::MAX);
    /// How long silence is borne where that is what a test is about. Elsewhere it is not to end anything.
    const IDLE: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn borne_for(idle: Duration) -> Terms {
        Terms { idle, room: Connections::new(1_000, 1_000, Vec::new()) }
    }

    async fn listen(stop: &CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        listen_with(None, stop).await
    }

    async fn listen_with(tls: Option<Tls>, stop: &CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        listen_for(tls, borne_for(PATIENCE), stop).await
    }

    async fn listen_for(
        tls: Option<Tls>,
        terms: Terms,
        stop: &CancellationToken,
    ) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
        let stopped = stop.clone();
        let slow = || async move {
            stopped.cancelled().await;
            "slow"
        };
        let router = Router::new().route("/", get(who)).route("/slow", get(slow));
        (address, tokio::spawn(serve(listener, tls, router, terms, stop.clone())))
    }

    /// What is heard until the other end closes.
    async fn all(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &str) -> String {
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut heard = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut heard)).await.unwrap().unwrap();
        heard
    }

    /// A connection under TLS of this version, for one HTTP, to who has the certificate of these files.
    async fn shake(
        address: SocketAddr,
        files: &Files,
        version: &'static SupportedProtocolVersion,
        http: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![http.as_bytes().to_vec()];
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    #[tokio::test]
    async fn tls_is_of_version_1_3_and_carries_both_http_1_1_and_http_2() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(&folder, FAR);
        let tls = Tls::open(files.clone()).await.unwrap();
        let (address, _serving) = listen_with(Some(tls), &CancellationToken::new()).await;

        let stream = shake(address, &files, &TLS13, "http/1.1").await.unwrap();
        let (_, spoken) = stream.get_ref();
        assert_eq!(spoken.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(spoken.alpn_protocol(), Some(&b"http/1.1"[..]));
        let heard = all(stream, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200") && heard.ends_with("127.0.0.1"), "{heard}");

        let mut stream = shake(address, &files, &TLS13, "h2").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        // The preface, empty SETTINGS, and HEADERS that end stream 1: GET, https, / of the static table (RFC 7541).
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, 3, 1, 0x5, 0, 0, 0, 1, 0x82, 0x87, 0x84];
        stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &headers].concat()).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"127.0.0.1") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard)).await;
            assert!(read.unwrap().unwrap() > 0, "{:?}", String::from_utf8_lossy(&heard));
        }

        let old = shake(address, &files, &TLS12, "http/1.1").await.unwrap_err();
        assert!(old.to_string().contains("ProtocolVersion"), "{old}");
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        // It may be closed rudely.
        let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut heard)).await.unwrap();
        assert!(!String::from_utf8_lossy(&heard).contains("HTTP/"), "nothing is said in the clear: {heard:?}");
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_to_who_comes_next() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = write(&folder, FAR);
        let renewed = write(&other, FAR);
        let tls = Tls::open(files.clone()).await.unwrap();
        let (address, _serving) = listen_with(Some(tls.clone()), &CancellationToken::new()).await;
        shake(address, &files, &TLS13, "h2").await.unwrap();
        assert!(shake(address, &renewed, &TLS13, "h2").await.is_err());
        std::fs::copy(&renewed.certificate, &files.certificate).unwrap();
        std::fs::copy(&renewed.key, &files.key).unwrap();
        assert!(tls.reload().await.unwrap());
        shake(address, &renewed, &TLS13, "h2").await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_begin_tls_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::open(write(&folder, FAR)).await.unwrap();
        let (address, _serving) = listen_for(Some(tls), borne_for(IDLE), &CancellationToken::new()).await;
        let mut heard = Vec::new();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let read = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut heard)).await;
        assert_eq!((read.unwrap().unwrap(), heard.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_says_nothing_or_not_all_is_left() {
        let (address, _serving) = listen_for(None, borne_for(IDLE), &CancellationToken::new()).await;
        for said in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: x\r\nx-never: en"] {
            let heard = all(TcpStream::connect(address).await.unwrap(), said).await;
            assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 408"), "{said}: {heard}");
        }
        let heard = all(TcpStream::connect(address).await.unwrap(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200") && heard.ends_with("127.0.0.1"), "and closed when idle: {heard}");
    }

    #[tokio::test]
    async fn it_ends_when_what_runs_is_answered() {
        let stop = CancellationToken::new();
        let (address, serving) = listen(&stop).await;
        let mut asking = TcpStream::connect(address).await.unwrap();
        let other = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // Answered after the next one that was sent, which shows that it is being worked on.
        let heard = all(other, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        stop.cancel();
        let heard = all(asking, "").await;
        assert!(heard.ends_with("slow"), "{heard}");
        tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn one_more_than_there_is_room_for_is_told_so_and_gets_in_when_another_leaves() {
        let room = Connections::new(1_000, 2, Vec::new());
        let patient = Terms { idle: PATIENCE, room: room.clone() };
        let (address, _serving) = listen_for(None, patient, &CancellationToken::new()).await;
        let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let said = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        // Whoever came first is accepted first.
        let heard = all(TcpStream::connect(address).await.unwrap(), said).await;
        assert!(heard.starts_with("HTTP/1.1 429 ") && heard.contains("\r\nretry-after: 5\r\n"), "{heard}");
        let body: serde_json::Value = serde_json::from_str(heard.split_once("\r\n\r\n").unwrap().1).unwrap();
        let told = &body["errors"][0]["extensions"];
        assert_eq!((&told["code"], &told["limit"]), (&"LIMIT_EXCEEDED".into(), &"max_connections_per_address".into()));
        drop(held);
        tokio::time::timeout(PATIENCE, async {
            while !all(TcpStream::connect(address).await.unwrap(), said).await.starts_with("HTTP/1.1 200") {}
        })
        .await
        .expect("the places were given back");
    }

    #[tokio::test]
    async fn the_head_of_a_request_is_bounded() {
        let (address, _serving) = listen(&CancellationToken::new()).await;
        let many: String = (0..=100).map(|n| format!("x-{n}: 1\r\n")).collect();
        for head in [format!("x: {}\r\n", "x".repeat(HEAD as usize)), many] {
            let heard = TcpStream::connect(address).await.unwrap();
            let heard = all(heard, &format!("GET / HTTP/1.1\r\nhost: x\r\n{head}\r\n")).await;
            assert!(heard.starts_with("HTTP/1.1 431"), "{heard}");
        }
    }

    /// A frame of HTTP/2.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[tokio::test]
    async fn who_takes_back_request_after_request_is_left() {
        const ENHANCE_YOUR_CALM: u32 = 0xb;
        let (address, _serving) = listen(&CancellationToken::new()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut said = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
        for number in 0..2_000 {
            // HEADERS of GET, http, / (static table), and RST_STREAM with CANCEL.
            said.extend(frame(1, 0x5, 2 * number + 1, &[0x82, 0x86, 0x84]));
            said.extend(frame(3, 0, 2 * number + 1, &8u32.to_be_bytes()));
        }
        // It may be closed in the middle of them.
        let _ = stream.write_all(&said).await;
        let mut heard = Vec::new();
        let mut goodbye = None;
        while goodbye.is_none() {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard)).await.unwrap();
            assert!(read.unwrap() > 0, "it was closed without GOAWAY: {heard:?}");
            let mut rest = &heard[..];
            while let Some((head, after)) = rest.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some((payload, after)) = after.split_at_checked(length) else { break };
                if head[3] == 7 {
                    goodbye = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                rest = after;
            }
        }
        assert_eq!(goodbye, Some(ENHANCE_YOUR_CALM));
    }
}
