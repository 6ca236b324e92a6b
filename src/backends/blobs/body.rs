//! What both backends do to a body on its way: count it, hash it, hold it to its terms.

use std::io;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use super::{BlobError, BlobInfo, BoxError, PutSize};

/// A body on its way in; a trait object, so that the backends are compiled once.
pub(super) type Body<'a> = std::pin::Pin<&'a mut (dyn Stream<Item = Result<Bytes, BoxError>> + Send)>;

/// What a body has to keep to, and what its key may meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Most bytes.
    pub limit: u64,
    /// Exactly so many bytes.
    pub exactly: Option<u64>,
    /// Whether a blob under the same key gives way.
    pub replace: bool,
}

impl Terms {
    /// Of a blob that this process makes.
    pub fn new_key(limit: u64) -> Self {
        Self { limit, exactly: None, replace: false }
    }

    /// Of an upload through a signed URL.
    pub fn signed(size: PutSize) -> Self {
        match size {
            PutSize::AtMost(limit) => Self { limit, exactly: None, replace: true },
            PutSize::Exactly(size) => Self { limit: size, exactly: Some(size), replace: true },
        }
    }

    /// Refuses a body that ended before its announced size.
    pub fn accept(&self, info: BlobInfo) -> Result<BlobInfo, BlobError> {
        match self.exactly {
            Some(exactly) if exactly != info.size => {
                Err(BlobError::BrokenOff(format!("{exactly} bytes were announced, {} came", info.size).into()))
            }
            _ => Ok(info),
        }
    }
}

/// Counts and hashes what passes.
pub(super) struct Meter {
    digest: digest::Context,
    size: u64,
    limit: u64,
}

impl Meter {
    pub fn new(limit: u64) -> Self {
        Self { digest: digest::Context::new(&digest::SHA256), size: 0, limit }
    }

    pub fn take(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        self.size += chunk.len() as u64;
        if self.size > self.limit {
            return Err(BlobError::TooLarge { limit: self.limit });
        }
        self.digest.update(chunk);
        Ok(())
    }

    /// The next chunk of a body, measured. An error of the sender ends it.
    pub async fn next(&mut self, body: &mut Body<'_>) -> Result<Option<Bytes>, BlobError> {
        match body.next().await {
            None => Ok(None),
            Some(Err(error)) => Err(BlobError::BrokenOff(error)),
            Some(Ok(chunk)) => {
                self.take(&chunk)?;
                Ok(Some(chunk))
            }
        }
    }

    pub fn finish(self) -> BlobInfo {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.digest.finish().as_ref());
        BlobInfo { size: self.size, sha256 }
    }
}

/// The bytes that a request for `asked` of a blob of `size` bytes gets; `None` when there are none of those asked for.
pub(super) fn resolve(asked: Option<std::ops::Range<u64>>, size: u64) -> Option<std::ops::Range<u64>> {
    let Some(asked) = asked else { return Some(0..size) };
    let end = asked.end.min(size);
    (asked.start < end).then_some(asked.start..end)
}

/// A stream that ends with an error unless exactly `length` bytes came.
pub(super) fn whole(
    stream: BoxStream<'static, io::Result<Bytes>>,
    length: u64,
) -> BoxStream<'static, io::Result<Bytes>> {
    futures::stream::unfold(Some((stream, length)), |state| async move {
        let (mut stream, left) = state?;
        match stream.next().await {
            Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                Some(left) => Some((Ok(chunk), Some((stream, left)))),
                None => Some((Err(io::Error::other("the blob is longer than it was said to be")), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None if left > 0 => Some((
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} bytes of the blob are missing"))),
                None,
            )),
            None => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::TryStreamExt;

    async fn collect(chunks: &[&'static str], length: u64) -> io::Result<Vec<Bytes>> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        whole(futures::stream::iter(chunks).boxed(), length).try_collect().await
    }

    #[tokio::test]
    async fn a_stream_that_is_too_short_or_too_long_ends_with_an_error() {
        assert_eq!(collect(&["ab", "c"], 3).await.unwrap(), ["ab", "c"]);
        assert_eq!(collect(&[], 0).await.unwrap(), Vec::<Bytes>::new());
        assert_eq!(collect(&["ab"], 3).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(collect(&["ab", "cd"], 3).await.is_err());
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_empty_ones_refused() {
        assert_eq!(resolve(None, 0), Some(0..0));
        assert_eq!(resolve(None, 5), Some(0..5));
        assert_eq!(resolve(Some(2..u64::MAX), 5), Some(2..5));
        assert_eq!(resolve(Some(5..6), 5), None);
        assert_eq!(resolve(Some(3..3), 5), None);
        assert_eq!(resolve(Some(0..1), 0), None);
    }
}
