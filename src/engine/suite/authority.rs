//! Nothing is written on a permission that has changed meanwhile.

use std::sync::atomic::AtomicUsize;

use futures::future::join_all;
use oriel_kernel::Observed;

use super::things::{Count, Remove, Thing, there};
use super::*;
use crate::bus::{Authority, Scope};

/// A permission that was read from this version of a thing, or from its being there.
fn resting(version: Option<(ThingId, i32)>, present: Option<ThingId>) -> Scope {
    let versions = version.map(|(id, version)| (id.uuid(), version)).into_iter().collect();
    Scope { observed: Observed { versions, facts: present.map(there).into_iter().collect() }, ..Scope::unlimited() }
}

async fn count_as(engine: &Engine, id: ThingId, scope: Scope) -> Result<Committed, CommandError> {
    let context = CommandContext { scope, ..context(engine, org(1)) };
    engine.execute(&context, id, Count::once()).await
}

/// Finds out what is given, and counts how often it was asked.
#[derive(Debug)]
struct Finds {
    scope: Option<Scope>,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Authority for Finds {
    async fn renew(&self) -> Result<Scope, CommandError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.scope.clone().ok_or(CommandError::SignedOut)
    }
}

on_both! {
    async fn an_old_permission_is_refused(place) {
        let engine = place.engine().await;
        let (role, id) = (make(&engine, org(1), "role").await, make(&engine, org(1), "thing").await);
        let first = || resting(Some((role, 1)), Some(role));
        count_as(&engine, id, first()).await.unwrap();
        count(&engine, org(1), role).await.unwrap();
        assert!(matches!(count_as(&engine, id, first()).await, Err(CommandError::Stale)));
        count_as(&engine, id, resting(Some((role, 2)), Some(role))).await.unwrap();
        // What is about its own permission rests on what that was before.
        count_as(&engine, role, resting(Some((role, 2)), Some(role))).await.unwrap();
        engine.execute(&context(&engine, org(1)), role, Remove).await.unwrap();
        assert!(matches!(count_as(&engine, id, resting(None, Some(role))).await, Err(CommandError::Stale)));
        assert_eq!(engine.state::<Thing>(id).await.unwrap().count, 2);
        // A repetition is not about what may be done now.
        let command = engine.new_id();
        let again = |scope| CommandContext { scope, ..repeatable(&engine, org(1), command, 1) };
        let done = engine.execute(&again(resting(Some((role, 4)), None)), id, Count::once()).await.unwrap();
        let repeated = engine.execute(&again(resting(Some((role, 1)), None)), id, Count::once()).await.unwrap();
        assert_eq!((repeated.position, repeated.repeated), (done.position, true));
    }

    async fn it_is_found_out_anew_once(place) {
        let engine = place.engine().await;
        let (role, id) = (make(&engine, org(1), "role").await, make(&engine, org(1), "thing").await);
        count(&engine, org(1), role).await.unwrap();
        let asking = |scope: Option<Scope>| {
            let finds = Arc::new(Finds { scope, asked: AtomicUsize::new(0) });
            let authority = Some(Arc::clone(&finds) as Arc<dyn Authority>);
            (CommandContext { scope: resting(Some((role, 1)), None), authority, ..context(&engine, org(1)) }, finds)
        };
        let (context, finds) = asking(Some(resting(Some((role, 2)), None)));
        engine.execute(&context, id, Count::once()).await.unwrap();
        assert_eq!(finds.asked.load(Ordering::SeqCst), 1);
        let (context, finds) = asking(Some(resting(Some((role, 7)), None)));
        assert!(matches!(engine.execute(&context, id, Count::once()).await, Err(CommandError::Stale)));
        assert_eq!(finds.asked.load(Ordering::SeqCst), 1);
        let (context, _) = asking(None);
        assert!(matches!(engine.execute(&context, id, Count::once()).await, Err(CommandError::SignedOut)));
        assert_eq!(engine.state::<Thing>(id).await.unwrap().count, 1);
    }

    async fn whatever_comes_between(place) {
        let node = place.engine().await;
        race(&[Arc::clone(&node), node]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_another_node_does() {
    let Some(place) = Place::postgres().await else { return };
    let nodes = [place.engine().await, place.engine().await];
    race(&nodes).await;
    // What the one node has committed the other decides on, at its own old view of it.
    let (role, id) = (make(&nodes[0], org(1), "role of both").await, make(&nodes[1], org(1), "of the other").await);
    count_as(&nodes[1], id, resting(Some((role, 1)), Some(role))).await.unwrap();
    nodes[0].execute(&context(&nodes[0], org(1)), role, Remove).await.unwrap();
    for scope in [resting(Some((role, 1)), None), resting(None, Some(role))] {
        assert!(matches!(count_as(&nodes[1], id, scope).await, Err(CommandError::Stale)));
    }
}

/// Roles change while commands that rest on them are queued, in the same batches and in others: what was committed
/// was permitted at its place in the log.
async fn race(nodes: &[Arc<Engine>; 2]) {
    let role = make(&nodes[0], org(1), "changing").await;
    let mut things = Vec::new();
    for n in 0..32 {
        things.push(make(&nodes[n % 2], org(1), &format!("racing {n}")).await);
    }
    let (mut committed, mut refused) = (Vec::new(), 0);
    for version in 1..=4 {
        // While the lock is held elsewhere everything queues.
        let lock = nodes[0].database().begin_ordered().await.unwrap();
        let counts = things.iter().enumerate().map(|(n, id)| {
            let (node, id) = (Arc::clone(&nodes[n % 2]), *id);
            tokio::spawn(async move {
                if n == 16 {
                    count(&node, org(1), role).await.unwrap();
                }
                count_as(&node, id, resting(Some((role, version)), None)).await
            })
        });
        let counts: Vec<_> = counts.collect();
        until(|| async { nodes.iter().map(|node| node.queued_commands()).sum::<usize>() >= 16 }).await;
        lock.rollback().await.unwrap();
        for answer in join_all(counts).await {
            match answer.unwrap() {
                Ok(done) => committed.push((done.position, version)),
                Err(CommandError::Stale) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    let log = whole_log(&nodes[0]).await;
    for (position, version) in committed {
        let changes = log.iter().filter(|event| event.subject == role.uuid() && event.position < position);
        assert_eq!(changes.count(), version as usize, "{position} was written on an old permission");
    }
    // Whoever changed the role asked with the old one afterwards.
    assert!(refused >= 4, "{refused}");
}
