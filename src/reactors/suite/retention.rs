//! What was kept for long enough goes, whatever the ages and whatever is said, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use oriel_domain::documents::DeleteDocument;
use oriel_domain::members::InviteMember;
use oriel_domain::retention::{ChangeRetention, RetentionKind, Rules, retention_id};
use oriel_domain::roles::RoleName;
use oriel_domain::sessions::{EndReason, EndSession, SignInMethod, StartSession};
use oriel_engine::read::Tags as Words;
use oriel_kernel::{Actor, SessionId};
use oriel_read_models::access_log::{self, AccessKind, Reading};
use oriel_read_models::members::{self, MemberStatus};
use oriel_read_models::retention::{holding, sweeps};
use oriel_read_models::sessions;

use super::*;
use crate::retention::Retention;

const DAY: i64 = 24 * 3600;
/// How long everything takes, in days.
const TIME: i64 = 60;
const KINDS: [RetentionKind; 4] =
    [RetentionKind::Sessions, RetentionKind::Invitations, RetentionKind::AccessLog, RetentionKind::Trash];

/// An organisation with its owner and a project.
struct Place {
    organization: OrganizationId,
    member: MemberId,
    project: ProjectId,
}

/// Something that may be removed, and for how many days and a half it may be at the end.
struct Thing {
    kind: RetentionKind,
    place: usize,
    age: i64,
}

/// Numbers that look like chance and are the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end.unsigned_abs()) as i64
    }
}

impl House {
    fn of(&self, organization: OrganizationId) -> CommandContext {
        CommandContext::system(self.engine.new_id(), organization, self.engine.now())
    }

    async fn establish(&self, slug: &str) -> Place {
        let (organization, member, project) = (self.engine.new_id(), self.engine.new_id(), self.engine.new_id());
        let create = CreateOrganization {
            name: OrganizationName::parse(slug).unwrap(),
            slug: Slug::parse(slug).unwrap(),
            owner: self.user,
        };
        let found = FoundMember { organization, user: self.user };
        let both = Transaction::new().and(organization, create).and(member, found);
        self.engine.transact(&self.of(organization), both).await.unwrap();
        let create = CreateProject {
            key: ProjectKey::parse("ATLAS").unwrap(),
            name: ProjectName::parse("Atlas").unwrap(),
            description: None,
            owner: member,
        };
        self.engine.execute(&self.of(organization), project, create).await.unwrap();
        Place { organization, member, project }
    }

    async fn say(&self, organization: OrganizationId, kind: RetentionKind, days: Option<i32>) {
        let rule = Rules::default().of(kind).unwrap();
        let change = ChangeRetention { rule, days };
        self.engine.execute(&self.of(organization), retention_id(organization, kind), change).await.unwrap();
    }

    async fn begin(&self, place: &Place, expires_at: Timestamp) -> SessionId {
        let session = self.engine.new_id();
        let start = StartSession {
            user: self.user,
            member: place.member,
            organization: place.organization,
            refresh_hash: session.to_string(),
            ip: Some("192.0.2.7".to_owned()),
            user_agent: None,
            expires_at,
            provider: None,
            method: Some(SignInMethod::Password),
        };
        self.engine.execute(&self.of(place.organization), session, start).await.unwrap();
        session
    }

    async fn put(&self, place: &Place) -> DocumentId {
        let file = StoredFile { uploaded_by: place.member, ..self.file("a.txt", "text/plain", b"one").await };
        let (id, title, tags) = (self.engine.new_id(), Title::parse("A").unwrap(), Tags::parse(["a"]).unwrap());
        let upload = UploadDocument { project: place.project, title, tags, file };
        self.engine.execute(&self.of(place.organization), id, upload).await.unwrap();
        id
    }

    /// Makes something that may be removed from this moment on; its row.
    async fn make(&self, kind: RetentionKind, place: &Place, by_time: bool) -> Uuid {
        let now = self.engine.now();
        match kind {
            RetentionKind::Sessions if by_time => self.begin(place, now).await.uuid(),
            RetentionKind::Sessions => {
                let session = self.begin(place, now + Duration::from_secs(20 * 24 * 3600)).await;
                let end = EndSession { reason: EndReason::SignedOut };
                self.engine.execute(&self.of(place.organization), session, end).await.unwrap();
                session.uuid()
            }
            RetentionKind::Invitations => {
                let member: MemberId = self.engine.new_id();
                let invite = InviteMember {
                    user: self.engine.new_id(),
                    email: Email::parse(&format!("{}@example.org", member.uuid().simple())).unwrap(),
                    roles: vec![RoleName::Member.into()],
                    invited_by: place.member,
                };
                self.engine.execute(&self.of(place.organization), member, invite).await.unwrap();
                member.uuid()
            }
            RetentionKind::AccessLog => {
                let id = self.engine.new_id::<()>().uuid();
                let reading = Reading {
                    id,
                    organization: place.organization,
                    at: now,
                    kind: AccessKind::Person,
                    actor: Actor::Member(place.member),
                    operation: None,
                    ids: Words::default(),
                };
                access_log::add(self.engine.database().writer(), vec![reading]).await.unwrap();
                id
            }
            RetentionKind::Trash => {
                let document = self.put(place).await;
                self.engine.execute(&self.of(place.organization), document, DeleteDocument).await.unwrap();
                document.uuid()
            }
        }
    }

