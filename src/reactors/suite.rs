//! The side effects on a real engine (SQLite), real blobs, a real index and a real child: this test program starts
//! itself as the reader of documents. Nothing sleeps: tests wait on the feed and on positions.

mod data_exports;
mod documents;
mod endings;
mod index;
mod leftovers;
mod retention;
mod scan;
mod security_events;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use oriel_backends::blobs::{BlobKey, Blobs, UrlKeys};
use oriel_backends::extraction::{Program, child_main};
use oriel_backends::mail::Mail;
use oriel_backends::search::{Scope, Search, SearchAnswer, SearchRequest};
use oriel_domain::documents::{DocumentEvent, DocumentId, FileName, StoredFile, Tags, Title, UploadDocument};
use oriel_domain::members::FoundMember;
use oriel_domain::organizations::{CreateOrganization, OrganizationName, Slug};
use oriel_domain::projects::{CreateProject, Description, ProjectId, ProjectKey, ProjectName};
use oriel_domain::users::{Email, PasswordHash, PersonName, RegisterUser};
use oriel_engine::engine::{Parts as EngineParts, Sources, SystemSources};
use oriel_engine::queue::QueueLimits;
use oriel_engine::{CommandContext, Committed, Database, Engine, Transaction};
use oriel_kernel::{Aggregate, Command, Id, MemberId, OrganizationId, Position, Recorded, Timestamp, UserId};
use oriel_migrations::Migrator;
use oriel_read_models::documents::{DocumentStatus, Model, Stage, StageState};
use sea_orm::EntityTrait;
use sea_orm_migration::MigratorTrait;
use uuid::Uuid;

use crate::{FILES, Limits, Parts, Reactors, open_index};

/// Longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(60);

