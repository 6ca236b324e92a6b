//! Roles and permissions: the roles of an organisation, what is granted besides, and why somebody may do something.
//!
//! Invariants: `can` and `explainAccess` ask what every operation is checked by (`Permissions::grant`), of the list from
//! which viewers are resolved. Who gives away what is decided in the domain.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_graphql::{Context, Enum, ID, InputObject, MaybeUndefined, SimpleObject};
use oriel_domain::api_keys::ApiKeyId;
use oriel_domain::members::{GrantPermission, RevokePermission};
use oriel_domain::roles::{
    AssignedRole, ChangeRole, CreateRole, CustomRole, DeleteRole, Role as RoleOf, RoleDescription, RoleId, RoleName,
    RoleTitle,
};
use oriel_engine::read::Reader;
use oriel_kernel::permission::reach;
use oriel_kernel::{
    Aggregate, Credential, ErrorCode, Grant, MemberId, Pattern, Permission, Permissions, Rejection, Timestamp,
    operations,
};
use oriel_read_models::api_keys::{Model as ApiKey, OperationsMode};
use oriel_read_models::authorization::{self, Held, Source};
use oriel_read_models::events::Actor;
use oriel_read_models::members::{MemberStatus, Model as Member};
use oriel_read_models::node::Node;
use oriel_read_models::persisted_operations::operator;
use oriel_read_models::roles::{self, Model as Role};

use crate::access::{Access, Problems, Refusal, Result, after_write, error, internal, reader, unavailable};
use crate::members::{MemberPayload, execute};
use crate::payload::payloads;
use crate::services::Services;

/// The most roles that an organisation makes.
const MAX_ROLES: usize = 100;

/// What can be asked about roles and permissions.
#[derive(Default)]
pub struct RoleQuery;

/// What can be done with roles and permissions.
#[derive(Default)]
pub struct RoleMutation;

payloads! {
    /// What became of a change of a role.
    RolePayload {
        /// The role as it is now; null after `roleDelete`.
        role: Arc<Role>,
    }
}

// --- what somebody may ---------------------------------------------------------------------------------------------

/// How far a permission reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
pub enum AccessReach {
    /// Everything in the organization.
    All,
    /// What is one's own: what one made, and for viewing the projects that one is a member of.
    Own,
}

impl From<Grant> for AccessReach {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::All => Self::All,
            Grant::Own => Self::Own,
        }
    }
}

/// By what somebody has a permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
pub enum AccessSource {
    /// One of their roles.
    Role,
    /// It was granted to them directly.
    Direct,
    /// They own the organization that operates the installation.
    Operator,
}

/// Something that lets somebody do what was asked about.
#[derive(SimpleObject)]
pub struct AccessGrant {
    /// What was given: `module:action`, with `:own` for what is one's own, and `*` for all.
    permission: String,
    /// By what they have it.
    source: AccessSource,
    /// How far it reaches.
    reach: AccessReach,
    /// The role, when they have it by one.
    role: Option<Arc<Role>>,
    /// When it was granted, when it was granted directly.
    granted_at: Option<Timestamp>,
    /// Who granted it, when it was granted directly; null too when they are not there any more.
    granted_by: Option<Actor>,
}

/// Whether somebody may do something, and why.
#[derive(SimpleObject)]
pub struct AccessExplanation {
    /// Whether they may.
    allowed: bool,
    /// How far; null when they may not.
    reach: Option<AccessReach>,
    /// Everything that lets them, the farthest first; of a key, what lets its owner.
    grants: Vec<AccessGrant>,
    /// Of a key: the scopes that let it; empty when none does, or for a person.
    scopes: Vec<String>,
    /// The names of the roles that would let a member do it.
    roles_that_allow: Vec<String>,
    /// The reason in words, for people.
    reason: String,
}

#[operations(query)]
impl RoleQuery {
    /// The role with this id, built in or made by your organization; null when there is none.
    #[permission("roles:view")]
    async fn role(&self, cx: &Context<'_>, id: RoleId) -> Result<Option<Arc<Role>>> {
        Ok(roles::find(&reader(cx)?, id).await?)
    }

