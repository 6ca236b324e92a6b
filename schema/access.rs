//! Who may call what: the one place where a permission is checked, and the context in which a command is decided.
//!
//! Every operation declares its access on its field (`#[operations]`); the declaration gives the check, the last line
//! of the description and the catalogue. `FORBIDDEN` and everything that a person can mend is a `userError` in a
//! mutation; else it is a GraphQL error with `extensions.code`. Internal text never reaches a client.
//!
//! Before the permission two things are looked at that hold for all operations: whether whoever asks has yet to agree
//! to a policy (then they do what is in [`WITHOUT_CONSENT`], and nothing else), and whether the installation is under
//! maintenance (then only its operators change anything but their sessions).

use std::sync::Arc;

use async_graphql::{Context, ErrorExtensions, InputType, Value};
use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use oriel_domain::policies::PolicyId;
use oriel_domain::{organizations, sessions};
use oriel_engine::live::Tick;
use oriel_engine::read::{ReadError, Reader};
use oriel_engine::{Authority, CommandContext, CommandError, Engine, Scope};
use oriel_kernel::{
    Actor, CommandId, Credential, ErrorCode, Grant, Id, Observed, OrganizationId, Permission, Rejection, SessionId,
    UserError, Viewer,
};
use oriel_read_models::viewer::{self, ViewerRow};
use uuid::Uuid;

use crate::endpoint::SUSPENDED;
use crate::services::{Meta, Services};

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everybody.
    Public,
    /// Whoever is signed in: a person, and no key.
    SignedIn,
    /// Whoever is signed in, and API keys.
    Authenticated,
    /// Whoever has this permission.
    Permission(Permission),
}

/// The roots of the schema.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Root {
    /// What can be asked.
    Query,
    /// What can be done.
    Mutation,
    /// What can be followed.
    Subscription,
}

impl Root {
    /// Its name before the name of an operation: `query.document`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// An operation and who may call it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The field of the root.
    pub name: &'static str,
    /// Where it stands.
    pub root: Root,
    /// Who may call it.
    pub access: Access,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.root.as_str(), self.name)
    }
}

/// What an operation answers.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why an operation did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// What a person can mend.
    Rejected(Vec<UserError>),
    /// Anything else.
    Error(async_graphql::Error),
}

/// A payload can say what a person can mend.
pub trait Payload: Sized {
    /// Nothing happened, for these reasons.
    fn rejected(errors: Vec<UserError>) -> Self;
}

/// What somebody does who has yet to agree to a policy, besides what is for everyone: read it and agree, leave, and
/// take what is theirs along.
pub const WITHOUT_CONSENT: &[&str] = &[
    "policy",
    "policies",
    "consentGive",
    "consentWithdraw",
    "logout",
    "sessionRevoke",
    "sessionRevokeAll",
    "sessionSwitch",
    "dataExport",
    "dataExports",
    "dataExportRequest",
    "dataExportDiscard",
    "userErase",
];

/// What everybody changes while the installation is under maintenance: who wants to read signs in and out.
pub const UNDER_MAINTENANCE: &[&str] = &[
    "login",
    "loginVerify",
    "passkeyLoginBegin",
    "passkeyLogin",
    "providerLoginBegin",
    "providerLogin",
    "sessionRefresh",
    "sessionSwitch",
    "sessionRevoke",
    "sessionRevokeAll",
    "logout",
];

/// The caller may do it: who they are, and how far their permission reaches.
pub struct Granted {
    operation: Operation,
    viewer: Option<Arc<Viewer>>,
    grant: Grant,
}

/// The caller may not do it.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// Nobody is signed in.
    Unauthenticated,
    /// The permission is missing.
    Forbidden(Permission),
    /// A key asks for what a person does for themselves.
    InPerson,
    /// They have yet to agree to this policy.
    Consent(PolicyId),
    /// Only operators change anything at the moment.
    Maintenance,
}

