//! What every search backend does, as one suite. A backend is tested by handing an empty one to [`contract`].
#![allow(clippy::unwrap_used)]

mod walls;

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeZone, Utc};
use uuid::Uuid;

use super::*;

/// What a backend does beyond what all do.
#[derive(Clone, Copy)]
pub(super) struct Skills {
    /// It finds "vacuum" by "vacuuming".
    pub stems: bool,
    /// `vac*` means words that begin so, and `vac` does not.
    pub prefix_operator: bool,
}

/// Runs the whole suite on an empty index.
pub(super) async fn contract(search: Search, skills: Skills) {
    let bed = Bed { search, position: AtomicI64::new(0) };
    starts_empty(&bed).await;
    shows_what_was_applied(&bed).await;
    ranks_as_people_expect(&bed).await;
    finds_values_and_forms(&bed, skills).await;
    understands_queries(&bed, skills).await;
    takes_anything_typed(&bed).await;
    browses_newest_first(&bed).await;
    pages_through_everything(&bed).await;
    highlights_and_escapes(&bed).await;
    suggests(&bed).await;
    names_its_limits(&bed).await;
    walls::walls_and_counts_hold(&bed);
    rebuilds_beside(&bed).await;
    compares_entry_by_entry(&bed).await;
    resets(&bed).await;
}

/// The index under test and the log it follows.
struct Bed {
    search: Search,
    position: AtomicI64,
}

