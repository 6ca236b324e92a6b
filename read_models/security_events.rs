//! Security events as they are read: what looks like an attack on the people of an organisation.
//!
//! Invariants: only whoever may see the security events of the whole organisation sees any, by whatever way. A row is of
//! one organisation alone: what concerns a person in several is a row in each. Where it came from, and what somebody said
//! to it, is gone when the person is forgotten.

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::security_events::{
    SecurityEventEvent, SecurityEventId, SecurityEventKind as Kind, SecurityReason as Reason, Severity,
};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{OrderDirection, ReadModel, Tags};
use oriel_kernel::time::to_micros;
use oriel_kernel::{Actor as Author, Grant, MemberId, OrganizationId, Permission, Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{Condition, DbBackend};

use crate::events::Actor;
use crate::{defect, members, reader, told};

/// Seeing security events.
pub const VIEW: Permission = Permission::new("security", "view");

/// What something looks like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum SecurityEventKind {
    /// A refresh token was used twice, so somebody else holds it. The session was ended.
    #[sea_orm(string_value = "refresh_token_reused")]
    RefreshTokenReused,
    /// Somebody signed in from where the person has never signed in before. Of LOW severity when it was with a device
    /// that they have used before, of MEDIUM when that is new too.
    #[sea_orm(string_value = "unusual_sign_in")]
    UnusualSignIn,
    /// A right password or code came after ten wrong ones or more: it may have been guessed. `count` says how
    /// many there were.
    #[sea_orm(string_value = "sign_in_after_failures")]
    SignInAfterFailures,
    /// There were ten wrong passwords or codes or more for one account within an hour or two. `count` says how
    /// many, to the next doubling.
    #[sea_orm(string_value = "account_guessing")]
    AccountGuessing,
    /// There were wrong passwords for eight accounts of the organization or more, from one place and within an hour or
    /// two. `count` says how many accounts, to the next doubling.
    #[sea_orm(string_value = "password_spraying")]
    PasswordSpraying,
    /// A passkey was used that had counted fewer signatures than before: there may be a copy of it. It signed nobody in.
    #[sea_orm(string_value = "passkey_copied")]
    PasskeyCopied,
    /// Somebody else has taken a person's second factor away, because it was said to be lost.
    #[sea_orm(string_value = "second_factor_reset")]
    SecondFactorReset,
    /// Somebody has given up their authenticator, or their last passkey.
    #[sea_orm(string_value = "second_factor_removed")]
    SecondFactorRemoved,
    /// One person, or a key of theirs, has read files, texts, the log or data exports 200 times or more within an hour.
    /// `count` says how often, to the next doubling.
    #[sea_orm(string_value = "many_readings")]
    ManyReadings,
}

impl From<Kind> for SecurityEventKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::RefreshTokenReused => Self::RefreshTokenReused,
            Kind::UnusualSignIn => Self::UnusualSignIn,
            Kind::SignInAfterFailures => Self::SignInAfterFailures,
            Kind::AccountGuessing => Self::AccountGuessing,
            Kind::PasswordSpraying => Self::PasswordSpraying,
            Kind::PasskeyCopied => Self::PasskeyCopied,
            Kind::SecondFactorReset => Self::SecondFactorReset,
            Kind::SecondFactorRemoved => Self::SecondFactorRemoved,
            Kind::ManyReadings => Self::ManyReadings,
        }
    }
}

/// How bad it would be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum SecuritySeverity {
    /// As a rule harmless.
    #[sea_orm(string_value = "low")]
    Low,
    /// To be looked at.
    #[sea_orm(string_value = "medium")]
    Medium,
    /// Somebody has got in, or is about to.
    #[sea_orm(string_value = "high")]
    High,
}

impl From<Severity> for SecuritySeverity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Low => Self::Low,
            Severity::Medium => Self::Medium,
            Severity::High => Self::High,
        }
    }
}

/// Whether somebody has seen to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum SecurityEventStatus {
    /// Nobody has, or it has gone on since.
    #[sea_orm(string_value = "open")]
    Open,
    /// Somebody has.
    #[sea_orm(string_value = "acknowledged")]
    Acknowledged,
}

