//! The log itself, as it is read: the table `events`, one row for each thing that happened.
//!
//! Invariants: only who may see events of the whole organisation sees any, by whatever way. Nothing here writes: the
//! committer does, and it announces `events@org:ID` with every batch. What the log holds sealed is opened by
//! [`Payloads`], which the server puts into the context of a request, and by nothing here.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, ID, Result, SimpleObject, Union};
use async_trait::async_trait;
use data_encoding::{BASE64, HEXLOWER};
use oriel_engine::chain::Envelope;
use oriel_engine::keyring::ANY_KEY;
use oriel_engine::read::{
    Dependency, Filterable, On, OrderDirection, ReadError, ReadModel, Reader, StringFilter, Within,
};
use oriel_kernel::{
    Actor as Author, CommandId, EventDecoder, EventId, Grant, OrganizationId, Permission, Position, RawId, Timestamp,
    Viewer,
};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{Condition, DbBackend, DeriveValueType};

use crate::node::Node;
use crate::{api_keys, defect, members, reader, users};

/// Seeing what happened.
pub const VIEW: Permission = Permission::new("events", "view");

/// Something that happened: an entry in the log of the organization, for ever.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "events")]
#[graphql(name = "Event", complex)]
#[read_model(kind = "event", scope = seen, shared, collections(org = "organization_id"))]
pub struct Model {
    /// Its place in the log of the installation.
    #[sea_orm(primary_key, auto_increment = false)]
    #[graphql(skip)]
    #[read_model(order)]
    pub position: i64,
    /// The event's id.
    pub id: EventId,
    /// Whose it is.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// Its place in the log of the organization: from 1, without gaps.
    pub sequence: i64,
    /// The kind of aggregate that it happened to.
    #[graphql(skip)]
    pub stream: String,
    /// What it happened to.
    #[graphql(skip)]
    #[read_model(filter, scalar)]
    pub subject_id: Subject,
    /// The version of what it happened to, after it: from 1, without gaps.
    pub version: i32,
    /// Which kind of thing happened; one of these.
    #[sea_orm(column_name = "type")]
    #[graphql(skip, name = "types")]
    #[read_model(filter, scalar)]
    pub event_type: EventType,
    /// The version of the payload's form.
    #[graphql(skip)]
    pub type_version: i16,
    /// What kind of author caused it.
    #[graphql(skip)]
    pub actor_kind: i16,
    /// Who caused it.
    #[graphql(skip)]
    #[read_model(filter, scalar)]
    pub actor_id: ActorUuid,
    /// When it was decided.
    #[read_model(filter)]
    pub at: Timestamp,
    /// What belongs together has the same: the request at the beginning of a chain.
    pub correlation_id: CommandId,
    /// The event that led to it; null when a request did.
    pub causation_id: Option<EventId>,
    /// The payload, as the log holds it.
    #[graphql(skip)]
    pub data: Vec<u8>,
    /// Its link of the organisation's hash chain.
    #[graphql(skip)]
    pub hash: Vec<u8>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Condition::all().add(Column::OrganizationId.eq(viewer.organization.uuid()));
    if viewer.grant(VIEW) == Some(Grant::All) { here } else { here.add(nothing()) }
}

fn nothing() -> Expr {
    Expr::Constant(false.into())
}

/// The order of the log, for who does not ask for another.
pub fn by_position() -> Vec<EventOrder> {
    vec![EventOrder { field: EventOrderField::Position, direction: OrderDirection::Asc }]
}

/// What happened last comes first.
pub fn newest_first() -> Vec<EventOrder> {
    vec![EventOrder { field: EventOrderField::Position, direction: OrderDirection::Desc }]
}

// --- columns that are filtered in their own way --------------------------------------------------------------------

/// The UUID of what an event happened to; filtered by the id of anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, DeriveValueType)]
pub struct Subject(pub Uuid);

impl Filterable for Subject {
    type Filter = ID;

