//! Random histories of everything, made by the domain's own commands, and what must hold of the rows that come of
//! them: rebuilt equals grown, an event folded twice counts once, and every counter says what the rows say.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use oriel_domain::api_keys::{ApiKey, ApiKeyEvent, ApiKeyName, CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey};
use oriel_domain::documents::{
    AddRevision, DeleteDocument, Document, DocumentEvent, FileName, MoveDocument, Progress, PurgeDocument,
    ReleaseDocument, ReleaseReason, RescanDocument, RestoreDocument, RetryDocument, Stage, StoredFile, Tags, Title,
    UpdateDocument, UploadDocument,
    pipeline::{FailStage, RecordIndexed, RecordText, RecordVerdict, SkipStage, StartStage},
};
use oriel_domain::identities::{Identity, IdentityEvent, LinkIdentity, UnlinkIdentity};
use oriel_domain::identity_providers::{
    ChangeIdentityProvider, Changes, ClientId, CreateIdentityProvider, DeleteIdentityProvider, IdentityProvider,
    IdentityProviderEvent, IdentityProviderId, Issuer, ProviderName, RedirectUri,
};
use oriel_domain::members::{
    AcceptInvitation, ChangeRoles, FoundMember, GrantPermission, InviteMember, Member, MemberEvent, ReactivateMember,
    RemoveMember, RevokePermission, SuspendMember,
};
use oriel_domain::organizations::{CreateOrganization, Organization, OrganizationEvent, OrganizationName, Slug};
use oriel_domain::persisted_operations::{
    OperationBody, OperationHash, OperationKind, PersistedOperation, PersistedOperationEvent, PublishOperation,
    RetireOperation,
};
use oriel_domain::projects::{
    AddProjectMember, ArchiveProject, CreateProject, Project, ProjectEvent, ProjectId, ProjectKey, ProjectName,
    RemoveProjectMember, RestoreProject,
};
use oriel_domain::roles::{
    AssignedRole, ChangeRole, CreateRole, CustomRole, DeleteRole, RoleDescription, RoleEvent, RoleId, RoleName,
    RoleTitle,
};
use oriel_domain::sessions::{
    EndReason, EndSession, RefreshSession, Session, SessionEvent, SignInMethod, StartSession,
};
use oriel_domain::users::passkeys::PasskeyId;
use oriel_domain::users::{Email, PasswordHash, PersonName, RegisterUser, RenameUser, User, UserEvent};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::ReadModel;
use oriel_kernel::{
    Actor, Aggregate, Blinder, Command, Event, EventId, Given, Grant, Id, MemberId, OrganizationId, Pattern,
    Permissions, Personal, PersonalField, PersonalVisitor, Position, Recorded, Timestamp, UserId, Visible,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::documents::{DocumentStatus, ScanVerdict};
use crate::members::MemberStatus;
use crate::{
    api_keys, documents, identities, identity_providers, members, organizations, persisted_operations, projects, roles,
    sessions, users,
};

struct Plain;

impl Blinder for Plain {
    fn blind(&self, purpose: &str, value: &str) -> String {
        format!("{purpose}/{value}")
    }
}

/// The moment of a position.
pub fn at(position: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + position, 0).unwrap()
}

/// The UUID of the n-th thing of a kind.
pub fn uuid(kind: u128, n: u8) -> Uuid {
    Uuid::from_u128((kind << 64) | (u128::from(n) + 1))
}

pub const ORGANIZATION: u128 = 1;
pub const USER: u128 = 2;
pub const MEMBER: u128 = 3;
pub const PROJECT: u128 = 4;
pub const DOCUMENT: u128 = 5;
pub const SESSION: u128 = 6;
pub const OPERATION: u128 = 7;
pub const ROLE: u128 = 8;
pub const KEY: u128 = 9;
pub const PROVIDER: u128 = 10;
pub const IDENTITY: u128 = 11;

pub fn organization(n: u8) -> OrganizationId {
    Id::from_uuid(uuid(ORGANIZATION, n))
}

pub fn user(n: u8) -> UserId {
    Id::from_uuid(uuid(USER, n))
}

pub fn member(n: u8) -> MemberId {
    Id::from_uuid(uuid(MEMBER, n))
}

pub fn project(n: u8) -> ProjectId {
    Id::from_uuid(uuid(PROJECT, n))
}

type States<A> = BTreeMap<Uuid, (A, i32)>;

/// A history: the log, and the aggregates at its end.
#[derive(Default)]
pub struct World {
    pub log: Vec<Arc<Recorded>>,
    sequences: BTreeMap<OrganizationId, i64>,
    pub documents: States<Document>,
    members: States<Member>,
    operations: States<PersistedOperation>,
    roles: States<CustomRole>,
    keys: States<ApiKey>,
    providers: States<IdentityProvider>,
    identities: States<Identity>,
    organizations: States<Organization>,
    projects: States<Project>,
    sessions: States<Session>,
    users: States<User>,
}

