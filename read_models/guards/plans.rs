//! Guards: what lists do to the database. Every filter and order that is declared is asked through the reader, on both
//! databases and on tables with many tenants; the very statements are explained.
//!
//! Invariants: a statement enters an index by the tenant (or the collection) and by what it filters for. A list in
//! order walks an index: it never sorts the rows of a tenant. A further page begins at its cursor. PostgreSQL is told
//! not to read whole tables, and not to sort where an index can give the order, so that its plans say what the indexes
//! can do, not how small the tables of a test are.

use std::sync::{Arc, Mutex};

use async_graphql::InputType;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use oriel_engine::read::{Collection, Connection, PageArgs, ReadModel, Reader, Recorder};
use oriel_kernel::{Credential, Id, MemberId, OrganizationId, Permissions, RawId, Viewer, Visible};
use oriel_migrations::migrate;
use sea_orm::sea_query::{ColumnType, Expr, Query, Value};
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, EntityTrait, IdenStatic,
    Iterable, Statement,
};
use serde_json::json;
use uuid::Uuid;

use crate::organizations::{self, accounts};
use crate::{api_keys, documents, events, members, persisted_operations, projects, security_events};

/// The engine's own tests use the same server.
#[path = "../../src/engine/testing.rs"]
#[allow(dead_code)]
mod testing;

/// The tables whose lists are explained here.
pub const EXPLAINED: &[&str] = &[
    "organizations",
    "members",
    "projects",
    "project_members",
    "documents",
    "persisted_operations",
    "api_keys",
    "security_events",
    "events",
];

/// Orders by a column that may be without a value: such rows come last in either direction, which no index of one
/// direction gives, so the rows of the tenant are sorted. Only where they are few: people and operations, not documents.
const SORTED: &[(&str, &str)] = &[("members", "joined_at"), ("persisted_operations", "name")];

const TENANTS: u32 = 200;
/// Five of each tenant.
const PROJECTS: u32 = 1_000;
/// Forty of each tenant.
const ROWS: u32 = 8_000;

/// A migrated database that remembers the statements of its readers.
struct Place {
    db: DatabaseConnection,
    sent: Arc<Mutex<Vec<Statement>>>,
}

impl Place {
    async fn on(url: &str) -> Self {
        let mut options = ConnectOptions::new(url);
        options.max_connections(1).min_connections(1).sqlx_logging(false);
        let mut db = Database::connect(options).await.unwrap();
        migrate(&db).await.unwrap();
        fill::<organizations::Model>(&db).await;
        fill::<members::Model>(&db).await;
        fill::<projects::Model>(&db).await;
        fill::<projects::members::Model>(&db).await;
        fill::<documents::Model>(&db).await;
        fill::<persisted_operations::Model>(&db).await;
        fill::<api_keys::Model>(&db).await;
        fill::<security_events::Model>(&db).await;
        fill::<events::Model>(&db).await;
        if db.get_database_backend() == DbBackend::Postgres {
            db.execute_unprepared("ANALYZE; SET enable_seqscan = off; SET enable_sort = off").await.unwrap();
        }
        let sent: Arc<Mutex<Vec<Statement>>> = Arc::default();
        let remember = Arc::clone(&sent);
        db.set_metric_callback(move |info| remember.lock().unwrap().push(info.statement.clone()));
        Self { db, sent }
    }

    async fn both() -> Vec<Self> {
        let mut places = vec![Self::on("sqlite::memory:").await];
        if let Some(server) = tokio::task::spawn_blocking(testing::postgres).await.unwrap() {
            let url = tokio::task::spawn_blocking(|| server.fresh_database()).await.unwrap();
            // As Oriel's own connections: behind row-level security, and before it is taken back.
            places.push(Self::on(&format!("{url}&options[oriel.system]=on")).await);
        }
        places
    }

    fn reader(&self, visible: Visible) -> Reader {
        let viewer = Viewer {
            user: Id::from_uuid(uuid(1)),
            member: Id::from_uuid(uuid(1)),
            organization: organization(1),
            credential: Credential::Session(Id::from_uuid(uuid(1))),
            versions: Arc::default(),
            // The list of organisations is the operator's.
            permissions: Arc::new(Permissions::new(["*", "system:*"])),
            visible,
            confined: false,
            unagreed: None,
        };
        Reader::new(self.db.clone(), Arc::new(viewer), Arc::new(Recorder::default()))
    }

