//! Bursts of wrong passwords and codes, and of readings: who is told of them, how often, and who is not.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const LIST: &str = "{ securityEvents { totalCount nodes { id kind severity status reasons count firstAt lastAt version
    sourceAddress sourceProgram note acknowledgedAt member { id } actor { __typename }
    acknowledgedBy { ... on Member { id } } } } }";
const ACKNOWLEDGED: &str = "securityEvent { status note acknowledgedBy { ... on Member { id } } version } \
                            userErrors { code path message }";

/// Longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(60);

async fn listed(bed: &Bed, person: &Person) -> Vec<Value> {
    let answer = bed.ask(Some(&person.access), LIST, json!({})).await;
    answer["data"]["securityEvents"]["nodes"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

/// Waits until what is listed is like this: it is noticed beside the answers.
async fn until(bed: &Bed, person: &Person, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let waiting = async {
        let mut head = bed.endpoint.services().engine.feed().watch();
        loop {
            head.mark_unchanged();
            let nodes = listed(bed, person).await;
            if fits(&nodes) {
                return nodes;
            }
            head.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(LONG, waiting).await {
        Ok(nodes) => nodes,
        Err(_) => panic!("it stays {:#?}", listed(bed, person).await),
    }
}

fn of_kind<'a>(nodes: &'a [Value], kind: &str) -> Vec<&'a Value> {
    nodes.iter().filter(|node| node["kind"] == kind).collect()
}

async fn guess(bed: &Bed, ip: &str, email: &str, password: &str) -> Value {
    let query = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { code } } }";
    bed.ask_from(ip, query, json!({ "input": { "email": email, "password": password } })).await
}

async fn wrong(bed: &Bed, ip: &str, email: &str) {
    let answer = guess(bed, ip, email, "violet-otter-93-lamq").await;
    assert_eq!(answer["data"]["login"]["userErrors"][0]["code"], "INVALID_CREDENTIALS", "{answer}");
}

/// How many things of this type have happened in the person's organization.
async fn happened(bed: &Bed, person: &Person, kind: &str) -> Value {
    let query = "query($type: String!) { events(first: 1, filter: { types: [$type] }) { totalCount } }";
    bed.ask(Some(&person.access), query, json!({ "type": kind })).await["data"]["events"]["totalCount"].clone()
}

