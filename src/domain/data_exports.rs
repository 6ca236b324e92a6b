//! Data exports: everything that is held about a person, gathered into a file for that person.
//!
//! Invariants: a person has one export at a time, from the request until it has ended. It ends once: its file was
//! [`DataExport::LIFE`] there, the person discards it, they are erased, or it cannot be made. Every attempt at making it is
//! recorded. A file that is named by an export goes with its end.
//!
//! Nothing here knows what is gathered or where the file is kept. The events say nothing about the person but who it is.

use std::time::Duration;

use oriel_kernel::{
    Aggregate, Command, Decision, Event, Fact, Given, Id, OrganizationId, Outcome, Rejection, Timestamp, UserId, ids,
};
use serde::{Deserialize, Serialize};

ids! {
    /// A data export.
    DataExportId = "dex",
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a data export.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "data_export")]
pub enum DataExportEvent {
    /// Was asked for, by the person or an operator.
    #[event("data_export_requested")]
    Requested {
        /// About whom, and for whom.
        user: UserId,
    },
    /// Is being made.
    #[event("data_export_started")]
    Started {
        /// Which attempt, from 1.
        attempt: i32,
    },
    /// An attempt has failed.
    #[event("data_export_failed")]
    Failed {
        /// Which one.
        attempt: i32,
        /// Why, for people.
        reason: String,
    },
    /// Can be downloaded.
    #[event("data_export_completed")]
    Completed {
        /// Where the file is.
        blob: String,
        /// Bytes.
        size: i64,
        /// Of the file, hexadecimal.
        sha256: String,
        /// When it ends by itself.
        ends_at: Timestamp,
    },
    /// Cannot be downloaded any more, or never could.
    #[event("data_export_ended")]
    Ended {
        /// Why.
        reason: ExportEnd,
        /// The file, which goes.
        blob: Option<String>,
    },
}

/// Why a data export has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportEnd {
    /// Its time was over.
    Expired,
    /// The person does not want it any more.
    Discarded,
    /// The person was erased.
    Erased,
    /// It could not be made.
    Failed,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a data export's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataExport {
    user: Option<UserId>,
    attempt: i32,
    file: Option<(String, Timestamp)>,
    ended: bool,
}

impl Aggregate for DataExport {
    type Kind = kinds::DataExportId;
    type Event = DataExportEvent;
    const NOUN: &'static str = "data export";

    fn evolve(&mut self, event: &DataExportEvent) {
        match event {
            DataExportEvent::Requested { user } => self.user = Some(*user),
            DataExportEvent::Started { attempt } => self.attempt = *attempt,
            DataExportEvent::Failed { .. } => {}
            DataExportEvent::Completed { blob, ends_at, .. } => self.file = Some((blob.clone(), *ends_at)),
            DataExportEvent::Ended { .. } => (self.ended, self.file) = (true, None),
        }
    }

    /// Of the installation, as the person is.
    fn tenant(&self) -> Option<OrganizationId> {
        self.user.map(|_| Id::ABSENT)
    }
}

impl DataExport {
    /// How long a file can be downloaded.
    pub const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Whether it has still to be made.
    pub fn waits(&self) -> bool {
        self.user.is_some() && self.file.is_none() && !self.ended
    }

    fn whose(&self) -> Result<UserId, Rejection> {
        self.user.ok_or_else(|| Rejection::not_found(Self::NOUN))
    }

    fn end(&self, reason: ExportEnd) -> Decision<DataExportEvent> {
        let user = self.whose()?;
        if self.ended {
            return Ok(Outcome::nothing());
        }
        let blob = self.file.as_ref().map(|(blob, _)| blob.clone());
        Ok(Outcome::events([DataExportEvent::Ended { reason, blob }]).release(of(user)))
    }
}

/// That there is an export of this person.
fn of(user: UserId) -> Fact {
    Fact::new("data_export", user, "there")
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Asks for everything that is held about a person. That there is such a person is looked up before.
pub struct RequestExport {
    /// Who.
    pub user: UserId,
}

impl Command for RequestExport {
    type Aggregate = DataExport;
    const CREATES: bool = true;

    fn decide(&self, export: &DataExport, _: &Given<'_>) -> Decision<DataExportEvent> {
        crate::must_be_new(export)?;
        let there = Rejection::conflict("There is an export already. Take it, or discard it, before another is made.");
        Ok(Outcome::events([DataExportEvent::Requested { user: self.user }]).claim(of(self.user), there))
    }
}

/// Begins an attempt at making it.
pub struct StartExport {
    /// Which one, from 1.
    pub attempt: i32,
}

impl Command for StartExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, _: &Given<'_>) -> Decision<DataExportEvent> {
        let nothing = !export.waits() || self.attempt <= export.attempt;
        Ok(if nothing {
            Outcome::nothing()
        } else {
            Outcome::events([DataExportEvent::Started { attempt: self.attempt }])
        })
    }
}

/// Says why an attempt has failed; without another one the export ends.
pub struct FailExport {
    /// Which one.
    pub attempt: i32,
    /// Why, for people.
    pub reason: String,
    /// Whether it is tried again.
    pub retrying: bool,
}

impl Command for FailExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, _: &Given<'_>) -> Decision<DataExportEvent> {
        if !export.waits() {
            return Ok(Outcome::nothing());
        }
        let failed = DataExportEvent::Failed { attempt: self.attempt, reason: self.reason.clone() };
        if self.retrying {
            return Ok(Outcome::events([failed]));
        }
        let ended = DataExportEvent::Ended { reason: ExportEnd::Failed, blob: None };
        Ok(Outcome::events([failed, ended]).release(of(export.whose()?)))
    }
}

