//! What the scan for viruses found in a document's current file, and who answered for it. It lives in the document's own
//! row, as its stages do.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::documents::{DocumentEvent, Stage};
use oriel_kernel::{MemberId, Timestamp};
use sea_orm::FromJsonQueryResult;
use serde::{Deserialize, Serialize};

use crate::{members, plain, reader};

/// What is known of the scan of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
pub struct Scan {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Release>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Verdict {
    engine: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    at: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Release {
    by: MemberId,
    reason: String,
    at: Timestamp,
}

/// What a scan for viruses says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
pub enum ScanVerdict {
    /// Nothing was found.
    Clean,
    /// Something was found.
    Infected,
}

/// What the scan for viruses found in a file.
#[derive(Clone, Debug, SimpleObject)]
pub struct DocumentScan {
    /// What it says.
    pub verdict: ScanVerdict,
    /// Who says so: the program and its signatures, as it calls them.
    pub engine: String,
    /// What was found, as the scanner calls it; null when nothing was.
    pub signature: Option<String>,
    /// When.
    pub scanned_at: Timestamp,
}

/// That somebody answered for a file in quarantine.
#[derive(Clone, Debug, SimpleObject)]
#[graphql(complex)]
pub struct DocumentRelease {
    /// Why.
    pub reason: String,
    /// When.
    pub released_at: Timestamp,
    #[graphql(skip)]
    by: MemberId,
}

#[ComplexObject]
impl DocumentRelease {
    /// Who; null when they are no member of the organization any more.
    async fn released_by(&self, cx: &Context<'_>) -> Option<Result<Arc<members::Model>>> {
        let member = async { Ok(reader(cx)?.get::<members::Model>(self.by).await?) };
        member.await.transpose()
    }
}

impl Scan {
    /// What it found; `None` while there is no verdict.
    pub fn shown(&self) -> Option<DocumentScan> {
        self.verdict.as_ref().map(|Verdict { engine, signature, at }| DocumentScan {
            verdict: if signature.is_some() { ScanVerdict::Infected } else { ScanVerdict::Clean },
            engine: engine.clone(),
            signature: signature.clone(),
            scanned_at: *at,
        })
    }

    /// Who answered for the file, if somebody did.
    pub fn release(&self) -> Option<DocumentRelease> {
        self.release.as_ref().map(|Release { by, reason, at }| DocumentRelease {
            reason: reason.clone(),
            released_at: *at,
            by: *by,
        })
    }

    /// What an event about the current file changes. A scan that is wanted anew ends a release, and leaves the verdict
    /// until there is another.
    pub(super) fn evolve(scan: &mut Option<Self>, event: &DocumentEvent, at: Timestamp) {
        use DocumentEvent as E;
        match event {
            E::Scanned { engine, signature, .. } => {
                let verdict = Verdict { engine: plain(engine), signature: signature.as_deref().map(plain), at };
                *scan = Some(Self { verdict: Some(verdict), release: None });
            }
            E::Released { reason, by, .. } => {
                let release = Release { by: *by, reason: plain(reason.as_str()), at };
                scan.get_or_insert_default().release = Some(release);
            }
            E::ScanOrdered { .. } | E::Retried { stage: Stage::Scan, .. } => {
                if let Some(scan) = scan {
                    scan.release = None;
                }
            }
            E::Uploaded { .. }
            | E::RevisionAdded { .. }
            | E::Renamed { .. }
            | E::Tagged { .. }
            | E::Moved { .. }
            | E::StageStarted { .. }
            | E::StageCompleted { .. }
            | E::StageSkipped { .. }
            | E::StageFailed { .. }
            | E::Retried { .. }
            | E::TextExtracted { .. }
            | E::Trashed { .. }
            | E::Restored { .. }
            | E::Purged { .. } => {}
        }
    }
}
