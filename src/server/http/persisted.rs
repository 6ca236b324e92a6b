//! Persisted operations: which document a request means that names one instead of sending it, and which documents are
//! executed at all.
//!
//! A document is named by its SHA-256 or by what its tool calls it, in `extensions.persistedQuery` (Apollo's automatic
//! persisted queries) or in `documentId` (the appendix "Persisted Documents" of GraphQL over HTTP). It is looked for
//! among the published ones, which are rows, and among those that a client sent before, which this node remembers for
//! as long as there is room.
//!
//! Invariants: a hash never stands for another text. What is remembered was parsed within the limits and fits the
//! schema, and only its own organisation finds it. What is published or retired holds for the next request.

use std::sync::{Arc, OnceLock};

use async_graphql::parser::types::{ExecutableDocument, Selection};
use async_graphql::{Extensions, Name, Request as GraphqlRequest, Value, Variables};
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use data_encoding::HEXLOWER;
use metrics::counter;
use oriel_domain::persisted_operations::{OperationHash, OperationsMode};
use oriel_domain::roles::RoleName;
use oriel_engine::live::Tick;
use oriel_kernel::{ErrorCode, Grant, OrganizationId, Permission, Rejection};
use oriel_read_models::persisted_operations::{dependency, operator, published};
use oriel_schema::persisted_operations::administration;
use oriel_schema::services::DocumentReader;
use oriel_schema::validation::validate;
use serde::Deserialize;

use super::HttpState;
use super::answer::{Refusal, refuse_with};
use super::caller::Who;
use super::limits::{DocumentLimits, check_document, check_text};
use crate::settings::Settings;

/// Where `documentId` is kept until it is resolved.
const DOCUMENT_ID: &str = "documentId";
/// Marks a request that is executed with a warning.
const UNPUBLISHED: &str = "unpublishedOperation";
/// Bytes of published documents, and of hashes that are none, that are kept beside the database.
const PUBLISHED_BYTES: u64 = 16 << 20;
/// What an entry of a cache takes beside its texts, about.
const ENTRY: usize = 150;

/// A request as its JSON says it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    query: Option<String>,
    document_id: Option<String>,
    operation_name: Option<String>,
    #[serde(default)]
    variables: Variables,
    #[serde(default)]
    extensions: Extensions,
}

impl From<Sent> for GraphqlRequest {
    fn from(sent: Sent) -> Self {
        let mut request = Self::new(sent.query.unwrap_or_default()).variables(sent.variables);
        request.operation_name = sent.operation_name;
        request.extensions = sent.extensions;
        if let Some(id) = sent.document_id {
            name_document(&mut request, id);
        }
        request
    }
}

/// Lets the request name its document.
pub fn name_document(request: &mut GraphqlRequest, id: String) {
    request.extensions.0.insert(DOCUMENT_ID.to_owned(), Value::String(id));
}

/// Whether the request names its document.
pub fn names_document(request: &GraphqlRequest) -> bool {
    let named = |key| request.extensions.0.get(key).is_some_and(|value| *value != Value::Null);
    named(DOCUMENT_ID) || named("persistedQuery")
}

/// What its answers are to warn of, as `extensions.warnings`. The mark was made when the document was found; a client
/// that sends it warns itself.
pub fn warnings(extensions: &Extensions) -> Option<Value> {
    let message = "This operation is not published. It will be refused when ORIEL_OPERATIONS=registered is set: publish \
                   it with `oriel operations publish` or `operationsPublish`.";
    extensions.0.get(UNPUBLISHED)?;
    let entries = [("code", NOT_REGISTERED), ("message", message)];
    let warning = entries.map(|(name, text)| (Name::new(name), Value::from(text))).into_iter().collect();
    Some(Value::List(vec![Value::Object(warning)]))
}

const NOT_REGISTERED: &str = "OPERATION_NOT_REGISTERED";

/// Documents within the limits of the settings, for whoever publishes them.
pub fn documents(settings: &Settings) -> Arc<dyn DocumentReader> {
    Arc::new(DocumentLimits::of(settings))
}

