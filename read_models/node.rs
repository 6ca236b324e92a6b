//! Everything that has a global id: one line for each kind.
//!
//! Invariants: not there, not yours, not allowed and not an id are one answer. A kind that is missing here has no
//! global look-up.

use std::any::Any;
use std::sync::Arc;

use async_graphql::{ID, Interface};
use oriel_engine::read::{ReadError, Reader};
use oriel_kernel::{Id, IdKind, Permission, RawId, kinds};

use crate::{
    api_keys, data_exports, documents, events, identities, identity_providers, members, organizations,
    persisted_operations, policies, projects, roles, security_events, sessions, users,
};

/// Something with a global id.
#[derive(Clone, Debug, Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "The id, which names this thing alone in the whole installation."))]
pub enum Node {
    /// A person.
    User(Arc<users::Model>),
    /// An organisation.
    Organization(Arc<organizations::Model>),
    /// A person in an organisation.
    Member(Arc<members::Model>),
    /// A signed-in device.
    Session(Arc<sessions::Model>),
    /// A project.
    Project(Arc<projects::Model>),
    /// That somebody is in a project.
    ProjectMember(Arc<projects::members::Model>),
    /// A document.
    Document(Arc<documents::Model>),
    /// An operation that clients may send by its hash.
    PersistedOperation(Arc<persisted_operations::Model>),
    /// A key of a program.
    ApiKey(Arc<api_keys::Model>),
    /// What members may do, by name.
    Role(Arc<roles::Model>),
    /// A server with which people sign in.
    IdentityProvider(Arc<identity_providers::Model>),
    /// That you are known to one.
    Identity(Arc<identities::Model>),
    /// A text that people agree to.
    Policy(Arc<policies::Model>),
    /// Everything that is held about a person, as a file.
    DataExport(Arc<data_exports::Model>),
    /// Something that looks like an attack.
    SecurityEvent(Arc<security_events::Model>),
    /// Something that happened.
    Event(Arc<events::Model>),
}

impl Node {
    /// What has this id, if the viewer may see it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn load(reader: &Reader, id: RawId<'_>) -> Result<Option<Self>, ReadError> {
        use crate::projects::members::kinds::ProjectMemberId;
        use oriel_domain::api_keys::kinds::ApiKeyId;
        use oriel_domain::data_exports::kinds::DataExportId;
        use oriel_domain::documents::kinds::DocumentId;
        use oriel_domain::identities::kinds::IdentityId;
        use oriel_domain::identity_providers::kinds::IdentityProviderId;
        use oriel_domain::persisted_operations::kinds::PersistedOperationId;
        use oriel_domain::policies::kinds::PolicyId;
        use oriel_domain::projects::kinds::ProjectId;
        use oriel_domain::roles::kinds::RoleId;
        use oriel_domain::security_events::kinds::SecurityEventId;
        let may = |wanted: Permission| reader.grant(wanted).is_some();
        Ok(match id.prefix {
            kinds::UserId::PREFIX if may(members::VIEW) => {
                users::find(reader, Id::from_uuid(id.uuid)).await?.map(Self::User)
            }
            kinds::OrganizationId::PREFIX => {
                organizations::find(reader, Id::from_uuid(id.uuid)).await?.map(Self::Organization)
            }
            kinds::MemberId::PREFIX if may(members::VIEW) => reader.get(id.uuid).await?.map(Self::Member),
            kinds::SessionId::PREFIX => reader.get(id.uuid).await?.map(Self::Session),
            ProjectId::PREFIX if may(projects::VIEW) => reader.get(id.uuid).await?.map(Self::Project),
            ProjectMemberId::PREFIX if may(projects::VIEW) => reader.get(id.uuid).await?.map(Self::ProjectMember),
            DocumentId::PREFIX if may(documents::VIEW) => reader.get(id.uuid).await?.map(Self::Document),
            PersistedOperationId::PREFIX if may(persisted_operations::VIEW) => {
                reader.get(id.uuid).await?.map(Self::PersistedOperation)
            }
            ApiKeyId::PREFIX => reader.get(id.uuid).await?.map(Self::ApiKey),
            RoleId::PREFIX if may(roles::VIEW) || may(members::VIEW) => {
                roles::find(reader, Id::from_uuid(id.uuid)).await?.map(Self::Role)
            }
            IdentityProviderId::PREFIX => reader.get(id.uuid).await?.map(Self::IdentityProvider),
            IdentityId::PREFIX => reader.get(id.uuid).await?.map(Self::Identity),
            PolicyId::PREFIX => reader.get(id.uuid).await?.map(Self::Policy),
            // It has what is held in every organisation.
            DataExportId::PREFIX if !reader.viewer().confined => reader.get(id.uuid).await?.map(Self::DataExport),
            SecurityEventId::PREFIX => reader.get(id.uuid).await?.map(Self::SecurityEvent),
            kinds::EventId::PREFIX => reader.get(id.uuid).await?.map(Self::Event),
            _ => None,
        })
    }

    /// The node that this row is, whatever made it.
    pub(crate) fn of_row(row: Arc<dyn Any + Send + Sync>) -> Option<Self> {
        macro_rules! first {
            ($row:expr; $($kind:ident),+) => {{
                let row = $row;
                $(let row = match row.downcast() {
                    Ok(row) => return Some(Self::$kind(row)),
                    Err(row) => row,
                };)+
                drop(row);
                None
            }};
        }
        first!(row; User, Organization, Member, Session, Project, Document, PersistedOperation, ApiKey, Role,
            IdentityProvider, Identity, Policy, DataExport, SecurityEvent)
    }

    /// What the text names, if it is an id and the viewer may see it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn find(reader: &Reader, id: &str) -> Result<Option<Self>, ReadError> {
        match RawId::parse(id) {
            Some(id) => Self::load(reader, id).await,
            None => Ok(None),
        }
    }
}
