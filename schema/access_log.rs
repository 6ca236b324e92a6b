//! The access log: who has read what is sensitive.
//!
//! What is sensitive is declared here, field by field, and a guard walks the schema: a new field whose name speaks of
//! something sensitive is declared, or it is said why it is not. An operation that names such a field is noted when it is
//! answered, from the cache too. Noting keeps nobody waiting: notes go through a bounded queue into batches; what does not
//! fit is counted (`oriel_access_log_lost_total`) and lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{Context, Value, Variables};
use oriel_engine::Engine;
use oriel_engine::read::{Connection, PageArgs, Tags};
use oriel_kernel::{Actor, ErrorCode, Grant, MemberId, RawId, Rejection, Timestamp, Viewer, operations};
use oriel_read_models::access_log::{self, AccessKind, Column, Model as AccessRecord, Reading, in_order};
use sea_orm::ColumnTrait;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::access::reader;
use crate::security_events::Readings;
use crate::types::type_of;

/// What is sensitive: the type, its field, and what kind of reading it is.
pub(crate) const SENSITIVE: &[(&str, &str, AccessKind)] = &[
    ("DataExport", "downloadUrl", AccessKind::Export),
    ("Document", "downloadUrl", AccessKind::Download),
    ("Document", "text", AccessKind::Content),
    ("Event", "data", AccessKind::Audit),
    ("Event", "record", AccessKind::Audit),
    ("FieldChange", "after", AccessKind::Audit),
    ("FieldChange", "before", AccessKind::Audit),
    ("Identity", "email", AccessKind::Person),
    ("OrganizationOwner", "email", AccessKind::Person),
    ("SecurityEvent", "sourceAddress", AccessKind::Person),
    ("PastState", "state", AccessKind::Audit),
    ("User", "email", AccessKind::Person),
];

/// Notes that wait at most.
const WAITING: usize = 10_000;
/// Notes of one batch at most.
const BATCH: usize = 500;
/// How long a note waits for others.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// Ids of one note at most.
const IDS: usize = 20;

/// What can be asked about the access log.
#[derive(Default)]
pub struct AccessLogQuery;

#[operations(query)]
impl AccessLogQuery {
    /// Who has read what is sensitive in your organization, the oldest first: ask for the `last` ones for the newest.
    /// What is sensitive are addresses of files and their texts, what is said about people, what happened in detail, and
    /// data exports. `organization.retention` says for how long it is kept. A reading is listed within a second. Each follows on the one before
    /// it in a hash chain, which `auditVerify { readings }` checks.
    #[permission("events:view")]
    #[allow(clippy::too_many_arguments)]
    async fn access_log(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only readings of this kind.")] kind: Option<AccessKind>,
        #[graphql(desc = "Only what this member has read.")] member_id: Option<MemberId>,
        #[graphql(desc = "Only what was read at this moment or later.")] since: Option<Timestamp>,
        #[graphql(desc = "Only what was read before this moment.")] until: Option<Timestamp>,
    ) -> crate::access::Result<Connection<AccessRecord>> {
        if granted.grant() == Grant::Own {
            let message = "The access log is of the whole organization: this needs the permission without `:own`.";
            return Err(Rejection::new(ErrorCode::Forbidden, message).into());
        }
        let reader = reader(cx)?;
        // Reading is no event: nothing says that there is more.
        reader.recorder().volatile();
        let mut all = AccessRecord::in_org(reader.organization());
        if let Some(kind) = kind {
            all = all.and(Column::Kind.eq(kind));
        }
        if let Some(member) = member_id {
            let (kind, id) = Actor::Member(member).to_columns();
            all = all.and(Column::ActorId.eq(id)).and(Column::ActorKind.eq(kind));
        }
        if let Some(since) = since {
            all = all.and(Column::At.gte(since));
        }
        if let Some(until) = until {
            all = all.and(Column::At.lt(until));
        }
        Ok(reader.page(all, PageArgs::new(first, after, last, before), None, Some(in_order()))?)
    }
}

// --- what an operation reads -----------------------------------------------------------------------------------------

