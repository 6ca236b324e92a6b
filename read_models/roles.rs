//! Roles as they are shown: a name, what it is for, what it allows.

use async_graphql::SimpleObject;
use oriel_domain::roles::RoleName;

/// What a member may do, by name.
#[derive(Clone, PartialEq, Eq, Debug, SimpleObject)]
pub struct Role {
    /// The name, as inputs take it.
    pub name: String,
    /// What the role is for.
    pub description: String,
    /// What it allows: `module:action`, with `:own` for what is one's own, and `*` for all.
    pub permissions: Vec<String>,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        let description = match role {
            RoleName::Owner => "Everything in the organization.",
            RoleName::Admin => "Everything in the organization but what is the owner's alone.",
            RoleName::Member => "Works in the projects that they are a member of, and makes projects.",
            RoleName::Viewer => "Reads in the projects that they are a member of.",
        };
        Self {
            name: role.as_str().to_owned(),
            description: description.to_owned(),
            permissions: role.patterns().iter().map(|pattern| (*pattern).to_owned()).collect(),
        }
    }
}

/// The roles of these names; a name that no role has (any more) allows nothing and is left out.
pub(crate) fn named(names: &[String]) -> Vec<RoleName> {
    names.iter().filter_map(|name| RoleName::parse(name).ok()).collect()
}
