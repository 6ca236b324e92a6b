//! The search index, as answers depend on it: it is no table, and who keeps it announces what has changed.

use oriel_engine::read::Dependency;
use oriel_kernel::OrganizationId;

/// What an answer of the search in this organisation depends on.
pub fn dependency(organization: OrganizationId) -> Dependency {
    Dependency::collection("search", "org", organization.uuid())
}