impl DocumentReader for DocumentLimits {
    fn read(&self, text: &str) -> Result<ExecutableDocument, Rejection> {
        let over = |excess| {
            let refusal = Refusal::from(excess);
            let code = if refusal.code == "LIMIT_EXCEEDED" { ErrorCode::LimitExceeded } else { ErrorCode::Invalid };
            Rejection::new(code, refusal.message)
        };
        check_text(text, self).map_err(over)?;
        let document = async_graphql::parser::parse_query(text).map_err(|error| {
            let message = format!("This is not a GraphQL document: {}.", error.to_string().trim_end_matches('.'));
            Rejection::new(ErrorCode::Invalid, message)
        })?;
        check_document(&document, self).map_err(over)?;
        Ok(document)
    }
}

/// The text of a document, if there is one.
type Text = Option<Arc<str>>;

/// What is known of documents.
pub struct Persisted {
    mode: OperationsMode,
    exempt: Vec<RoleName>,
    limits: DocumentLimits,
    /// What clients have sent, by organisation and hash; `None` when nothing is to be remembered.
    automatic: Option<moka::sync::Cache<(OrganizationId, String), Arc<str>>>,
    /// What is published, or is not, by organisation and hash.
    published: moka::sync::Cache<(OrganizationId, String), (Tick, Text)>,
    /// The organisation whose operations hold for all.
    operator: OnceLock<OrganizationId>,
}

impl Persisted {
    /// As the settings want it.
    pub fn new(settings: &Settings) -> Self {
        let weigh = |(_, hash): &(OrganizationId, String), text: Option<&Arc<str>>| {
            u32::try_from(ENTRY + hash.len() + text.map_or(0, |text| text.len())).unwrap_or(u32::MAX)
        };
        let bytes = settings.persisted_queries_memory;
        let automatic = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(move |key: &(OrganizationId, String), text: &Arc<str>| weigh(key, Some(text)));
        let published = moka::sync::Cache::builder()
            .max_capacity(PUBLISHED_BYTES)
            .weigher(move |key: &(OrganizationId, String), (_, text): &(Tick, Text)| weigh(key, text.as_ref()));
        Self {
            mode: settings.operations,
            exempt: settings.operations_exempt_roles.clone(),
            limits: DocumentLimits::of(settings),
            automatic: (bytes > 0).then(|| automatic.build()),
            published: published.build(),
            operator: OnceLock::new(),
        }
    }
}

/// For whom a document is looked for.
struct Scope {
    /// Absent for who is not signed in.
    organization: OrganizationId,
    /// Which documents are executed for them.
    mode: OperationsMode,
    /// They may publish what they send.
    publishes: bool,
}

/// A document that a request names.
struct Asked {
    hash: OperationHash,
    /// By Apollo's protocol: when it is not known, its text follows.
    automatic: bool,
}

impl HttpState {
    /// Puts the text of the document into the request that names it, and sees to it that it may be executed.
    ///
    /// # Errors
    /// The document is not known or may not be executed; or the database cannot be read.
    pub async fn resolve(&self, who: &Who, request: &mut GraphqlRequest) -> Result<(), Refusal> {
        let asked = asked(&request.extensions)?;
        let is_sent = !request.query.trim().is_empty();
        if asked.is_none() && !is_sent {
            return Ok(());
        }
        let scope = self.scope(who).await?;
        if asked.is_none() && scope.mode == OperationsMode::Open {
            return Ok(());
        }
        let Some(asked) = asked else {
            return match self.published(&scope, &sha256(&request.query)).await? {
                Some(_) => Ok(()),
                None => self.unpublished(&scope, request),
            };
        };
        let known = self.published(&scope, asked.hash.as_str()).await?;
        if is_sent {
            match &known {
                Some(text) if **text == *request.query => Ok(()),
                Some(_) => Err(another_text()),
                None if asked.hash.is_sha256() && asked.hash.as_str() != sha256(&request.query) => Err(another_text()),
                None => {
                    self.unpublished(&scope, request)?;
                    if asked.automatic && asked.hash.is_sha256() {
                        self.remember(&scope, &asked.hash, &request.query).await;
                    }
                    Ok(())
                }
            }
        } else if let Some(text) = known {
            counter!("oriel_persisted_operations_total", "found" => "published").increment(1);
            request.query = text.to_string();
            Ok(())
        } else if let Some(text) = self.remembered(&scope, &asked.hash) {
            counter!("oriel_persisted_operations_total", "found" => "remembered").increment(1);
            request.query = text.to_string();
            self.unpublished(&scope, request)
        } else {
            counter!("oriel_persisted_operations_total", "found" => "nowhere").increment(1);
            Err(self.unknown(&scope, &asked))
        }
    }

