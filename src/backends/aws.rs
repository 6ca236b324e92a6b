//! What is the same of all servers of AWS, and of those that speak its protocols: which region is asked, and what requests
//! are signed with. Both stand in the usual variables of the environment.

use std::fmt;

/// A variable of the environment; an empty one is none.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The region, where the settings name none.
pub(crate) fn region(variable: impl Fn(&str) -> Option<String>) -> String {
    ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(variable).unwrap_or_else(|| "us-east-1".to_owned())
}

/// What signs requests.
#[derive(Clone)]
pub struct Credentials(pub(crate) aws_sdk_s3::config::Credentials);

impl Credentials {
    /// An access key and its secret; `session` for credentials that expire.
    pub fn new(access_key: &str, secret: &str, session: Option<String>) -> Self {
        Self(aws_sdk_s3::config::Credentials::new(access_key, secret, session, None, "oriel"))
    }

    /// Reads the usual variables; `None` when there are none.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let (key, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
        Some(Self::new(&key, &secret, variable("AWS_SESSION_TOKEN")))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_in_the_environment_and_do_not_print() {
        let key = Credentials::from_environment(|_| Some("hunter2".to_owned()));
        assert!(key.is_some_and(|key| !format!("{key:?}").contains("hunter2")));
        assert!(Credentials::from_environment(|name| (name != "AWS_SECRET_ACCESS_KEY").then(String::new)).is_none());
        assert_eq!(region(|name| (name == "AWS_DEFAULT_REGION").then(|| "here".to_owned())), "here");
    }
}