/// Whose aggregates are held where.
trait Held: Aggregate {
    fn held(world: &mut World) -> &mut States<Self>;
}

macro_rules! held {
    ($($aggregate:ty: $field:ident),+) => {$(
        impl Held for $aggregate {
            fn held(world: &mut World) -> &mut States<Self> { &mut world.$field }
        }
    )+};
}

held!(
    ApiKey: keys,
    CustomRole: roles,
    Document: documents,
    Identity: identities,
    IdentityProvider: providers,
    Member: members,
    Organization: organizations,
    PersistedOperation: operations,
    Project: projects,
    Session: sessions,
    User: users
);

impl World {
    /// Decides a command; what happens is the next part of the history. Facts are left out.
    #[allow(private_bounds)]
    pub fn run<C: Command<Aggregate: Held>>(&mut self, id: Uuid, organization: OrganizationId, command: &C) {
        self.run_as(Actor::System, id, organization, command);
    }

    #[allow(private_bounds)]
    pub fn run_as<C: Command<Aggregate: Held>>(
        &mut self,
        actor: Actor,
        id: Uuid,
        organization: OrganizationId,
        command: &C,
    ) {
        let next = self.log.len() as i64 + 1;
        let (mut state, mut version) = C::Aggregate::held(self).get(&id).cloned().unwrap_or_default();
        let here = state.tenant().is_some_and(|tenant| tenant == organization || tenant.is_absent());
        if !C::CREATES && !here {
            return;
        }
        let given = Given {
            id,
            now: at(next),
            actor,
            member: if let Actor::Member(member) = actor { Some(member) } else { None },
            organization,
            grant: Grant::All,
            permissions: &Permissions::everything(),
            visible: &Visible::All,
            blinder: &Plain,
        };
        let Ok(outcome) = command.decide(&state, &given) else { return };
        for event in outcome.events {
            state.evolve(&event);
            version += 1;
            self.record(id, state.tenant().unwrap_or(organization), version, event);
        }
        C::Aggregate::held(self).insert(id, (state, version));
    }

    fn record<E: Event>(&mut self, subject: Uuid, organization: OrganizationId, version: i32, event: E) {
        let position = self.log.len() as i64 + 1;
        let sequence = self.sequences.entry(organization).or_default();
        *sequence += 1;
        self.log.push(Arc::new(Recorded {
            position: Position::new(position),
            id: EventId::from_uuid(Uuid::from_u128(position as u128)),
            organization,
            sequence: *sequence,
            subject,
            version,
            actor: Actor::System,
            at: at(position),
            correlation: Uuid::nil(),
            causation: None,
            event: Arc::new(event),
        }));
    }

    /// Founds organisation n, with user n as member n.
    pub fn found(&mut self, n: u8) {
        self.register(n);
        let name = OrganizationName::parse(&format!("Organization {n}")).unwrap();
        let slug = Slug::parse(&format!("organization-{n}")).unwrap();
        self.run(uuid(ORGANIZATION, n), organization(n), &CreateOrganization { name, slug, owner: user(n) });
        let founder = FoundMember { organization: organization(n), user: user(n) };
        self.run(uuid(MEMBER, n), organization(n), &founder);
    }

    pub fn register(&mut self, n: u8) {
        let command = RegisterUser {
            email: Email::parse(&format!("u{n}@example.org")).unwrap(),
            username: None,
            name: PersonName::parse(&format!("User {n}")).unwrap(),
            password_hash: PasswordHash::new("$argon2id$secret"),
        };
        self.run(uuid(USER, n), Id::ABSENT, &command);
    }

    pub fn invite(&mut self, m: u8, u: u8, to: u8, role: RoleName) {
        let email = Email::parse(&format!("u{u}@example.org")).unwrap();
        let command = InviteMember { user: user(u), email, roles: vec![role.into()], invited_by: member(to) };
        self.run(uuid(MEMBER, m), organization(to), &command);
    }

    pub fn accept(&mut self, m: u8, u: u8, to: u8) {
        self.run(uuid(MEMBER, m), organization(to), &AcceptInvitation { user: user(u) });
    }

    pub fn make_project(&mut self, n: u8, owner: u8, to: u8) {
        let command = CreateProject {
            key: ProjectKey::parse(&format!("KEY{n}")).unwrap(),
            name: ProjectName::parse(&format!("Project {n}")).unwrap(),
            description: None,
            owner: member(owner),
        };
        self.run(uuid(PROJECT, n), organization(to), &command);
    }

