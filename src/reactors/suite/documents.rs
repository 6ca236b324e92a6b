//! From the upload to READY or FAILED, whatever is killed in between.

use oriel_domain::documents::{AddRevision, DeleteDocument, RestoreDocument, RetryDocument, Stage as DomainStage};
use oriel_engine::consumers::{ConsumerLimits, Consumers, Follower};
use oriel_engine::jobs::{Job, Worker};

use super::*;
use crate::extraction::{ATTEMPTS, Extract, Extraction};
use crate::search_index::SearchIndex;
use crate::{STAGING, TEXTS, search_index};

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_text_becomes_ready_and_is_found_by_its_words() {
    let house = House::new().await;
    let reactors = house.start();
    let words = "The Danube rises in the Black Forest and flows through ten countries.";
    let id = house.upload("A river", "text/plain", words.as_bytes()).await;
    let row = house.ready(id).await;
    // No waiting here: who sees READY finds it.
    assert_eq!(house.found("danube").await, [id.to_string()]);
    assert_eq!(house.found("forest water").await, [id.to_string()]);
    let text = house.blobs.read(&BlobKey::parse(row.text_blob.as_deref().unwrap()).unwrap(), 1_000).await.unwrap();
    assert_eq!(text, words);
    assert_eq!(row.language.as_deref(), Some("en"));
    assert_eq!(stage(&row, Stage::Extract), (StageState::Done, 1));
    assert_eq!(stage(&row, Stage::Index), (StageState::Done, 1));

    let history = house.history(id).await;
    let uploaded = history.first().unwrap();
    assert!(history.iter().all(|event| event.correlation == uploaded.correlation), "one chain");
    let by_system = history.iter().filter(|event| event.causation.is_some());
    assert!(
        by_system.clone().count() == 4
            && by_system.clone().all(|e| history.iter().any(|c| Some(c.id.uuid()) == e.causation))
    );

    let states = reactors.states();
    assert!(states.consumers.iter().any(|consumer| consumer.name == "search_index" && consumer.set_aside == 0));
    assert_eq!(states.consumers.len(), 2 + crate::reactors().len(), "the index, its stage, and the reactors");
    reactors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_fails_with_its_reason_and_can_be_retried() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("Broken", "application/pdf", b"%PDF-1.4\nrubbish").await;
    let failed = |row: &Model| row.status == DocumentStatus::Failed;
    let row = house.until(id, failed).await;
    assert!(reason(&row, Stage::Extract).starts_with("The document cannot be read:"), "{row:?}");
    assert_eq!(stage(&row, Stage::Extract), (StageState::Failed, 1));
    // It is listed, so it is found too, by its title.
    house.indexed(&reactors).await;
    assert_eq!(house.found("broken").await, [id.to_string()]);
    house.run(id, RetryDocument).await;
    let row = house.until(id, |row| failed(row) && stage(row, Stage::Extract).1 == 2).await;
    assert_eq!(stage(&row, Stage::Index), (StageState::Pending, 0));
    // A better file mends it.
    let file = house.file("better.md", "text/markdown", b"# Rhine\n\nDelta").await;
    house.run(id, AddRevision { file }).await;
    house.ready(id).await;
    assert_eq!(house.found("delta").await, [id.to_string()]);
    // A file's fault is no failed job.
    assert!(house.engine.queue_states().await.unwrap().iter().all(|queue| queue.failed == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_text_is_ready_without_being_read() {
    let house = House::new().await;
    let reactors = Reactors::start(Parts { program: stuck(), ..house.parts() });
    let id = house.upload("A photograph", "image/png", b"\x89PNG").await;
    let row = house.ready(id).await;
    assert_eq!(stage(&row, Stage::Extract).0, StageState::Skipped);
    assert_eq!(reason(&row, Stage::Extract), "Files of this type have no text.");
    let other = house.upload("A letter", "application/rtf", b"{\\rtf1}").await;
    assert!(reason(&house.ready(other).await, Stage::Extract).contains("RTF"));
    assert_eq!(house.found("photograph").await, [id.to_string()]);
    drop(reactors);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_document_is_read_it_is_read_again() {
    let house = House::new().await;
    let killed = Reactors::start(Parts { program: stuck(), ..house.parts() });
    let id = house.upload("A river", "text/plain", b"Danube").await;
    house.until(id, |row| stage(row, Stage::Extract).0 == StageState::Running).await;
    drop(killed);

    house.clock.0.store(3600, Ordering::SeqCst); // the lease of the dead is over
    let reactors = house.start();
    let row = house.ready(id).await;
    assert_eq!(stage(&row, Stage::Extract), (StageState::Done, 2), "each attempt is visible");
    assert_eq!(house.count(id, |e| matches!(e, DocumentEvent::StageStarted { .. })).await, 2);
    assert_eq!(house.count(id, |e| matches!(e, DocumentEvent::TextExtracted { .. })).await, 1);
    for stage in DomainStage::PIPELINE.into_iter().filter(|stage| *stage != DomainStage::Scan) {
        let done = |e: &DocumentEvent| matches!(e, DocumentEvent::StageCompleted { stage: s, .. } if *s == stage);
        assert_eq!(house.count(id, done).await, 1, "{stage:?}");
    }
    assert_eq!(house.found("danube").await, [id.to_string()]);
    reactors.stop().await;
}

/// The job as the worker gets it, without a queue: the same one as often as wanted.
async fn job(house: &House, id: DocumentId, attempt: u32) -> Job {
    use oriel_engine::consumers::Reactor;
    let history = house.history(id).await;
    let order = history.iter().rev().find_map(|event| Some((event, Extract.react(event).pop()?)));
    let (event, new) = order.unwrap();
    Job {
        id: Uuid::from_u128(77),
        queue: new.queue.to_owned(),
        organization: new.organization,
        subject: new.subject,
        position: event.position,
        payload: new.payload,
        attempt,
        fence: 1,
        created_at: event.at,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_could_report_a_job_writes_nothing_again() {
    let house = House::new().await;
    let worker = Extraction::new(&house.parts());
    let id = house.upload("A river", "text/plain", b"Danube").await;
    worker.run(&job(&house, id, 1).await).await.unwrap();
    let (head, texts) = (house.engine.feed().head(), house.keys(TEXTS).await);
    assert_eq!(texts, 1);
    worker.run(&job(&house, id, 2).await).await.unwrap();
    assert_eq!((house.engine.feed().head(), house.keys(TEXTS).await), (head, 1));

    // In the trash, or with another file, there is nothing to do either.
    let id = house.upload("Another", "text/plain", b"Rhine").await;
    let order = job(&house, id, 1).await;
    house.run(id, DeleteDocument).await;
    let head = house.engine.feed().head();
    worker.run(&order).await.unwrap();
    house.run(id, RestoreDocument).await;
    let file = house.file("b.txt", "text/plain", b"Elbe").await;
    let head = house.run(id, AddRevision { file }).await.position.max(head);
    worker.run(&order).await.unwrap();
    assert_eq!((house.engine.feed().head(), house.keys(TEXTS).await), (head, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_lost_a_race_is_removed() {
    let house = House::new().await;
    let id = house.upload("A river", "text/plain", b"Danube").await;
    let (one, other) = (job(&house, id, 1).await, job(&house, id, 1).await);
    let other = Job { id: Uuid::from_u128(78), ..other };
    let worker = Extraction::new(&house.parts());
    let (one, other) = tokio::join!(worker.run(&one), worker.run(&other));
    one.unwrap();
    other.unwrap();
    assert_eq!(house.count(id, |e| matches!(e, DocumentEvent::TextExtracted { .. })).await, 1);
    let row = house.row(id).await.unwrap();
    let kept = house.blobs.list(TEXTS, None, 9).await.unwrap();
    assert_eq!(kept.iter().map(|blob| blob.key.as_str()).collect::<Vec<_>>(), [row.text_blob.unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_files_fault_is_tried_again_and_ends() {
    let house = House::new().await;
    let absent = Program::new("/nonexistent/oriel".into(), ["extract"]);
    let worker = Extraction::new(&Parts { program: absent, ..house.parts() });
    let id = house.upload("A river", "text/plain", b"Danube").await;
    assert!(worker.max_attempts() > ATTEMPTS);
    for attempt in 1..ATTEMPTS {
        assert!(worker.run(&job(&house, id, attempt).await).await.unwrap_err().retry);
        let row = house.row(id).await.unwrap();
        assert_eq!(stage(&row, Stage::Extract), (StageState::Pending, attempt as i32));
        assert_eq!(row.status, DocumentStatus::Processing);
    }
    let failure = worker.run(&job(&house, id, ATTEMPTS).await).await.unwrap_err();
    assert!(!failure.retry && !failure.message.contains("nonexistent"));
    assert_eq!(house.row(id).await.unwrap().status, DocumentStatus::Failed);

    // A process that ended each time leaves nobody waiting.
    let id = house.upload("Another", "text/plain", b"Rhine").await;
    let last = Job { id: Uuid::from_u128(99), ..job(&house, id, worker.max_attempts()).await };
    assert!(!worker.run(&last).await.unwrap_err().retry);
    let row = house.row(id).await.unwrap();
    assert_eq!(row.status, DocumentStatus::Failed);
    assert!(reason(&row, Stage::Extract).contains("interrupted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_index_and_report_it_still_becomes_ready() {
    let house = House::new().await;
    let id = house.upload("A river", "text/plain", b"Danube").await;
    Extraction::new(&house.parts()).run(&job(&house, id, 1).await).await.unwrap();
    // Only the index follows: as if everything had been killed right after it.
    let index = Follower::PerNode(Arc::new(SearchIndex::new(&house.parts())));
    let alone = Consumers::start(&house.engine, vec![index], ConsumerLimits::default());
    alone.wait_for(search_index::NAME, house.engine.feed().head(), LONG).await.unwrap();
    alone.stop().await;
    assert_eq!(house.found("danube").await, [id.to_string()]);
    assert_eq!(stage(&house.row(id).await.unwrap(), Stage::Index).0, StageState::Pending);

    let reactors = house.start();
    house.ready(id).await;
    reactors.stop().await;
    let head = house.engine.feed().head();
    // Followed anew from its beginning, INDEX is not reported twice.
    let again = house.start();
    again.consumers().wait_for("index_stage", head, LONG).await.unwrap();
    assert_eq!(house.engine.feed().head(), head);
    assert_eq!(house.keys(STAGING).await, 0);
}
