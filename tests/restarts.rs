//! Killed at random moments in the middle of an import: nothing acknowledged is lost, nothing is there twice.

use serde_json::json;

use crate::support::{Server, Session, databases};

const FILES: usize = 60;
const KILLS: i64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn killed_ten_times_during_an_import() {
    for database in databases() {
        let mut server = Server::start(database).await;
        let mut ada = server.register("Ada").await;
        ada.create_project("DOCS").await;
        let folder = server.folder().join("files");
        std::fs::create_dir(&folder).unwrap();
        for n in 0..FILES {
            std::fs::write(folder.join(format!("{n}.txt")), format!("This is document number {n} about wraparound."))
                .unwrap();
        }
        let folder = folder.display().to_string();
        let mut acknowledged: i64 = 0;
        for kill in 0..KILLS {
            let mut import = server.spawn_oriel(&["import", &folder, "--project", "DOCS", "--jobs", "4"], &ada.token);
            // A different moment each time: after so many more documents are there.
            let wanted = (acknowledged + 1 + kill % 5).min(FILES as i64);
            let count = "{ documents { totalCount } }";
            let seen = ada.until(count, json!({}), |a| a["documents"]["totalCount"].as_i64().unwrap() >= wanted).await;
            server.kill();
            import.kill().unwrap();
            import.wait().unwrap();
            server = server.restart().await;
            ada = Session { url: server.url.clone(), ..ada };
            let now = ada.ask(count, json!({})).await;
            acknowledged = now["documents"]["totalCount"].as_i64().unwrap();
            assert!(
                acknowledged >= seen["documents"]["totalCount"].as_i64().unwrap(),
                "an acknowledged document is lost"
            );
        }
        for _ in 0..2 {
            let import = server.oriel(&["import", &folder, "--project", "DOCS"], &ada.token);
            assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        }
        let query = "query($after: String) { documents(first: 100, after: $after) { totalCount nodes { id fileName status } } }";
        let all = ada
            .until(query, json!({}), |a| {
                a["documents"]["nodes"].as_array().unwrap().iter().all(|d| d["status"] != "PROCESSING")
            })
            .await;
        assert_eq!(all["documents"]["totalCount"], FILES);
        assert!(all["documents"]["nodes"].as_array().unwrap().iter().all(|d| d["status"] == "READY"), "{all:#}");
        let found = ada.ask("{ search(query: \"wraparound\") { totalCount } }", json!({})).await;
        assert_eq!(found["search"]["totalCount"], FILES);
        positions_are_contiguous(&ada).await;
        let verify = server.oriel(&["read-models", "verify"], &ada.token);
        let said = String::from_utf8_lossy(&verify.stdout);
        assert!(
            verify.status.success() && said.contains("documents"),
            "{said}{}",
            String::from_utf8_lossy(&verify.stderr)
        );
    }
}

async fn positions_are_contiguous(session: &Session) {
    let mut after = json!(null);
    let mut expected = 1;
    loop {
        let query = "query($after: String) { events(first: 100, after: $after, orderBy: [{field: POSITION}]) { nodes { sequence } pageInfo { hasNextPage endCursor } } }";
        let page = session.ask(query, json!({"after": after})).await;
        for event in page["events"]["nodes"].as_array().unwrap() {
            assert_eq!(event["sequence"], expected);
            expected += 1;
        }
        if page["events"]["pageInfo"]["hasNextPage"] == false {
            return;
        }
        after = page["events"]["pageInfo"]["endCursor"].clone();
    }
}
