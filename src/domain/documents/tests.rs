//! What the heads of `documents.rs` and `pipeline.rs` promise.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use oriel_kernel::{Actor, Visible};
use proptest::prelude::*;

use super::pipeline::{FailStage, RecordIndexed, RecordText, RecordVerdict, SkipStage, StartStage};
use super::*;
use crate::testing::{Desk, member, user, uuid};

const DOC: Uuid = Uuid::from_u128(70);

fn project(number: u128) -> ProjectId {
    ProjectId::from_uuid(uuid(number))
}

fn file(number: usize) -> StoredFile {
    StoredFile {
        name: FileName::parse("C:\\Users\\ada\\plan.pdf").unwrap(),
        media_type: "application/pdf".to_owned(),
        size: 100,
        sha256: "ab".repeat(32),
        blob: format!("blob-{number}"),
        validation: Ok(()),
        scanner: false,
        user: user(1),
        uploaded_by: member(1),
    }
}

fn upload(file: StoredFile) -> UploadDocument {
    let title = Title::parse("Plan").unwrap();
    UploadDocument { project: project(5), title, tags: Tags::parse(["b", " a ", "b"]).unwrap(), file }
}

/// Projects 5 and 6 are active, 7 is archived.
fn desk() -> Desk {
    let mut desk = Desk::new();
    for number in [5, 6] {
        desk.facts.insert(projects::active(desk.organization, project(number)));
    }
    desk
}

fn uploaded(file: StoredFile) -> (Desk, Document) {
    let (mut desk, mut document) = (desk(), Document::default());
    desk.done(DOC, &mut document, &upload(file));
    (desk, document)
}

fn start(attempt: i32) -> StartStage {
    StartStage { revision: 1, stage: Stage::Extract, attempt }
}

fn indexed() -> RecordIndexed {
    RecordIndexed { revision: 1, attempt: 1 }
}

fn fail(attempt: i32, retrying: bool) -> FailStage {
    FailStage { revision: 1, stage: Stage::Extract, attempt, reason: "It is encrypted.".to_owned(), retrying }
}

fn text(attempt: i32) -> RecordText {
    let text = ExtractedText { blob: "text-1".to_owned(), sha256: "cd".repeat(32), characters: 9, truncated: false };
    RecordText { revision: 1, attempt, text: Some(text), page_count: Some(2), language: None, title: None }
}

