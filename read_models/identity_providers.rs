//! Identity providers as they are read: the servers of an organisation that say who somebody is.
//!
//! Invariants: only who may see them sees any; what is shown to a provider is in no answer. A deleted one has no row.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_domain::identity_providers::{IdentityProviderEvent, IdentityProviderId, Settings};
use oriel_domain::roles::Role;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadModel, Tags};
use oriel_kernel::{OrganizationId, Permission, Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, Query};
use sea_orm::{Condition, ConnectionTrait, DbBackend, FromJsonQueryResult, QueryOrder};
use serde::{Deserialize, Serialize};

use crate::{organizations, reader, roles, same};

/// Seeing identity providers.
pub const VIEW: Permission = Permission::new("providers", "view");

/// A server of your organization with which its people sign in (OpenID Connect).
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "identity_providers")]
#[graphql(name = "IdentityProvider", complex)]
#[read_model(kind = "identity_provider", scope = seen, shared, collections(org = "organization_id"))]
pub struct Model {
    /// The provider's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: IdentityProviderId,
    /// Whose it is.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What people call it.
    pub name: String,
    /// Who issues its tokens: the address under which it says what it is like.
    pub issuer: String,
    /// What it calls this installation.
    pub client_id: String,
    /// Whether a secret is shown to it. Which one, is shown to nobody.
    pub has_client_secret: bool,
    /// What it is asked for.
    #[sea_orm(column_type = "JsonBinary")]
    pub scopes: Tags,
    /// Where it may send people back to.
    #[sea_orm(column_type = "JsonBinary")]
    pub redirect_uris: Tags,
    /// Whether it signs anybody in.
    pub enabled: bool,
    /// The claim that says what somebody is there; null when roles are nothing of the provider's.
    pub roles_claim: Option<String>,
    /// What the values of that claim mean here.
    #[sea_orm(column_type = "JsonBinary")]
    #[graphql(skip)]
    pub role_mappings: Mappings,
    /// What somebody is here of whom none of them says anything.
    #[sea_orm(column_type = "JsonBinary")]
    #[graphql(skip)]
    pub default_roles: Tags,
    /// Whether people who are not here become members when they come.
    pub provisions: bool,
    /// Whose e-mail addresses are let in, if they are verified; all, when there is none.
    #[sea_orm(column_type = "JsonBinary")]
    pub email_domains: Tags,
    /// Whether an address in one of these domains that the provider has verified says by itself who a member is.
    pub trusts_email: bool,
    /// When it was set up.
    pub created_at: Timestamp,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// What values mean.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Mappings(pub Vec<RoleMapping>);

/// What a value of the claim means here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, SimpleObject)]
#[graphql(complex)]
pub struct RoleMapping {
    /// As the provider says it.
    pub value: String,
    /// The name of a role that is built in, or an id.
    #[graphql(skip)]
    pub role: String,
}

#[ComplexObject]
impl RoleMapping {
    /// What somebody is here of whom it is said; null when the role was deleted.
    #[graphql(name = "role")]
    async fn shown_role(&self, cx: &Context<'_>) -> Option<Result<Arc<roles::Model>>> {
        let role = async { Ok(roles::held(reader(cx)?, &Tags(vec![self.role.clone()])).await?.pop()) };
        role.await.transpose()
    }
}

#[ComplexObject]
impl Model {
    /// What the values of the claim mean here.
    #[graphql(name = "roleMappings")]
    async fn shown_role_mappings(&self) -> &[RoleMapping] {
        &self.role_mappings.0
    }

    /// What somebody is here of whom none of the values says anything.
    #[graphql(name = "defaultRoles")]
    async fn shown_default_roles(&self, cx: &Context<'_>) -> Result<Vec<Arc<roles::Model>>> {
        Ok(roles::held(reader(cx)?, &self.default_roles).await?)
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Condition::all().add(Column::OrganizationId.eq(viewer.organization.uuid()));
    if viewer.grant(VIEW).is_some() { here } else { here.add(Expr::Constant(false.into())) }
}

/// The providers that sign people in to the open organisation with this slug: what everybody is offered.
///
/// # Errors
/// The database cannot be read.
pub async fn offered(connection: &impl ConnectionTrait, slug: &str) -> Result<Vec<Model>, DbErr> {
    let of_slug = Query::select()
        .expr(Expr::val(1))
        .from(organizations::Entity)
        .and_where(same((organizations::Entity, organizations::Column::Id), (Entity, Column::OrganizationId)))
        .and_where(organizations::Column::Slug.eq(slug))
        .take();
    let open = organizations::standings::open((Entity, Column::OrganizationId));
    let enabled = Entity::find().filter(Expr::exists(of_slug)).filter(open).filter(Column::Enabled.eq(true));
    enabled.order_by_asc(Column::Id).all(connection).await
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub IdentityProviders for Model, version 1, on IdentityProviderEvent
}

impl Model {
    fn becomes(&mut self, settings: &Settings) {
        let Settings {
            name,
            client_id,
            scopes,
            redirect_uris,
            enabled,
            roles_claim,
            role_mappings,
            default_roles,
            provisions,
            email_domains,
            trusts_email,
            ceiling: _,
        } = settings;
        let mapping = |mapping: &oriel_domain::identity_providers::RoleMapping| RoleMapping {
            value: mapping.value.to_string(),
            role: mapping.role.to_string(),
        };
        self.name = name.to_string();
        self.client_id = client_id.to_string();
        self.scopes = Tags(scopes.iter().map(|scope| scope.as_str().to_owned()).collect());
        self.redirect_uris = Tags(redirect_uris.iter().map(|uri| uri.as_str().to_owned()).collect());
        self.enabled = *enabled;
        self.roles_claim = roles_claim.as_ref().map(ToString::to_string);
        self.role_mappings = Mappings(role_mappings.iter().map(mapping).collect());
        self.default_roles = Tags(default_roles.iter().map(Role::to_string).collect());
        self.provisions = *provisions;
        self.email_domains = Tags(email_domains.iter().map(|domain| domain.as_str().to_owned()).collect());
        self.trusts_email = *trusts_email;
    }
}

impl On<IdentityProviderEvent> for IdentityProviders {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &IdentityProviderEvent) {
        match event {
            IdentityProviderEvent::Created { organization, issuer, client_secret, settings } => {
                let mut provider = Model {
                    id: IdentityProviderId::from_uuid(at.subject),
                    organization_id: *organization,
                    name: String::new(),
                    issuer: issuer.as_str().to_owned(),
                    client_id: String::new(),
                    has_client_secret: client_secret.is_some(),
                    scopes: Tags::default(),
                    redirect_uris: Tags::default(),
                    enabled: false,
                    roles_claim: None,
                    role_mappings: Mappings::default(),
                    default_roles: Tags::default(),
                    provisions: false,
                    email_domains: Tags::default(),
                    trusts_email: false,
                    created_at: at.at,
                    version: at.version,
                };
                provider.becomes(settings);
                rows.insert(provider);
            }
            IdentityProviderEvent::Changed { settings } => rows.update(at.subject, |provider| {
                provider.becomes(settings);
                provider.version = at.version;
            }),
            IdentityProviderEvent::SecretChanged { client_secret } => rows.update(at.subject, |provider| {
                provider.has_client_secret = client_secret.is_some();
                provider.version = at.version;
            }),
            IdentityProviderEvent::Deleted => rows.delete(at.subject),
        }
    }
}