/// By what it is told that something looks like an attack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Enum)]
pub enum SecurityReason {
    /// The person has not signed in from this network before: the provider of the address, about.
    NewNetwork,
    /// The person has not signed in with such a program on such a system before.
    NewDevice,
    /// There were many wrong passwords or codes.
    WrongSecrets,
    /// They were for many accounts.
    ManyAccounts,
    /// A token that is good once was used a second time.
    UsedTwice,
    /// A passkey had counted fewer signatures than before.
    CounterWentBack,
    /// Another person did it.
    ByAnother,
    /// The person did it themselves, or somebody who was signed in as them.
    ByThemselves,
    /// Without another second factor, the password alone signs the person in.
    NoSecondFactorLeft,
    /// More was read within an hour than people read.
    ManyReadings,
}

impl From<Reason> for SecurityReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NewNetwork => Self::NewNetwork,
            Reason::NewDevice => Self::NewDevice,
            Reason::WrongSecrets => Self::WrongSecrets,
            Reason::ManyAccounts => Self::ManyAccounts,
            Reason::UsedTwice => Self::UsedTwice,
            Reason::CounterWentBack => Self::CounterWentBack,
            Reason::ByAnother => Self::ByAnother,
            Reason::ByThemselves => Self::ByThemselves,
            Reason::NoSecondFactorLeft => Self::NoSecondFactorLeft,
            Reason::ManyReadings => Self::ManyReadings,
        }
    }
}

/// Something that looks like an attack on people of the organization, until somebody has seen to it.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "security_events")]
#[graphql(name = "SecurityEvent", complex)]
#[read_model(kind = "security_event", scope = seen, shared, collections(org = "organization_id"))]
pub struct Model {
    /// The security event's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: SecurityEventId,
    /// Who is told of it.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What it looks like.
    #[read_model(filter)]
    pub kind: SecurityEventKind,
    /// How bad it would be.
    #[read_model(filter)]
    pub severity: SecuritySeverity,
    /// Whether somebody has seen to it.
    #[read_model(filter)]
    pub status: SecurityEventStatus,
    /// By what it is told.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub reasons: Tags,
    /// Whom it is about.
    #[graphql(skip)]
    #[read_model(filter)]
    pub member_id: Option<MemberId>,
    /// What kind of author did it.
    #[graphql(skip)]
    pub actor_kind: Option<i16>,
    /// Who did it.
    #[graphql(skip)]
    pub actor_id: Option<Uuid>,
    /// The address that it came from, as far as it is known; of a burst, the one that was seen when it was noticed.
    pub source_address: Option<String>,
    /// The program that it came from, as it named itself.
    pub source_program: Option<String>,
    /// How often it was seen.
    pub count: i32,
    /// When it began, or was first noticed.
    #[read_model(filter, order)]
    pub first_at: Timestamp,
    /// When it was last noticed.
    #[read_model(filter, order)]
    pub last_at: Timestamp,
    /// When somebody has seen to it; null while nobody has.
    pub acknowledged_at: Option<Timestamp>,
    /// What kind of author has.
    #[graphql(skip)]
    pub acknowledged_by_kind: Option<i16>,
    /// Who has.
    #[graphql(skip)]
    pub acknowledged_by_id: Option<Uuid>,
    /// What they say to it.
    pub note: Option<String>,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing about persons.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SecurityEvent");
        shown.field("id", &self.id).field("organization_id", &self.organization_id).field("kind", &self.kind);
        shown.field("status", &self.status).field("count", &self.count).field("version", &self.version);
        shown.finish_non_exhaustive()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Condition::all().add(Column::OrganizationId.eq(viewer.organization.uuid()));
    if viewer.grant(VIEW) == Some(Grant::All) { here } else { here.add(Expr::Constant(false.into())) }
}

