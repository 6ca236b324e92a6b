//! Files: `multipart/form-data` after the GraphQL multipart request specification, streamed into the blob store.
//!
//! Invariants
//! - Before a byte of a file is read: the client has shown that it is no browser form, somebody is signed in, the
//!   operations are within the limits, and there is room for a change.
//! - A file passes through in pieces: memory does not grow with its size.
//! - What no operation took is deleted, also when the upload broke off or the client went away.

use std::collections::{HashMap, HashSet};

use async_graphql::{Request as GraphqlRequest, Value};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use futures::TryStreamExt;
use metrics::counter;
use multer::{Field, Multipart};
use oriel_backends::blobs::{BlobError, BlobKey, Blobs, BoxError};
use oriel_backends::extraction::SNIFF_BYTES;
use oriel_reactors::FILES;
use oriel_schema::uploads::{Received, Uploads};
use uuid::Uuid;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Refusal, refuse_with};
use super::body::Paced;
use super::caller::Who;
use super::graphql::{Incoming, parse};

/// One of them has to be sent with files: no form of another site can.
pub const PREFLIGHT: [HeaderName; 3] = [
    HeaderName::from_static("graphql-require-preflight"),
    HeaderName::from_static("apollo-require-preflight"),
    HeaderName::from_static("x-requested-with"),
];

/// Files of one request.
const MAX_FILES: usize = 100;
/// Bytes of the part `map`.
const MAX_MAP: u64 = 256 << 10;
/// Characters of a file's name that are kept.
const MAX_NAME: usize = 255;
/// What a file is called that the client gives no name.
const NAMELESS: &str = "file";

/// The files of one request; those that no operation took are deleted.
pub struct Files {
    uploads: Uploads,
    blobs: Blobs,
}

impl Files {
    /// For the operations.
    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Deletes what was not taken, and waits for it.
    pub async fn clear(self) {
        delete(&self.blobs, self.uploads.leftovers()).await;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let left = self.uploads.leftovers();
        if !left.is_empty() {
            let blobs = self.blobs.clone();
            tokio::spawn(async move { delete(&blobs, left).await });
        }
    }
}

async fn delete(blobs: &Blobs, files: Vec<Received>) {
    for file in files {
        if let Err(error) = blobs.delete(&file.blob).await {
            tracing::warn!(%error, "a file that nobody took could not be deleted; the sweep will");
        }
    }
}

/// Reads the operations and streams their files into the blob store.
pub async fn receive(
    state: &HttpState,
    exchange: &Exchange,
    who: &Who,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Incoming, Files), Refusal> {
    if !PREFLIGHT.iter().any(|name| headers.contains_key(name)) {
        return Err(Refusal::bad_request(
            "Send the header `GraphQL-Require-Preflight: 1` with multipart/form-data: it shows that the request is not a \
             form of another site.",
        ));
    }
    if !who.is_signed_in() {
        return Err(Refusal::unauthenticated("Sign in before you send files: `Authorization: Bearer <access token>`."));
    }
    let services = state.endpoint.services();
    if !services.engine.has_room() {
        return Err(Refusal::overloaded());
    }
    let boundary = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(multer::parse_boundary);
    let Some(Ok(boundary)) = boundary else {
        return Err(Refusal::bad_request("The content type multipart/form-data needs a boundary."));
    };

    let mut parts = Multipart::new(Paced::new(body, state.limits.pace), boundary);
    let files = Files { uploads: Uploads::default(), blobs: services.blobs.clone() };

    let operations = part(&mut parts, "operations", state.limits.body_bytes, "max_body_bytes").await?;
    let mut incoming = parse(&operations)?;
    state.charge(who, 1)?;
    for request in incoming.requests_mut() {
        state.resolve(who, request).await?;
    }
    let refused = |request: &GraphqlRequest| state.price(request).is_err();
    if incoming.requests().iter().any(refused) {
        return Ok((incoming, files)); // it is refused in the same way as without files
    }
    let map = part(&mut parts, "map", MAX_MAP, "map").await?;
    let mut places = read_map(&map)?;
    exchange.note_operation("upload");

    while let Some(field) = parts.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        let Some(paths) = places.remove(&name) else {
            return Err(Refusal::bad_request("There is a part that `map` does not name, or that came twice."));
        };
        let received = store(state, &files.blobs, field).await?;
        let number = files.uploads.add(received);
        for path in paths {
            put(&mut incoming, &path, &Uploads::placeholder(number))?;
        }
    }
    if !places.is_empty() {
        return Err(Refusal::bad_request("`map` names files that are not in the request."));
    }
    Ok((incoming, files))
}

