//! What two organisations read of one history, through the API's objects.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_graphql::{Context, EmptyMutation, EmptySubscription, Object, Request, Result, Schema, Value, value};
use async_trait::async_trait;
use oriel_domain::documents::{AddRevision, DeleteDocument};
use oriel_domain::roles::RoleName;
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_engine::read::{Connection, PageArgs, PathPart, ReadModel, Reader, Recorder};
use oriel_kernel::{Credential, Grant, Id, Permission, RawId, SessionId, Viewer, Visible};
use sea_orm::{ActiveModelBehavior, ActiveModelTrait, DatabaseConnection, EntityTrait, IntoActiveModel, ModelTrait};
use uuid::Uuid;

use crate::documents::{Contents, DocumentFilter, Download};
use crate::events::{EventFilter, Payloads};
use crate::guards::migrated;
use crate::histories::{
    DOCUMENT, Everything, Folded, MEMBER, OPERATION, ORGANIZATION, PROJECT, SESSION, USER, World, at, file,
    organization, user, uuid,
};
use crate::node::Node;
use crate::viewer::{ViewerRow, resolve};
use crate::{documents, events, members, organizations, persisted_operations, sessions, sign_in};

struct Query;

/// The root.
#[Object]
impl Query {
    /// By id.
    async fn node(&self, cx: &Context<'_>, id: String) -> Option<Result<Node>> {
        Node::find(cx.data_unchecked::<Reader>(), &id).await.map_err(Into::into).transpose()
    }

    /// All documents.
    async fn documents(
        &self,
        cx: &Context<'_>,
        filter: Option<DocumentFilter>,
    ) -> Result<Connection<documents::Model>> {
        let reader = cx.data_unchecked::<Reader>();
        let all = documents::Model::in_org(reader.organization());
        let listed = documents::listed(all, filter.as_ref());
        Ok(reader.page(listed, PageArgs::default(), filter, None)?)
    }

    /// All members.
    async fn members(&self, cx: &Context<'_>) -> Result<Connection<members::Model>> {
        let reader = cx.data_unchecked::<Reader>();
        let all = members::Model::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::default(), None, None)?)
    }

    /// The log.
    async fn events(&self, cx: &Context<'_>, filter: Option<EventFilter>) -> Result<Connection<events::Model>> {
        let reader = cx.data_unchecked::<Reader>();
        let all = events::Model::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::default(), filter, Some(events::by_position()))?)
    }

    /// My organisations.
    async fn organizations(&self, cx: &Context<'_>) -> Result<Vec<Arc<organizations::Model>>> {
        Ok(organizations::of_viewer(cx.data_unchecked::<Reader>()).await?)
    }

    /// My sessions.
    async fn sessions(&self, cx: &Context<'_>) -> Result<Vec<Arc<sessions::Model>>> {
        Ok(sessions::of_viewer(cx.data_unchecked::<Reader>(), at(1_000)).await?)
    }
}

struct Blobs;

#[async_trait]
impl Contents for Blobs {
    async fn text(&self, blob: &str, max_chars: usize) -> Result<Option<String>> {
        Ok(Some(format!("{blob}:{max_chars}")))
    }
    async fn download_url(&self, file: &Download<'_>) -> Result<String> {
        Ok(format!("https://files.example.org/{}", file.blob))
    }
}

/// Opens payloads, and counts how often it is asked.
#[derive(Default)]
struct Opened(AtomicUsize);

#[async_trait]
impl Payloads for Opened {
    async fn data(&self, events: &[Arc<events::Model>]) -> Vec<Result<serde_json::Value>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        events.iter().map(|event| Ok(serde_json::from_slice(&event.data)?)).collect()
    }
}

