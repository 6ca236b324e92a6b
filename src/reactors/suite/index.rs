//! The index beside the log: it follows, forgets, begins anew, and is the same however it was built.

use std::ops::ControlFlow;
use std::sync::Mutex;

use oriel_backends::search::SearchError;
use oriel_domain::documents::{DeleteDocument, MoveDocument, PurgeDocument, RestoreDocument, UpdateDocument};
use oriel_domain::projects::{ArchiveProject, UpdateProject};
use oriel_engine::consumers::{ConsumerLimits, Consumers, Follower, SharedConsumer};
use oriel_engine::rebuild::unwatched;
use oriel_read_models::search;

use super::*;
use crate::search_index::{SearchIndex, SharedIndex};
use crate::{IndexError, TEXTS};

#[tokio::test(flavor = "multi_thread")]
async fn the_trash_is_not_found_and_what_comes_back_is() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    house.ready(id).await;
    let tick = house.engine.tracker().tick();
    house.run(id, DeleteDocument).await;
    house.indexed(&reactors).await;
    assert!(house.found("danube").await.is_empty() && house.found("river").await.is_empty());
    // Who watches a search is told by the index, not by the commit.
    assert!(!house.engine.tracker().valid(tick, &[search::dependency(house.organization)]));
    house.run(id, RestoreDocument).await;
    house.indexed(&reactors).await;
    assert_eq!(house.found("danube").await, [id.to_string()]);
    assert_eq!(house.row(id).await.unwrap().status, DocumentStatus::Ready);
    house.run(id, DeleteDocument).await;
    house.run(id, PurgeDocument).await;
    house.indexed(&reactors).await;
    assert!(house.found("danube").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_found_and_move_no_stage() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    let before = house.ready(id).await;
    let (title, tags) = (Title::parse("A stream").unwrap(), Tags::parse(["wet"]).unwrap());
    house.run(id, UpdateDocument { title: Some(title), tags: Some(tags) }).await;
    let other = house.engine.new_id();
    house.make_project(other, "OTHER", "Other things").await;
    house.run(id, MoveDocument { to: other }).await;
    house.indexed(&reactors).await;
    assert_eq!(house.found("stream wet").await, [id.to_string()]);
    let scope = Scope { organization: house.organization.uuid(), projects: Some(vec![house.project.uuid()]) };
    let request = SearchRequest { query: "danube".to_owned(), first: 9, ..SearchRequest::default() };
    assert_eq!(house.search.search(&scope, &request).await.unwrap().total, 0, "it is in another project");
    assert_eq!(house.row(id).await.unwrap().pipeline, before.pipeline);

    let name = ProjectName::parse("Hydrology").unwrap();
    house.run(house.project, UpdateProject { name: Some(name), description: None }).await;
    house.run(house.project, ArchiveProject).await;
    house.indexed(&reactors).await;
    assert_eq!(house.found("hydrology").await, [house.project.to_string()]);
    assert_eq!(house.found("atlas").await, [house.project.to_string()], "by its key");
    assert!(house.found("mountains").await.is_empty());
}

