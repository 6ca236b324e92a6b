//! What is deleted is gone: an organisation at its end, a person who is erased. Everybody else notices nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use serde_json::{Value, json};

use crate::support::{Cluster, Environment, Server, Session, databases};

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse battery";

/// A subscription over server-sent events, and everything that it was told.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(session: &Session, query: &str) -> Self {
        let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
        let request = request.header("Accept", "text/event-stream").json(&json!({ "query": query }));
        Self { response: request.send().await.unwrap(), text: String::new() }
    }

    async fn until(&mut self, said: &str) {
        while !self.text.contains(said) {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("{said} does not come: {}", self.text)).unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("{}", self.text))).unwrap());
        }
    }

    /// Everything up to its end.
    async fn end(mut self) -> String {
        while let Some(chunk) =
            tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream goes on").unwrap()
        {
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.text
    }

    /// What has come by now, but for the signs that the stream lives.
    async fn so_far(&mut self) -> String {
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_millis(50), self.response.chunk()).await {
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.text.replace(":\n\n", "")
    }
}

/// What somebody sees of their organisation.
const VIEW: &str = "{ organization { id name memberCount documentCount } members { nodes { id status user { name email } } totalCount }
    projects { nodes { id name key documentCount } totalCount }
    documents { nodes { id title fileName text } totalCount }
    search(query: \"harbour\") { totalCount nodes { ... on Document { id title } } }
    suggest(prefix: \"har\") { text }
    events(first: 100) { nodes { type sequence } totalCount } viewer { organizations { id } } }";

/// A document of this title from a file of this name, once it is read.
async fn document(session: &Session, project: &str, title: &str, file_name: &str) -> String {
    let query = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } userErrors { message } } }";
    let input = json!({ "projectId": project, "title": title, "file": null });
    let part = reqwest::multipart::Part::bytes("Of the harbour.".as_bytes()).file_name(file_name.to_owned());
    let form = reqwest::multipart::Form::new()
        .text("operations", json!({ "query": query, "variables": { "input": input } }).to_string())
        .text("map", r#"{"0":["variables.input.file"]}"#)
        .part("0", part);
    let request = session.http.post(format!("{}/graphql", session.url)).header("graphql-require-preflight", "1");
    let made = request.bearer_auth(&session.token).multipart(form).send().await.unwrap().json::<Value>().await.unwrap();
    let id = made["data"]["documentUpload"]["document"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    assert_eq!(session.document_ends(&id).await["status"], "READY");
    id
}

/// Somebody who is invited with this role, and accepts as this person.
async fn invited(host: &Session, email: &str, name: &str, more: Value) -> Session {
    let invite = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken userErrors { message } } }";
    let made = host.ask(invite, json!({ "input": { "email": email, "roles": ["member"] } })).await;
    let token = made["memberInvite"]["invitationToken"].as_str().unwrap_or_else(|| panic!("{made}"));
    let mut input = json!({ "token": token, "name": name, "password": PASSWORD });
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let accept =
        "mutation($input: MemberAcceptInput!) { memberAccept(input: $input) { accessToken userErrors { message } } }";
    let anonymous = Session { token: String::new(), ..host.clone() };
    let accepted = anonymous.ask(accept, json!({ "input": input })).await;
    let token = accepted["memberAccept"]["accessToken"].as_str().unwrap_or_else(|| panic!("{accepted}")).to_owned();
    Session { token, ..anonymous }
}

async fn code(session: &Session, query: &str) -> Value {
    let answer = session.raw(query, json!({})).await;
    assert!(answer["data"].is_null(), "{answer}");
    answer["errors"][0]["extensions"]["code"].clone()
}

