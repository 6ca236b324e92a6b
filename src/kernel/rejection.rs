//! What a person can mend: rejections of a command, and how the API shows them.

use async_graphql::{Enum, SimpleObject};

/// Why a mutation was refused. The list grows: treat a code you do not know like `INVALID`.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// The value is not one that this field takes.
    Invalid,
    /// The value is missing or empty.
    Required,
    /// The value is longer than this field takes.
    TooLong,
    /// Somebody else has this value already.
    Taken,
    /// There is no such thing, or it is not yours.
    NotFound,
    /// The thing changed meanwhile, or its state does not allow this.
    Conflict,
    /// You may see this but not do it.
    Forbidden,
    /// A limit was reached.
    LimitExceeded,
    /// Files of this type are not accepted.
    UnsupportedType,
    /// Wrong e-mail, user name or password.
    InvalidCredentials,
    /// The password is too easy to guess.
    WeakPassword,
    /// A second factor is needed: go on with `loginVerify`.
    MfaRequired,
    /// The token, link or offer is no longer valid.
    Expired,
    /// The idempotency key was used with another input.
    IdempotencyMismatch,
    /// A server of somebody else that this needs does not answer. Try again later.
    Unavailable,
}

/// Something that a person can mend.
#[derive(SimpleObject, Clone, PartialEq, Eq, Debug)]
pub struct UserError {
    /// What kind of problem it is, for programs.
    pub code: ErrorCode,
    /// What is wrong and how to mend it, for people.
    pub message: String,
    /// The input field that it is about, from the mutation's argument down.
    pub path: Option<Vec<String>>,
    /// With `CONFLICT`: the version that the thing has now.
    pub current_version: Option<i32>,
}

/// A command refused by its aggregate or by a fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// What kind of problem it is.
    pub code: ErrorCode,
    /// What is wrong and how to mend it.
    pub message: String,
    /// The input field that it is about; empty when it is about the whole.
    pub field: &'static str,
}

impl Rejection {
    /// A rejection about the whole command.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: "" }
    }

    /// About this field of the input; nested fields are joined by a dot.
    pub fn at(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    /// `TAKEN`: a value that somebody has already.
    pub fn taken(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Taken, message)
    }

    /// `NOT_FOUND`: not there, or not yours.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no such {what}."))
    }

    /// `CONFLICT`: the state of the thing does not allow it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }
}

impl From<Rejection> for UserError {
    fn from(rejection: Rejection) -> Self {
        let path = (!rejection.field.is_empty())
            .then(|| std::iter::once("input").chain(rejection.field.split('.')).map(str::to_owned).collect());
        Self { code: rejection.code, message: rejection.message, path, current_version: None }
    }
}
