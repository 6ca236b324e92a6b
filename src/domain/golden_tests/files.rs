//! Golden files: the exact bytes of every event type and version that was ever written. They decode for ever.
//!
//! A file `TYPE.vVERSION.json` (or `TYPE.vVERSION.CASE.json`) is a payload as the log holds it: no line break at its
//! end, personal data sealed as the engine seals it, with the key of these tests. `ORIEL_BLESS=1` writes the files that
//! are missing and changes none that is there: what was written once is what logs hold.
//! Knows no aggregate, so that the engine's own suite includes this file by its path.

use std::collections::BTreeSet;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use oriel_kernel::{Event, EventDecodeError, EventDecoder, PersonalField, PersonalVisitor};

/// The key of every person in golden files.
pub const KEY: [u8; 32] = [0x6f; 32];

/// Always the same, so that sealing again gives the same bytes. The engine draws a new one each time.
const NONCE: [u8; NONCE_LEN] = *b"golden-nonce";

/// Whether a payload decodes to what it meant; if not, why.
type Reads = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// What a golden file has to decode to.
pub struct Sample {
    name: String,
    event_type: &'static str,
    version: i16,
    reads: Reads,
    /// How it is written; nothing for a version that is not written any more.
    written: Option<Vec<u8>>,
}

impl Sample {
    /// An event as it is written today. Its personal data is clear.
    pub fn today<E: Event + PartialEq>(event: E) -> Self {
        let mut sealed = event.clone();
        sealed.visit_personal(&mut Sealer);
        let (version, written) = (event.type_version(), sealed.encode().unwrap());
        Self { written: Some(written), ..Self::once(version, event) }
    }

    /// The event that an older version of its type became.
    pub fn once<E: Event + PartialEq>(version: i16, event: E) -> Self {
        let event_type = event.event_type();
        let reads = move |payload: &[u8]| {
            let mut read = E::decode(event_type, version, payload).map_err(|error| error.to_string())?;
            read.visit_personal(&mut Opener);
            if read == event { Ok(()) } else { Err(format!("it decodes to {read:?}, not to {event:?}")) }
        };
        let name = format!("{event_type}.v{version}");
        Self { name, event_type, version, reads: Box::new(reads), written: None }
    }

    /// The name of its file, without the ending.
    #[allow(dead_code)]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A further one of its type and version.
    #[allow(dead_code)]
    pub fn case(mut self, case: &str) -> Self {
        self.name = format!("{}.{case}", self.name);
        self
    }
}

/// What is wrong with the golden files in this folder; nothing when all is well. Writes missing ones if it may.
pub fn problems(folder: &Path, decoders: &[EventDecoder], samples: &[Sample], may_write: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut registered = BTreeSet::new();
    for decoder in decoders {
        for (event_type, newest) in decoder.types {
            registered.extend((1..=*newest).map(|version| (*event_type, version)));
            let next = (decoder.decode)(event_type, newest + 1, b"{}");
            if !matches!(next, Err(EventDecodeError::Unknown { .. })) {
                problems.push(format!("{event_type}: a version after {newest} has to be unknown"));
            }
        }
    }
    for (event_type, version) in &registered {
        if !samples.iter().any(|sample| (sample.event_type, sample.version) == (event_type, *version)) {
            problems.push(format!("{event_type}.v{version}: there is no sample; add one beside the others"));
        }
    }
    let mut expected = BTreeSet::new();
    for sample in samples {
        if !registered.contains(&(sample.event_type, sample.version)) {
            problems.push(format!("{}: no aggregate has this version", sample.name));
        }
        if !expected.insert(format!("{}.json", sample.name)) {
            problems.push(format!("{}: there are two samples; name the second one's case", sample.name));
        }
        problems.extend(sample.problem(folder, may_write).map(|problem| format!("{}: {problem}", sample.name)));
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if !expected.contains(&file) {
            problems.push(format!("{file}: nothing says what it decodes to; events are never unlearned"));
        }
    }
    problems
}

impl Sample {
    fn problem(&self, folder: &Path, may_write: bool) -> Option<String> {
        let path = folder.join(format!("{}.json", self.name));
        if let Some(written) = self.written.as_ref().filter(|_| may_write && !path.exists()) {
            std::fs::write(&path, written).unwrap();
        }
        let Ok(golden) = std::fs::read(&path) else {
            return Some(match self.written {
                Some(_) => "there is no golden file; write it with ORIEL_BLESS=1 and commit it".to_owned(),
                None => "its golden file is gone; take it back from the history of the repository".to_owned(),
            });
        };
        if let Err(problem) = (self.reads)(&golden) {
            return Some(problem);
        }
        let written = self.written.as_ref().filter(|written| **written != golden)?;
        Some(format!(
            "it is written otherwise today; leave its form, or make a new version with an upcast.\n  then: {}\n  now:  {}",
            String::from_utf8_lossy(&golden),
            String::from_utf8_lossy(written)
        ))
    }
}

// --- the engine's cipher, with a nonce that is always the same -------------------------------------------------------

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap())
}

/// Nonce, ciphertext and tag.
pub fn seal(key: &[u8; 32], clear: &[u8], context: &[u8]) -> Vec<u8> {
    let mut sealed = clear.to_vec();
    let nonce = Nonce::assume_unique_for_key(NONCE);
    cipher(key).seal_in_place_append_tag(nonce, Aad::from(context), &mut sealed).unwrap();
    [&NONCE[..], &sealed].concat()
}

fn open(key: &[u8; 32], sealed: &[u8], context: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let (nonce, mut clear) = (Nonce::try_assume_unique_for_key(nonce).ok()?, rest.to_vec());
    let length = cipher(key).open_in_place(nonce, Aad::from(context), &mut clear).ok()?.len();
    clear.truncate(length);
    Some(clear)
}

struct Sealer;

impl PersonalVisitor for Sealer {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let clear = field.clear_bytes().unwrap().unwrap();
        field.set_sealed(seal(&KEY, &clear, field.of().uuid().as_bytes()));
    }
}

/// Opens what was sealed with [`KEY`].
pub struct Opener;

impl PersonalVisitor for Opener {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let opened = field.sealed_bytes().and_then(|sealed| open(&KEY, sealed, field.of().uuid().as_bytes()));
        match opened {
            Some(clear) if field.set_clear(&clear).is_ok() => {}
            _ => field.set_erased(),
        }
    }
}
