//! Permissions: `module:action`, with `:own` for what is one's own, and `*` for all.

use serde::{Deserialize, Serialize};

/// What an operation needs, declared on its field: a module and an action.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Permission {
    /// Such as `documents`.
    pub module: &'static str,
    /// One of `view create edit delete share export manage`.
    pub action: &'static str,
}

impl Permission {
    /// The actions that exist.
    pub const ACTIONS: &'static [&'static str] = &["view", "create", "edit", "delete", "share", "export", "manage"];

    /// A permission, from its two words.
    pub const fn new(module: &'static str, action: &'static str) -> Self {
        Self { module, action }
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.module, self.action)
    }
}

/// How far a granted permission reaches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Grant {
    /// What is one's own: what one made, and the projects that one is a member of.
    Own,
    /// Everything in the organisation.
    All,
}

/// What somebody is allowed: a list of `module:action[:own]`, each part possibly `*`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permissions(Vec<String>);

impl Permissions {
    /// From the texts of several roles; sorted, each once.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let mut patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        patterns.sort();
        patterns.dedup();
        Self(patterns)
    }

    /// How far `wanted` is granted; `None` when it is not. `*` covers every module but `system`, which is the
    /// installation's and has to be named.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        self.0.iter().filter_map(|pattern| reach(pattern, wanted)).max()
    }

    /// The texts, sorted.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

fn reach(pattern: &str, wanted: Permission) -> Option<Grant> {
    let mut parts = pattern.split(':');
    let module = parts.next()?;
    let action = parts.next().unwrap_or("*");
    let module_fits = module == wanted.module || (module == "*" && wanted.module != "system");
    if !module_fits || (action != "*" && action != wanted.action) {
        return None;
    }
    match parts.next() {
        None => Some(Grant::All),
        Some("own") => Some(Grant::Own),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_and_own() {
        let view = Permission::new("documents", "view");
        let granted = |patterns: &[&str]| Permissions::new(patterns.iter().copied()).grant(view);
        assert_eq!(granted(&[]), None);
        assert_eq!(granted(&["documents:edit"]), None);
        assert_eq!(granted(&["documents:view:own"]), Some(Grant::Own));
        assert_eq!(granted(&["documents:view:own", "documents:*"]), Some(Grant::All));
        assert_eq!(granted(&["*:view"]), Some(Grant::All));
        assert_eq!(granted(&["*"]), Some(Grant::All));
        assert_eq!(granted(&["documents:view:theirs"]), None);
        assert_eq!(Permissions::new(["*"]).grant(Permission::new("system", "manage")), None);
        assert_eq!(Permissions::new(["system:*"]).grant(Permission::new("system", "manage")), Some(Grant::All));
    }
}
