//! Policies and consents: what people agree to, in versions.
//!
//! Invariants: what an organisation publishes holds for its people, what the operator publishes for the installation
//! holds for everybody. A person agrees for themselves: a key cannot. That one that blocks keeps people from everything
//! else is decided in `access.rs`.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::consents::{GiveConsent, WithdrawConsent, consent_id};
use oriel_domain::policies::{
    Asked, PolicyId, PolicyKey, PolicyText, PolicyTitle, PublishPolicy, RetirePolicy, policy_id,
};
use oriel_kernel::{ErrorCode, OrganizationId, Permission, Rejection, operations};
use oriel_read_models::consents::{self, ConsentStatus};
use oriel_read_models::policies::{self, Model as Policy};

use crate::access::{Failure, Granted, Problems, after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about policies.
#[derive(Default)]
pub struct PolicyQuery;

/// What can be done with policies.
#[derive(Default)]
pub struct PolicyMutation;

payloads! {
    /// What became of a policy.
    PolicyPayload {
        /// The policy.
        policy: Arc<Policy>,
    }

    /// What became of agreeing, or of taking that back.
    ConsentPayload {
        /// What you say to the policies that hold for you, as it is now.
        consents: Vec<ConsentStatus>,
    }
}

#[operations(query)]
impl PolicyQuery {
    /// The policy with this id, in the version that is in force, or was last; null when there is none that holds for
    /// you.
    #[authenticated]
    async fn policy(&self, cx: &Context<'_>, id: PolicyId) -> crate::access::Result<Option<Arc<Policy>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The policies that hold for you: those of the installation, and those of your organization. What you say to them
    /// is in `viewer.consents`.
    #[authenticated]
    async fn policies(&self, cx: &Context<'_>) -> crate::access::Result<Vec<Arc<Policy>>> {
        Ok(policies::in_force(&reader(cx)?).await?)
    }
}

#[operations(mutation)]
impl PolicyMutation {
    /// Publishes a policy, or the next version of one: those who agreed to the one before are asked again. The same
    /// again is no version. The operator may publish one for the whole installation.
    #[permission("policies:edit")]
    async fn policy_publish(
        &self,
        cx: &Context<'_>,
        input: PolicyPublishInput,
    ) -> crate::access::Result<PolicyPayload> {
        let mut context = granted.command(cx, &input)?;
        must_reach_all(&granted)?;
        if input.installation.unwrap_or(false) {
            operates(&granted)?;
            context.organization = OrganizationId::ABSENT;
        }
        let mut problems = Problems::default();
        let key = problems.take("key", PolicyKey::parse(&input.key));
        let title = problems.take("title", PolicyTitle::parse(&input.title));
        let text = problems.take("text", PolicyText::parse(&input.text));
        let (Some(key), Some(title), Some(text)) = (key, title, text) else { return Err(problems.failure()) };
        let id = policy_id(context.organization, &key);
        let asked = Asked::of(input.required.unwrap_or(false), input.blocking.unwrap_or(false));
        let publish = PublishPolicy { key, title, text, asked };
        let done = Services::of(cx)?.engine.execute(&context, id, publish).await?;
        let policy = after_write::<Policy>(cx, done.subject).await?;
        Ok(PolicyPayload { policy, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Takes a policy out of force: nobody is asked to agree to it any more. What was agreed to stays in the history.
    #[permission("policies:edit")]
    async fn policy_retire(&self, cx: &Context<'_>, input: PolicyRetireInput) -> crate::access::Result<PolicyPayload> {
        let mut context = granted.command(cx, &input)?;
        must_reach_all(&granted)?;
        let policy = found(cx, input.id).await?;
        if policy.organization_id.is_absent() {
            operates(&granted)?;
        }
        context.organization = policy.organization_id;
        let done = Services::of(cx)?.engine.execute(&context, input.id, RetirePolicy).await?;
        let policy = after_write::<Policy>(cx, done.subject).await?;
        Ok(PolicyPayload { policy, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Agrees to the version of a policy that is in force: the one that you have read. With another one in force
    /// meanwhile this is refused with `CONFLICT`.
    #[signed_in]
    async fn consent_give(&self, cx: &Context<'_>, input: ConsentGiveInput) -> crate::access::Result<ConsentPayload> {
        let mut context = granted.command(cx, &input)?;
        let (user, policy) = (granted.viewer()?.user, found(cx, input.policy_id).await?);
        context.organization = policy.organization_id;
        let give = GiveConsent { policy: policy.id, revision: input.revision, user };
        let done = Services::of(cx)?.engine.execute(&context, consent_id(policy.id, user), give).await?;
        said(cx, done).await
    }

    /// Takes back that you agreed to a policy.
    #[signed_in]
    async fn consent_withdraw(
        &self,
        cx: &Context<'_>,
        input: ConsentWithdrawInput,
    ) -> crate::access::Result<ConsentPayload> {
        let mut context = granted.command(cx, &input)?;
        let (user, policy) = (granted.viewer()?.user, found(cx, input.policy_id).await?);
        context.organization = policy.organization_id;
        let withdraw = WithdrawConsent { user };
        let done = Services::of(cx)?.engine.execute(&context, consent_id(policy.id, user), withdraw).await?;
        said(cx, done).await
    }
}

/// What whoever asks says now.
async fn said(cx: &Context<'_>, done: oriel_engine::Committed) -> crate::access::Result<ConsentPayload> {
    after_write::<consents::Model>(cx, done.subject).await?;
    let reader = reader(cx)?;
    let consents = consents::of(&reader, reader.viewer().user).await?;
    Ok(ConsentPayload { consents: Some(consents), user_errors: Vec::new(), position: Some(done.position) })
}

async fn found(cx: &Context<'_>, id: PolicyId) -> Result<Arc<Policy>, Failure> {
    let policy = reader(cx)?.get::<Policy>(id).await?;
    Ok(policy.ok_or_else(|| Rejection::not_found("policy").at("id"))?)
}

/// A policy is nobody's own.
fn must_reach_all(granted: &Granted) -> Result<(), Failure> {
    match granted.grant() {
        oriel_kernel::Grant::All => Ok(()),
        oriel_kernel::Grant::Own => {
            let message = "Policies belong to the organization: this needs the permission without `:own`.";
            Err(Rejection::new(ErrorCode::Forbidden, message).into())
        }
    }
}

/// Refuses what is for the operator of the installation.
fn operates(granted: &Granted) -> Result<(), Failure> {
    if granted.viewer()?.grant(Permission::new("system", "manage")).is_some() {
        return Ok(());
    }
    let message = "Only the operator of the installation publishes what holds for everybody.";
    Err(Rejection::new(ErrorCode::Forbidden, message).at("installation").into())
}

/// A policy, or its next version.
#[derive(InputObject)]
struct PolicyPublishInput {
    /// What programs call it: 1 to 40 lower-case letters, digits and single dashes, such as `privacy`. The same key:
    /// the same policy.
    key: String,
    /// What people call it: 1 to 200 characters.
    title: String,
    /// What it says: 1 to 50 000 characters.
    text: String,
    /// Whether everybody is to agree; `viewer.consentsMissing` says who has not. Left out: no.
    required: Option<bool>,
    /// Whether who has not agreed is refused everything else, with `CONSENT_REQUIRED`, from this moment on: they can
    /// read the policies, agree, sign out, act in another organization, take their data with them and erase themselves.
    /// Such a policy is required too. API keys are not asked, and go on. Left out: no.
    blocking: Option<bool>,
    /// Whether it holds for the whole installation; for its operator. Left out: for your organization.
    installation: Option<bool>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A policy that is to be taken out of force.
#[derive(InputObject)]
struct PolicyRetireInput {
    /// Which policy.
    id: PolicyId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// What you agree to.
#[derive(InputObject)]
struct ConsentGiveInput {
    /// Which policy.
    policy_id: PolicyId,
    /// Which version of it: the one that you have read.
    revision: i32,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// What you do not agree to any more.
#[derive(InputObject)]
struct ConsentWithdrawInput {
    /// Which policy.
    policy_id: PolicyId,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use async_graphql::Request;
    use futures::StreamExt;
    use serde_json::json;

    use crate::access::{UNDER_MAINTENANCE, WITHOUT_CONSENT};
    use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN, operation};

    const POLICY: &str = "policy { id key revision required } userErrors { code path message }";
    const CONSENTS: &str = "consents { policy { key } state revision } userErrors { code path message }";

    #[tokio::test]
    async fn a_new_version_is_agreed_to_again_and_what_was_agreed_to_can_be_taken_back() {
        let bed = Bed::new().await;
        let operator = bed.register("First", "operator@example.org").await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
        let privacy = |text: &str| json!({ "key": "privacy", "title": "Privacy", "text": text, "required": true });
        let denied = bed.mutate(Some(&bob.access), "policyPublish", privacy("Ours."), POLICY).await;
        assert_eq!(Bed::problems(&denied), ["FORBIDDEN"]);
        let wrong = json!({ "key": "A B", "title": "", "text": "" });
        let refused = bed.mutate(Some(&ada.access), "policyPublish", wrong, POLICY).await;
        assert_eq!(Bed::problems(&refused), ["INVALID input.key", "REQUIRED input.title", "REQUIRED input.text"]);
        let made = bed.mutate(Some(&ada.access), "policyPublish", privacy("Ours."), POLICY).await;
        let id = made["policy"]["id"].clone();
        assert_eq!((&made["policy"]["revision"], &made["userErrors"]), (&json!(1), &json!([])), "{made}");

        let seen = "{ viewer { consentsMissing consents { policy { key title text } state } } }";
        let asked = bed.ask(Some(&bob.access), seen, json!({})).await;
        let viewer = &asked["data"]["viewer"];
        assert_eq!((&viewer["consentsMissing"], &viewer["consents"][0]["state"]), (&json!(true), &json!("MISSING")));
        let give = |revision: i32| json!({ "policyId": id, "revision": revision });
        let early = bed.mutate(Some(&bob.access), "consentGive", give(2), CONSENTS).await;
        assert_eq!(Bed::problems(&early), ["CONFLICT input.revision"]);
        let given = bed.mutate(Some(&bob.access), "consentGive", give(1), CONSENTS).await;
        let expected = json!([{ "policy": { "key": "privacy" }, "state": "GIVEN", "revision": 1 }]);
        assert_eq!(given["consents"], expected, "{given}");
        assert_eq!(bed.ask(Some(&bob.access), seen, json!({})).await["data"]["viewer"]["consentsMissing"], false);

        bed.mutate(Some(&ada.access), "policyPublish", privacy("Ours, and theirs."), POLICY).await;
        let asked = bed.ask(Some(&bob.access), seen, json!({})).await;
        assert_eq!(asked["data"]["viewer"]["consents"][0]["state"], "OUTDATED");
        bed.mutate(Some(&bob.access), "consentGive", give(2), CONSENTS).await;
        let taken = bed.mutate(Some(&bob.access), "consentWithdraw", json!({ "policyId": id }), CONSENTS).await;
        assert_eq!(taken["consents"][0]["state"], "WITHDRAWN");

        // Who may see it of others, and its history.
        let status = "{ members { nodes { user { email } consents { policy { key } state } } } }";
        let told = bed.ask(Some(&ada.access), status, json!({})).await;
        let nodes = told["data"]["members"]["nodes"].as_array().unwrap();
        let of = |email: &str| nodes.iter().find(|node| node["user"]["email"] == email).unwrap()["consents"].clone();
        assert_eq!(of("bob@example.org")[0]["state"], "WITHDRAWN");
        assert_eq!(of("ada@example.org")[0]["state"], "MISSING");
        let hidden = bed.ask(Some(&bob.access), status, json!({})).await;
        assert_eq!(Bed::code(&hidden), "FORBIDDEN");
        let history = "{ events(first: 20, filter: { types: [\"consent_given\", \"consent_withdrawn\", \"policy_published\"] }) { nodes { type data } } }";
        let told = bed.ask(Some(&ada.access), history, json!({})).await;
        let types: Vec<&str> = told["data"]["events"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(types.iter().filter(|kind| **kind == "consent_given").count(), 2, "{types:?}");
        assert_eq!(types.iter().filter(|kind| **kind == "policy_published").count(), 2, "{types:?}");

        // Another organisation has nothing to do with it; the installation's holds for all.
        let stolen = bed.mutate(Some(&operator.access), "consentGive", give(2), CONSENTS).await;
        assert_eq!(Bed::problems(&stolen), ["NOT_FOUND input.id"]);
        let terms = json!({ "key": "terms", "title": "Terms", "text": "Be kind.", "installation": true });
        let denied = bed.mutate(Some(&ada.access), "policyPublish", terms.clone(), POLICY).await;
        assert_eq!(Bed::problems(&denied), ["FORBIDDEN input.installation"]);
        let made = bed.mutate(Some(&operator.access), "policyPublish", terms, POLICY).await;
        assert_eq!(made["userErrors"], json!([]));
        for (person, count) in [(&operator, 1), (&ada, 2), (&bob, 2)] {
            let holds = bed.ask(Some(&person.access), "{ policies { key } }", json!({})).await;
            assert_eq!(holds["data"]["policies"].as_array().unwrap().len(), count, "{holds}");
        }
        let agree = json!({ "policyId": made["policy"]["id"], "revision": 1 });
        let given = bed.mutate(Some(&bob.access), "consentGive", agree, CONSENTS).await;
        assert_eq!(given["consents"][0]["state"], "GIVEN", "{given}");
        let retired =
            bed.mutate(Some(&ada.access), "policyRetire", json!({ "id": made["policy"]["id"] }), POLICY).await;
        assert_eq!(Bed::problems(&retired), ["FORBIDDEN input.installation"]);
        bed.mutate(Some(&ada.access), "policyRetire", json!({ "id": id }), POLICY).await;
        let asked = bed.ask(Some(&bob.access), seen, json!({})).await;
        assert_eq!(asked["data"]["viewer"]["consents"].as_array().unwrap().len(), 1);
    }
    #[tokio::test]
    async fn who_has_not_agreed_to_a_policy_that_blocks_does_nothing_else() {
        let bed = Bed::new().await;
        bed.register("First", "operator@example.org").await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let elsewhere = bed.register("Looms", "cleo@example.org").await;
        let (_, key) = bed.key(&bob, &["projects:view"]).await;
        let list = "{ projects { totalCount } }";
        let seen = async |token: &str| bed.ask(Some(token), list, json!({})).await;
        assert_eq!(seen(&bob.access).await["data"]["projects"]["totalCount"], 0);
        let live = operation(Request::new(format!("subscription {{ live {list} }}"))).unwrap();
        let mut answers = bed.endpoint.execute_stream(live, bed.caller(Some(&bob.access)).unwrap());
        let mut next = async || {
            let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap();
            answer.map(|answer| serde_json::to_value(answer).unwrap())
        };
        assert_eq!(next().await.unwrap()["data"]["live"]["projects"]["totalCount"], 0);

        let terms = json!({ "key": "terms", "title": "Terms", "text": "Be kind.", "blocking": true });
        let made = bed.mutate(Some(&ada.access), "policyPublish", terms, "policy { id required blocking }").await;
        let id = made["policy"]["id"].clone();
        assert_eq!(made["policy"], json!({ "id": id, "required": true, "blocking": true }));
        // At once: what is kept, what is followed, what is asked anew; whoever published it too.
        let told = next().await.unwrap();
        assert_eq!(Bed::code(&told), "CONSENT_REQUIRED", "{told}");
        assert_eq!(next().await, None);
        for person in [&ada, &bob] {
            let refused = seen(&person.access).await;
            let extensions = &refused["errors"][0]["extensions"];
            assert_eq!((&extensions["code"], &extensions["policyId"]), (&json!("CONSENT_REQUIRED"), &id), "{refused}");
        }
        let change = "mutation { projectCreate(input: { name: \"A\", key: \"AA\" }) { userErrors { code } } }";
        let refused = bed.ask(Some(&bob.access), change, json!({})).await;
        assert_eq!((Bed::code(&refused), &refused["data"]["projectCreate"]), ("CONSENT_REQUIRED", &json!(null)));
        // Nor by another way: what hangs on who one is, another key, an id.
        let inside = "{ viewer { organization { history { totalCount } } permissions } }";
        let refused = bed.ask(Some(&bob.access), inside, json!({})).await;
        assert_eq!(refused["data"]["viewer"], json!({ "organization": { "history": null }, "permissions": [] }));
        for by in [
            "{ node(id: \"x\") { id } }".to_owned(),
            "mutation { apiKeyCreate(input: { name: \"k\", scopes: [] }) { secret } }".to_owned(),
            format!("mutation {{ memberRemove(input: {{ id: \"{}\" }}) {{ position }} }}", ada.member),
        ] {
            assert_eq!(Bed::code(&bed.ask(Some(&bob.access), &by, json!({})).await), "CONSENT_REQUIRED", "{by}");
        }
        // Elsewhere nobody is asked, and a program is not either.
        for token in [&elsewhere.access, &key] {
            assert_eq!(seen(token).await["data"]["projects"]["totalCount"], 0);
        }
        // What is theirs they read and take along; they agree, and go on.
        let own = "{ viewer { consentsMissing } policies { key text } dataExports(first: 1) { totalCount } }";
        let answer = bed.ask(Some(&bob.access), own, json!({})).await;
        let expected = json!({ "viewer": { "consentsMissing": true }, "policies": [{ "key": "terms", "text": "Be kind." }],
            "dataExports": { "totalCount": 0 } });
        assert_eq!((&answer["data"], answer.get("errors")), (&expected, None));
        let give = json!({ "policyId": id, "revision": 1 });
        let given = bed.mutate(Some(&bob.access), "consentGive", give, CONSENTS).await;
        assert_eq!(given["consents"][0]["state"], "GIVEN");
        assert_eq!(seen(&bob.access).await["data"]["projects"]["totalCount"], 0);
        assert_eq!(Bed::code(&seen(&ada.access).await), "CONSENT_REQUIRED", "each for themselves");
        bed.mutate(Some(&bob.access), "consentWithdraw", json!({ "policyId": id }), CONSENTS).await;
        assert_eq!(Bed::code(&seen(&bob.access).await), "CONSENT_REQUIRED");
        let out = bed.mutate(Some(&bob.access), "logout", json!({}), "userErrors { code path message }").await;
        assert_eq!(Bed::problems(&out), Vec::<String>::new());
        // Whoever agrees takes it out of force again.
        let give = json!({ "policyId": id, "revision": 1 });
        bed.mutate(Some(&ada.access), "consentGive", give, CONSENTS).await;
        bed.mutate(Some(&ada.access), "policyRetire", json!({ "id": id }), POLICY).await;
        let login = json!({ "email": "bob@example.org", "password": PASSWORD });
        let bob = Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
        assert_eq!(seen(&bob.access).await["data"]["projects"]["totalCount"], 0);
    }

    #[test]
    fn what_goes_on_without_consent_or_under_maintenance_is_there() {
        let names: Vec<&str> = crate::operations().iter().map(|operation| operation.name).collect();
        for name in WITHOUT_CONSENT.iter().chain(UNDER_MAINTENANCE) {
            assert!(names.contains(name), "{name} is no operation");
        }
    }
}