    pub fn upload(&mut self, n: u8, to: u8, organization_number: u8, file: StoredFile) {
        let title = Title::parse(&format!("Document {n}")).unwrap();
        let tags = Tags::parse([format!("tag{}", n % 3)]).unwrap();
        let command = UploadDocument { project: project(to), title, tags, file };
        self.run(uuid(DOCUMENT, n), organization(organization_number), &command);
    }

    pub fn sign_in(&mut self, n: u8, u: u8, m: u8, to: u8) {
        let command = StartSession {
            user: user(u),
            member: member(m),
            organization: organization(to),
            refresh_hash: "r0".to_owned(),
            ip: Some("192.0.2.1".to_owned()),
            user_agent: Some("nul\0".to_owned()),
            expires_at: at(10_000),
            method: Some(SignInMethod::Passkey),
            provider: None,
        };
        self.run(uuid(SESSION, n), organization(to), &command);
    }

    /// Publishes operation n under a hash of its own: there are three bodies.
    pub fn publish(&mut self, n: u8, to: u8) {
        let command = PublishOperation {
            hash: OperationHash::parse(&format!("operation-{n}")).unwrap(),
            body: OperationBody::parse(&format!("{{ field{} }}", n % 3)).unwrap(),
            name: None,
            kind: OperationKind::Query,
        };
        self.run(uuid(OPERATION, n), organization(to), &command);
    }

    /// Makes role n, which allows to see documents or to change them.
    pub fn make_role(&mut self, n: u8, to: u8) {
        let command = CreateRole {
            name: RoleTitle::parse(&format!("Role {n}")).unwrap(),
            description: RoleDescription::default(),
            permissions: vec![documents_pattern(n)],
            operations: None,
        };
        self.run(uuid(ROLE, n), organization(to), &command);
    }

    /// Member m makes key n, whose first secret hashes to 00.
    pub fn make_key(&mut self, n: u8, m: u8, to: u8) {
        let command = CreateApiKey {
            name: ApiKeyName::parse(&format!("Key {n}")).unwrap(),
            scopes: vec![documents_pattern(n)],
            secret_hash: "00".repeat(32),
            hint: "0000".to_owned(),
            expires_at: None,
            operations: None,
            rate_limit: n.is_multiple_of(2).then_some(600),
        };
        self.run_as(Actor::Member(member(m)), uuid(KEY, n), organization(to), &command);
    }

    /// Sets up provider n.
    pub fn set_up_provider(&mut self, n: u8, to: u8) {
        let settings = Changes {
            client_id: ClientId::parse("oriel").ok(),
            redirect_uris: Some(vec![RedirectUri::parse("https://app.example.org/").unwrap()]),
            ..provider_named(n).changes
        };
        let issuer = Issuer::parse("https://id.example.org").unwrap();
        let create = CreateIdentityProvider { issuer, client_secret: None, settings };
        self.run(uuid(PROVIDER, n), organization(to), &create);
    }

    /// Provider 0 knows user and member u by identity n.
    pub fn link(&mut self, n: u8, u: u8, to: u8) {
        let link = LinkIdentity {
            organization: organization(to),
            provider: IdentityProviderId::from_uuid(uuid(PROVIDER, 0)),
            user: user(u),
            member: member(u),
            subject: format!("subject-{n}"),
            email: Some(format!("u{u}@example.org")),
        };
        self.run(uuid(IDENTITY, n), organization(to), &link);
    }

    /// Gives key n of member m the secret that hashes to this byte.
    pub fn rotate_key(&mut self, n: u8, m: u8, to: u8, secret: u8) {
        let overlap = std::time::Duration::from_secs(3_600);
        let rotate = RotateApiKey { secret_hash: format!("{secret:02x}").repeat(32), hint: "1111".to_owned(), overlap };
        self.run_as(Actor::Member(member(m)), uuid(KEY, n), organization(to), &rotate);
    }

    /// The one fact that the rows rely on: a document is in a project of its own organisation.
    fn has_project(&self, n: u8, home: OrganizationId) -> bool {
        self.projects.get(&project(n).uuid()).is_some_and(|(project, _)| project.tenant() == Some(home))
    }

