//! What something was at a moment of the past, and how it came to be what it is.
//!
//! Invariants: a state is made of the events of the organization alone, as its type shows it today; nothing is said that
//! these events do not say to whom may see them, and nothing of somebody who was forgotten. What leads from it to others
//! is not in it: they have a past of their own.

use std::sync::{Arc, LazyLock};

use async_graphql::{
    ComplexObject, Context, EmptyMutation, EmptySubscription, ID, Object, Request, Schema, SimpleObject,
};
use oriel_kernel::{ErrorCode, Grant, Position, Recorded, Rejection, Timestamp, operations};
use oriel_read_models::current_reader;
use oriel_read_models::events::Model as Event;
use oriel_read_models::node::Node;
use oriel_read_models::past::{States, states, subject};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::{reader, unavailable};
use crate::services::Services;
use crate::types::is_value;

/// Events of which a past is made at most.
const EVENTS: usize = 10_000;
/// States of one answer at most.
const STATES: i32 = 100;

/// What can be asked about the past.
#[derive(Default)]
pub struct PastQuery;

#[operations(query)]
impl PastQuery {
    /// What something was: after the last of its events that had happened at this moment, and up to this position of the
    /// log. Left out: now. Also of what is not there any more; null before its first event, and when there is none in
    /// your organization. Of something with more than 10000 events no past is made.
    #[permission("events:view")]
    async fn state_at(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "Of what: the id of anything that has events.")] id: ID,
        #[graphql(desc = "At this moment.")] at: Option<Timestamp>,
        #[graphql(desc = "At this position of the log: what its event has made of it is shown.")] position: Option<
            Position,
        >,
    ) -> crate::access::Result<Option<PastState>> {
        whole(granted.grant())?;
        let Some(past) = Past::of(cx, &id).await? else { return Ok(None) };
        let has_happened = |event: &Arc<Recorded>| {
            position.is_none_or(|position| event.position <= position) && at.is_none_or(|at| event.at <= at)
        };
        Ok(match past.events.iter().rposition(has_happened) {
            Some(n) => Some(past.state(n).await?),
            None => None,
        })
    }

    /// How something came to be what it is: each of its events, the oldest first, with what it was after it. Also of
    /// what is not there any more; null when there is none in your organization. Of something with more than 10000 events
    /// no past is made.
    #[permission("events:view")]
    async fn history(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "Of what: the id of anything that has events.")] id: ID,
        #[graphql(desc = "How many; at most 100.", default = 50)] first: i32,
        #[graphql(desc = "Only what happened after this position.")] after: Option<Position>,
    ) -> crate::access::Result<Option<Vec<PastState>>> {
        whole(granted.grant())?;
        let Some(past) = Past::of(cx, &id).await? else { return Ok(None) };
        let begin = past.events.iter().take_while(|event| after.is_some_and(|after| event.position <= after)).count();
        let count = usize::try_from(first.clamp(0, STATES)).unwrap_or_default();
        let mut found = Vec::new();
        for n in (begin..past.events.len()).take(count) {
            found.push(past.state(n).await?);
        }
        Ok(Some(found))
    }
}

fn whole(grant: Grant) -> crate::access::Result<()> {
    if grant == Grant::Own {
        let message = "The past is of the whole organization: this needs the permission without `:own`.";
        return Err(Rejection::new(ErrorCode::Forbidden, message).into());
    }
    Ok(())
}

/// What something was after one of its events.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct PastState {
    /// Where in the log this event is.
    position: Position,
    /// When it was decided.
    at: Timestamp,
    /// The version of what it happened to, after it.
    version: i32,
    /// What it was after it: its fields and their values, as its type has them today, without what leads to others and
    /// what others add up to. What was said about a person who was forgotten is null. Null where it was not there (any
    /// more), and where no type shows it.
    state: Option<Value>,
    /// What the event has changed.
    changes: Vec<FieldChange>,
    #[graphql(skip)]
    event_id: Uuid,
}

