//! What the viewer may see, what is recorded, how many statements it takes.

use futures::future::join_all;
use sea_orm::{FromQueryResult, QuerySelect, TransactionTrait};

use super::*;

/// Two organisations, two shelves in each: thing n is in organisation 1 + (n - 1) / 2 % 2, on shelf n.
async fn two_organizations() -> DatabaseConnection {
    let db = sqlite().await;
    let place = |n: u128| Model { organization_id: org(1 + (n - 1) / 2 % 2), shelf_id: shelf(n), ..thing(n) };
    put(&db, (1..=4).map(place)).await;
    db
}

async fn seen(reader: &Reader) -> Vec<u128> {
    let mut seen = Vec::new();
    for number in 1..=5 {
        let got = reader.get::<Model>(uuid(number)).await.unwrap();
        seen.extend(got.map(|t| t.id.uuid().as_u128()));
    }
    seen
}

/// The things on a page of this shelf.
async fn ids_on(reader: &Reader, number: u128) -> Vec<u128> {
    let page = reader.page(Model::in_shelf(shelf(number)), PageArgs::default(), None, None).unwrap();
    page.rows().await.unwrap().iter().map(|t| t.id.uuid().as_u128()).collect()
}

#[tokio::test]
async fn nobody_sees_what_is_not_theirs_by_any_way_of_reading() {
    let db = two_organizations().await;
    for (viewer, expected) in [
        (viewer(1, Visible::All), vec![1, 2]),
        (viewer(2, Visible::All), vec![3, 4]),
        (viewer(1, only(&[2, 3])), vec![2]),
        (viewer(1, only(&[])), vec![]),
        (viewer(3, Visible::All), vec![]),
    ] {
        assert_eq!(seen(&reader_of(&db, viewer.clone())).await, expected);
        let reader = reader_of(&db, viewer.clone());
        let (mut paged, mut many, mut counted, mut matching, mut first, mut shaped) = (vec![], vec![], 0, 0, 0, 0);
        for organization in 1..=3 {
            let list = || Model::in_org(org(organization));
            let page = reader.page(list(), PageArgs::default(), None, None).unwrap();
            matching += page.total_count().await.unwrap();
            paged.extend(page.rows().await.unwrap().iter().map(|t| t.id.uuid().as_u128()));
            many.extend(reader.many(list()).await.unwrap().iter().map(|t| t.id.uuid().as_u128()));
            counted += reader.count(list()).await.unwrap();
            first += reader.first(list()).await.unwrap().is_some() as usize;
            #[derive(FromQueryResult)]
            struct Name {
                name: String,
            }
            let names: Vec<Name> = reader.shaped(list(), |s| s.column(Column::Name)).await.unwrap();
            shaped += names.iter().filter(|n| n.name.starts_with("thing")).count();
        }
        let on_shelves = join_all((1..=4).map(|s| ids_on(&reader, s))).await.concat();
        assert_eq!(on_shelves, expected);
        let n = expected.len();
        assert_eq!((paged, many), (expected.clone(), expected));
        assert_eq!((counted, matching, first, shaped), (n as u64, n as u64, usize::from(n > 0), n));
    }
}

#[tokio::test]
async fn what_is_asked_together_is_one_statement() {
    let db = sqlite().await;
    put(&db, (1..=40).map(|n| Model { shelf_id: shelf(n % 4), ..thing(n) })).await;
    let reader = reader(&db);
    let statements = || reader.recorder().statements();

    let got = join_all((1..=50).map(|n| reader.get::<Model>(ThingId::from_uuid(uuid(n))))).await;
    assert_eq!(got.iter().filter(|r| r.as_ref().unwrap().is_some()).count(), 40);
    assert_eq!(statements(), 1);
    reader.get::<Model>(uuid(3)).await.unwrap();
    assert_eq!(statements(), 1, "remembered");
    assert_eq!(reader.get::<Model>(ThingId::ABSENT).await, Ok(None));
    assert_eq!(statements(), 1, "the id of nothing is not asked for");

    let groups = join_all((0..6).map(|s| reader.many(Model::in_shelf(shelf(s))))).await;
    let groups: Vec<Vec<u128>> =
        groups.into_iter().map(|g| g.unwrap().iter().map(|t| t.id.uuid().as_u128()).collect()).collect();
    assert_eq!(groups[1], (1..=40).filter(|n| n % 4 == 1).collect::<Vec<_>>());
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 10, 10, 0, 0]);
    assert_eq!(statements(), 2);

    let counts = join_all((0..6).map(|s| reader.count(Model::in_shelf(shelf(s))))).await;
    assert_eq!(counts, [10, 10, 10, 10, 0, 0].map(Ok));
    assert_eq!(statements(), 3);

    let narrowed = |s| Model::in_shelf(shelf(s)).and(Column::Size.gt(20));
    assert_eq!(join_all((0..6).map(|s| reader.count(narrowed(s)))).await, [5, 5, 5, 5, 0, 0].map(Ok));
    assert_eq!(statements(), 4);
    let some = join_all((0..6).map(|s| reader.many(narrowed(s)))).await;
    assert_eq!(some.into_iter().map(|s| s.unwrap().len()).collect::<Vec<_>>(), [5, 5, 5, 5, 0, 0]);
    assert_eq!(statements(), 5);

    let pages = join_all((0..6).map(|s| ids_on(&reader, s))).await;
    assert_eq!(pages[..4].concat().len(), 40);
    assert_eq!(statements(), 6);
    ids_on(&reader, 1).await;
    assert_eq!(statements(), 6, "remembered");
    let size = |n| PageArgs::new(Some(n), None, None, None);
    let pages = [1, 2].map(|n| reader.page(Model::in_shelf(shelf(3)), size(n), None, None).unwrap());
    for (page, n) in pages.iter().zip([1, 2]) {
        assert_eq!(page.rows().await.unwrap().len(), n, "another window is another page");
    }
    assert_eq!(statements(), 8);
}

