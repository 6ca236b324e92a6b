//! Exact counts per value, over every match, from the columns of each segment.

use std::collections::HashMap;

use tantivy::DocId;
use tantivy::columnar::StrColumn;
use tantivy::index::SegmentReader;

use super::super::{FacetCounts, FacetField, SearchError, most_frequent};
use super::schema;

/// Counts of all segments so far.
pub(super) struct Facets {
    counts: Vec<(FacetField, HashMap<String, u64>)>,
}

/// Counts of one segment, by the ordinals of its dictionaries.
pub(super) struct SegmentFacets {
    columns: Vec<Option<(StrColumn, Vec<u32>)>>,
}

impl Facets {
    pub fn of(fields: &[FacetField]) -> Self {
        Self { counts: fields.iter().map(|field| (*field, HashMap::new())).collect() }
    }

    pub fn segment(&self, reader: &SegmentReader) -> Result<SegmentFacets, SearchError> {
        let columns = self.counts.iter().map(|(field, _)| {
            let column = reader.fast_fields().str(column(*field))?;
            Ok(column.map(|column| {
                let counts = vec![0; column.num_terms()];
                (column, counts)
            }))
        });
        Ok(SegmentFacets { columns: columns.collect::<Result<_, SearchError>>()? })
    }

    pub fn add(&mut self, segment: SegmentFacets) -> Result<(), SearchError> {
        let mut value = String::new();
        for ((_, totals), column) in self.counts.iter_mut().zip(segment.columns) {
            let Some((column, counts)) = column else { continue };
            for (ordinal, count) in (0u64..).zip(counts).filter(|(_, count)| *count > 0) {
                if !column.ord_to_str(ordinal, &mut value).map_err(tantivy::TantivyError::from)? {
                    return Err(SearchError::Damaged("a column names a value that is not there".into()));
                }
                *totals.entry(value.clone()).or_default() += u64::from(count);
            }
        }
        Ok(())
    }

    /// The most frequent values of each field.
    pub fn finish(self) -> Vec<FacetCounts> {
        let finish = |(field, counts): (FacetField, HashMap<String, u64>)| FacetCounts {
            field,
            values: most_frequent(counts.into_iter().collect()),
        };
        self.counts.into_iter().map(finish).collect()
    }

    /// All values of the one field that was counted.
    pub fn into_values(self) -> HashMap<String, u64> {
        self.counts.into_iter().next().map(|(_, counts)| counts).unwrap_or_default()
    }
}

impl SegmentFacets {
    pub fn count(&mut self, doc: DocId) {
        for (column, counts) in self.columns.iter_mut().flatten() {
            for ordinal in column.term_ords(doc) {
                if let Some(count) = usize::try_from(ordinal).ok().and_then(|ordinal| counts.get_mut(ordinal)) {
                    *count += 1;
                }
            }
        }
    }
}

fn column(field: FacetField) -> &'static str {
    match field {
        FacetField::Type => schema::KIND,
        FacetField::Tag => schema::TAG,
        FacetField::Project => schema::PROJECT,
        FacetField::MediaType => schema::MEDIA_TYPE,
    }
}