impl Bed {
    fn next(&self) -> Checkpoint {
        at(self.position.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn apply(&self, changes: Vec<Change>) -> Checkpoint {
        let to = self.next();
        self.search.apply(changes, to).await.unwrap();
        to
    }

    async fn put(&self, entries: &[Entry]) -> Checkpoint {
        self.apply(entries.iter().cloned().map(put).collect()).await
    }

    async fn ids(&self, scope: &Scope, query: &str) -> Vec<String> {
        let answer = self.search.search(scope, &ask(query)).await.unwrap();
        assert_eq!(answer.total as usize, answer.hits.len(), "{query}: total and hits differ");
        answer.hits.into_iter().map(|hit| hit.id).collect()
    }
}

pub(super) fn at(position: i64) -> Checkpoint {
    Checkpoint { position, event_id: Uuid::from_u128(position as u128 + 7) }
}

pub(super) fn put(entry: Entry) -> Change {
    Change::Put(Box::new(entry))
}

pub(super) fn ask(query: &str) -> SearchRequest {
    SearchRequest { query: query.into(), first: MAX_FIRST, ..SearchRequest::default() }
}

pub(super) fn all_of(organization: Uuid) -> Scope {
    Scope { organization, projects: None }
}

pub(super) fn entry(organization: Uuid, id: &str, title: &str, body: &str) -> Entry {
    Entry {
        id: format!("doc_{id}_{}", organization.simple()),
        kind: "Document".into(),
        organization,
        project: None,
        title: title.into(),
        body: body.into(),
        tags: Vec::new(),
        media_type: Some("text/plain".into()),
        keywords: Vec::new(),
        updated_at: time(0),
    }
}

fn time(minute: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_700_000_000 + minute * 60, 0).unwrap()
}

/// The short names that `entry` was given.
fn short(ids: &[String]) -> Vec<&str> {
    ids.iter().map(|id| id.split('_').nth(1).unwrap()).collect()
}

async fn starts_empty(bed: &Bed) {
    assert_eq!(bed.search.checkpoint().await.unwrap(), None);
    let answer = bed.search.search(&all_of(Uuid::new_v4()), &ask("")).await.unwrap();
    assert_eq!((answer.total, answer.hits.len(), answer.has_next), (0, 0, false));
    assert_eq!(answer.checkpoint, None);
    let fields: Vec<_> = answer.facets.iter().map(|facet| facet.field.as_str()).collect();
    assert_eq!(fields, ["type", "tag", "project", "mediaType"], "all facets are there, empty or not");
}

async fn shows_what_was_applied(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let mut first = entry(scope.organization, "first", "A lighthouse", "");
    let to = bed.put(&[first.clone()]).await;
    let answer = bed.search.search(&scope, &ask("lighthouse")).await.unwrap();
    assert_eq!((answer.total, answer.checkpoint), (1, Some(to)), "readers see it when apply returns");
    assert_eq!(bed.search.checkpoint().await.unwrap(), Some(to));

    bed.search.apply(vec![put(first.clone())], to).await.unwrap();
    assert_eq!(bed.ids(&scope, "").await.len(), 1, "the same again changes nothing");

    first.title = "A windmill".into();
    let second = entry(scope.organization, "second", "A lighthouse too", "");
    let gone = Change::Remove { id: second.id.clone() };
    let never = Change::Remove { id: "doc_never_there".into() };
    bed.apply(vec![put(first.clone()), put(second.clone()), gone.clone(), put(second), never]).await;
    assert_eq!(short(&bed.ids(&scope, "lighthouse").await), ["second"], "changes work in their order");
    assert_eq!(short(&bed.ids(&scope, "windmill").await), ["first"], "a put replaces");
    bed.apply(vec![gone]).await;
    assert!(bed.ids(&scope, "lighthouse").await.is_empty());

    let neighbour = all_of(Uuid::new_v4());
    bed.put(&[entry(neighbour.organization, "theirs", "A windmill", "")]).await;
    bed.apply(vec![Change::RemoveOrganization(scope.organization)]).await;
    assert!(bed.ids(&scope, "").await.is_empty());
    assert_eq!(bed.ids(&neighbour, "").await.len(), 1, "only that organisation is removed");

    let to = bed.apply(Vec::new()).await;
    assert_eq!(bed.search.checkpoint().await.unwrap(), Some(to), "events without entries move the checkpoint");
    let back = bed.search.apply(Vec::new(), at(to.position - 1)).await;
    assert!(matches!(back, Err(SearchError::Backwards { .. })), "{back:?}");
}

async fn ranks_as_people_expect(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let org = scope.organization;
    let filler = "some other words stand around here to make a text ";
    let mut tagged = entry(org, "tagged", "Second thing", filler);
    tagged.tags = vec!["granite".into()];
    bed.put(&[
        entry(org, "body", "Third thing", &format!("{filler} granite {filler}")),
        tagged,
        entry(org, "titled", "Granite thing", filler),
        entry(org, "both", "Nothing", "harbour and crane"),
        entry(org, "one", "Harbour harbour harbour", "harbour harbour"),
        entry(org, "mistyped", "Orchestr", "orchestr orchestr"),
        entry(org, "exact", "Nothing much", &format!("{filler} {filler} orchestra")),
    ])
    .await;
    assert_eq!(short(&bed.ids(&scope, "granite").await), ["titled", "tagged", "body"]);
    assert_eq!(short(&bed.ids(&scope, "harbour crane").await), ["both", "one"], "all words before some");
    assert_eq!(short(&bed.ids(&scope, "orchestra").await), ["exact", "mistyped"], "exact before mistyped");
}

async fn finds_values_and_forms(bed: &Bed, skills: Skills) {
    let scope = all_of(Uuid::new_v4());
    let org = scope.organization;
    let mut invoice = entry(org, "invoice", "Bill", "");
    invoice.keywords = vec!["INV-2024/0017".into(), "scan_final.v2.pdf".into()];
    let mut other = entry(org, "other", "Bill", "");
    other.keywords = vec!["INV-2024/0018".into()];
    bed.put(&[
        invoice,
        other,
        entry(org, "cafe", "Le Café NOIR", ""),
        entry(org, "stem", "Vacuum", "Vacuum the hall"),
        entry(org, "form", "Vacuuming", "Vacuuming the hall"),
        entry(org, "japanese", "全文検索", "日本語の全文検索エンジン"),
    ])
    .await;
    assert_eq!(short(&bed.ids(&scope, "INV-2024/0017").await)[0], "invoice", "an exact value comes first");
    assert_eq!(short(&bed.ids(&scope, "scan_final.v2.pdf").await)[0], "invoice");
    assert_eq!(short(&bed.ids(&scope, "café").await), ["cafe"]);
    assert_eq!(short(&bed.ids(&scope, "CAFE noir").await), ["cafe"], "accents and case are folded");
    assert_eq!(short(&bed.ids(&scope, "検索").await), ["japanese"], "scripts without spaces");
    if skills.stems {
        assert_eq!(short(&bed.ids(&scope, "vacuuming").await), ["form", "stem"], "the exact form first");
        assert_eq!(short(&bed.ids(&scope, "vacuums").await).len(), 2);
    }
    for (typed, found) in [("vacum", true), ("vaccuum", true), ("vcauum", true), ("bil", false), ("0016", false)] {
        assert_eq!(!bed.ids(&scope, typed).await.is_empty(), found, "{typed}");
    }
}

async fn understands_queries(bed: &Bed, skills: Skills) {
    let scope = all_of(Uuid::new_v4());
    let org = scope.organization;
    bed.put(&[
        entry(org, "phrase", "Care", "clean a hard floor with care"),
        entry(org, "apart", "Care", "a floor so hard to clean"),
        entry(org, "carpet", "Carpets", "clean the carpet"),
    ])
    .await;
    assert_eq!(short(&bed.ids(&scope, "\"hard floor\"").await), ["phrase"]);
    assert_eq!(short(&bed.ids(&scope, "hard floor").await), ["phrase", "apart"], "close words come first");
    assert_eq!(bed.ids(&scope, "clean").await.len(), 3);
    assert_eq!(short(&bed.ids(&scope, "clean -hard").await), ["carpet"]);
    assert_eq!(short(&bed.ids(&scope, "clean -\"hard floor\" -carpet").await), ["apart"]);
    if skills.prefix_operator {
        assert_eq!(short(&bed.ids(&scope, "carp*").await), ["carpet"]);
        assert_eq!(short(&bed.ids(&scope, "carpt").await), ["carpet"], "a letter missing is a typing error");
        assert!(bed.ids(&scope, "flo").await.is_empty(), "a word is not a prefix unless it says so");
        assert_eq!(short(&bed.ids(&scope, "clean -har*").await), ["carpet"]);
        assert_eq!(bed.ids(&scope, "-carpet").await.len(), 2, "everything without");
    }
}

async fn takes_anything_typed(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    bed.put(&[entry(scope.organization, "plain", "Plain title", "and a text")]).await;
    let odd = [
        "(",
        ")",
        "\"",
        "title\"",
        "\"title",
        "AND OR NOT",
        "title:",
        "title:text",
        "body:[a TO z]",
        "*",
        "**",
        "?",
        "a^2",
        "~",
        "/re.*/",
        "\\",
        "{}",
        "<b>",
        "a AND (b OR",
        "-",
        "--",
        "- -",
        "+",
        "🚀",
        "\u{0}",
        "' OR 1=1",
        "\" \" \"",
        "-\"",
        "é\u{301}\u{301}",
        "\u{202E}abc",
        "NOT",
        "%",
        "plain\ntitle",
    ];
    for typed in odd {
        let answer = bed.search.search(&scope, &ask(typed)).await;
        assert!(answer.is_ok(), "{typed:?}: {answer:?}");
        bed.search.suggest(&scope, typed, 5).await.unwrap();
    }
}

async fn browses_newest_first(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let mut entries = Vec::new();
    for (id, minute) in [("old", 1), ("new", 3), ("middle", 2)] {
        let mut entry = entry(scope.organization, id, "Same", "same");
        entry.updated_at = time(minute);
        entries.push(entry);
    }
    bed.put(&entries).await;
    assert_eq!(short(&bed.ids(&scope, "").await), ["new", "middle", "old"]);
    assert_eq!(short(&bed.ids(&scope, "   ").await), ["new", "middle", "old"]);
}

async fn pages_through_everything(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let mut entries = Vec::new();
    for n in 0..57 {
        // Many equal scores and times, so that ties are decided.
        let mut entry = entry(scope.organization, &format!("n{n}"), "Equal", &"pebble ".repeat(1 + n % 3));
        entry.updated_at = time(n as i64 % 2);
        entries.push(entry);
    }
    // Several commits, so that several segments.
    for some in entries.chunks(20) {
        bed.put(some).await;
    }
    for query in ["pebble", ""] {
        let whole = bed.ids(&scope, query).await;
        assert_eq!(whole.len(), 57);
        let mut paged = Vec::new();
        let mut request = SearchRequest { first: 10, ..ask(query) };
        loop {
            let page = bed.search.search(&scope, &request).await.unwrap();
            assert_eq!(page.total, 57);
            request.after = page.hits.last().map(|hit| hit.cursor.clone());
            paged.extend(page.hits.into_iter().map(|hit| hit.id));
            assert_eq!(page.has_next, paged.len() < 57);
            if !page.has_next {
                break;
            }
        }
        assert_eq!(paged, whole, "{query:?}: the pages are the whole answer");
    }
    let request = SearchRequest { after: Some(Cursor("bm9uc2Vuc2U".into())), ..ask("pebble") };
    assert!(matches!(bed.search.search(&scope, &request).await, Err(SearchError::Cursor)));
}

async fn highlights_and_escapes(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let around = "lorem ipsum dolor sit amet consetetur ".repeat(20);
    let body = format!("{around} <script>alert('turbine')</script> {around}");
    bed.put(&[entry(scope.organization, "x", "Big <b>Turbine</b>", &body)]).await;
    let answer = bed.search.search(&scope, &ask("turbine")).await.unwrap();
    let highlights = &answer.hits[0].highlights;
    let of = |field| &highlights.iter().find(|highlight| highlight.field == field).unwrap().fragments;
    assert_eq!(*of(HighlightField::Title), ["Big &lt;b&gt;<mark>Turbine</mark>&lt;/b&gt;"]);
    let body = of(HighlightField::Body);
    assert_eq!(body.len(), 1);
    assert!(body[0].contains("<mark>turbine</mark>"), "{body:?}");
    assert!(!body[0].contains("<script"), "{body:?}");
    assert!(body[0].len() < 300, "{body:?}");
    let mistyped = bed.search.search(&scope, &ask("turbin")).await.unwrap();
    assert!(mistyped.hits[0].highlights[0].fragments[0].contains("<mark>"), "what matched is marked");
    let browsed = bed.search.search(&scope, &ask("")).await.unwrap();
    assert!(browsed.hits[0].highlights.is_empty());
}

async fn suggests(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let org = scope.organization;
    let mut report = entry(org, "report", "Annual Report", "reproduction");
    report.tags = vec!["reporting".into(), "finance".into()];
    report.keywords = vec!["report-2024.pdf".into()];
    let mut repair = entry(org, "repair", "Repair manual", "");
    repair.tags = vec!["reporting".into()];
    let again = entry(org, "again", "annual report", "");
    bed.put(&[report.clone(), repair, again]).await;
    let suggest = |typed: &'static str, first| {
        let scope = scope.clone();
        async move { bed.search.suggest(&scope, typed, first).await.unwrap() }
    };
    let texts: Vec<String> = suggest("rep", 10).await.into_iter().map(|s| s.text).collect();
    assert_eq!(texts[0], "Repair manual", "what begins so comes first");
    assert_eq!(texts.len(), 4, "each text once: {texts:?}");
    for text in ["reporting", "report-2024.pdf"] {
        assert!(texts.iter().any(|other| other == text), "{text} in {texts:?}");
    }
    assert!(!texts.iter().any(|text| text.contains("reproduction") || text == "finance"), "{texts:?}");
    let tag = suggest("reporti", 10).await;
    assert_eq!(tag, [Suggestion { text: "reporting".into(), id: None, kind: "tag".into() }]);
    let both = suggest("annual rep", 10).await;
    assert!(both.iter().all(|s| s.text.eq_ignore_ascii_case("annual report")), "all words, not one: {both:?}");
    let title = suggest("annual rep", 1).await;
    assert!(title[0].text.eq_ignore_ascii_case("annual report"));
    assert!(title[0].id.is_some() && title[0].kind == "Document");
    assert!(suggest("", 10).await.is_empty());
    assert!(suggest("zzz", 10).await.is_empty());
}