/// What is sensitive in a document: the kinds of the fields that it names, wherever they stand. Where the contract does
/// not say what something is, it may be anything.
pub(crate) fn named(document: &ExecutableDocument) -> BTreeSet<AccessKind> {
    let mut kinds = BTreeSet::new();
    for (_, operation) in document.operations.iter() {
        let root = match operation.node.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        named_in(&operation.node.selection_set.node, Some(root), &mut kinds);
    }
    for fragment in document.fragments.values() {
        named_in(&fragment.node.selection_set.node, Some(&fragment.node.type_condition.node.on.node), &mut kinds);
    }
    kinds
}

/// `on`: the type of what stands here.
fn named_in(set: &SelectionSet, on: Option<&str>, kinds: &mut BTreeSet<AccessKind>) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                let name = field.node.name.node.as_str();
                let meant = |of: &str, field: &str| field == name && on.is_none_or(|on| on == of);
                kinds.extend(SENSITIVE.iter().filter(|(of, field, _)| meant(of, field)).map(|(_, _, kind)| *kind));
                named_in(&field.node.selection_set.node, on.and_then(|on| type_of(on, name)), kinds);
            }
            Selection::InlineFragment(fragment) => {
                let condition = fragment.node.type_condition.as_ref();
                let on = condition.map(|condition| condition.node.on.node.as_str()).or(on);
                named_in(&fragment.node.selection_set.node, on, kinds);
            }
            Selection::FragmentSpread(_) => {}
        }
    }
}

fn ids(variables: &Variables) -> Tags {
    fn within(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::String(text) if found.len() < IDS && RawId::parse(text).is_some() => found.push(text.clone()),
            Value::List(list) => list.iter().for_each(|value| within(value, found)),
            Value::Object(fields) => fields.values().for_each(|value| within(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    variables.values().for_each(|value| within(value, &mut found));
    Tags(found)
}

/// That an operation reads something sensitive.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    kinds: Vec<AccessKind>,
    operation: Option<String>,
    ids: Tags,
}

impl Note {
    /// Of an operation that names these; nothing when it names none.
    pub(crate) fn new(kinds: &BTreeSet<AccessKind>, operation: Option<&str>, variables: &Variables) -> Option<Self> {
        let operation = operation.map(|name| name.chars().take(100).collect());
        (!kinds.is_empty()).then(|| Self { kinds: kinds.iter().copied().collect(), operation, ids: ids(variables) })
    }
}

// --- writing it down -------------------------------------------------------------------------------------------------

enum Message {
    Row(Reading),
    /// Answered when everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// Takes notes, and writes them down in batches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    engine: Arc<Engine>,
    readings: Arc<Readings>,
    queue: mpsc::Sender<Message>,
}

impl AccessLog {
    /// Begins to write. What was kept for long enough goes elsewhere (`reactors/retention.rs`).
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (queue, notes) = mpsc::channel(WAITING);
        tokio::spawn(written(Arc::clone(&engine), notes));
        Self { engine, readings: Arc::default(), queue }
    }

    /// Takes note that this viewer was answered.
    pub(crate) fn note(&self, viewer: &Viewer, note: &Note) {
        for kind in &note.kinds {
            let row = Reading {
                id: self.engine.new_id::<()>().uuid(),
                organization: viewer.organization,
                at: self.engine.now(),
                kind: *kind,
                actor: viewer.actor(),
                operation: note.operation.clone(),
                ids: note.ids.clone(),
            };
            if self.queue.try_send(Message::Row(row)).is_err() {
                metrics::counter!("oriel_access_log_lost_total").increment(1);
            }
        }
        self.readings.count(&self.engine, viewer, &note.kinds);
    }

    /// Waits until everything that was noted is written.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // It ends with the runtime.
            let _ = written.await;
        }
    }
}

