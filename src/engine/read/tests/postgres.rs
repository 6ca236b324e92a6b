//! The same on PostgreSQL: `ORIEL_TEST_POSTGRES_URL`, or a server of this test's own when `initdb` is there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::future::join_all;
use proptest::prelude::*;

use super::pages::{config, filters, orders, things, walk};
use super::*;

/// A server in a folder of its own; stopped and removed when dropped.
struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    url: String,
}

impl Server {
    fn start() -> Option<Self> {
        let programs = ["/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/bin"]
            .iter()
            .map(PathBuf::from)
            .find(|folder| folder.join("initdb").exists())?;
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap().success());
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, programs, url: format!("postgres://postgres@127.0.0.1:{port}/postgres") };
        server.run("initdb", &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let options = format!("-F -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''");
        server.run(
            "pg_ctl",
            &["start", "-w", "-o", &options, "-l", &server.data().with_extension("log").to_string_lossy()],
        );
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let program = self.programs.join(program);
        // PostgreSQL does not run as root.
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command.current_dir(self.folder.path()).arg("-D").arg(self.data()).args(arguments);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{command:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("pg_ctl", &["stop", "-m", "immediate"]);
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|m| m.uid() == 0)
}

#[test]
fn the_same_on_postgresql() {
    let given = std::env::var("ORIEL_TEST_POSTGRES_URL").ok();
    let server = if given.is_none() { Server::start() } else { None };
    let Some(url) = given.or_else(|| server.as_ref().map(|s| s.url.clone())) else {
        assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "PostgreSQL is missing (Debian: postgresql)");
        eprintln!("not run: PostgreSQL is missing (Debian: postgresql)");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = runtime.block_on(connect(&url));
    let cases = (things(), orders(), prop::option::of(filters()), 1..6i32);
    proptest!(config(100), |((things, order, filter, size) in cases)| {
        runtime.block_on(async {
            put(&db, things.clone()).await;
            walk(&db, &things, &order, filter.as_ref(), size).await;
        });
    });
    runtime.block_on(loaders_and_scope(&db));
    runtime.block_on(db.close()).unwrap();
}

/// One connection, whose tables are temporary: nothing is left behind in a database that is not ours.
async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).min_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    db.execute_unprepared("SET search_path TO pg_temp").await.unwrap();
    create(&db).await;
    // The texts in the order of their bytes, as this test's own model has them.
    for column in ["name", "note"] {
        let alter = format!(r#"ALTER TABLE things ALTER COLUMN {column} TYPE text COLLATE "C""#);
        db.execute_unprepared(&alter).await.unwrap();
    }
    db
}

async fn loaders_and_scope(db: &DatabaseConnection) {
    put(db, (1..=40).map(|n| Model { shelf_id: shelf(n % 4), organization_id: org(1 + n % 2), ..thing(n) })).await;
    let reader = reader_of(db, viewer(1, only(&[0, 1])));
    let got = join_all((1..=50).map(|n| reader.get::<Model>(uuid(n)))).await;
    assert_eq!(got.iter().filter(|r| r.as_ref().unwrap().is_some()).count(), 10);
    let many = join_all((0..4).map(|s| reader.many(Model::in_shelf(shelf(s))))).await;
    assert_eq!(many.iter().map(|g| g.as_ref().unwrap().len()).collect::<Vec<_>>(), [10, 0, 0, 0]);
    let counts = join_all((0..4).map(|s| reader.count(Model::in_shelf(shelf(s))))).await;
    assert_eq!(counts, [10, 0, 0, 0].map(Ok));
    assert_eq!(reader.recorder().statements(), 3);
}