/// A field that an event has changed.
#[derive(SimpleObject)]
pub struct FieldChange {
    /// Its name.
    field: String,
    /// Its value before; null also when there was nothing yet.
    before: Option<Value>,
    /// Its value after it; null also when there was nothing any more.
    after: Option<Value>,
}

#[ComplexObject]
impl PastState {
    /// What happened.
    async fn event(&self, cx: &Context<'_>) -> async_graphql::Result<Option<Arc<Event>>> {
        match current_reader(cx) {
            Some(reader) => Ok(reader.get(self.event_id).await?),
            None => Ok(None),
        }
    }
}

/// The events of something, and what they have made of it.
struct Past {
    events: Vec<Arc<Recorded>>,
    states: Option<States>,
}

impl Past {
    async fn of(cx: &Context<'_>, id: &str) -> crate::access::Result<Option<Self>> {
        let reader = reader(cx)?;
        // It may be forgotten, and nothing says when.
        reader.recorder().volatile();
        let Some((stream, subject)) = subject(id) else { return Ok(None) };
        let engine = &Services::of(cx)?.engine;
        let events = engine.log().read_subject_of(reader.organization(), subject, EVENTS as u64 + 1);
        let events = events.await.map_err(unavailable)?;
        if events.len() > EVENTS {
            let message = format!("More than {EVENTS} events happened to this: no past is made of so many.");
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).at("id").into());
        }
        if events.first().is_none_or(|event| event.event.stream() != stream) {
            return Ok(None);
        }
        let states = states(engine.read_models(), (stream, subject), &events).map_err(unavailable)?;
        Ok(Some(Self { events, states }))
    }

    /// What it was after this event.
    async fn state(&self, n: usize) -> async_graphql::Result<PastState> {
        let before = match n.checked_sub(1) {
            Some(before) => self.shown(before).await?,
            None => None,
        };
        let (event, state) = (&self.events[n], self.shown(n).await?);
        let changes = changes(before.unwrap_or_default(), state.clone().unwrap_or_default());
        Ok(PastState {
            position: event.position,
            at: event.at,
            version: event.version,
            state: state.map(Value::Object),
            changes,
            event_id: event.id.uuid(),
        })
    }

    async fn shown(&self, n: usize) -> async_graphql::Result<Option<Map<String, Value>>> {
        let Some(States { name, columns, states }) = &self.states else { return Ok(None) };
        match &states[n] {
            Some(node) => shown(node, name, columns).await.map(Some),
            None => Ok(None),
        }
    }
}

fn changes(mut before: Map<String, Value>, after: Map<String, Value>) -> Vec<FieldChange> {
    let value = |value: Option<Value>| value.filter(|value| !value.is_null());
    let mut changes = Vec::new();
    for (field, after) in after {
        let (before, after) = (value(before.remove(&field)), value(Some(after)));
        if before != after {
            changes.push(FieldChange { field, before, after });
        }
    }
    let gone = before.into_iter().filter_map(|(field, before)| Some((field, value(Some(before))?)));
    changes.extend(gone.map(|(field, before)| FieldChange { field, before: Some(before), after: None }));
    changes
}

// --- a row as its type shows it --------------------------------------------------------------------------------------

/// One node, whose values are asked for: there is no other way to how GraphQL writes them.
static SHOWING: LazyLock<Schema<Showing, EmptyMutation, EmptySubscription>> =
    LazyLock::new(|| Schema::build(Showing, EmptyMutation, EmptySubscription).finish());

struct Showing;

#[Object]
impl Showing {
    async fn node(&self, cx: &Context<'_>) -> async_graphql::Result<Node> {
        cx.data::<Node>().cloned()
    }
}

/// The values of a node that are its columns.
async fn shown(node: &Node, of: &str, columns: &[&str]) -> async_graphql::Result<Map<String, Value>> {
    let fields: Vec<String> = columns.iter().map(|column| camel_case(column)).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).filter(|field| is_value(of, field)).collect();
    let query = format!("{{ node {{ ... on {of} {{ {} }} }} }}", fields.join(" "));
    let answer = SHOWING.execute(Request::new(query).data(node.clone())).await;
    match (answer.errors.first(), answer.data.into_json()?) {
        (None, Value::Object(mut data)) => match data.remove("node") {
            Some(Value::Object(values)) => Ok(values),
            _ => Err(unavailable(format!("a {of} of the past has no values"))),
        },
        (error, _) => Err(unavailable(format!("a {of} of the past cannot be shown: {error:?}"))),
    }
}