    /// One step of a random history.
    fn step(&mut self, (what, a, b, c): (u8, u8, u8, u8)) {
        let (home, document) = (organization(c % 2), uuid(DOCUMENT, a));
        let stage = Stage::PIPELINE[usize::from(b) % Stage::PIPELINE.len()];
        let (revision, attempt) = (1 + i32::from(c / 2), 1 + i32::from(c / 2));
        let reason = "Because.".to_owned();
        match what {
            0 => self.invite(a, b, c % 2, RoleName::Member),
            1 => self.accept(a, b, c % 2),
            2 => self.run(uuid(MEMBER, a), home, &RemoveMember),
            3 if c > 3 => self.run(uuid(MEMBER, a), home, &ReactivateMember),
            3 => self.run(uuid(MEMBER, a), home, &SuspendMember),
            4 => self.make_project(a, b, c % 2),
            5 => self.run(uuid(PROJECT, a), home, &AddProjectMember { member: member(b) }),
            6 => self.run(uuid(PROJECT, a), home, &RemoveProjectMember { member: member(b) }),
            7 => self.run(uuid(PROJECT, a), home, &ArchiveProject),
            8 => self.run(uuid(PROJECT, a), home, &RestoreProject),
            9 | 10 if self.has_project(b, home) => self.upload(a, b, c % 2, file(b, c > 3)),
            11 => self.run(document, home, &AddRevision { file: file(b, c > 3) }),
            12 if self.has_project(b, home) => self.run(document, home, &MoveDocument { to: project(b) }),
            9 | 10 | 12 => {}
            13 => self.run(document, home, &DeleteDocument),
            14 => self.run(document, home, &RestoreDocument),
            15 => self.run(document, home, &PurgeDocument),
            16 => self.run(document, home, &RetryDocument),
            17 => self.run(document, home, &StartStage { revision, stage, attempt }),
            18 | 19 => self.run(document, home, &RecordIndexed { revision, attempt }),
            20 => self.run(document, home, &FailStage { revision, stage, attempt, reason, retrying: b % 2 == 0 }),
            21 => self.run(document, home, &SkipStage { revision, stage, reason }),
            22 => {
                let (page_count, language) = (Some(i32::from(b)), Some("en".to_owned()));
                let text = RecordText { revision, attempt, text: None, page_count, language, title: None };
                self.run(document, home, &text);
            }
            23 => {
                let title = Title::parse(&format!("Again {b}")).ok();
                self.run(document, home, &UpdateDocument { title, tags: Tags::parse(["x"]).ok() });
            }
            24 => self.sign_in(a, b, b, c % 2),
            25 => {
                let refresh = RefreshSession {
                    presented_hash: format!("r{b}"),
                    next_hash: format!("r{}", b + 1),
                    expires_at: at(20_000),
                };
                self.run(uuid(SESSION, a), home, &refresh);
            }
            26 => self.run(uuid(SESSION, a), home, &EndSession { reason: EndReason::Revoked }),
            30 => self.make_role(a, c % 2),
            31 => {
                let permissions = Some(vec![documents_pattern(b)]);
                self.run(
                    uuid(ROLE, a),
                    home,
                    &ChangeRole { name: None, description: None, permissions, operations: None },
                );
            }
            32 => self.run(uuid(ROLE, a), home, &DeleteRole),
            33 => {
                let made = AssignedRole::Custom(RoleId::from_uuid(uuid(ROLE, b)), Vec::new());
                self.run(uuid(MEMBER, a), home, &ChangeRoles { roles: vec![RoleName::Viewer.into(), made] });
            }
            34 => self.run(uuid(MEMBER, a), home, &GrantPermission { permission: documents_pattern(b) }),
            35 => self.run(uuid(MEMBER, a), home, &RevokePermission { permission: documents_pattern(b) }),
            36 => self.make_key(a, b, c % 2),
            37 => self.rotate_key(a, b, c % 2, c),
            38 if c > 3 => {
                let (name, scopes) = (ApiKeyName::parse("Again").ok(), Some(vec![documents_pattern(b)]));
                self.run(uuid(KEY, a), home, &UpdateApiKey { name, scopes, expires_at: None });
            }
            38 => self.run(uuid(KEY, a), home, &RevokeApiKey),
            39 => self.run(document, home, &found(revision, attempt, b % 2 == 0)),
            40 if b % 2 == 0 => {
                self.run_as(Actor::Member(member(a)), document, home, &ReleaseDocument { reason: because() });
            }
            40 => self.run(document, home, &RescanDocument { scanner: true }),
            41 => self.set_up_provider(a, c % 2),
            42 => self.run(uuid(PROVIDER, a), home, &DeleteIdentityProvider),
            43 => self.run(uuid(PROVIDER, a), home, &provider_named(b)),
            44 if c > 3 => self.run(uuid(IDENTITY, a), home, &UnlinkIdentity { by: None }),
            44 => self.link(a, b, c % 2),
            27 => self.publish(a, a % 2),
            28 => self.run(uuid(OPERATION, a), home, &RetireOperation),
            _ => {
                let name = PersonName::parse(&format!("Name {b}")).unwrap();
                self.run(uuid(USER, a), Id::ABSENT, &RenameUser { by: user(a), name });
            }
        }
    }
}