/// Checks who calls. Written into every operation by `#[operations]`.
pub fn authorize(cx: &Context<'_>, operation: Operation) -> Result<Granted, Refusal> {
    let meta = cx.data_opt::<Meta>();
    let viewer = meta.and_then(|meta| meta.viewer.clone());
    let grant = operation.grant(viewer.as_deref())?;
    if meta.is_some_and(|meta| meta.maintenance) && !operation.goes_on_under_maintenance(viewer.as_deref()) {
        return Err(Refusal::Maintenance);
    }
    Ok(Granted { operation, viewer, grant })
}

impl Operation {
    /// How far it reaches for whoever calls.
    pub(crate) fn grant(&self, viewer: Option<&Viewer>) -> Result<Grant, Refusal> {
        let unagreed = viewer.and_then(|viewer| viewer.unagreed);
        if let Some(policy) =
            unagreed.filter(|_| self.access != Access::Public && !WITHOUT_CONSENT.contains(&self.name))
        {
            return Err(Refusal::Consent(PolicyId::from_uuid(policy)));
        }
        self.access.grant(viewer)
    }

    fn goes_on_under_maintenance(&self, viewer: Option<&Viewer>) -> bool {
        self.root != Root::Mutation
            || UNDER_MAINTENANCE.contains(&self.name)
            || viewer.is_some_and(|viewer| viewer.grant(OPERATING).is_some())
    }
}

/// Operating the installation.
const OPERATING: Permission = Permission::new("system", "manage");

impl Access {
    /// How far it reaches for whoever calls.
    fn grant(self, viewer: Option<&Viewer>) -> Result<Grant, Refusal> {
        match (self, viewer) {
            (Self::Public, _) | (Self::Authenticated, Some(_)) => Ok(Grant::All),
            (Self::SignedIn, Some(viewer)) => viewer.session().map(|_| Grant::All).ok_or(Refusal::InPerson),
            (Self::SignedIn | Self::Authenticated | Self::Permission(_), None) => Err(Refusal::Unauthenticated),
            (Self::Permission(wanted), Some(viewer)) => viewer.grant(wanted).ok_or(Refusal::Forbidden(wanted)),
        }
    }
}

/// A refused mutation. Written by `#[operations]`.
pub fn refuse_mutation<P: Payload>(refusal: Refusal) -> Option<async_graphql::Result<P>> {
    Some(match refusal {
        Refusal::Forbidden(_) | Refusal::InPerson => Ok(P::rejected(vec![refusal.rejection().into()])),
        Refusal::Unauthenticated | Refusal::Consent(_) | Refusal::Maintenance => Err(refusal.into()),
    })
}

impl Refusal {
    fn message(self) -> String {
        match self {
            Self::Unauthenticated => "Sign in first: send `Authorization: Bearer <access token>`.".to_owned(),
            Self::Forbidden(wanted) => format!("This requires the permission `{wanted}`."),
            Self::InPerson => "This is for a person who is signed in: an API key cannot do it.".to_owned(),
            Self::Consent(policy) => {
                format!("You have to agree to a policy first: read `policy(id: \"{policy}\")` and use `consentGive`.")
            }
            Self::Maintenance => {
                "The installation is under maintenance: until that is over only its operators change anything. \
                 `installation { notice }` may say more."
                    .to_owned()
            }
        }
    }

    fn rejection(self) -> Rejection {
        Rejection::new(ErrorCode::Forbidden, self.message())
    }
}

/// A mutation's answer. Written by `#[operations]`.
pub fn mutated<P: Payload>(answer: Result<P>) -> Option<async_graphql::Result<P>> {
    Some(match answer {
        Ok(payload) => Ok(payload),
        Err(Failure::Rejected(errors)) => Ok(P::rejected(errors)),
        Err(Failure::Error(error)) => Err(error),
    })
}