    fn condition(filter: &ID, _: On, _: &Within<'_>) -> Result<Condition, ReadError> {
        let known = RawId::parse(filter).and_then(|id| Some((id.uuid, decoder(|d| d.id_prefix == id.prefix)?.stream)));
        Ok(match known {
            Some((uuid, stream)) => Condition::all().add(Column::SubjectId.eq(uuid)).add(Column::Stream.eq(stream)),
            None => Condition::all().add(nothing()),
        })
    }
}

/// The stable name of a kind of event; filtered by a list of such names.
#[derive(Clone, PartialEq, Eq, Debug, DeriveValueType)]
pub struct EventType(pub String);

impl Filterable for EventType {
    type Filter = Vec<String>;

    fn condition(filter: &Vec<String>, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let any = StringFilter { r#in: Some(filter.clone()), ..StringFilter::default() };
        <String as Filterable>::condition(&any, on, within)
    }
}

/// The UUID of who caused an event; filtered by the id of a member, a user or a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, DeriveValueType)]
pub struct ActorUuid(pub Uuid);

impl Filterable for ActorUuid {
    type Filter = ID;

    fn condition(filter: &ID, _: On, _: &Within<'_>) -> Result<Condition, ReadError> {
        let author = RawId::parse(filter).and_then(|id| match id.prefix {
            "mbr" => Some(Author::Member(oriel_kernel::Id::from_uuid(id.uuid))),
            "usr" => Some(Author::User(oriel_kernel::Id::from_uuid(id.uuid))),
            "key" => Some(Author::ApiKey(id.uuid)),
            _ => None,
        });
        Ok(match author.map(Author::to_columns) {
            Some((kind, uuid)) => Condition::all().add(Column::ActorId.eq(uuid)).add(Column::ActorKind.eq(kind)),
            None => Condition::all().add(nothing()),
        })
    }
}

// --- what the log holds sealed -------------------------------------------------------------------------------------

/// Opens payloads. The server puts an `Arc<dyn Payloads>` into the context of a request.
#[async_trait]
pub trait Payloads: Send + Sync {
    /// The payloads of these events, in their order, as JSON in today's form, personal values opened where their key
    /// exists and null where it was destroyed. Whoever asks has seen the events' rows already.
    async fn data(&self, events: &[Arc<Model>]) -> Vec<Result<serde_json::Value>>;
}

/// An event whose payload is wanted; those of one page are opened together.
#[derive(Clone, Debug)]
struct Wanted(Arc<Model>);

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.0.position == other.0.position
    }
}

impl Eq for Wanted {}

impl Hash for Wanted {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.position.hash(hasher);
    }
}

// --- relations -----------------------------------------------------------------------------------------------------

/// Who caused something.
#[derive(Clone, Debug, Union)]
pub enum Actor {
    /// A person acting in the organization.
    Member(Arc<members::Model>),
    /// A person before they acted in it.
    User(Arc<users::Model>),
    /// A key that a program uses.
    ApiKey(Arc<api_keys::Model>),
    /// Oriel itself.
    System(SystemActor),
}

impl Actor {
    /// Who this is; nothing when they are not there any more, or nobody was known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn of(reader: &Reader, author: Author) -> Result<Option<Self>, ReadError> {
        Ok(match author {
            Author::Member(id) => reader.get::<members::Model>(id).await?.map(Self::Member),
            Author::User(id) => users::find(reader, id).await?.map(Self::User),
            Author::ApiKey(id) => reader.get::<api_keys::Model>(id).await?.map(Self::ApiKey),
            Author::System => Some(Self::System(SystemActor { name: "Oriel".to_owned() })),
            Author::Anonymous => None,
        })
    }
}

/// Oriel itself: a worker, a timer, an operator on the command line.
#[derive(Clone, Debug, SimpleObject)]
pub struct SystemActor {
    /// What it is called.
    pub name: String,
}

#[ComplexObject]
impl Model {
    /// Its place in the log of the installation.
    #[graphql(name = "position")]
    async fn shown_position(&self) -> Position {
        Position::new(self.position)
    }

    /// Which kind of thing happened: a name that stays, such as `project_renamed`.
    #[graphql(name = "type")]
    async fn shown_type(&self) -> &str {
        &self.event_type.0
    }