    /// Every role of your organization: first those that are built in, then those that it made, the oldest first.
    #[permission("roles:view")]
    async fn roles(&self, cx: &Context<'_>) -> Result<Vec<Arc<Role>>> {
        Ok(roles::all(&reader(cx)?).await?)
    }

    /// Whether you (or the key with which you ask) may do this, at all or with one thing. What the thing's own state
    /// refuses, such as a change of an archived project, is another question. A thing that you may not see is one that
    /// you may do nothing with.
    #[authenticated]
    async fn can(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "One of `permissionCatalog`, such as `documents:edit`.")] permission: String,
        #[graphql(desc = "With what: the id of a project, a document, a member, a key.")] subject: Option<ID>,
    ) -> Result<bool> {
        let wanted = wanted(&permission)?;
        let reader = reader(cx)?;
        let Some(grant) = reader.grant(wanted) else { return Ok(false) };
        let Some(subject) = subject else { return Ok(true) };
        let Some(node) = Node::find(&reader, &subject).await? else { return Ok(false) };
        // Who sees a thing may see it: what is not theirs was not found. For all else it has to be theirs.
        Ok(grant == Grant::All || wanted.action == "view" || owner(&node) == Some(reader.viewer().member))
    }

    /// Whether a member, or a key, may do something, and by what: which role or direct grant allows it, or that none
    /// does. About yourself, or the key with which you ask, when nobody is named; about others it requires the permission
    /// `roles:view`.
    #[authenticated]
    async fn explain_access(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "One of `permissionCatalog`, such as `documents:edit`.")] permission: String,
        #[graphql(desc = "About which member.")] member_id: Option<MemberId>,
        #[graphql(desc = "About which API key. Not together with `memberId`.")] api_key_id: Option<ApiKeyId>,
    ) -> Result<Option<AccessExplanation>> {
        let wanted = wanted(&permission)?;
        let reader = reader(cx)?;
        let viewer = reader.viewer();
        let (member_id, api_key_id) = match (member_id, api_key_id, viewer.credential) {
            (Some(_), Some(_), _) => return Err(error("BAD_REQUEST", "Name a member or a key, not both.").into()),
            (None, None, Credential::ApiKey { key, .. }) => (None, Some(ApiKeyId::from_uuid(key))),
            (None, None, Credential::Session(_)) => (Some(viewer.member), None),
            (member, key, _) => {
                if reader.grant(roles::VIEW) != Some(Grant::All) {
                    return Err(Refusal::Forbidden(roles::VIEW).into());
                }
                (member, key)
            }
        };
        let key = match api_key_id {
            Some(id) => match reader.get::<ApiKey>(id).await? {
                Some(key) => Some(key),
                None => return Ok(None),
            },
            None => None,
        };
        let member_id = key.as_ref().map(|key| key.owner_id).or(member_id).unwrap_or_default();
        let Some(member) = reader.get::<Member>(member_id).await? else { return Ok(None) };
        Ok(Some(explained(cx, &reader, wanted, &member, key.as_deref()).await?))
    }
}

/// The permission of this name, if any operation wants it.
fn wanted(text: &str) -> Result<Permission> {
    let found = crate::operations().into_iter().find_map(|operation| match operation.access {
        Access::Permission(permission) if permission.to_string() == text => Some(permission),
        _ => None,
    });
    let none = || error("BAD_REQUEST", "There is no such permission; `permissionCatalog` lists those that there are.");
    found.ok_or_else(|| none().into())
}

/// Whose a thing is, for who may change or delete only what is their own.
fn owner(node: &Node) -> Option<MemberId> {
    match node {
        Node::Project(project) => Some(project.owner_id),
        Node::Document(document) => Some(document.uploaded_by_id),
        Node::Member(member) => Some(member.id),
        Node::ApiKey(key) => Some(key.owner_id),
        Node::User(_)
        | Node::Organization(_)
        | Node::Session(_)
        | Node::ProjectMember(_)
        | Node::PersistedOperation(_)
        | Node::Role(_)
        | Node::DataExport(_)
        | Node::Policy(_)
        | Node::IdentityProvider(_)
        | Node::Identity(_)
        | Node::SecurityEvent(_)
        | Node::Event(_) => None,
    }
}

