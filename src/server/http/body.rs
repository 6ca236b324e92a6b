//! Bodies that come in time: whole ones within a time and a size, and streams that go on at a pace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use oriel_backends::blobs::BoxError;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::Refusal;

/// How fast a body has to come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes a second, on the average of a window.
    pub rate: u64,
    /// The window: the longest silence, and for a body that is read whole all its time.
    pub window: Duration,
}

impl Pace {
    /// What has to come within a window.
    fn least(&self) -> u64 {
        ((self.rate as f64 * self.window.as_secs_f64()) as u64).max(1)
    }
}

/// The whole body: at most `most` bytes, within one window.
pub async fn collect(body: Body, most: usize, pace: Pace) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!(
            "The body is over max_body_bytes: {most} bytes are allowed. Send fewer operations, or files as \
             multipart/form-data."
        );
        Refusal::limit(StatusCode::PAYLOAD_TOO_LARGE, "max_body_bytes", most as u64, message)
    };
    // Its head says how long it is.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let reading = async {
        let mut whole = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Refusal::bad_request("The body broke off."))?;
            if whole.len() + chunk.len() > most {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    };
    tokio::time::timeout(pace.window, reading).await.unwrap_or_else(|_| Err(too_slow(pace)))
}

/// Why a body that is read whole was given up.
fn too_slow(pace: Pace) -> Refusal {
    let time = pace.window;
    let message = format!("The body took longer than request_timeout = {time:?}. Send it at once.");
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Refusal::limit(StatusCode::REQUEST_TIMEOUT, "request_timeout", millis, message)
}

/// A body in single pieces. The parser of multipart reads on for as long as there is something to read, and keeps it:
/// a pause after each piece makes it hand on what it has. A client that sends too little has gone away; only the time
/// in which we wait for it counts, not that in which it waits for us.
pub struct Paced {
    chunks: BodyDataStream,
    pause: bool,
    pace: Pace,
    /// What came since the waiting was counted anew, and how long that took.
    came: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    patience: Pin<Box<Sleep>>,
}

impl Paced {
    /// This body, at this pace.
    pub fn new(body: Body, pace: Pace) -> Self {
        let patience = Box::pin(sleep_until(Instant::now() + pace.window));
        let (came, waited) = (0, Duration::ZERO);
        Self { chunks: body.into_data_stream(), pause: false, pace, came, waited, waiting_since: None, patience }
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Pace { rate, window } = this.pace;
        if std::mem::take(&mut this.pause) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Poll::Ready(next) = this.chunks.poll_next_unpin(context) {
            this.waited += this.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            this.came += next.as_ref().and_then(|next| next.as_ref().ok()).map_or(0, |chunk| chunk.len() as u64);
            if this.came >= this.pace.least() {
                (this.came, this.waited) = (0, Duration::ZERO);
            }
            this.pause = next.is_some();
            return Poll::Ready(next.map(|chunk| chunk.map_err(BoxError::from)));
        }
        if this.waiting_since.is_none() {
            let now = Instant::now();
            this.waiting_since = Some(now);
            this.patience.as_mut().reset(now + window.saturating_sub(this.waited));
        }
        std::task::ready!(this.patience.as_mut().poll(context));
        let message = format!("less than min_body_rate = {rate} bytes a second came within {window:?}");
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, message).into())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    const PACE: Pace = Pace { rate: 1_000, window: Duration::from_millis(100) };
    /// A machine that stands still for a moment is no client that does.
    const EASY: Pace = Pace { rate: 1_000, window: Duration::from_secs(1) };

    /// A body of pieces of this size, one now and then, for ever.
    fn dripping(bytes: usize) -> Body {
        let mut clock = tokio::time::interval(Duration::from_millis(2));
        Body::from_stream(async_stream::stream! {
            loop {
                clock.tick().await;
                yield Ok::<_, io::Error>(Bytes::from(vec![b'x'; bytes]));
            }
        })
    }

    fn kind(error: BoxError) -> io::ErrorKind {
        error.downcast_ref::<io::Error>().unwrap().kind()
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_for_too_long_has_gone() {
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, io::Error>>());
        assert_eq!(kind(Paced::new(silent, PACE).try_next().await.unwrap_err()), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_drop_now_and_then_is_no_body_and_a_slow_stream_is_one() {
        // 500 bytes a second, and 50 000.
        let ended = Paced::new(dripping(1), PACE).try_for_each(|_| async { Ok(()) }).await.unwrap_err();
        assert_eq!(kind(ended), io::ErrorKind::TimedOut);
        let slow: Vec<Bytes> = Paced::new(dripping(100), EASY).take(1_200).try_collect().await.unwrap();
        assert_eq!(slow.len(), 1_200, "of two windows and more");
    }

    #[tokio::test]
    async fn a_whole_body_is_bounded_in_size_and_time() {
        let limit = async |body, most| {
            let error = collect(body, most, PACE).await.unwrap_err();
            (error.status.as_u16(), error.message.contains("max_body_bytes"))
        };
        assert_eq!(collect(Body::from("12345"), 5, PACE).await.unwrap(), "12345");
        assert_eq!(limit(Body::from("123456"), 5).await, (413, true));
        assert_eq!(limit(dripping(1), 1_000).await, (408, false));
    }
}