/// A query's answer. Written by `#[operations]`.
pub fn answered<T>(answer: Result<T>) -> async_graphql::Result<T> {
    answer.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Rejected(errors) => {
            let message = errors.into_iter().map(|e| e.message).collect::<Vec<_>>().join(" ");
            error("BAD_REQUEST", message)
        }
    })
}

impl Granted {
    /// Who calls.
    ///
    /// # Errors
    /// When nobody is signed in.
    pub fn viewer(&self) -> Result<&Arc<Viewer>> {
        self.viewer.as_ref().ok_or_else(|| Refusal::Unauthenticated.into())
    }

    /// Who calls, for what is theirs in every organisation: not when an identity provider of one says who they are,
    /// which speaks for them there alone.
    ///
    /// # Errors
    /// When nobody is signed in, or by a provider.
    pub fn in_person(&self) -> Result<&Arc<Viewer>> {
        let viewer = self.viewer()?;
        if viewer.confined {
            let message = "An identity provider of this organization says who you are, and speaks for you here alone. \
                           Sign in with your password or a passkey to do this.";
            return Err(Rejection::new(ErrorCode::Forbidden, message).into());
        }
        Ok(viewer)
    }

    /// In which session they are signed in.
    ///
    /// # Errors
    /// When nobody is, or a key asks.
    pub fn session(&self) -> Result<SessionId> {
        self.viewer()?.session().ok_or_else(|| Refusal::InPerson.into())
    }

    /// How far the permission reaches.
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// The context of this operation's command, from its input: `idempotencyKey` and `expectedVersion` are found by
    /// name, all else is what a repetition has to equal.
    ///
    /// # Errors
    /// `TOO_LONG` or `REQUIRED` for a key of more than 200 characters or none.
    pub fn command<I: InputType>(&self, cx: &Context<'_>, input: &I) -> Result<CommandContext> {
        self.command_about(cx, input, &[])
    }

    /// The same, when the input refers to something that a repetition has to equal too: the hash of a file.
    ///
    /// # Errors
    /// See [`Granted::command`].
    pub fn command_about<I: InputType>(&self, cx: &Context<'_>, input: &I, content: &[u8]) -> Result<CommandContext> {
        let services = Services::of(cx)?;
        let mut value = input.to_value();
        let (mut key, mut expected_version) = (None, None);
        if let Value::Object(fields) = &mut value {
            if let Some(Value::String(text)) = fields.swap_remove("idempotencyKey") {
                key = Some(text);
            }
            if let Some(Value::Number(number)) = fields.get("expectedVersion") {
                expected_version = number.as_i64().and_then(|n| i32::try_from(n).ok());
            }
        }
        if let Some(key) = &key {
            oriel_kernel::input::bounded(key, 1, 200, false).map_err(|r| Failure::from(r.at("idempotencyKey")))?;
        }
        let (actor, organization) = match &self.viewer {
            Some(viewer) => (viewer.actor(), viewer.organization),
            None => (Actor::Anonymous, OrganizationId::ABSENT),
        };
        let mut text = format!("{}\n{value}\n", self.operation.name).into_bytes();
        text.extend_from_slice(content);
        let command = match &key {
            // The same key of another person or in another organisation is another command.
            Some(key) => derived_command(&format!("{actor:?}/{organization}/{key}")),
            None => services.engine.new_id(),
        };
        let request = Meta::of(cx)?.request;
        let (scope, authority) = match &self.viewer {
            Some(viewer) if !matches!(self.operation.access, Access::Public) => {
                let (engine, credential) = (Arc::clone(&services.engine), viewer.credential);
                let asked = Asked { engine, credential, operation: self.operation };
                (scope(viewer, self.grant), Some(Arc::new(asked) as Arc<dyn Authority>))
            }
            // What everybody may do rests on nothing.
            _ => (Scope::unlimited(), None),
        };
        Ok(CommandContext {
            command,
            may_repeat: key.is_some(),
            input_hash: sha256(&text),
            actor,
            organization,
            scope,
            authority,
            expected_version,
            correlation: request,
            causation: None,
            now: services.engine.now(),
        })
    }
}