/// Where each file belongs. A place belongs to one file.
fn read_map(map: &[u8]) -> Result<HashMap<String, Vec<String>>, Refusal> {
    let places: HashMap<String, Vec<String>> = serde_json::from_slice(map)
        .map_err(|error| Refusal::bad_request(format!("`map` is not an object of lists of paths: {error}.")))?;
    if places.len() > MAX_FILES {
        let found = places.len();
        let message = format!("A request may hold {MAX_FILES} files; `map` names {found}. Send several requests.");
        return Err(Refusal::limit(StatusCode::BAD_REQUEST, "files", MAX_FILES as u64, message).found(found as u64));
    }
    let mut seen = HashSet::new();
    if !places.values().flatten().all(|path| seen.insert(path)) {
        return Err(Refusal::bad_request("`map` gives one place two files."));
    }
    Ok(places)
}

/// One file, into the blob store.
async fn store(state: &HttpState, blobs: &Blobs, field: Field<'static>) -> Result<Received, Refusal> {
    let file_name = file_name(&field);
    let blob = BlobKey::fresh(FILES, Uuid::now_v7());
    let limit = state.limits.file_bytes;
    let mut head = Vec::new();
    let body = field.map_err(BoxError::from).inspect_ok(|chunk| {
        let missing = SNIFF_BYTES - head.len();
        head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
    });
    let stored = blobs.put(&blob, body, limit).await.map_err(|error| not_stored(error, "upload_max_size"))?;
    counter!("oriel_upload_bytes_total").increment(stored.size);
    Ok(Received { blob, size: stored.size, sha256: stored.sha256, file_name, head })
}

/// Why a body was not stored.
pub fn not_stored(error: BlobError, limit_name: &'static str) -> Refusal {
    match error {
        BlobError::TooLarge { limit } => {
            let message = format!("The file is larger than {limit_name} = {limit} bytes. Nothing of it was kept.");
            Refusal::limit(StatusCode::PAYLOAD_TOO_LARGE, limit_name, limit, message)
        }
        BlobError::BrokenOff(_) => Refusal::bad_request("The file broke off before its end. Nothing of it was kept."),
        error @ (BlobError::Unavailable(_) | BlobError::NotFound) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, source, "a file could not be stored");
            refuse_with(StatusCode::SERVICE_UNAVAILABLE, oriel_schema::access::unavailable(error))
        }
        error @ (BlobError::Exists | BlobError::RangeOutside { .. }) => {
            refuse_with(StatusCode::INTERNAL_SERVER_ERROR, oriel_schema::access::internal(error))
        }
    }
}

/// The last part of the name, without what would not stand in a name.
fn file_name(field: &Field<'_>) -> String {
    let given = field.file_name().unwrap_or_default();
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = name.trim();
    if matches!(name, "" | "." | "..") { NAMELESS.to_owned() } else { name.to_owned() }
}

