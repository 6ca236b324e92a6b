//! What the operator says of the installation, and a policy that blocks, on two nodes: whatever is changed on one holds
//! on the other too, as soon as that has seen it.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::nodes::{PATIENCE, Shared, on};
use crate::support::Session;

const PROJECTS: &str = "{ projects { totalCount } }";
const CREATE: &str =
    "mutation($key: String!) { projectCreate(input: { name: \"A\", key: $key }) { userErrors { code } } }";

/// The code of the first error; nothing when there is none.
fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

/// Asks until this is the code.
async fn answers_with(session: &Session, query: &str, variables: Value, wanted: &str) -> Value {
    let begun = Instant::now();
    loop {
        let answer = session.raw(query, variables.clone()).await;
        if code(&answer) == wanted {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{query}: {answer}; {wanted:?} was wanted");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_says_on_one_node_holds_on_the_other() {
    let Some(shared) = Shared::new(None) else { return };
    let (one, two) = (shared.node().await, shared.node().await);
    let operator = one.register("Operator").await;
    let ada = on(&two, &one.register("Ada").await);
    answers_with(&ada, PROJECTS, json!({}), "").await;

    let update =
        "mutation($input: InstallationUpdateInput!) { installationUpdate(input: $input) { userErrors { message } } }";
    let maintenance = json!({ "input": { "maintenance": true, "notice": "Back at noon." } });
    operator.ask(update, maintenance).await;
    answers_with(&ada, CREATE, json!({ "key": "ONE" }), "MAINTENANCE").await;
    let told = Session { token: String::new(), ..ada.clone() };
    let seen = told.until("{ installation { notice maintenance } }", json!({}), |seen| {
        seen["installation"] == json!({ "notice": "Back at noon.", "maintenance": true })
    });
    seen.await;
    on(&two, &operator).ask(CREATE, json!({ "key": "OPS" })).await;
    operator.ask(update, json!({ "input": { "maintenance": false } })).await;
    answers_with(&ada, CREATE, json!({ "key": "TWO" }), "").await;

    let set = "mutation { featureSet(input: { key: \"editor\", enabled: true }) { userErrors { message } } }";
    operator.ask(set, json!({})).await;
    ada.until("{ viewer { features } }", json!({}), |seen| seen["viewer"]["features"] == json!(["editor"])).await;

    let publish = "mutation { policyPublish(input: { key: \"terms\", title: \"Terms\", text: \"Be kind.\", blocking: true }) \
                   { policy { id } userErrors { message } } }";
    let made = on(&one, &ada).ask(publish, json!({})).await;
    let id = made["policyPublish"]["policy"]["id"].clone();
    let refused = answers_with(&ada, PROJECTS, json!({}), "CONSENT_REQUIRED").await;
    assert_eq!(refused["errors"][0]["extensions"]["policyId"], id, "{refused}");
    let give = "mutation($id: ID!) { consentGive(input: { policyId: $id, revision: 1 }) { userErrors { message } } }";
    ada.ask(give, json!({ "id": id })).await;
    answers_with(&on(&one, &ada), PROJECTS, json!({}), "").await;
    answers_with(&ada, PROJECTS, json!({}), "").await;
}