    /// The rows of everything that is there.
    async fn there(&self) -> BTreeSet<Uuid> {
        let reader = self.engine.database().reader();
        let mut rows = BTreeSet::new();
        rows.extend(sessions::Entity::find().all(reader).await.unwrap().iter().map(|row| row.id.uuid()));
        rows.extend(members::Entity::find().all(reader).await.unwrap().iter().map(|row| row.id.uuid()));
        let documents = oriel_read_models::documents::Entity::find().all(reader).await.unwrap();
        rows.extend(documents.iter().map(|row| row.id.uuid()));
        let readings = access_log::Entity::find().all(reader).await.unwrap();
        rows.extend(readings.iter().filter(|row| row.kind != AccessKind::Removal).map(|row| row.id));
        rows
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_is_what_is_said_and_nothing_else() {
    for seed in 1..=3 {
        let (house, mut chance) = (House::new().await, Chance(seed));
        let rules = Rules::default()
            .by_default(RetentionKind::Sessions, 20)
            .by_default(RetentionKind::Invitations, 25)
            .by_default(RetentionKind::AccessLog, 30);
        let places = [house.establish("engines").await, house.establish("looms").await, house.establish("mills").await];
        let mut says = BTreeMap::new();
        for (n, place) in places.iter().enumerate() {
            for kind in KINDS {
                // Some say nothing, and some take back what they said.
                let days = (chance.below(3) > 0).then(|| i32::try_from(1 + chance.below(TIME - 2)).unwrap());
                house.say(place.organization, kind, Some(1)).await;
                house.say(place.organization, kind, days).await;
                says.insert((n, kind), rules.of(kind).unwrap().applies(days).map(i64::from));
            }
        }
        let mut things = Vec::new();
        for _ in 0..60 {
            let (kind, place) = (KINDS[chance.below(4) as usize], chance.below(3) as usize);
            let mut age = chance.below(TIME - 1);
            // Readings go by whole days: half a day more or less would be told by the hour of this test.
            if kind == RetentionKind::AccessLog && says[&(place, kind)] == Some(age) {
                age += 1;
            }
            things.push(Thing { kind, place, age });
        }
        things.sort_by_key(|thing| -thing.age);
        let (mut stays, mut goes) = (BTreeSet::new(), BTreeMap::<_, u64>::new());
        // What goes on is not removed, however old it is.
        for place in &places {
            stays.insert(house.begin(place, house.engine.now() + Duration::from_secs(1_000 * 24 * 3600)).await.uuid());
            stays.insert(house.put(place).await.uuid());
        }
        for Thing { kind, place, age } in &things {
            house.clock.0.store((TIME - age) * DAY - DAY / 2, Ordering::SeqCst);
            let row = house.make(*kind, &places[*place], chance.below(2) == 0).await;
            match says[&(*place, *kind)] {
                Some(days) if *age >= days => *goes.entry((*kind, places[*place].organization)).or_default() += 1,
                _ => {
                    stays.insert(row);
                }
            }
        }
        let rows = members::Entity::find().all(house.engine.database().reader()).await.unwrap();
        let people = rows.iter().filter(|row| row.status == MemberStatus::Active);
        stays.extend(people.map(|row| row.id.uuid()));

        house.clock.0.store(TIME * DAY, Ordering::SeqCst);
        let sweep = Retention::new(Arc::clone(&house.engine), rules);
        let (reader, now) = (house.engine.database().reader(), house.engine.now());
        for (n, place) in places.iter().enumerate() {
            for kind in KINDS {
                let before = says[&(n, kind)].map(|days| kind.due_before(now, i32::try_from(days).unwrap()));
                let due = holding(reader, (place.organization, kind), now, before).await.unwrap().due;
                let expected = goes.get(&(kind, place.organization)).copied().unwrap_or_default();
                assert_eq!(u64::try_from(due).unwrap(), expected, "seed {seed}: what is reported as due, {kind:?}");
            }
        }
        assert_eq!(sweep.run().await.unwrap(), Some(goes.clone()), "seed {seed}");
        assert_eq!(house.there().await, stays, "seed {seed}");
        for ((kind, organization), count) in &goes {
            let swept = sweeps::of(reader, (*organization, *kind)).await.unwrap().unwrap();
            assert_eq!((swept.removed, swept.removed_in_all), (*count as i64, *count as i64));
        }
        assert!(sweeps::last(reader).await.unwrap().is_some());
        assert_eq!(sweep.run().await.unwrap(), Some(BTreeMap::new()), "seed {seed}: once");
        // What is read from the log alone is the same.
        for table in ["sessions", "members", "documents", "organizations", "projects", "retentions"] {
            let verified = house.engine.verify(table).await.unwrap();
            assert_eq!((verified.only_running, verified.only_replayed), (0, 0), "seed {seed}: {table}: {verified:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_sweeps_at_a_time_and_whoever_dies_is_followed() {
    let house = House::new().await;
    let place = house.establish("engines").await;
    house.say(place.organization, RetentionKind::Sessions, Some(1)).await;
    let session = house.make(RetentionKind::Sessions, &place, false).await;
    house.clock.0.store(3 * DAY, Ordering::SeqCst);
    let node = Retention::new(Arc::clone(&house.engine), Rules::default());
    let (now, dead) = (house.engine.now(), Uuid::from_u128(7));
    let until = now + Duration::from_secs(300);
    assert!(sweeps::hold(house.engine.database().writer(), dead, (now, until)).await.unwrap());
    assert_eq!(node.run().await.unwrap(), None);
    assert!(house.there().await.contains(&session));
    house.clock.0.store(3 * DAY + 301, Ordering::SeqCst);
    assert_eq!(node.run().await.unwrap().unwrap().values().sum::<u64>(), 1);
    assert!(!house.there().await.contains(&session));
    // It was given back.
    let another = Retention::new(Arc::clone(&house.engine), Rules::default());
    assert_eq!(another.run().await.unwrap(), Some(BTreeMap::new()));
}