async fn written(engine: Arc<Engine>, mut notes: mpsc::Receiver<Message>) {
    while let Some(first) = notes.recv().await {
        let (mut rows, mut waiting) = (Vec::new(), Vec::new());
        let mut take = |message| match message {
            Message::Row(row) => {
                rows.push(row);
                rows.len() < BATCH
            }
            Message::Flush(done) => {
                waiting.push(done);
                false
            }
        };
        let mut more = take(first);
        let until = Instant::now() + GATHERED_FOR;
        while more {
            match tokio::time::timeout_at(until, notes.recv()).await {
                Ok(Some(message)) => more = take(message),
                Ok(None) | Err(_) => more = false,
            }
        }
        let writer = engine.database().writer();
        let count = rows.len() as u64;
        if count > 0
            && let Err(error) = access_log::add(writer, rows).await
        {
            metrics::counter!("oriel_access_log_lost_total").increment(count);
            tracing::error!(%error, count, "readings of sensitive data could not be written down");
        }
        for done in waiting {
            // Whoever waited may have gone.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};
    use async_graphql::parser::{parse_query, parse_schema};
    use data_encoding::{BASE64, HEXLOWER};
    use oriel_engine::chain::link;
    use sea_orm::ConnectionTrait;
    use serde_json::{Value, json};

    use super::*;
    use crate::documents::tests::{document, project};
    use crate::testing::{Bed, Person};

    /// Names that speak of something sensitive.
    const SPEAKING: [&str; 10] =
        ["url", "email", "ip", "useragent", "record", "data", "text", "secret", "token", "address"];

    /// Fields that are named so, and why they are not noted.
    const HARMLESS: &[(&str, &str, &str)] = &[
        ("AccessRecord", "record", "of what the log lists"),
        ("ApiKeyCreatePayload", "secret", "given to whoever made it"),
        ("ApiKeyRotatePayload", "secret", "given to whoever made it"),
        ("DocumentUploadBeginPayload", "url", "to upload to"),
        ("IdentityProvider", "callbackUrl", "of this server"),
        ("IdentityProvider", "hasClientSecret", "whether there is one"),
        ("IdentityProvider", "trustsEmail", "what is believed"),
        ("InstallationChange", "data", "settings, which hold for everybody"),
        ("MemberPayload", "invitationToken", "given to whoever invites"),
        ("PasskeyBeginPayload", "challengeToken", "one's own alone"),
        ("Policy", "text", "for everybody"),
        ("ProviderLoginBeginPayload", "authorizationUrl", "where one signs in"),
        ("ProviderLoginBeginPayload", "loginToken", "one's own alone"),
        ("Session", "ip", "one's own alone"),
        ("Session", "userAgent", "one's own alone"),
        ("SessionPayload", "accessToken", "one's own alone"),
        ("SessionPayload", "mfaToken", "one's own alone"),
        ("SessionPayload", "refreshToken", "one's own alone"),
        ("Suggestion", "text", "words, not documents"),
        ("TotpBeginPayload", "secret", "one's own alone"),
        ("TotpBeginPayload", "url", "one's own alone"),
        ("UserError", "text", "said to whoever asks"),
    ];

    #[test]
    fn every_field_whose_name_speaks_of_something_sensitive_is_declared() {
        let schema = parse_schema(crate::sdl()).unwrap();
        let (mut lacking, mut declared) = (Vec::new(), 0);
        for definition in &schema.definitions {
            let TypeSystemDefinition::Type(declared_type) = definition else { continue };
            let TypeKind::Object(object) = &declared_type.node.kind else { continue };
            let type_name = declared_type.node.name.node.as_str();
            for field in &object.fields {
                let name = field.node.name.node.as_str();
                let words = words(name);
                let speaks = SPEAKING.iter().any(|word| words.iter().any(|said| said == word));
                let is_declared = SENSITIVE.iter().any(|(on, field, _)| (*on, *field) == (type_name, name));
                let is_harmless = HARMLESS.iter().any(|(on, field, _)| (*on, *field) == (type_name, name));
                declared += usize::from(is_declared);
                if speaks && !is_declared && !is_harmless && !["Query", "Mutation"].contains(&type_name) {
                    lacking.push(format!("{type_name}.{name}"));
                }
            }
        }
        assert!(lacking.is_empty(), "declare it in SENSITIVE, or say in HARMLESS why not: {lacking:?}");
        assert_eq!(declared, SENSITIVE.len(), "what is declared is there");
    }

    /// The last word of a name, and the last two as one: what it is, not what is said of it.
    fn words(name: &str) -> [String; 2] {
        let mut words = [String::new(), String::new()];
        for c in name.chars() {
            if c.is_uppercase() {
                words = [String::new(), std::mem::take(&mut words[0])];
            }
            words[0].extend(c.to_lowercase());
        }
        [words[0].clone(), format!("{}{}", words[1], words[0])]
    }

    #[test]
    fn what_is_named_is_found_wherever_it_stands() {
        let kinds = |text: &str| named(&parse_query(text).unwrap()).into_iter().collect::<Vec<_>>();
        assert_eq!(kinds("{ projects { nodes { name } } }"), []);
        assert_eq!(kinds("{ a: members { nodes { user { e: email } } } }"), [AccessKind::Person]);
        let spread = "{ documents { nodes { ...F ... on Document { text } } } } fragment F on Document { downloadUrl }";
        assert_eq!(kinds(spread), [AccessKind::Download, AccessKind::Content]);
        assert_eq!(kinds("{ dataExports { nodes { downloadUrl } } }"), [AccessKind::Export]);
        assert_eq!(kinds("{ node(id: \"x\") { ... on DataExport { downloadUrl } } }"), [AccessKind::Export]);
        let of_type = "{ accessLog { nodes { record } } viewer { ... { user { ...F } } } } fragment F on User { id }";
        assert_eq!(kinds(of_type), [], "of another type it is something else");
        let live = "subscription { live { document(id: \"x\") { project { documents { nodes { text } } } } } }";
        assert_eq!(kinds(live), [AccessKind::Content]);
        let made = "mutation { dataExportRequest(input: {}) { dataExport { downloadUrl } } }";
        assert_eq!(kinds(made), [AccessKind::Export]);
        assert_eq!(kinds("{ nothingLikeThis { text downloadUrl } }").len(), 3, "what is unknown may be anything");
    }

    #[tokio::test]
    async fn readings_are_listed_from_the_cache_too() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let other = bed.register("Looms", "cleo@example.org").await;
        let project = project(&bed, &ada, "ATLAS").await;
        let doc = document(&bed, &ada, &project, "a.txt", "one").await;
        bed.endpoint.access_log().flush().await;
        let log = "{ accessLog(last: 100) { nodes { kind operation ids actor { ... on Member { id } } } totalCount } }";
        let counted = async |token: &str| {
            bed.endpoint.access_log().flush().await;
            bed.ask(Some(token), log, json!({})).await["data"]["accessLog"].clone()
        };
        let before = counted(&ada.access).await["totalCount"].as_i64().unwrap();
        let people = "query People { members { nodes { user { email } } } }";
        for _ in 0..3 {
            bed.ask(Some(&bob.access), people, json!({})).await;
        }
        bed.ask(Some(&bob.access), "{ projects { nodes { name } } }", json!({})).await;
        let download = "query Download($id: DocumentId!) { document(id: $id) { downloadUrl } }";
        bed.ask(Some(&bob.access), &download.replace("DocumentId!", "ID!"), json!({ "id": doc })).await;
        let seen = counted(&ada.access).await;
        assert_eq!(seen["totalCount"], before + 4, "{seen}");
        let nodes = seen["nodes"].as_array().unwrap();
        let last = nodes.last().unwrap();
        assert_eq!(
            (&last["kind"], &last["ids"], &last["actor"]["id"]),
            (&json!("DOWNLOAD"), &json!([doc]), &json!(bob.member))
        );
        assert_eq!(
            (&nodes[nodes.len() - 2]["kind"], &nodes[nodes.len() - 2]["operation"]),
            (&json!("PERSON"), &json!("People"))
        );
        let narrow = "query($m: ID!) { accessLog(memberId: $m, kind: DOWNLOAD, first: 5) { totalCount } }";
        let found = bed.ask(Some(&ada.access), narrow, json!({ "m": bob.member })).await;
        assert_eq!(found["data"]["accessLog"]["totalCount"], 1, "{found}");
        // Nobody else's, and not for everybody.
        let theirs = counted(&other.access).await;
        assert!(!theirs.to_string().contains("People"), "{theirs}");
        let cleo = bed.join(&ada, "dora@example.org", &["member"]).await;
        let denied = bed.ask(Some(&cleo.access), log, json!({})).await;
        assert_eq!(Bed::code(&denied), "FORBIDDEN");
    }

    const VERIFY: &str = "{ auditVerify { whole readings { whole readings removed hash brokenAt } } }";

    async fn verified(bed: &Bed, token: &str) -> Value {
        bed.ask(Some(token), VERIFY, json!({})).await["data"]["auditVerify"]["readings"].clone()
    }

    async fn execute(bed: &Bed, sql: &str) {
        bed.endpoint.services().engine.database().writer().execute_unprepared(sql).await.unwrap();
    }

    /// Two organizations, in one of which somebody has read this often.
    async fn read_often(count: usize) -> (Bed, Person, Person) {
        let bed = Bed::new().await;
        let (ada, cleo) =
            (bed.register("Engines", "ada@example.org").await, bed.register("Looms", "cleo@example.org").await);
        for _ in 0..count {
            bed.ask(Some(&ada.access), "query P { viewer { user { email } } }", json!({})).await;
            bed.ask(Some(&cleo.access), "query P { viewer { user { email } } }", json!({})).await;
        }
        bed.endpoint.access_log().flush().await;
        (bed, ada, cleo)
    }

    #[tokio::test]
    async fn whoever_changes_removes_inserts_or_moves_a_reading_is_found_out() {
        let (bed, ada, cleo) = read_often(6).await;
        let whole = verified(&bed, &ada.access).await;
        let count = whole["readings"].as_i64().unwrap();
        assert!(count >= 6, "{whole}");
        assert_eq!(
            whole,
            json!({ "whole": true, "readings": count, "removed": 0, "hash": whole["hash"], "brokenAt": null })
        );
        let organization = RawId::parse(&ada.organization).unwrap().uuid.simple().to_string();
        let of_ada = format!("lower(hex(organization_id)) = '{organization}'");
        execute(&bed, "CREATE TABLE kept AS SELECT * FROM access_log").await;
        execute(&bed, "CREATE TABLE kept_heads AS SELECT * FROM access_log_heads").await;
        let others =
            "id, organization_id, at, kind, actor_kind, actor_id, operation, ids, removed_through, removed_hash, hash";
        let last = count;
        for (sql, broken_at) in [
            // Changed.
            (format!("UPDATE access_log SET operation = 'Q' WHERE sequence = 3 AND {of_ada}"), 3),
            (format!("UPDATE access_log SET kind = 'nothing' WHERE sequence = 3 AND {of_ada}"), 3),
            (format!("UPDATE access_log SET actor_id = randomblob(16) WHERE sequence = 1 AND {of_ada}"), 1),
            (
                format!("UPDATE access_log SET at = '2020-01-01T00:00:00+00:00' WHERE sequence = {last} AND {of_ada}"),
                last,
            ),
            // Removed: in the middle, at the end, at the beginning, all of them.
            (format!("DELETE FROM access_log WHERE sequence = 4 AND {of_ada}"), 4),
            (format!("DELETE FROM access_log WHERE sequence = {last} AND {of_ada}"), last),
            (format!("DELETE FROM access_log WHERE sequence = 1 AND {of_ada}"), 1),
            (format!("DELETE FROM access_log WHERE {of_ada}"), 1),
            // Removed with an anchor that nothing in the chain speaks of.
            (
                format!(
                    "UPDATE access_log_heads SET removed_through = 2, removed_hash = (SELECT hash FROM access_log \
                     WHERE sequence = 2 AND {of_ada}) WHERE {of_ada}; \
                     DELETE FROM access_log WHERE sequence < 3 AND {of_ada}"
                ),
                3,
            ),
            // Inserted: in between, at the end, before the beginning.
            (
                format!(
                    "UPDATE access_log SET sequence = sequence + 1 WHERE sequence >= 4 AND {of_ada}; \
                     INSERT INTO access_log ({others}, sequence) SELECT {}, 4 FROM access_log \
                     WHERE sequence = 2 AND {of_ada}",
                    others.replacen("id", "randomblob(16)", 1)
                ),
                4,
            ),
            (
                format!(
                    "INSERT INTO access_log ({others}, sequence) SELECT {}, {last} + 1 FROM access_log \
                     WHERE sequence = 2 AND {of_ada}",
                    others.replacen("id", "randomblob(16)", 1)
                ),
                last + 1,
            ),
            (
                format!(
                    "INSERT INTO access_log ({others}, sequence) SELECT {}, 0 FROM access_log \
                     WHERE sequence = 2 AND {of_ada}",
                    others.replacen("id", "randomblob(16)", 1)
                ),
                1,
            ),
            // Moved.
            (format!("UPDATE access_log SET sequence = 5 - sequence WHERE sequence IN (2, 3) AND {of_ada}"), 2),
        ] {
            execute(&bed, &sql).await;
            let found = verified(&bed, &ada.access).await;
            assert_eq!((&found["whole"], &found["brokenAt"]), (&json!(false), &json!(broken_at)), "{sql}: {found}");
            assert_eq!(verified(&bed, &cleo.access).await["whole"], true, "that of another organization is its own");
            execute(
                &bed,
                "DELETE FROM access_log; INSERT INTO access_log SELECT * FROM kept; \
                 DELETE FROM access_log_heads; INSERT INTO access_log_heads SELECT * FROM kept_heads",
            )
            .await;
        }
        assert_eq!(verified(&bed, &ada.access).await, whole);
    }

    #[tokio::test]
    async fn what_is_left_after_the_oldest_went_is_whole_and_says_what_went() {
        let (bed, ada, _) = read_often(4).await;
        let before = verified(&bed, &ada.access).await;
        bed.clock.advance(Duration::from_secs(399 * 24 * 3600));
        let login = json!({ "email": "ada@example.org", "password": crate::testing::PASSWORD });
        let ada = Person::of(&bed.mutate(None, "login", login, crate::testing::SIGNED_IN).await);
        for _ in 0..3 {
            bed.ask(Some(&ada.access), "query P { viewer { user { email } } }", json!({})).await;
        }
        bed.endpoint.access_log().flush().await;
        let engine = &bed.endpoint.services().engine;
        let organization = oriel_kernel::Id::from_uuid(RawId::parse(&ada.organization).unwrap().uuid);
        let (before_this, removal) =
            (engine.now() - Duration::from_secs(24 * 3600), (engine.new_id::<()>().uuid(), engine.now()));
        let gone =
            access_log::remove_before(engine.database().writer(), organization, before_this, removal).await.unwrap();
        assert_eq!(json!(gone), before["readings"]);
        let after = verified(&bed, &ada.access).await;
        assert_eq!((&after["whole"], &after["removed"]), (&json!(true), &before["readings"]), "{after}");
        let log = "{ accessLog(first: 100) { nodes { sequence kind hash record removed { through hash } } } }";
        let log = bed.ask(Some(&ada.access), log, json!({})).await["data"]["accessLog"]["nodes"].clone();
        let rows = log.as_array().unwrap();
        let removal = rows.iter().find(|row| row["kind"] == "REMOVAL").unwrap();
        assert_eq!(removal["removed"], json!({ "through": before["readings"], "hash": before["hash"] }));
        assert_eq!(rows[0]["sequence"], json!(before["readings"].as_i64().unwrap() + 1));
        let mut hash = HEXLOWER.decode(before["hash"].as_str().unwrap().as_bytes()).unwrap();
        for row in rows {
            hash = link(&hash, &BASE64.decode(row["record"].as_str().unwrap().as_bytes()).unwrap());
            assert_eq!(row["hash"], HEXLOWER.encode(&hash), "anybody can follow it");
        }
        // The removal cannot be taken back, and not said to be another.
        execute(&bed, "UPDATE access_log_heads SET removed_through = 0, removed_hash = x''").await;
        assert_eq!(verified(&bed, &ada.access).await["whole"], false);
    }
}
