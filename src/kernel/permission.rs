//! Permissions: `module:action`, with `:own` for what is one's own, and `*` for all.

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Rejection};

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

    /// Everything, the installation's included: for Oriel itself.
    pub fn everything() -> Self {
        Self::new(["*", "system:*"])
    }

    /// How far `wanted` is granted; `None` when it is not. `*` covers every module but `system`, which is the
    /// installation's and has to be named.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        self.0.iter().filter_map(|pattern| reach(pattern, wanted)).max()
    }

    /// Whether they allow all that this pattern does: nobody gives away what they do not have.
    pub fn covers(&self, pattern: &Pattern) -> bool {
        let Some(wanted) = Parts::of(&pattern.0) else { return false };
        let actions: &[&str] = if wanted.action == "*" { Permission::ACTIONS } else { &[wanted.action] };
        actions.iter().all(|action| {
            let mut fitting = self.parts().filter(|held| {
                let module = held.module == wanted.module || (held.module == "*" && wanted.module != SYSTEM);
                module && (held.action == "*" || held.action == *action)
            });
            fitting.any(|held| held.grant >= wanted.grant)
        })
    }

    /// What both allow.
    pub fn intersection(&self, other: &Self) -> Self {
        Self::new(self.parts().flat_map(|one| other.parts().filter_map(move |two| one.both(&two))))
    }

    fn parts(&self) -> impl Iterator<Item = Parts<'_>> {
        self.0.iter().filter_map(|pattern| Parts::of(pattern))
    }

    /// The texts, sorted.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

/// The module that `*` does not reach.
const SYSTEM: &str = "system";

/// How far one pattern grants a permission; `None` when it does not.
pub fn reach(pattern: &str, wanted: Permission) -> Option<Grant> {
    let Parts { module, action, grant } = Parts::of(pattern)?;
    let module_fits = module == wanted.module || (module == "*" && wanted.module != SYSTEM);
    (module_fits && (action == "*" || action == wanted.action)).then_some(grant)
}

/// A pattern, taken apart.
struct Parts<'a> {
    module: &'a str,
    action: &'a str,
    grant: Grant,
}

impl<'a> Parts<'a> {
    fn of(pattern: &'a str) -> Option<Self> {
        let mut parts = pattern.split(':');
        let (module, action) = (parts.next()?, parts.next().unwrap_or("*"));
        let grant = match (parts.next(), parts.next()) {
            (None, _) => Grant::All,
            (Some("own"), None) => Grant::Own,
            _ => return None,
        };
        Some(Self { module, action, grant })
    }

    /// The pattern of what both allow.
    fn both(&self, other: &Self) -> Option<String> {
        let module = match (self.module, other.module) {
            (one, two) if one == two => one,
            ("*", named) | (named, "*") if named != SYSTEM => named,
            _ => return None,
        };
        let action = match (self.action, other.action) {
            (one, two) if one == two => one,
            ("*", named) | (named, "*") => named,
            _ => return None,
        };
        Some(match self.grant.min(other.grant) {
            Grant::All => format!("{module}:{action}"),
            Grant::Own => format!("{module}:{action}:own"),
        })
    }
}

/// What can be granted: `module:action`, or `module:action:own` for what is one's own alone. Either word may be `*`, and
/// `*` alone is everything but what is the installation's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern, trimmed. Whether there is such a module is not known here.
    ///
    /// # Errors
    /// `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = text.trim();
        let word = |word: &str| {
            word == "*"
                || (!word.is_empty() && word.len() <= 40 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        };
        let action = |action: &str| action == "*" || Permission::ACTIONS.contains(&action);
        let fits = match text.split(':').collect::<Vec<_>>().as_slice() {
            ["*"] => true,
            [module, act] | [module, act, "own"] => word(module) && action(act),
            _ => false,
        };
        if fits {
            return Ok(Self(text.to_owned()));
        }
        let actions = Permission::ACTIONS.join(", ");
        let message = format!(
            "A permission is `module:action`, or `module:action:own`; `*` stands for all. The actions are {actions}."
        );
        Err(Rejection::new(ErrorCode::Invalid, message))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The module that it names; `*` for all.
    pub fn module(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// How far it grants a permission.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        reach(&self.0, wanted)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn patterns_are_parsed() {
        for good in ["*", "documents:view", "documents:*", "*:view:own", " *:* ", "api_keys:edit:own"] {
            assert_eq!(Pattern::parse(good).map(|p| p.0), Ok(good.trim().to_owned()));
        }
        for bad in [
            "",
            "documents",
            "documents:read",
            "Documents:view",
            "a:view:theirs",
            "a:view:own:own",
            "a b:view",
            ":view",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    /// Everything that can be asked for, of some modules.
    fn wanted() -> impl Iterator<Item = Permission> {
        let modules = ["documents", "members", SYSTEM];
        modules
            .into_iter()
            .flat_map(|module| Permission::ACTIONS.iter().map(move |action| Permission::new(module, action)))
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let word = prop::sample::select(vec!["documents", "members", SYSTEM, "*"]);
        let action = prop::sample::select(vec!["view", "edit", "manage", "*"]);
        let text = (word, action, any::<bool>()).prop_map(|(module, action, own)| match (module, action, own) {
            ("*", "*", false) => "*".to_owned(),
            (module, action, false) => format!("{module}:{action}"),
            (module, action, true) => format!("{module}:{action}:own"),
        });
        text.prop_map(Pattern)
    }

    fn several() -> impl Strategy<Value = Permissions> {
        prop::collection::vec(pattern(), 0..5).prop_map(Permissions::new)
    }

    proptest! {
        #[test]
        fn an_intersection_grants_what_both_do(one in several(), two in several()) {
            let both = one.intersection(&two);
            for wanted in wanted() {
                prop_assert_eq!(both.grant(wanted), one.grant(wanted).min(two.grant(wanted)), "{}", wanted);
            }
        }

        #[test]
        fn what_is_covered_grants_nothing_more(held in several(), given in pattern()) {
            let alone = Permissions::new([given.clone()]);
            if held.covers(&given) {
                for wanted in wanted() {
                    prop_assert!(alone.grant(wanted) <= held.grant(wanted), "{} of {}", wanted, given);
                }
            } else if given.module() != "*" {
                prop_assert!(wanted().any(|wanted| alone.grant(wanted) > held.grant(wanted)), "{} in {:?}", given, held);
            }
        }
    }
}