/// What the scanner says of a file.
fn found(revision: i32, attempt: i32, infected: bool) -> RecordVerdict {
    let signature = infected.then(|| "Eicar".to_owned());
    RecordVerdict { revision, attempt, engine: "ClamAV".to_owned(), signature }
}

fn because() -> ReleaseReason {
    ReleaseReason::parse("A false positive.").unwrap()
}

/// A provider is called otherwise, and is on or off.
fn provider_named(n: u8) -> ChangeIdentityProvider {
    let name = ProviderName::parse(&format!("Provider {n}")).ok();
    let changes = Changes { name, enabled: Some(n.is_multiple_of(2)), ..Changes::default() };
    ChangeIdentityProvider { client_secret: None, changes }
}

/// What lets somebody see documents, or change them.
fn documents_pattern(n: u8) -> Pattern {
    Pattern::parse(["documents:view", "documents:edit:own"][usize::from(n % 2)]).unwrap()
}

/// A file of some size.
pub fn file(size: u8, scanner: bool) -> StoredFile {
    StoredFile {
        name: FileName::parse("report.pdf").unwrap(),
        media_type: "application/pdf".to_owned(),
        size: 100 + i64::from(size),
        sha256: "00".repeat(32),
        blob: format!("blob-{size}"),
        validation: Ok(()),
        scanner,
        user: user(0),
        uploaded_by: member(0),
    }
}

/// The rows of one read model.
pub type Folded<M> = BTreeMap<Uuid, M>;

/// Folds a log in batches of this many events, each event this often.
fn fold<M: ReadModel>(
    on: impl Fn(&mut Rows<M>, &Recorded),
    log: &[Arc<Recorded>],
    (batch, times): (usize, usize),
) -> Folded<M> {
    let mut stored = Folded::new();
    for events in log.chunks(batch.max(1)) {
        let mut rows = Rows::of(stored.into_values());
        for event in events {
            (0..times).for_each(|_| on(&mut rows, event));
        }
        stored = rows.rows().map(|row| (ReadModel::id(row), row.clone())).collect();
    }
    stored
}

macro_rules! read_models {
    ($($field:ident: $projection:ty => $row:ty, on $($event:ty),+;)+) => {
        /// The rows of every read model.
        #[derive(PartialEq, Debug)]
        pub struct Everything { $(pub $field: Folded<$row>),+ }

        impl Everything {
            pub fn of(log: &[Arc<Recorded>], how: (usize, usize)) -> Self {
                $(
                    let $field = fold(
                        |rows: &mut Rows<$row>, at: &Recorded| {
                            $(if let Some(event) = at.event_as::<$event>() {
                                <$projection as On<$event>>::on(rows, at, event);
                            })+
                        },
                        log,
                        how,
                    );
                )+
                Self { $($field),+ }
            }
        }
    };
}

read_models! {
    users: users::Users => users::Model, on UserEvent;
    passkeys: users::passkeys::UserPasskeys => users::passkeys::Model, on UserEvent;
    organizations: organizations::Organizations => organizations::Model,
        on OrganizationEvent, MemberEvent, ProjectEvent, DocumentEvent;
    standings: organizations::standings::Standings => organizations::standings::Model, on OrganizationEvent;
    members: members::Members => members::Model, on MemberEvent;
    sessions: sessions::Sessions => sessions::Model, on SessionEvent;
    projects: projects::Projects => projects::Model, on ProjectEvent, DocumentEvent;
    project_members: projects::members::ProjectMembers => projects::members::Model, on ProjectEvent;
    documents: documents::Documents => documents::Model, on DocumentEvent;
    revisions: documents::revisions::DocumentRevisions => documents::revisions::Model, on DocumentEvent;
    persisted_operations: persisted_operations::PersistedOperations => persisted_operations::Model,
        on PersistedOperationEvent;
    roles: roles::Roles => roles::Model, on RoleEvent;
    api_keys: api_keys::ApiKeys => api_keys::Model, on ApiKeyEvent;
    identity_providers: identity_providers::IdentityProviders => identity_providers::Model, on IdentityProviderEvent;
    identities: identities::Identities => identities::Model, on IdentityEvent;
}