/// What was noticed last comes first.
pub fn newest_first() -> Vec<SecurityEventOrder> {
    vec![SecurityEventOrder { field: SecurityEventOrderField::LastAt, direction: OrderDirection::Desc }]
}

#[ComplexObject]
impl Model {
    /// By what it is told that this looks like an attack.
    #[graphql(name = "reasons")]
    async fn shown_reasons(&self) -> Result<Vec<SecurityReason>> {
        let parse = |name: &String| serde_json::from_value::<Reason>(name.clone().into()).map(SecurityReason::from);
        let reasons = self.reasons.0.iter().map(parse).collect::<Result<_, _>>();
        reasons.map_err(|_| defect("a security event with a reason that nobody has written").into())
    }

    /// Whom it is about; null when it is about many, or when they are no member any more.
    async fn member(&self, cx: &Context<'_>) -> Option<Result<Arc<members::Model>>> {
        let id = self.member_id?;
        let member = async { Ok(reader(cx)?.get::<members::Model>(id).await?) };
        member.await.transpose()
    }

    /// Who did it, where that is known and not in doubt; null when it is not, or when they are not there any more.
    async fn actor(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        author(cx, self.actor_kind, self.actor_id).await
    }

    /// Who has seen to it; null while nobody has, or when they are not there any more.
    async fn acknowledged_by(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        author(cx, self.acknowledged_by_kind, self.acknowledged_by_id).await
    }
}

async fn author(cx: &Context<'_>, kind: Option<i16>, id: Option<Uuid>) -> Option<Result<Actor>> {
    let author = Author::from_columns(kind?, id?)?;
    let shown = async { Ok(Actor::of(reader(cx)?, author).await?) };
    shown.await.transpose()
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub SecurityEvents for Model, version 1, on SecurityEventEvent
}

impl On<SecurityEventEvent> for SecurityEvents {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &SecurityEventEvent) {
        match event {
            SecurityEventEvent::Raised {
                organization,
                kind,
                severity,
                reasons,
                user: _,
                member,
                actor,
                address,
                program,
                began_at,
                count,
                letter: _,
            } => {
                let name = |reason: &Reason| serde_json::to_value(reason).ok()?.as_str().map(str::to_owned);
                let actor = actor.map(Author::to_columns);
                rows.insert(Model {
                    id: SecurityEventId::from_uuid(at.subject),
                    organization_id: *organization,
                    kind: (*kind).into(),
                    severity: (*severity).into(),
                    status: SecurityEventStatus::Open,
                    reasons: Tags(reasons.iter().filter_map(name).collect()),
                    member_id: *member,
                    actor_kind: actor.map(|(kind, _)| kind),
                    actor_id: actor.map(|(_, id)| id),
                    source_address: address.as_ref().and_then(told),
                    source_program: program.as_ref().and_then(told),
                    count: *count,
                    first_at: to_micros(*began_at),
                    last_at: at.at,
                    acknowledged_at: None,
                    acknowledged_by_kind: None,
                    acknowledged_by_id: None,
                    note: None,
                    version: at.version,
                });
            }
            SecurityEventEvent::Continued { count } => rows.update(at.subject, |row| {
                (row.count, row.last_at, row.status) = (*count, at.at, SecurityEventStatus::Open);
                (row.acknowledged_at, row.acknowledged_by_kind, row.acknowledged_by_id) = (None, None, None);
                row.note = None;
                row.version = at.version;
            }),
            SecurityEventEvent::Acknowledged { note } => rows.update(at.subject, |row| {
                let (kind, id) = at.actor.to_columns();
                (row.status, row.acknowledged_at) = (SecurityEventStatus::Acknowledged, Some(at.at));
                (row.acknowledged_by_kind, row.acknowledged_by_id) = (Some(kind), Some(id));
                row.note = note.as_ref().and_then(told);
                row.version = at.version;
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Iterable;

    use super::*;

    #[test]
    fn a_kind_is_called_the_same_everywhere() {
        let columns: Vec<String> = SecurityEventKind::iter().map(|kind| kind.to_value()).collect();
        assert_eq!(columns, Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>());
    }
}