/// Waits until the operator sees that everything of it is clean.
async fn certified(operator: &Session, id: &str) -> Value {
    let query = "query($id: ID!) { erasure(id: $id) { subjectId kind completedAt stores { name position } } }";
    let is_complete = |answer: &Value| !answer["erasure"]["completedAt"].is_null();
    operator.until(query, json!({ "id": id }), is_complete).await["erasure"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_organization_that_has_ended_nobody_sees_one_byte() {
    for database in databases() {
        let mut environment: Environment = database.map(|url| ("ORIEL_DATABASE_URL", url)).into_iter().collect();
        environment.push(("ORIEL_ORGANIZATION_GRACE", "0s".to_owned()));
        let server = Server::start_among(environment).await;
        let operator = server.register("Operator").await;
        let (ada, bob) = (server.register("Ada").await, server.register("Bob").await);
        // One person in both.
        let both = "both@example.org";
        let mia = invited(&ada, both, "Mia", json!({})).await;
        let mia_elsewhere = invited(&bob, both, "Mia", json!({})).await;
        let mut ids = BTreeSet::new();
        for (session, key) in [(&ada, "ADAS"), (&bob, "BOBS")] {
            let project = session.create_project(key).await;
            let made = document(session, &project, key, "one.txt").await;
            if key == "ADAS" {
                ids.extend([project, made]);
            }
        }
        let found = |answer: &Value| answer["search"]["totalCount"] == 1;
        let theirs = ada.until(VIEW, json!({}), found).await;
        assert_eq!(ada.ask(VIEW, json!({})).await, theirs, "from the cache");
        let organization = theirs["organization"]["id"].as_str().unwrap().to_owned();
        ids.insert(organization.clone());
        ids.extend(theirs["members"]["nodes"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        let others = bob.until(VIEW, json!({}), found).await;
        let url = "{ documents { nodes { downloadUrl } } organization { slug } }";
        let url = ada.ask(url, json!({})).await;
        let (slug, url) = (url["organization"]["slug"].clone(), url["documents"]["nodes"][0]["downloadUrl"].clone());
        let url = url.as_str().unwrap();
        assert_eq!(ada.http.get(url).send().await.unwrap().status(), 200);

        let live = "subscription { live { documents { nodes { title } } } }";
        let mut open = [
            Stream::open(&ada, live).await,
            Stream::open(&ada, "subscription { events(after: \"0\") { type } }").await,
            Stream::open(&mia, "subscription { live { projects { nodes { name } } } }").await,
        ];
        open[0].until("ADAS").await;
        open[1].until("document_stage_completed").await;
        open[2].until("projects").await;
        let mut elsewhere = [
            Stream::open(&bob, live).await,
            Stream::open(&mia_elsewhere, "subscription { live { viewer { organizations { name } } } }").await,
        ];
        elsewhere[0].until("BOBS").await;
        elsewhere[1].until("Ada").await;
        let told = elsewhere[0].so_far().await;

        let delete = "mutation($input: OrganizationDeleteInput!) { organizationDelete(input: $input) { userErrors { message } } }";
        let deleted = ada.ask(delete, json!({ "input": { "slug": slug } })).await;
        assert_eq!(deleted["organizationDelete"]["userErrors"], json!([]));
        // The streams end, with the reason, when the organisation does.
        for stream in open {
            let said = stream.end().await;
            assert!(said.contains("UNAUTHENTICATED"), "{said}");
        }
        for session in [&ada, &mia] {
            assert_eq!(code(session, VIEW).await, "UNAUTHENTICATED");
            assert_eq!(code(session, "{ organization { name } }").await, "UNAUTHENTICATED");
        }
        let certificate = certified(&operator, &organization).await;
        assert_eq!(certificate["kind"], "ORGANIZATION");
        assert!(certificate["stores"].as_array().unwrap().len() > 10, "{certificate}");
        let deadline = std::time::Instant::now() + PATIENCE;
        while ada.http.get(url).send().await.unwrap().status() != 404 {
            assert!(std::time::Instant::now() < deadline, "the file is still served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nobody sees it: not the others, not the operator, not who was in both.
        let nodes = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }";
        for session in [&bob, &operator, &mia_elsewhere] {
            let seen = session.ask(nodes, json!({ "ids": ids })).await;
            assert!(seen["nodes"].as_array().unwrap().iter().all(Value::is_null), "{seen}");
        }
        elsewhere[1].until("\"organizations\":[{\"name\":\"Bob\"}]").await;
        // The other one notices nothing.
        assert_eq!(bob.ask(VIEW, json!({})).await, others);
        assert_eq!(elsewhere[0].so_far().await, told, "nothing was sent that did not change");
        drop(elsewhere);
        for said in ["Ada", "ADAS"] {
            assert!(!bob.ask(VIEW, json!({})).await.to_string().contains(said));
        }

        let server = server.restart().await;
        let again = |session: &Session| Session { url: server.url.clone(), ..session.clone() };
        assert_eq!(code(&again(&ada), VIEW).await, "UNAUTHENTICATED");
        assert_eq!(again(&bob).until(VIEW, json!({}), |answer| *answer == others).await, others);
        let verify = server.oriel(&["read-models", "verify"], &operator.token);
        let said = String::from_utf8_lossy(&verify.stdout).into_owned();
        assert!(verify.status.success(), "{said}{}", String::from_utf8_lossy(&verify.stderr));
        let rebuild = server.oriel(&["read-models", "rebuild", "documents"], &operator.token);
        assert!(rebuild.status.success(), "{}", String::from_utf8_lossy(&rebuild.stderr));
        assert_eq!(again(&bob).ask(VIEW, json!({})).await, others);
        let login = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { code } } }";
        let anonymous = Session { token: String::new(), ..again(&ada) };
        for (email, goes_on) in [("ada@example.org", false), (both, true)] {
            let answer = anonymous.ask(login, json!({ "input": { "email": email, "password": PASSWORD } })).await;
            assert_eq!(answer["login"]["accessToken"].is_string(), goes_on, "{email}: {answer}");
        }
    }
}

/// What is said about the person, in whatever spelling.
const SAID: [&str; 5] =
    ["evelyn.quartzite@example.org", "Evelyn Quartzite", "evequartz", "quartzite-plan", "QuartziteBrowser"];

/// Where one of these stands, in any file under this folder.
fn found(folder: &Path, needles: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok).filter(|e| e.file_type().is_file()) {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        let bytes = bytes.to_ascii_lowercase();
        for needle in needles {
            let needle = needle.to_ascii_lowercase();
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(format!("{needle} in {}", entry.path().display()));
            }
        }
    }
    found
}

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

/// Every row of every read model, as JSON, by table and id.
async fn dump(db: &DatabaseConnection) -> BTreeMap<(String, String), Value> {
    let backend = db.get_database_backend();
    let all = |sql: String| async move { db.query_all_raw(Statement::from_string(backend, sql)).await.unwrap() };
    let text = |row: &sea_orm::QueryResult| row.try_get_by_index::<String>(0).unwrap();
    let names = all("SELECT name FROM read_models WHERE state = 'inline' ORDER BY name".to_owned()).await;
    let mut dump = BTreeMap::new();
    for name in names.iter().map(text) {
        let sql = match backend {
            DbBackend::Postgres => format!("SELECT CAST(to_jsonb(t) AS TEXT), CAST(id AS TEXT) FROM \"{name}\" t"),
            _ => {
                let columns = all(format!("SELECT name FROM pragma_table_info('{name}')")).await;
                let columns: Vec<String> = columns
                    .iter()
                    .map(text)
                    .map(|c| format!("'{c}', CASE typeof(\"{c}\") WHEN 'blob' THEN hex(\"{c}\") ELSE \"{c}\" END"))
                    .collect();
                format!("SELECT json_object({}), lower(hex(id)) FROM \"{name}\"", columns.join(", "))
            }
        };
        for row in all(sql).await {
            let (row, id) = (text(&row), row.try_get_by_index::<String>(1).unwrap().replace('-', ""));
            dump.insert((name.clone(), id), serde_json::from_str(&row).unwrap());
        }
    }
    dump
}

/// Somebody is erased; the difference between before and after is theirs alone. Gives the data folder's server.
async fn erase(server: Server, url: String) -> Server {
    let operator = server.register("Operator").await;
    let (ada, bob) = (server.register("Ada").await, server.register("Bob").await);
    let http = reqwest::Client::builder().user_agent("QuartziteBrowser/1.0").build().unwrap();
    let host = Session { http, ..ada.clone() };
    let eve = invited(&host, SAID[0], SAID[1], json!({ "username": SAID[2] })).await;
    let elsewhere = invited(&Session { http: host.http.clone(), ..bob.clone() }, SAID[0], SAID[1], json!({})).await;
    let project = ada.create_project("ADAS").await;
    let kept = document(&ada, &project, "A harbour", "harbour.txt").await;
    let viewer = "{ viewer { user { id } member { id } } }";
    let who = eve.ask(viewer, json!({})).await;
    let add = "mutation($input: ProjectMemberAddInput!) { projectMemberAdd(input: $input) { userErrors { message } } }";
    let added = ada.ask(add, json!({ "input": { "id": project, "memberId": who["viewer"]["member"]["id"] } })).await;
    assert_eq!(added["projectMemberAdd"]["userErrors"], json!([]));
    let theirs = document(&eve, &project, "A plan", "quartzite-plan.txt").await;
    let user = who["viewer"]["user"]["id"].as_str().unwrap().to_owned();
    // What others see of them is kept, and followed.
    let seen = "{ members { nodes { user { name email } } } documents { nodes { fileName } }
        events(first: 100) { nodes { type data } } search(query: \"quartzite\") { totalCount } }";
    let saw = |answer: &Value| answer["search"]["totalCount"] == 1;
    let before_ada = ada.until(seen, json!({}), saw).await;
    assert_eq!(ada.ask(seen, json!({})).await, before_ada);
    for said in [SAID[0], SAID[1], "quartzite-plan.txt", "QuartziteBrowser"] {
        assert!(before_ada.to_string().contains(said), "{said}");
    }
    let mut live = Stream::open(&ada, "subscription { live { documents { nodes { fileName } } } }").await;
    live.until("quartzite-plan.txt").await;
    let db = connect(&url).await;
    let before = dump(&db).await;

    let erase = "mutation($input: UserEraseInput!) { userErase(input: $input) { userErrors { code message } erasure { kind } } }";
    let refused = eve.ask(erase, json!({ "input": { "password": "not this one" } })).await;
    assert_eq!(refused["userErase"]["userErrors"][0]["code"], "INVALID_CREDENTIALS");
    let refused = ada.ask(erase, json!({ "input": { "id": user } })).await;
    assert_eq!(refused["userErase"]["userErrors"][0]["code"], "NOT_FOUND", "only the operator erases others");
    let refused = ada.ask(erase, json!({ "input": { "password": PASSWORD } })).await;
    assert_eq!(refused["userErase"]["userErrors"][0]["code"], "CONFLICT", "an owner hands over first");
    let erased = eve.ask(erase, json!({ "input": { "password": PASSWORD } })).await;
    assert_eq!(erased["userErase"], json!({ "userErrors": [], "erasure": null }));
    for session in [&eve, &elsewhere] {
        assert_eq!(code(session, viewer).await, "UNAUTHENTICATED");
    }
    // At once, wherever it is kept.
    let events = ada.ask("{ events(first: 100) { nodes { type data } } }", json!({})).await.to_string();
    assert!(!SAID.iter().any(|said| events.to_lowercase().contains(&said.to_lowercase())), "{events}");
    let certificate = certified(&operator, &user).await;
    assert_eq!((&certificate["kind"], &certificate["subjectId"]), (&json!("PERSON"), &json!(user)));
    let clean =
        |answer: &Value| !SAID.iter().any(|said| answer.to_string().to_lowercase().contains(&said.to_lowercase()));
    ada.until(seen, json!({}), clean).await;
    live.until("\"fileName\":\"\"").await;
    drop(live);
    let login = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { code } } }";
    let anonymous = Session { token: String::new(), ..ada.clone() };
    for input in
        [json!({ "email": SAID[0], "password": PASSWORD }), json!({ "username": SAID[2], "password": PASSWORD })]
    {
        let answer = anonymous.ask(login, json!({ "input": input })).await;
        assert_eq!(answer["login"]["accessToken"], json!(null));
    }

    // Everybody else's rows are what they were.
    let after = dump(&db).await;
    db.close().await.unwrap();
    let uuid = |id: &str| oriel_kernel::RawId::parse(id).unwrap().uuid.simple().to_string();
    let mut changed: BTreeMap<String, usize> = BTreeMap::new();
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (was, is) = (before.get(key), after.get(key));
        if was == is {
            continue;
        }
        *changed.entry(key.0.clone()).or_default() += 1;
        match (key.0.as_str(), was, is) {
            // Who is where was counted.
            ("organizations" | "projects", Some(was), Some(is)) => {
                let mut was = was.clone();
                for counter in ["member_count", "counted_position", "updated_at", "version"] {
                    if let Some(is) = is.get(counter) {
                        was[counter] = is.clone();
                    }
                }
                assert_eq!(&was, is);
            }
            ("users", _, _) => assert_eq!(key.1, uuid(&user)),
            ("documents" | "document_revisions", Some(was), Some(is)) => {
                assert_eq!(key.1, uuid(&theirs), "{was}\n{is}");
                assert!(clean(is));
            }
            ("members" | "project_members", Some(was), None) => {
                assert!(
                    was.to_string().replace('-', "").to_lowercase().contains(&uuid(&user))
                        || key.0 == "project_members"
                );
            }
            ("sessions", Some(was), Some(_)) => {
                let owner = was["user_id"].as_str().unwrap().replace('-', "").to_lowercase();
                assert_eq!(owner, uuid(&user));
            }
            ("erasures", None, Some(_)) => {}
            (table, was, is) => panic!("{table} {}: {was:?} {is:?}", key.1),
        }
    }
    for (table, rows) in [("users", 1), ("members", 2), ("documents", 1), ("document_revisions", 1), ("erasures", 1)] {
        assert_eq!(changed.get(table), Some(&rows), "{changed:?}");
    }
    assert!(after.contains_key(&("documents".to_owned(), uuid(&kept))));

    // What is made anew of the log does not know them.
    let verify = server.oriel(&["read-models", "verify"], &operator.token);
    let said = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success(), "{said}{}", String::from_utf8_lossy(&verify.stderr));
    // A new generation of the index holds nothing of what was replaced: the merge of all of it.
    let rebuild = server.oriel(&["read-models", "rebuild", "search"], &operator.token);
    assert!(rebuild.status.success(), "{}", String::from_utf8_lossy(&rebuild.stderr));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_person_who_was_erased_nothing_is_found_in_any_file_on_sqlite() {
    let server = Server::start(None).await;
    let data = server.folder().join("data");
    let url = format!("sqlite://{}?mode=ro", data.join("oriel.sqlite").display());
    let mut server = erase(server, url.clone()).await;
    assert!(server.terminate().success());
    let db = connect(&url.replace("mode=ro", "mode=rw")).await;
    for sql in ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        db.execute_unprepared(sql).await.unwrap();
    }
    db.close().await.unwrap();
    // Mails that were not sent by a server lie in a folder: they are somebody's letters, and not Oriel's to burn.
    let _ = std::fs::remove_dir_all(data.join("outbox"));
    assert_eq!(found(&data, &SAID), Vec::<String>::new());
    assert!(!found(&data, &["harbour.txt"]).is_empty(), "the search would find what is there");
    // Nor in a copy of the folder, in which everything is made anew.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(&data).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    assert_eq!(found(copy.path(), &SAID), Vec::<String>::new());
    let server = server.restart().await;
    assert_eq!(server.log.lock().unwrap().iter().filter(|line| line.contains("\"ERROR\"")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_person_who_was_erased_nothing_is_found_in_any_file_on_postgresql() {
    let Some(cluster) = Cluster::start() else { return };
    // What was written ahead is not kept for the next time, so that it can be told when it is gone.
    for sql in
        ["ALTER SYSTEM SET wal_recycle = off", "ALTER SYSTEM SET min_wal_size = '32MB'", "SELECT pg_reload_conf()"]
    {
        cluster.sql("oriel", sql);
    }
    let server = Server::start_among(vec![("ORIEL_DATABASE_URL", cluster.url())]).await;
    let data = server.folder().join("data");
    let mut server = erase(server, cluster.url()).await;
    assert!(server.terminate().success());
    cluster.sql("oriel", "VACUUM FULL");
    for _ in 0..3 {
        cluster.sql("oriel", "SELECT pg_switch_wal()");
        cluster.sql("oriel", "CHECKPOINT");
    }
    let _ = std::fs::remove_dir_all(data.join("outbox"));
    assert_eq!(found(&data, &SAID), Vec::<String>::new());
    assert_eq!(found(&cluster.data(), &SAID), Vec::<String>::new());
    assert!(!found(&cluster.data(), &["harbour.txt"]).is_empty(), "the search would find what is there");
}
