//! Organisations: reading the one in which one acts, changing it, founding another, and its end; and what the operator
//! of the installation does with all of them.
//!
//! Invariants: the operator's own organisation, the first one, can be neither suspended nor deleted. An end is only
//! scheduled here: a timer ends what is due (`reactors/endings.rs`).

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::members::FoundMember;
use oriel_domain::organizations::{
    CancelDeletion, CreateOrganization, Language, Organization as State, OrganizationName, ReinstateOrganization,
    RequireSecondFactor, ScheduleDeletion, Slug, SuspendOrganization, SuspensionReason, TimeZone, UpdateOrganization,
};
use oriel_engine::{CommandContext, Committed, Transaction};
use oriel_kernel::{Command, MemberId, OrganizationId, Permission, Rejection, operations};
use oriel_read_models::organizations::Model as Organization;
use oriel_read_models::sign_in;

use crate::access::{Granted, Problems, Result, after_write, reader, unavailable};
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
        let user = granted.in_person()?.user;
        let transaction = Transaction::new()
            .and(organization, CreateOrganization { name, slug, owner: user })
            .and(member, FoundMember { organization, user });
        payload(cx, engine.transact(&context, transaction).await?).await
    }

    /// Changes what the organization in which you act is called, and its settings. What is left out stays as it is. Its
    /// slug stays. `Organization.history` tells what it was before.
    #[permission("organization:edit")]
    async fn organization_update(
        &self,
        cx: &Context<'_>,
        input: OrganizationUpdateInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        let mut problems = Problems::default();
        let name = problems.take("name", input.name.as_deref().map(OrganizationName::parse).transpose());
        let language = problems.take("language", input.language.as_deref().map(Language::parse).transpose());
        let time_zone = problems.take("timeZone", input.time_zone.as_deref().map(TimeZone::parse).transpose());
        let (Some(name), Some(language), Some(time_zone)) = (name, language, time_zone) else {
            return Err(problems.failure());
        };
        let update = UpdateOrganization { name, language, time_zone };
        execute(cx, &context, granted.viewer()?.organization, update).await
    }

    /// Asks everybody in the organization in which you act for a second factor, or does so no more. Who has none may do
    /// nothing here, from this moment on, but set one up (`totpBegin`); you need one yourself. API keys are not asked.
    #[permission("organization:manage")]
    async fn organization_second_factor_require(
        &self,
        cx: &Context<'_>,
        input: OrganizationSecondFactorRequireInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        let viewer = granted.viewer()?;
        let me = sign_in::user(Services::of(cx)?.engine.database().reader(), viewer.user).await.map_err(unavailable)?;
        if input.required && me.is_none_or(|me| me.second_factor_since.is_none()) {
            let message = "You have no second factor yourself. Set one up first, with `totpBegin`.";
            return Err(Rejection::conflict(message).into());
        }
        execute(cx, &context, viewer.organization, RequireSecondFactor { required: input.required }).await
    }

    /// Schedules the end of the organization in which you act: after a time of grace (30 days, unless the installation
    /// says otherwise) it is deleted for good, with everything in it. `endsAt` says when. Until then it goes on, so that
    /// what is wanted elsewhere can be taken out, and `organizationDeleteCancel` calls it off. Say its slug, so that
    /// it is not another one that ends.
    #[permission("organization:delete")]
    async fn organization_delete(
        &self,
        cx: &Context<'_>,
        input: OrganizationDeleteInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        let services = Services::of(cx)?;
        operated(&granted)?;
        let reader = reader(cx)?;
        let organization = reader.get::<Organization>(reader.organization()).await?;
        if organization.is_none_or(|organization| organization.slug != input.slug.trim()) {
            let message = "This is not the slug of the organization in which you act.";
            return Err(Rejection::new(oriel_kernel::ErrorCode::Invalid, message).at("slug").into());
        }
        let ends_at = context.now + services.policy.organization_grace;
        execute(cx, &context, granted.viewer()?.organization, ScheduleDeletion { ends_at }).await
    }

    /// Calls off the end of the organization in which you act.
    #[permission("organization:delete")]
    async fn organization_delete_cancel(
        &self,
        cx: &Context<'_>,
        input: OrganizationDeleteCancelInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        execute(cx, &context, granted.viewer()?.organization, CancelDeletion).await
    }

    /// Suspends any organization: nobody can act or read in it, its people's requests are refused with
    /// `ORGANIZATION_SUSPENDED`, and what they follow ends with that. Nothing of it is lost. For the installation's
    /// operator, who does not see the organization: the answer has none.
    #[permission("system:manage")]
    async fn organization_suspend(
        &self,
        cx: &Context<'_>,
        input: OrganizationSuspendInput,
    ) -> Result<OrganizationPayload> {
        let context = granted.command(cx, &input)?;
        if granted.viewer()?.organization == input.id {
            operated(&granted)?;
        }
        let reason = SuspensionReason::parse(&input.reason).map_err(|r| r.at("reason"))?;
        operate(cx, context, input.id, SuspendOrganization { reason }).await
    }

    /// Lets a suspended organization go on as it was. For the installation's operator, who does not see it: the answer
    /// has none.
    #[permission("system:manage")]
    async fn organization_reinstate(
        &self,
        cx: &Context<'_>,
        input: OrganizationReinstateInput,
    ) -> Result<OrganizationPayload> {
        operate(cx, granted.command(cx, &input)?, input.id, ReinstateOrganization).await
    }
}