async fn explained(
    cx: &Context<'_>,
    reader: &Reader,
    wanted: Permission,
    member: &Member,
    key: Option<&ApiKey>,
) -> Result<AccessExplanation> {
    let engine = &Services::of(cx)?.engine;
    // Which organisation is the first never changes.
    let first = operator(engine.database().reader()).await.map_err(unavailable)?;
    let held = authorization::of_member(reader, member, first == Some(member.organization_id)).await?;
    let theirs = authorization::permissions(&held);
    let scopes = key.map(|key| Permissions::new(key.scopes.0.iter().cloned()));
    let granted = match &scopes {
        Some(scopes) => scopes.intersection(&theirs).grant(wanted),
        None => theirs.grant(wanted),
    };
    let active = member.status == MemberStatus::Active;
    let mut not_good = key.and_then(|key| key.revoked.then_some("The key was revoked."));
    if let Some(end) = key.and_then(|key| key.expires_at) {
        reader.recorder().until(end);
        not_good = not_good.or((end <= engine.now()).then_some("The key has ended."));
    }
    let allowed = granted.is_some() && active && not_good.is_none();
    let reason = match (theirs.grant(wanted), granted) {
        _ if !active => "The member is not active: they may do nothing.".to_owned(),
        _ if not_good.is_some() => not_good.unwrap_or_default().to_owned(),
        (None, _) => format!("None of the member's roles and grants allows `{wanted}`."),
        (Some(_), None) => format!("The member may do this, but none of the key's scopes allows `{wanted}`."),
        (_, Some(Grant::All)) => format!("`{wanted}` is allowed for everything in the organization."),
        (_, Some(Grant::Own)) => format!("`{wanted}` is allowed for what is the member's own."),
    };
    let mut fitting: Vec<(Grant, Held)> =
        held.into_iter().filter_map(|h| Some((reach(&h.pattern, wanted)?, h))).collect();
    fitting.sort_by_key(|(grant, _)| std::cmp::Reverse(*grant));
    let mut grants = Vec::with_capacity(fitting.len());
    for (grant, held) in fitting {
        grants.push(shown(reader, grant, held).await?);
    }
    let allows = |role: &&Arc<Role>| role.permissions.0.iter().any(|pattern| reach(pattern, wanted).is_some());
    Ok(AccessExplanation {
        allowed,
        reach: granted.filter(|_| allowed).map(Into::into),
        grants,
        scopes: key.map(|key| fits(&key.scopes.0, wanted)).unwrap_or_default(),
        roles_that_allow: roles::all(reader).await?.iter().filter(allows).map(|role| role.name.clone()).collect(),
        reason,
    })
}

fn fits(patterns: &[String], wanted: Permission) -> Vec<String> {
    patterns.iter().filter(|pattern| reach(pattern, wanted).is_some()).cloned().collect()
}

async fn shown(reader: &Reader, grant: Grant, held: Held) -> Result<AccessGrant> {
    let (mut role, mut granted_at, mut granted_by) = (None, None, None);
    let source = match held.source {
        Source::Role(RoleOf::BuiltIn(name)) => {
            role = Some(Arc::new(Role::built_in(reader.organization(), name)));
            AccessSource::Role
        }
        Source::Role(RoleOf::Custom(id)) => {
            role = reader.get::<Role>(id).await?;
            AccessSource::Role
        }
        Source::Direct { at, by } => {
            granted_at = Some(at);
            if let Some(by) = by {
                granted_by = Actor::of(reader, by).await?;
            }
            AccessSource::Direct
        }
        Source::Operator => AccessSource::Operator,
    };
    Ok(AccessGrant { permission: held.pattern, source, reach: grant.into(), role, granted_at, granted_by })
}

// --- changing it -----------------------------------------------------------------------------------------------------