impl Everything {
    /// Every counter says what the rows say.
    fn adds_up(&self) -> Result<(), TestCaseError> {
        let sum = |project: &dyn Fn(&documents::Model) -> bool| {
            let inside = || self.documents.values().filter(|document| project(document));
            let shown = inside().filter(|document| document.status != DocumentStatus::Trashed).count();
            (shown as i32, inside().map(|document| document.storage_used.bytes()).sum::<u64>())
        };
        for (id, row) in &self.organizations {
            let active = |member: &&members::Model| member.status == MemberStatus::Active;
            let inside = self.members.values().filter(active).filter(|member| member.organization_id.uuid() == *id);
            prop_assert_eq!(row.member_count, inside.count() as i32);
            let inside = self.projects.values().filter(|project| project.organization_id.uuid() == *id).count();
            prop_assert_eq!(row.project_count, inside as i32);
            let counted = (row.document_count, row.storage_used.bytes());
            prop_assert_eq!(counted, sum(&|document| document.organization_id.uuid() == *id));
        }
        for (id, row) in &self.projects {
            let inside = self.project_members.values().filter(|member| member.project_id.uuid() == *id).count();
            prop_assert_eq!(row.member_count, inside as i32);
            let counted = (row.document_count, row.storage_used.bytes());
            prop_assert_eq!(counted, sum(&|document| document.project_id.uuid() == *id));
        }
        prop_assert!(self.documents.keys().eq(self.revisions.keys()));
        for (document, files) in self.documents.values().zip(self.revisions.values()) {
            prop_assert_eq!(document.project_id, files.project_id);
            let sizes: u64 = (1..=document.revision).map(|n| files.revision(n).unwrap().size).sum();
            prop_assert_eq!(document.storage_used.bytes(), sizes);
            let current = files.revision(document.revision).unwrap();
            prop_assert_eq!((&document.blob, document.is_cleared()), (&current.blob, current.cleared));
        }
        Ok(())
    }
}

/// As when every person's key was destroyed.
struct Erase;

impl PersonalVisitor for Erase {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        field.set_erased();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// A read model that is made of several aggregates' events cannot be made anew row by row when somebody is erased:
    /// nothing in it may depend on what was said about them.
    #[test]
    fn what_cannot_be_made_anew_says_nothing_about_persons(
        steps in prop::collection::vec((0u8..45, 0u8..5, 0u8..5, 0u8..6), 0..150),
    ) {
        let several = crate::read_models();
        let several = several.iter().filter(|read_model| !read_model.is_made_of_one_stream());
        let several: Vec<&str> = several.map(|read_model| read_model.table()).collect();
        prop_assert_eq!(several, ["organizations", "erasures", "projects"], "compare it below");
        let mut world = World::default();
        (0..2).for_each(|n| world.found(n));
        (0..4).for_each(|n| world.make_project(n, n % 2, n % 2));
        steps.into_iter().for_each(|step| world.step(step));
        let erased: Vec<_> = world.log.iter().map(|recorded| {
            let mut event = recorded.event.clone_boxed();
            event.visit_personal(&mut Erase);
            Arc::new(Recorded { event: event.into(), ..Recorded::clone(recorded) })
        }).collect();
        let (told, forgotten) = (Everything::of(&world.log, (1, 1)), Everything::of(&erased, (1, 1)));
        prop_assert_ne!(&told.users, &forgotten.users);
        prop_assert_eq!(&told.organizations, &forgotten.organizations);
        prop_assert_eq!(&told.projects, &forgotten.projects);
        // Erasures hold ids and times alone.
    }

    #[test]
    fn rebuilt_equals_grown_and_every_counter_adds_up(
        steps in prop::collection::vec((0u8..45, 0u8..5, 0u8..5, 0u8..6), 0..250),
        batch in 1usize..30,
    ) {
        let mut world = World::default();
        (0..2).for_each(|n| world.found(n));
        // Projects of both organisations, so that most documents find one.
        (0..4).for_each(|n| world.make_project(n, n % 2, n % 2));
        steps.into_iter().for_each(|step| world.step(step));
        let rebuilt = Everything::of(&world.log, (usize::MAX, 1));
        prop_assert_eq!(&Everything::of(&world.log, (batch, 1)), &rebuilt, "grown in batches");
        prop_assert_eq!(&Everything::of(&world.log, (1, 1)), &rebuilt, "grown one by one");
        prop_assert_eq!(&Everything::of(&world.log, (batch, 2)), &rebuilt, "each event folded twice");
        rebuilt.adds_up()?;
        let published = |(state, _): &&(PersistedOperation, i32)| state.is_published();
        prop_assert_eq!(rebuilt.persisted_operations.len(), world.operations.values().filter(published).count());
        for (id, row) in &rebuilt.documents {
            let (document, version) = &world.documents[id];
            prop_assert_eq!(row.version, *version);
            let expected = match document.progress() {
                _ if row.trashed_at.is_some() => [DocumentStatus::Trashed; 2],
                Progress::Processing => [DocumentStatus::Processing; 2],
                Progress::Ready => [DocumentStatus::Ready; 2],
                Progress::Failed => [DocumentStatus::Failed, DocumentStatus::Quarantined],
            };
            prop_assert!(expected.contains(&row.status), "{:?} is not {:?}", row.status, expected);
        }
    }
}