#[test]
fn an_upload_says_what_became_of_the_first_stages() {
    let (mut desk, mut document) = (desk(), Document::default());
    let events = desk.done(DOC, &mut document, &upload(file(1)));
    let DocumentEvent::Uploaded { file_name, tags, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!(file_name.get().unwrap(), "plan.pdf");
    assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
    let states = Stage::ALL.iter().map(|stage| document.pipeline.state(*stage)).collect::<Vec<_>>();
    use StageState::{Done, Pending, Skipped};
    assert_eq!(states, [Some(Done), Some(Skipped), Some(Done), Some(Pending), Some(Pending), None, None]);
    assert_eq!(document.progress(), Progress::Processing);
}

#[test]
fn extracted_and_indexed_it_is_ready() {
    let (mut desk, mut document) = uploaded(file(1));
    assert_eq!(desk.done(DOC, &mut document, &indexed()), [], "the index comes after the text");
    desk.done(DOC, &mut document, &start(1));
    assert_eq!(desk.done(DOC, &mut document, &start(1)), []);
    assert_eq!(desk.done(DOC, &mut document, &text(1)).len(), 2);
    assert_eq!(desk.done(DOC, &mut document, &text(1)), []);
    assert_eq!(document.progress(), Progress::Processing);
    desk.done(DOC, &mut document, &indexed());
    assert_eq!(document.progress(), Progress::Ready);
    assert_eq!(desk.done(DOC, &mut document, &indexed()), []);
}

#[test]
fn with_a_scanner_the_text_waits_for_the_scan() {
    let (mut desk, mut document) = uploaded(StoredFile { scanner: true, ..file(1) });
    assert_eq!(document.pipeline.awaits(), Some(Awaited { stage: Stage::Scan, attempt: 1 }));
    assert_eq!(desk.done(DOC, &mut document, &text(1)), []);
    assert_eq!(desk.done(DOC, &mut document, &indexed()), []);
    desk.done(DOC, &mut document, &verdict(None));
    assert_eq!(desk.done(DOC, &mut document, &text(1)).len(), 2);
}

fn verdict(signature: Option<&str>) -> RecordVerdict {
    let signature = signature.map(str::to_owned);
    RecordVerdict { revision: 1, attempt: 1, engine: "ClamAV 1.4.6".to_owned(), signature }
}

fn release() -> ReleaseDocument {
    ReleaseDocument { reason: ReleaseReason::parse("A false positive.").unwrap() }
}

const RESCAN: RescanDocument = RescanDocument { scanner: true };

#[test]
fn what_the_scanner_finds_nothing_in_goes_on() {
    let (mut desk, mut document) = uploaded(StoredFile { scanner: true, ..file(1) });
    desk.done(DOC, &mut document, &StartStage { stage: Stage::Scan, ..start(1) });
    assert_eq!(desk.refused(DOC, &document, &release()), (ErrorCode::Conflict, ""), "there is no verdict yet");
    assert_eq!(desk.done(DOC, &mut document, &verdict(None)).len(), 2);
    assert_eq!(desk.done(DOC, &mut document, &verdict(Some("X"))), [], "one verdict counts");
    assert_eq!(desk.refused(DOC, &document, &release()), (ErrorCode::Conflict, ""));
    assert_eq!(document.pipeline.awaits(), Some(Awaited { stage: Stage::Extract, attempt: 1 }));
}

#[test]
fn a_file_with_a_virus_is_kept_back_until_somebody_answers_for_it() {
    let (mut desk, mut document) = uploaded(StoredFile { scanner: true, ..file(1) });
    desk.done(DOC, &mut document, &verdict(Some("Eicar")));
    assert_eq!(document.pipeline.state(Stage::Scan), Some(StageState::Failed));
    assert_eq!(desk.done(DOC, &mut document, &text(1)), [], "nobody reads it");
    assert_eq!(desk.refused(DOC, &document, &release()).0, ErrorCode::Conflict, "Oriel itself answers for nothing");
    // Whoever may not change everything may not release what is not theirs.
    desk.grant = Grant::Own;
    desk.actor = Actor::Member(member(2));
    assert_eq!(desk.refused(DOC, &document, &release()).0, ErrorCode::Forbidden);
    desk.grant = Grant::All;
    let released = desk.done(DOC, &mut document, &release());
    assert!(
        matches!(&released[..], [DocumentEvent::Released { reason, .. }, DocumentEvent::StageSkipped { stage: Stage::Scan, .. }]
            if reason.as_str() == "A false positive."),
        "{released:?}"
    );
    assert_eq!(desk.done(DOC, &mut document, &release()), []);
    assert_eq!(desk.done(DOC, &mut document, &text(1)).len(), 2);
}

#[test]
fn a_scan_can_be_wanted_anew_and_keeps_the_file_back_meanwhile() {
    let (mut desk, mut document) = uploaded(StoredFile { scanner: true, ..file(1) });
    assert_eq!(desk.done(DOC, &mut document, &RESCAN), [], "it is due already");
    desk.done(DOC, &mut document, &verdict(None));
    assert_eq!(desk.refused(DOC, &document, &RESCAN), (ErrorCode::Conflict, ""), "its text is still to be read");
    desk.done(DOC, &mut document, &text(1));
    desk.done(DOC, &mut document, &indexed());
    assert_eq!(document.progress(), Progress::Ready);
    assert_eq!(desk.refused(DOC, &document, &RescanDocument { scanner: false }), (ErrorCode::Conflict, ""));
    let ordered = DocumentEvent::ScanOrdered { revision: 1, attempt: 2 };
    assert_eq!(desk.done(DOC, &mut document, &RESCAN), [ordered]);
    assert_eq!(desk.done(DOC, &mut document, &RESCAN), []);
    assert_eq!(document.progress(), Progress::Processing);
    desk.done(DOC, &mut document, &RecordVerdict { attempt: 2, ..verdict(Some("Eicar")) });
    assert_eq!(document.progress(), Progress::Failed);
    desk.done(DOC, &mut document, &RESCAN);
    desk.done(DOC, &mut document, &RecordVerdict { attempt: 3, ..verdict(None) });
    assert_eq!(document.progress(), Progress::Ready, "what was done after the scan stays done");
}

#[test]
fn a_virus_that_was_found_is_not_skipped_when_there_is_no_scanner_any_more() {
    let (mut desk, mut document) = uploaded(StoredFile { scanner: true, ..file(1) });
    let skip = || SkipStage { revision: 1, stage: Stage::Scan, reason: "No scanner is configured.".to_owned() };
    desk.done(DOC, &mut document, &verdict(Some("Eicar")));
    desk.done(DOC, &mut document, &RetryDocument);
    desk.done(DOC, &mut document, &skip());
    assert_eq!(document.pipeline.state(Stage::Scan), Some(StageState::Failed));
    // Of another file nothing was found.
    desk.done(DOC, &mut document, &AddRevision { file: StoredFile { scanner: true, ..file(2) } });
    desk.done(DOC, &mut document, &SkipStage { revision: 2, ..skip() });
    assert_eq!(document.pipeline.state(Stage::Scan), Some(StageState::Skipped));
}

#[test]
fn a_refused_file_is_a_failed_document_until_another_one_comes() {
    let reason = "The file is empty. ".repeat(100);
    let (mut desk, mut document) = uploaded(StoredFile { validation: Err(reason), ..file(1) });
    assert_eq!(document.progress(), Progress::Failed);
    assert_eq!(desk.refused(DOC, &document, &RetryDocument), (ErrorCode::Conflict, ""));
    assert_eq!(desk.done(DOC, &mut document, &text(1)), []);
    desk.done(DOC, &mut document, &AddRevision { file: file(2) });
    assert_eq!(document.progress(), Progress::Processing);
    assert_eq!(document.size, 200);
}

#[test]
fn a_failed_stage_goes_on_counting_when_it_is_retried() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &start(1));
    desk.done(DOC, &mut document, &fail(1, true));
    assert_eq!(desk.done(DOC, &mut document, &fail(1, true)), []);
    assert_eq!(document.progress(), Progress::Processing);
    desk.done(DOC, &mut document, &start(2));
    assert_eq!(desk.done(DOC, &mut document, &fail(1, false)), [], "attempt 2 is running");
    desk.done(DOC, &mut document, &fail(2, false));
    assert_eq!(document.progress(), Progress::Failed);
    assert_eq!(desk.done(DOC, &mut document, &fail(2, false)), []);
    assert_eq!(desk.done(DOC, &mut document, &text(2)), []);
    let retried = DocumentEvent::Retried { revision: 1, stage: Stage::Extract, attempt: 3 };
    assert_eq!(desk.done(DOC, &mut document, &RetryDocument), [retried]);
    assert_eq!(desk.done(DOC, &mut document, &RetryDocument), []);
    assert_eq!(document.progress(), Progress::Processing);
    desk.done(DOC, &mut document, &start(3));
    assert_eq!(document.pipeline.attempts(Stage::Extract), 3);
}