/// Says that the file is there. Nothing happens when the export has ended meanwhile: then the file is nobody's.
pub struct CompleteExport {
    /// Where the file is.
    pub blob: String,
    /// Bytes.
    pub size: i64,
    /// Of the file, hexadecimal.
    pub sha256: String,
}

impl Command for CompleteExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, given: &Given<'_>) -> Decision<DataExportEvent> {
        if !export.waits() {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([DataExportEvent::Completed {
            blob: self.blob.clone(),
            size: self.size,
            sha256: self.sha256.clone(),
            ends_at: given.now + DataExport::LIFE,
        }]))
    }
}

/// Ends an export whose time is over.
pub struct ExpireExport;

impl Command for ExpireExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, given: &Given<'_>) -> Decision<DataExportEvent> {
        match &export.file {
            Some((_, ends_at)) if *ends_at <= given.now => export.end(ExportEnd::Expired),
            _ => Ok(Outcome::nothing()),
        }
    }
}

/// Ends one's own export.
pub struct DiscardExport {
    /// Whose it has to be.
    pub by: UserId,
}

impl Command for DiscardExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, _: &Given<'_>) -> Decision<DataExportEvent> {
        if export.whose()? != self.by {
            return Err(Rejection::not_found(DataExport::NOUN));
        }
        export.end(ExportEnd::Discarded)
    }
}

/// Ends the export of a person who is erased.
pub struct EraseExport;

impl Command for EraseExport {
    type Aggregate = DataExport;

    fn decide(&self, export: &DataExport, _: &Given<'_>) -> Decision<DataExportEvent> {
        export.end(ExportEnd::Erased)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::ErrorCode;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, at, user, uuid};

    fn complete() -> CompleteExport {
        CompleteExport { blob: "exports/0".to_owned(), size: 7, sha256: "00".to_owned() }
    }

    #[test]
    fn one_at_a_time_and_it_ends_by_itself() {
        let (mut desk, mut export) = (Desk::new(), DataExport::default());
        desk.done(uuid(1), &mut export, &RequestExport { user: user(1) });
        let another = RequestExport { user: user(1) };
        assert_eq!(desk.refused(uuid(2), &DataExport::default(), &another), (ErrorCode::Conflict, ""));
        desk.done(uuid(3), &mut DataExport::default(), &RequestExport { user: user(2) });
        desk.done(uuid(1), &mut export, &StartExport { attempt: 1 });
        assert_eq!(desk.done(uuid(1), &mut export, &StartExport { attempt: 1 }), []);
        let fail = FailExport { attempt: 1, reason: "Later.".to_owned(), retrying: true };
        assert_eq!(desk.done(uuid(1), &mut export, &fail).len(), 1);
        desk.done(uuid(1), &mut export, &complete());
        assert_eq!(desk.done(uuid(1), &mut export, &ExpireExport), [], "not yet");
        desk.now = at(0) + DataExport::LIFE;
        let ended = desk.done(uuid(1), &mut export, &ExpireExport);
        let blob = Some("exports/0".to_owned());
        assert_eq!(ended, [DataExportEvent::Ended { reason: ExportEnd::Expired, blob }]);
        desk.done(uuid(2), &mut DataExport::default(), &another);
    }

    #[test]
    fn it_is_for_the_person_alone_and_a_late_file_is_nobodys() {
        let (mut desk, mut export) = (Desk::new(), DataExport::default());
        desk.done(uuid(1), &mut export, &RequestExport { user: user(1) });
        assert_eq!(desk.refused(uuid(1), &export, &DiscardExport { by: user(2) }), (ErrorCode::NotFound, ""));
        desk.done(uuid(1), &mut export, &DiscardExport { by: user(1) });
        assert_eq!(desk.done(uuid(1), &mut export, &complete()), []);
        assert_eq!(desk.done(uuid(1), &mut export, &EraseExport), [], "it ends once");
    }

    proptest! {
        /// Whatever is asked in whatever order: it ends at most once, the file that it had goes with its end, and the
        /// next one can be asked for exactly then.
        #[test]
        fn random_histories(steps in proptest::collection::vec(0u8..7, 0..30)) {
            let (mut desk, mut export) = (Desk::new(), DataExport::default());
            let mut history = desk.done(uuid(1), &mut export, &RequestExport { user: user(1) });
            for (n, step) in steps.into_iter().enumerate() {
                let attempt = i32::try_from(n).unwrap() + 1;
                let fail = |retrying| FailExport { attempt, reason: "So.".to_owned(), retrying };
                desk.now = at(i64::try_from(n).unwrap() * 86_400);
                history.extend(match step {
                    0 => desk.done(uuid(1), &mut export, &StartExport { attempt }),
                    1 => desk.done(uuid(1), &mut export, &fail(true)),
                    2 => desk.done(uuid(1), &mut export, &fail(false)),
                    3 => desk.done(uuid(1), &mut export, &complete()),
                    4 => desk.done(uuid(1), &mut export, &ExpireExport),
                    5 => desk.done(uuid(1), &mut export, &DiscardExport { by: user(1) }),
                    _ => desk.done(uuid(1), &mut export, &EraseExport),
                });
            }
            let completed = history.iter().filter(|e| matches!(e, DataExportEvent::Completed { .. })).count();
            let ends: Vec<_> = history.iter().filter_map(|e| match e {
                DataExportEvent::Ended { blob, .. } => Some(blob.is_some()),
                _ => None,
            }).collect();
            prop_assert!(completed <= 1 && ends.len() <= 1);
            if let Some(had_file) = ends.first() {
                prop_assert_eq!(*had_file, completed == 1);
                let is_last = matches!(history.last(), Some(DataExportEvent::Ended { .. }));
                prop_assert!(is_last);
            }
            prop_assert_eq!(desk.facts.contains(&of(user(1))), ends.is_empty());
        }
    }
}
