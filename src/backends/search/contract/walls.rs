//! Random entries of three organisations, and every answer counted again by hand: nothing from outside a scope
//! is in its hits, totals, facets or suggestions, and every count is exact.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Random entries of three organisations with the same words; what a scope sees is what a recount by hand says:
/// hits, total, every facet and every suggestion.
pub(super) fn walls_and_counts_hold(bed: &Bed) {
    let strategy = (prop::collection::vec(random(), 1..40), prop::collection::vec(asked(), 1..6));
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let handle = tokio::runtime::Handle::current();
    let run = |(entries, asks)| {
        tokio::task::block_in_place(|| handle.block_on(check_random(bed, entries, asks)));
        Ok(())
    };
    runner.run(&strategy, run).unwrap();
}

/// Words that no typing error, stem or prefix turns into each other.
const WORDS: [&str; 5] = ["apple", "zebra", "quartz", "violin", "hockey"];

#[derive(Debug, Clone)]
struct Random {
    organization: usize,
    project: Option<usize>,
    kind: bool,
    title: Vec<usize>,
    body: Vec<usize>,
    tags: BTreeSet<usize>,
    media: Option<usize>,
}

fn random() -> impl Strategy<Value = Random> {
    let words = || prop::collection::vec(0..WORDS.len(), 0..3);
    (
        0..3usize,
        prop::option::of(0..3usize),
        any::<bool>(),
        words(),
        words(),
        prop::collection::btree_set(0..WORDS.len(), 0..3),
        prop::option::of(0..2usize),
    )
        .prop_map(|(organization, project, kind, title, body, tags, media)| Random {
            organization,
            project,
            kind,
            title,
            body,
            tags,
            media,
        })
}

type Ask = (Option<BTreeSet<usize>>, Option<usize>, Option<usize>, BTreeSet<usize>, Option<usize>, Option<bool>);

fn asked() -> impl Strategy<Value = Ask> {
    (
        prop::option::of(prop::collection::btree_set(0..3usize, 0..3)),
        prop::option::of(0..WORDS.len()),
        prop::option::of(0..3usize),
        prop::collection::btree_set(0..WORDS.len(), 0..2),
        prop::option::of(0..2usize),
        prop::option::of(any::<bool>()),
    )
}

async fn check_random(bed: &Bed, entries: Vec<Random>, asks: Vec<Ask>) {
    let organizations: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
    // The same project ids everywhere: the organisation alone must wall them off.
    let projects: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
    let text = |words: &[usize]| words.iter().map(|word| WORDS[*word]).collect::<Vec<_>>().join(" ");
    let entries: Vec<Entry> = entries
        .into_iter()
        .enumerate()
        .map(|(n, random)| Entry {
            kind: if random.kind { "Document" } else { "Project" }.into(),
            project: random.project.map(|project| projects[project]),
            tags: random.tags.iter().map(|tag| WORDS[*tag].to_owned()).collect(),
            media_type: random.media.map(|media| format!("type/{media}")),
            ..entry(organizations[random.organization], &format!("r{n}"), &text(&random.title), &text(&random.body))
        })
        .collect();
    let (some, rest) = entries.split_at(entries.len() / 2);
    bed.put(some).await;
    bed.put(rest).await;
    for (visible, word, project, tags, media, kind) in asks {
        let scope = Scope {
            organization: organizations[0],
            projects: visible.map(|visible| visible.into_iter().map(|project| projects[project]).collect()),
        };
        let request = SearchRequest {
            project: project.map(|project| projects[project]),
            tags: tags.iter().map(|tag| WORDS[*tag].to_owned()).collect(),
            media_types: media.iter().map(|media| format!("type/{media}")).collect(),
            kinds: kind.iter().map(|kind| if *kind { "Document" } else { "Project" }.to_owned()).collect(),
            ..ask(word.map_or("", |word| WORDS[word]))
        };
        let seen: Vec<&Entry> = entries
            .iter()
            .filter(|entry| entry.organization == scope.organization)
            .filter(|entry| match &scope.projects {
                Some(projects) => entry.project.is_some_and(|project| projects.contains(&project)),
                None => true,
            })
            .collect();
        let matching: Vec<&Entry> = seen
            .iter()
            .copied()
            .filter(|entry| {
                let has = |word: &str| {
                    entry.title.contains(word) || entry.body.contains(word) || entry.tags.iter().any(|t| t == word)
                };
                word.is_none_or(|word| has(WORDS[word]))
                    && request.project.is_none_or(|project| entry.project == Some(project))
                    && request.tags.iter().all(|tag| entry.tags.contains(tag))
                    && (request.media_types.is_empty()
                        || request.media_types.iter().any(|media| entry.media_type.as_ref() == Some(media)))
                    && (request.kinds.is_empty() || request.kinds.contains(&entry.kind))
            })
            .collect();
        let answer = bed.search.search(&scope, &request).await.unwrap();
        let hits: BTreeSet<&str> = answer.hits.iter().map(|hit| hit.id.as_str()).collect();
        assert_eq!(hits, matching.iter().map(|entry| entry.id.as_str()).collect::<BTreeSet<_>>(), "{request:?}");
        assert_eq!(answer.total as usize, matching.len(), "{request:?}");
        for facet in &answer.facets {
            assert_eq!(facet.values, recount(facet.field, &matching), "{:?} of {request:?}", facet.field);
        }
        for typed in ["a", "z", "qu", "vio", "hockey"] {
            for suggestion in bed.search.suggest(&scope, typed, MAX_FIRST).await.unwrap() {
                let known = seen.iter().any(|entry| {
                    suggestion.id.as_ref().is_none_or(|id| *id == entry.id)
                        && (entry.title == suggestion.text || entry.tags.contains(&suggestion.text))
                });
                assert!(known, "{suggestion:?} is not in {scope:?}");
            }
        }
    }
    bed.apply(organizations.into_iter().map(Change::RemoveOrganization).collect()).await;
}

fn recount(field: FacetField, entries: &[&Entry]) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        let values: Vec<String> = match field {
            FacetField::Type => vec![entry.kind.clone()],
            FacetField::Tag => entry.tags.clone(),
            FacetField::Project => entry.project.iter().map(Uuid::to_string).collect(),
            FacetField::MediaType => entry.media_type.iter().cloned().collect(),
        };
        for value in values {
            *counts.entry(value).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}
