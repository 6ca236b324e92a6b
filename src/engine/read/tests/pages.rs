//! Any filter, any order, any page size: the pages one after the other are the list, in both directions.

use std::cmp::Ordering;

use async_graphql::ID;
use futures::future::join_all;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Nothing is written beside the sources; a failure prints its minimal input.
pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn word() -> impl Strategy<Value = String> {
    "[aAbB%_!]{0,3}"
}

pub fn things() -> impl Strategy<Value = Vec<Model>> {
    let one = (
        (1..3u128, option::of(1..3u128), word(), option::of(word()), any::<bool>()),
        (option::of(-2..3i32), 0..3u64, any::<bool>(), vec("[ab]", 0..3), 0..4i64),
    );
    vec(one, 0..24).prop_map(|rows| {
        rows.into_iter()
            .zip(1u128..)
            .map(|(((place, lender, name, note, there), (rank, size, loud, tags, at)), n)| Model {
                // The order of ids is another one than that of insertion.
                id: ThingId::from_uuid(uuid(1 + (n * 7) % 97)),
                shelf_id: shelf(place),
                lender_id: lender.map(|l| UserId::from_uuid(uuid(l))),
                name,
                note,
                state: if there { ThingState::There } else { ThingState::Lost },
                rank,
                size: ByteSize::new(size),
                loud,
                tags: Tags(tags),
                created_at: micros(at * 500_000 + at % 2),
                ..thing(0)
            })
            .collect()
    })
}

pub fn orders() -> impl Strategy<Value = Vec<ThingOrder>> {
    use ThingOrderField::{CreatedAt, Loud, Name, Note, Rank, Size, State};
    let field = prop::sample::select(vec![Name, Note, State, Rank, Size, Loud, CreatedAt]);
    let direction = prop::sample::select(vec![OrderDirection::Asc, OrderDirection::Desc]);
    vec((field, direction).prop_map(|(field, direction)| ThingOrder { field, direction }), 0..4)
}

