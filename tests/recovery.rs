//! An installation that is lost, and comes back from its backup: everything that was acknowledged before the backup is
//! there and right, and what was forgotten stays forgotten.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Cluster, Server, Session};

/// The program on a data folder of this machine, with no server.
fn oriel(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oriel"));
    command.args(arguments).arg("--data").arg(data).env_clear().output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    text
}

const TITLES: &str = "{ documents(first: 100, orderBy: [{ field: TITLE, direction: ASC }]) { totalCount nodes { title status \
    text(maxChars: 100) } } projects { totalCount nodes { key name } } members { totalCount nodes { user { name email } } } }";

/// Puts a document in, and waits until it is read.
async fn write(session: &Session, project: &str, name: &str) {
    let made = session.upload(project, name, format!("The {name} of a mill wheel.").into_bytes()).await;
    session.document_ends(made["document"]["id"].as_str().unwrap_or_else(|| panic!("{made}"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_backup_is_restored() {
    let server = Server::start(None).await;
    let session = server.register("Lost").await;
    let project = session.create_project("DOCS").await;
    for name in ["first.txt", "second.txt"] {
        write(&session, &project, name).await;
    }
    let (data, backups) = (server.folder().join("data"), server.folder().join("backups"));
    let folder = backups.to_str().unwrap();

    // While somebody writes: whatever was there before is in it.
    let before = session.ask(TITLES, json!({})).await;
    let writing = tokio::spawn({
        let (session, mut made) = (session.clone(), 0);
        async move {
            loop {
                session.create_project(&format!("W{made}")).await;
                made += 1;
            }
        }
    });
    let text = said(&oriel(&["backup", folder], &data));
    writing.abort();
    assert!(text.contains("4 blobs (4 new"), "{text}");
    // A second one beside the first takes the blobs that are there.
    write(&session, &project, "third.txt").await;
    let now = session.ask(TITLES, json!({})).await;
    let text = said(&oriel(&["backup", folder], &data));
    assert!(text.contains("6 blobs (2 new"), "{text}");

    // A disk that is not mounted is no reason to remove what is kept of it.
    let (blobs, away) = (data.join("blobs"), data.join("away"));
    std::fs::rename(&blobs, &away).unwrap();
    assert!(!oriel(&["backup", folder], &data).status.success());
    std::fs::create_dir(&blobs).unwrap();
    let refused = oriel(&["backup", folder], &data);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a disk not mounted?"), "{refused:?}");
    std::fs::remove_dir(&blobs).unwrap();
    std::fs::rename(&away, &blobs).unwrap();
    // What was purged is gone from the backup as well, and so is what a killed backup has left.
    let kept = walkdir::WalkDir::new(backups.join("blobs/texts")).into_iter().map(Result::unwrap);
    let kept = kept.filter(|entry| entry.file_type().is_file()).last().unwrap().into_path();
    let (purged, left) = (kept.with_file_name("0".repeat(32)), kept.with_extension("unfinished"));
    std::fs::copy(&kept, &purged).unwrap();
    std::fs::copy(&kept, &left).unwrap();
    let text = said(&oriel(&["backup", folder], &data));
    assert!(text.contains("6 blobs (0 new") && text.contains("2 removed"), "{text}");
    assert!(!purged.exists() && !left.exists());

    // What is said about people is sealed in it, and so are the keys.
    let mut files = 0;
    for entry in walkdir::WalkDir::new(&backups).into_iter().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "sqlite") {
            let bytes = std::fs::read(entry.path()).unwrap();
            for personal in ["lost@example.org", "Lost Owner"] {
                let found = bytes.windows(personal.len()).any(|window| window == personal.as_bytes());
                assert!(!found, "{personal} is in {}", entry.path().display());
            }
            files += 1;
        }
    }
    assert_eq!(files, 4, "three logs and the keys");

    // The machine is gone; only the backups and the master key are left.
    let master = std::fs::read(data.join("master.key")).unwrap();
    let incarnation = incarnation(&session).await;
    let place = tempfile::tempdir().unwrap();
    let restored = place.path().join("data");
    let refused = oriel(&["restore", folder], &restored);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the master key is missing"), "{refused:?}");
    std::fs::create_dir_all(&restored).unwrap();
    std::fs::write(restored.join("master.key"), &master).unwrap();
    let refused = oriel(&["restore", folder, "--backup", "yesterday"], &restored);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no backup yesterday"), "{refused:?}");
    said(&oriel(&["restore", folder], &restored));
    let refused = oriel(&["restore", folder], &restored);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds an installation already"), "{refused:?}");

    let server = Server::start_on(place).await;
    let session = Session { url: server.url.clone(), ..session };
    assert_eq!(session.ask(TITLES, json!({})).await, now);
    let projects = |answer: &Value| answer["projects"]["nodes"].as_array().unwrap().clone();
    assert!(projects(&before).iter().all(|one| projects(&now).contains(one)));
    let found = session
        .until("{ search(query: \"mill wheel\") { totalCount } }", json!({}), |it| it["search"]["totalCount"] == 3)
        .await;
    assert_eq!(found["search"]["totalCount"], 3);
    // It is another history, which goes on.
    assert_ne!(self::incarnation(&session).await, incarnation);
    write(&session, &project, "fourth.txt").await;
    let verified = server.oriel(&["read-models", "verify"], &session.token);
    assert!(verified.status.success(), "{verified:?}");
}

async fn incarnation(session: &Session) -> Value {
    session.ask("{ system { incarnation } }", json!({})).await["system"]["incarnation"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_comes_back_as_it_was_at_a_moment() {
    let Some(mut cluster) = Cluster::start() else {
        assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "PostgreSQL is missing (Debian: postgresql)");
        return eprintln!("not run: PostgreSQL is missing (Debian: postgresql)");
    };
    let server = Server::start(Some(cluster.url())).await;
    let session = server.register("Rehearsal").await;
    let project = session.create_project("DOCS").await;
    write(&session, &project, "before.txt").await;
    cluster.base_backup();
    write(&session, &project, "after.txt").await;
    let wanted = session.ask(TITLES, json!({})).await;
    cluster.sql("oriel", "SELECT pg_create_restore_point('wanted')");
    // What must not have happened.
    session.create_project("ACCIDENT").await;
    write(&session, &project, "accident.txt").await;
    let incarnation = incarnation(&session).await;
    let archived = cluster.sql("oriel", "SELECT pg_walfile_name(pg_switch_wal())");
    cluster.until("oriel", "SELECT last_archived_wal FROM pg_stat_archiver", &archived).await;

    cluster.recover("wanted").await;
    let server = server.restart().await;
    let session = Session { url: server.url.clone(), ..session };
    assert_eq!(session.ask(TITLES, json!({})).await, wanted);
    // The index of the data folder was ahead, of a history that is gone.
    session
        .until("{ search(query: \"mill wheel\") { totalCount } }", json!({}), |it| it["search"]["totalCount"] == 2)
        .await;
    assert_ne!(self::incarnation(&session).await, incarnation);
    write(&session, &project, "later.txt").await;
    let verified = server.oriel(&["read-models", "verify"], &session.token);
    assert!(verified.status.success(), "{verified:?}");
}