/// One history that the property above must not be able to miss.
#[test]
fn a_document_counts_until_it_is_trashed_and_its_bytes_until_it_is_purged() {
    let mut world = World::default();
    world.found(0);
    (0..2).for_each(|n| world.make_project(n, 0, 0));
    world.upload(0, 0, 0, file(5, false));
    let document = uuid(DOCUMENT, 0);
    let counters = |world: &World, n: u8| {
        let everything = Everything::of(&world.log, (1, 1));
        let row = &everything.projects[&project(n).uuid()];
        (row.document_count, row.storage_used.bytes())
    };
    assert_eq!((counters(&world, 0), counters(&world, 1)), ((1, 105), (0, 0)));
    world.run(document, organization(0), &AddRevision { file: file(7, false) });
    world.run(document, organization(0), &MoveDocument { to: project(1) });
    assert_eq!((counters(&world, 0), counters(&world, 1)), ((0, 0), (1, 212)));
    world.run(document, organization(0), &DeleteDocument);
    assert_eq!(counters(&world, 1), (0, 212));
    world.run(document, organization(0), &PurgeDocument);
    assert_eq!(counters(&world, 1), (0, 0));
    let everything = Everything::of(&world.log, (1, 1));
    assert!(everything.documents.is_empty() && everything.revisions.is_empty());
}

#[test]
fn a_file_that_did_not_pass_the_scan_is_in_quarantine_and_a_restored_document_is_what_it_was() {
    let mut world = World::default();
    world.found(0);
    world.make_project(0, 0, 0);
    world.upload(0, 0, 0, file(1, true));
    let (document, home) = (uuid(DOCUMENT, 0), organization(0));
    let now = |world: &World| Everything::of(&world.log, (1, 1)).documents.remove(&document).unwrap();
    assert_eq!((now(&world).status, now(&world).is_cleared()), (DocumentStatus::Processing, false));
    let reason = "Eicar-Test-Signature".to_owned();
    world.run(document, home, &FailStage { revision: 1, stage: Stage::Scan, attempt: 1, reason, retrying: false });
    assert_eq!((now(&world).status, now(&world).is_cleared()), (DocumentStatus::Quarantined, false));
    world.run(document, home, &DeleteDocument);
    assert_eq!(now(&world).status, DocumentStatus::Trashed);
    world.run(document, home, &RestoreDocument);
    let restored = now(&world);
    assert_eq!((restored.status, restored.trashed_at), (DocumentStatus::Quarantined, None));
    let scan = restored.pipeline.shown().into_iter().find(|step| step.reason.is_some()).unwrap();
    assert_eq!((scan.attempts, scan.reason.as_deref()), (1, Some("Eicar-Test-Signature")));
}

#[test]
fn a_verdict_stays_until_the_next_and_a_release_until_the_next_scan() {
    let mut world = World::default();
    world.found(0);
    world.make_project(0, 0, 0);
    world.upload(0, 0, 0, file(1, true));
    let (document, home) = (uuid(DOCUMENT, 0), organization(0));
    let now = |world: &World| {
        let mut everything = Everything::of(&world.log, (1, 1));
        let (row, files) = (everything.documents.remove(&document).unwrap(), &everything.revisions[&document]);
        assert_eq!(files.revision(row.revision).unwrap().cleared, row.is_cleared(), "{row:?}");
        row
    };
    assert!(now(&world).is_kept_back());
    world.run(document, home, &found(1, 1, true));
    let row = now(&world);
    let scan = row.scan.as_ref().and_then(documents::Scan::shown).unwrap();
    assert_eq!((scan.verdict, scan.signature.as_deref()), (ScanVerdict::Infected, Some("Eicar")));
    assert_eq!((row.status, row.is_kept_back()), (DocumentStatus::Quarantined, true));
    world.run_as(Actor::Member(member(0)), document, home, &ReleaseDocument { reason: because() });
    let row = now(&world);
    assert_eq!((row.status, row.is_cleared()), (DocumentStatus::Processing, true));
    assert_eq!(row.scan.as_ref().and_then(documents::Scan::release).unwrap().reason, "A false positive.");
    // Another file begins anew, and what was said of the last one is not said of it.
    world.run(document, home, &AddRevision { file: file(2, true) });
    assert_eq!((now(&world).scan, now(&world).is_kept_back()), (None, true));
    world.run(document, home, &found(2, 1, false));
    assert_eq!(now(&world).scan.as_ref().and_then(documents::Scan::shown).unwrap().verdict, ScanVerdict::Clean);
    assert!(now(&world).is_cleared());
}

