//! What the derive gives the API: names, descriptions, and answers through a schema.

use async_graphql::{Context, EmptyMutation, EmptySubscription, Object, Request, Schema as GraphQl, value};

use super::*;

struct Query;

/// The root.
#[Object]
impl Query {
    /// Things.
    #[allow(clippy::too_many_arguments)]
    async fn things(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many.")] first: Option<i32>,
        #[graphql(desc = "Behind.")] after: Option<String>,
        #[graphql(desc = "How many.")] last: Option<i32>,
        #[graphql(desc = "Before.")] before: Option<String>,
        #[graphql(desc = "Which.")] filter: Option<ThingFilter>,
        #[graphql(desc = "How.")] order_by: Option<Vec<ThingOrder>>,
    ) -> Option<async_graphql::Result<Connection<Model>>> {
        let reader = cx.data_unchecked::<Reader>();
        let list = Model::in_org(reader.viewer().organization);
        let page = reader.page(list, PageArgs::new(first, after, last, before), filter, order_by);
        Some(page.map_err(Into::into))
    }
}

fn schema() -> GraphQl<Query, EmptyMutation, EmptySubscription> {
    GraphQl::new(Query, EmptyMutation, EmptySubscription)
}

#[tokio::test]
async fn a_page_through_the_api() {
    let db = sqlite().await;
    let tags = |n: u128| Tags(vec![format!("t{n}")]);
    put(&db, (1..=5).map(|n| Model { tags: tags(n), rank: (n > 2).then_some(n as i32), ..thing(n) })).await;
    let reader = reader(&db);
    let query = r#"{ things(first: 2, orderBy: [{field: RANK, direction: DESC}], filter: {name: {startsWith: "THING"}}) {
        nodes { name rank size tags state createdAt } edges { node { id } } pageInfo { hasNextPage hasPreviousPage } } }"#;
    let answer = schema().execute(Request::new(query).data(reader.clone())).await;
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    let id = |n| ThingId::from_uuid(uuid(n)).to_string();
    assert_eq!(
        answer.data,
        value!({ "things": {
            "nodes": [
                { "name": "thing 5", "rank": 5, "size": 5, "tags": ["t5"], "state": "THERE", "createdAt": "2023-11-14T22:13:20.000005+00:00" },
                { "name": "thing 4", "rank": 4, "size": 4, "tags": ["t4"], "state": "THERE", "createdAt": "2023-11-14T22:13:20.000004+00:00" },
            ],
            "edges": [{ "node": { "id": id(5) } }, { "node": { "id": id(4) } }],
            "pageInfo": { "hasNextPage": true, "hasPreviousPage": false },
        }})
    );
    assert_eq!(reader.recorder().statements(), 1, "totalCount was not asked for");
    let answer = schema().execute(Request::new("{ things(last: 1) { totalCount } }").data(reader.clone())).await;
    assert_eq!(answer.data, value!({ "things": { "totalCount": 5 } }));
    assert_eq!(reader.recorder().statements(), 2, "its rows were not asked for");
}

#[tokio::test]
async fn what_is_refused_has_a_code() {
    let db = sqlite().await;
    let answer = schema().execute(Request::new("{ things(first: -1) { totalCount } }").data(reader(&db))).await;
    assert_eq!(answer.data, value!({ "things": null }));
    let code = answer.errors[0].extensions.as_ref().and_then(|e| e.get("code").cloned());
    assert_eq!(code, Some("BAD_REQUEST".into()));
}

#[test]
fn the_sdl_has_every_name_and_describes_it() {
    let sdl = schema().sdl();
    for line in [
        "input ThingFilter {",
        "and: [ThingFilter!]",
        "not: ThingFilter",
        "name: StringFilter",
        "state: ThingStateFilter",
        "rank: IntFilter",
        "size: ByteSizeFilter",
        "loud: BooleanFilter",
        "tags: TagsFilter",
        "shelfId: IdFilter",
        "createdAt: DateTimeFilter",
        "input StringFilter {",
        "startsWith: String",
        "input ThingOrder {",
        "field: ThingOrderField!",
        "direction: OrderDirection! = ASC",
        "CREATED_AT",
        "type ThingConnection {",
        "edges: [ThingEdge!]!",
        "nodes: [Thing!]!",
        "pageInfo: PageInfo!",
        "totalCount: Int!",
        "tags: [String!]!",
        "size: ByteSize!",
        "lenderId: ID",
        "scalar ByteSize",
    ] {
        assert!(sdl.contains(line), "{line} is missing in\n{sdl}");
    }
    let undescribed = undescribed(&sdl);
    assert!(undescribed.is_empty(), "no description: {undescribed:?}\n{sdl}");
}

/// Lines of the SDL that declare something and do not follow a description.
fn undescribed(sdl: &str) -> Vec<&str> {
    let lines: Vec<&str> = sdl.lines().map(str::trim).collect();
    let declares = |line: &str| {
        let member = line.contains(": ") && !line.starts_with('"');
        let kind = ["type ", "input ", "enum ", "scalar "].iter().any(|k| line.starts_with(k));
        let value = !line.is_empty() && line.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        kind || member || value
    };
    let mut inside = false;
    let mut found = Vec::new();
    for (before, line) in lines.iter().zip(&lines[1..]) {
        if *line == "\"\"\"" {
            inside = !inside;
        }
        let builtin = line.starts_with("directive") || line.starts_with("query:") || line.starts_with("schema");
        if !inside && declares(line) && !before.ends_with("\"\"\"") && !builtin {
            found.push(*line);
        }
    }
    found
}
