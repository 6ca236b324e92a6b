//! What a client still sends when its request was answered already: read and thrown away for a moment, so that the
//! client gets to its answer. A connection that is closed while the other end writes is reset, and an answer that lies
//! unread in it is lost: a refusal would look like a failure of the network.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use futures::StreamExt;
use http_body::{Frame, SizeHint};

/// How much is read: what somebody sends in good faith who knows no limit. Who sends more is cut off.
const MOST: usize = 64 << 20;
/// How long, in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(5);

/// Lets the rest of a body be read that a handler has dropped.
pub async fn unread(request: Request) -> Request {
    // Who waits for leave to send has sent nothing.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return request;
    }
    request.map(|body| Body::new(Lingering(Some(body))))
}

/// A body, until its end.
struct Lingering(Option<Body>);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let next = ready!(Pin::new(body).poll_frame(context));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(rest) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(PATIENCE, discard(rest)));
        }
    }
}

async fn discard(rest: Body) {
    let mut read = 0;
    let mut rest = rest.into_data_stream();
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(SILENCE, rest.next()).await {
        read += piece.len();
        if read > MOST {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::map_request;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection to a server that refuses everything unread, and the answer to the head of a request.
    async fn refused(bytes: usize) -> BufReader<TcpStream> {
        let refusing = any(|| async { StatusCode::FORBIDDEN });
        let router = Router::new().fallback_service(refusing.layer(map_request(unread)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = BufReader::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        client
            .write_all(format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 403"));
        client
    }

    /// The head of an answer.
    async fn answer(client: &mut BufReader<TcpStream>) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn a_body_that_nobody_wanted_does_not_cost_the_connection() {
        let mut client = refused(300_000).await;
        client.write_all(&[b'x'; 300_000]).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 403"));
    }

    #[tokio::test]
    async fn a_body_without_an_end_is_cut_off() {
        let mut client = refused(1 << 40).await;
        let piece = vec![b'x'; 64 << 10];
        while client.write_all(&piece).await.is_ok() {}
    }
}
