//! Retention as it is read: for how long an organisation keeps what may be removed; and for whoever sweeps, what is due.
//!
//! Invariants: there is one row for each kind that an organisation has ever said something about. What is due is told by
//! the rows of the read models themselves ([`Place`]), and each of them goes by an event of its own aggregate, so that a
//! rebuilt read model equals a grown one. Only readings are no events: their rows are removed.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::retention::{RetentionEvent, RetentionId, RetentionKind as Kind, Rule, Rules, retention_id};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{Connection, PageArgs, ReadError, ReadModel, Reader};
use oriel_kernel::{Actor as Author, OrganizationId, Recorded, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QuerySelect, Statement, Value};

use crate::events::{self, Actor};
use crate::{defect, must, reader};

pub mod sweeps;

/// What may be removed after a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum RetentionKind {
    /// Sessions that are over, with the address and the program of the device. Counted from when they were over.
    #[sea_orm(string_value = "sessions")]
    Sessions,
    /// Invitations that nobody has accepted, with the address that they went to. Counted from the invitation on.
    #[sea_orm(string_value = "invitations")]
    Invitations,
    /// Who has read what is sensitive (`accessLog`). Counted from the reading on.
    #[sea_orm(string_value = "access_log")]
    AccessLog,
    /// Documents in the trash, with their files. Counted from when they went there.
    #[sea_orm(string_value = "trash")]
    Trash,
}

impl From<Kind> for RetentionKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Sessions => Self::Sessions,
            Kind::Invitations => Self::Invitations,
            Kind::AccessLog => Self::AccessLog,
            Kind::Trash => Self::Trash,
        }
    }
}

impl From<RetentionKind> for Kind {
    fn from(kind: RetentionKind) -> Self {
        match kind {
            RetentionKind::Sessions => Self::Sessions,
            RetentionKind::Invitations => Self::Invitations,
            RetentionKind::AccessLog => Self::AccessLog,
            RetentionKind::Trash => Self::Trash,
        }
    }
}

/// What an organisation said about a kind.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "retentions")]
#[read_model(kind = "retention", name = "Retention", tenant = "organization_id", collections(org = "organization_id"))]
pub struct Model {
    /// See [`retention_id`].
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: RetentionId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// Of which kind.
    pub kind: RetentionKind,
    /// Days; none: what the installation says.
    pub days: Option<i32>,
    /// When it was said.
    pub changed_at: Timestamp,
    /// What kind of author said it.
    pub changed_by_kind: i16,
    /// Who said it.
    pub changed_by_id: Uuid,
    /// The optimistic version.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Retentions for Model, version 1, on RetentionEvent
}

impl On<RetentionEvent> for Retentions {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &RetentionEvent) {
        match event {
            RetentionEvent::Changed { organization, kind, days } => {
                let (changed_by_kind, changed_by_id) = at.actor.to_columns();
                rows.insert(Model {
                    id: RetentionId::from_uuid(at.subject),
                    organization_id: *organization,
                    kind: (*kind).into(),
                    days: *days,
                    changed_at: at.at,
                    changed_by_kind,
                    changed_by_id,
                    version: at.version,
                });
            }
        }
    }
}

// --- what people see ---------------------------------------------------------------------------------------------

/// For how long things of a kind are kept in your organization.
#[derive(Clone, Debug, SimpleObject)]
#[graphql(complex)]
pub struct RetentionSetting {
    /// Of which kind.
    pub kind: RetentionKind,
    /// For how many days; null: until somebody removes it.
    pub days: Option<i32>,
    /// Whether your organization says nothing about it: then what the installation says applies.
    pub is_default: bool,
    /// What the installation says; null: until somebody removes it.
    pub default_days: Option<i32>,
    /// What your organization may say at least.
    pub least_days: i32,
    /// What your organization may say at most.
    pub most_days: i32,
    /// When your organization last said something about it; null when it never did.
    pub changed_at: Option<Timestamp>,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
    #[graphql(skip)]
    id: RetentionId,
    #[graphql(skip)]
    author: Option<Author>,
}

#[ComplexObject]
impl RetentionSetting {
    /// Who last said something about it; null when nobody did, or they are not there any more.
    async fn changed_by(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let author = self.author?;
        async { Ok(Actor::of(reader(cx)?, author).await?) }.await.transpose()
    }

    /// What was said about it: who changed what, and when. The newest first. Requires `events:view`.
    async fn history(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many from the beginning.")] first: Option<i32>,
        #[graphql(desc = "Only what stands behind this cursor.")] after: Option<String>,
    ) -> Option<Result<Connection<events::Model>>> {
        let history = || {
            let reader = reader(cx)?;
            must(reader, events::VIEW)?;
            let of = events::Model::in_org(reader.organization()).and(events::Column::SubjectId.eq(self.id.uuid()));
            let page = PageArgs { first, after, ..PageArgs::default() };
            Ok(reader.page(of, page, None, Some(events::newest_first()))?)
        };
        Some(history())
    }
}

/// What applies to each kind in the organisation of the viewer.
///
/// # Errors
/// The database cannot be read.
pub async fn settings(reader: &Reader, rules: &Rules) -> Result<Vec<RetentionSetting>, ReadError> {
    let organization = reader.organization();
    let rows = reader.many(Model::in_org(organization)).await?;
    let setting = |rule: &Rule| {
        let row: Option<&Arc<Model>> = rows.iter().find(|row| row.kind == rule.kind.into());
        let said = row.and_then(|row| row.days);
        RetentionSetting {
            kind: rule.kind.into(),
            days: rule.applies(said),
            is_default: said.is_none(),
            default_days: rule.default,
            least_days: rule.least,
            most_days: rule.most,
            changed_at: row.map(|row| row.changed_at),
            version: row.map_or(0, |row| row.version),
            id: retention_id(organization, rule.kind),
            author: row.and_then(|row| Author::from_columns(row.changed_by_kind, row.changed_by_id)),
        }
    };
    Ok(rules.iter().map(setting).collect())
}