#[tokio::test]
async fn guessing_is_told_of_once_and_a_right_password_after_it_and_acknowledged_by_who_may() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    for n in 0..9 {
        wrong(&bed, &format!("198.51.100.{n}"), "bob@example.org").await;
    }
    wrong(&bed, "198.51.100.9", "nobody@example.org").await;
    wrong(&bed, "198.51.100.9", "bob@example.org").await;
    let told = until(&bed, &ada, |nodes| !nodes.is_empty()).await;
    let [burst] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&burst["kind"], &burst["severity"]), (&json!("ACCOUNT_GUESSING"), &json!("MEDIUM")));
    assert_eq!((&burst["count"], &burst["status"], &burst["version"]), (&json!(10), &json!("OPEN"), &json!(1)));
    assert_eq!((&burst["reasons"], &burst["member"]["id"]), (&json!(["WRONG_SECRETS"]), &json!(bob.member)));
    assert_eq!((&burst["sourceAddress"], &burst["sourceProgram"]), (&json!("198.51.100.9"), &json!("tests")));
    assert_eq!(burst["actor"], Value::Null, "who it was is not known");

    // Who may not see it, and who is elsewhere.
    let id = burst["id"].clone();
    assert_eq!(Bed::code(&bed.ask(Some(&bob.access), LIST, json!({})).await), "FORBIDDEN");
    let one = "query($id: ID!) { node(id: $id) { id } }";
    for other in [&bob, &eve] {
        let answer = bed.ask(Some(&other.access), one, json!({ "id": id })).await;
        assert_eq!(answer["data"]["node"], Value::Null, "{answer}");
    }
    assert_eq!(bed.ask(Some(&ada.access), one, json!({ "id": id })).await["data"]["node"]["id"], id);
    let acknowledge = |note: &str| json!({ "id": id, "note": note });
    for (other, code) in [(&bob, "FORBIDDEN"), (&eve, "NOT_FOUND")] {
        let refused = bed.mutate(Some(&other.access), "securityEventAcknowledge", acknowledge("x"), ACKNOWLEDGED).await;
        assert!(Bed::problems(&refused)[0].starts_with(code), "{refused}");
    }
    assert!(listed(&bed, &eve).await.is_empty());

    let wordless = bed.mutate(Some(&ada.access), "securityEventAcknowledge", acknowledge(" "), ACKNOWLEDGED).await;
    assert_eq!(Bed::problems(&wordless), ["REQUIRED input.note"]);
    let seen = bed.mutate(Some(&ada.access), "securityEventAcknowledge", acknowledge("A test."), ACKNOWLEDGED).await;
    let expected = json!({ "status": "ACKNOWLEDGED", "note": "A test.", "acknowledgedBy": { "id": ada.member },
        "version": 2 });
    assert_eq!(seen["securityEvent"], expected, "{seen}");
    let again = bed.mutate(Some(&ada.access), "securityEventAcknowledge", acknowledge("Mine."), ACKNOWLEDGED).await;
    assert_eq!(Bed::problems(&again), ["CONFLICT"]);

    // It goes on: the same one is open again; nineteen attempts more have written one event more.
    for n in 10..29 {
        wrong(&bed, &format!("198.51.100.{n}"), "bob@example.org").await;
    }
    let told = until(&bed, &ada, |nodes| nodes[0]["count"] == 20).await;
    let [burst] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&burst["id"], &burst["status"], &burst["note"]), (&id, &json!("OPEN"), &Value::Null));
    assert_eq!(burst["acknowledgedBy"], Value::Null);
    assert_eq!(happened(&bed, &ada, "security_event_raised").await, 1);
    assert_eq!(happened(&bed, &ada, "security_event_continued").await, 1);

    let answer = guess(&bed, "198.51.100.40", "bob@example.org", PASSWORD).await;
    assert!(answer["data"]["login"]["accessToken"].is_string(), "{answer}");
    let told = until(&bed, &ada, |nodes| nodes.len() == 2).await;
    let got_in = of_kind(&told, "SIGN_IN_AFTER_FAILURES")[0];
    assert_eq!((&got_in["count"], &got_in["severity"]), (&json!(29), &json!("HIGH")));
    assert_eq!(got_in["sourceAddress"], "198.51.100.40");
    let only = "{ securityEvents(filter: { severity: { eq: HIGH }, status: { eq: OPEN } }, \
                orderBy: [{ field: FIRST_AT, direction: ASC }]) { nodes { id } } }";
    let only = bed.ask(Some(&ada.access), only, json!({})).await;
    assert_eq!(only["data"]["securityEvents"]["nodes"], json!([{ "id": got_in["id"] }]));
}

#[tokio::test]
async fn what_concerns_an_account_is_told_in_each_organization_of_its_person() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let made = "organization { id } userErrors { code }";
    let made = bed.mutate(Some(&ada.access), "organizationCreate", json!({ "name": "Looms" }), made).await;
    let looms = json!({ "organizationId": made["organization"]["id"] });
    for n in 0..10 {
        wrong(&bed, &format!("198.51.100.{n}"), "ada@example.org").await;
    }
    let here = until(&bed, &ada, |nodes| nodes.len() == 1).await;
    let switched = bed.mutate(Some(&ada.access), "sessionSwitch", looms, SIGNED_IN).await;
    let there = Person::of(&switched);
    let there = until(&bed, &there, |nodes| nodes.len() == 1).await;
    assert_ne!(here[0]["id"], there[0]["id"]);
    assert_ne!(here[0]["member"], there[0]["member"], "in each as whom they are there");
}

