//! Anything by its global id, and the catalogue of permissions.

use std::collections::BTreeMap;

use async_graphql::{Context, ID, SimpleObject};
use oriel_kernel::{Permission, operations};
use oriel_read_models::node::Node;

use crate::access::{Access, error, reader};

/// What can be asked about anything.
#[derive(Default)]
pub struct NodeQuery;

/// The most things of one look-up.
const MAX_NODES: usize = 100;

#[operations(query)]
impl NodeQuery {
    /// The thing with this id, whatever it is; null when there is none that you may see.
    #[authenticated]
    async fn node(&self, cx: &Context<'_>, id: ID) -> Result<Option<Node>> {
        Ok(Node::find(&reader(cx)?, &id).await?)
    }

    /// The things with these ids, in the same order, at most 100; null in the place of each that there is not, or that
    /// you may not see.
    #[authenticated]
    async fn nodes(&self, cx: &Context<'_>, ids: Vec<ID>) -> Result<Vec<Option<Node>>> {
        if ids.len() > MAX_NODES {
            let message = format!("`ids` may be {MAX_NODES} at most; these are {}.", ids.len());
            return Err(error("LIMIT_EXCEEDED", message).into());
        }
        let reader = reader(cx)?;
        Ok(futures::future::try_join_all(ids.iter().map(|id| Node::find(&reader, id))).await?)
    }

    /// Every permission that exists, and what it lets somebody do.
    #[authenticated]
    async fn permission_catalog(&self, _cx: &Context<'_>) -> Result<Vec<PermissionInfo>> {
        Ok(catalog())
    }
}

/// A permission, and what it lets somebody do.
#[derive(SimpleObject)]
struct PermissionInfo {
    /// The permission, as `module:action`. A role may also have it as `module:action:own` (only what is one's own),
    /// or as a part of `module:*`, `*:action` or `*`.
    permission: String,
    /// Whose name begins with `query.`, `mutation.` or `subscription.`: the operations that require it.
    operations: Vec<String>,
    /// What it is for, for people.
    description: String,
}

fn catalog() -> Vec<PermissionInfo> {
    let mut catalog: BTreeMap<String, (Permission, Vec<String>)> = BTreeMap::new();
    for operation in crate::operations() {
        if let Access::Permission(permission) = operation.access {
            let entry = catalog.entry(permission.to_string()).or_insert_with(|| (permission, Vec::new()));
            entry.1.push(operation.to_string());
        }
    }
    let info = |(permission, (parts, mut operations)): (String, (Permission, Vec<String>))| {
        operations.sort();
        PermissionInfo { permission, operations, description: described(parts) }
    };
    catalog.into_iter().map(info).collect()
}

fn described(permission: Permission) -> String {
    let what = match permission.module {
        "organization" => "the organization",
        "system" => "the installation",
        "search" => "what search finds",
        "events" => "what happened",
        "operations" => "persisted operations",
        "keys" => "API keys",
        module => module,
    };
    match permission.action {
        "view" => format!("See {what}."),
        "create" => format!("Make new {what}."),
        "edit" => format!("Change {what}."),
        "delete" => format!("Put away, restore and remove {what}."),
        "share" => format!("Share {what} with others."),
        "export" => format!("Take {what} out of Oriel."),
        "manage" => format!("Operate {what}."),
        action => format!("{action} {what}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_has_every_operation_that_wants_a_permission_once() {
        let listed: usize = catalog().iter().map(|info| info.operations.len()).sum();
        let wanted = crate::operations().iter().filter(|o| matches!(o.access, Access::Permission(_))).count();
        assert_eq!(listed, wanted);
        let upload = catalog().into_iter().find(|info| info.permission == "documents:create");
        assert!(upload.is_some_and(|info| info.operations.contains(&"mutation.documentUpload".to_owned())));
    }

    #[test]
    fn every_action_has_words() {
        for operation in crate::operations() {
            if let Access::Permission(permission) = operation.access {
                assert!(Permission::ACTIONS.contains(&permission.action), "{permission} of {}", operation.name);
            }
        }
    }
}
