//! Golden files of the toy product: an event of an old version is lifted, sealed bytes open for ever, and the guard of
//! the golden files goes red when it has to.

use std::path::{Path, PathBuf};

use oriel_kernel::{AnyEvent, Event, EventDecoder, OrganizationId, Personal};

use super::things::{DECODERS, ThingEvent};
use super::*;
use crate::keyring::Keyring;

// The guard is the one of the product's events.
#[path = "../../domain/golden_tests/files.rs"]
mod files;

use files::{KEY, Opener, Sample, problems, seal};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/golden")
}

fn samples() -> Vec<Sample> {
    use ThingEvent as E;
    let thing = ThingId::from_uuid(Uuid::from_u128(0x0c01));
    let text = str::to_owned;
    vec![
        Sample::today(E::Made { thing, organization: org(1), label: text("a"), owner: ada() }),
        // What version 1 called a name, and gave no reason for.
        Sample::once(1, E::Labelled { label: text("clock"), why: text("unknown") }),
        Sample::today(E::Labelled { label: text("clock"), why: text("it ticks") }),
        Sample::today(E::Counted { by: -3 }),
        Sample::today(E::Removed),
        Sample::today(E::Poisoned),
        Sample::today(E::Forgotten),
        Sample::today(E::RowsRemoved { rows: vec![thing.uuid()] }),
        Sample::today(E::MadeAnew { subjects: vec![thing.uuid()] }),
    ]
}

fn ada() -> Personal<String> {
    Personal::new(person(1), "Ada Lovelace".to_owned())
}

#[test]
fn every_version_decodes_to_todays_event() {
    let problems = problems(&folder(), &DECODERS, &samples(), std::env::var_os("ORIEL_BLESS").is_some());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

on_both! {
    /// The golden files of all events are sealed by hand; here that is held against the engine's own cipher.
    async fn what_was_sealed_once_opens_for_ever(place) {
        let database = Database::open(&place.location, 2).await.unwrap();
        let wrapped = seal(&[7; 32], &KEY, person(1).uuid().as_bytes());
        let master = MasterKey::new([7; 32]);
        let insert = "INSERT INTO data_keys (id, wrapped, wrapped_by) VALUES ($1, $2, $3)";
        let values = vec![person(1).uuid().into(), wrapped.into(), master.id().into()];
        database.writer().execute_raw(database.statement(insert, insert, values)).await.unwrap();
        let keyring = Keyring::open(database, Arc::new(master), place.sources.now()).await.unwrap();

        let payload = std::fs::read(folder().join("thing_made.v1.json")).unwrap();
        let mut read: Vec<Box<dyn AnyEvent>> = vec![Box::new(ThingEvent::decode("thing_made", 1, &payload).unwrap())];
        keyring.unseal(read.iter_mut().map(|event| (OrganizationId::ABSENT, event.as_mut())).collect()).await.unwrap();
        let owner = |event: &dyn AnyEvent| match event.as_any().downcast_ref() {
            Some(ThingEvent::Made { owner, .. }) => owner.clone(),
            _ => panic!("{event:?}"),
        };
        assert_eq!(owner(read[0].as_ref()), ada());

        keyring.seal(OrganizationId::ABSENT, read[0].as_mut()).await.unwrap();
        assert!(matches!(owner(read[0].as_ref()), Personal::Sealed { .. }));
        read[0].visit_personal(&mut Opener);
        assert_eq!(owner(read[0].as_ref()), ada());
    }
}

/// A copy of the golden files, to be spoilt.
fn copied() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[test]
fn the_guard_goes_red() {
    let copy = copied();
    let file = |name: &str| copy.path().join(name);
    let found = |decoders: &[EventDecoder], samples: &[Sample]| problems(copy.path(), decoders, samples, false);
    assert_eq!(found(&DECODERS, &samples()), [""; 0]);

    let counted = std::fs::read(file("thing_counted.v1.json")).unwrap();
    // Another value, another form of the same value, no file.
    for (bytes, problem) in [
        (Some(&br#"{"by":3}"#[..]), "it decodes to Counted { by: 3 }"),
        (Some(br#"{"by": -3}"#), "it is written otherwise today"),
        (Some(b"{}"), "missing field `by`"),
        (None, "there is no golden file"),
    ] {
        match bytes {
            Some(bytes) => std::fs::write(file("thing_counted.v1.json"), bytes).unwrap(),
            None => std::fs::remove_file(file("thing_counted.v1.json")).unwrap(),
        }
        let found = found(&DECODERS, &samples());
        assert!(found.len() == 1 && found[0].contains(problem), "{found:#?}");
    }
    // A missing file is written when it may be, and is what it was; one that is there is never changed.
    std::fs::write(file("thing_labelled.v2.json"), br#"{"label":"clock","why":"no reason"}"#).unwrap();
    let blessed = problems(copy.path(), &DECODERS, &samples(), true);
    assert!(blessed.len() == 1 && blessed[0].starts_with("thing_labelled.v2: it decodes to"), "{blessed:#?}");
    assert_eq!(std::fs::read(file("thing_counted.v1.json")).unwrap(), counted);
    std::fs::remove_file(file("thing_labelled.v1.json")).unwrap();
    let blessed = problems(copy.path(), &DECODERS, &samples(), true);
    assert!(blessed[0].starts_with("thing_labelled.v1: its golden file is gone"), "{blessed:#?}");

    let copy = copied();
    std::fs::write(copy.path().join("thing_sold.v1.json"), b"{}").unwrap();
    assert!(problems(copy.path(), &DECODERS, &samples(), false)[0].starts_with("thing_sold.v1.json: nothing says"));
    let copy = copied();
    let without = |name: &str| samples().into_iter().filter(|sample| sample.name() != name).collect::<Vec<_>>();
    let found = problems(copy.path(), &DECODERS, &without("thing_labelled.v1"), false);
    assert!(found[0].starts_with("thing_labelled.v1: there is no sample"), "{found:#?}");
}
