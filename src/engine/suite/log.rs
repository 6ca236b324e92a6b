//! One order, versions, idempotency, facts, poison, bounds.

use std::collections::HashMap;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use oriel_kernel::{ErrorCode, Position};

use super::things::{Count, Label, Make, Poison, Remove, Thing, ThingEvent, ThingId};
use super::*;
use crate::bus::Transaction;
use crate::chain::{Envelope, chain};
use crate::log::LogError;

fn code(result: Result<Committed, CommandError>) -> Option<ErrorCode> {
    match result {
        Err(CommandError::Rejected(error)) => Some(error.code),
        Ok(_) => None,
        Err(other) => panic!("not a rejection: {other}"),
    }
}

/// Positions, sequences and versions are contiguous, and the hash chain of every organisation holds.
async fn check_log(engine: &Engine) -> Vec<Arc<Recorded>> {
    assert_eq!(engine.log().verify().await.unwrap(), None, "the log breaks there");
    let events = whole_log(engine).await;
    let mut versions: HashMap<Uuid, i32> = HashMap::new();
    for event in &events {
        let version = versions.entry(event.subject).or_default();
        *version += 1;
        assert_eq!(event.version, *version);
    }
    events
}

on_both! {
    async fn one_order_under_64_clients(place) {
        let engine = place.engine().await;
        let clients = (0..64u128).map(|client| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                let organization = org(client % 5);
                let id = make(&engine, organization, &format!("thing {client}")).await;
                let mut seen = Position::START;
                for _ in 0..5 {
                    let committed = count(&engine, organization, id).await.unwrap();
                    assert!(committed.position > seen);
                    seen = committed.position;
                    assert!(engine.feed().head() >= seen, "answered before this node had applied it");
                }
                seen
            })
        });
        let last = join_all(clients).await.into_iter().map(Result::unwrap).max();
        let events = check_log(&engine).await;
        assert_eq!(events.len(), 64 * 6);
        assert_eq!(last, events.last().map(|event| event.position));
        let rows = rows(&engine).await;
        assert_eq!((rows.len(), rows.iter().map(|row| row.total).sum::<i64>()), (64, 64 * 5));
        assert!(rows.iter().all(|row| row.version == 6));
        // Every position stands in the changes once.
        let covered = number(&engine, "SELECT CAST(SUM(position - first_position + 1) AS BIGINT) FROM changes").await;
        assert_eq!(covered, 64 * 6);
        engine.stop().await;
    }

    async fn many_clients_on_one_thing(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "one").await;
        let counts = (0..64).map(|_| count(&engine, org(1), id));
        for result in join_all(counts).await {
            result.unwrap();
        }
        check_log(&engine).await;
        assert_eq!(rows(&engine).await[0].total, 64);
        assert_eq!(engine.state::<Thing>(id).await.unwrap().count, 64);
    }

    async fn an_expected_version_is_expected(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let expecting = |label: &str| {
            let context = CommandContext { expected_version: Some(1), ..context(&engine, org(1)) };
            let (engine, command) = (Arc::clone(&engine), Label(label.to_owned()));
            async move { engine.execute(&context, id, command).await }
        };
        let results = join_all([expecting("b"), expecting("c"), expecting("d")]).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        for result in results {
            if let Err(CommandError::Rejected(error)) = result {
                assert_eq!((error.code, error.current_version), (ErrorCode::Conflict, Some(2)));
            }
        }
        // Who may not see the thing is not told its version.
        let stranger = CommandContext { expected_version: Some(1), ..context(&engine, org(2)) };
        assert_eq!(code(engine.execute(&stranger, id, Remove).await), Some(ErrorCode::NotFound));
        assert_eq!(code(engine.execute(&context(&engine, org(2)), id, Remove).await), Some(ErrorCode::NotFound));
    }

    async fn a_retry_is_one_write(place) {
        let engine = place.engine().await;
        let (command, id): (CommandId, ThingId) = (engine.new_id(), engine.new_id());
        let make = Make { label: "a".to_owned(), owner: person(1), name: "Ada" };
        let send = |input| {
            let (engine, make) = (Arc::clone(&engine), make.clone());
            tokio::spawn(async move { engine.execute(&repeatable(&engine, org(1), command, input), id, make).await })
        };
        let answers = join_all((0..16).map(|_| send(1))).await;
        let answers: Vec<Committed> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
        assert!(answers.iter().all(|answer| (answer.position, answer.subject) == (Position::new(1), id.uuid())));
        assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
        count(&engine, org(1), id).await.unwrap();
        let again = send(1).await.unwrap().unwrap();
        assert_eq!((again.position, again.repeated), (Position::new(1), true));
        assert_eq!(code(send(2).await.unwrap()), Some(ErrorCode::IdempotencyMismatch));
        assert_eq!(check_log(&engine).await.len(), 2);
        // Another process knows it too.
        let other = place.engine().await;
        let answer = other.execute(&repeatable(&other, org(1), command, 1), id, make).await.unwrap();
        assert_eq!((answer.position, answer.repeated), (Position::new(1), true));
    }

    async fn facts_hold_between_aggregates(place) {
        let engine = place.engine().await;
        let makes = (0..8).map(|_| {
            let make = Make { label: "same".to_owned(), owner: person(1), name: "Ada" };
            let (context, id, engine) = (context(&engine, org(1)), engine.new_id(), Arc::clone(&engine));
            async move { (id, engine.execute(&context, id, make).await) }
        });
        let results = join_all(makes).await;
        let made: Vec<ThingId> = results.iter().filter(|(_, result)| result.is_ok()).map(|(id, _)| *id).collect();
        assert_eq!(made.len(), 1, "a label is unique");
        assert_eq!(results.into_iter().filter_map(|(_, result)| code(result)).collect::<Vec<_>>(), [ErrorCode::Taken; 7]);
        // Another organisation has labels of its own.
        make(&engine, org(2), "same").await;
        let first = made[0];

        let beside = |other| Count { by: 1, times: 1, beside: Some(other) };
        let second = make(&engine, org(1), "second").await;
        assert_eq!(code(engine.execute(&context(&engine, org(1)), second, beside(first)).await), None);
        // In one transaction: what one part releases, the next may claim; a required fact is gone then.
        let third: ThingId = engine.new_id();
        let swap = Transaction::new()
            .and(first, Remove)
            .and(third, Make { label: "same".to_owned(), owner: person(1), name: "Ada" });
        engine.transact(&context(&engine, org(1)), swap).await.unwrap();
        assert_eq!(code(engine.execute(&context(&engine, org(1)), second, beside(first)).await), Some(ErrorCode::NotFound));
        assert_eq!(code(engine.execute(&context(&engine, org(1)), second, Label("same".to_owned())).await), Some(ErrorCode::Taken));
        // Moved away from a label, it is free again; and an all-or-none transaction leaves nothing of its first part.
        engine.execute(&context(&engine, org(1)), third, Label("other".to_owned())).await.unwrap();
        let before = engine.log().head().await.unwrap().0;
        let torn = Transaction::new().and(third, Label("same".to_owned())).and(second, Label("other".to_owned())).and(
            engine.new_id(),
            Make { label: "second".to_owned(), owner: person(1), name: "Ada" },
        );
        // `other` is released by the first part and `second` by the second: all three fit.
        assert_eq!(code(engine.transact(&context(&engine, org(1)), torn).await), None);
        let torn = Transaction::new().and(third, Count::once()).and(second, Label("same".to_owned()));
        assert_eq!(code(engine.transact(&context(&engine, org(1)), torn).await), Some(ErrorCode::Taken));
        assert_eq!(engine.log().head().await.unwrap().0.number(), before.number() + 3);
        check_log(&engine).await;
    }

    async fn a_claim_and_a_release_in_one_batch(place) {
        // One command releases the label, the others race for it: whoever gets it, the table agrees with the events.
        let engine = place.engine().await;
        let holder = make(&engine, org(1), "wanted").await;
        let others = [make(&engine, org(1), "b").await, make(&engine, org(1), "c").await];
        let mut race = vec![(holder, "free".to_owned())];
        race.extend(others.map(|id| (id, "wanted".to_owned())));
        let race = race.into_iter().map(|(id, label)| {
            let (context, engine) = (context(&engine, org(1)), Arc::clone(&engine));
            async move { engine.execute(&context, id, Label(label)).await }
        });
        join_all(race).await;
        let labels: Vec<String> = rows(&engine).await.into_iter().map(|row| row.label).collect();
        assert!(labels.iter().filter(|label| *label == "wanted").count() <= 1);
        let facts = engine.database().query("SELECT value FROM facts WHERE scope LIKE 'thing_label%' ORDER BY value", vec![]).await.unwrap();
        let mut facts: Vec<String> = facts.iter().map(|row| row.try_get("", "value").unwrap()).collect();
        let mut labels = labels;
        labels.sort();
        facts.sort();
        assert_eq!(facts, labels);
    }

    async fn a_poisoned_command_fails_alone(place) {
        let engine = place.engine().await;
        let mut things = Vec::new();
        for n in 0..24 {
            things.push(make(&engine, org(n % 3), &format!("{n}")).await);
        }
        let poisoned = make(&engine, org(0), "poisoned").await;
        let poison_context = context(&engine, org(0));
        let poison = engine.execute(&poison_context, poisoned, Poison);
        let counts = join_all(things.iter().enumerate().map(|(n, id)| count(&engine, org(n as u128 % 3), *id)));
        let (poison, counts) = tokio::join!(poison, counts);
        assert!(matches!(&poison, Err(CommandError::Internal(why)) if why.contains("panicked")), "{poison:?}");
        counts.into_iter().for_each(|result| assert!(result.is_ok(), "{result:?}"));
        assert_eq!(check_log(&engine).await.len(), 24 + 1 + 24);
        // The thing itself goes on.
        count(&engine, org(0), poisoned).await.unwrap();
    }

    async fn no_event_writes_nothing(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let before = engine.log().head().await.unwrap();
        let same = engine.execute(&repeatable(&engine, org(1), engine.new_id(), 1), id, Label("a".to_owned())).await.unwrap();
        assert!(same.events.is_empty() && !same.repeated);
        assert_eq!(same.position, before.0);
        assert_eq!(engine.log().head().await.unwrap(), before);
        assert_eq!(number(&engine, "SELECT CAST(COUNT(*) AS BIGINT) FROM commands").await, 1);
        assert_eq!(number(&engine, "SELECT CAST(COUNT(*) AS BIGINT) FROM changes").await, 1);
    }

    async fn too_much_is_refused_at_once(place) {
        let limits = QueueLimits { count: 4, batch_count: 1, age: Duration::from_secs(60), ..QueueLimits::default() };
        let engine = place.engine_with(limits).await;
        let mut things = Vec::new();
        for n in 0..20 {
            things.push(make(&engine, org(n % 2), &format!("{n}")).await);
        }
        let lock = engine.database().begin_ordered().await.unwrap();
        let mut answers: FuturesUnordered<_> =
            things.iter().enumerate().map(|(n, id)| count(&engine, org(n as u128 % 2), *id)).collect();
        // One at most is being written, four wait; the others hear of it while nothing moves.
        for _ in 0..15 {
            let answer = in_time(answers.next()).await.unwrap();
            assert!(matches!(answer, Err(CommandError::Overloaded)), "{answer:?}");
        }
        assert!(engine.queued_commands() <= 4 && !engine.has_room());
        lock.rollback().await.unwrap();
        let rest: Vec<_> = in_time(answers.collect()).await;
        let done = rest.iter().filter(|answer| answer.is_ok()).count();
        assert!((4..=5).contains(&done), "{rest:?}");
        assert!(engine.has_room());
        assert_eq!(check_log(&engine).await.len(), 20 + done);
    }

    async fn a_command_has_a_largest_size(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let many = |times| Count { by: 1, times, beside: None };
        assert_eq!(code(engine.execute(&context(&engine, org(1)), id, many(1_001)).await), Some(ErrorCode::LimitExceeded));
        engine.execute(&context(&engine, org(1)), id, many(1_000)).await.unwrap();
        assert_eq!(rows(&engine).await[0].total, 1_000);
        let long = Label("x".repeat(1 << 20));
        assert_eq!(code(engine.execute(&context(&engine, org(1)), id, long).await), Some(ErrorCode::LimitExceeded));
        check_log(&engine).await;
    }

    async fn stopping_writes_what_is_queued(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let counts: Vec<_> = (0..8).map(|_| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move { count(&engine, org(1), id).await })
        }).collect();
        engine.stop().await;
        let mut done = 0;
        for answer in counts {
            match in_time(answer).await.unwrap() {
                Ok(_) => done += 1,
                Err(error) => assert!(matches!(error, CommandError::Unavailable(_)), "{error}"),
            }
        }
        assert_eq!(check_log(&engine).await.len(), 1 + done);
    }

    async fn what_was_tampered_with_is_found(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        make(&engine, org(2), "b").await;
        for _ in 0..3 {
            count(&engine, org(1), id).await.unwrap();
        }
        assert_eq!(engine.log().verify().await.unwrap(), None);
        let change = |sql: &'static str| {
            let database = engine.database().clone();
            async move { database.writer().execute_unprepared(sql).await.unwrap() }
        };
        change("UPDATE events SET version = 7 WHERE position = 4").await;
        assert_eq!(engine.log().verify().await.unwrap(), Some(Position::new(4)));
        change("UPDATE events SET version = 3 WHERE position = 4").await;
        assert_eq!(engine.log().verify().await.unwrap(), None);
        change("DELETE FROM events WHERE position = 2").await;
        assert_eq!(engine.log().verify().await.unwrap(), Some(Position::new(2)));
    }

    async fn an_old_event_is_lifted(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let made = whole_log(&engine).await.remove(0);
        let copy = |n: i64, version: i64, data: &str| format!(
            "INSERT INTO events SELECT {n}, {}, organization_id, {n}, stream, subject_id, {n}, 'thing_labelled', {version}, \
             actor_kind, actor_id, at, correlation_id, causation_id, CAST('{data}' AS {}), hash FROM events WHERE position = 1",
            if engine.shared_with_other_nodes() { format!("'{}'", Uuid::from_u128(n as u128)) } else { format!("x'{:032x}'", n) },
            if engine.shared_with_other_nodes() { "BYTEA" } else { "BLOB" },
        );
        engine.database().writer().execute_unprepared(&copy(2, 1, r#"{"name":"old"}"#)).await.unwrap();
        let other = place.engine().await;
        let events = whole_log(&other).await;
        let lifted = ThingEvent::Labelled { label: "old".to_owned(), why: "unknown".to_owned() };
        assert_eq!(events[1].event_as::<ThingEvent>(), Some(&lifted));
        // Its link covers the version that was written. With that of another event it is found; with its own not.
        assert_eq!(engine.log().verify().await.unwrap(), Some(Position::new(2)));
        let row = engine.database().query("SELECT * FROM events WHERE position < 3 ORDER BY position", vec![]).await.unwrap();
        let envelope = Envelope::stored(&row[1], ("thing", "thing_labelled")).unwrap();
        let before: Vec<u8> = row[0].try_get("", "hash").unwrap();
        let link = chain(&before, &envelope, br#"{"name":"old"}"#);
        let sql = "UPDATE events SET hash = $1 WHERE position = 2";
        engine.database().writer().execute_raw(engine.database().statement(sql, sql, vec![link.into()])).await.unwrap();
        assert_eq!(engine.log().verify().await.unwrap(), None);
        assert_eq!(other.state::<Thing>(id).await.unwrap().label, "old");
        // One of a release to come is an error that says where, not a guess.
        engine.database().writer().execute_unprepared(&copy(3, 3, "{}")).await.unwrap();
        let error = other.log().read(made.position, 10).await.unwrap_err();
        assert!(matches!(error, LogError::Decode { position, .. } if position == Position::new(3)), "{error}");
    }
}

/// Two processes on one database: what the one wrote the other decides on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_keep_one_order() {
    let Some(place) = Place::postgres().await else { return };
    let nodes = [place.engine().await, place.engine().await];
    let id = make(&nodes[0], org(1), "a").await;
    let counts = (0..24).map(|n| {
        let node = Arc::clone(&nodes[n % 2]);
        tokio::spawn(async move {
            let own = make(&node, org(1), &format!("thing {n}")).await;
            count(&node, org(1), own).await.unwrap();
            count(&node, org(1), id).await
        })
    });
    let mut conflicts = 0;
    for result in join_all(counts).await {
        // Many at once on one thing may end as a conflict, never as a lost count.
        conflicts += usize::from(code(result.unwrap()).is_some());
    }
    let events = check_log(&nodes[0]).await;
    assert_eq!(events.len(), 1 + 24 * 2 + 24 - conflicts);
    // One key, sent to both nodes at once.
    for round in 0..8u128 {
        let command = CommandId::from_uuid(Uuid::from_u128(0xc0_0000 + round));
        let thing = ThingId::from_uuid(Uuid::from_u128(0xd0_0000 + round));
        let send = |node: &Arc<Engine>| {
            let node = Arc::clone(node);
            let make = Make { label: format!("twice {round}"), owner: person(1), name: "Ada" };
            tokio::spawn(async move { node.execute(&repeatable(&node, org(1), command, 1), thing, make).await })
        };
        let answers = [send(&nodes[0]), send(&nodes[1])];
        let answers: Vec<Committed> = join_all(answers).await.into_iter().map(|a| a.unwrap().unwrap()).collect();
        assert_eq!(answers[0].position, answers[1].position);
        assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
    }
    check_log(&nodes[1]).await;
}
