//! Organisations: reading the one in which one acts, changing it, founding another.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::members::FoundMember;
use oriel_domain::organizations::{CreateOrganization, OrganizationName, RenameOrganization, Slug};
use oriel_engine::{Committed, Transaction};
use oriel_kernel::{MemberId, OrganizationId, operations};
use oriel_read_models::organizations::Model as Organization;

use crate::access::{Problems, Result, after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about the organisation.
#[derive(Default)]
pub struct OrganizationQuery;

/// What can be done with organisations.
#[derive(Default)]
pub struct OrganizationMutation;

payloads! {
    /// What became of a change of an organization.
    OrganizationPayload {
        /// The organization as it is now.
        organization: Arc<Organization>,
    }
}

#[operations(query)]
impl OrganizationQuery {
    /// The organization in which you act.
    #[permission("organization:view")]
    async fn organization(&self, cx: &Context<'_>) -> Result<Option<Arc<Organization>>> {
        let reader = reader(cx)?;
        Ok(reader.get(reader.organization()).await?)
    }
}

#[operations(mutation)]
impl OrganizationMutation {
    /// Founds a further organization, which you own. You go on acting where you are: `sessionSwitch` goes there.
    #[signed_in]
    async fn organization_create(
        &self,
        cx: &Context<'_>,
        input: OrganizationCreateInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        let engine = &Services::of(cx)?.engine;
        let (organization, member): (OrganizationId, MemberId) = (engine.new_id(), engine.new_id());
        let mut problems = Problems::default();
        let name = problems.take("name", OrganizationName::parse(&input.name));
        let slug = problems.take("slug", input.slug.as_deref().map(Slug::parse).transpose());
        let (Some(name), Some(slug)) = (name, slug) else { return Err(problems.failure()) };
        let slug = slug.unwrap_or_else(|| Slug::for_name(&name, organization));
        let user = granted.viewer()?.user;
        let transaction = Transaction::new()
            .and(organization, CreateOrganization { name, slug, owner: user })
            .and(member, FoundMember { organization, user });
        payload(cx, engine.transact(&context, transaction).await?).await
    }

    /// Changes what the organization in which you act is called. Its slug stays.
    #[permission("organization:edit")]
    async fn organization_update(
        &self,
        cx: &Context<'_>,
        input: OrganizationUpdateInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        let name = OrganizationName::parse(&input.name).map_err(|r| r.at("name"))?;
        let organization = granted.viewer()?.organization;
        let done = Services::of(cx)?.engine.execute(&context, organization, RenameOrganization { name }).await?;
        payload(cx, done).await
    }
}

async fn payload(cx: &Context<'_>, done: Committed) -> Result<OrganizationPayload> {
    let organization = after_write::<Organization>(cx, done.subject).await?;
    Ok(OrganizationPayload { organization, user_errors: Vec::new(), position: Some(done.position) })
}

/// A further organization.
#[derive(InputObject)]
struct OrganizationCreateInput {
    /// What it is called: 1 to 120 characters.
    name: String,
    /// Its name in addresses, unique in the installation and never changed: 2 to 60 lower-case letters, digits and
    /// single dashes. Made from the name when it is left out.
    slug: Option<String>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of the organization in which you act.
#[derive(InputObject)]
struct OrganizationUpdateInput {
    /// What it is called: 1 to 120 characters.
    name: String,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use crate::testing::Bed;

    const ORGANIZATION: &str = "organization { id name slug version memberCount } userErrors { code path message }";

    #[tokio::test]
    async fn founding_and_renaming() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let input = json!({ "name": "Looms", "slug": "looms" });
        let made = bed.mutate(Some(&ada.access), "organizationCreate", input.clone(), ORGANIZATION).await;
        assert_eq!((&made["organization"]["slug"], &made["organization"]["memberCount"]), (&json!("looms"), &json!(1)));
        let again = bed.mutate(Some(&ada.access), "organizationCreate", input, ORGANIZATION).await;
        assert_eq!(Bed::problems(&again), ["TAKEN input.slug"]);
        let wrong = json!({ "name": "", "slug": "A B" });
        let refused = bed.mutate(Some(&ada.access), "organizationCreate", wrong, ORGANIZATION).await;
        assert_eq!(Bed::problems(&refused), ["REQUIRED input.name", "INVALID input.slug"]);

        let input = json!({ "name": "Analytical Engines", "expectedVersion": 1 });
        let renamed = bed.mutate(Some(&ada.access), "organizationUpdate", input.clone(), ORGANIZATION).await;
        assert_eq!(renamed["organization"]["id"], ada.organization);
        assert_eq!(
            (&renamed["organization"]["name"], &renamed["organization"]["version"]),
            (&json!("Analytical Engines"), &json!(2))
        );
        let stale = bed.mutate(Some(&ada.access), "organizationUpdate", input, ORGANIZATION).await;
        assert_eq!(Bed::problems(&stale), ["CONFLICT input.expectedVersion"]);

        let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
        let refused =
            bed.mutate(Some(&bob.access), "organizationUpdate", json!({ "name": "Bob's" }), ORGANIZATION).await;
        assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
        let seen =
            bed.ask(Some(&bob.access), "{ organization { name } viewer { organizations { name } } }", json!({})).await;
        assert_eq!(seen["data"]["organization"]["name"], "Analytical Engines");
        assert_eq!(seen["data"]["viewer"]["organizations"], json!([{ "name": "Analytical Engines" }]));
    }
}