/// Organisation 0: owner 0, member 2 (user 2) in project 0 alone, an invitation to user 1. Organisation 1: owner 1,
/// and user 2 as member 3. Documents 0 to 3 in the projects 0, 1 (organisation 0), 0, 2 (organisation 1); 2 is in the
/// trash.
fn history() -> World {
    let mut world = World::default();
    (0..2).for_each(|n| world.found(n));
    world.register(2);
    world.invite(2, 2, 0, RoleName::Member);
    world.accept(2, 2, 0);
    world.invite(3, 2, 1, RoleName::Admin);
    world.accept(3, 2, 1);
    world.invite(4, 1, 0, RoleName::Viewer);
    world.make_project(0, 2, 0);
    world.make_project(1, 0, 0);
    world.make_project(2, 1, 1);
    for (document, project) in [(0, 0), (1, 1), (2, 0)] {
        world.upload(document, project, 0, file(document, false));
    }
    world.upload(3, 2, 1, file(3, false));
    world.run(uuid(DOCUMENT, 2), organization(0), &DeleteDocument);
    world.run(uuid(DOCUMENT, 0), organization(0), &AddRevision { file: file(9, true) });
    for (session, (user, member, home)) in (0..).zip([(0, 0, 0), (1, 1, 1), (2, 2, 0), (2, 3, 1), (0, 0, 0)]) {
        world.sign_in(session, user, member, home);
    }
    world.run(uuid(SESSION, 4), organization(0), &EndSession { reason: EndReason::Revoked });
    (0..2).for_each(|n| world.publish(n, n));
    world
}

async fn put<M>(db: &DatabaseConnection, rows: Folded<M>)
where
    M: ModelTrait + IntoActiveModel<<M::Entity as EntityTrait>::ActiveModel>,
    <M::Entity as EntityTrait>::ActiveModel: ActiveModelTrait<Entity = M::Entity> + ActiveModelBehavior + Send,
{
    if !rows.is_empty() {
        let rows = rows.into_values().map(IntoActiveModel::into_active_model);
        M::Entity::insert_many(rows).exec_without_returning(db).await.unwrap();
    }
}

async fn database() -> DatabaseConnection {
    let (db, world) = (migrated().await, history());
    let everything = Everything::of(&world.log, (usize::MAX, 1));
    put(&db, everything.users).await;
    put(&db, everything.organizations).await;
    put(&db, everything.standings).await;
    put(&db, everything.members).await;
    put(&db, everything.sessions).await;
    put(&db, everything.projects).await;
    put(&db, everything.project_members).await;
    put(&db, everything.documents).await;
    put(&db, everything.revisions).await;
    put(&db, everything.persisted_operations).await;
    put(&db, everything.roles).await;
    put(&db, everything.api_keys).await;
    let event = |at: &Arc<oriel_kernel::Recorded>| {
        let (actor_kind, actor) = at.actor.to_columns();
        events::Model {
            position: at.position.number(),
            id: at.id,
            organization_id: at.organization,
            sequence: at.sequence,
            stream: at.event.stream().to_owned(),
            subject_id: events::Subject(at.subject),
            version: at.version,
            event_type: events::EventType(at.event.event_type().to_owned()),
            type_version: at.event.type_version(),
            actor_kind,
            actor_id: events::ActorUuid(actor),
            at: at.at,
            correlation_id: Id::from_uuid(at.correlation),
            causation_id: None,
            data: b"{\"what\":1}".to_vec(),
            hash: Vec::new(),
        }
    };
    put(&db, world.log.iter().map(|at| (at.id.uuid(), event(at))).collect()).await;
    db
}

async fn signed_in(db: &DatabaseConnection, session: u8) -> ViewerRow {
    resolve(db, Credential::Session(SessionId::from_uuid(uuid(SESSION, session))), at(1_000)).await.unwrap().unwrap()
}

async fn ask(db: &DatabaseConnection, viewer: &Arc<Viewer>, query: &str) -> (Value, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let reader = Reader::new(db.clone(), viewer.clone(), recorder.clone());
    let contents: Arc<dyn Contents> = Arc::new(Blobs);
    let opened = Arc::new(Opened::default());
    let payloads: Arc<dyn Payloads> = Arc::clone(&opened) as _;
    let request = Request::new(query).data(reader).data(contents).data(payloads);
    let answer = Schema::new(Query, EmptyMutation, EmptySubscription).execute(request).await;
    assert!(answer.errors.is_empty(), "{query}: {:?}", answer.errors);
    assert!(opened.0.load(Ordering::SeqCst) <= 1, "{query}: the payloads of a page are opened together");
    (answer.data, recorder)
}

fn id(prefix: &str, kind: u128, n: u8) -> String {
    RawId { prefix, uuid: uuid(kind, n) }.to_string()
}

