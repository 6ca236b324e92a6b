//! API keys as they are read.
//!
//! Invariants: the owner of a key sees it, whoever may see all keys, and whoever may see what happened, in which each
//! of them stands anyway; nobody else does. Neither a secret nor its hash is ever shown. A revoked key keeps its row:
//! what it did has an author for ever.

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::api_keys::{ApiKeyEvent, ApiKeyId};
use oriel_domain::persisted_operations::OperationsMode as Mode;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadModel, Tags};
use oriel_kernel::time::to_micros;
use oriel_kernel::{Grant, MemberId, OrganizationId, Permission, Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, DbBackend};

use crate::{events, members, passing, reader};

pub mod uses;

/// Seeing API keys.
pub const VIEW: Permission = Permission::new("keys", "view");

/// Which documents somebody may have executed. The strictest of what holds counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum OperationsMode {
    /// All.
    #[sea_orm(string_value = "open")]
    Open,
    /// All; answers to those that are not published carry a warning.
    #[sea_orm(string_value = "warn")]
    Warn,
    /// Only those that are published.
    #[sea_orm(string_value = "registered")]
    Registered,
}

impl From<Mode> for OperationsMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Open => Self::Open,
            Mode::Warn => Self::Warn,
            Mode::Registered => Self::Registered,
        }
    }
}

impl From<OperationsMode> for Mode {
    fn from(mode: OperationsMode) -> Self {
        match mode {
            OperationsMode::Open => Self::Open,
            OperationsMode::Warn => Self::Warn,
            OperationsMode::Registered => Self::Registered,
        }
    }
}

/// A key with which a program acts on behalf of the member who made it.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "api_keys")]
#[graphql(name = "ApiKey", complex)]
#[read_model(kind = "api_key", scope = seen, collections(org = "organization_id"))]
pub struct Model {
    /// The key's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ApiKeyId,
    /// Where it acts.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// On whose behalf.
    #[graphql(skip)]
    #[read_model(filter)]
    pub owner_id: MemberId,
    /// What people call it.
    #[read_model(filter, order)]
    pub name: String,
    /// What it may do, as far as its owner may at that moment: `module:action`, with `:own` for what is the owner's
    /// own, and `*` for all.
    #[sea_orm(column_type = "JsonBinary")]
    pub scopes: Tags,
    /// The last characters of its secret, by which you know it again.
    pub hint: String,
    /// Of its secret.
    #[graphql(skip)]
    pub secret_hash: String,
    /// Of the secret before.
    #[graphql(skip)]
    pub previous_hash: Option<String>,
    /// After a rotation: until when the secret before is good.
    pub previous_until: Option<Timestamp>,
    /// Which documents it may have executed; null when it is what holds for its owner.
    pub operations: Option<OperationsMode>,
    /// How much cost it may cause in a minute; null when it is what holds for everyone.
    pub rate_limit: Option<i32>,
    /// Whether it was revoked.
    #[read_model(filter)]
    pub revoked: bool,
    /// When it was made.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
    /// When it was given its present secret, if that is not its first.
    pub rotated_at: Option<Timestamp>,
    /// When it was revoked; null while it was not.
    pub revoked_at: Option<Timestamp>,
    /// When it ends by itself; null when it does not.
    pub expires_at: Option<Timestamp>,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing about its secrets.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ApiKey");
        shown.field("id", &self.id).field("organization_id", &self.organization_id).field("owner_id", &self.owner_id);
        shown.field("scopes", &self.scopes).field("revoked", &self.revoked).field("version", &self.version);
        shown.finish_non_exhaustive()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Condition::all().add(Column::OrganizationId.eq(viewer.organization.uuid()));
    let all = [VIEW, events::VIEW].into_iter().any(|wanted| viewer.grant(wanted) == Some(Grant::All));
    if all { here } else { here.add(Column::OwnerId.eq(viewer.member.uuid())) }
}

#[ComplexObject]
impl Model {
    /// On whose behalf it acts; null when they are no member any more: then it is good for nothing.
    async fn owner(&self, cx: &Context<'_>) -> Option<Result<Arc<members::Model>>> {
        let owner = async { Ok(reader(cx)?.get::<members::Model>(self.owner_id).await?) };
        owner.await.transpose()
    }

    /// When it was last used, to about a minute; null when it never was.
    async fn last_used_at(&self, cx: &Context<'_>) -> Option<Result<Timestamp>> {
        passing(cx);
        let used = async { Ok(reader(cx)?.get::<uses::Model>(self.id).await?.map(|used| used.last_used_at)) };
        used.await.transpose()
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub ApiKeys for Model, version 1, on ApiKeyEvent
}

impl On<ApiKeyEvent> for ApiKeys {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ApiKeyEvent) {
        match event {
            ApiKeyEvent::Created {
                organization,
                owner,
                name,
                scopes,
                secret_hash,
                hint,
                expires_at,
                operations,
                rate_limit,
            } => rows.insert(Model {
                id: ApiKeyId::from_uuid(at.subject),
                organization_id: *organization,
                owner_id: *owner,
                name: name.to_string(),
                scopes: Tags(scopes.iter().map(ToString::to_string).collect()),
                hint: hint.clone(),
                secret_hash: secret_hash.clone(),
                previous_hash: None,
                previous_until: None,
                operations: operations.map(Into::into),
                rate_limit: rate_limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)),
                revoked: false,
                created_at: at.at,
                rotated_at: None,
                revoked_at: None,
                expires_at: expires_at.map(to_micros),
                version: at.version,
            }),
            ApiKeyEvent::Rotated { secret_hash, hint, previous_until } => rows.update(at.subject, |key| {
                // Folded twice, an event counts once.
                if key.secret_hash != *secret_hash {
                    key.previous_hash = Some(std::mem::replace(&mut key.secret_hash, secret_hash.clone()));
                }
                key.hint.clone_from(hint);
                key.previous_until = Some(to_micros(*previous_until));
                key.rotated_at = Some(at.at);
                key.version = at.version;
            }),
            ApiKeyEvent::Changed { name, scopes, expires_at } => rows.update(at.subject, |key| {
                key.name = name.to_string();
                key.scopes = Tags(scopes.iter().map(ToString::to_string).collect());
                key.expires_at = expires_at.map(to_micros);
                key.version = at.version;
            }),
            ApiKeyEvent::Revoked => rows.update(at.subject, |key| {
                key.revoked = true;
                key.revoked_at = Some(at.at);
                key.version = at.version;
            }),
        }
    }
}
