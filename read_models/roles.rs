//! Roles as they are shown: those that are built in, and those that the organisation made, in one form.
//!
//! Invariants: a role that is built in has no row; its id is its organisation's own, the same for ever. What a role
//! that was deleted allowed, nobody has any more.

use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::{ComplexObject, SimpleObject};
use aws_lc_rs::digest::{SHA256, digest};
use oriel_domain::roles::{AssignedRole, Role, RoleEvent, RoleId, RoleName};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader, Tags, among};
use oriel_kernel::{OrganizationId, Pattern, Permission, Recorded, Timestamp};
use sea_orm::ConnectionTrait;
use sea_orm::entity::prelude::*;

use crate::api_keys::OperationsMode;

/// Seeing roles.
pub const VIEW: Permission = Permission::new("roles", "view");

/// What members may do, by name.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "roles")]
#[graphql(name = "Role", complex)]
#[read_model(kind = "role", tenant = "organization_id", collections(org = "organization_id"))]
pub struct Model {
    /// The role's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: RoleId,
    /// Where it is one.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// The name, as inputs take it.
    pub name: String,
    /// What the role is for.
    pub description: String,
    /// What it allows: `module:action`, with `:own` for what is one's own, and `*` for all.
    #[sea_orm(column_type = "JsonBinary")]
    pub permissions: Tags,
    /// Which documents those who have it may have executed, where that is stricter than what holds for all; null when
    /// the role says nothing about it.
    pub operations: Option<OperationsMode>,
    /// When it was made; of one that is built in, the beginning of time.
    #[graphql(skip)]
    pub created_at: Timestamp,
    /// The optimistic version: give it back as `expectedVersion`. That of a role that is built in is 0, and it cannot
    /// be changed.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// A role that every organisation has, as this one's.
    pub fn built_in(organization: OrganizationId, role: RoleName) -> Self {
        Self {
            id: built_in_id(organization, role),
            organization_id: organization,
            name: role.as_str().to_owned(),
            description: role.description().to_owned(),
            permissions: Tags(role.patterns().iter().map(|pattern| (*pattern).to_owned()).collect()),
            operations: None,
            created_at: Timestamp::UNIX_EPOCH,
            version: 0,
        }
    }

    /// Whether every organisation has it.
    pub fn is_built_in(&self) -> bool {
        self.version == 0
    }
}

#[ComplexObject]
impl Model {
    /// Whether it is built in: every organization has it, and nobody changes it.
    #[graphql(name = "builtIn")]
    async fn shown_built_in(&self) -> bool {
        self.is_built_in()
    }
}

fn built_in_id(organization: OrganizationId, role: RoleName) -> RoleId {
    let whole = digest(&SHA256, format!("role:{organization}:{role}").as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    RoleId::from_uuid(uuid::Builder::from_custom_bytes(beginning).into_uuid())
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Roles for Model, version 1, on RoleEvent
}

impl On<RoleEvent> for Roles {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &RoleEvent) {
        match event {
            RoleEvent::Created { organization, name, description, permissions, operations } => rows.insert(Model {
                id: RoleId::from_uuid(at.subject),
                organization_id: *organization,
                name: name.to_string(),
                description: description.to_string(),
                permissions: Tags(permissions.iter().map(ToString::to_string).collect()),
                operations: operations.map(Into::into),
                created_at: at.at,
                version: at.version,
            }),
            RoleEvent::Changed { name, description, permissions, operations } => rows.update(at.subject, |role| {
                role.name = name.to_string();
                role.description = description.to_string();
                role.permissions = Tags(permissions.iter().map(ToString::to_string).collect());
                role.operations = operations.map(Into::into);
                role.version = at.version;
            }),
            RoleEvent::Deleted => rows.delete(at.subject),
        }
    }
}

// --- looking roles up ------------------------------------------------------------------------------------------------

/// The role with this id, built in or made here.
///
/// # Errors
/// The database cannot be read.
pub async fn find(reader: &Reader, id: RoleId) -> Result<Option<Arc<Model>>, ReadError> {
    let organization = reader.organization();
    let built_in = RoleName::ALL.iter().find(|role| built_in_id(organization, **role) == id);
    match built_in {
        Some(role) => Ok(Some(Arc::new(Model::built_in(organization, *role)))),
        None => reader.get(id).await,
    }
}

/// Every role of the viewer's organisation: those that are built in, then those that it made.
///
/// # Errors
/// The database cannot be read.
pub async fn all(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    let organization = reader.organization();
    let made = reader.many(Model::in_org(organization)).await?;
    let built_in = RoleName::ALL.iter().map(|role| Arc::new(Model::built_in(organization, *role)));
    Ok(built_in.chain(made.iter().cloned()).collect())
}

/// The roles that these texts in a member's row name; what was deleted is left out.
pub(crate) async fn held(reader: &Reader, texts: &Tags) -> Result<Vec<Arc<Model>>, ReadError> {
    let mut held = Vec::with_capacity(texts.0.len());
    for role in parsed(texts) {
        held.extend(match role {
            Role::BuiltIn(role) => Some(Arc::new(Model::built_in(reader.organization(), role))),
            Role::Custom(id) => reader.get(id).await?,
        });
    }
    Ok(held)
}

/// The roles that these texts in a member's row name; a name that no role has (any more) allows nothing and is left out.
pub(crate) fn parsed(texts: &Tags) -> Vec<Role> {
    texts.0.iter().filter_map(|text| Role::parse(text)).collect()
}

/// These roles of an organisation as they are given to somebody; what was deleted is left out. Read without a reader: what
/// signing in by an identity provider asks.
///
/// # Errors
/// The database cannot be read.
pub async fn assigned(
    connection: &impl ConnectionTrait,
    organization: OrganizationId,
    roles: &[Role],
) -> Result<Vec<AssignedRole>, DbErr> {
    let made = made(connection, organization, roles).await?;
    let of = |role: &Role| match role {
        Role::BuiltIn(name) => Some(AssignedRole::BuiltIn(*name)),
        Role::Custom(id) => {
            let patterns = made.get(id)?.permissions.0.iter().filter_map(|pattern| Pattern::parse(pattern).ok());
            Some(AssignedRole::Custom(*id, patterns.collect()))
        }
    };
    Ok(roles.iter().filter_map(of).collect())
}

/// The made ones among these roles of an organisation, read without a reader: what a viewer is resolved from.
pub(crate) async fn made(
    connection: &impl ConnectionTrait,
    organization: OrganizationId,
    roles: &[Role],
) -> Result<HashMap<RoleId, Model>, DbErr> {
    let ids: Vec<_> = roles.iter().filter_map(|role| role.custom()).map(|id| id.uuid()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let made = Entity::find().filter(Column::OrganizationId.eq(organization.uuid()));
    let made = made.filter(among(Column::Id, ids, connection.get_database_backend())).all(connection).await?;
    Ok(made.into_iter().map(|role| (role.id, role)).collect())
}