#[test]
fn giving_up_between_attempts_fails_it() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &start(1));
    desk.done(DOC, &mut document, &fail(1, true));
    desk.done(DOC, &mut document, &fail(1, false));
    assert_eq!(document.progress(), Progress::Failed);
}

#[test]
fn a_newer_revision_begins_again() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &start(3));
    desk.done(DOC, &mut document, &text(3));
    desk.done(DOC, &mut document, &indexed());
    assert_eq!(document.progress(), Progress::Ready);
    desk.done(DOC, &mut document, &AddRevision { file: file(2) });
    assert_eq!(document.progress(), Progress::Processing);
    assert_eq!(document.pipeline.awaits(), Some(Awaited { stage: Stage::Extract, attempt: 1 }));
    assert_eq!(desk.done(DOC, &mut document, &RecordText { revision: 2, ..text(1) }).len(), 2);
}

#[test]
fn what_comes_too_late_changes_nothing() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &AddRevision { file: file(2) });
    assert_eq!(desk.done(DOC, &mut document, &start(1)), []);
    assert_eq!(desk.done(DOC, &mut document, &text(1)), []);
    assert_eq!(desk.done(DOC, &mut document, &fail(1, false)), []);
    let skip = SkipStage { revision: 2, stage: Stage::Thumbnail, reason: "Not yet.".to_owned() };
    assert_eq!(desk.done(DOC, &mut document, &skip), [], "no part of the pipeline");
    desk.done(DOC, &mut document, &DeleteDocument);
    assert_eq!(desk.done(DOC, &mut document, &RecordText { revision: 2, ..text(1) }), []);
    desk.done(DOC, &mut document, &PurgeDocument);
    assert_eq!(desk.done(DOC, &mut document, &RecordText { revision: 2, ..text(1) }), []);
}