    async fn scope(&self, who: &Who) -> Result<Scope, Refusal> {
        let Some(row) = self.row(who).await? else {
            return Ok(Scope { organization: OrganizationId::ABSENT, mode: self.persisted.mode, publishes: false });
        };
        // What an organisation says of its roles and keys can be stricter than what holds for all, and not milder.
        let (all, own) = (self.persisted.mode, row.operations);
        Ok(Scope {
            organization: row.viewer.organization,
            mode: if row.has_one_of(&self.persisted.exempt) {
                own.unwrap_or(OperationsMode::Open)
            } else {
                all.max(own.unwrap_or(all))
            },
            publishes: row.viewer.grant(Permission::new("operations", "edit")) == Some(Grant::All),
        })
    }

    /// What is published under this hash, or has it: in the caller's organisation, or in the operator's.
    async fn published(&self, scope: &Scope, hash: &str) -> Result<Text, Refusal> {
        if !scope.organization.is_absent()
            && let Some(text) = self.published_in(scope.organization, hash).await?
        {
            return Ok(Some(text));
        }
        match self.operator().await? {
            Some(operator) if operator != scope.organization => self.published_in(operator, hash).await,
            _ => Ok(None),
        }
    }

    async fn published_in(&self, organization: OrganizationId, hash: &str) -> Result<Text, Refusal> {
        let engine = &self.endpoint.services().engine;
        let key = (organization, hash.to_owned());
        if engine.feed().is_current()
            && let Some((since, text)) = self.persisted.published.get(&key)
            && engine.tracker().valid(since, &[dependency(organization)])
        {
            return Ok(text);
        }
        let since = engine.tracker().tick();
        let found = published(engine.database().reader(), organization, hash).await.map_err(unavailable)?;
        let text: Text = found.map(Into::into);
        self.persisted.published.insert(key, (since, text.clone()));
        Ok(text)
    }

    async fn operator(&self) -> Result<Option<OrganizationId>, Refusal> {
        if let Some(operator) = self.persisted.operator.get() {
            return Ok(Some(*operator));
        }
        let found = operator(self.endpoint.services().engine.database().reader()).await.map_err(unavailable)?;
        Ok(found.map(|found| *self.persisted.operator.get_or_init(|| found)))
    }

    /// What is to become of a document that is not published.
    fn unpublished(&self, scope: &Scope, request: &mut GraphqlRequest) -> Result<(), Refusal> {
        let mode = scope.mode;
        if mode == OperationsMode::Open || self.is_always_executed(scope, &request.query) {
            return Ok(());
        }
        if mode == OperationsMode::Registered {
            return Err(not_registered(scope));
        }
        // With files it is asked before they are read, and again.
        if request.extensions.0.insert(UNPUBLISHED.to_owned(), Value::Boolean(true)).is_some() {
            return Ok(());
        }
        counter!("oriel_operations_unregistered_total", "outcome" => "warned").increment(1);
        tracing::warn!(
            organization = %scope.organization,
            operation = request.operation_name.as_deref(),
            sha256 = sha256(&request.query),
            "an operation that is not published was executed"
        );
        Ok(())
    }

    /// A sign of life, and, for who may publish operations, what they are looked after with: nobody shuts themselves
    /// out.
    fn is_always_executed(&self, scope: &Scope, text: &str) -> bool {
        let Ok(document) = self.persisted.limits.read(text) else { return false };
        let is_allowed =
            |field: &str| field == "__typename" || (scope.publishes && administration().any(|f| f == field));
        document.operations.iter().all(|(_, operation)| {
            operation.node.selection_set.node.items.iter().all(|selection| match &selection.node {
                Selection::Field(field) => is_allowed(&field.node.name.node),
                Selection::InlineFragment(_) | Selection::FragmentSpread(_) => false,
            })
        })
    }