/// Refuses what would close the organisation that operates the installation.
fn operated(granted: &Granted) -> Result<()> {
    if granted.viewer()?.grant(Permission::new("system", "manage")).is_none() {
        return Ok(());
    }
    let message = "This organization operates the installation: it can be neither suspended nor deleted.";
    Err(Rejection::conflict(message).into())
}

async fn execute<C: Command<Aggregate = State>>(
    cx: &Context<'_>,
    context: &CommandContext,
    id: OrganizationId,
    command: C,
) -> Result<OrganizationPayload> {
    payload(cx, Services::of(cx)?.engine.execute(context, id, command).await?).await
}

/// By the operator, in whatever organisation.
async fn operate<C: Command<Aggregate = State>>(
    cx: &Context<'_>,
    mut context: CommandContext,
    id: OrganizationId,
    command: C,
) -> Result<OrganizationPayload> {
    context.organization = id;
    execute(cx, &context, id, command).await
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

/// Whether a second factor is required.
#[derive(InputObject)]
struct OrganizationSecondFactorRequireInput {
    /// Whether it is from now on.
    required: bool,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of the organization in which you act.
#[derive(InputObject)]
struct OrganizationUpdateInput {
    /// What it is called from now on: 1 to 120 characters.
    name: Option<String>,
    /// The language that it is written to in, as a BCP 47 tag, such as `de` or `pt-BR`.
    language: Option<String>,
    /// The time zone that it lives in, by its name in the tz database, such as `Europe/Vienna`.
    time_zone: Option<String>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The organization that is to end: the one in which you act.
#[derive(InputObject)]
struct OrganizationDeleteInput {
    /// Its slug.
    slug: String,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The organization that is not to end: the one in which you act.
#[derive(InputObject)]
struct OrganizationDeleteCancelInput {
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The organization to be suspended.
#[derive(InputObject)]
struct OrganizationSuspendInput {
    /// Which organization.
    id: OrganizationId,
    /// Why: 1 to 500 characters. Stays in its history.
    reason: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The organization to go on.
#[derive(InputObject)]
struct OrganizationReinstateInput {
    /// Which organization.
    id: OrganizationId,
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

    #[tokio::test]
    async fn settings_and_what_they_were_before() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let settings = "organization { name language timeZone } userErrors { code path message }";
        let input = json!({ "language": "pt-BR", "timeZone": "Europe/Lisbon" });
        let changed = bed.mutate(Some(&bob.access), "organizationUpdate", input, settings).await;
        let expected = json!({ "name": "Engines", "language": "pt-BR", "timeZone": "Europe/Lisbon" });
        assert_eq!(changed["organization"], expected);
        let wrong = json!({ "name": "", "language": "Deutsch", "timeZone": "hier drüben" });
        let refused = bed.mutate(Some(&bob.access), "organizationUpdate", wrong, settings).await;
        assert_eq!(
            Bed::problems(&refused),
            ["REQUIRED input.name", "INVALID input.language", "INVALID input.timeZone"]
        );
        bed.mutate(Some(&ada.access), "organizationUpdate", json!({ "language": "pt", "name": "Looms" }), settings)
            .await;

        let query = "{ organization { history(first: 10) {
            nodes { type at data actor { ... on Member { id } } } totalCount pageInfo { hasNextPage } } } }";
        let seen = bed.ask(Some(&bob.access), query, json!({})).await;
        let history = &seen["data"]["organization"]["history"];
        let told = |n: usize| (history["nodes"][n]["type"].as_str().unwrap(), &history["nodes"][n]["actor"]["id"]);
        assert_eq!(told(0), ("organization_configured", &json!(ada.member)));
        assert_eq!(history["nodes"][0]["data"], json!({ "language": "pt", "time_zone": "Europe/Lisbon" }));
        assert_eq!(told(1), ("organization_renamed", &json!(ada.member)));
        assert_eq!(told(2), ("organization_configured", &json!(bob.member)));
        assert_eq!((told(3).0, &history["totalCount"]), ("organization_created", &json!(4)));

        let cleo = bed.join(&ada, "cleo@example.org", &["viewer"]).await;
        let refused = bed.ask(Some(&cleo.access), query, json!({})).await;
        assert_eq!(Bed::code(&refused), "FORBIDDEN");
    }

    #[tokio::test]
    async fn a_suspended_organization_is_closed_until_it_is_reinstated() {
        let bed = Bed::new().await;
        let operator = bed.register("First", "operator@example.org").await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let only_codes = "organization { id } userErrors { code path message } position";
        let suspend = json!({ "id": ada.organization, "reason": "The bill was not paid." });
        let forbidden = bed.mutate(Some(&ada.access), "organizationSuspend", suspend.clone(), only_codes).await;
        assert_eq!(Bed::problems(&forbidden), ["FORBIDDEN"]);
        let own = json!({ "id": operator.organization, "reason": "By mistake." });
        let refused = bed.mutate(Some(&operator.access), "organizationSuspend", own, only_codes).await;
        assert_eq!(Bed::problems(&refused), ["CONFLICT"]);
        let none = json!({ "id": "org_00000000000000000000000001", "reason": "By mistake." });
        let refused = bed.mutate(Some(&operator.access), "organizationSuspend", none, only_codes).await;
        assert_eq!(Bed::problems(&refused), ["NOT_FOUND"]);

        let query = "{ organization { name } projects { totalCount } }";
        assert_eq!(bed.ask(Some(&ada.access), query, json!({})).await["data"]["organization"]["name"], "Engines");
        let done = bed.mutate(Some(&operator.access), "organizationSuspend", suspend, only_codes).await;
        assert_eq!((&done["userErrors"], &done["organization"]), (&json!([]), &json!(null)));

        let refused = bed.ask(Some(&ada.access), query, json!({})).await;
        assert_eq!((Bed::code(&refused), &refused["data"]), ("ORGANIZATION_SUSPENDED", &json!(null)));
        let change = "mutation { projectCreate(input: { name: \"A\", key: \"AA\" }) { userErrors { code } } }";
        assert_eq!(Bed::code(&bed.ask(Some(&ada.access), change, json!({})).await), "ORGANIZATION_SUSPENDED");
        let login = json!({ "email": "ada@example.org", "password": crate::testing::PASSWORD });
        let refused = bed.mutate(None, "login", login.clone(), crate::testing::SIGNED_IN).await;
        assert_eq!(refused["accessToken"], json!(null));
        let refresh = json!({ "refreshToken": ada.refresh });
        let refreshed = bed.mutate(None, "sessionRefresh", refresh, crate::testing::SIGNED_IN).await;
        assert_eq!(refreshed["viewer"], json!(null), "whatever token they get, they are nobody with it");

        let reinstate = json!({ "id": ada.organization });
        bed.mutate(Some(&operator.access), "organizationReinstate", reinstate, only_codes).await;
        assert_eq!(bed.ask(Some(&ada.access), query, json!({})).await["data"]["organization"]["name"], "Engines");
        let signed_in = bed.mutate(None, "login", login, crate::testing::SIGNED_IN).await;
        assert_eq!(signed_in["userErrors"], json!([]));
    }

    #[tokio::test]
    async fn an_end_is_scheduled_by_an_owner_who_says_which_and_can_be_called_off() {
        let bed = Bed::new().await;
        let operator = bed.register("First", "operator@example.org").await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let fields = "organization { slug endsAt status } userErrors { code path message }";
        let seen = bed.ask(Some(&ada.access), "{ organization { slug endsAt } }", json!({})).await;
        let slug = &seen["data"]["organization"]["slug"];
        let delete = json!({ "slug": slug });
        let refused = bed.mutate(Some(&bob.access), "organizationDelete", delete.clone(), fields).await;
        assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
        let refused = bed.mutate(Some(&ada.access), "organizationDelete", json!({ "slug": "other" }), fields).await;
        assert_eq!(Bed::problems(&refused), ["INVALID input.slug"]);
        let scheduled = bed.mutate(Some(&ada.access), "organizationDelete", delete, fields).await;
        let in_30_days = bed.endpoint.services().engine.now() + chrono::TimeDelta::days(30);
        let ends_at = scheduled["organization"]["endsAt"].as_str().unwrap();
        assert_eq!(oriel_kernel::Timestamp::from(chrono::DateTime::parse_from_rfc3339(ends_at).unwrap()), in_30_days);
        // It goes on until then, and is what it was when that is called off.
        assert_eq!(
            bed.ask(Some(&bob.access), "{ organization { status } }", json!({})).await["data"]["organization"]["status"],
            "ACTIVE"
        );
        let cancelled = bed.mutate(Some(&ada.access), "organizationDeleteCancel", json!({}), fields).await;
        assert_eq!(cancelled["organization"], json!({ "slug": slug, "endsAt": null, "status": "ACTIVE" }));

        let seen = bed.ask(Some(&operator.access), "{ organization { slug } }", json!({})).await;
        let delete = json!({ "slug": seen["data"]["organization"]["slug"] });
        let refused = bed.mutate(Some(&operator.access), "organizationDelete", delete, fields).await;
        assert_eq!(Bed::problems(&refused), ["CONFLICT"], "it operates the installation");
    }
}
