//! What a client asks for, read: a document, parsed once and kept by whoever knows its text, and the operation that is
//! chosen from it, with its variables.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{Name, Positioned, Request, ServerError};
use aws_lc_rs::digest::{Context, SHA256, digest};

use oriel_read_models::access_log::AccessKind;

use super::cache::Key;
use crate::access_log::{self, Note};

/// What kind of operation it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It reads.
    Query,
    /// It changes.
    Mutation,
    /// It goes on.
    Subscription,
}

impl Kind {
    /// As the GraphQL keyword.
    pub fn label(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// A parsed document. Cheap to share, dear to copy.
#[derive(Debug)]
pub struct Document {
    parsed: ExecutableDocument,
    hash: [u8; 32],
    bytes: usize,
    /// What is sensitive of all that it names.
    sensitive: BTreeSet<AccessKind>,
}

/// The document has no operation that could be meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unclear(pub &'static str);

impl Document {
    /// Parses a text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, ServerError> {
        let parsed = parse_query(text)?;
        let sensitive = access_log::named(&parsed);
        Ok(Self { parsed, hash: sha256(text.as_bytes()), bytes: text.len(), sensitive })
    }

    /// What was parsed.
    pub fn parsed(&self) -> &ExecutableDocument {
        &self.parsed
    }

    /// About how many bytes it takes: several times what its text does.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.bytes.saturating_mul(12)).unwrap_or(u32::MAX)
    }

    /// The operation that is meant, and its name.
    ///
    /// # Errors
    /// When there are several and none is named, or none of this name.
    pub fn choose(&self, wanted: Option<&str>) -> Result<(Option<&str>, Kind), Unclear> {
        const UNNAMED: Unclear = Unclear("The document has several operations: say which one with `operationName`.");
        const UNKNOWN: Unclear = Unclear("The document has no operation of the name that `operationName` says.");
        let wanted = wanted.filter(|name| !name.is_empty());
        let (name, operation) = match (&self.parsed.operations, wanted) {
            (DocumentOperations::Single(operation), None) => (None, operation),
            (DocumentOperations::Multiple(operations), None) if operations.len() == 1 => {
                let (name, operation) = operations.iter().next().ok_or(UNNAMED)?;
                (Some(name.as_str()), operation)
            }
            (DocumentOperations::Multiple(_), None) => return Err(UNNAMED),
            (DocumentOperations::Single(_), Some(_)) => return Err(UNKNOWN),
            (DocumentOperations::Multiple(operations), Some(wanted)) => {
                let (name, operation) = operations.get_key_value(wanted).ok_or(UNKNOWN)?;
                (Some(name.as_str()), operation)
            }
        };
        let kind = match operation.node.ty {
            OperationType::Query => Kind::Query,
            OperationType::Mutation => Kind::Mutation,
            OperationType::Subscription => Kind::Subscription,
        };
        Ok((name, kind))
    }
}

/// An operation with its variables.
#[derive(Debug)]
pub struct Operation {
    kind: Kind,
    document: Arc<Document>,
    request: Request,
}

impl Operation {
    /// The operation of this document that the request names.
    ///
    /// # Errors
    /// When it is not clear which one.
    pub fn new(document: Arc<Document>, request: Request) -> Result<Self, Unclear> {
        let (_, kind) = document.choose(request.operation_name.as_deref())?;
        Ok(Self { kind, document, request })
    }