    /// A page, read by a reader of its own: one that has read it before would send nothing.
    async fn listed<M: ReadModel>(
        &self,
        of: Collection<M>,
        page: PageArgs,
        filter: Option<M::Filter>,
        order: Option<Vec<M::Order>>,
    ) -> Connection<M> {
        let listed = self.reader(Visible::All).page(of, page, filter, order).unwrap();
        listed.rows().await.unwrap();
        listed
    }

    /// The same where what was found is to be sorted.
    async fn plan_with_sorts(&self, table: &str) -> Plan {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            return self.plan(table).await;
        }
        let asked = self.sent.lock().unwrap().last().cloned().unwrap();
        self.db.execute_unprepared("SET enable_sort = on").await.unwrap();
        self.sent.lock().unwrap().push(asked);
        let plan = self.plan(table).await;
        self.db.execute_unprepared("SET enable_sort = off").await.unwrap();
        plan
    }

    /// How the statement that was sent last is executed.
    async fn plan(&self, table: &str) -> Plan {
        let mut statement = self.sent.lock().unwrap().last().cloned().unwrap();
        let prefix = match statement.db_backend {
            DbBackend::Postgres => "EXPLAIN (FORMAT JSON)",
            _ => "EXPLAIN QUERY PLAN",
        };
        // What is selected says nothing.
        let asked = statement.to_string().split_once(" FROM ").map_or_else(String::new, |(_, rest)| rest.to_owned());
        statement.sql = format!("{prefix} {}", statement.sql);
        let rows = self.db.query_all_raw(statement).await.unwrap();
        let mut plan = Plan { asked, table: table.to_owned(), ..Plan::default() };
        match self.db.get_database_backend() {
            DbBackend::Postgres => {
                let explained: serde_json::Value = rows[0].try_get("", "QUERY PLAN").unwrap();
                plan.add_node(&explained[0]["Plan"]);
            }
            _ => rows.iter().for_each(|row| plan.add_step(&row.try_get::<String>("", "detail").unwrap())),
        }
        plan
    }
}

/// What a database does with a statement.
#[derive(Default, Debug)]
struct Plan {
    asked: String,
    table: String,
    steps: Vec<String>,
    /// What an index of the table is entered by, for each time that one is.
    entered_by: Vec<String>,
    /// The table, or an index of it, is read from its beginning.
    whole: bool,
    /// Rows are sorted, not only those that are equal by the first keys of the order.
    sorted: bool,
}

impl Plan {
    /// A node of PostgreSQL's plan, and those below.
    fn add_node(&mut self, node: &serde_json::Value) {
        let kind = node["Node Type"].as_str().unwrap();
        let condition = node["Index Cond"].as_str();
        self.steps.push(format!("{kind} {} {}", node["Index Name"].as_str().unwrap_or(""), condition.unwrap_or("")));
        self.sorted |= kind == "Sort";
        self.whole |= kind == "Seq Scan" || (kind.ends_with("Index Scan") && condition.is_none());
        self.entered_by.extend(condition.map(str::to_owned));
        node["Plans"].as_array().into_iter().flatten().for_each(|below| self.add_node(below));
    }

    /// A step of SQLite's plan.
    fn add_step(&mut self, step: &str) {
        self.steps.push(step.to_owned());
        self.sorted |= step.contains("TEMP B-TREE") && !step.contains("LAST") && !step.contains("RIGHT PART");
        self.whole |= step.starts_with(&format!("SCAN {}", self.table));
        if let Some(index) = step.strip_prefix(&format!("SEARCH {} USING ", self.table)) {
            self.entered_by.extend(index.split_once('(').map(|(_, condition)| condition.to_owned()));
        }
    }

    /// An index is entered by these columns together.
    fn enters_by(&self, columns: &[&str]) -> bool {
        let by = |condition: &String| columns.iter().all(|column| words(condition).any(|word| word == *column));
        !self.whole && self.entered_by.iter().any(by)
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

// --- rows ----------------------------------------------------------------------------------------------------------

fn uuid(number: u32) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + u128::from(number))
}

fn organization(number: u32) -> OrganizationId {
    Id::from_uuid(uuid(number % TENANTS))
}

/// Of the organisation with the same number.
fn project(number: u32) -> Uuid {
    uuid(1_000 + number % PROJECTS)
}

fn moment(number: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + i64::from(number), 0).unwrap()
}