async fn names_its_limits(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let tags = vec!["t".to_owned(); MAX_FILTER_VALUES + 1];
    let many = (0..=MAX_QUERY_WORDS).map(|n| format!("w{n} ")).collect::<String>();
    for request in [
        ask(&"x".repeat(MAX_QUERY_CHARS + 1)),
        ask(&many),
        SearchRequest { first: MAX_FIRST + 1, ..ask("") },
        SearchRequest { tags, ..ask("") },
    ] {
        let refused = bed.search.search(&scope, &request).await;
        assert!(matches!(refused, Err(SearchError::Limit { .. })), "{refused:?}");
    }
}

async fn rebuilds_beside(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    let org = scope.organization;
    bed.put(&[entry(org, "before", "Glacier", "")]).await;

    let rebuild = bed.search.begin_rebuild().await.unwrap();
    assert_eq!(rebuild.checkpoint().await.unwrap(), None, "it starts empty");
    assert!(matches!(bed.search.begin_rebuild().await, Err(SearchError::Rebuilding)));
    rebuild.apply(vec![put(entry(org, "after", "Glacier", ""))], at(1)).await.unwrap();
    assert_eq!(short(&bed.ids(&scope, "glacier").await), ["before"], "the running one goes on serving");
    let to = bed.put(&[entry(org, "meanwhile", "Glacier", "")]).await;
    assert_eq!(bed.ids(&scope, "glacier").await.len(), 2, "and being applied to");
    assert_eq!(rebuild.checkpoint().await.unwrap(), Some(at(1)));
    let early = rebuild.switch().await;
    assert!(matches!(early, Err(SearchError::Backwards { .. })), "not while it is behind: {early:?}");
    assert_eq!(bed.ids(&scope, "glacier").await.len(), 2, "and nothing happened");

    let rebuild = bed.search.begin_rebuild().await.unwrap();
    rebuild.apply(vec![put(entry(org, "after", "Glacier", ""))], to).await.unwrap();
    let generation = bed.search.generation();
    rebuild.switch().await.unwrap();
    assert_eq!(bed.search.generation(), generation + 1);
    let answer = bed.search.search(&scope, &ask("glacier")).await.unwrap();
    assert_eq!(short(&[answer.hits[0].id.clone()]), ["after"]);
    assert_eq!((answer.total, answer.checkpoint), (1, Some(to)));
    bed.put(&[entry(org, "later", "Glacier", "")]).await;
    assert_eq!(bed.ids(&scope, "glacier").await.len(), 2, "the new one is applied to");

    let rebuild = bed.search.begin_rebuild().await.unwrap();
    rebuild.apply(vec![put(entry(org, "never", "Glacier", ""))], bed.next()).await.unwrap();
    rebuild.abort().await.unwrap();
    assert_eq!(bed.ids(&scope, "glacier").await.len(), 2);
    drop(bed.search.begin_rebuild().await.unwrap());
    assert_eq!(bed.ids(&scope, "glacier").await.len(), 2, "a dropped one never was");
}

