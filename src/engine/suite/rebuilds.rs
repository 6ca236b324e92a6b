//! Rebuilt equals grown.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use futures::future::{Either, join_all, poll_fn, select};
use oriel_kernel::Position;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::things::{Count, Label, Make, Remove};
use super::*;
use crate::read::Dependency;
use crate::rebuild::{RebuildError, unwatched};

#[derive(Clone, Debug)]
enum Step {
    Make { thing: u8, label: u8 },
    Label { thing: u8, label: u8 },
    Count { thing: u8, times: usize },
    Remove { thing: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (thing, label) = (0..12u8, 0..20u8);
    prop_oneof![
        4 => (thing.clone(), label.clone()).prop_map(|(thing, label)| Step::Make { thing, label }),
        3 => (thing.clone(), label).prop_map(|(thing, label)| Step::Label { thing, label }),
        4 => (thing.clone(), 1..200usize).prop_map(|(thing, times)| Step::Count { thing, times }),
        1 => thing.prop_map(|thing| Step::Remove { thing }),
    ]
}

/// Carries out a step; a refusal is as good as a success.
async fn carry_out(engine: &Engine, step: &Step) {
    let id = |thing: u8| ThingId::from_uuid(Uuid::from_u128(0xe000 + u128::from(thing)));
    let context = context(engine, org(1));
    let result = match step {
        Step::Make { thing, label } => {
            let make = Make { label: label.to_string(), owner: person(u128::from(*thing)), name: "Ada Lovelace" };
            engine.execute(&context, id(*thing), make).await
        }
        Step::Label { thing, label } => engine.execute(&context, id(*thing), Label(label.to_string())).await,
        Step::Count { thing, times } => {
            engine.execute(&context, id(*thing), Count { by: 3, times: *times, beside: None }).await
        }
        Step::Remove { thing } => engine.execute(&context, id(*thing), Remove).await,
    };
    if let Err(error) = result {
        assert!(matches!(error, CommandError::Rejected(_)), "{error}");
    }
}

async fn history(engine: &Engine, seed: &mut TestRunner, length: usize) -> Vec<Step> {
    let steps = prop::collection::vec(step(), length).new_tree(seed).unwrap().current();
    for step in &steps {
        carry_out(engine, step).await;
    }
    steps
}

async fn same_after_rebuild(engine: &Engine) {
    let grown = rows(engine).await;
    engine.rebuild("toys", &unwatched).await.unwrap();
    assert_eq!(rows(engine).await, grown);
    let verified = engine.verify("toys").await.unwrap();
    assert_eq!((verified.rows, verified.only_running, verified.only_replayed), (grown.len() as i64, 0, 0));
}

on_both! {
    async fn after_random_histories(place) {
        let mut seed = TestRunner::new_with_rng(Config::default(), proptest::test_runner::TestRng::deterministic_rng(Default::default()));
        let engine = place.engine().await;
        for _ in 0..6 {
            let steps = history(&engine, &mut seed, 25).await;
            place.sources.advance(Duration::from_secs(1));
            assert!(!steps.is_empty());
            same_after_rebuild(&engine).await;
        }
        assert!(whole_log(&engine).await.len() > 1_000, "long enough for several chunks");
    }

    async fn a_damaged_row_is_found_and_mended(place) {
        let engine = place.engine().await;
        make(&engine, org(1), "a").await;
        make(&engine, org(1), "b").await;
        engine.database().writer().execute_unprepared("UPDATE toys SET total = 77 WHERE label = 'a'").await.unwrap();
        let verified = engine.verify("toys").await.unwrap();
        assert_eq!((verified.rows, verified.only_running, verified.only_replayed), (2, 1, 1));
        engine.rebuild("toys", &unwatched).await.unwrap();
        assert_eq!(engine.verify("toys").await.unwrap().only_running, 0);
        assert!(rows(&engine).await.iter().all(|row| row.total == 0));
    }

    /// A process that has just started has no person's key at hand, and holds the one connection that writes while it
    /// folds the last events.
    async fn a_changed_projection_is_built_at_the_next_start(place) {
        let engine = place.engine().await;
        make(&engine, org(1), "a").await;
        let grown = rows(&engine).await;
        engine.database().writer().execute_unprepared("UPDATE read_models SET version = 0 WHERE name = 'toys'").await.unwrap();
        engine.database().writer().execute_unprepared("DELETE FROM toys").await.unwrap();
        engine.stop().await;
        let engine = in_time(place.engine()).await;
        assert_eq!(rows(&engine).await, grown);
        make(&engine, org(1), "b").await;
    }

    async fn while_others_write(place) {
        let engine = place.engine().await;
        let mut things = Vec::new();
        for n in 0..4 {
            let id = make(&engine, org(n), &format!("{n}")).await;
            engine.execute(&context(&engine, org(n)), id, Count { by: 1, times: 400, beside: None }).await.unwrap();
            things.push((org(n), id));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers = things.iter().map(|(organization, id)| {
            let (engine, stop, organization, id) = (Arc::clone(&engine), Arc::clone(&stop), *organization, *id);
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::SeqCst) {
                    count(&engine, organization, id).await.unwrap();
                    written += 1;
                }
                written
            })
        });
        let writers: Vec<_> = writers.collect();
        for _ in 0..3 {
            let before = engine.feed().head();
            engine.rebuild("toys", &unwatched).await.unwrap();
            // The writers go on, in the new table.
            in_time(engine.feed().reached(Position::new(before.number() + 20))).await;
        }
        stop.store(true, Ordering::SeqCst);
        let written: i64 = join_all(writers).await.into_iter().map(|count| count.unwrap()).sum();
        assert_eq!(rows(&engine).await.iter().map(|row| row.total).sum::<i64>(), 4 * 400 + written);
        let verified = engine.verify("toys").await.unwrap();
        assert_eq!((verified.only_running, verified.only_replayed), (0, 0));
    }

    async fn killed_halfway(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        for _ in 0..3 {
            engine.execute(&context(&engine, org(1)), id, Count { by: 1, times: 900, beside: None }).await.unwrap();
        }
        let grown = rows(&engine).await;
        for chunks in [1, 3] {
            let halfway = AtomicBool::new(false);
            let progress = |reached: Position, _: Position| {
                halfway.store(reached.number() >= chunks * 500, Ordering::SeqCst);
                ControlFlow::Continue(())
            };
            let ended = {
                let rebuild = std::pin::pin!(engine.rebuild("toys", &progress));
                let killed = poll_fn(|_| match halfway.load(Ordering::SeqCst) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                });
                matches!(select(rebuild, killed).await, Either::Left(_))
            };
            assert!(!ended, "it was to be killed");
            // Nobody sees it, writing goes on.
            assert_eq!(rows(&engine).await, grown);
        }
        let state = engine.read_model_states().await.unwrap();
        assert!(state.iter().any(|state| state.state == "catching_up" && state.position.number() >= 1_000), "{state:?}");
        count(&engine, org(1), id).await.unwrap();
        // What is there is gone on with, by another process.
        engine.stop().await;
        let engine = place.engine().await;
        let first = std::sync::Mutex::new(None);
        let progress = |reached: Position, _: Position| {
            first.lock().unwrap().get_or_insert(reached.number());
            ControlFlow::Continue(())
        };
        engine.rebuild("toys", &progress).await.unwrap();
        assert!(first.lock().unwrap().is_some_and(|first| first >= 1_000));
        assert_eq!(rows(&engine).await[0].total, 2_701);
        let verified = engine.verify("toys").await.unwrap();
        assert_eq!((verified.only_running, verified.only_replayed), (0, 0));
    }

    async fn cancelled_by_who_watches(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        engine.execute(&context(&engine, org(1)), id, Count { by: 1, times: 900, beside: None }).await.unwrap();
        let grown = rows(&engine).await;
        let progress = |reached: Position, _: Position| match reached.number() {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let ended = engine.rebuild("toys", &progress).await;
        assert!(matches!(ended, Err(RebuildError::Cancelled)), "{ended:?}");
        assert_eq!(rows(&engine).await, grown);
        engine.rebuild("toys", &unwatched).await.unwrap();
        assert_eq!(rows(&engine).await, grown);
    }

    /// Two processes, each at a moment of its own: one of them may win, none of them spoils what is switched to.
    async fn two_at_once(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        for _ in 0..3 {
            engine.execute(&context(&engine, org(1)), id, Count { by: 1, times: 900, beside: None }).await.unwrap();
        }
        for _ in 0..3 {
            let (one, other, compared) = tokio::join!(
                engine.rebuild("toys", &unwatched),
                engine.rebuild("toys", &unwatched),
                engine.verify("toys"),
            );
            for ended in [one, other] {
                assert!(matches!(ended, Ok(()) | Err(RebuildError::Elsewhere("toys"))), "{ended:?}");
            }
            let compared = compared.unwrap();
            assert_eq!((compared.rows, compared.only_running, compared.only_replayed), (1, 0, 0));
            assert_eq!(rows(&engine).await[0].total, 2_700);
        }
        engine.rebuild("toys", &unwatched).await.unwrap();
        let states = engine.read_model_states().await.unwrap();
        assert_eq!(states.iter().map(|state| state.state.as_str()).collect::<Vec<_>>(), ["inline"], "nothing is left");
    }

    /// Whoever reads while tables are switched under them sees every row that was there when they began: on a
    /// connection that knows the statement already, and in a transaction whose moment lies before the switch.
    async fn readers_see_every_row_at_every_moment(place) {
        const REBUILDS: usize = 20;
        let engine = place.engine().await;
        for n in 0..20 {
            make(&engine, org(n), "first").await;
        }
        let (made, stop) = (Arc::new(AtomicUsize::new(20)), Arc::new(AtomicBool::new(false)));
        let mut others = Vec::new();
        for reader in 0..4 {
            let (engine, made, stop) = (Arc::clone(&engine), Arc::clone(&made), Arc::clone(&stop));
            others.push(tokio::spawn(async move {
                let mut reads = 0;
                while !stop.load(Ordering::SeqCst) {
                    let expected = made.load(Ordering::SeqCst);
                    let seen = if reader % 2 == 0 {
                        things::Entity::find().all(engine.database().reader()).await.unwrap().len()
                    } else {
                        let moment = engine.snapshot().await.unwrap();
                        let sql = "SELECT CAST(COUNT(*) AS BIGINT) FROM events";
                        let statement = engine.database().statement(sql, sql, vec![]);
                        let events = moment.query_one_raw(statement).await.unwrap().unwrap();
                        // A switch may come now: the moment of this transaction is fixed.
                        tokio::task::yield_now().await;
                        let seen = things::Entity::find().all(&moment).await.unwrap().len();
                        assert_eq!(seen as i64, events.try_get_by_index::<i64>(0).unwrap(), "an event makes a row");
                        seen
                    };
                    assert!(seen >= expected, "{seen} rows are seen, {expected} were made before");
                    reads += 1;
                }
                reads
            }));
        }
        others.push(tokio::spawn({
            let (engine, made, stop) = (Arc::clone(&engine), Arc::clone(&made), Arc::clone(&stop));
            async move {
                let mut written = 0;
                while !stop.load(Ordering::SeqCst) {
                    make(&engine, org(1), &format!("more {written}")).await;
                    made.fetch_add(1, Ordering::SeqCst);
                    written += 1;
                }
                written
            }
        }));
        for _ in 0..REBUILDS {
            engine.rebuild("toys", &unwatched).await.unwrap();
            let seen = things::Entity::find().all(engine.database().reader()).await.unwrap().len();
            assert!(seen >= 20, "right after the switch");
            if others.iter().any(tokio::task::JoinHandle::is_finished) {
                break; // a reader has failed, and says how
            }
        }
        stop.store(true, Ordering::SeqCst);
        for other in join_all(others).await {
            assert!(other.unwrap() > 0, "everybody had their turn");
        }
        let verified = engine.verify("toys").await.unwrap();
        assert_eq!((verified.rows as usize, verified.only_running, verified.only_replayed), (made.load(Ordering::SeqCst), 0, 0));
    }

    /// What another process has read before is from a table that is not there any more, and no event says so.
    async fn a_switch_reaches_the_other_nodes(place) {
        let engine = place.engine().await;
        if !engine.shared_with_other_nodes() {
            return;
        }
        let id = make(&engine, org(1), "a").await;
        let other = place.engine().await;
        let t0 = other.tracker().tick();
        let mut watch = other.tracker().watch(t0, vec![Dependency::named("toy:of nobody")]);
        other.feed().catch_up().await.unwrap();
        assert!(other.tracker().valid(t0, []) && !watch.has_changed(), "nothing was switched yet");
        engine.rebuild("toys", &unwatched).await.unwrap();
        other.feed().catch_up().await.unwrap();
        assert!(!other.tracker().valid(t0, []));
        in_time(watch.changed()).await;
        // Once: who has heard of it goes on keeping answers, where it was switched too.
        for node in [&engine, &other] {
            let t0 = node.tracker().tick();
            node.feed().catch_up().await.unwrap();
            assert!(node.tracker().valid(t0, []));
        }
        // It writes into the new table, and did not have to be told.
        count(&other, org(1), id).await.unwrap();
        assert_eq!(rows(&engine).await[0].total, 1);
        engine.rebuild("toys", &unwatched).await.unwrap();
        count(&other, org(1), id).await.unwrap();
        assert_eq!(rows(&engine).await[0].total, 2);
    }

    /// A process of an older release must not write what it does not understand, and looks at each commit whether it
    /// does.
    async fn a_generation_of_another_release_is_not_written(place) {
        let engine = place.engine().await;
        let id = make(&engine, org(1), "a").await;
        let version = engine.read_model_states().await.unwrap()[0].version;
        let switch = |version: i32| format!("UPDATE read_models SET version = {version} WHERE state = 'inline'");
        engine.database().writer().execute_unprepared(&switch(version + 1)).await.unwrap();
        let refused = count(&engine, org(1), id).await;
        assert!(matches!(&refused, Err(CommandError::Unavailable(why)) if why.contains("toys")), "{refused:?}");
        assert_eq!((whole_log(&engine).await.len(), rows(&engine).await[0].total), (1, 0));
        engine.database().writer().execute_unprepared(&switch(version)).await.unwrap();
        count(&engine, org(1), id).await.unwrap();
        assert_eq!(rows(&engine).await[0].total, 1);
    }

    async fn nobody_serves_an_answer_of_the_old_table(place) {
        let engine = place.engine().await;
        make(&engine, org(1), "a").await;
        let t0 = engine.tracker().tick();
        assert!(engine.tracker().valid(t0, []));
        engine.rebuild("toys", &unwatched).await.unwrap();
        assert!(!engine.tracker().valid(t0, []));
    }
}
