//! The endpoint without a transport: a request goes in, an answer or a stream of answers comes out.
//!
//! Here the viewer is resolved to values, once per execution; the reader with its recorder is made; and a live query
//! is executed again when something that it has read was touched. Transports (HTTP, WebSocket, SSE) and tests call
//! nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{Positioned, Request, Response, ServerError, Value};
use futures::{Stream, StreamExt};
use oriel_engine::live::Tick;
use oriel_engine::read::{Dependency, Reader, Recorder};
use oriel_kernel::{Position, SessionId};
use oriel_read_models::Readers;
use oriel_read_models::documents::Contents;
use oriel_read_models::events::Payloads;
use oriel_read_models::viewer::{ViewerRow, resolve};
use uuid::Uuid;

use crate::OrielSchema;
use crate::contents::{BlobContents, LogPayloads};
use crate::services::{Meta, Services};
use crate::uploads::Uploads;

/// What a transport knows of a request.
#[derive(Clone, Default)]
pub struct Caller {
    /// The request's id.
    pub request: Uuid,
    /// The session that the access token names; the token was verified.
    pub session: Option<SessionId>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's name for itself.
    pub user_agent: Option<String>,
    /// The answer has to see at least this.
    pub at_least: Option<Position>,
    /// The files of a multipart request.
    pub uploads: Uploads,
}

/// Why a bearer token is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidToken;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    schema: OrielSchema,
    services: Arc<Services>,
    contents: Arc<dyn Contents>,
    payloads: Arc<dyn Payloads>,
    viewers: moka::sync::Cache<SessionId, (Tick, Arc<ViewerRow>)>,
}

/// A stream of answers.
pub type Answers = Pin<Box<dyn Stream<Item = Response> + Send>>;

impl Endpoint {
    /// The endpoint over these services.
    pub fn new(services: Arc<Services>) -> Self {
        let schema = crate::schema().data(Arc::clone(&services)).finish();
        Self {
            schema,
            contents: Arc::new(BlobContents::new(Arc::clone(&services))),
            payloads: Arc::new(LogPayloads::new(Arc::clone(&services))),
            services,
            viewers: moka::sync::Cache::new(50_000),
        }
    }

    /// What the resolvers use.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// The session that an access token names. Whether the session still lives is asked at each execution.
    ///
    /// # Errors
    /// When the token is not one of ours, or has ended.
    pub fn authenticate(&self, token: &str) -> Result<SessionId, InvalidToken> {
        let now = self.services.engine.now();
        self.services.tokens.verify(token, now).map(|claims| claims.sid).ok_or(InvalidToken)
    }

