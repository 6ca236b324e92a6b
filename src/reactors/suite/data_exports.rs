//! A data export ends by itself, with its file; whoever is killed meanwhile.

use oriel_backends::blobs::EXPORTS;
use oriel_domain::data_exports::{DataExportId, RequestExport};
use oriel_read_models::data_exports::{self, DataExportStatus};

use super::*;

const DAY: i64 = 24 * 3600;

impl House {
    async fn request_export(&self) -> DataExportId {
        let export = self.engine.new_id();
        let context = CommandContext::system(self.engine.new_id(), Id::ABSENT, self.engine.now());
        self.engine.execute(&context, export, RequestExport { user: self.user }).await.unwrap();
        export
    }

    async fn export_is(&self, id: DataExportId, wanted: DataExportStatus) -> data_exports::Model {
        let mut head = self.engine.feed().watch();
        let waiting = async {
            loop {
                head.mark_unchanged();
                let row = data_exports::Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap();
                if let Some(row) = row.filter(|row| row.status == wanted) {
                    return row;
                }
                head.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("it does not become {wanted:?}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_there_for_a_week_and_then_its_file_goes() {
    let house = House::new().await;
    let export = house.request_export().await;
    let reactors = house.start();
    let row = house.export_is(export, DataExportStatus::Ready).await;
    assert_eq!((row.attempts, house.keys(EXPORTS).await), (1, 1));
    // What is referred to is not swept.
    house.clock.0.store(2 * DAY, Ordering::SeqCst);
    reactors.sweep().await.unwrap();
    assert_eq!(house.keys(EXPORTS).await, 1);
    assert_eq!(reactors.expire_exports().await.unwrap(), 0);
    house.clock.0.store(8 * DAY, Ordering::SeqCst);
    reactors.expire_exports().await.unwrap();
    let row = house.export_is(export, DataExportStatus::Expired).await;
    assert_eq!(row.blob, None);
    let gone = async {
        while house.keys(EXPORTS).await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("its file stays");
    // And another can be asked for.
    let next = house.request_export().await;
    house.export_is(next, DataExportStatus::Ready).await;
    for read_model in house.engine.read_models().iter().filter(|read_model| read_model.table() == "data_exports") {
        let verified = house.engine.verify(read_model.table()).await.unwrap();
        assert_eq!((verified.only_running, verified.only_replayed), (0, 0), "{verified:?}");
    }
    reactors.stop().await;
}
