//! Signed URLs of a local blob store: downloads with ranges and validators, and uploads.
//!
//! The signature is the permission: no token is read here. What is served came from somebody: it is never sniffed, and
//! runs nothing, whatever its media type says.

use std::ops::Range;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use oriel_backends::blobs::{BlobError, Disposition, Grant, SignatureError};

use super::HttpState;
use super::access::Exchange;
use super::answer::Refusal;
use super::body::Paced;
use super::multipart::not_stored;

/// What a file may do in a browser: nothing.
const SANDBOX: &str = "default-src 'none'; sandbox";

/// A file, or a part of it. A `HEAD` comes here too.
pub async fn download(State(state): State<HttpState>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match serve(&state, &parts).await {
        Ok(response) => response,
        Err(refused) => refused.response(),
    }
}

/// A file that a client sends to a signed URL.
pub async fn upload(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let checked = verify(&state, &parts).and_then(|grant| grant.check_headers(&parts.headers).map(|()| grant));
    let grant = match checked {
        Ok(grant) => grant,
        Err(error) => return Refused::from(error).response(),
    };
    let body = Paced::new(body, state.limits.pace);
    match state.endpoint.services().blobs.receive(&grant, body).await {
        Ok(stored) => {
            metrics::counter!("oriel_upload_bytes_total").increment(stored.size);
            let tag = format!("\"{}\"", stored.sha256_hex());
            let mut response = StatusCode::OK.into_response();
            insert(response.headers_mut(), ETAG, &tag);
            response
        }
        Err(error) => {
            let refusal: Refusal = not_stored(error, "the signed size");
            tracing::debug!(trace_id = exchange.trace(), code = refusal.code, "an upload to a signed URL was refused");
            plain(refusal.status, refusal.message)
        }
    }
}

/// Why a signed URL gives nothing.
enum Refused {
    Signature(SignatureError),
    Blob(BlobError),
}

impl From<SignatureError> for Refused {
    fn from(error: SignatureError) -> Self {
        Self::Signature(error)
    }
}

impl From<BlobError> for Refused {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl Refused {
    fn response(self) -> Response {
        match self {
            Self::Signature(SignatureError::Expired) => {
                plain(StatusCode::FORBIDDEN, "This link has expired. Ask for a new one.")
            }
            Self::Signature(SignatureError::Invalid) => {
                plain(StatusCode::FORBIDDEN, "This link is not valid: it is incomplete, or it was changed.")
            }
            Self::Signature(SignatureError::Headers) => {
                let text = "The content type or the length is not the one for which this link was made.";
                plain(StatusCode::FORBIDDEN, text)
            }
            Self::Blob(BlobError::NotFound) => plain(StatusCode::NOT_FOUND, "This file is not there any more."),
            Self::Blob(BlobError::RangeOutside { size }) => {
                let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, "The file ends before this range.");
                insert(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{size}"));
                response
            }
            Self::Blob(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "a file cannot be read");
                plain(StatusCode::SERVICE_UNAVAILABLE, "This file cannot be read at the moment. Try again.")
            }
        }
    }
}

fn verify(state: &HttpState, request: &Parts) -> Result<Grant, SignatureError> {
    let services = state.endpoint.services();
    let path = request.uri.path_and_query().ok_or(SignatureError::Invalid)?;
    services.blobs.verify(&request.method, path.as_str(), services.engine.now())
}

async fn serve(state: &HttpState, request: &Parts) -> Result<Response, Refused> {
    let Grant::Get { key, disposition, media_type, .. } = verify(state, request)? else {
        return Err(SignatureError::Invalid.into());
    };
    let blobs = &state.endpoint.services().blobs;
    let size = blobs.head(&key).await?.size;
    // A key is used once: it names the bytes.
    let tag = format!("\"{}\"", key.as_str().replace('/', "-"));
    let headers = &request.headers;
    if matches(headers, &IF_NONE_MATCH, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(response.headers_mut(), &tag, &disposition);
        return Ok(response);
    }
    let range = match headers.get(RANGE).and_then(|value| value.to_str().ok()) {
        Some(text) if may_be_partial(headers, &tag) => range(text, size),
        _ => Asked::Whole,
    };
    let (status, range) = match range {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Outside => return Err(BlobError::RangeOutside { size }.into()),
    };
    let body = if request.method == Method::HEAD {
        Body::empty()
    } else {
        let part = (status == StatusCode::PARTIAL_CONTENT).then(|| range.clone());
        Body::from_stream(blobs.get(&key, part).await?.stream)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    describe(headers, &tag, &disposition);
    insert(headers, CONTENT_TYPE, media_type.as_deref().unwrap_or("application/octet-stream"));
    insert(headers, CONTENT_LENGTH, &(range.end - range.start).to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    Ok(response)
}

fn describe(headers: &mut HeaderMap, tag: &str, disposition: &Disposition) {
    insert(headers, ETAG, tag);
    insert(headers, ACCEPT_RANGES, "bytes");
    insert(headers, CONTENT_DISPOSITION, &disposition.header_value());
    insert(headers, CONTENT_SECURITY_POLICY, SANDBOX);
    insert(headers, CACHE_CONTROL, "private, no-cache");
}

/// Whether one of the tags in this header is ours.
fn matches(headers: &HeaderMap, name: &HeaderName, tag: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim).any(|known| {
        // For a copy that is only to be confirmed, a weak tag is as good.
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

/// `If-Range`: a part only of the very same bytes. We give no dates, so that a date is never one of ours.
fn may_be_partial(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes())
}

#[derive(PartialEq, Eq, Debug)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// One range of bytes. What is not understood, and several ranges, are answered with the whole, as RFC 9110 allows.
fn range(text: &str, size: u64) -> Asked {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (first, last) = (first.trim(), last.trim());
    if !digits(first) || !digits(last) {
        return Asked::Whole;
    }
    // A number of too many digits lies behind any end.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let (start, end) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Asked::Whole,
        (true, false) => (size.saturating_sub(number(last)), size),
        (false, true) => (number(first), size),
        (false, false) if number(last) < number(first) => return Asked::Whole,
        (false, false) => (number(first), number(last).saturating_add(1).min(size)),
    };
    if start < end { Asked::Part(start..end) } else { Asked::Outside }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, headers, text.into()).into_response()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Signed values were checked when they were signed, the others are made here: none of them is refused.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        assert_eq!(range("bytes=0-0", 10), Asked::Part(0..1));
        assert_eq!(range("bytes=2-5", 10), Asked::Part(2..6));
        assert_eq!(range("bytes=2-", 10), Asked::Part(2..10));
        assert_eq!(range("bytes=-3", 10), Asked::Part(7..10));
        assert_eq!(range("bytes=-30", 10), Asked::Part(0..10));
        assert_eq!(range("bytes=5-99999999999999999999999", 10), Asked::Part(5..10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(range(outside, 10), Asked::Outside, "{outside}");
        }
        assert_eq!(range("bytes=0-", 0), Asked::Outside);
        for whole in ["bytes=5-2", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=+1-2", ""] {
            assert_eq!(range(whole, 10), Asked::Whole, "{whole}");
        }
    }
}