#[test]
fn restore_returns_to_where_it_was_and_says_what_is_due() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &start(1));
    desk.done(DOC, &mut document, &DeleteDocument);
    assert_eq!(desk.done(DOC, &mut document, &DeleteDocument), []);
    let update = UpdateDocument { title: Some(Title::parse("Other").unwrap()), tags: None };
    assert_eq!(desk.refused(DOC, &document, &update), (ErrorCode::Conflict, ""));
    assert_eq!(desk.refused(DOC, &document, &AddRevision { file: file(2) }), (ErrorCode::Conflict, ""));
    let restored = desk.done(DOC, &mut document, &RestoreDocument);
    let awaits = Some(Awaited { stage: Stage::Extract, attempt: 2 });
    assert_eq!(restored, [DocumentEvent::Restored { project: project(5), size: 100, revision: 1, awaits }]);
    assert_eq!(document.pipeline.state(Stage::Extract), Some(StageState::Pending), "nobody works on it any more");
    assert_eq!(desk.done(DOC, &mut document, &RestoreDocument), []);
    desk.done(DOC, &mut document, &start(2));
    desk.done(DOC, &mut document, &text(2));
}

#[test]
fn a_failed_document_is_restored_as_failed() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &fail(1, false));
    desk.done(DOC, &mut document, &DeleteDocument);
    let restored = desk.done(DOC, &mut document, &RestoreDocument);
    assert!(matches!(restored[0], DocumentEvent::Restored { awaits: None, .. }));
    assert_eq!(document.progress(), Progress::Failed);
}

#[test]
fn only_what_is_in_the_trash_is_purged_and_then_it_looks_absent() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.done(DOC, &mut document, &text(1));
    desk.done(DOC, &mut document, &AddRevision { file: file(2) });
    assert_eq!(desk.refused(DOC, &document, &PurgeDocument), (ErrorCode::Conflict, ""));
    desk.done(DOC, &mut document, &DeleteDocument);
    let blobs = ["blob-1", "text-1", "blob-2"].map(str::to_owned).to_vec();
    let purged = DocumentEvent::Purged { project: project(5), size: 200, blobs };
    assert_eq!(desk.done(DOC, &mut document, &PurgeDocument), [purged]);
    assert_eq!(desk.refused(DOC, &document, &PurgeDocument), (ErrorCode::NotFound, ""));
    assert_eq!(desk.refused(DOC, &document, &RestoreDocument), (ErrorCode::NotFound, ""));
    assert_eq!(desk.refused(DOC, &document, &RetryDocument), (ErrorCode::NotFound, ""));
}

#[test]
fn an_archived_an_unseen_and_a_missing_project_look_the_same() {
    let (mut desk, document) = uploaded(file(1));
    let mut answers = Vec::new();
    for (to, visible) in [(7, Visible::All), (99, Visible::All), (6, Visible::Only(Arc::new([uuid(5)].into())))] {
        desk.visible = visible;
        answers.push(desk.execute(DOC, &mut document.clone(), &MoveDocument { to: project(to) }).unwrap_err());
        let command = UploadDocument { project: project(to), ..upload(file(2)) };
        answers.push(desk.execute(uuid(71), &mut Document::default(), &command).unwrap_err());
    }
    answers.dedup();
    assert_eq!(answers, [no_such_project()]);
}