/// What holds in this installation, as the schema was given it.
pub(crate) fn rules<'a>(cx: &Context<'a>) -> Result<&'a Rules, ReadError> {
    cx.data_opt::<Rules>().ok_or_else(|| defect("no Rules in the context"))
}

// --- what is due -------------------------------------------------------------------------------------------------

/// Where things of a kind are, in words of SQL; `$1` is a moment, of which nothing is due that is later.
struct Place {
    table: &'static str,
    /// Since when a thing may be removed.
    since: &'static str,
    /// Whether it may be at all.
    over: &'static str,
    /// Whether it may be since before the moment: so that an index is entered.
    due: &'static str,
    /// What tells whether it has changed meanwhile.
    version: &'static str,
}

impl Place {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Sessions => Self {
                table: "sessions",
                since: "CASE WHEN ended_at < expires_at THEN ended_at ELSE expires_at END",
                over: "(ended_at IS NOT NULL OR expires_at < $1)",
                due: "(ended_at < $1 OR expires_at < $1)",
                version: "CAST(NULL AS INTEGER)",
            },
            Kind::Invitations => Self {
                table: "members",
                since: "invited_at",
                over: "invited_at <= $1",
                due: "invited_at < $1",
                version: "version",
            },
            Kind::AccessLog => Self {
                table: "access_log",
                since: "at",
                over: "at < $1",
                due: "at < $1",
                version: "CAST(NULL AS INTEGER)",
            },
            Kind::Trash => Self {
                table: "documents",
                since: "trashed_at",
                over: "status = 'trashed' AND trashed_at <= $1",
                due: "status = 'trashed' AND trashed_at < $1",
                version: "version",
            },
        }
    }
}

/// Something that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// Which row.
    pub id: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// The version of the row, where it has one.
    pub version: Option<i32>,
}

/// How many days organisations have said about a kind: each number once.
///
/// # Errors
/// The database cannot be read.
pub async fn said(connection: &impl ConnectionTrait, kind: Kind) -> Result<Vec<i32>, DbErr> {
    let said = Entity::find().select_only().column(Column::Days).distinct();
    let said = said.filter(Column::Kind.eq(RetentionKind::from(kind))).filter(Column::Days.is_not_null());
    said.into_tuple().all(connection).await
}

/// Some things of a kind, at most `limit`, that may be removed since before this moment, in the organisations that said
/// this about the kind, or nothing. Whose organisation has ended goes with it.
///
/// # Errors
/// The database cannot be read.
pub async fn due(
    connection: &impl ConnectionTrait,
    (kind, said): (Kind, Option<i32>),
    before: Timestamp,
    limit: u64,
) -> Result<Vec<Due>, DbErr> {
    let Place { table, due, version, .. } = Place::of(kind);
    let (without, days) = if said.is_some() { ("", "r.days = $3") } else { ("NOT", "r.days IS NOT NULL") };
    let sql = format!(
        "SELECT t.id, t.organization_id, t.version FROM \
           (SELECT id, organization_id, {version} AS version FROM {table} WHERE {due}) t \
         WHERE {without} EXISTS (SELECT 1 FROM retentions r \
           WHERE r.organization_id = t.organization_id AND r.kind = $2 AND {days}) \
         AND NOT EXISTS (SELECT 1 FROM organization_standings s \
           WHERE s.id = t.organization_id AND s.standing = 'ended') LIMIT {limit}"
    );
    let mut values: Vec<Value> = vec![before.into(), kind.name().into()];
    values.extend(said.map(Value::from));
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
    let rows = connection.query_all_raw(statement).await?;
    let due = |row: &QueryResult| {
        Ok(Due {
            id: row.try_get("", "id")?,
            organization: OrganizationId::from_uuid(row.try_get("", "organization_id")?),
            version: row.try_get("", "version")?,
        })
    };
    rows.iter().map(due).collect()
}

/// What an organisation has of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holding {
    /// How many may be removed at some time.
    pub count: i64,
    /// Since when the oldest may be.
    pub oldest: Option<Timestamp>,
    /// How many are due.
    pub due: i64,
}

/// What an organisation has of a kind at this moment; `before` is the moment of which nothing is due that is later.
///
/// # Errors
/// The database cannot be read.
pub async fn holding(
    connection: &impl ConnectionTrait,
    (organization, kind): (OrganizationId, Kind),
    now: Timestamp,
    before: Option<Timestamp>,
) -> Result<Holding, DbErr> {
    let Place { table, since, over, .. } = Place::of(kind);
    let sql = format!(
        "SELECT COUNT(*) AS n, MIN(since) AS oldest, \
           CAST(COALESCE(SUM(CASE WHEN since < $3 THEN 1 ELSE 0 END), 0) AS BIGINT) AS due FROM \
           (SELECT {since} AS since FROM {table} WHERE organization_id = $2 AND {over}) t"
    );
    let never = Timestamp::UNIX_EPOCH;
    let values: Vec<Value> = vec![now.into(), organization.uuid().into(), before.unwrap_or(never).into()];
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
    let Some(row) = connection.query_one_raw(statement).await? else { return Ok(Holding::default()) };
    Ok(Holding { count: row.try_get("", "n")?, oldest: row.try_get("", "oldest")?, due: row.try_get("", "due")? })
}
