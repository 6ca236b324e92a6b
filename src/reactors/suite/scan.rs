//! From the upload past a real clamd: what is found stays in quarantine, what waits goes on by itself.

use oriel_backends::scanner::Scanner;
use oriel_domain::documents::{AddRevision, ReleaseDocument, ReleaseReason, RescanDocument, RetryDocument};

use super::*;

#[path = "../../backends/scanner/clamd.rs"]
mod clamd;

use clamd::{Clamd, SIGNATURE, STREAM_MAX, eicar};

impl House {
    /// With this scanner.
    fn scanned_by(&self, clamd: &Clamd) -> Parts {
        let scanner = Scanner::open(&clamd.url(), 100 << 20).unwrap();
        Parts { scanner: Some(scanner), ..self.parts() }
    }

    /// A document that is to be scanned.
    async fn arrive(&self, title: &str, content: &[u8]) -> DocumentId {
        let file = StoredFile { scanner: true, ..self.file("notes.txt", "text/plain", content).await };
        let id = self.engine.new_id();
        let (title, tags) = (Title::parse(title).unwrap(), Tags::default());
        self.run(id, UploadDocument { project: self.project, title, tags, file }).await;
        id
    }

    async fn quarantined(&self, id: DocumentId) -> Model {
        self.until(id, |row| row.status == DocumentStatus::Quarantined).await
    }

    /// The owner answers for it.
    async fn release(&self, id: DocumentId) -> Committed {
        let owner = oriel_kernel::Actor::Member(self.member);
        let context = CommandContext { actor: owner, ..self.system() };
        let reason = ReleaseReason::parse("It is a test.").unwrap();
        self.engine.execute(&context, id, ReleaseDocument { reason }).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_clean_is_read_and_found_and_what_is_not_is_neither_until_it_is_released() {
    let Some(clamd) = Clamd::start() else { return };
    let house = House::new().await;
    let reactors = Reactors::start(house.scanned_by(&clamd));
    let clean = house.arrive("A river", b"The Danube rises in the Black Forest.").await;
    let infected = house.arrive("A virus", &[&b"Rhine "[..], &eicar()].concat()).await;
    let row = house.ready(clean).await;
    assert_eq!(stage(&row, Stage::Scan).0, StageState::Done);
    assert_eq!(house.found("danube").await, [clean.to_string()]);

    let row = house.quarantined(infected).await;
    assert_eq!(stage(&row, Stage::Extract), (StageState::Pending, 0));
    assert!(reason(&row, Stage::Scan).contains(SIGNATURE), "{row:?}");
    assert!(row.is_kept_back() && !row.is_cleared());
    house.indexed(&reactors).await;
    assert_eq!(house.found("virus").await, [] as [String; 0], "not even its title");
    assert!(house.engine.queue_states().await.unwrap().iter().all(|queue| queue.failed == 0), "that is no failed job");

    // Asked again the scanner says the same.
    house.run(infected, RetryDocument).await;
    let again = |e: &DocumentEvent| matches!(e, DocumentEvent::Scanned { signature: Some(_), .. });
    house.until(infected, |row| row.status == DocumentStatus::Quarantined && stage(row, Stage::Scan).1 >= 2).await;
    assert_eq!(house.count(infected, again).await, 2);

    house.release(infected).await;
    let row = house.ready(infected).await;
    assert_eq!(stage(&row, Stage::Scan).0, StageState::Skipped);
    assert_eq!(house.found("virus").await, [infected.to_string()]);
    let released = house.history(infected).await;
    let released = released.iter().find(|event| event.event.event_type() == "document_released").unwrap();
    assert_eq!(released.actor, oriel_kernel::Actor::Member(house.member));

    // Scanned anew it is kept back again, and found no more.
    house.run(infected, RescanDocument { scanner: true }).await;
    house.quarantined(infected).await;
    house.indexed(&reactors).await;
    assert_eq!(house.found("virus").await, [] as [String; 0]);
    // A better file mends it.
    let file = StoredFile { scanner: true, ..house.file("better.txt", "text/plain", b"Elbe").await };
    house.run(infected, AddRevision { file }).await;
    house.ready(infected).await;
    assert_eq!(house.found("elbe").await, [infected.to_string()]);
    reactors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_scanner_is_away_files_wait_which_is_said_once_and_go_on_when_it_is_back() {
    let Some(mut clamd) = Clamd::start() else { return };
    clamd.stop();
    let house = House::new().await;
    let reactors = Reactors::start(house.scanned_by(&clamd));
    let mut waiting = Vec::new();
    for title in ["One", "Two", "Three", "Four", "Five", "Six"] {
        waiting.push(house.arrive(title, b"Danube").await);
    }
    let told = |row: &Model| reason(row, Stage::Scan).contains("does not answer");
    let row = house.until(waiting[0], told).await;
    assert_eq!((row.status, stage(&row, Stage::Scan).0), (DocumentStatus::Processing, StageState::Pending));
    // All of them get their turn, though no place is free for long.
    house.until(waiting[5], told).await;
    assert!(row.is_kept_back());
    clamd.start_again();
    for id in &waiting {
        house.ready(*id).await;
        let failures = |e: &DocumentEvent| matches!(e, DocumentEvent::StageFailed { .. });
        assert!(house.count(*id, failures).await <= 1, "it is said once");
    }
    assert_eq!(house.found("danube").await.len(), 6);
    reactors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_scanner_does_not_take_stays_in_quarantine_with_the_reason() {
    let Some(clamd) = Clamd::start() else { return };
    let house = House::new().await;
    let reactors = Reactors::start(house.scanned_by(&clamd));
    let large = house.arrive("Large", &vec![b'x'; STREAM_MAX as usize + 1]).await;
    let row = house.quarantined(large).await;
    assert!(reason(&row, Stage::Scan).contains("larger"), "{row:?}");
    assert_eq!(row.scan, None, "there is no verdict");
    house.release(large).await;
    house.ready(large).await;
    reactors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scanner_what_waits_for_one_goes_on_but_not_what_was_found() {
    let Some(clamd) = Clamd::start() else { return };
    let house = House::new().await;
    let reactors = Reactors::start(house.scanned_by(&clamd));
    let infected = house.arrive("A virus", &eicar()).await;
    house.quarantined(infected).await;
    reactors.stop().await;

    let reactors = house.start();
    let waits = house.arrive("A river", b"Danube").await;
    assert_eq!(stage(&house.ready(waits).await, Stage::Scan).0, StageState::Skipped);
    let retried = house.run(infected, RetryDocument).await.events[0].version;
    let row = house.until(infected, |row| row.status == DocumentStatus::Quarantined && row.version > retried).await;
    assert!(reason(&row, Stage::Scan).contains("no scanner"), "{row:?}");
    reactors.stop().await;
}