fn camel_case(column: &str) -> String {
    let mut words = column.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::tests::{document, project};
    use crate::testing::{Bed, Person};

    const HISTORY: &str =
        "query($id: ID!, $first: Int! = 100, $after: Position) { history(id: $id, first: $first, after: $after) {
        position at version state changes { field before after } event { type actor { ... on Member { id } } } } }";
    const STATE: &str = "query($id: ID!, $at: DateTime, $position: Position) {
        stateAt(id: $id, at: $at, position: $position) { version state } }";

    async fn history(bed: &Bed, who: &Person, variables: Value) -> Value {
        bed.ask(Some(&who.access), HISTORY, variables).await["data"]["history"].take()
    }

    async fn done(bed: &Bed, who: &Person, field: &str, input: Value) -> Value {
        let done = bed.mutate(Some(&who.access), field, input, "userErrors { code message path }").await;
        assert_eq!(done["userErrors"], json!([]), "{done}");
        done
    }

    #[tokio::test]
    async fn each_event_says_what_it_changed_and_every_state_can_be_looked_at() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let id = project(&bed, &ada, "ATLAS").await;
        let founded = bed.endpoint.services().engine.now();
        bed.clock.advance(std::time::Duration::from_secs(60));
        done(&bed, &ada, "projectUpdate", json!({ "id": id, "name": "Atlas of engines" })).await;
        done(&bed, &ada, "projectUpdate", json!({ "id": id, "description": "All of them." })).await;
        done(&bed, &ada, "projectArchive", json!({ "id": id })).await;
        document(&bed, &ada, &project(&bed, &ada, "OTHER").await, "a.txt", "one").await;

        let past = history(&bed, &ada, json!({ "id": id })).await;
        let past = past.as_array().unwrap();
        let types: Vec<&str> = past.iter().map(|one| one["event"]["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["project_created", "project_renamed", "project_described", "project_archived"]);
        assert!(past.iter().all(|one| one["event"]["actor"]["id"] == json!(ada.member)));
        let changed = |n: usize, field: &str| {
            let changes = past[n]["changes"].as_array().unwrap();
            let one = changes.iter().find(|change| change["field"] == field);
            one.map(|change| (change["before"].clone(), change["after"].clone()))
        };
        assert_eq!(changed(0, "key"), Some((Value::Null, json!("ATLAS"))));
        assert_eq!(changed(0, "status"), Some((Value::Null, json!("ACTIVE"))));
        assert_eq!(changed(1, "name"), Some((json!("ATLAS"), json!("Atlas of engines"))));
        assert_eq!((changed(1, "key"), changed(1, "status")), (None, None));
        assert_eq!(changed(2, "description"), Some((Value::Null, json!("All of them."))));
        assert_eq!(changed(3, "status"), Some((json!("ACTIVE"), json!("ARCHIVED"))));

        // At any position, at any time; and what others add up to is not made up.
        for one in past {
            let at = bed.ask(Some(&ada.access), STATE, json!({ "id": id, "position": one["position"] })).await;
            assert_eq!(at["data"]["stateAt"], json!({ "version": one["version"], "state": one["state"] }));
            assert_eq!(one["state"].get("documentCount"), None, "{one}");
        }
        let then = bed.ask(Some(&ada.access), STATE, json!({ "id": id, "at": founded.to_rfc3339() })).await;
        assert_eq!(then["data"]["stateAt"]["state"]["name"], "ATLAS", "{then}");
        let early = bed.ask(Some(&ada.access), STATE, json!({ "id": id, "at": "2001-01-01T00:00:00Z" })).await;
        assert_eq!(early["data"], json!({ "stateAt": null }), "{early}");
        // A page after another.
        let page = history(&bed, &ada, json!({ "id": id, "first": 2, "after": past[0]["position"] })).await;
        assert_eq!(page, json!(past[1..3]));
    }

    #[tokio::test]
    async fn what_its_events_have_made_of_something_is_what_is_shown_of_it() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let project = project(&bed, &ada, "ATLAS").await;
        let document = document(&bed, &bob, &project, "a.txt", "one").await;
        done(&bed, &ada, "projectMemberAdd", json!({ "id": project, "memberId": bob.member })).await;
        done(&bed, &ada, "roleCreate", json!({ "name": "auditor", "permissions": ["events:view"] })).await;
        done(&bed, &ada, "memberUpdate", json!({ "id": bob.member, "roles": ["member"] })).await;
        let roles = bed.ask(Some(&ada.access), "{ roles { id name } }", json!({})).await["data"]["roles"].take();
        let role = roles.as_array().unwrap().iter().find(|role| role["name"] == "auditor").unwrap()["id"].clone();
        for (of, id) in [
            ("Organization", json!(ada.organization)),
            ("Project", json!(project)),
            ("Document", json!(document)),
            ("Member", json!(bob.member)),
            ("Role", role.clone()),
        ] {
            let said = bed.ask(Some(&ada.access), STATE, json!({ "id": id })).await["data"]["stateAt"]["state"].take();
            let fields: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
            assert!(fields.len() > 3, "{of}: {said}");
            let query = format!("query($id: ID!) {{ node(id: $id) {{ ... on {of} {{ {} }} }} }}", fields.join(" "));
            let shown = bed.ask(Some(&ada.access), &query, json!({ "id": id })).await;
            assert_eq!(shown["data"]["node"], said, "{of}: what others add up to stands in ADDED_UP: {shown}");
        }
        // Of what is gone there is a past, and no state.
        done(&bed, &ada, "roleDelete", json!({ "id": role })).await;
        let past = history(&bed, &ada, json!({ "id": role })).await;
        let last = past.as_array().unwrap().last().unwrap();
        assert_eq!((&last["event"]["type"], &last["state"]), (&json!("role_deleted"), &Value::Null), "{last}");
        let name = last["changes"].as_array().unwrap().iter().find(|change| change["field"] == "name").unwrap();
        assert_eq!((&name["before"], &name["after"]), (&json!("auditor"), &Value::Null));
    }

    #[tokio::test]
    async fn it_is_for_who_may_see_events_and_of_their_organization() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let mia = bed.join(&ada, "mia@example.org", &["member"]).await;
        let other = bed.register("Looms", "cleo@example.org").await;
        let id = project(&bed, &ada, "ATLAS").await;
        assert_eq!(Bed::code(&bed.ask(Some(&mia.access), STATE, json!({ "id": id })).await), "FORBIDDEN");
        for stranger in [json!(id), json!(ada.member), json!(ada.organization), json!(other.user), json!("nothing")] {
            let seen = bed.ask(Some(&other.access), STATE, json!({ "id": stranger })).await;
            assert_eq!(seen, json!({ "data": { "stateAt": null }, "extensions": seen["extensions"] }), "{stranger}");
            assert_eq!(history(&bed, &other, json!({ "id": stranger })).await, Value::Null);
        }
    }

    #[tokio::test]
    async fn of_who_was_forgotten_nothing_is_said() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let project = project(&bed, &ada, "ATLAS").await;
        let document = document(&bed, &bob, &project, "letter-of-bob.txt", "one").await;
        let said = history(&bed, &ada, json!({ "id": document })).await.to_string();
        assert!(said.contains("letter-of-bob.txt"), "{said}");
        let erase = json!({ "password": crate::testing::PASSWORD });
        done(&bed, &bob, "userErase", erase).await;
        let said = history(&bed, &ada, json!({ "id": document })).await;
        assert!(!said.to_string().contains("letter-of-bob.txt"), "{said}");
        assert!(!said.as_array().unwrap().is_empty());
    }
}