#[operations(mutation)]
impl RoleMutation {
    /// Makes a role. You give it nothing that you do not have yourself, and nothing that is the owner's alone
    /// (`organization:manage`, `organization:delete`).
    #[permission("roles:create")]
    async fn role_create(&self, cx: &Context<'_>, input: RoleCreateInput) -> Result<RolePayload> {
        let context = granted.command(cx, &input)?;
        let engine = &Services::of(cx)?.engine;
        let mut problems = Problems::default();
        let name = problems.take("name", RoleTitle::parse_new(&input.name));
        let description = RoleDescription::parse(input.description.as_deref().unwrap_or_default());
        let description = problems.take("description", description);
        let permissions = problems.take("permissions", patterns(&input.permissions));
        let (Some(name), Some(description), Some(permissions)) = (name, description, permissions) else {
            return Err(problems.failure());
        };
        let reader = reader(cx)?;
        if reader.count(Role::in_org(reader.organization())).await? >= MAX_ROLES as u64 {
            let message = format!("Your organization made {MAX_ROLES} roles, and that is the most. Delete one first.");
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).into());
        }
        let operations = input.operations.map(Into::into);
        let create = CreateRole { name, description, permissions, operations };
        let done = engine.execute(&context, engine.new_id(), create).await?;
        let role = after_write::<Role>(cx, done.subject).await?;
        Ok(RolePayload { role, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Changes a role that your organization made, for everyone who has it and at once. What you add has to be yours;
    /// anything can be taken away.
    #[permission("roles:edit")]
    async fn role_update(&self, cx: &Context<'_>, input: RoleUpdateInput) -> Result<RolePayload> {
        let context = granted.command(cx, &input)?;
        must_be_made(cx, input.id).await?;
        let mut problems = Problems::default();
        let name = problems.take("name", input.name.as_deref().map(RoleTitle::parse_new).transpose());
        let description = input.description.as_deref().map(RoleDescription::parse).transpose();
        let description = problems.take("description", description);
        let permissions = problems.take("permissions", input.permissions.as_deref().map(patterns).transpose());
        let (Some(name), Some(description), Some(permissions)) = (name, description, permissions) else {
            return Err(problems.failure());
        };
        let operations = match input.operations {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(mode) => Some(Some(mode.into())),
        };
        let change = ChangeRole { name, description, permissions, operations };
        let done = Services::of(cx)?.engine.execute(&context, input.id, change).await?;
        let role = after_write::<Role>(cx, done.subject).await?;
        Ok(RolePayload { role, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Deletes a role that your organization made. Who has it loses what it allows, at once.
    #[permission("roles:delete")]
    async fn role_delete(&self, cx: &Context<'_>, input: RoleDeleteInput) -> Result<RolePayload> {
        let context = granted.command(cx, &input)?;
        must_be_made(cx, input.id).await?;
        let done = Services::of(cx)?.engine.execute(&context, input.id, DeleteRole).await?;
        Ok(RolePayload { role: None, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Lets a member do something besides what their roles allow. You grant nothing that you do not have yourself.
    #[permission("members:edit")]
    async fn member_permission_grant(
        &self,
        cx: &Context<'_>,
        input: MemberPermissionGrantInput,
    ) -> Result<MemberPayload> {
        let permission = pattern(&input.permission).map_err(|r| r.at("permission"))?;
        execute(cx, &granted.command(cx, &input)?, input.id, GrantPermission { permission }).await
    }

    /// Takes a permission back that a member was granted directly. What their roles allow, they may still.
    #[permission("members:edit")]
    async fn member_permission_revoke(
        &self,
        cx: &Context<'_>,
        input: MemberPermissionRevokeInput,
    ) -> Result<MemberPayload> {
        let permission = Pattern::parse(&input.permission).map_err(|r| r.at("permission"))?;
        execute(cx, &granted.command(cx, &input)?, input.id, RevokePermission { permission }).await
    }
}

/// Refuses to change a role that is built in.
async fn must_be_made(cx: &Context<'_>, id: RoleId) -> Result<()> {
    match roles::find(&reader(cx)?, id).await? {
        Some(role) if role.is_built_in() => {
            Err(Rejection::conflict("This role is built in. Make one of your own.").into())
        }
        Some(_) => Ok(()),
        None => Err(Rejection::not_found(CustomRole::NOUN).into()),
    }
}

/// The pattern, if it names something that there is.
fn pattern(text: &str) -> Result<Pattern, Rejection> {
    let pattern = Pattern::parse(text)?;
    let built_in = RoleName::ALL.iter().flat_map(|role| role.patterns()).filter_map(|p| p.split(':').next());
    let wanted = crate::operations().into_iter().filter_map(|operation| match operation.access {
        Access::Permission(permission) => Some(permission.module),
        Access::Public | Access::SignedIn | Access::Authenticated => None,
    });
    let known: BTreeSet<&str> = built_in.chain(wanted).collect();
    if known.contains(pattern.module()) {
        return Ok(pattern);
    }
    let message = format!("There is nothing called `{}`; `permissionCatalog` lists what there is.", pattern.module());
    Err(Rejection::new(ErrorCode::Invalid, message))
}

/// The patterns of these texts.
pub(crate) fn patterns<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Pattern>, Rejection> {
    texts.iter().map(|text| pattern(text.as_ref())).collect()
}

/// The roles of these names (or ids), with what they allow.
pub(crate) async fn assigned(cx: &Context<'_>, names: &[String]) -> Result<Vec<AssignedRole>> {
    let mut made = None;
    let mut assigned = Vec::with_capacity(names.len());
    for name in names {
        if let Ok(role) = RoleName::parse(name) {
            assigned.push(role.into());
            continue;
        }
        let all = match &made {
            Some(all) => all,
            None => made.insert(roles::all(&reader(cx)?).await?),
        };
        let is_meant =
            |role: &&Arc<Role>| role.name.to_lowercase() == name.trim().to_lowercase() || role.id.to_string() == *name;
        let role = all.iter().find(is_meant).ok_or_else(|| {
            let names = all.iter().map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ");
            Rejection::new(ErrorCode::Invalid, format!("There is no role {name}. There are {names}.")).at("roles")
        })?;
        assigned.push(match RoleName::parse(&role.name) {
            Ok(built_in) => built_in.into(),
            Err(_) => {
                let patterns: Result<_, Rejection> = role.permissions.0.iter().map(|p| Pattern::parse(p)).collect();
                AssignedRole::Custom(role.id, patterns.map_err(|r| internal(r.message))?)
            }
        });
    }
    Ok(assigned)
}

/// A role that is to be made.
#[derive(InputObject)]
struct RoleCreateInput {
    /// What it is called: 1 to 60 characters, unique in the organization whatever their case.
    name: String,
    /// What it is for: at most 400 characters.
    description: Option<String>,
    /// What it allows: at most 100 of those that `permissionCatalog` lists, with `:own` at the end for what is one's own
    /// alone, and with `*` for every action of a module.
    permissions: Vec<String>,
    /// Which documents those who have it may have executed: it can be stricter than what holds for everyone here, and
    /// not milder. Of several roles that say something about it the mildest counts.
    operations: Option<OperationsMode>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of a role. What is left out stays.
#[derive(InputObject)]
struct RoleUpdateInput {
    /// Which role.
    id: RoleId,
    /// What it is called: 1 to 60 characters, unique in the organization whatever their case.
    name: Option<String>,
    /// What it is for: at most 400 characters.
    description: Option<String>,
    /// All that it allows from now on.
    permissions: Option<Vec<String>>,
    /// Which documents those who have it may have executed; null: the role says nothing about it.
    operations: MaybeUndefined<OperationsMode>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The role that is to be deleted.
#[derive(InputObject)]
struct RoleDeleteInput {
    /// Which role.
    id: RoleId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A permission that a member is to have.
#[derive(InputObject)]
struct MemberPermissionGrantInput {
    /// Which member.
    id: MemberId,
    /// Which permission: one of those that `permissionCatalog` lists, with `:own` at the end for what is their own alone,
    /// or `module:*`.
    permission: String,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A permission that a member is not to have any more.
#[derive(InputObject)]
struct MemberPermissionRevokeInput {
    /// Which member.
    id: MemberId,
    /// Which permission, as it was granted.
    permission: String,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
