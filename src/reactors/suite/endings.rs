//! An organisation ends when it is due, and nothing of it is left anywhere; the other one notices nothing.

use oriel_domain::organizations::{CancelDeletion, EndOrganization, RemoveRows, ScheduleDeletion};
use oriel_engine::rebuild::unwatched;
use oriel_read_models::erasures;
use oriel_read_models::organizations::standings::{Standing, standing};

use super::*;
use crate::search_index::INDEX;

const DAY: i64 = 24 * 3600;

struct Other {
    organization: OrganizationId,
    project: ProjectId,
    document: DocumentId,
}

impl House {
    /// A further organisation of the same person, with a project and a document.
    async fn beside(&self) -> Other {
        let (organization, member) = (self.engine.new_id(), self.engine.new_id());
        let create = CreateOrganization {
            name: OrganizationName::parse("Looms").unwrap(),
            slug: Slug::parse("looms").unwrap(),
            owner: self.user,
        };
        let found = FoundMember { organization, user: self.user };
        let context = CommandContext::system(self.engine.new_id(), organization, self.engine.now());
        let both = Transaction::new().and(organization, create).and(member, found);
        self.engine.transact(&context, both).await.unwrap();
        let create = CreateProject {
            key: ProjectKey::parse("LOOM").unwrap(),
            name: ProjectName::parse("Atlas of looms").unwrap(),
            description: None,
            owner: member,
        };
        let context = |id| CommandContext::system(id, organization, self.engine.now());
        let project = self.engine.new_id();
        self.engine.execute(&context(self.engine.new_id()), project, create).await.unwrap();
        let file =
            StoredFile { uploaded_by: member, ..self.file("loom.txt", "text/plain", b"a whale of a loom").await };
        let document = self.engine.new_id();
        let (title, tags) = (Title::parse("A loom").unwrap(), Tags::parse(["cloth"]).unwrap());
        let upload = UploadDocument { project, title, tags, file };
        self.engine.execute(&context(self.engine.new_id()), document, upload).await.unwrap();
        Other { organization, project, document }
    }

    async fn hits(&self, organization: OrganizationId, query: &str) -> usize {
        let scope = Scope { organization: organization.uuid(), projects: None };
        let request = SearchRequest { query: query.to_owned(), first: 100, ..SearchRequest::default() };
        self.search.search(&scope, &request).await.unwrap().hits.len()
    }

