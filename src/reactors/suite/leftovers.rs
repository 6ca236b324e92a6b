//! Files that nobody needs go, and no other.

use oriel_domain::documents::{AddRevision, DeleteDocument, PurgeDocument};

use super::*;
use crate::sweep::AGE;
use crate::{STAGING, Swept, TEXTS};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_old_and_unreferenced_is_swept() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    house.ready(id).await;
    let file = house.file("newer.txt", "text/plain", b"Rhine").await;
    house.run(id, AddRevision { file }).await;
    let row = house.ready(id).await;
    for prefix in [FILES, TEXTS, STAGING] {
        let key = BlobKey::fresh(prefix, house.engine.new_id::<()>().uuid());
        house.blobs.write(&key, Bytes::from_static(b"left behind")).await.unwrap();
    }
    let counts = async || [house.keys(FILES).await, house.keys(TEXTS).await, house.keys(STAGING).await];
    assert_eq!(counts().await, [3, 3, 1]);
    assert_eq!(reactors.sweep().await.unwrap(), Swept { seen: 7, removed: 0 });
    house.clock.0.store(AGE.as_secs() as i64 + 60, Ordering::SeqCst);
    // The text of the older revision is not needed any more either.
    assert_eq!(reactors.sweep().await.unwrap(), Swept { seen: 7, removed: 4 });
    assert_eq!(counts().await, [2, 1, 0]);
    for key in [row.blob, row.text_blob.unwrap()] {
        assert!(house.blobs.head(&BlobKey::parse(&key).unwrap()).await.is_ok());
    }
    assert_eq!(reactors.sweep().await.unwrap(), Swept { seen: 3, removed: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_purged_document_go() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    let other = house.upload("Another", "text/plain", b"Rhine").await;
    house.ready(id).await;
    house.ready(other).await;
    house.run(id, DeleteDocument).await;
    let purged = house.run(id, PurgeDocument).await.position;
    reactors.consumers().wait_for("purge", purged, LONG).await.unwrap();
    reactors.stop().await; // finishes what runs
    let again = house.start();
    // Jobs have no feed of their own: the files are looked at until they are gone.
    let gone = async {
        while house.keys(FILES).await + house.keys(TEXTS).await > 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    let row = house.row(other).await.unwrap();
    assert!(house.blobs.head(&BlobKey::parse(&row.blob).unwrap()).await.is_ok());
    again.stop().await;
}