#[test]
fn a_move_carries_what_the_counters_need() {
    let (mut desk, mut document) = uploaded(file(1));
    assert_eq!(desk.done(DOC, &mut document, &MoveDocument { to: project(5) }), []);
    let moved = desk.done(DOC, &mut document, &MoveDocument { to: project(6) });
    assert_eq!(moved, [DocumentEvent::Moved { from: project(5), to: project(6), size: 100 }]);
    assert_eq!(document.scope(), Some(uuid(6)));
}

#[test]
fn in_an_archived_project_only_taking_away_is_left() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.facts.remove(&projects::active(desk.organization, project(5)));
    let conflict = (ErrorCode::Conflict, "");
    let update = UpdateDocument { title: Some(Title::parse("Other").unwrap()), tags: None };
    assert_eq!(desk.refused(DOC, &document, &update), conflict);
    assert_eq!(desk.refused(DOC, &document, &AddRevision { file: file(2) }), conflict);
    desk.done(DOC, &mut document, &DeleteDocument);
    assert_eq!(desk.refused(DOC, &document, &RestoreDocument), conflict);
    desk.done(DOC, &mut document, &PurgeDocument);
    let (mut desk, mut document) = uploaded(file(1));
    desk.facts.remove(&projects::active(desk.organization, project(5)));
    desk.done(DOC, &mut document, &MoveDocument { to: project(6) });
}

#[test]
fn with_a_grant_for_their_own_only_the_uploader_changes_it() {
    let (mut desk, mut document) = uploaded(file(1));
    desk.grant = Grant::Own;
    desk.actor = Actor::Member(member(2));
    let forbidden = (ErrorCode::Forbidden, "");
    assert_eq!(desk.refused(DOC, &document, &DeleteDocument), forbidden);
    assert_eq!(desk.refused(DOC, &document, &PurgeDocument), forbidden);
    assert_eq!(desk.refused(DOC, &document, &RestoreDocument), forbidden);
    assert_eq!(desk.refused(DOC, &document, &MoveDocument { to: project(6) }), forbidden);
    assert_eq!(desk.refused(DOC, &document, &UpdateDocument { title: None, tags: None }), forbidden);
    desk.actor = Actor::Member(member(1));
    assert_eq!(desk.done(DOC, &mut document, &DeleteDocument).len(), 1);
}

#[test]
fn an_update_writes_what_changed() {
    let (mut desk, mut document) = uploaded(file(1));
    let same =
        UpdateDocument { title: Some(Title::parse("Plan").unwrap()), tags: Some(Tags::parse(["b", "a"]).unwrap()) };
    assert_eq!(desk.done(DOC, &mut document, &same), []);
    let other = UpdateDocument { title: Some(Title::parse("Plan 2").unwrap()), tags: Some(Tags::default()) };
    assert_eq!(desk.done(DOC, &mut document, &other).len(), 2);
    assert_eq!(desk.done(DOC, &mut document, &other), []);
}

#[test]
fn tags_and_file_names_have_limits() {
    assert_eq!(Tags::parse((0..50).map(|n| format!("t{n}"))).map(|tags| tags.as_slice().len()), Ok(50));
    assert_eq!(Tags::parse((0..51).map(|n| format!("t{n}"))).map_err(|r| r.code), Err(ErrorCode::LimitExceeded));
    assert_eq!(Tags::parse(["x".repeat(61)]).map_err(|r| r.code), Err(ErrorCode::TooLong));
    assert_eq!(FileName::parse("../../etc/passwd").unwrap().as_str(), "passwd");
    assert!(FileName::parse("folder/").is_err());
}

#[test]
fn revisions_are_bounded() {
    let (mut desk, mut document) = uploaded(file(1));
    document.revision = Document::MAX_REVISIONS;
    assert_eq!(desk.refused(DOC, &document, &AddRevision { file: file(2) }), (ErrorCode::LimitExceeded, ""));
}

/// Anything that can be wanted of a document.
#[derive(Clone, Debug)]
enum Wish {
    Upload { project: u128, valid: bool, scanner: bool },
    Revise { valid: bool, scanner: bool },
    Update { title: u8, tags: u8 },
    Move { to: u128 },
    Delete,
    Restore,
    Purge,
    Retry,
    Start { revision: i32, stage: Stage, attempt: i32 },
    Indexed { revision: i32, attempt: i32 },
    Skip { revision: i32, stage: Stage },
    Fail { revision: i32, stage: Stage, attempt: i32, retrying: bool },
    Text { revision: i32, attempt: i32 },
    Verdict { revision: i32, attempt: i32, infected: bool },
    Release,
    Rescan,
}