/// What a viewer may do, and what that rests on: their organisation is open, their session goes on, and they (their
/// roles, their key) are what they were.
fn scope(viewer: &Viewer, grant: Grant) -> Scope {
    let session = viewer.session().map(|session| sessions::active(viewer.organization, session));
    let facts = session.into_iter().chain([organizations::open(viewer.organization)]);
    Scope {
        grant,
        visible: viewer.visible.clone(),
        member: Some(viewer.member),
        permissions: Arc::clone(&viewer.permissions),
        observed: Observed { versions: viewer.versions.to_vec(), facts: facts.collect() },
    }
}

/// An operation that somebody asked for.
struct Asked {
    engine: Arc<Engine>,
    credential: Credential,
    operation: Operation,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("credential", &self.credential)
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Authority for Asked {
    async fn renew(&self) -> Result<Scope, CommandError> {
        let row = viewer::resolve(self.engine.database().reader(), self.credential, self.engine.now())
            .await
            .map_err(|e| CommandError::Unavailable(e.to_string()))?;
        let Some(row) = row else {
            let suspended = viewer::is_suspended(self.engine.database().reader(), self.credential).await;
            return Err(match suspended {
                Ok(true) => Rejection::new(ErrorCode::Forbidden, SUSPENDED).into(),
                Ok(false) => CommandError::SignedOut,
                Err(error) => CommandError::Unavailable(error.to_string()),
            });
        };
        let viewer = row.viewer;
        match self.operation.grant(Some(&viewer)) {
            Ok(grant) => Ok(scope(&viewer, grant)),
            Err(Refusal::Unauthenticated) => Err(CommandError::SignedOut),
            Err(refusal) => Err(refusal.rejection().into()),
        }
    }
}

/// Who asks, and since when that is known.
pub(crate) struct Asker {
    /// What they were resolved to.
    pub row: Arc<ViewerRow>,
    /// When that was so.
    pub since: Tick,
}

impl Asker {
    /// Who they are now, if nothing of it was touched since: neither by themselves nor by anybody else.
    fn still(&self, engine: &Engine) -> Option<Arc<Viewer>> {
        let Self { row, since } = self;
        let is_same = engine.feed().is_current()
            && row.expires_at > engine.now()
            && engine.tracker().valid(*since, row.dependencies.iter());
        is_same.then(|| Arc::clone(&row.viewer))
    }
}

/// A command id that is the same whenever this text is.
pub fn derived_command(text: &str) -> CommandId {
    let hash = sha256(text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Id::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The reader of this request.
///
/// # Errors
/// When nobody is signed in.
pub fn reader(cx: &Context<'_>) -> Result<Reader> {
    oriel_read_models::current_reader(cx).ok_or_else(|| Refusal::Unauthenticated.into())
}

/// A GraphQL error with its code.
pub fn error(code: &str, message: impl Into<String>) -> async_graphql::Error {
    async_graphql::Error::new(message).extend_with(|_, extensions| extensions.set("code", code))
}

/// A defect: what it is goes to the log, its id to the client.
pub fn internal(what: impl std::fmt::Display) -> async_graphql::Error {
    let id = Uuid::new_v4();
    tracing::error!(error_id = %id, error = %what, "an operation failed: a defect");
    error("INTERNAL", format!("Something went wrong on our side. Error id {id}."))
        .extend_with(|_, extensions| extensions.set("errorId", id.to_string()))
}

/// Something that Oriel needs is not there: what it is goes to the log, its id to the client.
pub fn unavailable(what: impl std::fmt::Display) -> async_graphql::Error {
    let id = Uuid::new_v4();
    tracing::warn!(error_id = %id, error = %what, "an operation failed: a backend is not available");
    error("UNAVAILABLE", format!("This cannot be done at the moment; try again. Error id {id}."))
        .extend_with(|_, extensions| extensions.set("errorId", id.to_string()))
}

impl From<Refusal> for async_graphql::Error {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.message();
        match refusal {
            Refusal::Unauthenticated => error("UNAUTHENTICATED", message),
            Refusal::Forbidden(_) | Refusal::InPerson => error("FORBIDDEN", message),
            Refusal::Consent(policy) => error("CONSENT_REQUIRED", message)
                .extend_with(|_, extensions| extensions.set("policyId", policy.to_string())),
            Refusal::Maintenance => error("MAINTENANCE", message),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Error(refusal.into())
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(vec![rejection.into()])
    }
}

impl From<async_graphql::Error> for Failure {
    fn from(error: async_graphql::Error) -> Self {
        Self::Error(error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Error(error.into())
    }
}

impl From<CommandError> for Failure {
    fn from(failed: CommandError) -> Self {
        match failed {
            CommandError::Rejected(error) => Self::Rejected(vec![error]),
            CommandError::Stale => Rejection::conflict("Your permissions changed at this moment. Try again.").into(),
            CommandError::SignedOut => Refusal::Unauthenticated.into(),
            CommandError::Overloaded => Self::Error(
                error("OVERLOADED", "Too many changes wait at the moment. Try again after a second.")
                    .extend_with(|_, extensions| extensions.set("retryAfter", 1)),
            ),
            CommandError::Unavailable(what) => Self::Error(unavailable(what)),
            CommandError::Internal(what) => Self::Error(internal(what)),
        }
    }
}

/// Collects what is wrong with an input, so that a person learns all of it at once.
#[derive(Default)]
pub struct Problems(Vec<UserError>);

impl Problems {
    /// The value, or `None` with its problem kept, at this field of the input.
    pub fn take<T>(&mut self, field: &'static str, parsed: Result<T, Rejection>) -> Option<T> {
        parsed.map_err(|rejection| self.0.push(rejection.at(field).into())).ok()
    }

    /// The value, or `None` with its problems kept.
    ///
    /// # Errors
    /// What nobody can mend.
    pub fn take_all<T>(&mut self, parsed: Result<T>) -> Result<Option<T>> {
        match parsed {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Rejected(errors)) => {
                self.0.extend(errors);
                Ok(None)
            }
            Err(error @ Failure::Error(_)) => Err(error),
        }
    }

    /// Adds a problem.
    pub fn push(&mut self, rejection: Rejection) {
        self.0.push(rejection.into());
    }

    /// What was collected, as the failure of the operation.
    pub fn failure(self) -> Failure {
        Failure::Rejected(self.0)
    }
}

/// The object that a command made or changed, as the viewer now sees it. `None` when they may not see it (any more).
///
/// # Errors
/// When the database cannot be read.
pub async fn after_write<M: oriel_engine::read::ReadModel>(cx: &Context<'_>, id: Uuid) -> Result<Option<Arc<M>>> {
    let services = Services::of(cx)?;
    let Some(viewer) = cx.data_opt::<Meta>().and_then(|meta| meta.viewer.clone()) else { return Ok(None) };
    let connection = services.engine.database().reader();
    let viewer = match cx.data_opt::<Asker>().and_then(|asker| asker.still(&services.engine)) {
        Some(viewer) => viewer,
        // What the viewer may see can have changed by the very command.
        None => {
            let row = viewer::resolve(connection, viewer.credential, services.engine.now()).await;
            let Some(row) = row.map_err(unavailable)? else { return Ok(None) };
            row.viewer
        }
    };
    let fresh = Reader::new(connection.clone(), viewer, Arc::default());
    let found = fresh.get::<M>(id).await?;
    if let Some(readers) = cx.data_opt::<oriel_read_models::Readers>() {
        readers.become_viewer(fresh);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
