//! What a generation holds, entry by entry: to find out whether another one holds the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use tantivy::index::SegmentReader;
use tantivy::postings::Postings;
use tantivy::schema::{Field, IndexRecordOption, Value};
use tantivy::{DocSet, TERMINATED, TantivyDocument, TantivyError};

use super::super::SearchError;
use super::generation::Snapshot;
use super::schema::{TIE, UPDATED};

/// Tells of each entry its id and a digest of all that a search reads of it: every word of every field with its
/// places, the columns, and what is stored. How entries are spread over segments makes no difference.
pub(super) fn contents(snapshot: &Snapshot, mut each: impl FnMut(String, u64)) -> Result<(), SearchError> {
    for segment in snapshot.searcher.segment_readers() {
        let mut digests = vec![0; segment.max_doc() as usize];
        for (field, entry) in segment.schema().fields() {
            if entry.is_indexed() {
                words(segment, field, &mut digests)?;
            }
        }
        let (updated, tie) = (segment.fast_fields().i64(UPDATED)?, segment.fast_fields().u64(TIE)?);
        let store = segment.get_store_reader(1).map_err(TantivyError::from)?;
        for document in segment.doc_ids_alive() {
            let stored: TantivyDocument = store.get(document)?;
            let mut digest = DefaultHasher::new();
            (digests.get(document as usize), updated.first(document), tie.first(document)).hash(&mut digest);
            for (field, value) in stored.field_values() {
                (field.field_id(), value.as_value().as_str()).hash(&mut digest);
            }
            let id = stored.get_first(snapshot.fields.id).and_then(|id| id.as_value().as_str()).map(str::to_owned);
            each(id.unwrap_or_default(), digest.finish());
        }
    }
    Ok(())
}

/// Adds to the digest of each entry the words of one field. A sum, because words come in the order of the dictionary.
fn words(segment: &SegmentReader, field: Field, digests: &mut [u64]) -> Result<(), SearchError> {
    let index = segment.inverted_index(field)?;
    let mut terms = index.terms().stream().map_err(TantivyError::from)?;
    let mut places = Vec::new();
    while terms.advance() {
        let every = IndexRecordOption::WithFreqsAndPositions;
        let mut postings = index.read_postings_from_terminfo(terms.value(), every).map_err(TantivyError::from)?;
        while postings.doc() != TERMINATED {
            postings.positions(&mut places);
            let mut word = DefaultHasher::new();
            (field.field_id(), terms.key(), postings.term_freq(), &places).hash(&mut word);
            if let Some(digest) = digests.get_mut(postings.doc() as usize) {
                *digest = digest.wrapping_add(word.finish());
            }
            postings.advance();
        }
    }
    Ok(())
}