fn wish() -> impl Strategy<Value = Wish> {
    let stage = || prop::sample::select(Stage::ALL);
    let revision = || prop_oneof![4 => 1..4i32, 1 => any::<i32>()];
    let attempt = || prop_oneof![6 => 0..5i32, 1 => any::<i32>()];
    prop_oneof![
        1 => (5..8u128, any::<bool>(), any::<bool>())
            .prop_map(|(project, valid, scanner)| Wish::Upload { project, valid, scanner }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(valid, scanner)| Wish::Revise { valid, scanner }),
        1 => (0..3u8, 0..3u8).prop_map(|(title, tags)| Wish::Update { title, tags }),
        1 => (5..8u128).prop_map(|to| Wish::Move { to }),
        1 => Just(Wish::Delete),
        2 => Just(Wish::Restore),
        1 => prop::bool::weighted(0.2).prop_map(|purge| if purge { Wish::Purge } else { Wish::Restore }),
        2 => Just(Wish::Retry),
        3 => (revision(), stage(), attempt())
            .prop_map(|(revision, stage, attempt)| Wish::Start { revision, stage, attempt }),
        2 => (revision(), attempt()).prop_map(|(revision, attempt)| Wish::Indexed { revision, attempt }),
        1 => (revision(), stage()).prop_map(|(revision, stage)| Wish::Skip { revision, stage }),
        3 => (revision(), stage(), attempt(), any::<bool>())
            .prop_map(|(revision, stage, attempt, retrying)| Wish::Fail { revision, stage, attempt, retrying }),
        3 => (revision(), attempt()).prop_map(|(revision, attempt)| Wish::Text { revision, attempt }),
        2 => (revision(), attempt(), any::<bool>())
            .prop_map(|(revision, attempt, infected)| Wish::Verdict { revision, attempt, infected }),
        1 => any::<bool>().prop_map(|release| if release { Wish::Release } else { Wish::Rescan }),
    ]
}