    /// What it happened to; null when it is not there any more, or you may not see it.
    async fn subject(&self, cx: &Context<'_>) -> Option<Result<Node>> {
        let subject = async {
            match self.raw_subject() {
                Some(subject) => Ok(Node::load(reader(cx)?, subject).await?),
                None => Ok(None),
            }
        };
        subject.await.transpose()
    }

    /// The id of what it happened to.
    #[graphql(name = "subjectId")]
    async fn shown_subject_id(&self) -> Result<ID> {
        let subject = self.raw_subject().ok_or_else(|| defect("an event of a stream that no aggregate has"))?;
        Ok(subject.to_string().into())
    }

    /// Who caused it; null when they are not there any more, or nobody was known.
    async fn actor(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let actor = async {
            match Author::from_columns(self.actor_kind, self.actor_id.0) {
                Some(author) => Ok(Actor::of(reader(cx)?, author).await?),
                None => Ok(None),
            }
        };
        actor.await.transpose()
    }

    /// Its link of the organization's hash chain, in hexadecimal digits: the SHA-256 over the link of the event before
    /// it (`sequence` - 1) and `record`. The link before it is preceded by its length in 8 bytes, which are all zero
    /// for the first event, where nothing is before it.
    #[graphql(name = "hash")]
    async fn shown_hash(&self) -> String {
        HEXLOWER.encode(&self.hash)
    }

    /// What the link covers, in base64, so that anybody can check it: each field as its length in 8 bytes and its bytes
    /// (integers big-endian): id, organization, sequence, kind of subject, subject, version, type, version of the
    /// payload's form, kind of actor, actor, microseconds since 1970, correlation, causation, payload. Ids are the 16
    /// bytes of their UUID. What is said about people in the payload is sealed.
    async fn record(&self) -> String {
        let envelope = Envelope {
            id: self.id.uuid(),
            organization: self.organization_id.uuid(),
            sequence: self.sequence,
            stream: &self.stream,
            subject: self.subject_id.0,
            version: self.version,
            event_type: &self.event_type.0,
            type_version: self.type_version,
            actor: (self.actor_kind, self.actor_id.0),
            at: self.at,
            correlation: self.correlation_id.uuid(),
            causation: self.causation_id.map(|event| event.uuid()),
        };
        BASE64.encode(&envelope.record(&self.data))
    }

    /// What happened in detail. What is said about a person who was forgotten is null.
    #[graphql(name = "data")]
    async fn shown_data(&self, cx: &Context<'_>) -> Result<serde_json::Value> {
        let payloads = cx.data_opt::<Arc<dyn Payloads>>().ok_or_else(|| defect("no Payloads in the context"))?;
        let payloads = Arc::clone(payloads);
        // What it says about a person may be erased.
        reader(cx)?.recorder().record(Dependency::named(ANY_KEY));
        let open = move |wanted: Vec<Wanted>| {
            let payloads = Arc::clone(&payloads);
            async move {
                let events: Vec<_> = wanted.iter().map(|event| Arc::clone(&event.0)).collect();
                let opened = payloads.data(&events).await;
                Ok(wanted.into_iter().zip(opened.into_iter().map(Some)).collect())
            }
        };
        let opened: Option<Result<serde_json::Value>> =
            reader(cx)?.batched(Wanted(Arc::new(self.clone())), open).await?;
        opened.unwrap_or_else(|| Err(defect("a payload was left out of its batch").into()))
    }
}

impl Model {
    /// Its place in the log.
    pub fn place(&self) -> Position {
        Position::new(self.position)
    }

    fn raw_subject(&self) -> Option<RawId<'static>> {
        let prefix = decoder(|decoder| decoder.stream == self.stream)?.id_prefix;
        Some(RawId { prefix, uuid: self.subject_id.0 })
    }
}

fn decoder(fits: impl Fn(&EventDecoder) -> bool) -> Option<&'static EventDecoder> {
    oriel_domain::DECODERS.iter().find(|decoder| fits(decoder))
}