/// Everything that a search tells, without what depends on how the index is laid out.
async fn told(house: &House) -> Vec<String> {
    let mut told = Vec::new();
    for query in ["", "water", "danube", "stream", "river", "notes", "atlas", "\"number 7\""] {
        let answer = house.answer(query).await;
        let mut hits: Vec<_> =
            answer.hits.iter().map(|hit| format!("{} {} {:?}", hit.id, hit.kind, hit.highlights)).collect();
        // Newest first is told exactly; scores of words depend on entries that were replaced.
        if !query.is_empty() {
            hits.sort();
        }
        told.push(format!("{query}: {} {:?} {hits:?}", answer.total, answer.facets));
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_built_anew_equals_the_running_one() {
    let house = House::new().await;
    let reactors = house.start();
    let mut ids = Vec::new();
    for number in 0..12 {
        let text = format!("Danube number {number}");
        ids.push(house.upload(&format!("River {number}"), "text/plain", text.as_bytes()).await);
    }
    for id in &ids {
        house.ready(*id).await;
    }
    let rename = |title: &str| UpdateDocument { title: Some(Title::parse(title).unwrap()), tags: None };
    house.run(ids[3], rename("A stream")).await;
    house.run(ids[4], DeleteDocument).await;
    house.run(ids[5], DeleteDocument).await;
    house.run(ids[5], PurgeDocument).await;
    house.indexed(&reactors).await;
    let grown = told(&house).await;
    assert!(grown[0].starts_with(": 11 "), "{}", grown[0]);

    let steps = Mutex::new(Vec::new());
    let note = |position: Position, _: Position| {
        let generations: Vec<_> = reactors.index_states().iter().map(|state| state.generation).collect();
        steps.lock().unwrap().push((position, generations));
        ControlFlow::Continue(())
    };
    assert_eq!(reactors.index_states()[0].state, "following");
    let position = reactors.rebuild_index(&note).await.unwrap();
    assert_eq!(position, house.engine.feed().head());
    assert_eq!(told(&house).await, grown);
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.first(), Some(&(Position::START, vec![1, 2])), "the next one is shown beside the running one");
    assert_eq!(steps.last().map(|(position, _)| *position), Some(position));
    let generations: Vec<_> = reactors.index_states().iter().map(|state| state.generation).collect();
    assert_eq!(generations, [2]);

    // One that is cancelled never existed.
    let cancelled = reactors.rebuild_index(&|_, _| ControlFlow::Break(())).await;
    assert!(matches!(cancelled, Err(IndexError::Cancelled)), "{cancelled:?}");
    assert_eq!(told(&house).await, grown);

    // One that was dropped never existed.
    let unfinished = reactors.rebuild_index(&unwatched);
    assert!(futures::FutureExt::now_or_never(unfinished).is_none());
    assert_eq!(told(&house).await, grown);
    // Its files are closed on a thread of their own; until then it counts as running.
    while let Err(error) = reactors.rebuild_index(&unwatched).await {
        assert!(matches!(error, IndexError::Search(SearchError::Rebuilding)), "{error}");
        tokio::task::yield_now().await;
    }

    // While it is built, the running one goes on, and nothing of that is lost.
    let changing = async {
        for id in &ids[6..] {
            house.run(*id, rename("Changed meanwhile")).await;
        }
    };
    let (rebuilt, ()) = tokio::join!(reactors.rebuild_index(&unwatched), changing);
    rebuilt.unwrap();
    house.indexed(&reactors).await;
    let mut found = house.found("meanwhile").await;
    found.sort();
    assert_eq!(found, ids[6..].iter().map(ToString::to_string).collect::<Vec<_>>());
    let grown = told(&house).await;
    reactors.rebuild_index(&unwatched).await.unwrap();
    assert_eq!(told(&house).await, grown);
    // And it follows on.
    house.run(ids[0], rename("The last")).await;
    house.indexed(&reactors).await;
    assert_eq!(house.found("last").await, [ids[0].to_string()]);
}

/// Entries are made of the current rows, so a comparison beside writes has to find a moment for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_finds_what_differs_and_nothing_else() {
    let house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    house.ready(id).await;
    let rename =
        |number: usize| UpdateDocument { title: Some(Title::parse(&format!("River {number}")).unwrap()), tags: None };
    let verify = async || {
        let verified = reactors.verify_index().await.unwrap();
        (verified.rows, verified.only_running, verified.only_replayed)
    };
    for round in 0..3 {
        let compared = std::sync::atomic::AtomicBool::new(false);
        let writing = async {
            let mut written = 0;
            while !compared.load(Ordering::SeqCst) {
                house.run(id, rename(1_000 * round + written)).await;
                written += 1;
            }
            written
        };
        let comparing = async {
            let found = verify().await;
            compared.store(true, Ordering::SeqCst);
            found
        };
        let (written, found) = tokio::join!(writing, comparing);
        assert_eq!(found, (2, 0, 0), "a document and a project");
        assert!(written > 0);
    }
    house.indexed(&reactors).await;
    // Somebody changed the index behind the product's back.
    let at = house.search.checkpoint().await.unwrap().unwrap();
    house.search.apply(vec![oriel_backends::search::Change::Remove { id: id.to_string() }], at).await.unwrap();
    assert_eq!(verify().await, (1, 0, 1));
    reactors.rebuild_index(&unwatched).await.unwrap();
    assert_eq!(verify().await, (2, 0, 0));
    assert_eq!(house.found("danube").await, [id.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_begins_anew() {
    let mut house = House::new().await;
    let reactors = house.start();
    let id = house.upload("A river", "text/plain", b"Danube").await;
    house.ready(id).await;
    reactors.stop().await;
    drop(reactors);
    // Another folder stands for the next process, which would find the files of this one closed.
    let damaged = house.folder.path().join("damaged");
    copy(&house.index_folder(), &damaged);
    for file in files(&damaged) {
        let mut bytes = std::fs::read(&file).unwrap();
        if file.extension().is_some_and(|kind| kind == "store" || kind == "term") {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
        }
        std::fs::write(&file, bytes).unwrap();
    }
    house.search = open_index(&damaged).await.unwrap();
    assert_eq!(house.search.checkpoint().await.unwrap(), None, "it was found damaged");
    let reactors = house.start();
    house.indexed(&reactors).await;
    assert_eq!(house.found("danube").await, [id.to_string()]);
    reactors.stop().await;
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// A batch with more text than is gathered at once is applied in parts, each with a checkpoint of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_is_applied_in_parts() {
    let house = House::new().await;
    let reactors = Reactors::start(house.parts());
    let large = format!("Danube {}", "water flows ".repeat(100));
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(house.upload(&format!("River {number}"), "text/plain", large.as_bytes()).await);
    }
    for id in &ids {
        house.ready(*id).await;
    }
    reactors.stop().await;
    drop(reactors);
    assert_eq!(house.keys(TEXTS).await, 10);
    house.search.reset().await.unwrap();
    let index = Arc::new(SearchIndex::new(&house.parts()).in_chunks_of(3 * large.len()));
    let events = house.engine.log().read(Position::START, 1_000).await.unwrap();
    let last = events.last().unwrap();
    use oriel_engine::consumers::Consumer;
    // It ends in the middle: one text is not to be had.
    let row = house.row(ids[9]).await.unwrap();
    let path = house.blobs.local_path(&BlobKey::parse(row.text_blob.as_deref().unwrap()).unwrap()).unwrap();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(index.apply(&events, (last.position, last.id)).await.is_err());
    let reached = house.search.checkpoint().await.unwrap().unwrap().position;
    assert!(reached > 0 && reached < last.position.number(), "{reached}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    let alone = Consumers::start(&house.engine, vec![Follower::PerNode(index)], ConsumerLimits::default());
    alone.wait_for("search_index", last.position, LONG).await.unwrap();
    let mut found = house.found("danube").await;
    found.sort();
    assert_eq!(found, ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_all_nodes_share_is_followed_from_where_it_is() {
    let house = House::new().await;
    let index = Arc::new(SearchIndex::new(&house.parts()));
    let follower = Follower::Shared(Arc::new(SharedIndex::new(Arc::clone(&index))));
    let alone = Consumers::start(&house.engine, vec![follower], ConsumerLimits::default());
    house.upload("A river", "text/plain", b"Danube").await;
    alone.wait_for("search_index", house.engine.feed().head(), LONG).await.unwrap();
    assert_eq!(house.found("river").await.len(), 1);
    // Another node has put an index in its place that has seen nothing yet.
    house.search.reset().await.unwrap();
    house.upload("A second river", "text/plain", b"Rhine").await;
    alone.wait_for("search_index", house.engine.feed().head(), LONG).await.unwrap();
    let found = async {
        while house.found("river").await.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, found).await.expect("both are found");
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_has_filled_makes_what_is_kept_old() {
    let house = House::new().await;
    house.upload("A river", "text/plain", b"Danube").await;
    let index = Arc::new(SearchIndex::new(&house.parts()));
    let (shared, head) = (SharedIndex::new(Arc::clone(&index)), house.engine.feed().head());
    let (tick, search) = (house.engine.tracker().tick(), [search::dependency(house.organization)]);
    shared.applied_elsewhere(Some(head), head).await.unwrap();
    assert!(house.engine.tracker().valid(tick, &search), "nothing was filled");
    shared.applied_elsewhere(Some(Position::START), head).await.unwrap();
    assert!(!house.engine.tracker().valid(tick, &search));
    assert_eq!(index.position(), head);
}
