//! What comes out of an execution, and what is sent of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_graphql::{Name, PathSegment, Response, ServerError, Value};
use aws_lc_rs::digest::{SHA256, digest};
use oriel_engine::live::Tick;
use oriel_engine::read::{Dependency, PathPart, Recorder, Stability};
use oriel_kernel::Position;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// What an answer is recognised by.
pub(super) type Fingerprint = [u8; 16];

/// `data` as it is sent.
#[derive(Debug)]
pub struct Data {
    json: Box<RawValue>,
    fingerprint: Fingerprint,
}

impl Data {
    fn new(value: &Value) -> Result<Self, serde_json::Error> {
        Ok(Self::of(to_raw_value(value)?))
    }

    pub(super) fn of(json: Box<RawValue>) -> Self {
        let fingerprint = fingerprint(json.get().as_bytes());
        Self { json, fingerprint }
    }

    /// The text.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    pub(super) fn raw(&self) -> &RawValue {
        &self.json
    }
}

/// What one operation, or one turn of a subscription, answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The result; `None` when there is none, because the operation was refused before it began.
    pub data: Option<Arc<Data>>,
    /// What went wrong.
    pub errors: Vec<ServerError>,
    /// What is said beside the result.
    pub extensions: BTreeMap<String, Value>,
    /// Whether the same question has the same answer until something changes: it may be recognised by its tag.
    pub is_stable: bool,
}

impl Answer {
    /// No result, for these reasons.
    pub fn from_errors(errors: Vec<ServerError>) -> Self {
        Self { errors, ..Self::default() }
    }

    /// No result, for this reason.
    pub(crate) fn refused(error: async_graphql::Error) -> Self {
        Self::from_errors(vec![error.into_server_error(async_graphql::Pos::default())])
    }

    /// Whether nothing went wrong.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether the operation was refused before it began: an error of a field would leave a result.
    pub fn has_no_result(&self) -> bool {
        self.data.is_none() && !self.errors.is_empty()
    }

    /// The code of the first error.
    pub fn code(&self) -> Option<&str> {
        code(self.errors.first()?)
    }

    /// An entity tag for HTTP, of an answer that is stable.
    pub fn tag(&self) -> Option<String> {
        let data = self.data.as_ref().filter(|_| self.is_stable && self.is_ok())?;
        Some(format!("W/\"{}\"", data_encoding::HEXLOWER.encode(&data.fingerprint)))
    }

    /// As JSON. That an answer cannot be written is not possible: its keys are texts.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The code of an error.
pub fn code(error: &ServerError) -> Option<&str> {
    match error.extensions.as_ref()?.get("code")? {
        Value::String(code) => Some(code),
        _ => None,
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        let Response { data, errors, extensions, .. } = response;
        let refused = data == Value::Null && !errors.is_empty() && errors.iter().all(|error| error.path.is_empty());
        let data = if refused { None } else { Data::new(&data).ok().map(Arc::new) };
        Self { data, errors, extensions, is_stable: false }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.errors.is_empty() {
            map.serialize_entry("errors", &self.errors)?;
        }
        if let Some(data) = &self.data {
            map.serialize_entry("data", &data.json)?;
        }
        if !self.extensions.is_empty() {
            map.serialize_entry("extensions", &self.extensions)?;
        }
        map.end()
    }
}

/// What executing a query once gave, and for how long it holds. Shared by all who asked the same.
#[derive(Debug)]
pub(super) struct Outcome {
    pub data: Option<Arc<Data>>,
    pub errors: Vec<ServerError>,
    /// Everything that was read.
    pub dependencies: Arc<[Dependency]>,
    /// When reading began.
    pub t0: Tick,
    /// Everything up to here was seen.
    pub position: Position,
    pub stability: Stability,
    /// Whether values in it pass: it is not kept.
    pub is_passing: bool,
    /// Whether it is for who asked alone.
    pub is_personal: bool,
    /// How far the slowest index was that was asked.
    pub slowest: Option<Position>,
    /// Of everything that a live query compares.
    pub compared: Fingerprint,
    /// Whether another node has executed it.
    pub is_shared: bool,
}

impl Outcome {
    pub fn new(response: Response, recorder: &Recorder, t0: Tick, position: Position) -> Self {
        let passing = recorder.passing_values();
        let blanked = (!passing.is_empty()).then(|| blanked(response.data.clone(), &passing));
        let Answer { data, errors, .. } = response.into();
        let shown = blanked.or_else(|| data.as_ref().map(|data| data.fingerprint)).unwrap_or_default();
        Self {
            compared: compared(shown, &errors),
            data,
            errors,
            dependencies: recorder.dependencies().into(),
            t0,
            position,
            stability: recorder.stability(),
            is_passing: !passing.is_empty(),
            is_personal: recorder.is_personal(),
            slowest: recorder.slowest(),
            is_shared: false,
        }
    }

