//! Sessions as they are read: the devices on which a person is signed in.
//!
//! Invariants: a session is seen by the person whose it is, and by nobody else. An ended one keeps its row, so that
//! whoever ended it sees that. Nothing here holds a token or its hash.

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_domain::sessions::SessionEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::time::to_micros;
use oriel_kernel::{MemberId, OrganizationId, Recorded, SessionId, Timestamp, UserId};
use sea_orm::entity::prelude::*;

use crate::{reader, told};

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

/// The sessions of the viewer's person that go on at this moment, the newest first. The answer holds until the first
/// of them expires.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader, now: Timestamp) -> Result<Vec<Arc<Model>>, ReadError> {
    let going_on = Column::EndedAt.is_null();
    let sessions = reader.many(Model::in_user(reader.viewer().user).and(going_on)).await?;
    let mut sessions: Vec<_> = sessions.iter().filter(|session| session.expires_at > now).cloned().collect();
    for session in &sessions {
        reader.recorder().until(session.expires_at);
    }
    sessions.reverse();
    Ok(sessions)
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Sessions for Model, version 1, on SessionEvent
}

impl On<SessionEvent> for Sessions {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &SessionEvent) {
        match event {
            SessionEvent::Started { user, member, organization, refresh_hash: _, ip, user_agent, expires_at } => {
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
                });
            }
            SessionEvent::Refreshed { refresh_hash: _, expires_at } => rows.update(at.subject, |session| {
                session.last_seen_at = at.at;
                session.expires_at = to_micros(*expires_at);
            }),
            SessionEvent::Ended { reason: _ } => rows.update(at.subject, |session| session.ended_at = Some(at.at)),
        }
    }
}