/// Which ids a viewer can look up: kinds and numbers.
async fn known(db: &DatabaseConnection, viewer: &Arc<Viewer>) -> String {
    let mut known = Vec::new();
    let kinds = [
        ("usr", USER),
        ("org", ORGANIZATION),
        ("mbr", MEMBER),
        ("prj", PROJECT),
        ("doc", DOCUMENT),
        ("ses", SESSION),
        ("pop", OPERATION),
    ];
    for (prefix, kind) in kinds {
        for n in 0..6 {
            let text = id(prefix, kind, n);
            let (answer, _) = ask(db, viewer, &format!(r#"{{ node(id: "{text}") {{ id }} }}"#)).await;
            if answer == value!({ "node": { "id": text } }) {
                known.push(format!("{prefix}{n}"));
            } else {
                assert_eq!(answer, value!({ "node": null }));
            }
        }
    }
    known.join(" ")
}

#[tokio::test]
async fn from_a_session_to_what_somebody_sees() {
    let db = database().await;
    let owner = signed_in(&db, 0).await;
    let system = Permission::new("system", "manage");
    assert_eq!((owner.viewer.user, owner.viewer.organization), (user(0), organization(0)));
    assert_eq!((&owner.viewer.visible, owner.viewer.grant(system)), (&Visible::All, Some(Grant::All)));
    let other = signed_in(&db, 1).await;
    assert_eq!(
        (&other.viewer.visible, other.viewer.grant(system)),
        (&Visible::All, None),
        "not the first organisation"
    );
    let member = signed_in(&db, 2).await;
    assert_eq!(member.viewer.visible, Visible::Only(Arc::new([uuid(PROJECT, 0)].into())));
    assert_eq!(member.expires_at, at(10_000));
    let texts: Vec<_> = member.dependencies.iter().map(|dependency| dependency.as_str().to_owned()).collect();
    let expected = [
        format!("session:{}", uuid(SESSION, 2)),
        format!("members@user:{}", uuid(USER, 2)),
        format!("project_members@member:{}", uuid(MEMBER, 2)),
        format!("organization_standing:{}", uuid(ORGANIZATION, 0)),
        format!("policies@org:{}", Uuid::nil()),
        format!("policies@org:{}", uuid(ORGANIZATION, 0)),
        format!("consents@user:{}", uuid(USER, 2)),
    ];
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn who_is_nobody() {
    let db = database().await;
    let is = async |session: u8, now| {
        let session = Credential::Session(Id::from_uuid(uuid(SESSION, session)));
        resolve(&db, session, now).await.unwrap().is_some()
    };
    assert!(is(0, at(9_999)).await && !is(0, at(10_000)).await, "expired");
    assert!(!is(4, at(1_000)).await, "ended");
    assert!(!is(9, at(1_000)).await, "never was");
    let suspended = members::ActiveModel {
        id: sea_orm::Set(Id::from_uuid(uuid(MEMBER, 0))),
        status: sea_orm::Set(members::MemberStatus::Suspended),
        ..Default::default()
    };
    members::Entity::update(suspended).exec(&db).await.unwrap();
    assert!(!is(0, at(1_000)).await, "suspended");
}

#[tokio::test]
async fn nobody_looks_up_what_is_not_theirs() {
    let db = database().await;
    for (session, expected) in [
        (0, "usr0 usr2 org0 mbr0 mbr2 mbr4 prj0 prj1 doc0 doc1 doc2 ses0 ses4 pop0"),
        (1, "usr1 usr2 org1 mbr1 mbr3 prj2 doc3 ses1 pop1"),
        // Sees project 0 alone; is a member of both organisations, but looks up nothing else of the other.
        (2, "usr0 usr2 org0 org1 mbr0 mbr2 mbr4 prj0 doc0 doc2 ses2 ses3"),
    ] {
        let viewer = signed_in(&db, session).await.viewer;
        assert_eq!(known(&db, &viewer).await, expected);
    }
}

#[tokio::test]
async fn an_invitation_tells_nothing_about_the_person() {
    let db = database().await;
    let viewer = signed_in(&db, 0).await.viewer;
    let (answer, recorder) =
        ask(&db, &viewer, "{ members { totalCount nodes { status roles { name } user { id name email } } } }").await;
    let user = |n| id("usr", USER, n);
    let member = |status: &str, role: &str, user: String, name: &str, email: &str| value!({ "status": status, "roles": [{ "name": role }], "user": { "id": user, "name": name, "email": email } });
    let invited = RawId { prefix: "usr", uuid: uuid(MEMBER, 4) }.to_string();
    let nodes = vec![
        member("ACTIVE", "owner", user(0), "User 0", "u0@example.org"),
        member("ACTIVE", "member", user(2), "User 2", "u2@example.org"),
        member("INVITED", "viewer", invited.clone(), "u1@example.org", "u1@example.org"),
    ];
    assert_eq!(answer, value!({ "members": { "totalCount": 3, "nodes": nodes } }));
    assert_eq!(recorder.statements(), 3, "the page, the count, the users");
    let (answer, _) = ask(&db, &viewer, &format!(r#"{{ node(id: "{invited}") {{ id }} }}"#)).await;
    assert_eq!(answer, value!({ "node": null }));
}

#[tokio::test]
async fn who_sees_a_person_depends_on_their_memberships() {
    let db = database().await;
    let viewer = signed_in(&db, 0).await.viewer;
    let (answer, recorder) = ask(&db, &viewer, &format!(r#"{{ node(id: "{}") {{ id }} }}"#, id("usr", USER, 1))).await;
    assert_eq!(answer, value!({ "node": null }));
    let recorded: Vec<_> = recorder.dependencies().iter().map(ToString::to_string).collect();
    assert!(recorded.contains(&format!("members@user:{}", uuid(USER, 1))), "{recorded:?}");
}

#[tokio::test]
async fn lists_leave_the_trash_out_unless_it_is_named() {
    let db = database().await;
    let viewer = signed_in(&db, 0).await.viewer;
    for (filter, expected) in [
        ("", vec![0, 1]),
        ("(filter: {status: {eq: TRASHED}})", vec![2]),
        ("(filter: {or: [{status: {in: [TRASHED]}}, {title: {eq: \"Document 1\"}}]})", vec![1, 2]),
        ("(filter: {status: {ne: READY}})", vec![0, 1]),
        ("(filter: {tags: {has: \"tag1\"}})", vec![1]),
    ] {
        let (answer, _) = ask(&db, &viewer, &format!("{{ documents{filter} {{ nodes {{ id }} }} }}")).await;
        let nodes: Vec<_> = expected.into_iter().map(|n| value!({ "id": id("doc", DOCUMENT, n) })).collect();
        assert_eq!(answer, value!({ "documents": { "nodes": nodes } }), "{filter}");
    }
}

#[tokio::test]
async fn relations_are_one_statement_each() {
    let db = database().await;
    let viewer = signed_in(&db, 0).await.viewer;
    let query =
        "{ documents { nodes { title project { key owner { id } } uploadedBy { user { name } } revisions { totalCount }
        pipeline { stage state attempts reason } } } }";
    let (answer, recorder) = ask(&db, &viewer, query).await;
    let text = answer.to_string();
    assert!(text.contains("KEY0") && text.contains("User 0") && text.contains("No scanner is configured."), "{text}");
    // The page, projects, members, users, revisions.
    assert!(recorder.statements() <= 6, "{}", recorder.statements());
}

#[tokio::test]
async fn a_file_is_handed_out_once_it_was_scanned() {
    let db = database().await;
    let viewer = signed_in(&db, 0).await.viewer;
    let node = id("doc", DOCUMENT, 0);
    let query = format!(
        r#"{{ node(id: "{node}") {{ ... on Document {{ revision status text
            now: downloadUrl  before: downloadUrl(revision: 1)  never: downloadUrl(revision: 3)
            revisions(first: 1) {{ totalCount nodes {{ revision size uploadedBy {{ id }} }} pageInfo {{ hasNextPage endCursor }} }} }} }} }}"#
    );
    let (answer, recorder) = ask(&db, &viewer, &query).await;
    let expected = value!({ "node": {
        "revision": 2, "status": "PROCESSING", "text": null,
        "now": null, "before": "https://files.example.org/blob-0", "never": null,
        "revisions": {
            "totalCount": 2,
            "nodes": [{ "revision": 2, "size": 109, "uploadedBy": { "id": id("mbr", MEMBER, 0) } }],
            "pageInfo": { "hasNextPage": true, "endCursor": "r2" },
        },
    }});
    assert_eq!(answer, expected);
    let address = |name: &str| ["node", name].map(|key| PathPart::Key(key.to_owned())).to_vec();
    let mut passing = recorder.passing_values();
    passing.sort_by_key(|place| format!("{place:?}"));
    assert_eq!(passing, ["before", "never", "now"].map(address), "signed addresses are others each time");
    let query = format!(
        r#"{{ node(id: "{node}") {{ ... on Document {{
            revisions(first: 1, after: "r2") {{ nodes {{ revision }} pageInfo {{ hasNextPage hasPreviousPage }} }} }} }} }}"#
    );
    let rest = value!({ "nodes": [{ "revision": 1 }], "pageInfo": { "hasNextPage": false, "hasPreviousPage": true } });
    assert_eq!(ask(&db, &viewer, &query).await.0, value!({ "node": { "revisions": rest } }));
}

