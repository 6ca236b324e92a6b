//! Users as they are read: persons of the installation.
//!
//! Invariants: a person is seen by those who share an organisation with them, and not before they accepted its
//! invitation. What is said about them stands here alone; other read models hold their id. A forgotten person has no
//! address and an empty name.
//!
//! A membership that begins or ends changes who sees a person, and no row of this table: whoever reads one by an id
//! that did not come from a membership uses [`find`], which depends on the memberships too.

use std::fmt;
use std::sync::Arc;

use async_graphql::SimpleObject;
use oriel_domain::users::UserEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Recorded, UserId, Viewer};
use sea_orm::DbBackend;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{Condition, sea_query::Expr};

use crate::members::{self, MemberStatus};
use crate::{same, told};

/// A person. Seen by those who share an organization with them.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "users")]
#[graphql(name = "User")]
#[read_model(kind = "user", scope = seen, shared)]
pub struct Model {
    /// The person's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: UserId,
    /// The person's e-mail address; null when they were forgotten.
    pub email: Option<String>,
    /// Finds the person by the address, whatever its case.
    #[graphql(skip)]
    pub email_hash: Option<String>,
    /// What the person is called; empty when they were forgotten.
    pub name: String,
    /// Another way to sign in.
    #[graphql(skip)]
    pub username: Option<String>,
    /// Finds the person by the user name, whatever its case.
    #[graphql(skip)]
    pub username_hash: Option<String>,
    /// What a password is checked against; none when they were forgotten.
    #[graphql(skip)]
    pub password_hash: Option<String>,
    /// The optimistic version.
    #[graphql(skip)]
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says who it is, and nothing that is said about them.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Query::select()
        .expr(Expr::val(1))
        .from(members::Entity)
        .and_where(members::Column::OrganizationId.eq(viewer.organization.uuid()))
        .and_where(same((members::Entity, members::Column::UserId), (Entity, Column::Id)))
        .and_where(members::Column::Status.ne(MemberStatus::Invited))
        .take();
    Condition::all().add(Expr::exists(here))
}

/// The person with this id, if the viewer may see them: for ids that come from outside.
///
/// # Errors
/// The database cannot be read.
pub async fn find(reader: &Reader, id: UserId) -> Result<Option<Arc<Model>>, ReadError> {
    reader.recorder().record(members::Model::in_user(id).dependency());
    reader.get(id).await
}

impl Model {
    /// A person of whom no more is known than this: somebody who is invited, or was forgotten.
    pub(crate) fn known_only_by(id: UserId, email: Option<String>) -> Self {
        Self {
            id,
            name: email.clone().unwrap_or_default(),
            email,
            email_hash: None,
            username: None,
            username_hash: None,
            password_hash: None,
            version: 0,
        }
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Users for Model, version 1, on UserEvent
}

impl On<UserEvent> for Users {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &UserEvent) {
        match event {
            UserEvent::Registered { email, email_hash, username, username_hash, name, password_hash } => {
                rows.insert(Model {
                    id: UserId::from_uuid(at.subject),
                    email: told(email),
                    email_hash: email.get().map(|_| email_hash.clone()),
                    name: told(name).unwrap_or_default(),
                    username: username.as_ref().and_then(told),
                    username_hash: username.as_ref().and_then(|name| name.get()).and(username_hash.clone()),
                    password_hash: told(password_hash),
                    version: at.version,
                });
            }
            UserEvent::Renamed { name } => rows.update(at.subject, |user| {
                user.name = told(name).unwrap_or_default();
                user.version = at.version;
            }),
            UserEvent::PasswordChanged { password_hash } => rows.update(at.subject, |user| {
                user.password_hash = told(password_hash);
                user.version = at.version;
            }),
        }
    }
}
