//! Retention: for how long an organisation keeps what may be removed, and what that comes to.
//!
//! Invariants: what is reported is counted when it is asked for, and never kept. Nothing is removed here: that is done
//! now and then (`reactors/retention.rs`).

use async_graphql::{Context, InputObject, SimpleObject};
use oriel_domain::retention::{ChangeRetention, RetentionKind as Kind, retention_id};
use oriel_engine::read::ReadError;
use oriel_kernel::{Timestamp, operations};
use oriel_read_models::retention::{self, RetentionKind, RetentionSetting, sweeps};
use sea_orm::DbErr;

use crate::access::{after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about retention.
#[derive(Default)]
pub struct RetentionQuery;

/// What can be done about it.
#[derive(Default)]
pub struct RetentionMutation;

payloads! {
    /// What became of a change of how long something is kept.
    RetentionPayload {
        /// For how long everything is kept now.
        retention: Vec<RetentionSetting>,
    }
}

/// What your organization has of what may be removed, and what was removed.
#[derive(SimpleObject)]
pub struct RetentionReport {
    /// When the installation last looked for what was kept for long enough; null when it has not yet.
    swept_at: Option<Timestamp>,
    /// Kind by kind.
    kinds: Vec<RetentionKindReport>,
}

/// What your organization has of one kind.
#[derive(SimpleObject)]
pub struct RetentionKindReport {
    /// Of which kind.
    kind: RetentionKind,
    /// For how many days it is kept; null: until somebody removes it.
    days: Option<i32>,
    /// How many there are: sessions that are over, invitations that nobody has accepted, readings, documents in the trash.
    count: i64,
    /// Since when the oldest is counted; null when there is none.
    oldest: Option<Timestamp>,
    /// How many were kept for long enough: they go next time.
    due: i64,
    /// When some were last removed; null when none ever were.
    removed_at: Option<Timestamp>,
    /// How many were removed then.
    removed: i64,
    /// How many were removed ever.
    removed_in_all: i64,
}

#[operations(query)]
impl RetentionQuery {
    /// What your organization has of what may be removed, kind by kind: how many, the oldest, what is due; and what was
    /// removed. It is counted when you ask, and not followed live.
    #[permission("organization:edit")]
    async fn retention_report(&self, cx: &Context<'_>) -> crate::access::Result<Option<RetentionReport>> {
        let reader = reader(cx)?;
        // Time alone makes something due.
        reader.recorder().volatile();
        let services = Services::of(cx)?;
        let settings = retention::settings(&reader, &services.policy.retention).await?;
        let connection = services.engine.database().reader();
        let (organization, now) = (reader.organization(), services.engine.now());
        let report = async {
            let mut kinds = Vec::new();
            for setting in settings {
                let kind = Kind::from(setting.kind);
                let of = (organization, kind);
                let before = setting.days.map(|days| kind.due_before(now, days));
                let holding = retention::holding(connection, of, now, before).await?;
                let swept = sweeps::of(connection, of).await?;
                kinds.push(RetentionKindReport {
                    kind: setting.kind,
                    days: setting.days,
                    count: holding.count,
                    oldest: holding.oldest,
                    due: holding.due,
                    removed_at: swept.as_ref().and_then(|swept| swept.swept_at),
                    removed: swept.as_ref().map_or(0, |swept| swept.removed),
                    removed_in_all: swept.map_or(0, |swept| swept.removed_in_all),
                });
            }
            Ok::<_, DbErr>(RetentionReport { swept_at: sweeps::last(connection).await?, kinds })
        };
        Ok(Some(report.await.map_err(ReadError::from)?))
    }
}

#[operations(mutation)]
impl RetentionMutation {
    /// Says for how long your organization keeps what may be removed, of one kind. What was kept for long enough by that
    /// goes before long, for good. `organization.retention` tells what applies, and what was said before.
    #[permission("organization:manage")]
    async fn retention_update(
        &self,
        cx: &Context<'_>,
        input: RetentionUpdateInput,
    ) -> crate::access::Result<RetentionPayload> {
        let context = granted.command(cx, &input)?;
        let services = Services::of(cx)?;
        let rule = services.policy.retention.of(input.kind.into())?;
        let id = retention_id(context.organization, rule.kind);
        let done = services.engine.execute(&context, id, ChangeRetention { rule, days: input.days }).await?;
        after_write::<retention::Model>(cx, done.subject).await?;
        let retention = Some(retention::settings(&reader(cx)?, &services.policy.retention).await?);
        Ok(RetentionPayload { retention, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// How long things of a kind are kept.
#[derive(InputObject)]
struct RetentionUpdateInput {
    /// Of which kind.
    kind: RetentionKind,
    /// For how many days; left out or null: for as long as the installation says.
    days: Option<i32>,
    /// Refuse the change unless this is the version now; 0 when nothing was ever said.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use oriel_domain::retention::Rules;
    use serde_json::{Value, json};

    use crate::documents::tests::{document, project};
    use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

    const UPDATED: &str = "retention { kind days isDefault version } userErrors { code path message }";
    const REPORT: &str =
        "{ retentionReport { sweptAt kinds { kind days count oldest due removedAt removed removedInAll } } }";

    fn of<'a>(list: &'a Value, kind: &str) -> &'a Value {
        list.as_array().unwrap().iter().find(|entry| entry["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {list}"))
    }

    #[tokio::test]
    async fn an_organization_says_for_how_long_within_what_the_installation_allows() {
        let bed = Bed::with(|policy| policy.retention = Rules::default().within(7, 365)).await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let other = bed.register("Looms", "cleo@example.org").await;
        let update = async |input: Value| bed.mutate(Some(&ada.access), "retentionUpdate", input, UPDATED).await;

        let all =
            "{ organization { retention { kind days isDefault defaultDays leastDays mostDays changedAt version } } }";
        let seen = bed.ask(Some(&bob.access), all, json!({})).await["data"]["organization"]["retention"].clone();
        let sessions = json!({ "kind": "SESSIONS", "days": 90, "isDefault": true, "defaultDays": 90, "leastDays": 7,
                               "mostDays": 365, "changedAt": null, "version": 0 });
        assert_eq!(of(&seen, "SESSIONS"), &sessions);
        assert_eq!((seen.as_array().unwrap().len(), &of(&seen, "TRASH")["days"]), (4, &Value::Null));

        let done = update(json!({ "kind": "SESSIONS", "days": 30 })).await;
        let changed = json!({ "kind": "SESSIONS", "days": 30, "isDefault": false, "version": 1 });
        assert_eq!((of(&done["retention"], "SESSIONS"), &done["userErrors"]), (&changed, &json!([])));
        for days in [6, 366, -1] {
            let refused = update(json!({ "kind": "SESSIONS", "days": days })).await;
            assert_eq!(Bed::problems(&refused), ["INVALID input.days"]);
        }
        let stale = update(json!({ "kind": "SESSIONS", "days": 60, "expectedVersion": 0 })).await;
        assert_eq!(Bed::problems(&stale), ["CONFLICT input.expectedVersion"]);
        update(json!({ "kind": "SESSIONS", "days": 60, "expectedVersion": 1 })).await;
        let back = update(json!({ "kind": "SESSIONS", "days": null })).await;
        assert_eq!(of(&back["retention"], "SESSIONS")["days"], 90);

        // By whom, and what it was before.
        let history = "{ organization { retention { kind changedAt changedBy { ... on Member { id } }
            history(first: 5) { nodes { type actor { ... on Member { id } } } } } } }";
        let told = bed.ask(Some(&ada.access), history, json!({})).await["data"]["organization"]["retention"].clone();
        let told = of(&told, "SESSIONS");
        assert_eq!(told["changedBy"]["id"], ada.member);
        let once = json!({ "type": "retention_changed", "actor": { "id": ada.member } });
        assert_eq!(told["history"]["nodes"], json!([once, once, once]));

        // The owner's alone, and nobody else's.
        let input = json!({ "kind": "SESSIONS", "days": 30 });
        let refused = bed.mutate(Some(&bob.access), "retentionUpdate", input, UPDATED).await;
        assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
        update(json!({ "kind": "SESSIONS", "days": 30 })).await;
        let theirs = bed.ask(Some(&other.access), all, json!({})).await["data"]["organization"]["retention"].clone();
        assert_eq!(of(&theirs, "SESSIONS"), &sessions);
    }

    #[tokio::test]
    async fn the_report_counts_what_there_is_and_what_is_due() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let other = bed.register("Looms", "cleo@example.org").await;
        let report = async |token: &str| {
            let answer = bed.ask(Some(token), REPORT, json!({})).await;
            answer["data"]["retentionReport"].clone()
        };
        let none = report(&other.access).await;
        let nothing = json!({ "kind": "TRASH", "days": null, "count": 0, "oldest": null, "due": 0, "removedAt": null,
                              "removed": 0, "removedInAll": 0 });
        assert_eq!((of(&none["kinds"], "TRASH"), &none["sweptAt"]), (&nothing, &Value::Null));

        let project = project(&bed, &ada, "ATLAS").await;
        let doc = document(&bed, &ada, &project, "a.txt", "one").await;
        bed.mutate(Some(&ada.access), "documentDelete", json!({ "id": doc }), "userErrors { code }").await;
        let input = json!({ "email": "dora@example.org", "roles": ["member"] });
        bed.mutate(Some(&ada.access), "memberInvite", input, "userErrors { code }").await;
        let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
        bed.mutate(Some(&bob.access), "logout", json!({}), "userErrors { code }").await;
        bed.mutate(Some(&ada.access), "retentionUpdate", json!({ "kind": "TRASH", "days": 5 }), UPDATED).await;
        let counted = |report: &Value| {
            ["SESSIONS", "INVITATIONS", "TRASH"].map(|kind| {
                let of = of(&report["kinds"], kind);
                assert_eq!(of["oldest"].is_string(), of["count"] != 0, "{of}");
                (of["count"].as_i64().unwrap(), of["due"].as_i64().unwrap())
            })
        };
        assert_eq!(counted(&report(&ada.access).await), [(1, 0), (1, 0), (1, 0)]);
        bed.clock.advance(Duration::from_secs(10 * 24 * 3600));
        let again = async |email: &str| {
            let input = json!({ "email": email, "password": PASSWORD });
            Person::of(&bed.mutate(None, "login", input, SIGNED_IN).await)
        };
        let (ada, other) = (again("ada@example.org").await, again("cleo@example.org").await);
        assert_eq!(counted(&report(&ada.access).await), [(1, 0), (1, 0), (1, 1)], "by what each says");
        assert_eq!(counted(&report(&other.access).await), [(0, 0), (0, 0), (0, 0)]);
    }
}