async fn compares_entry_by_entry(bed: &Bed) {
    let org = Uuid::new_v4();
    bed.search.reset().await.unwrap();
    let entries: Vec<Entry> = (0..60).map(|n| entry(org, &format!("n{n}"), "Fjord", &"deep ".repeat(1 + n))).collect();
    // In several steps, and some of them twice: how it came about makes no difference.
    for some in entries.chunks(25) {
        bed.put(some).await;
    }
    let to = bed.put(&entries[7..9]).await;
    let mut others: Vec<(Entry, u64)> = vec![(entries[3].clone(), 0)];
    let changed: [fn(&mut Entry); 9] = [
        |entry| entry.organization = Uuid::from_u128(5),
        |entry| entry.project = Some(Uuid::from_u128(6)),
        |entry| entry.kind = "Project".into(),
        |entry| entry.title = "Fjords".into(),
        |entry| entry.body.push_str("and cold"),
        |entry| entry.tags = vec!["water".into()],
        |entry| entry.media_type = None,
        |entry| entry.keywords = vec!["fjord.txt".into()],
        |entry| entry.updated_at = time(9),
    ];
    others.extend(changed.iter().map(|change| {
        let mut other = entries[3].clone();
        change(&mut other);
        (other, 1)
    }));
    for (other, differing) in others {
        let rebuild = bed.search.begin_rebuild().await.unwrap();
        let mut fresh = entries.clone();
        fresh[3] = other.clone();
        fresh.reverse();
        rebuild.apply(fresh.into_iter().map(put).collect(), to).await.unwrap();
        let expected = Compared { entries: 60, only_running: differing, only_other: differing };
        assert_eq!(rebuild.compare(()).await.unwrap(), expected, "{other:?}");
        rebuild.abort().await.unwrap();
    }
    let rebuild = bed.search.begin_rebuild().await.unwrap();
    rebuild.apply(entries[2..].iter().cloned().map(put).collect(), to).await.unwrap();
    rebuild.apply(vec![put(entry(org, "more", "Fjord", ""))], to).await.unwrap();
    let expected = Compared { entries: 60, only_running: 2, only_other: 1 };
    assert_eq!(rebuild.compare(()).await.unwrap(), expected);
    rebuild.abort().await.unwrap();
}