/// Not a test: what the child runs. The arguments of the child are filters that match no test.
#[test]
#[ignore = "the child of the tests beside it"]
fn child_entry() {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--type").peekable();
    if arguments.peek().is_some() {
        let code = child_main(arguments);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

fn reader() -> Program {
    let path = std::env::current_exe().unwrap();
    Program::new(path, ["suite::child_entry", "--exact", "--ignored", "--nocapture", "--"])
}

/// A reader that never ends.
fn stuck() -> Program {
    Program::new("/bin/sh".into(), ["-c", "exec sleep 600"])
}

/// The machine's clock, some seconds ahead.
#[derive(Default)]
struct Ahead(AtomicI64);

impl Sources for Ahead {
    fn now(&self) -> Timestamp {
        SystemSources.now() + TimeDelta::seconds(self.0.load(Ordering::SeqCst))
    }
    fn id(&self) -> Uuid {
        SystemSources.id()
    }
}

struct House {
    folder: tempfile::TempDir,
    clock: Arc<Ahead>,
    engine: Arc<Engine>,
    blobs: Blobs,
    search: Search,
    organization: OrganizationId,
    user: UserId,
    member: MemberId,
    project: ProjectId,
}

async fn engine(folder: &Path, clock: &Arc<Ahead>) -> Arc<Engine> {
    let database = oriel_engine::db::Location::Sqlite(folder.join("oriel.db"));
    let database = Database::open(&database, 4).await.unwrap();
    Migrator::up(database.writer(), None).await.unwrap();
    let engine = Engine::start(EngineParts {
        database,
        master: Arc::new(oriel_engine::keyring::MasterKey::new([7; 32])),
        decoders: oriel_domain::DECODERS,
        read_models: oriel_read_models::read_models(),
        sources: Arc::clone(clock) as _,
        limits: QueueLimits::default(),
        cached_aggregates: 1_000,
        remembered_changes: 1_000,
    });
    engine.await.unwrap()
}

impl House {
    /// An organisation with its owner and the project ATLAS; nothing follows the log yet.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Ahead::default());
        let engine = engine(folder.path(), &clock).await;
        let blobs = Blobs::open_folder(&folder.path().join("blobs"), UrlKeys::new("k", &[1; 32])).await.unwrap();
        let search = open_index(&folder.path().join("index")).await.unwrap();
        let (organization, user) = (engine.new_id(), engine.new_id());
        let (member, project) = (engine.new_id(), engine.new_id());
        let house = Self { folder, clock, engine, blobs, search, organization, user, member, project };
        house.settle().await;
        house
    }

    /// As if the process had begun anew.
    async fn another_engine(&self) -> Arc<Engine> {
        engine(self.folder.path(), &self.clock).await
    }

    async fn settle(&self) {
        let register = RegisterUser {
            email: Email::parse("ada@example.org").unwrap(),
            username: None,
            name: PersonName::parse("Ada").unwrap(),
            password_hash: PasswordHash::new("$argon2id$secret"),
        };
        let context = CommandContext::system(self.engine.new_id(), Id::ABSENT, self.engine.now());
        self.engine.execute(&context, self.user, register).await.unwrap();
        let create = CreateOrganization {
            name: OrganizationName::parse("Maps").unwrap(),
            slug: Slug::parse("maps").unwrap(),
            owner: self.user,
        };
        let found = FoundMember { organization: self.organization, user: self.user };
        let both = Transaction::new().and(self.organization, create).and(self.member, found);
        self.engine.transact(&self.system(), both).await.unwrap();
        self.make_project(self.project, "ATLAS", "Atlas of mountains").await;
    }

    fn system(&self) -> CommandContext {
        CommandContext::system(self.engine.new_id(), self.organization, self.engine.now())
    }

    async fn run<C: Command>(&self, id: Id<<C::Aggregate as Aggregate>::Kind>, command: C) -> Committed {
        self.engine.execute(&self.system(), id, command).await.unwrap()
    }

    async fn make_project(&self, id: ProjectId, key: &str, name: &str) -> Committed {
        let create = CreateProject {
            key: ProjectKey::parse(key).unwrap(),
            name: ProjectName::parse(name).unwrap(),
            description: Some(Description::parse("Where they rise").unwrap()),
            owner: self.member,
        };
        self.run(id, create).await
    }

    async fn file(&self, name: &str, media_type: &str, content: &[u8]) -> StoredFile {
        let key = BlobKey::fresh(FILES, self.engine.new_id::<()>().uuid());
        let info = self.blobs.write(&key, Bytes::copy_from_slice(content)).await.unwrap();
        StoredFile {
            name: FileName::parse(name).unwrap(),
            media_type: media_type.to_owned(),
            size: content.len() as i64,
            sha256: info.sha256_hex(),
            blob: key.to_string(),
            validation: Ok(()),
            scanner: false,
            user: self.user,
            uploaded_by: self.member,
        }
    }

    async fn upload(&self, title: &str, media_type: &str, content: &[u8]) -> DocumentId {
        let file = self.file("notes.txt", media_type, content).await;
        let id = self.engine.new_id();
        let (title, tags) = (Title::parse(title).unwrap(), Tags::parse(["water"]).unwrap());
        self.run(id, UploadDocument { project: self.project, title, tags, file }).await;
        id
    }

    fn parts(&self) -> Parts {
        Parts {
            engine: Arc::clone(&self.engine),
            blobs: self.blobs.clone(),
            search: self.search.clone(),
            scanner: None,
            mail: Mail::open(None, &self.folder.path().join("outbox"), "oriel@example.org").unwrap(),
            base_url: "http://oriel.test".to_owned(),
            program: reader(),
            limits: Limits::default(),
        }
    }

    fn start(&self) -> Reactors {
        Reactors::start(self.parts())
    }

    async fn row(&self, id: DocumentId) -> Option<Model> {
        oriel_read_models::documents::Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap()
    }

    /// Waits until the document's row is like this.
    async fn until(&self, id: DocumentId, fits: impl Fn(&Model) -> bool) -> Model {
        let mut head = self.engine.feed().watch();
        let waiting = async {
            loop {
                head.mark_unchanged();
                if let Some(row) = self.row(id).await.filter(|row| fits(row)) {
                    return row;
                }
                head.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(LONG, waiting).await {
            Ok(row) => row,
            Err(_) => panic!("it stays {:?}", self.row(id).await),
        }
    }

    async fn ready(&self, id: DocumentId) -> Model {
        self.until(id, |row| row.status == DocumentStatus::Ready).await
    }

    /// What happened to the document, and how often each thing did.
    async fn history(&self, id: DocumentId) -> Vec<Arc<Recorded>> {
        self.engine.log().read_subject(id.uuid()).await.unwrap()
    }

    async fn count(&self, id: DocumentId, of: impl Fn(&DocumentEvent) -> bool) -> usize {
        self.history(id).await.iter().filter(|event| event.event_as().is_some_and(&of)).count()
    }

    async fn answer(&self, query: &str) -> SearchAnswer {
        let scope = Scope { organization: self.organization.uuid(), projects: None };
        let request = SearchRequest { query: query.to_owned(), first: 100, ..SearchRequest::default() };
        self.search.search(&scope, &request).await.unwrap()
    }

    async fn found(&self, query: &str) -> Vec<String> {
        self.answer(query).await.hits.into_iter().map(|hit| hit.id).collect()
    }

    /// Waits until the index has everything that is in the log now.
    async fn indexed(&self, reactors: &Reactors) -> Position {
        let head = self.engine.feed().head();
        reactors.index_reached(head, LONG).await.unwrap();
        head
    }

    async fn keys(&self, prefix: oriel_backends::blobs::BlobPrefix) -> usize {
        self.blobs.list(prefix, None, 1_000).await.unwrap().len()
    }

    fn index_folder(&self) -> std::path::PathBuf {
        Path::join(self.folder.path(), "index")
    }
}

/// Where a stage stands, and the how many-eth time.
fn stage(row: &Model, stage: Stage) -> (StageState, i32) {
    row.pipeline.shown().iter().find(|step| step.stage == stage).map(|step| (step.state, step.attempts)).unwrap()
}

fn reason(row: &Model, stage: Stage) -> String {
    row.pipeline.shown().into_iter().find(|step| step.stage == stage).and_then(|step| step.reason).unwrap_or_default()
}
