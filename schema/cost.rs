//! What costs more than a field usually does, and which lists are longer: where the price of an operation, which is
//! computed before it is executed, has to know more than the contract says.

/// A field that costs more than 1.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// The type that it is a field of.
    pub on: &'static str,
    /// Its name.
    pub field: &'static str,
    /// What it costs, without what is inside.
    pub cost: u64,
}

/// A list without pages that can have more items than a few.
#[derive(Clone, Copy, Debug)]
pub struct ListSize {
    /// The type that it is a field of.
    pub on: &'static str,
    /// Its name.
    pub field: &'static str,
    /// How many items it has at most, or as good as always.
    pub items: u64,
}

/// What a change costs: a command is decided, written to disk and projected.
pub const MUTATION: u64 = 10;

const fn weight(on: &'static str, field: &'static str, cost: u64) -> Weight {
    Weight { on, field, cost }
}

const fn list(on: &'static str, field: &'static str, items: u64) -> ListSize {
    ListSize { on, field, items }
}

/// The fields that cost more than others.
pub const WEIGHTS: &[Weight] = &[
    // Passwords are checked slowly on purpose.
    weight("Mutation", "login", 1_000),
    weight("Mutation", "register", 1_000),
    weight("Mutation", "memberAccept", 1_000),
    weight("Mutation", "passwordChange", 1_000),
    weight("Mutation", "passwordReset", 1_000),
    weight("Mutation", "emailChange", 1_000),
    weight("Mutation", "totpBegin", 1_000),
    // A mail is written.
    weight("Mutation", "passwordResetRequest", 100),
    // A thousand documents are validated and written.
    weight("Mutation", "operationsPublish", 1_000),
    // The whole log is replayed.
    weight("Mutation", "readModelRebuild", 10_000),
    weight("Mutation", "readModelVerify", 10_000),
    // The whole log of an organization is read.
    weight("Query", "auditVerify", 10_000),
    weight("AuditVerification", "readings", 10_000),
    // All events of something are read, and folded.
    weight("Query", "stateAt", 100),
    weight("Query", "history", 100),
    // The index is asked, and what it finds is looked up.
    weight("Query", "search", 100),
    weight("Query", "suggest", 20),
    // Read from the store of files.
    weight("Document", "text", 10),
];

/// The lists that are longer than others.
pub const LISTS: &[ListSize] = &[
    list("Facet", "values", 100),
    list("PastState", "changes", 10),
    list("Query", "history", 50),
    list("Query", "permissionCatalog", 50),
    list("Query", "roles", 100),
    list("System", "readModels", 50),
    list("System", "consumers", 50),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_graphql::parser::parse_schema;
    use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};

    use super::*;

    #[test]
    fn what_is_priced_is_in_the_contract() {
        let mut fields = Vec::new();
        for definition in parse_schema(crate::sdl()).unwrap().definitions {
            if let TypeSystemDefinition::Type(ty) = definition
                && let TypeKind::Object(object) = ty.node.kind
            {
                let name = ty.node.name.node;
                fields.extend(object.fields.iter().map(|field| format!("{name}.{}", field.node.name.node)));
            }
        }
        let priced = WEIGHTS.iter().map(|weight| (weight.on, weight.field));
        for (on, field) in priced.chain(LISTS.iter().map(|list| (list.on, list.field))) {
            assert!(fields.contains(&format!("{on}.{field}")), "{on}.{field}");
        }
    }
}