/// Rows that differ in every column, of all tenants in turn.
async fn fill<M: ReadModel>(db: &DatabaseConnection) {
    let columns: Vec<_> = <M::Entity as EntityTrait>::Column::iter().collect();
    let numbers: Vec<u32> = (0..ROWS).collect();
    for numbers in numbers.chunks(500) {
        let mut insert = Query::insert().into_table(M::Entity::default()).columns(columns.iter().copied()).take();
        for number in numbers {
            let values = columns.iter().map(|column| Expr::val(value(M::TABLE, *column, *number)));
            insert.values_panic(values);
        }
        db.execute(&insert).await.unwrap();
    }
}

fn value(table: &str, column: impl ColumnTrait, number: u32) -> Value {
    let of = |list: &[&str]| Value::from(list[number as usize / TENANTS as usize % list.len()]);
    match (table, column.as_str()) {
        (_, "organization_id") => organization(number).uuid().into(),
        (_, "project_id") => project(number).into(),
        ("organizations", "installation_id") => accounts::INSTALLATION.into(),
        // All of them are in one list: few are suspended.
        ("organizations", "status") => if number.is_multiple_of(TENANTS) { "suspended" } else { "active" }.into(),
        ("members", "status") => of(&["active", "invited", "suspended"]),
        ("projects", "status") => of(&["active", "archived"]),
        ("documents", "status") => of(&["ready", "processing", "failed", "trashed"]),
        ("documents", "media_type") => of(&["text/plain", "text/markdown", "text/html", "application/pdf"]),
        ("events", "type") => of(&["project_created", "project_renamed", "project_archived", "project_restored"]),
        ("events", "stream") => "project".into(),
        ("persisted_operations", "kind") => of(&["query", "mutation", "subscription"]),
        ("security_events", "kind") => of(&["unusual_sign_in", "account_guessing", "password_spraying"]),
        ("security_events", "severity") => of(&["low", "medium", "high"]),
        ("security_events", "status") => of(&["open", "acknowledged"]),
        ("documents", "pipeline") => json!([]).into(),
        ("documents", "scan") => json!({}).into(),
        ("members", "grants") => json!([]).into(),
        ("api_keys", "operations") => of(&["open", "warn", "registered"]),
        ("members", "roles") => json!([format!("role {}", number / TENANTS % 3)]).into(),
        (_, name) => match column.def().get_column_type() {
            // Who does things: few among many.
            ColumnType::Uuid if name != "id" && name != "subject_id" => uuid(number % (TENANTS * 4)).into(),
            ColumnType::Uuid => uuid(number).into(),
            ColumnType::String(_) | ColumnType::Text => format!("{name} {number}").into(),
            ColumnType::Boolean => (number / TENANTS).is_multiple_of(2).into(),
            ColumnType::SmallInteger => 1i16.into(),
            ColumnType::Integer => i32::try_from(number).unwrap().into(),
            ColumnType::BigInteger => i64::from(number).into(),
            ColumnType::TimestampWithTimeZone => moment(number).into(),
            ColumnType::JsonBinary => json!([format!("word {number}")]).into(),
            ColumnType::VarBinary(_) | ColumnType::Blob | ColumnType::Binary(_) => Vec::<u8>::new().into(),
            other => panic!("{table}.{name} is of a type that this guard does not know: {other:?}"),
        },
    }
}

// --- what is asked -------------------------------------------------------------------------------------------------

/// A filter by one column.
struct Asked {
    column: &'static str,
    filter: serde_json::Value,
    by: By,
}

/// What a filter asks of an index.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// One value: its rows stand in the order of their ids already.
    Value,
    /// A range: its rows are found, and may be sorted.
    Range,
    /// A word of a list: an inverted index on PostgreSQL, the rows of the tenant on SQLite.
    Word,
}

fn asked(column: &'static str, by: By, filter: serde_json::Value) -> Asked {
    Asked { column, filter, by }
}

fn id(prefix: &'static str, uuid: Uuid) -> String {
    RawId { prefix, uuid }.to_string()
}

fn input<T: InputType>(json: serde_json::Value) -> T {
    let said = json.to_string();
    let parsed = T::parse(Some(async_graphql::Value::from_json(json).unwrap()));
    parsed.unwrap_or_else(|_| panic!("{said} is not an input of {}", T::type_name()))
}