#[test]
fn passkeys_are_a_second_factor_until_the_last_is_gone() {
    let mut world = World::default();
    world.register(0);
    let of = user(0);
    let passkey = |n: u128| PasskeyId::from_uuid(Uuid::from_u128(n));
    let said = |text: &str| Personal::new(of, text.to_owned());
    let (challenge, ends_at) = ("c".to_owned(), at(300));
    let registered = |n: u128, codes: usize| UserEvent::PasskeyRegistered {
        passkey: passkey(n),
        handle: "h".to_owned(),
        name: said(&format!("Key {n}")),
        credential: said("id"),
        credential_hash: format!("hash {n}"),
        public_key: said("key"),
        counter: 0,
        transports: vec!["internal".to_owned()],
        backed_up: false,
        challenge: challenge.clone(),
        ends_at,
        recovery_hashes: vec!["r".to_owned(); codes],
    };
    let used = UserEvent::PasskeyUsed {
        passkey: passkey(1),
        counter: 1,
        backed_up: true,
        challenge: challenge.clone(),
        ends_at,
    };
    let happened = [
        (registered(1, 10), (Some(2), 10, 1)),
        (used, (Some(2), 10, 1)),
        (registered(2, 0), (Some(2), 10, 2)),
        (UserEvent::RecoveryCodeUsed { hash: "r".to_owned() }, (Some(2), 9, 2)),
        (UserEvent::PasskeyRenamed { passkey: passkey(2), name: said("New") }, (Some(2), 9, 2)),
        (UserEvent::PasskeyRemoved { passkey: passkey(1) }, (Some(2), 9, 1)),
        (UserEvent::TotpConfirmed { step: 1, recovery_hashes: vec!["s".to_owned(); 8] }, (Some(2), 8, 1)),
        (UserEvent::PasskeyRemoved { passkey: passkey(2) }, (Some(2), 8, 0)),
        (registered(3, 0), (Some(2), 8, 1)),
        (UserEvent::TotpDisabled, (Some(2), 8, 1)),
        (UserEvent::PasskeyRemoved { passkey: passkey(3) }, (None, 0, 0)),
        (registered(4, 10), (Some(13), 10, 1)),
        (UserEvent::SecondFactorReset { reason: said("Lost") }, (None, 0, 0)),
    ];
    for (event, (since, codes, count)) in happened {
        let version = world.log.len() as i32 + 1;
        world.record(of.uuid(), Id::ABSENT, version, event.clone());
        for how in [(1, 1), (1, 2), (100, 1)] {
            let everything = Everything::of(&world.log, how);
            let (row, passkeys) = (&everything.users[&of.uuid()], &everything.passkeys[&of.uuid()].passkeys.0);
            assert_eq!(row.second_factor_since, since.map(at), "{event:?}");
            assert_eq!((row.recovery_codes_left, row.passkey_count), (codes, count), "{event:?}, {how:?}");
            assert_eq!(passkeys.len(), count as usize, "{event:?}");
        }
    }
    world.record(of.uuid(), Id::ABSENT, world.log.len() as i32 + 1, registered(5, 10));
    let row = |world: &World| Everything::of(&world.log, (1, 1)).passkeys.remove(&of.uuid()).unwrap();
    assert_eq!((row(&world).handle.as_deref(), row(&world).passkeys.0[0].name.as_str()), (Some("h"), "Key 5"));
    world.record(of.uuid(), Id::ABSENT, world.log.len() as i32 + 1, UserEvent::Erased);
    assert_eq!((row(&world).handle, row(&world).passkeys.0.len()), (None, 0));
}

#[test]
fn who_is_forgotten_has_no_address_and_an_empty_name() {
    let mut world = World::default();
    world.register(0);
    let Some(UserEvent::Registered { email, email_hash, name, password_hash, .. }) = world.log[0].event_as().cloned()
    else {
        panic!("{:?}", world.log)
    };
    let (mut email, mut name, mut password_hash) = (email, name, password_hash);
    email.set_erased();
    name.set_erased();
    password_hash.iter_mut().for_each(PersonalField::set_erased);
    let forgotten =
        UserEvent::Registered { email, email_hash, username: None, username_hash: None, name, password_hash };
    world.log.clear();
    world.record(user(0).uuid(), Id::ABSENT, 1, forgotten);
    let everything = Everything::of(&world.log, (1, 1));
    let row = &everything.users[&user(0).uuid()];
    assert_eq!((&row.email, &row.email_hash, row.name.as_str(), &row.password_hash), (&None, &None, "", &None));
}

#[test]
fn what_is_secret_or_personal_is_not_printed() {
    let mut world = World::default();
    world.found(0);
    world.invite(1, 1, 0, RoleName::Viewer);
    world.sign_in(0, 0, 0, 0);
    let printed = format!("{:?}", Everything::of(&world.log, (1, 1)));
    for secret in ["argon2", "example.org", "192.0.2.1", "User 0"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}
