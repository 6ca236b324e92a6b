//! Many documents, put straight into the read model: what is measured is reading.

use oriel_domain::documents::DocumentId;
use oriel_engine::Database;
use oriel_engine::db::Location;
use oriel_kernel::Id;
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::oriel::Running;

/// In the order of their numbers, as ids that are made one after the other are.
const FIRST: u128 = 0x0199_0000_0000_7000_0000_0000_0000_0000;
/// Rows of one transaction: the server waits for the lock meanwhile.
const CHUNK: u64 = 20_000;

/// Numbered documents beside one that was uploaded.
pub struct Documents {
    database: Database,
    template: Uuid,
    pub count: u64,
}

impl Documents {
    /// None yet. `template`: what the others are copies of, but for id, title, names and size.
    pub async fn beside(server: &Running, template: &str) -> Self {
        let database = Database::open(&Location::Sqlite(server.database()), 1).await.unwrap();
        Self { database, template: DocumentId::parse_or_absent(template).uuid(), count: 0 }
    }

    /// Makes them so many.
    pub async fn grow_to(&mut self, count: u64) {
        while self.count < count {
            let last = (self.count + CHUNK).min(count);
            let sql = format!(
                "WITH RECURSIVE numbers(n) AS (SELECT {} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {last}) \
                 INSERT INTO documents (id, organization_id, project_id, title, file_name, media_type, size, storage_used, \
                   sha256, status, pipeline, tags, uploaded_by_id, page_count, language, created_at, updated_at, \
                   trashed_at, version, revision, blob, text_blob) \
                 SELECT unhex('{:016x}' || printf('%016x', n)), organization_id, project_id, \
                   'Document number ' || n, n || '.txt', media_type, n, n, sha256, status, pipeline, tags, \
                   uploaded_by_id, page_count, language, created_at, updated_at, trashed_at, version, revision, blob, \
                   text_blob FROM numbers, documents WHERE id = $1",
                self.count,
                FIRST >> 64,
            );
            let values = [self.template.into()];
            let statement = Statement::from_sql_and_values(self.database.backend(), sql, values);
            self.database.writer().execute_raw(statement).await.unwrap();
            self.count = last;
        }
        // Reads do not go through what the load left in the write-ahead log.
        self.database.writer().execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    }

    pub fn id(n: u64) -> DocumentId {
        Id::from_uuid(Uuid::from_u128(FIRST + u128::from(n)))
    }

    /// One of them, spread over all by a multiplier that has no factor in common with their number.
    pub fn spread(&self, n: u64) -> u64 {
        (n % self.count) * 982_451_653 % self.count
    }
}