#[tokio::test]
async fn one_place_that_fails_at_many_accounts_is_told_where_they_are_and_who_corrects_themselves_is_not_counted() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let mut emails = Vec::new();
    for n in 0..8 {
        emails.push(format!("p{n}@example.org"));
        bed.join(&ada, &emails[n], &["member"]).await;
    }
    for email in &emails[..7] {
        wrong(&bed, "203.0.113.5", email).await;
        wrong(&bed, "203.0.113.5", email).await;
    }
    wrong(&bed, "203.0.113.5", "eve@example.org").await;
    wrong(&bed, "203.0.113.5", "nobody@example.org").await;
    // Of accounts at another place nothing is said of this one; a second time at the same account is none more.
    wrong(&bed, "203.0.113.6", &emails[7]).await;
    assert!(listed(&bed, &ada).await.is_empty());
    wrong(&bed, "203.0.113.5", &emails[7]).await;
    let told = until(&bed, &ada, |nodes| !nodes.is_empty()).await;
    let [sprayed] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&sprayed["kind"], &sprayed["severity"]), (&json!("PASSWORD_SPRAYING"), &json!("HIGH")));
    assert_eq!((&sprayed["count"], &sprayed["member"]), (&json!(8), &Value::Null));
    assert_eq!(sprayed["reasons"], json!(["WRONG_SECRETS", "MANY_ACCOUNTS"]));
    assert_eq!(sprayed["sourceAddress"], "203.0.113.5");
    assert!(listed(&bed, &eve).await.is_empty());

    // An office in which each mistypes once.
    let services = bed.endpoint.services();
    for email in &emails {
        wrong(&bed, "203.0.113.7", email).await;
        let answer = guess(&bed, "203.0.113.7", email, PASSWORD).await;
        assert!(answer["data"]["login"]["accessToken"].is_string(), "{answer}");
    }
    let organization = oriel_kernel::OrganizationId::parse_or_absent(&ada.organization);
    let place = crate::sessions::attempts::Place::of(Some("203.0.113.7"));
    let settled = async {
        loop {
            let now = services.engine.now();
            let counted = services.attempts.count_account(organization, &place, now).await;
            services.attempts.uncount_account(organization, &place, now);
            if counted == 1 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, settled).await.expect("those who got it right are still counted");
    assert_eq!(listed(&bed, &ada).await.len(), 1);
}

#[tokio::test]
async fn many_readings_within_an_hour_are_told_and_who_somebody_is_is_none() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (_, key) = bed.key(&ada, &["events:view", "members:view"]).await;
    let reads = "{ events(first: 1) { nodes { data } } }";
    for _ in 0..250 {
        bed.ask(Some(&key), "{ members { nodes { user { email } } } }", json!({})).await;
    }
    for _ in 0..199 {
        bed.ask(Some(&key), reads, json!({})).await;
    }
    bed.clock.advance(Duration::from_secs(3600));
    let ada = Person::of(
        &bed.mutate(None, "login", json!({ "email": "ada@example.org", "password": PASSWORD }), SIGNED_IN).await,
    );
    for _ in 0..199 {
        bed.ask(Some(&key), reads, json!({})).await;
    }
    assert!(listed(&bed, &ada).await.is_empty());
    bed.ask(Some(&key), reads, json!({})).await;
    let told = until(&bed, &ada, |nodes| !nodes.is_empty()).await;
    let [many] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&many["kind"], &many["count"]), (&json!("MANY_READINGS"), &json!(200)));
    assert_eq!((&many["member"]["id"], &many["actor"]["__typename"]), (&json!(ada.member), &json!("ApiKey")));
}

#[test]
fn however_many_read_memory_is_bounded() {
    use oriel_kernel::{Actor, MemberId, OrganizationId};
    use uuid::Uuid;
    let (readings, organization) = (super::Readings::default(), OrganizationId::from_uuid(Uuid::from_u128(1)));
    for n in 0..25_000 {
        let actor = Actor::Member(MemberId::from_uuid(Uuid::from_u128(n)));
        assert_eq!(readings.next(organization, actor, 1), 1);
        assert_eq!(readings.next(organization, actor, 1), 2);
        assert_eq!(readings.next(organization, actor, 2), 1, "another hour");
    }
    assert!(readings.0.lock().unwrap().len() <= super::READERS);
}