pub fn filters() -> impl Strategy<Value = ThingFilter> {
    let text = || {
        let fields = (option::of(word()), option::of(word()), option::of(vec(word(), 0..3)), option::of(word()));
        (fields, option::of(word()), option::of(any::<bool>())).prop_map(
            |((eq, ne, any, contains), starts_with, is_null)| StringFilter {
                eq,
                ne,
                r#in: any,
                contains,
                starts_with,
                is_null,
            },
        )
    };
    let rank = (vec(option::of(-2..3i32), 6), option::of(vec(-2..3i32, 0..3)), option::of(any::<bool>())).prop_map(
        |(v, any, is_null)| IntFilter {
            eq: v[0],
            ne: v[1],
            lt: v[2],
            lte: v[3],
            gt: v[4],
            gte: v[5],
            r#in: any,
            is_null,
        },
    );
    let state = prop::sample::select(vec![ThingState::Lost, ThingState::There]);
    let state = (option::of(state.clone()), option::of(state.clone()), option::of(vec(state, 0..2)))
        .prop_map(|(eq, ne, any)| EnumFilter { eq, ne, r#in: any });
    let lender =
        (option::of(1..4u128), option::of(1..4u128), option::of(any::<bool>())).prop_map(|(eq, ne, is_null)| {
            let id = |n| ID(UserId::from_uuid(uuid(n)).to_string());
            IdFilter { eq: eq.map(id), ne: ne.map(id), r#in: None, is_null }
        });
    let tags = (
        option::of("[abc]"),
        option::of(vec("[abc]", 0..3)),
        option::of(vec("[abc]", 0..3)),
        option::of(any::<bool>()),
    )
        .prop_map(|(has, has_any, has_all, is_empty)| TagsFilter { has, has_any, has_all, is_empty });
    let at = vec(option::of((0..4i64).prop_map(|at| micros(at * 500_000 + at % 2))), 5).prop_map(|v| DateTimeFilter {
        eq: v[0],
        lt: v[1],
        lte: v[2],
        gt: v[3],
        gte: v[4],
        is_null: None,
    });
    let one = |leaf: BoxedStrategy<ThingFilter>| leaf;
    let none = ThingFilter::default;
    let leaf = prop_oneof![
        one(text().prop_map(move |name| ThingFilter { name: Some(name), ..none() }).boxed()),
        one(text().prop_map(move |note| ThingFilter { note: Some(note), ..none() }).boxed()),
        one(rank.prop_map(move |rank| ThingFilter { rank: Some(rank), ..none() }).boxed()),
        one(state.prop_map(move |state| ThingFilter { state: Some(state), ..none() }).boxed()),
        one(lender.prop_map(move |lender_id| ThingFilter { lender_id: Some(lender_id), ..none() }).boxed()),
        one(tags.prop_map(move |tags| ThingFilter { tags: Some(tags), ..none() }).boxed()),
        one(at.prop_map(move |at| ThingFilter { created_at: Some(at), ..none() }).boxed()),
        one(any::<bool>()
            .prop_map(move |l| ThingFilter { loud: Some(BooleanFilter { eq: Some(l) }), ..none() })
            .boxed()),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            2 => inner.clone(),
            1 => vec(inner.clone(), 0..3).prop_map(move |and| ThingFilter { and: Some(and), ..none() }),
            1 => (vec(inner.clone(), 0..3), option::of(inner.clone())).prop_map(move |(or, not)| {
                ThingFilter { or: Some(or), not: not.map(Box::new), ..none() }
            }),
            2 => inner.prop_map(move |not| ThingFilter { not: Some(Box::new(not)), ..none() }),
        ]
    })
}

/// What a filter means, without a database.
fn matches(f: &ThingFilter, t: &Model) -> bool {
    fn all<F>(filter: &Option<F>, test: impl FnOnce(&F) -> bool) -> bool {
        filter.as_ref().is_none_or(test)
    }
    fn text(f: &StringFilter, value: Option<&str>) -> bool {
        let lower = |t: &str| t.to_ascii_lowercase();
        all(&f.eq, |x| value == Some(x))
            && all(&f.ne, |x| value != Some(x))
            && all(&f.r#in, |x| value.is_some_and(|v| x.iter().any(|x| x == v)))
            && all(&f.contains, |x| value.is_some_and(|v| lower(v).contains(&lower(x))))
            && all(&f.starts_with, |x| value.is_some_and(|v| lower(v).starts_with(&lower(x))))
            && all(&f.is_null, |x| value.is_none() == *x)
    }
    fn has(t: &Model, word: &String) -> bool {
        t.tags.0.contains(word)
    }
    all(&f.and, |fs| fs.iter().all(|f| matches(f, t)))
        && all(&f.or, |fs| fs.iter().any(|f| matches(f, t)))
        && all(&f.not, |f| !matches(f, t))
        && all(&f.name, |f| text(f, Some(&t.name)))
        && all(&f.note, |f| text(f, t.note.as_deref()))
        && all(&f.rank, |f| {
            all(&f.eq, |x| t.rank == Some(*x))
                && all(&f.ne, |x| t.rank != Some(*x))
                && all(&f.r#in, |x| t.rank.is_some_and(|r| x.contains(&r)))
                && all(&f.lt, |x| t.rank.is_some_and(|r| r < *x))
                && all(&f.lte, |x| t.rank.is_some_and(|r| r <= *x))
                && all(&f.gt, |x| t.rank.is_some_and(|r| r > *x))
                && all(&f.gte, |x| t.rank.is_some_and(|r| r >= *x))
                && all(&f.is_null, |x| t.rank.is_none() == *x)
        })
        && all(&f.state, |f| {
            all(&f.eq, |x| t.state == *x) && all(&f.ne, |x| t.state != *x) && all(&f.r#in, |x| x.contains(&t.state))
        })
        && all(&f.lender_id, |f| {
            let lender = t.lender_id.map(|l| l.to_string());
            all(&f.eq, |x| lender.as_ref() == Some(&x.0))
                && all(&f.ne, |x| lender.as_ref() != Some(&x.0))
                && all(&f.is_null, |x| lender.is_none() == *x)
        })
        && all(&f.loud, |f| all(&f.eq, |x| t.loud == *x))
        && all(&f.tags, |f| {
            all(&f.has, |x| has(t, x))
                && all(&f.has_any, |x| x.iter().any(|x| has(t, x)))
                && all(&f.has_all, |x| x.iter().all(|x| has(t, x)))
                && all(&f.is_empty, |x| t.tags.0.is_empty() == *x)
        })
        && all(&f.created_at, |f| {
            let at = t.created_at;
            all(&f.eq, |x| at == *x)
                && all(&f.lt, |x| at < *x)
                && all(&f.lte, |x| at <= *x)
                && all(&f.gt, |x| at > *x)
                && all(&f.gte, |x| at >= *x)
        })
}

/// What an order means, without a database.
fn compare(orders: &[ThingOrder], a: &Model, b: &Model) -> Ordering {
    fn last<T: Ord>(a: &Option<T>, b: &Option<T>, directed: impl Fn(Ordering) -> Ordering) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) => directed(a.cmp(b)),
            _ => a.is_none().cmp(&b.is_none()),
        }
    }
    for order in orders {
        let directed = |o: Ordering| if order.direction == OrderDirection::Desc { o.reverse() } else { o };
        let ordering = match order.field {
            ThingOrderField::Name => directed(a.name.cmp(&b.name)),
            ThingOrderField::Note => last(&a.note, &b.note, directed),
            ThingOrderField::State => directed(a.state.cmp(&b.state)), // its texts are in the order of its variants
            ThingOrderField::Rank => last(&a.rank, &b.rank, directed),
            ThingOrderField::Size => directed(a.size.cmp(&b.size)),
            ThingOrderField::Loud => directed(a.loud.cmp(&b.loud)),
            ThingOrderField::CreatedAt => directed(a.created_at.cmp(&b.created_at)),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    let by_id = a.id.cmp(&b.id);
    if orders.last().is_some_and(|o| o.direction == OrderDirection::Desc) { by_id.reverse() } else { by_id }
}

/// Walks the list in pages of this size and compares it with what it means.
pub async fn walk(
    db: &DatabaseConnection,
    things: &[Model],
    order: &[ThingOrder],
    filter: Option<&ThingFilter>,
    size: i32,
) {
    let mut expected: Vec<Model> = things.iter().filter(|t| filter.is_none_or(|f| matches(f, t))).cloned().collect();
    expected.sort_by(|a, b| compare(order, a, b));
    let list = || Model::in_org(org(1));
    for backward in [false, true] {
        let (mut seen, mut cursor): (Vec<Model>, Option<String>) = (Vec::new(), None);
        loop {
            let reader = reader(db);
            let args = match backward {
                false => PageArgs::new(Some(size), cursor.take(), None, None),
                true => PageArgs::new(None, None, Some(size), cursor.take()),
            };
            let page = reader.page(list(), args, filter.cloned(), Some(order.to_vec())).unwrap();
            assert_eq!(page.total_count().await.unwrap(), expected.len() as u64, "{filter:?}");
            let info = page.page_info().await.unwrap();
            let rows = page.rows().await.unwrap().to_vec();
            let (goes_on, came_from) = match backward {
                false => (info.has_next_page, info.has_previous_page),
                true => (info.has_previous_page, info.has_next_page),
            };
            assert_eq!(came_from, !seen.is_empty());
            assert_eq!(goes_on, seen.len() + rows.len() < expected.len());
            if goes_on {
                assert_eq!(rows.len(), size as usize);
            }
            match backward {
                false => seen.extend(rows),
                true => seen = rows.into_iter().chain(seen).collect(),
            }
            cursor = if backward { info.start_cursor } else { info.end_cursor };
            if !goes_on {
                break;
            }
        }
        assert_eq!(seen, expected, "backward: {backward}, order: {order:?}, filter: {filter:?}");
    }
}

/// Asks for a page of each shelf, and of what each lender lent, together, and compares them with what each gives alone.
pub async fn together(db: &DatabaseConnection, order: &[ThingOrder], filter: Option<&ThingFilter>, size: i32) {
    let page = |reader: &Reader, of, args| reader.page(of, args, filter.cloned(), Some(order.to_vec())).unwrap();
    // A cursor is a place in an order, whichever list it came from.
    let whole = page(&reader(db), Model::in_org(org(1)), PageArgs::new(Some(2 * size), None, None, None));
    let cursor = whole.page_info().await.unwrap().end_cursor;
    for args in [
        PageArgs::new(Some(size), None, None, None),
        PageArgs::new(None, None, Some(size), None),
        PageArgs::new(Some(size), cursor.clone(), None, None),
        PageArgs::new(None, None, Some(size), cursor),
    ] {
        let read = async |reader: &Reader, of: Collection<Model>| {
            let page = page(reader, of, args.clone());
            let rows = page.rows().await.unwrap().to_vec();
            (rows, page.page_info().await.unwrap(), page.total_count().await.unwrap())
        };
        // The first and the last have nothing.
        let shelves = || (0..4).map(|n| Model::in_shelf(shelf(n)));
        let lenders = || (0..4).map(|n| Model::in_lender(UserId::from_uuid(uuid(n))));
        for lists in [shelves().collect::<Vec<_>>(), lenders().collect()] {
            let one = reader(db);
            let asked_together = join_all(lists.iter().map(|of| read(&one, of.clone()))).await;
            assert_eq!(one.recorder().statements(), 2, "the pages, and their counts");
            for (of, page) in lists.into_iter().zip(asked_together) {
                assert_eq!(page, read(&reader(db), of).await, "{args:?}, order: {order:?}, filter: {filter:?}");
            }
        }
    }
}

#[test]
fn pages_one_after_the_other_are_the_list() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = runtime.block_on(sqlite());
    let cases = (things(), orders(), option::of(filters()), 1..6i32);
    proptest!(config(300), |((things, order, filter, size) in cases)| {
        runtime.block_on(async {
            put(&db, things.clone()).await;
            walk(&db, &things, &order, filter.as_ref(), size).await;
            together(&db, &order, filter.as_ref(), size).await;
        });
    });
}

#[tokio::test]
async fn a_page_between_two_cursors() {
    let db = sqlite().await;
    put(&db, (1..=9).map(thing)).await;
    let reader = reader(&db);
    let all = reader.page(Model::in_org(org(1)), PageArgs::default(), None, None).unwrap();
    assert_eq!(all.rows().await.unwrap().len(), 9);
    let cursor = |n: i32| {
        let reader = reader.clone();
        async move {
            let page =
                reader.page::<Model>(Model::in_org(org(1)), PageArgs::new(Some(n), None, None, None), None, None);
            page.unwrap().page_info().await.unwrap().end_cursor
        }
    };
    let between = |first, last, after, before| {
        reader.page::<Model>(Model::in_org(org(1)), PageArgs::new(first, after, last, before), None, None)
    };
    let ids = async |page: &Connection<Model>| -> Vec<u128> {
        page.rows().await.unwrap().iter().map(|t| t.id.uuid().as_u128()).collect()
    };
    let (after, before) = (cursor(2).await, cursor(7).await);
    let page = between(Some(3), None, after.clone(), before.clone()).unwrap();
    assert_eq!(ids(&page).await, [3, 4, 5]);
    let page = between(None, Some(3), after.clone(), before.clone()).unwrap();
    assert_eq!(ids(&page).await, [4, 5, 6]);
    let page = between(None, None, after, before).unwrap();
    assert_eq!(ids(&page).await, [3, 4, 5, 6]);
    let page = between(Some(0), None, None, None).unwrap();
    assert!(page.rows().await.unwrap().is_empty() && page.page_info().await.unwrap().has_next_page);
}

#[tokio::test]
async fn pages_that_nobody_can_give_are_refused() {
    let db = sqlite().await;
    put(&db, (1..=3).map(thing)).await;
    let reader = reader(&db);
    let by_name = || Some(vec![ThingOrder { field: ThingOrderField::Name, direction: OrderDirection::Asc }]);
    let ask = |first, last, after: Option<&str>, order| {
        let args = PageArgs::new(first, after.map(str::to_owned), last, None);
        reader.page::<Model>(Model::in_org(org(1)), args, None, order).map(|_| ()).unwrap_err()
    };
    let statements = reader.recorder().statements();
    let code = |e: ReadError| e.code();
    assert_eq!(code(ask(Some(1), Some(1), None, None)), "BAD_REQUEST");
    assert_eq!(code(ask(Some(-1), None, None, None)), "BAD_REQUEST");
    assert_eq!(ask(None, Some(101), None, None), ReadError::limit("`last` may be 100 at most; this is 101."));
    for cursor in ["", "x", "%%%", "bm90IGpzb24", "e30"] {
        assert_eq!(code(ask(None, None, Some(cursor), None)), "BAD_REQUEST", "{cursor}");
    }
    let six = vec![by_name().unwrap().remove(0); 6];
    assert_eq!(code(ask(None, None, None, Some(six))), "LIMIT_EXCEEDED");
    assert_eq!(reader.recorder().statements(), statements, "refused before anything is read");

    let page =
        reader.page::<Model>(Model::in_org(org(1)), PageArgs::new(Some(1), None, None, None), None, by_name()).unwrap();
    let cursor = page.page_info().await.unwrap().end_cursor.unwrap();
    let error = ask(None, None, Some(&cursor), None);
    assert!(error.message().contains("another order"), "{error:?}");
    // A cursor that was tampered with is refused, or is a place like any other: never an error of the database.
    for values in
        [r#"["a\u0000","00000000000000000000000000000001"]"#, r#"[1,2]"#, r#"[null,null]"#, "[]", r#"["a","b"]"#]
    {
        let text = format!(r#"{{"o":"thing:+name+id","v":{values}}}"#);
        let forged = data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        assert_eq!(code(ask(None, None, Some(&forged), by_name())), "BAD_REQUEST", "{values}");
    }
}

/// The hundredth page costs what the first one did: the database goes to the place in the index and reads on.
#[tokio::test]
async fn a_page_is_read_from_the_index_without_sorting() {
    use super::super::keyset::Keyset;
    use sea_orm::{QueryFilter, QueryTrait, Statement};

    let db = sqlite().await;
    db.execute_unprepared("CREATE INDEX by_name ON things (organization_id, name, id)").await.unwrap();
    db.execute_unprepared("CREATE INDEX by_size ON things (organization_id, size DESC, created_at, id)").await.unwrap();
    use OrderDirection::{Asc, Desc};
    use ThingOrderField::{CreatedAt, Name, Size};
    for (order, index) in [
        (vec![(Name, Asc)], "by_name"),
        (vec![(Name, Desc)], "by_name"),
        (vec![(Size, Desc), (CreatedAt, Asc)], "by_size"),
    ] {
        let order: Vec<_> = order.into_iter().map(|(field, direction)| ThingOrder { field, direction }).collect();
        let keyset = Keyset::<Model>::new(&order, &Limits::default()).unwrap();
        let place = keyset.place(&keyset.cursor(&thing(5)).unwrap()).unwrap();
        for backward in [false, true] {
            let select =
                Entity::find().filter(Column::OrganizationId.eq(org(1))).filter(keyset.beyond(&place, backward));
            let page = keyset.order(select, backward).build(db.get_database_backend());
            let sql = format!("EXPLAIN QUERY PLAN {}", page.sql);
            let explain = Statement::from_sql_and_values(db.get_database_backend(), sql, page.values.unwrap());
            let plan: Vec<String> =
                db.query_all_raw(explain).await.unwrap().iter().map(|row| row.try_get("", "detail").unwrap()).collect();
            assert_eq!(plan.len(), 1, "{plan:?} for {}", page.sql);
            assert!(
                plan[0].contains(&format!("USING INDEX {index} (organization_id=? AND ")),
                "{plan:?} for {}",
                page.sql
            );
        }
    }
}
