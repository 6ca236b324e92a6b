//! Sessions as they are read: the devices on which a person is signed in.
//!
//! Invariants: a session is seen by the person whose it is, and by nobody else. An ended one keeps its row, so that
//! whoever ended it sees that, until it is forgotten. Nothing here holds a token or its hash.

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::identity_providers::IdentityProviderId;
use oriel_domain::sessions::{SessionEvent, SignInMethod as Method};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::time::to_micros;
use oriel_kernel::{MemberId, OrganizationId, Recorded, SessionId, Timestamp, UserId};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, QuerySelect};

use crate::{reader, told};

/// By what somebody showed who they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum SignInMethod {
    /// A password.
    #[sea_orm(string_value = "password")]
    Password,
    /// A password, and a code of an authenticator or of recovery.
    #[sea_orm(string_value = "password_and_code")]
    PasswordAndCode,
    /// A password, and a passkey.
    #[sea_orm(string_value = "password_and_passkey")]
    PasswordAndPasskey,
    /// A passkey alone.
    #[sea_orm(string_value = "passkey")]
    Passkey,
}

impl From<Method> for SignInMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Password => Self::Password,
            Method::PasswordAndCode => Self::PasswordAndCode,
            Method::PasswordAndPasskey => Self::PasswordAndPasskey,
            Method::Passkey => Self::Passkey,
        }
    }
}

impl From<SignInMethod> for Method {
    fn from(method: SignInMethod) -> Self {
        match method {
            SignInMethod::Password => Self::Password,
            SignInMethod::PasswordAndCode => Self::PasswordAndCode,
            SignInMethod::PasswordAndPasskey => Self::PasswordAndPasskey,
            SignInMethod::Passkey => Self::Passkey,
        }
    }
}

/// A device on which you are signed in.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "sessions")]
#[graphql(name = "Session", complex)]
#[read_model(kind = "session", owner = "user_id", collections(user = "user_id"))]
pub struct Model {
    /// The session's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: SessionId,
    /// Whose it is.
    #[graphql(skip)]
    pub user_id: UserId,
    /// Where they act.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// As whom they act.
    #[graphql(skip)]
    pub member_id: MemberId,
    /// When you signed in.
    pub created_at: Timestamp,
    /// When the device was last given a new access token: it was used since.
    pub last_seen_at: Timestamp,
    /// When the session ends by itself, if it is not used before.
    pub expires_at: Timestamp,
    /// When the session was ended; null while it goes on.
    pub ended_at: Option<Timestamp>,
    /// The address that you signed in from, as far as it is known.
    pub ip: Option<String>,
    /// The program that you signed in with, as it named itself.
    pub user_agent: Option<String>,
    /// The identity provider of the organization that said who you are; null when you signed in with what you know or
    /// have yourself. Such a session is good in this organization alone.
    pub provider_id: Option<IdentityProviderId>,
    /// By what you showed who you are; null when an identity provider said so.
    pub method: Option<SignInMethod>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing about where the person is.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Session");
        shown.field("id", &self.id).field("user_id", &self.user_id).field("member_id", &self.member_id);
        shown.field("expires_at", &self.expires_at).field("ended_at", &self.ended_at).finish_non_exhaustive()
    }
}

#[ComplexObject]
impl Model {
    /// Whether this is the session in which you ask.
    async fn current(&self, cx: &Context<'_>) -> Result<bool> {
        Ok(reader(cx)?.viewer().session() == Some(self.id))
    }
}

/// The sessions of the viewer's person that go on at this moment, the newest first; where an identity provider speaks
/// for them, those of its organisation. The answer holds until the first
/// of them expires.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader, now: Timestamp) -> Result<Vec<Arc<Model>>, ReadError> {
    let going_on = Column::EndedAt.is_null();
    let mut theirs = Model::in_user(reader.viewer().user).and(going_on);
    if reader.viewer().confined {
        theirs = theirs.and(Column::OrganizationId.eq(reader.organization().uuid()));
    }
    let sessions = reader.many(theirs).await?;
    let mut sessions: Vec<_> = sessions.iter().filter(|session| session.expires_at > now).cloned().collect();
    for session in &sessions {
        reader.recorder().until(session.expires_at);
    }
    sessions.reverse();
    Ok(sessions)
}

/// Some sessions that were begun by a provider and have not ended, at most `limit`: those of this person, or of all.
///
/// # Errors
/// The database cannot be read.
pub async fn of_provider(
    connection: &impl ConnectionTrait,
    (organization, provider): (OrganizationId, IdentityProviderId),
    user: Option<UserId>,
    limit: u64,
) -> Result<Vec<SessionId>, DbErr> {
    let begun = Entity::find().select_only().column(Column::Id).filter(Column::ProviderId.eq(provider.uuid()));
    let mut begun = begun.filter(Column::OrganizationId.eq(organization.uuid())).filter(Column::EndedAt.is_null());
    if let Some(user) = user {
        begun = begun.filter(Column::UserId.eq(user.uuid()));
    }
    begun.limit(limit).into_tuple().all(connection).await
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Sessions for Model, version 2, on SessionEvent
}

impl On<SessionEvent> for Sessions {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &SessionEvent) {
        match event {
            SessionEvent::Started {
                user,
                member,
                organization,
                refresh_hash: _,
                ip,
                user_agent,
                expires_at,
                provider,
                method,
            } => {
                rows.insert(Model {
                    id: SessionId::from_uuid(at.subject),
                    user_id: *user,
                    organization_id: *organization,
                    member_id: *member,
                    created_at: at.at,
                    last_seen_at: at.at,
                    expires_at: to_micros(*expires_at),
                    ended_at: None,
                    ip: ip.as_ref().and_then(told),
                    user_agent: user_agent.as_ref().and_then(told),
                    provider_id: *provider,
                    method: method.map(Into::into),
                });
            }
            SessionEvent::Refreshed { refresh_hash: _, expires_at } => rows.update(at.subject, |session| {
                session.last_seen_at = at.at;
                session.expires_at = to_micros(*expires_at);
            }),
            SessionEvent::Ended { reason: _ } => rows.update(at.subject, |session| session.ended_at = Some(at.at)),
            SessionEvent::Forgotten => rows.delete(at.subject),
        }
    }
}