    /// Waits until the erasure of this organisation is certified.
    async fn erased(&self) -> erasures::Model {
        let mut head = self.engine.feed().watch();
        let waiting = async {
            loop {
                head.mark_unchanged();
                let row = erasures::Entity::find_by_id(self.organization.uuid());
                let row = row.one(self.engine.database().reader()).await.unwrap();
                if let Some(row) = row.filter(|row| row.completed_at.is_some()) {
                    return row;
                }
                head.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("the end does not come to its end")
    }

    /// Nothing of the organisation is anywhere, whatever is made anew of the log.
    async fn is_gone(&self, reactors: &Reactors, other: &Other) {
        assert_eq!(self.engine.some_rows(self.organization).await.unwrap(), None);
        assert_eq!(standing(self.engine.database().reader(), self.organization).await.unwrap(), None);
        assert_eq!(self.hits(self.organization, "").await, 0);
        assert_eq!(self.hits(other.organization, "whale").await, 1);
        assert_eq!((self.keys(FILES).await, self.keys(crate::TEXTS).await), (1, 1), "the other one's file and text");
        assert_eq!(self.row(other.document).await.map(|row| row.project_id), Some(other.project));
        assert_eq!(self.engine.log().verify().await.unwrap(), None);
        for read_model in self.engine.read_models() {
            let verified = self.engine.verify(read_model.table()).await.unwrap();
            assert_eq!((verified.only_running, verified.only_replayed), (0, 0), "{verified:?}");
        }
        let verified = reactors.verify_index().await.unwrap();
        assert_eq!((verified.name, verified.only_running, verified.only_replayed), (INDEX, 0, 0));
        let facts = "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM facts WHERE scope LIKE $1";
        let values = [sea_orm::Value::from(format!("%{}%", self.organization))];
        let statement = sea_orm::Statement::from_sql_and_values(self.engine.database().backend(), facts, values);
        use sea_orm::ConnectionTrait;
        let row = self.engine.database().reader().query_one_raw(statement).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "n").unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_it_is_due_and_nothing_is_left_and_the_other_one_notices_nothing() {
    let house = House::new().await;
    let reactors = house.start();
    let other = house.beside().await;
    for n in 0..60 {
        house.make_project(house.engine.new_id(), &format!("KEY{n}"), &format!("Project {n}")).await;
    }
    let document = house.upload("A whale", "text/plain", b"of the harbour").await;
    house.ready(document).await;
    house.ready(other.document).await;
    house.indexed(&reactors).await;
    assert!(house.hits(house.organization, "harbour").await == 1 && house.keys(FILES).await == 2);

    let ends_at = house.engine.now() + TimeDelta::days(30);
    house.run(house.organization, ScheduleDeletion { ends_at }).await;
    assert_eq!(reactors.end_due().await.unwrap(), 0);
    house.clock.0.store(31 * DAY, Ordering::SeqCst);
    house.run(house.organization, CancelDeletion).await;
    assert_eq!(reactors.end_due().await.unwrap(), 0, "it was called off");
    let ends_at = house.engine.now() + TimeDelta::days(30);
    house.run(house.organization, ScheduleDeletion { ends_at }).await;
    house.clock.0.store(62 * DAY, Ordering::SeqCst);
    assert_eq!(reactors.end_due().await.unwrap(), 1);

    let certificate = house.erased().await;
    house.indexed(&reactors).await;
    house.is_gone(&reactors, &other).await;
    let stores = serde_json::to_value(&certificate.stores).unwrap();
    let names: Vec<&str> = stores.as_array().unwrap().iter().map(|store| store["store"].as_str().unwrap()).collect();
    for store in ["data_keys", "documents", "document_revisions", "members", "sessions", "search", "blobs", "facts"] {
        assert!(names.contains(&store), "{store} is missing in {names:?}");
    }
    // Again, and late: nothing happens to it any more.
    assert_eq!(reactors.end_due().await.unwrap(), 0);
    let head = house.engine.feed().head();
    let again = house.engine.execute(&house.system(), house.organization, EndOrganization).await.unwrap();
    assert!(again.events.is_empty() && house.engine.feed().head() == head);
    let late = house.engine.execute(&house.system(), document, oriel_domain::documents::DeleteDocument).await;
    assert!(late.is_err(), "nothing more is written into it");
    for read_model in house.engine.read_models() {
        house.engine.rebuild(read_model.table(), &unwatched).await.unwrap();
    }
    reactors.rebuild_index(&unwatched).await.unwrap();
    house.is_gone(&reactors, &other).await;
    reactors.stop().await;
}

/// The process was killed halfway: what it had begun goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_goes_on_after_a_restart() {
    let house = House::new().await;
    let other = house.beside().await;
    for n in 0..60 {
        house.make_project(house.engine.new_id(), &format!("KEY{n}"), &format!("Project {n}")).await;
    }
    house.upload("A whale", "text/plain", b"of the harbour").await;
    house.run(house.organization, ScheduleDeletion { ends_at: house.engine.now() }).await;
    house.run(house.organization, EndOrganization).await;
    // As far as a killed one had come.
    let rows = house.engine.some_rows(house.organization).await.unwrap().unwrap();
    house.run(house.organization, RemoveRows { rows }).await;
    assert_eq!(standing(house.engine.database().reader(), house.organization).await.unwrap(), Some(Standing::Ended));
    house.engine.stop().await;
    let engine = house.another_engine().await;
    let house = House { engine, ..house };

    let reactors = house.start();
    house.ready(other.document).await;
    house.erased().await;
    house.indexed(&reactors).await;
    house.is_gone(&reactors, &other).await;
    reactors.stop().await;
}

/// Whatever belongs to an organisation is made of the log, or removed with it, or both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_of_an_organisation_is_forgotten() {
    use sea_orm::{ConnectionTrait, DbBackend, Statement};
    let house = House::new().await;
    let sql = "SELECT t.name FROM sqlite_master t JOIN pragma_table_info(t.name) c ON c.name = 'organization_id' \
               WHERE t.type = 'table' ORDER BY t.name";
    let statement = Statement::from_string(DbBackend::Sqlite, sql);
    let found = house.engine.database().reader().query_all_raw(statement).await.unwrap();
    let found = found.iter().map(|row| row.try_get::<String>("", "name").unwrap());
    let read_models = house.engine.read_models().iter().filter(|read_model| read_model.has_tenant());
    let mut removed: Vec<&str> = read_models.map(|read_model| read_model.table()).collect();
    removed.extend(crate::endings::BESIDE);
    // The log stays, sealed; jobs have a way of their own.
    removed.extend(["events", "jobs"]);
    let forgotten: Vec<String> = found.filter(|table| !removed.contains(&table.as_str())).collect();
    assert_eq!(forgotten, Vec::<String>::new(), "say in `endings.rs` how these are removed");
}