    /// What another node has executed, and what holds here: read from `t0` on, and everything up to `position` seen.
    pub fn shared(
        data: Data,
        dependencies: Arc<[Dependency]>,
        t0: Tick,
        position: Position,
        stability: Stability,
    ) -> Self {
        Self {
            compared: data.fingerprint,
            data: Some(Arc::new(data)),
            errors: Vec::new(),
            dependencies,
            t0,
            position,
            stability,
            is_passing: false,
            is_personal: false,
            slowest: None,
            is_shared: true,
        }
    }

    /// Whether it may be kept for as long as nothing that it depends on is touched.
    pub fn is_stable(&self) -> bool {
        self.errors.is_empty() && !self.is_passing && self.stability != Stability::Volatile
    }

    /// Whether it has nothing to show because the permission, or the session, is gone.
    pub fn is_lost(&self) -> bool {
        let gone = |error| matches!(code(error), Some("FORBIDDEN" | "UNAUTHENTICATED" | "CONSENT_REQUIRED"));
        !self.errors.is_empty()
            && self.errors.iter().all(gone)
            && self.data.as_ref().is_none_or(|data| shows_nothing(data))
    }

    /// Whether trying again later may succeed.
    pub fn is_failing(&self) -> bool {
        let passing = |error| matches!(code(error), Some("UNAVAILABLE" | "OVERLOADED" | "BEHIND"));
        self.errors.iter().any(passing)
    }

    /// How many bytes it takes to keep it, about.
    pub fn weight(&self) -> usize {
        const EACH: usize = 200;
        let data = self.data.as_ref().map_or(0, |data| data.json().len());
        EACH + data + self.dependencies.iter().map(|d| d.as_str().len() + 2 * size_of::<usize>()).sum::<usize>()
    }

    /// What is sent of it. `position`: everything up to here is in it, or did not touch it.
    pub fn answer(&self, position: Position) -> Answer {
        let position = Value::String(position.to_string());
        Answer {
            data: self.data.clone(),
            errors: self.errors.clone(),
            extensions: BTreeMap::from([("position".to_owned(), position)]),
            is_stable: self.is_stable(),
        }
    }

    /// The answer of the query as that of the subscription that asked it under this key.
    pub fn under(&self, key: &str) -> Answer {
        let mut answer = self.answer(self.position);
        answer.data = answer.data.and_then(|data| {
            let mut text = String::with_capacity(data.json().len() + key.len() + 5);
            text.extend(["{\"", key, "\":", data.json(), "}"]); // a response key is a name: nothing to escape
            RawValue::from_string(text).ok().map(|json| Arc::new(Data::of(json)))
        });
        for error in answer.errors.iter_mut().filter(|error| !error.path.is_empty()) {
            error.path.insert(0, PathSegment::Field(key.to_owned()));
        }
        answer
    }
}

/// Whether every root field is null.
fn shows_nothing(data: &Data) -> bool {
    match serde_json::from_str(data.json()) {
        Ok(serde_json::Value::Null) => true,
        Ok(serde_json::Value::Object(fields)) => fields.values().all(serde_json::Value::is_null),
        _ => false,
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut out = Fingerprint::default();
    let hash = digest(&SHA256, bytes);
    out.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// The fingerprint of a result without the values that pass.
fn blanked(mut data: Value, passing: &[Vec<PathPart>]) -> Fingerprint {
    passing.iter().for_each(|place| blank(&mut data, place));
    fingerprint(&serde_json::to_vec(&data).unwrap_or_default())
}

/// The fingerprint of what is shown and of what went wrong.
fn compared(shown: Fingerprint, errors: &[ServerError]) -> Fingerprint {
    if errors.is_empty() {
        return shown;
    }
    fingerprint(&serde_json::to_vec(&(shown, errors)).unwrap_or_default())
}

fn blank(value: &mut Value, place: &[PathPart]) {
    match (place.split_first(), value) {
        (None, value) => *value = Value::Null,
        (Some((PathPart::Key(key), rest)), Value::Object(fields)) => {
            if let Some(inside) = fields.get_mut(&Name::new(key)) {
                blank(inside, rest);
            }
        }
        (Some((PathPart::Index(index), rest)), Value::List(items)) => {
            if let Some(inside) = items.get_mut(*index) {
                blank(inside, rest);
            }
        }
        _ => {}
    }
}