fn fulfil(
    desk: &mut Desk,
    document: &mut Document,
    wish: &Wish,
    number: usize,
) -> Result<Vec<DocumentEvent>, Rejection> {
    let stored = |valid: bool, scanner: bool| {
        let validation = if valid { Ok(()) } else { Err("It is empty.".to_owned()) };
        StoredFile { validation, scanner, size: number as i64 + 1, ..file(number) }
    };
    match wish.clone() {
        Wish::Upload { project: to, valid, scanner } => {
            desk.execute(DOC, document, &UploadDocument { project: project(to), ..upload(stored(valid, scanner)) })
        }
        Wish::Revise { valid, scanner } => desk.execute(DOC, document, &AddRevision { file: stored(valid, scanner) }),
        Wish::Update { title, tags } => {
            let title = Some(Title::parse(&format!("Plan {title}")).unwrap());
            let tags = Some(Tags::parse((0..tags).map(|n| format!("t{n}"))).unwrap());
            desk.execute(DOC, document, &UpdateDocument { title, tags })
        }
        Wish::Move { to } => desk.execute(DOC, document, &MoveDocument { to: project(to) }),
        Wish::Delete => desk.execute(DOC, document, &DeleteDocument),
        Wish::Restore => desk.execute(DOC, document, &RestoreDocument),
        Wish::Purge => desk.execute(DOC, document, &PurgeDocument),
        Wish::Retry => desk.execute(DOC, document, &RetryDocument),
        Wish::Start { revision, stage, attempt } => {
            desk.execute(DOC, document, &StartStage { revision, stage, attempt })
        }
        Wish::Indexed { revision, attempt } => desk.execute(DOC, document, &RecordIndexed { revision, attempt }),
        Wish::Skip { revision, stage } => {
            desk.execute(DOC, document, &SkipStage { revision, stage, reason: "No need.".to_owned() })
        }
        Wish::Fail { revision, stage, attempt, retrying } => {
            let reason = "It broke.".to_owned();
            desk.execute(DOC, document, &FailStage { revision, stage, attempt, reason, retrying })
        }
        Wish::Verdict { revision, attempt, infected } => {
            let verdict = verdict(infected.then_some("Eicar"));
            desk.execute(DOC, document, &RecordVerdict { revision, attempt, ..verdict })
        }
        Wish::Release => desk.execute(DOC, document, &release()),
        Wish::Rescan => desk.execute(DOC, document, &RESCAN),
        Wish::Text { revision, attempt } => {
            let blob =
                ExtractedText { blob: format!("text-{number}"), sha256: String::new(), characters: 1, truncated: true };
            desk.execute(DOC, document, &RecordText { revision, text: Some(blob), ..text(attempt) })
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_heads_of_these_files_hold(
        scanner: bool,
        mut wishes in prop::collection::vec(wish(), 1..80),
        first in 0usize..3,
    ) {
        let (mut desk, mut document) = (desk(), Document::default());
        desk.actor = Actor::Member(member(1));
        wishes.insert(first.min(wishes.len()), Wish::Upload { project: 5, valid: true, scanner });
        let mut history: Vec<DocumentEvent> = Vec::new();
        let mut sizes = BTreeMap::new();
        for (number, wish) in wishes.iter().enumerate() {
            let before = document.clone();
            let written = fulfil(&mut desk, &mut document, wish, number).unwrap_or_default();
            if written.is_empty() {
                prop_assert_eq!(&before, &document, "a change without an event");
                continue;
            }
            prop_assert!(!before.purged, "a purged document changed");
            let leaves_trash = matches!(wish, Wish::Restore | Wish::Purge);
            prop_assert!(!before.trashed || leaves_trash, "a document in the trash changed");
            // Once more, right away: nothing more is written (a new revision apart).
            if !matches!(wish, Wish::Revise { .. }) {
                prop_assert_eq!(fulfil(&mut desk, &mut document, wish, number).unwrap_or_default(), []);
            }
            for event in &written {
                match event {
                    DocumentEvent::Uploaded { size, .. } => { sizes.insert(1, *size); }
                    DocumentEvent::RevisionAdded { revision, size, .. } => {
                        prop_assert_eq!(*revision, before.revision + 1);
                        sizes.insert(*revision, *size);
                    }
                    DocumentEvent::StageStarted { revision, stage, attempt }
                    | DocumentEvent::Retried { revision, stage, attempt } => {
                        prop_assert_eq!(*revision, before.revision);
                        prop_assert!(*attempt > before.pipeline.attempts(*stage) || *attempt == i32::MAX);
                    }
                    DocumentEvent::Moved { from, size, .. } => {
                        prop_assert_eq!((*from, *size), (before.project, before.size));
                    }
                    DocumentEvent::Trashed { project, size } | DocumentEvent::Purged { project, size, .. } => {
                        prop_assert_eq!((*project, *size), (before.project, before.size));
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(document.size, sizes.values().sum::<i64>());
            prop_assert_eq!(document.revision, sizes.len() as i32);
            // A scan that is wanted anew is the one thing that is settled and then is not.
            if document.revision == before.revision && !matches!(wish, Wish::Rescan) {
                for stage in Stage::PIPELINE {
                    let (was, is) = (before.pipeline.state(stage), document.pipeline.state(stage));
                    prop_assert!(!was.is_some_and(StageState::is_settled) || was == is, "{stage:?} was settled twice");
                    prop_assert!(document.pipeline.attempts(stage) >= before.pipeline.attempts(stage));
                }
            }
            let is_settled = |stage: &Stage| document.pipeline.state(*stage).is_some_and(StageState::is_settled);
            let settled = Stage::PIPELINE.iter().all(is_settled);
            prop_assert_eq!(document.progress() == Progress::Ready, settled);
            // What is open is due, or something failed, or it is ready: nothing is stuck.
            let due = document.pipeline.awaits().is_some();
            prop_assert_eq!(due, document.progress() == Progress::Processing);
            prop_assert!(!document.infected || !is_settled(&Stage::Scan), "a virus is handed out");
            history.extend(written);
        }
        let mut replayed = Document::default();
        history.iter().for_each(|event| replayed.evolve(event));
        prop_assert_eq!(replayed, document);
    }
}