async fn resets(bed: &Bed) {
    let scope = all_of(Uuid::new_v4());
    bed.put(&[entry(scope.organization, "x", "Meadow", "")]).await;
    assert!(bed.search.stats().await.unwrap().documents > 0);
    bed.search.reset().await.unwrap();
    assert_eq!(bed.search.checkpoint().await.unwrap(), None);
    assert!(bed.ids(&scope, "").await.is_empty());
    assert_eq!(bed.search.stats().await.unwrap().documents, 0);
    bed.search.apply(vec![put(entry(scope.organization, "y", "Meadow", ""))], at(1)).await.unwrap();
    assert_eq!(short(&bed.ids(&scope, "meadow").await), ["y"], "a new history starts at any position");
}

mod meilisearch {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_meilisearch_server_keeps_the_contract() {
        let Ok(url) = std::env::var("ORIEL_TEST_MEILISEARCH_URL") else {
            eprintln!("NOT RUN: set ORIEL_TEST_MEILISEARCH_URL (and ORIEL_TEST_MEILISEARCH_KEY) to test Meilisearch");
            return;
        };
        let key = std::env::var("ORIEL_TEST_MEILISEARCH_KEY").ok();
        let prefix = format!("oriel_test_{}", Uuid::new_v4().simple());
        let index = Meilisearch::open(&url, key.as_deref(), &prefix).await.unwrap();
        contract(Search::Meilisearch(index), Skills { stems: false, prefix_operator: false }).await;
    }
}