    /// Who this session is, from the cache while nothing touched it. `Ok(None)`: it has ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn viewer(&self, session: SessionId) -> Result<Option<Arc<ViewerRow>>, async_graphql::Error> {
        let (tracker, now) = (self.services.engine.tracker(), self.services.engine.now());
        if let Some((tick, row)) = self.viewers.get(&session)
            && row.expires_at > now
            && tracker.valid(tick, &row.dependencies)
        {
            return Ok(Some(row));
        }
        let tick = tracker.tick();
        let row = resolve(self.services.engine.database().reader(), session, now)
            .await
            .map_err(crate::access::unavailable)?;
        let Some(row) = row.map(Arc::new) else { return Ok(None) };
        self.viewers.insert(session, (tick, Arc::clone(&row)));
        Ok(Some(row))
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, request: Request, caller: Caller) -> Response {
        self.run(request, &caller).await.0
    }

    /// Executes any operation: a subscription gives many answers, all else one.
    pub fn execute_stream(&self, mut request: Request, caller: Caller) -> Answers {
        let document = match request.parsed_query() {
            Ok(document) => document.clone(),
            Err(error) => return Box::pin(futures::stream::iter([Response::from_errors(vec![error])])),
        };
        match live_query(&document, request.operation_name.as_deref()) {
            Some((key, document)) => self.clone().live(request, caller, key, document),
            None => self.clone().subscribe(request, caller),
        }
    }

    /// A subscription other than `live`, or an operation with one answer.
    fn subscribe(self, request: Request, caller: Caller) -> Answers {
        Box::pin(async_stream::stream! {
            let prepared = match self.prepare(request, &caller).await {
                Ok((request, ..)) => request,
                Err(refused) => {
                    yield *refused;
                    return;
                }
            };
            let mut answers = self.schema.execute_stream(prepared).boxed();
            while let Some(answer) = answers.next().await {
                yield self.with_position(answer);
            }
        })
    }

    /// Executes the query, and again whenever something that it has read was touched. Equal answers are not sent.
    fn live(self, request: Request, caller: Caller, key: String, document: ExecutableDocument) -> Answers {
        Box::pin(async_stream::stream! {
            let tracker = self.services.engine.tracker().clone();
            let mut last: Option<Vec<u8>> = None;
            loop {
                let tick = tracker.tick();
                let again = copy(&request, &document);
                let (answer, dependencies) = self.run(again, &caller).await;
                let over = answer.is_err() && answer.data == Value::Null && last.is_none();
                let signed_out = caller.session.is_some() && dependencies.is_none();
                let answer = under(&key, answer);
                // What stands in the extensions (the position) changes without the answer changing.
                let bytes = serde_json::to_vec(&(&answer.data, &answer.errors)).unwrap_or_default();
                if last.as_ref() != Some(&bytes) {
                    last = Some(bytes);
                    yield answer;
                }
                if over || signed_out {
                    return; // not a query, or nobody's any more: it will not become better
                }
                let mut watch = tracker.watch(tick, dependencies.unwrap_or_default());
                watch.changed().await;
                // A burst becomes one answer: the last state is never missed, because the watch is made anew.
                tokio::time::sleep(self.services.policy.live_pace).await;
            }
        })
    }

    async fn run(&self, request: Request, caller: &Caller) -> (Response, Option<Vec<Dependency>>) {
        let (request, recorder, session) = match self.prepare(request, caller).await {
            Ok(prepared) => prepared,
            Err(refused) => return (*refused, None),
        };
        let answer = self.schema.execute(request).await;
        let mut dependencies = recorder.dependencies();
        dependencies.extend(session);
        (self.with_position(answer), Some(dependencies))
    }

    /// Puts into the request what its resolvers need. Refuses it when its session has ended.
    async fn prepare(
        &self,
        request: Request,
        caller: &Caller,
    ) -> Result<(Request, Arc<Recorder>, Vec<Dependency>), Box<Response>> {
        let refuse = |error: async_graphql::Error| {
            Box::new(Response::from_errors(vec![error.into_server_error(async_graphql::Pos::default())]))
        };
        self.wait_for(caller.at_least).await.map_err(refuse)?;
        let recorder = Arc::new(Recorder::default());
        let (mut viewer, mut readers, mut dependencies) = (None, Readers::default(), Vec::new());
        if let Some(session) = caller.session {
            let row = self.viewer(session).await.map_err(refuse)?;
            let ended = || crate::access::error("UNAUTHENTICATED", "This session has ended. Sign in again.");
            let row = row.ok_or_else(|| refuse(ended()))?;
            let connection = self.services.engine.database().reader().clone();
            readers = Readers::of(Reader::new(connection, Arc::clone(&row.viewer), Arc::clone(&recorder)));
            viewer = Some(Arc::clone(&row.viewer));
            dependencies.clone_from(&row.dependencies);
        }
        let meta = Meta {
            request: caller.request,
            viewer,
            session: caller.session,
            ip: caller.ip.clone(),
            user_agent: caller.user_agent.clone(),
            uploads: caller.uploads.clone(),
        };
        let request = request
            .data(meta)
            .data(readers)
            .data(Arc::clone(&recorder))
            .data(Arc::clone(&self.contents))
            .data(Arc::clone(&self.payloads));
        let request = match caller.at_least {
            // The index follows the log at its own pace: a search waits for it by itself.
            Some(position) => request.data(crate::search::AtLeast(position)),
            None => request,
        };
        Ok((request, recorder, dependencies))
    }

    /// Waits, bounded, until this node has applied the position that the client has seen.
    async fn wait_for(&self, at_least: Option<Position>) -> Result<(), async_graphql::Error> {
        let Some(position) = at_least else { return Ok(()) };
        let engine = &self.services.engine;
        if engine.feed().head() >= position {
            return Ok(());
        }
        let wait: Duration = self.services.policy.at_least_wait;
        tokio::time::timeout(wait, engine.feed().reached(position)).await.map_err(|_| {
            let message = format!(
                "This server has not seen position {position} within {wait:?}; it is at {}. Try again.",
                engine.feed().head()
            );
            crate::access::error("BEHIND", message)
        })
    }

    fn with_position(&self, mut answer: Response) -> Response {
        let position = self.services.engine.feed().head();
        answer.extensions.insert("position".to_owned(), Value::String(position.to_string()));
        answer
    }
}

/// The request once more; its data is made anew for each execution.
fn copy(request: &Request, document: &ExecutableDocument) -> Request {
    let mut again = Request::new(request.query.clone()).variables(request.variables.clone());
    again.operation_name.clone_from(&request.operation_name);
    again.set_parsed_query(document.clone());
    again
}

/// The answer of the query as the answer of the subscription that asked it.
fn under(key: &str, mut answer: Response) -> Response {
    if answer.data != Value::Null {
        answer.data = Value::Object([(async_graphql::Name::new(key), answer.data)].into_iter().collect());
    }
    for ServerError { path, .. } in &mut answer.errors {
        if !path.is_empty() {
            path.insert(0, async_graphql::PathSegment::Field(key.to_owned()));
        }
    }
    answer
}

/// If the operation is `subscription { live { … } }`: the name of the answer's key, and the query inside.
fn live_query(document: &ExecutableDocument, operation: Option<&str>) -> Option<(String, ExecutableDocument)> {
    let (name, chosen) = document.operations.iter().find(|(name, _)| match operation {
        Some(wanted) => name.is_some_and(|name| name.as_str() == wanted),
        None => true,
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
        Some(name) => {
            async_graphql::parser::types::DocumentOperations::Multiple([(name.clone(), query)].into_iter().collect())
        }
        None => async_graphql::parser::types::DocumentOperations::Single(query),
    };
    Some((key, document))
}

/// The one root field `live`, through fragments on the root.
fn live_field(
    document: &ExecutableDocument,
    set: &SelectionSet,
    unwrapped: &mut Vec<async_graphql::Name>,
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
