//! What looks like an attack is raised once, however often it is looked at, and forgets with its person.

use oriel_domain::security_events::SecurityEventEvent;
use oriel_domain::sessions::{RefreshSession, SignInMethod, StartSession};
use oriel_domain::users::erasure::EraseUser;
use oriel_kernel::SessionId;
use oriel_read_models::security_events::{self, SecurityEventKind, SecuritySeverity};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::*;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

impl House {
    async fn sign_in(&self, address: &str, program: &str) -> SessionId {
        let id = self.engine.new_id();
        let start = StartSession {
            user: self.user,
            member: self.member,
            organization: self.organization,
            refresh_hash: "h0".to_owned(),
            ip: Some(address.to_owned()),
            user_agent: Some(program.to_owned()),
            expires_at: self.engine.now() + TimeDelta::hours(1),
            provider: None,
            method: Some(SignInMethod::Password),
        };
        self.run(id, start).await;
        id
    }

    async fn refresh(&self, session: SessionId, presented: &str, next: &str) {
        let expires_at = self.engine.now() + TimeDelta::hours(1);
        let refresh = RefreshSession { presented_hash: presented.to_owned(), next_hash: next.to_owned(), expires_at };
        self.run(session, refresh).await;
    }

    /// Waits until the security events, in the order of their kinds, are like this.
    async fn security_events(&self, fits: impl Fn(&[security_events::Model]) -> bool) -> Vec<security_events::Model> {
        let mut head = self.engine.feed().watch();
        let waiting = async {
            loop {
                head.mark_unchanged();
                let rows = security_events::Entity::find().all(self.engine.database().reader()).await.unwrap();
                if fits(&rows) {
                    return rows;
                }
                head.changed().await.unwrap();
            }
        };
        let mut rows = tokio::time::timeout(LONG, waiting).await.expect("they do not become so");
        rows.sort_by_key(|row| format!("{:?}", row.kind));
        rows
    }

    /// Waits until as many sign-ins and the like were looked at.
    async fn looked_at(&self, count: i64) {
        let sql = "SELECT count(*) AS n FROM jobs WHERE queue = 'security' AND state = 'done'";
        let done = async {
            loop {
                let statement = Statement::from_string(DbBackend::Sqlite, sql);
                let row = self.engine.database().reader().query_one_raw(statement).await.unwrap().unwrap();
                if row.try_get::<i64>("", "n").unwrap() == count {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, done).await.expect("not everything is looked at");
    }

    async fn raised(&self) -> usize {
        let events = self.engine.log().read(Position::START, 10_000).await.unwrap();
        events.iter().filter(|event| event.event_as::<SecurityEventEvent>().is_some()).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_raised_once_however_often_the_log_is_followed_and_forgets_with_its_person() {
    let house = House::new().await;
    for address in ["203.0.113.7", "203.0.113.8", "203.0.120.9"] {
        house.sign_in(address, FIREFOX).await;
    }
    house.sign_in("198.51.100.9", "curl/8.14.1").await;
    let session = house.sign_in("203.0.113.7", FIREFOX).await;
    house.refresh(session, "h0", "h1").await;
    house.refresh(session, "h0", "h2").await;
    let reactors = house.start();
    let rows = house.security_events(|rows| rows.len() == 2).await;
    house.looked_at(6).await;
    let [reused, unusual] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((reused.kind, reused.severity), (SecurityEventKind::RefreshTokenReused, SecuritySeverity::High));
    assert_eq!((unusual.kind, unusual.severity), (SecurityEventKind::UnusualSignIn, SecuritySeverity::Medium));
    assert_eq!(unusual.source_address.as_deref(), Some("198.51.100.9"));
    assert_eq!((unusual.member_id, unusual.organization_id), (Some(house.member), house.organization));
    assert_eq!(house.raised().await, 2);
    reactors.stop().await;

    // As if nobody had ever looked: everything is looked at again, and nothing is raised twice.
    for sql in ["DELETE FROM jobs WHERE queue = 'security'", "DELETE FROM consumers WHERE name = 'security_events'"] {
        house.engine.database().writer().execute_unprepared(sql).await.unwrap();
    }
    let reactors = house.start();
    house.looked_at(6).await;
    assert_eq!(house.raised().await, 2);

    // The person is forgotten: where they were is forgotten with them, and a replay knows no more.
    let context = CommandContext::system(house.engine.new_id(), Id::ABSENT, house.engine.now());
    house.engine.execute(&context, house.user, EraseUser { by: None }).await.unwrap();
    let rows = house.security_events(|rows| rows.iter().all(|row| row.source_address.is_none())).await;
    assert_eq!((rows.len(), rows[1].source_program.as_deref()), (2, None));
    let verified = house.engine.verify("security_events").await.unwrap();
    assert_eq!((verified.only_running, verified.only_replayed), (0, 0), "{verified:?}");
    reactors.stop().await;
}
