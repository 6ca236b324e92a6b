//! Why something could not be read, in the words that a client may see.
//!
//! What the database said is written to the log under an id when the error is made; the error itself holds only the
//! id, so no path leads from internal text to a client. It has no `Display` on purpose: async-graphql would turn
//! that into an error without a code.

use async_graphql::ErrorExtensions;
use sea_orm::DbErr;
use uuid::Uuid;

/// Why something could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// `BAD_REQUEST`: the request is not one that can be answered; the message says how to mend it.
    Invalid(String),
    /// `LIMIT_EXCEEDED`: the request asks for more than the limit that the message names.
    Limit(String),
    /// `UNAVAILABLE`: the database cannot be reached now. The id finds the log line.
    Unavailable(Uuid),
    /// `INTERNAL`: a defect. The id finds the log line.
    Internal(Uuid),
}

impl ReadError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::Limit(message.into())
    }

    /// A defect of the program: `what` goes to the log alone.
    pub(crate) fn internal(what: &str) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(%id, what, "reading failed: a defect");
        Self::Internal(id)
    }

    /// As `extensions.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "BAD_REQUEST",
            Self::Limit(_) => "LIMIT_EXCEEDED",
            Self::Unavailable(_) => "UNAVAILABLE",
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// What a client reads.
    pub fn message(&self) -> String {
        match self {
            Self::Invalid(message) | Self::Limit(message) => message.clone(),
            Self::Unavailable(id) => format!("The database cannot be reached now; try again. Error id {id}."),
            Self::Internal(id) => format!("Something went wrong on our side. Error id {id}."),
        }
    }
}

impl From<DbErr> for ReadError {
    fn from(error: DbErr) -> Self {
        let id = Uuid::new_v4();
        if is_unreachable(&error) {
            tracing::warn!(%id, %error, "the database cannot be reached for reading");
            Self::Unavailable(id)
        } else {
            tracing::error!(%id, %error, "reading from the database failed");
            Self::Internal(id)
        }
    }
}

fn is_unreachable(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(sea_orm::RuntimeErr::SqlxError(source)) | DbErr::Query(sea_orm::RuntimeErr::SqlxError(source)) => {
            use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
            match &**source {
                Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed => true,
                // 57P0x: the server is shutting down or starting; 53300: too many connections; 40001: replica conflict.
                Database(said) => said.code().is_some_and(|c| c.starts_with("57P0") || c == "53300" || c == "40001"),
                _ => false,
            }
        }
        _ => false,
    }
}

impl From<ReadError> for async_graphql::Error {
    fn from(error: ReadError) -> Self {
        let code = error.code();
        let id = match &error {
            ReadError::Unavailable(id) | ReadError::Internal(id) => Some(id.to_string()),
            ReadError::Invalid(_) | ReadError::Limit(_) => None,
        };
        Self::new(error.message()).extend_with(|_, extensions| {
            extensions.set("code", code);
            if let Some(id) = &id {
                extensions.set("errorId", id.as_str());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_says_stays_inside() {
        let error = ReadError::from(DbErr::Custom("secret_table does not exist".into()));
        let shown = async_graphql::Error::from(error);
        assert!(!format!("{shown:?}").contains("secret_table"));
        let extensions = shown.extensions.map(|e| e.get("code").cloned());
        assert_eq!(extensions, Some(Some("INTERNAL".into())));
    }
}