/// The orders of lists that nobody asked for another order.
fn own_order<M: ReadModel>() -> (&'static str, Option<Vec<M::Order>>)
where
    M::Order: InputType,
{
    match M::TABLE {
        "events" => ("position", Some(vec![input(json!({ "field": "POSITION", "direction": "DESC" }))])),
        "project_members" => ("added_at", Some(vec![input(json!({ "field": "ADDED_AT" }))])),
        _ => ("id", None),
    }
}

/// What a list of `of`, whose rows have `tenant` in common, does wrong.
async fn problems<M>(place: &Place, of: Collection<M>, tenant: &str, filters: Vec<Asked>) -> Vec<String>
where
    M: ReadModel,
    M::Filter: InputType,
    M::Order: InputType,
{
    let declared = M::declared();
    let mut problems = Vec::new();
    let mut wrong = |plan: &Plan, what: &str| {
        let Plan { table, asked, steps, .. } = plan;
        problems.push(format!("{:?} {table}: {what}\n  {asked}\n  {steps:#?}", place.db.get_database_backend()));
    };
    let page = PageArgs { first: Some(3), ..PageArgs::default() };
    let (own_column, own_order) = (own_order::<M>().0, || own_order::<M>().1);

    // A filter: by the tenant and the column.
    let mut columns: Vec<&str> = declared.filters.iter().map(|column| column.as_str()).collect();
    for Asked { column, filter, by } in filters {
        columns.retain(|declared| *declared != column);
        let on_sqlite = place.db.get_database_backend() == DbBackend::Sqlite;
        place.listed(of.clone(), page.clone(), Some(input(filter)), own_order()).await;
        let plan = match by {
            By::Value => place.plan(M::TABLE).await,
            By::Range | By::Word => place.plan_with_sorts(M::TABLE).await,
        };
        let entered = match by {
            By::Word if on_sqlite => plan.enters_by(&[tenant]),
            By::Word => plan.enters_by(&[column]) || plan.enters_by(&[tenant]),
            By::Value | By::Range => plan.enters_by(&[tenant, column]),
        };
        if !entered {
            wrong(&plan, &format!("no index is entered by {tenant} and {column}"));
        }
        if by == By::Value && plan.sorted {
            wrong(&plan, &format!("what was found by {column} is sorted"));
        }
    }
    // An order, in both directions, from either end, and from a place within.
    for column in declared.orders {
        let name = column.as_str();
        if SORTED.contains(&(M::TABLE, name)) {
            assert!(column.def().is_null(), "{}.{name} always has a value: it needs no exception", M::TABLE);
            continue;
        }
        for direction in ["ASC", "DESC"] {
            let order = || Some(vec![input(json!({ "field": name.to_uppercase(), "direction": direction }))]);
            let begin = place.listed(of.clone(), page.clone(), None, order()).await;
            let plan = place.plan(M::TABLE).await;
            if plan.sorted || !plan.enters_by(&[tenant]) {
                wrong(&plan, &format!("in the order of {name} the rows of {tenant} are sorted"));
            }
            let cursor = begin.page_info().await.unwrap().end_cursor;
            assert!(cursor.is_some(), "there are rows of {}", M::TABLE);
            for page in [
                PageArgs { after: cursor.clone(), ..page.clone() },
                PageArgs { last: Some(3), before: cursor.clone(), ..PageArgs::default() },
            ] {
                place.listed(of.clone(), page, None, order()).await;
                let plan = place.plan(M::TABLE).await;
                if plan.sorted || !plan.enters_by(&[tenant, name]) {
                    wrong(&plan, &format!("a page within the order of {name} does not begin at its cursor"));
                }
            }
        }
    }
    // In their own order, from a place within, counted, and for somebody who sees some parts only.
    let begin = place.listed(of.clone(), page.clone(), None, own_order()).await;
    let after = begin.page_info().await.unwrap().end_cursor;
    place.listed(of.clone(), PageArgs { after, ..page.clone() }, None, own_order()).await;
    let plan = place.plan(M::TABLE).await;
    // Where all rows are one list, the primary key is as good a way in.
    let is_one_list = tenant == "installation_id";
    let begins = plan.enters_by(&[tenant, own_column]) || (is_one_list && plan.enters_by(&[own_column]));
    if plan.sorted || !begins {
        wrong(&plan, "a page in the list's own order does not begin at its cursor");
    }
    begin.total_count().await.unwrap();
    let plan = place.plan(M::TABLE).await;
    if !plan.enters_by(&[tenant]) {
        wrong(&plan, "other tenants' rows are read to be counted");
    }
    let some = place.reader(Visible::Only(Arc::new([project(1), project(1 + TENANTS)].into())));
    some.page(of, page, None, own_order()).unwrap().rows().await.unwrap();
    let plan = place.plan_with_sorts(M::TABLE).await;
    if plan.whole && !is_one_list {
        wrong(&plan, "for somebody who sees some projects all tenants' rows are read");
    }
    assert_eq!(columns, [""; 0], "filters of {} that are not asked here", M::TABLE);
    problems
}

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

async fn of_documents(place: &Place) -> Vec<String> {
    let size = i64::from(ROWS / 2);
    let filters = || {
        vec![
            asked("project_id", By::Value, json!({ "projectId": { "eq": id("prj", project(1 + TENANTS)) } })),
            asked("title", By::Value, json!({ "title": { "eq": "title 201" } })),
            asked("media_type", By::Value, json!({ "mediaType": { "eq": "text/html" } })),
            asked("size", By::Range, json!({ "size": { "gte": size, "lt": size + 100 } })),
            asked("status", By::Value, json!({ "status": { "eq": "FAILED" } })),
            asked("tags", By::Word, json!({ "tags": { "has": "word 21" } })),
            asked("uploaded_by_id", By::Value, json!({ "uploadedById": { "eq": id("mbr", uuid(21)) } })),
            asked("created_at", By::Range, json!({ "createdAt": { "gte": moment(100), "lt": moment(200) } })),
            asked("updated_at", By::Range, json!({ "updatedAt": { "gte": moment(100), "lt": moment(200) } })),
        ]
    };
    problems(place, documents::Model::in_org(organization(1)), "organization_id", filters()).await
}

#[tokio::test]
async fn documents_are_listed_by_an_index() {
    for place in Place::both().await {
        none(of_documents(&place).await);
    }
}

#[tokio::test]
async fn documents_of_a_project_are_listed_by_an_index() {
    for place in Place::both().await {
        for field in ["TITLE", "CREATED_AT", "UPDATED_AT"] {
            let order = Some(vec![input(json!({ "field": field }))]);
            let of = documents::listed(documents::Model::in_project(Id::from_uuid(project(1))), None);
            place.listed(of, PageArgs::default(), None, order).await;
            let plan = place.plan("documents").await;
            assert!(!plan.sorted && plan.enters_by(&["project_id"]), "{field}: {plan:#?}");
        }
    }
}

/// Each list is read by an index as far as its page goes; what was found is put in order at the end, once.
#[tokio::test]
async fn pages_of_several_projects_are_listed_by_an_index() {
    for place in Place::both().await {
        for (field, direction) in
            ["TITLE", "CREATED_AT", "UPDATED_AT"].iter().flat_map(|field| [(field, "ASC"), (field, "DESC")])
        {
            let reader = place.reader(Visible::All);
            let pages = (0..5).map(|n| {
                let of = documents::listed(documents::Model::in_project(Id::from_uuid(project(1 + n * TENANTS))), None);
                let order = Some(vec![input(json!({ "field": field, "direction": direction }))]);
                reader.page(of, PageArgs { first: Some(3), ..PageArgs::default() }, None, order).unwrap()
            });
            let found = join_all(pages.map(async |page| page.rows().await.unwrap().len())).await;
            assert_eq!((found, reader.recorder().statements()), (vec![3; 5], 1));
            let plan = place.plan("documents").await;
            let sorts = plan.steps.iter().filter(|step| step.contains("Sort") || step.contains("TEMP B-TREE")).count();
            assert!(sorts == 1 && plan.enters_by(&["project_id"]), "{field} {direction}: {plan:#?}");
        }
    }
}

#[tokio::test]
async fn projects_and_their_members_are_listed_by_an_index() {
    for place in Place::both().await {
        let owner = id("mbr", uuid(21));
        let filters = vec![
            asked("name", By::Value, json!({ "name": { "eq": "name 21" } })),
            asked("key", By::Value, json!({ "key": { "eq": "key 21" } })),
            asked("status", By::Value, json!({ "status": { "eq": "ARCHIVED" } })),
            asked("owner_id", By::Value, json!({ "ownerId": { "eq": owner } })),
            asked("created_at", By::Range, json!({ "createdAt": { "gte": moment(100), "lt": moment(200) } })),
            asked("updated_at", By::Range, json!({ "updatedAt": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = projects::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);

        let added = asked("added_at", By::Range, json!({ "addedAt": { "gte": moment(100), "lt": moment(200) } }));
        let all = projects::members::Model::in_project(Id::from_uuid(project(1)));
        none(problems(&place, all, "project_id", vec![added]).await);
    }
}

#[tokio::test]
async fn organizations_are_listed_by_an_index() {
    for place in Place::both().await {
        // A few of one long list: of many, the first ones by id are found sooner by their ids.
        let filters = vec![
            asked("name", By::Value, json!({ "name": { "eq": "name 21" } })),
            asked("status", By::Value, json!({ "status": { "eq": "SUSPENDED" } })),
            asked("ends_at", By::Range, json!({ "endsAt": { "gte": moment(100), "lt": moment(104) } })),
            asked("created_at", By::Range, json!({ "createdAt": { "gte": moment(100), "lt": moment(104) } })),
        ];
        none(problems(&place, accounts::all(), "installation_id", filters).await);
    }
}

#[tokio::test]
async fn members_are_listed_by_an_index() {
    for place in Place::both().await {
        let filters = vec![
            asked("roles", By::Word, json!({ "roles": { "has": "role 2" } })),
            asked("status", By::Value, json!({ "status": { "eq": "SUSPENDED" } })),
            asked("joined_at", By::Range, json!({ "joinedAt": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = members::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);
    }
}

#[tokio::test]
async fn persisted_operations_are_listed_by_an_index() {
    for place in Place::both().await {
        let filters = vec![
            asked("hash", By::Value, json!({ "hash": { "eq": "hash 21" } })),
            asked("name", By::Value, json!({ "name": { "eq": "name 21" } })),
            asked("kind", By::Value, json!({ "kind": { "eq": "MUTATION" } })),
            asked("created_at", By::Range, json!({ "createdAt": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = persisted_operations::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);
    }
}

#[tokio::test]
async fn api_keys_are_listed_by_an_index() {
    for place in Place::both().await {
        let owner: MemberId = Id::from_uuid(uuid(21));
        let filters = vec![
            asked("owner_id", By::Value, json!({ "ownerId": { "eq": owner.to_string() } })),
            asked("name", By::Value, json!({ "name": { "eq": "name 21" } })),
            asked("revoked", By::Value, json!({ "revoked": { "eq": true } })),
            asked("created_at", By::Range, json!({ "createdAt": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = api_keys::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);
    }
}

#[tokio::test]
async fn security_events_are_listed_by_an_index() {
    for place in Place::both().await {
        let member: MemberId = Id::from_uuid(uuid(21));
        let filters = vec![
            asked("kind", By::Value, json!({ "kind": { "eq": "ACCOUNT_GUESSING" } })),
            asked("severity", By::Value, json!({ "severity": { "eq": "HIGH" } })),
            asked("status", By::Value, json!({ "status": { "eq": "OPEN" } })),
            asked("member_id", By::Value, json!({ "memberId": { "eq": member.to_string() } })),
            asked("first_at", By::Range, json!({ "firstAt": { "gte": moment(100), "lt": moment(200) } })),
            asked("last_at", By::Range, json!({ "lastAt": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = security_events::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);
    }
}

#[tokio::test]
async fn events_are_listed_by_an_index() {
    for place in Place::both().await {
        let actor: MemberId = Id::from_uuid(uuid(21));
        let filters = vec![
            asked("subject_id", By::Value, json!({ "subjectId": id("prj", uuid(21)) })),
            asked("type", By::Value, json!({ "types": ["project_renamed"] })),
            asked("actor_id", By::Value, json!({ "actorId": actor.to_string() })),
            asked("at", By::Range, json!({ "at": { "gte": moment(100), "lt": moment(200) } })),
        ];
        let all = events::Model::in_org(organization(1));
        none(problems(&place, all, "organization_id", filters).await);
    }
}

#[tokio::test]
async fn the_guard_itself_goes_red() {
    for place in Place::both().await {
        place.db.execute_unprepared("DROP INDEX ix_documents_organization_id_title_id").await.unwrap();
        let found = of_documents(&place).await;
        for what in [
            "no index is entered by organization_id and title",
            "in the order of title the rows of organization_id are sorted",
            "a page within the order of title does not begin at its cursor",
        ] {
            assert!(found.iter().any(|problem| problem.contains(what)), "{what}: {found:#?}");
        }
        assert!(found.iter().all(|problem| problem.contains("title")), "{found:#?}");
    }
}
