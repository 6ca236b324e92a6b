//! Members as they are read: persons in one organisation.
//!
//! Invariants: a removed member has no row. Whoever was invited and has not accepted is shown by the address that the
//! invitation went to, and by nothing else: neither a name nor an id tells whether somebody has that address here.

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::members::MemberEvent;
use oriel_domain::roles::Role;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadModel, Tags};
use oriel_kernel::{Actor as Author, MemberId, OrganizationId, Permission, Recorded, Timestamp, UserId};
use sea_orm::FromJsonQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::events::Actor;
use crate::{consents, must, reader, roles, told, users};

pub mod leaving;
pub mod mine;

/// Seeing who is in an organisation.
pub const VIEW: Permission = Permission::new("members", "view");

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum MemberStatus {
    /// Has not accepted the invitation yet.
    #[sea_orm(string_value = "invited")]
    Invited,
    /// May act.
    #[sea_orm(string_value = "active")]
    Active,
    /// May do nothing for now.
    #[sea_orm(string_value = "suspended")]
    Suspended,
}

/// A person in this organization, with roles.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "members")]
#[graphql(name = "Member", complex)]
#[read_model(kind = "member", tenant = "organization_id", collections(org = "organization_id", user = "user_id"))]
pub struct Model {
    /// The member's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: MemberId,
    /// Where they are a member.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// Who they are; while they are invited perhaps a person that does not exist yet.
    #[graphql(skip)]
    pub user_id: UserId,
    /// The names of their roles.
    #[graphql(skip)]
    #[read_model(filter)]
    #[sea_orm(column_type = "JsonBinary")]
    pub roles: Tags,
    /// What they were granted besides.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub grants: Grants,
    /// Where the member stands.
    #[read_model(filter)]
    pub status: MemberStatus,
    /// When they founded the organization or accepted the invitation; null until then.
    #[read_model(filter, order)]
    pub joined_at: Option<Timestamp>,
    /// Where the invitation went, until it is accepted.
    #[graphql(skip)]
    pub invited_email: Option<String>,
    /// When they were invited, until they accept.
    #[graphql(skip)]
    pub invited_at: Option<Timestamp>,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing that is said about the person.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Member");
        shown.field("id", &self.id).field("organization_id", &self.organization_id).field("user_id", &self.user_id);
        shown.field("roles", &self.roles).field("status", &self.status).field("version", &self.version);
        shown.finish_non_exhaustive()
    }
}

#[ComplexObject]
impl Model {
    /// The person. Of somebody who has not accepted the invitation yet no more is told than the address that it went
    /// to, which stands for the name too; their id names nothing until then.
    async fn user(&self, cx: &Context<'_>) -> Result<Arc<users::Model>> {
        if self.status == MemberStatus::Invited {
            let id = UserId::from_uuid(self.id.uuid());
            return Ok(Arc::new(users::Model::known_only_by(id, self.invited_email.clone())));
        }
        let user = reader(cx)?.get::<users::Model>(self.user_id).await?;
        Ok(user.unwrap_or_else(|| Arc::new(users::Model::known_only_by(self.user_id, None))))
    }

    /// What the member may do: everything that one of these roles allows.
    #[graphql(name = "roles")]
    async fn shown_roles(&self, cx: &Context<'_>) -> Result<Vec<Arc<roles::Model>>> {
        Ok(roles::held(reader(cx)?, &self.roles).await?)
    }

    /// What they say to each policy that holds here. For who publishes policies (`policies:edit`); their own everybody sees in
    /// `viewer.consents`.
    async fn consents(&self, cx: &Context<'_>) -> Result<Vec<consents::ConsentStatus>> {
        let reader = reader(cx)?;
        must(reader, consents::VIEW)?;
        if self.status == MemberStatus::Invited {
            return Ok(Vec::new());
        }
        Ok(consents::of(reader, self.user_id).await?)
    }

    /// What they may do besides what their roles allow.
    #[graphql(name = "grants")]
    async fn shown_grants(&self) -> &[MemberGrant] {
        &self.grants.0
    }
}

// --- direct grants -------------------------------------------------------------------------------------------------

/// What a member was granted besides their roles; few, and in the member's own row, because every request that they
/// make depends on it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Grants(pub Vec<MemberGrant>);

/// A permission that a member was granted directly.
#[derive(Clone, PartialEq, Eq, Debug, SimpleObject, Serialize, Deserialize)]
#[graphql(complex)]
pub struct MemberGrant {
    /// What they may do: `module:action`, with `:own` for what is their own, and `*` for all.
    pub permission: String,
    /// When it was granted.
    #[graphql(name = "grantedAt")]
    pub at: Timestamp,
    #[graphql(skip)]
    by_kind: i16,
    #[graphql(skip)]
    by_id: Uuid,
}

#[ComplexObject]
impl MemberGrant {
    /// Who granted it; null when they are not there any more.
    async fn granted_by(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let author = async {
            match self.by() {
                Some(author) => Ok(Actor::of(reader(cx)?, author).await?),
                None => Ok(None),
            }
        };
        author.await.transpose()
    }
}

impl MemberGrant {
    /// Who granted it.
    pub fn by(&self) -> Option<Author> {
        Author::from_columns(self.by_kind, self.by_id)
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Members for Model, version 3, on MemberEvent
}

impl On<MemberEvent> for Members {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &MemberEvent) {
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |member| {
                change(member);
                member.version = at.version;
            });
        };
        match event {
            MemberEvent::RolesChanged { roles } => change(&|member| member.roles = names(roles)),
            MemberEvent::PermissionGranted { permission } => change(&|member| {
                let (by_kind, by_id) = at.actor.to_columns();
                let grant = MemberGrant { permission: permission.to_string(), at: at.at, by_kind, by_id };
                member.grants.0.retain(|granted| granted.permission != grant.permission);
                member.grants.0.push(grant);
            }),
            MemberEvent::PermissionRevoked { permission } => change(&|member| {
                member.grants.0.retain(|granted| granted.permission != permission.as_str());
            }),
            MemberEvent::Suspended => change(&|member| member.status = MemberStatus::Suspended),
            MemberEvent::SecondFactorReset { reason: _ } => change(&|_| {}),
            MemberEvent::Reactivated => change(&|member| member.status = MemberStatus::Active),
            MemberEvent::Removed { active: _ } => rows.delete(at.subject),
            MemberEvent::Invited { organization, user, email, email_hash: _, roles, invited_by: _ } => {
                rows.insert(Model {
                    id: MemberId::from_uuid(at.subject),
                    organization_id: *organization,
                    user_id: *user,
                    roles: names(roles),
                    grants: Grants::default(),
                    status: MemberStatus::Invited,
                    joined_at: None,
                    invited_email: told(email),
                    invited_at: Some(at.at),
                    version: at.version,
                });
            }
            MemberEvent::Joined { organization, user, roles } => rows.insert(Model {
                id: MemberId::from_uuid(at.subject),
                organization_id: *organization,
                user_id: *user,
                roles: names(roles),
                grants: Grants::default(),
                status: MemberStatus::Active,
                joined_at: Some(at.at),
                invited_email: None,
                invited_at: None,
                version: at.version,
            }),
        }
    }
}

fn names(roles: &[Role]) -> Tags {
    Tags(roles.iter().map(ToString::to_string).collect())
}