    /// What kind of operation it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.document.choose(self.request.operation_name.as_deref()).ok()?.0
    }

    /// What the client asks for beside the operation.
    pub fn extensions(&self) -> &async_graphql::Extensions {
        &self.request.extensions
    }

    /// The document that it stands in.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// What is to be noted of whoever is answered; nothing when nothing that it names is sensitive.
    pub(crate) fn note(&self) -> Option<Note> {
        Note::new(&self.document.sensitive, self.name(), &self.request.variables)
    }

    /// A request for one execution.
    pub(super) fn request(&self) -> Request {
        let mut request = Request::new(self.request.query.clone()).variables(self.request.variables.clone());
        request.operation_name.clone_from(&self.request.operation_name);
        request.introspection_mode = self.request.introspection_mode;
        request.set_parsed_query(self.document.parsed.clone());
        request
    }

    /// The request itself, when it is executed once.
    pub(super) fn into_request(self) -> Request {
        let mut request = self.request;
        let document = Arc::try_unwrap(self.document).map_or_else(|shared| shared.parsed.clone(), |own| own.parsed);
        request.set_parsed_query(document);
        request
    }

    /// What is asked, and by whom as far as it matters: equal keys have equal answers.
    pub(super) fn key(&self, scope: &[u8]) -> Key {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.document.hash);
        let name = self.request.operation_name.as_deref().unwrap_or_default();
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        // Variables are sorted by name. That they cannot be written is not possible: their keys are texts.
        let variables = serde_json::to_vec(&self.request.variables).unwrap_or_default();
        hash.update(&(variables.len() as u64).to_le_bytes());
        hash.update(&variables);
        hash.update(scope);
        Key::of(hash.finish().as_ref())
    }

    /// If this is `subscription { live { … } }`: the name of the answer's key, and the query inside.
    pub(super) fn live(&self) -> Option<(String, Self)> {
        let (key, parsed) = live_query(&self.document.parsed, self.request.operation_name.as_deref())?;
        let name = self.request.operation_name.as_deref().unwrap_or_default();
        let hash = sha256(&[b"live ", name.as_bytes(), b" ", &self.document.hash[..]].concat());
        let mut request = Request::new(self.request.query.clone()).variables(self.request.variables.clone());
        request.operation_name.clone_from(&self.request.operation_name);
        Some((
            key,
            Self {
                kind: Kind::Query,
                document: Arc::new(Document {
                    parsed,
                    hash,
                    bytes: self.document.bytes,
                    sensitive: self.document.sensitive.clone(),
                }),
                request,
            },
        ))
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn live_query(document: &ExecutableDocument, operation: Option<&str>) -> Option<(String, ExecutableDocument)> {
    let (name, chosen) = document.operations.iter().find(|(name, _)| match operation {
        Some(wanted) if !wanted.is_empty() => name.is_some_and(|name| name.as_str() == wanted),
        _ => true,
    })?;
    if chosen.node.ty != OperationType::Subscription {
        return None;
    }
    let mut unwrapped = Vec::new();
    let (key, inside) = live_field(document, &chosen.node.selection_set.node, &mut unwrapped)?;
    let mut query = chosen.clone();
    query.node.ty = OperationType::Query;
    query.node.selection_set = inside;
    let mut document = document.clone();
    for fragment in unwrapped {
        document.fragments.remove(&fragment);
    }
    document.operations = match name {
        Some(name) => DocumentOperations::Multiple([(name.clone(), query)].into_iter().collect()),
        None => DocumentOperations::Single(query),
    };
    Some((key, document))
}

/// The one root field `live`, through fragments on the root.
fn live_field(
    document: &ExecutableDocument,
    set: &SelectionSet,
    unwrapped: &mut Vec<Name>,
) -> Option<(String, Positioned<SelectionSet>)> {
    let [selection] = set.items.as_slice() else { return None };
    match &selection.node {
        Selection::Field(field) if field.node.name.node == "live" && field.node.directives.is_empty() => {
            Some((field.node.response_key().node.to_string(), field.node.selection_set.clone()))
        }
        Selection::Field(_) => None,
        Selection::InlineFragment(fragment) => live_field(document, &fragment.node.selection_set.node, unwrapped),
        Selection::FragmentSpread(spread) => {
            let name = &spread.node.fragment_name.node;
            let fragment = document.fragments.get(name)?;
            unwrapped.push(name.clone());
            live_field(document, &fragment.node.selection_set.node, unwrapped)
        }
    }
}