#[tokio::test]
async fn the_log_is_seen_by_who_may_and_found_by_what_it_is_about() {
    let db = database().await;
    let owner = signed_in(&db, 0).await.viewer;
    let project = id("prj", PROJECT, 0);
    let query = |filter: &str| {
        format!(
            "{{ events(filter: {filter}) {{ nodes {{ type subjectId data subject {{ id }} actor {{ __typename }} }} }} }}"
        )
    };
    let entry = |kind: &str, id: &str| {
        value!({ "type": kind, "subjectId": id, "data": { "what": 1 }, "subject": { "id": id },
            "actor": { "__typename": "SystemActor" } })
    };
    let (answer, _) = ask(&db, &owner, &query(&format!(r#"{{subjectId: "{project}"}}"#))).await;
    assert_eq!(answer, value!({ "events": { "nodes": [entry("project_created", &project)] } }));
    let wrong = RawId { prefix: "doc", uuid: uuid(PROJECT, 0) }.to_string();
    for nothing in [
        format!(r#"{{subjectId: "{wrong}"}}"#),
        r#"{subjectId: "nonsense"}"#.to_owned(),
        r#"{types: []}"#.to_owned(),
        format!(r#"{{actorId: "{}"}}"#, id("mbr", MEMBER, 0)),
        r#"{at: {gt: "2999-01-01T00:00:00Z"}}"#.to_owned(),
    ] {
        assert_eq!(ask(&db, &owner, &query(&nothing)).await.0, value!({ "events": { "nodes": [] } }), "{nothing}");
    }
    let (answer, _) = ask(
        &db,
        &owner,
        r#"{ events(filter: {types: ["project_created"]}) { totalCount nodes { sequence position } } }"#,
    )
    .await;
    assert!(answer.to_string().contains("totalCount: 2"), "{answer}");
    // A member may not see events, whatever the way.
    let member = signed_in(&db, 2).await.viewer;
    assert_eq!(ask(&db, &member, "{ events { totalCount } }").await.0, value!({ "events": { "totalCount": 0 } }));
    let event = RawId { prefix: "evt", uuid: Uuid::from_u128(2) }.to_string();
    let query = format!(r#"{{ node(id: "{event}") {{ id }} }}"#);
    assert_eq!(ask(&db, &member, &query).await.0, value!({ "node": null }));
    assert_eq!(ask(&db, &owner, &query).await.0, value!({ "node": { "id": event } }));
}

#[tokio::test]
async fn my_organizations_and_my_sessions() {
    let db = database().await;
    let viewer = signed_in(&db, 2).await.viewer;
    let query =
        "{ organizations { name memberCount projectCount documentCount } sessions { id current ip userAgent } }";
    let (answer, recorder) = ask(&db, &viewer, query).await;
    let organization = |name: &str, members: i32, projects: i32, documents: i32| value!({ "name": name, "memberCount": members, "projectCount": projects, "documentCount": documents });
    let session = |n: u8, current: bool| value!({ "id": id("ses", SESSION, n), "current": current, "ip": "192.0.2.1", "userAgent": "nul" });
    let organizations = vec![organization("Organization 0", 2, 2, 2), organization("Organization 1", 2, 1, 1)];
    let sessions = vec![session(3, false), session(2, true)];
    assert_eq!(answer, value!({ "organizations": organizations, "sessions": sessions }));
    assert_eq!(recorder.stability(), oriel_engine::read::Stability::Until(at(10_000)));
    let ended = signed_in(&db, 0).await.viewer;
    let (answer, _) = ask(&db, &ended, "{ sessions { id } }").await;
    assert_eq!(answer, value!({ "sessions": [{ "id": id("ses", SESSION, 0) }] }));
}

#[tokio::test]
async fn an_operation_is_found_by_its_hash_or_its_text_and_only_in_its_organisation() {
    use persisted_operations::{dependency, operator, published};
    let db = database().await;
    assert_eq!(operator(&db).await.unwrap(), Some(organization(0)));
    let sha256 = oriel_domain::persisted_operations::OperationBody::parse("{ field0 }").unwrap().sha256();
    for hash in ["operation-0", &sha256] {
        assert_eq!(published(&db, organization(0), hash).await.unwrap().as_deref(), Some("{ field0 }"));
        assert_eq!(published(&db, organization(1), hash).await.unwrap(), None);
    }
    assert_eq!(published(&db, organization(0), "operation-1").await.unwrap(), None);
    let mut touched = Vec::new();
    let row = persisted_operations::Entity::find_by_id(Id::from_uuid(uuid(OPERATION, 0))).one(&db).await.unwrap();
    ReadModel::dependencies(&row.unwrap(), &mut |dependency| touched.push(dependency));
    assert!(touched.contains(&dependency(organization(0))), "{touched:?}");
}

#[tokio::test]
async fn signing_in_finds_the_person_and_where_they_act() {
    let db = database().await;
    let found = sign_in::user_by_email(&db, "email/u2@example.org").await.unwrap().unwrap();
    assert_eq!((found.id, found.password_hash.as_deref()), (user(2), Some("$argon2id$secret")));
    assert_eq!(sign_in::user_by_email(&db, "email/nobody").await.unwrap(), None);
    assert_eq!(sign_in::user_by_username(&db, "username/u2").await.unwrap(), None);
    let as_whom = async |user_number, home| sign_in::active_member(&db, user(user_number), home).await.unwrap();
    let member = |n| Id::from_uuid(uuid(MEMBER, n));
    assert_eq!(as_whom(2, None).await, Some((member(2), organization(0))));
    assert_eq!(as_whom(2, Some(organization(1))).await, Some((member(3), organization(1))));
    assert_eq!(as_whom(1, Some(organization(0))).await, None, "only invited");
}

#[tokio::test]
async fn everything_is_described() {
    let db = migrated().await;
    let viewer = Arc::new(Viewer {
        user: user(0),
        member: Id::ABSENT,
        organization: organization(0),
        credential: Credential::Session(Id::ABSENT),
        versions: Arc::default(),
        permissions: Arc::default(),
        visible: Visible::All,
        confined: false,
        unagreed: None,
    });
    let query = "{ __schema { types { name kind description fields { name description args { name description } }
        inputFields { name description } enumValues { name description } } } }";
    let (answer, _) = ask(&db, &viewer, query).await;
    let answer = answer.into_json().unwrap();
    let mut undescribed = Vec::new();
    for kind in answer["__schema"]["types"].as_array().unwrap() {
        let name = kind["name"].as_str().unwrap();
        // GraphQL's own, and this test's.
        if name.starts_with("__") || ["Query", "ID"].contains(&name) {
            continue;
        }
        let mut expect = |described: &serde_json::Value, path: String| {
            if described["description"].as_str().is_none_or(|text| text.trim().is_empty()) {
                undescribed.push(path);
            }
        };
        expect(kind, name.to_owned());
        for list in ["fields", "inputFields", "enumValues"] {
            for part in kind[list].as_array().into_iter().flatten() {
                let path = format!("{name}.{}", part["name"].as_str().unwrap());
                expect(part, path.clone());
                for argument in part["args"].as_array().into_iter().flatten() {
                    expect(argument, format!("{path}({})", argument["name"].as_str().unwrap()));
                }
            }
        }
    }
    assert!(undescribed.is_empty(), "{undescribed:?}");
    let sdl = Schema::new(Query, EmptyMutation, EmptySubscription).sdl();
    for line in [
        "type Document implements Node {",
        "interface Node {",
        "pipeline: [DocumentStage!]!",
        "text(",
        "union Actor = Member | User | ApiKey | SystemActor",
        "subjectId: ID",
        "types: [String!]",
        "data: JSON!",
        "correlationId: ID!",
        "position: Position!",
        "roles: [Role!]!",
        "enum Stage {",
    ] {
        assert!(sdl.contains(line), "{line} is not in\n{sdl}");
    }
}
