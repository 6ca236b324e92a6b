//! The contract, and what only an index on this disk can promise.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::contract::{Skills, all_of, ask, at, contract, entry, put};
use super::super::{Change, Search, SearchError, SearchRequest};
use super::Tantivy;

async fn open(folder: &tempfile::TempDir) -> Result<Search, SearchError> {
    Tantivy::open(folder.path()).await.map(Search::Tantivy)
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract(open(&folder).await.unwrap(), Skills { stems: true, prefix_operator: true }).await;
}

#[tokio::test]
async fn is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let scope = all_of(Uuid::new_v4());
    let search = open(&folder).await.unwrap();
    search.apply(vec![put(entry(scope.organization, "a", "Harbour", ""))], at(4)).await.unwrap();
    let before = search.search(&scope, &ask("harbour")).await.unwrap();
    drop(search);
    let search = open(&folder).await.unwrap();
    assert_eq!(search.checkpoint().await.unwrap(), Some(at(4)));
    assert_eq!(search.search(&scope, &ask("harbour")).await.unwrap(), before);
}

#[tokio::test]
async fn scores_follow_from_what_is_there_and_not_from_what_was() {
    let (grown, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scope = all_of(Uuid::new_v4());
    let (old, new) = (open(&grown).await.unwrap(), open(&fresh).await.unwrap());
    let last = |n: i64| put(entry(scope.organization, &format!("id{n}"), &format!("Harbour {n}"), "a harbour lamp"));
    for n in 0..40i64 {
        let before = put(entry(scope.organization, &format!("id{n}"), "Harbour hrbour lamp", "long ago, another text"));
        old.apply(vec![before], at(n * 2 + 1)).await.unwrap();
        old.apply(vec![last(n)], at(n * 2 + 2)).await.unwrap();
    }
    new.apply((0..40).map(last).collect(), at(80)).await.unwrap();
    for query in ["harbour", "hrbour", "lamp harbour 7", "harb"] {
        let (grown, fresh) =
            (old.search(&scope, &ask(query)).await.unwrap(), new.search(&scope, &ask(query)).await.unwrap());
        assert_eq!(grown, fresh, "{query}");
    }
}

#[tokio::test]
async fn a_killed_rebuild_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let scope = all_of(Uuid::new_v4());
    let search = open(&folder).await.unwrap();
    search.apply(vec![put(entry(scope.organization, "a", "Harbour", ""))], at(1)).await.unwrap();
    let rebuild = search.begin_rebuild().await.unwrap();
    rebuild.apply(vec![put(entry(scope.organization, "b", "Harbour", ""))], at(9)).await.unwrap();
    assert_eq!(generations(&folder).len(), 2);
    // A killed process runs no destructors.
    std::mem::forget(rebuild);
    drop(search);
    let search = open(&folder).await.unwrap();
    assert_eq!(generations(&folder).len(), 1, "the leftover is removed");
    assert_eq!(search.checkpoint().await.unwrap(), Some(at(1)));
    assert_eq!(search.search(&scope, &ask("")).await.unwrap().total, 1);
}

#[tokio::test]
async fn one_generation_is_left_after_a_switch() {
    let folder = tempfile::tempdir().unwrap();
    let search = open(&folder).await.unwrap();
    search.apply(Vec::new(), at(1)).await.unwrap();
    let rebuild = search.begin_rebuild().await.unwrap();
    rebuild.apply(Vec::new(), at(2)).await.unwrap();
    rebuild.switch().await.unwrap();
    assert_eq!(generations(&folder).len(), 1);
    drop(search);
    assert_eq!(open(&folder).await.unwrap().checkpoint().await.unwrap(), Some(at(2)));
}