    fn remembered(&self, scope: &Scope, hash: &OperationHash) -> Text {
        self.persisted.automatic.as_ref()?.get(&(scope.organization, hash.to_string()))
    }

    /// Remembers what a client has sent, if it is a document that could be executed. What is wrong with any other is
    /// said when it is executed.
    async fn remember(&self, scope: &Scope, hash: &OperationHash, text: &str) {
        let Some(automatic) = &self.persisted.automatic else { return };
        let key = (scope.organization, hash.to_string());
        if automatic.contains_key(&key) {
            return;
        }
        if let Ok(document) = self.persisted.limits.read(text)
            && validate(document).await.is_ok()
        {
            automatic.insert(key, text.into());
        }
    }

    fn unknown(&self, scope: &Scope, asked: &Asked) -> Refusal {
        if scope.mode == OperationsMode::Registered {
            return not_registered(scope);
        }
        match (asked.automatic, &self.persisted.automatic) {
            // Apollo's clients look for these texts, and some of them only in an answer with status 200.
            (true, Some(_)) => Refusal::new(StatusCode::OK, "PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound"),
            (true, None) => Refusal::new(StatusCode::OK, "PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported"),
            (false, _) => {
                let message = format!("No operation is published as {}. Publish it, or send its text.", asked.hash);
                Refusal::new(StatusCode::BAD_REQUEST, "PERSISTED_QUERY_NOT_FOUND", message)
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery {
    version: i64,
    sha256_hash: String,
}

/// The document that a request names.
fn asked(extensions: &Extensions) -> Result<Option<Asked>, Refusal> {
    let of = |key| extensions.0.get(key).filter(|value| **value != Value::Null);
    let parse = |text: &str| {
        OperationHash::parse(text)
            .map_err(|rejection| Refusal::bad_request(format!("The document is not named: {}", rejection.message)))
    };
    let automatic = match of("persistedQuery") {
        None => None,
        Some(value) => {
            let asked: PersistedQuery = async_graphql::from_value(value.clone()).map_err(|_| {
                Refusal::bad_request("`extensions.persistedQuery` is not of the form {version: 1, sha256Hash: \"…\"}.")
            })?;
            if asked.version != 1 {
                return Err(Refusal::bad_request("Unsupported persisted query version: only 1 is known."));
            }
            Some(parse(&asked.sha256_hash)?)
        }
    };
    let named = match of(DOCUMENT_ID) {
        None => None,
        Some(Value::String(id)) => Some(parse(id)?),
        Some(_) => return Err(Refusal::bad_request("`documentId` is not a text.")),
    };
    match (automatic, named) {
        (Some(hash), Some(named)) if hash != named => {
            Err(Refusal::bad_request("`documentId` and `extensions.persistedQuery` name two documents. Send one."))
        }
        (Some(hash), _) => Ok(Some(Asked { hash, automatic: true })),
        (None, named) => Ok(named.map(|hash| Asked { hash, automatic: false })),
    }
}

fn sha256(text: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

fn another_text() -> Refusal {
    // The beginning is what Apollo's servers say.
    Refusal::bad_request("provided sha does not match query: another text has this hash. Send only one of the two.")
}

fn not_registered(scope: &Scope) -> Refusal {
    counter!("oriel_operations_unregistered_total", "outcome" => "refused").increment(1);
    let whose = match scope.organization.is_absent() {
        true => " Who is not signed in may send those of the installation's operator.",
        false => "",
    };
    let message = format!(
        "Only registered operations are executed here, and this one is not. Publish it first, with `oriel operations \
         publish FILE` or the mutation operationsPublish; that requires the permission operations:edit.{whose}"
    );
    Refusal::new(StatusCode::BAD_REQUEST, NOT_REGISTERED, message)
}

fn unavailable(error: sea_orm::DbErr) -> Refusal {
    refuse_with(StatusCode::SERVICE_UNAVAILABLE, oriel_schema::access::unavailable(error))
}
