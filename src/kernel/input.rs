//! Parsed input: types that cannot hold what is not valid.

/// Declares text types of bounded length: `bounded_text! { /// A name. Name: 1..=120 }`.
///
/// Parsing trims surrounding white space and refuses control characters (but for line breaks where `multiline`).
#[macro_export]
macro_rules! bounded_text {
    ($($(#[$doc:meta])* $name:ident: $min:literal ..= $max:literal $($multiline:ident)?),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text, trimmed, if it is one.
            ///
            /// # Errors
            /// `REQUIRED` when empty, `TOO_LONG` beyond the limit, `INVALID` with control characters.
            pub fn parse(text: &str) -> Result<Self, $crate::Rejection> {
                $crate::input::bounded(text, $min, $max, $crate::bounded_text!(@multiline $($multiline)?)).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }
    )+};
    (@multiline) => { false };
    (@multiline multiline) => { true };
}

/// The text, trimmed, if its length in characters is within the limits and it holds no control characters.
///
/// # Errors
/// `REQUIRED`, `TOO_LONG` or `INVALID`, in words for a person.
pub fn bounded(text: &str, min: usize, max: usize, multiline: bool) -> Result<String, crate::Rejection> {
    use crate::{ErrorCode, Rejection};
    let text = text.trim();
    let length = text.chars().count();
    if length < min {
        let message =
            if length == 0 { "This may not be empty.".to_owned() } else { format!("At least {min} characters.") };
        return Err(Rejection::new(if length == 0 { ErrorCode::Required } else { ErrorCode::Invalid }, message));
    }
    if length > max {
        return Err(Rejection::new(ErrorCode::TooLong, format!("At most {max} characters; these are {length}.")));
    }
    if text.chars().any(|c| c.is_control() && !(multiline && matches!(c, '\n' | '\r' | '\t'))) {
        return Err(Rejection::new(ErrorCode::Invalid, "Control characters are not allowed here."));
    }
    Ok(text.to_owned())
}