/// The part that has to come now, read whole.
async fn part(parts: &mut Multipart<'static>, name: &str, most: u64, limit: &'static str) -> Result<Vec<u8>, Refusal> {
    let field = parts.next_field().await.map_err(broken)?.filter(|field| field.name() == Some(name));
    let Some(mut field) = field else {
        return Err(Refusal::bad_request(format!(
            "The part `{name}` is missing. The parts come in this order: `operations`, `map`, then the files."
        )));
    };
    let mut whole = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        if (whole.len() + chunk.len()) as u64 > most {
            let message = format!("The part `{name}` is over {limit}: {most} bytes are allowed.");
            return Err(Refusal::limit(StatusCode::PAYLOAD_TOO_LARGE, limit, most, message));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

fn broken(error: multer::Error) -> Refusal {
    match error {
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteStream => Refusal::bad_request("The request broke off before its end."),
        _ => Refusal::bad_request("The body is not well-formed multipart/form-data."),
    }
}

impl Incoming {
    fn requests(&self) -> &[GraphqlRequest] {
        match self {
            Self::Single(request) => std::slice::from_ref(request),
            Self::Batch(requests) => requests,
        }
    }

    fn requests_mut(&mut self) -> &mut [GraphqlRequest] {
        match self {
            Self::Single(request) => std::slice::from_mut(request),
            Self::Batch(requests) => requests,
        }
    }
}

/// Puts the placeholder of a file where `map` says: `variables.input.file`, in a batch `0.variables.input.file`.
fn put(incoming: &mut Incoming, path: &str, placeholder: &str) -> Result<(), Refusal> {
    let wrong = || Refusal::bad_request("`map` has a path that leads to no `null` in the variables of `operations`.");
    let (request, path) = match incoming {
        Incoming::Single(request) => (&mut **request, path),
        Incoming::Batch(requests) => {
            let (index, path) = path.split_once('.').ok_or_else(wrong)?;
            let index: usize = index.parse().map_err(|_| wrong())?;
            (requests.get_mut(index).ok_or_else(wrong)?, path)
        }
    };
    let mut steps = path.strip_prefix("variables.").ok_or_else(wrong)?.split('.');
    let first = steps.next().ok_or_else(wrong)?;
    let mut place = request.variables.get_mut(first).ok_or_else(wrong)?;
    for step in steps {
        place = match place {
            Value::List(list) => step.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
            Value::Object(object) => object.get_mut(step),
            _ => None,
        }
        .ok_or_else(wrong)?;
    }
    if *place != Value::Null {
        return Err(wrong());
    }
    *place = Value::String(placeholder.to_owned());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::body::Bytes;

    use super::super::body::Pace;
    use super::*;

    #[tokio::test]
    async fn a_large_file_is_read_piece_by_piece_however_fast_it_comes() {
        const PIECE: usize = 64 << 10;
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let begin = "--b\r\ncontent-disposition: form-data; name=\"0\"; filename=\"x\"\r\n\r\n";
        let pieces = std::iter::once(Bytes::from(begin)).chain((0..1_000).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Bytes::from(vec![b'x'; PIECE])
        }));
        let body = Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, io::Error>)));
        let pace = Pace { rate: 1, window: Duration::from_secs(60) };
        let mut parts = Multipart::new(Paced::new(body, pace), "b");
        let mut field = parts.next_field().await.unwrap().unwrap();
        let mut read = 0;
        for _ in 0..200 {
            read += field.chunk().await.unwrap().unwrap().len();
            let ahead = made.load(Ordering::SeqCst) * PIECE - read;
            assert!(ahead <= 3 * PIECE, "{ahead} bytes are waiting in memory");
        }
    }

    fn incoming(text: &str) -> Incoming {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_placeholder_goes_where_a_null_is_and_nowhere_else() {
        let mut one = incoming(r#"{"query":"{a}","variables":{"input":{"file":null,"files":[null,null]},"set":1}}"#);
        put(&mut one, "variables.input.file", "upload:0").unwrap();
        put(&mut one, "variables.input.files.1", "upload:1").unwrap();
        let variables = serde_json::to_value(&one.requests()[0].variables).unwrap();
        let wanted = serde_json::json!({"input": {"file": "upload:0", "files": [null, "upload:1"]}, "set": 1});
        assert_eq!(variables, wanted);
        for wrong in [
            "variables.set",
            "variables.none",
            "variables.input.file",
            "variables.input.files.7",
            "query",
            "",
            "0.variables.x",
        ] {
            assert!(put(&mut one, wrong, "upload:2").is_err(), "{wrong}");
        }
        let mut batch = incoming(r#"[{"query":"{a}"},{"query":"{a}","variables":{"f":null}}]"#);
        put(&mut batch, "1.variables.f", "upload:0").unwrap();
        assert!(put(&mut batch, "2.variables.f", "upload:0").is_err());
        assert!(put(&mut batch, "variables.f", "upload:0").is_err());
    }

    #[test]
    fn a_map_names_each_place_once_and_not_too_many_files() {
        assert_eq!(read_map(br#"{"0":["variables.a"],"1":["variables.b","variables.c"]}"#).unwrap().len(), 2);
        assert!(read_map(br#"{"0":["variables.a"],"1":["variables.a"]}"#).is_err());
        assert!(read_map(b"[]").is_err());
        let many: HashMap<String, Vec<String>> =
            (0..=MAX_FILES).map(|n| (n.to_string(), vec![format!("variables.f{n}")])).collect();
        assert_eq!(read_map(&serde_json::to_vec(&many).unwrap()).unwrap_err().code, "LIMIT_EXCEEDED");
    }
}