#[tokio::test]
async fn damage_is_said_and_mended() {
    let scope = all_of(Uuid::new_v4());
    type Damage = (&'static str, fn(&PathBuf));
    let damages: [Damage; 5] = [
        ("a segment's bytes changed", |generation| {
            let file =
                files(generation).into_iter().find(|file| file.extension().is_some_and(|e| e == "store")).unwrap();
            let mut bytes = fs::read(&file).unwrap();
            bytes[3] ^= 0xFF;
            fs::write(&file, bytes).unwrap();
        }),
        ("a segment is cut short", |generation| {
            let file =
                files(generation).into_iter().find(|file| file.extension().is_some_and(|e| e == "term")).unwrap();
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("the list of segments is gone", |generation| fs::remove_file(generation.join("meta.json")).unwrap()),
        ("the list of segments is garbage", |generation| fs::write(generation.join("meta.json"), "{").unwrap()),
        ("a later program wrote it", |generation| {
            let current = generation.parent().unwrap().join("CURRENT");
            fs::write(current, r#"{"format":4000,"generation":"g1"}"#).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let search = open(&folder).await.unwrap();
        search.apply(vec![put(entry(scope.organization, "a", "Harbour", "crane"))], at(1)).await.unwrap();
        drop(search);
        damage(&generations(&folder)[0]);
        let error = open(&folder).await.expect_err(what);
        assert!(error.needs_rebuild(), "{what}: {error:?}");
        let search = Search::Tantivy(Tantivy::recreate(folder.path()).await.unwrap());
        assert_eq!(search.checkpoint().await.unwrap(), None, "{what}: filled again from the beginning");
        search.apply(vec![put(entry(scope.organization, "a", "Harbour", ""))], at(1)).await.unwrap();
        drop(search);
        assert_eq!(open(&folder).await.unwrap().search(&scope, &ask("harbour")).await.unwrap().total, 1);
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out_of_writing() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder).await.unwrap();
    first.apply(Vec::new(), at(1)).await.unwrap();
    let second = open(&folder).await.unwrap();
    let refused = second.apply(Vec::new(), at(2)).await;
    assert!(matches!(refused, Err(SearchError::Unavailable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let search = open(&folder).await.unwrap();
    let scope = all_of(Uuid::new_v4());
    search.apply(Vec::new(), at(0)).await.unwrap();
    let reader = {
        let (search, scope) = (search.clone(), scope.clone());
        tokio::spawn(async move {
            loop {
                let answer = search.search(&scope, &SearchRequest { first: 1, ..ask("granite") }).await.unwrap();
                let position = answer.checkpoint.unwrap().position;
                assert_eq!(answer.total as i64, position, "entries and checkpoint are of one moment");
                if position == 30 {
                    return;
                }
            }
        })
    };
    for n in 1..=30 {
        let change = put(entry(scope.organization, &format!("n{n}"), "Granite", ""));
        search.apply(vec![change], at(n)).await.unwrap();
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn scores_tell_nothing_of_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let search = open(&folder).await.unwrap();
    let (mine, theirs) = (all_of(Uuid::new_v4()), all_of(Uuid::new_v4()));
    let entries = |scope: &super::Scope, count: usize, word: &str| -> Vec<Change> {
        let entries = (0..count).map(|n| {
            let body = format!("{} {word}", "filler ".repeat(n % 7));
            put(entry(scope.organization, &format!("n{n}"), &format!("Title {n}"), &body))
        });
        entries.collect()
    };
    search.apply(entries(&mine, 20, "granite"), at(1)).await.unwrap();
    let questions = ["granite", "granit", "title granite", "gran*", "\"filler granite\""];
    let mut before = Vec::new();
    for question in questions {
        before.push(search.search(&mine, &ask(question)).await.unwrap().hits);
    }
    search.apply(entries(&theirs, 300, "granite granitic granites granit"), at(2)).await.unwrap();
    for (question, before) in questions.into_iter().zip(before) {
        assert!(!before.is_empty(), "{question}");
        assert_eq!(search.search(&mine, &ask(question)).await.unwrap().hits, before, "{question}");
    }
}

#[tokio::test]
async fn a_search_gives_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let index = Tantivy::open(folder.path()).await.unwrap();
    let scope = all_of(Uuid::new_v4());
    index.apply(vec![put(entry(scope.organization, "a", "Harbour", ""))], at(1)).await.unwrap();
    let snapshot = index.inner.live().snapshot();
    let past = Instant::now() - Duration::from_millis(1);
    for query in ["harbour", ""] {
        let answer = super::answer::search(&snapshot, &scope, &ask(query), past);
        assert!(matches!(answer, Err(SearchError::TooSlow(_))), "{answer:?}");
    }
    let answer = super::answer::suggest(&snapshot, &scope, "har", 5, past);
    assert!(matches!(answer, Err(SearchError::TooSlow(_))), "{answer:?}");
}

/// Prints how fast it is: `cargo test --release -p oriel-backends speed -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, asserts nothing about time"]
async fn speed() {
    let folder = tempfile::tempdir().unwrap();
    let search = open(&folder).await.unwrap();
    let scope = all_of(Uuid::new_v4());
    let mut words = Words(1);
    let changes: Vec<Change> = (0..1_000)
        .map(|n| {
            let mut entry = entry(scope.organization, &format!("n{n}"), &words.text(6), &words.text(1_400));
            entry.tags = vec![words.text(1), words.text(1)];
            put(entry)
        })
        .collect();
    let bytes: usize = changes.iter().map(|change| if let Change::Put(e) = change { e.body.len() } else { 0 }).sum();
    let started = Instant::now();
    search.apply(changes, at(1)).await.unwrap();
    println!("1000 entries, {bytes} bytes of text: {:?}", started.elapsed());
    let started = Instant::now();
    search.apply(vec![put(entry(scope.organization, "one", "one", "more"))], at(2)).await.unwrap();
    println!("one entry: {:?}", started.elapsed());
    for (name, count) in [("one word", 1), ("three words", 3), ("ten words", 10)] {
        let mut times: Vec<_> = Vec::new();
        for _ in 0..50 {
            let request = SearchRequest { first: 20, ..ask(&words.text(count)) };
            let started = Instant::now();
            search.search(&scope, &request).await.unwrap();
            times.push(started.elapsed());
        }
        times.sort();
        println!("search, {name}: p50 {:?}, p98 {:?}", times[25], times[48]);
    }
    let mut times: Vec<_> = Vec::new();
    for _ in 0..50 {
        let word = words.text(1);
        let started = Instant::now();
        search.suggest(&scope, &word[..3.min(word.len())], 10).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    println!("suggest: p50 {:?}, p98 {:?}; {:?}", times[25], times[48], search.stats().await.unwrap());
}

/// Made-up words, frequent ones more frequent, the same in every run.
struct Words(u64);

impl Words {
    fn text(&mut self, count: usize) -> String {
        let words = (0..count).map(|_| {
            let (a, b) = (self.next(20_000), self.next(20_000));
            let mut number = 3 + a * b / 20_000;
            let mut word = String::new();
            while number > 0 {
                word.push_str(["ba", "ke", "lin", "or", "tus", "ma", "ri", "sen", "do", "vi"][number % 10]);
                number /= 10;
            }
            word
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

fn generations(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

fn files(folder: &PathBuf) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_put_first_after_a_restart_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let organization = Uuid::new_v4();
    let one = |name: &str| put(entry(organization, name, "Harbour", "a lamp"));
    let commits = [
        "a b c d e f g h i j", // A large segment in which nothing is replaced,
        "k l m n",             // one in which something is,
        "o",
        "p",
        "q",
        "r",
        "s",
        "l", // right before the process ends, and with so many segments that they are about to be merged.
    ];
    let search = open(&folder).await.unwrap();
    for (entries, position) in commits.iter().zip(1..) {
        search.apply(entries.split(' ').map(one).collect(), at(position)).await.unwrap();
    }
    drop(search);
    let search = open(&folder).await.unwrap();
    search.apply(vec![one("k")], at(9)).await.unwrap();
    // The merge ends at some time beside these.
    for position in 10..40 {
        search.apply(vec![one("o")], at(position)).await.unwrap();
        assert_eq!(search.stats().await.unwrap().documents, 19);
    }
}