#[tokio::test]
async fn everything_read_is_recorded_also_when_it_is_not_there() {
    let db = two_organizations().await;
    let texts = |reader: &Reader| {
        let mut texts: Vec<String> = reader.recorder().dependencies().iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    };
    let id = |n: u128| uuid(n).to_string();
    let reader = reader(&db);
    reader.get::<Model>(uuid(1)).await.unwrap();
    reader.get::<Model>(uuid(3)).await.unwrap(); // another organisation's
    reader.get::<Model>(uuid(99)).await.unwrap(); // nobody's
    reader.page(Model::in_org(org(1)), PageArgs::default(), None, None).unwrap();
    reader.count(Model::in_shelf(shelf(50))).await.unwrap();
    reader.many(Model::in_lender(UserId::from_uuid(uuid(51)))).await.unwrap();
    let expected = [
        format!("thing:{}", id(1)),
        format!("thing:{}", id(3)),
        format!("thing:{}", id(99)),
        format!("things@lender:{}", id(51)),
        format!("things@org:{}", id(1)),
        format!("things@shelf:{}", id(50)),
    ];
    assert_eq!(texts(&reader), expected);
    assert!(!reader.recorder().is_personal(), "everyone of the organization sees the same of it");
    assert_eq!(reader.viewer().user, UserId::from_uuid(uuid(7)));
    assert!(reader.recorder().is_personal(), "who asked who they are got an answer of their own");
}

#[test]
fn a_change_touches_the_row_and_every_collection_that_holds_it() {
    let touched = |thing: &Model| {
        let mut touched = Vec::new();
        thing.dependencies(&mut |d| touched.push(d.to_string()));
        touched
    };
    let id = |n: u128| uuid(n).to_string();
    let lent = Model { lender_id: Some(UserId::from_uuid(uuid(5))), ..thing(3) };
    let expected = [
        format!("thing:{}", id(3)),
        format!("things@org:{}", id(1)),
        format!("things@shelf:{}", id(1)),
        format!("things@lender:{}", id(5)),
    ];
    assert_eq!(touched(&lent), expected);
    assert_eq!(touched(&thing(3)), expected[..3]);
}

#[tokio::test]
async fn a_relation_that_is_too_long_to_be_read_whole_is_an_error() {
    let db = sqlite().await;
    put(&db, (1..=6).map(thing)).await;
    let limits = Limits { relation: 5, ..Limits::default() };
    let reader = Reader::with_limits(db.clone(), viewer(1, Visible::All), Arc::default(), limits);
    assert_eq!(reader.many(Model::in_shelf(shelf(1))).await.unwrap_err().code(), "INTERNAL");
}

#[tokio::test]
async fn a_reader_of_a_transaction_reads_in_it() {
    let db = sqlite().await;
    let transaction = Arc::new(db.begin().await.unwrap());
    Entity::insert(thing(1).into_active_model()).exec_without_returning(&*transaction).await.unwrap();
    let reader = Reader::new(transaction.clone(), viewer(1, Visible::All), Arc::default());
    assert_eq!(join_all((1..=2).map(|n| reader.get::<Model>(uuid(n)))).await, [Ok(Some(Arc::new(thing(1)))), Ok(None)]);
    assert_eq!(reader.count(Model::in_org(org(1))).await, Ok(1));
    Entity::insert(thing(2).into_active_model()).exec_without_returning(&*transaction).await.unwrap();
    assert_eq!(reader.count(Model::in_org(org(1))).await, Ok(1), "remembered");
    reader.forget();
    assert_eq!(reader.count(Model::in_org(org(1))).await, Ok(2));
}

#[tokio::test]
async fn a_database_that_fails_is_an_error_without_its_words() {
    let db = sqlite().await;
    let reader = reader(&db);
    db.execute_unprepared("DROP TABLE things").await.unwrap();
    let failed = join_all((1..=3).map(|n| reader.get::<Model>(uuid(n)))).await;
    assert!(failed.iter().all(|r| matches!(r, Err(ReadError::Internal(_)))));
    assert!(!failed[0].as_ref().unwrap_err().message().contains("things"));
}

#[test]
fn the_derive_says_which_columns_want_an_index() {
    let declared = Model::declared();
    let names = |columns: &[Column]| columns.iter().map(|c| c.as_str()).collect::<Vec<_>>();
    assert_eq!(names(declared.orders), ["name", "note", "state", "rank", "size", "loud", "created_at"]);
    assert!(names(declared.filters).contains(&"tags") && !names(declared.filters).contains(&"organization_id"));
}
