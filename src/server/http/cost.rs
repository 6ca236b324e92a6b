//! What an operation costs at most, known before it is executed: from its document, its variables and the contract.
//!
//! Every field costs 1, or what the schema says it costs; what is in a list costs that once for each item that the
//! list can have. A page has as many items as `first` or `last` asks for; a list of `ids` as many as there are ids.
//! Where an interface or a union stands, the dearest of its types counts. A fragment counts wherever it is spread.
//! What `@skip` and `@include` leave out costs nothing. Introspection reads no row and costs a tenth.
//!
//! Invariants: time is linear in the document (each selection set is priced once for each type that it can stand on),
//! however often its fragments are spread; the arithmetic saturates; an operation costs 1 at least.
//! Nothing here knows a type of the schema, nor who asks.

use std::collections::HashMap;
use std::convert::Infallible;

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    BaseType, Directive, ExecutableDocument, Field, FieldDefinition, OperationDefinition, OperationType, Selection,
    SelectionSet, Type, TypeKind, TypeSystemDefinition,
};
use async_graphql::{Name, Positioned, Value, Variables};
use oriel_schema::cost::{ListSize, Weight};

use super::limits::Excess;

/// Items of a list that has neither a page nor a declared size.
const USUAL_LIST: u64 = 10;
/// How Relay calls a type that holds a page.
const CONNECTION: &str = "Connection";
/// How many fields of introspection cost 1.
const INTROSPECTED: u64 = 10;

/// What the contract leaves out: the types of introspection.
const INTROSPECTION: &str = "
    type __Schema {
        description: String types: [__Type!]! queryType: __Type! mutationType: __Type subscriptionType: __Type
        directives: [__Directive!]!
    }
    type __Type {
        kind: String! name: String description: String specifiedByURL: String isOneOf: Boolean
        fields: [__Field!] interfaces: [__Type!] possibleTypes: [__Type!] enumValues: [__EnumValue!]
        inputFields: [__InputValue!] ofType: __Type
    }
    type __Field {
        name: String! description: String args: [__InputValue!]! type: __Type! isDeprecated: Boolean!
        deprecationReason: String
    }
    type __InputValue {
        name: String! description: String type: __Type! defaultValue: String isDeprecated: Boolean!
        deprecationReason: String
    }
    type __EnumValue { name: String! description: String isDeprecated: Boolean! deprecationReason: String }
    type __Directive {
        name: String! description: String locations: [String!]! args: [__InputValue!]! isRepeatable: Boolean!
    }
";

/// How long pages are.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Items when the request does not say.
    pub default: u64,
    /// Items at most.
    pub most: u64,
}

/// What each field of the contract costs.
#[derive(Debug)]
pub struct Prices {
    types: Vec<Priced>,
    names: HashMap<String, usize>,
    pages: Pages,
    most: u64,
}

/// A type that has fields, or that is one of several.
#[derive(Default, Debug)]
struct Priced {
    fields: HashMap<String, Price>,
    /// The objects that it can be; an object itself.
    possible: Vec<usize>,
    /// One page of a list: `nodes` and `edges` are as long as its field was asked for.
    connection: bool,
}

#[derive(Clone, Copy, Debug)]
struct Price {
    weight: u64,
    /// The type of what is inside, if it has fields.
    inside: Option<usize>,
    length: Length,
    introspection: bool,
}

/// How many items a field has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    /// One.
    One,
    /// A list of this many.
    Usual(u64),
    /// A list of one item for each of the `ids`.
    Ids,
    /// As many as `first` or `last` asks for; this many when it does not. A connection is one that holds them.
    Page(u64),
}

/// What a selection set costs.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    once: u64,
    /// For each item of the page that the set stands on.
    each: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.once = self.once.saturating_add(other.once);
        self.each = self.each.saturating_add(other.each);
    }

    fn dearest(self, other: Self) -> Self {
        Self { once: self.once.max(other.once), each: self.each.max(other.each) }
    }

    fn with(self, items: u64) -> u64 {
        self.once.saturating_add(self.each.saturating_mul(items))
    }
}

impl Prices {
    /// Those of a contract, with what it says about fields that are dearer and lists that are longer than usual.
    ///
    /// # Errors
    /// When the contract is not SDL.
    pub fn new(
        sdl: &str,
        weights: &[Weight],
        sizes: &[ListSize],
        pages: Pages,
        most: u64,
    ) -> Result<Self, async_graphql::parser::Error> {
        let mut this = Self { types: Vec::new(), names: HashMap::new(), pages, most };
        let mut definitions = Vec::new();
        for definition in parse_schema(sdl)?.definitions.into_iter().chain(parse_schema(INTROSPECTION)?.definitions) {
            if let TypeSystemDefinition::Type(definition) = definition {
                definitions.push(definition.node);
            }
        }
        for definition in &definitions {
            if !matches!(definition.kind, TypeKind::Scalar | TypeKind::Enum(_) | TypeKind::InputObject(_)) {
                this.names.insert(definition.name.node.to_string(), this.types.len());
                this.types.push(Priced::default());
            }
        }
        let introspected = Introspected::of(&definitions);
        for definition in &definitions {
            let name = definition.name.node.as_str();
            let Some(&at) = this.names.get(name) else { continue };
            let (fields, members): (&[_], &[_]) = match &definition.kind {
                TypeKind::Object(object) => {
                    this.types[at].possible.push(at);
                    for interface in &object.implements {
                        if let Some(&interface) = this.names.get(interface.node.as_str()) {
                            this.types[interface].possible.push(at);
                        }
                    }
                    (&object.fields, &[])
                }
                TypeKind::Interface(interface) => (&interface.fields, &[]),
                TypeKind::Union(union) => (&[], &union.members),
                TypeKind::Scalar | TypeKind::Enum(_) | TypeKind::InputObject(_) => continue,
            };
            let members = members.iter().filter_map(|member| this.names.get(member.node.as_str()).copied());
            let members: Vec<usize> = members.collect();
            this.types[at].possible.extend(members);
            this.types[at].connection = name.ends_with(CONNECTION);
            for field in fields {
                let price = this.price(name, &field.node, weights, sizes, &introspected);
                this.types[at].fields.insert(field.node.name.node.to_string(), price);
            }
        }
        for root in ["__schema", "__type"] {
            let inside = this.names.get(if root == "__schema" { "__Schema" } else { "__Type" }).copied();
            if let Some(&query) = this.names.get("Query") {
                let price = Price { weight: 1, inside, length: Length::One, introspection: true };
                this.types[query].fields.insert(root.to_owned(), price);
            }
        }
        Ok(this)
    }

    fn price(
        &self,
        on: &str,
        field: &FieldDefinition,
        weights: &[Weight],
        sizes: &[ListSize],
        introspected: &Introspected,
    ) -> Price {
        let name = field.name.node.as_str();
        let argument = |name: &str| field.arguments.iter().find(|argument| argument.node.name.node == name);
        let (inside, is_list) = named(&field.ty.node);
        let is_connection = inside.ends_with(CONNECTION);
        let inside = self.names.get(inside).copied();
        let declared = sizes.iter().find(|size| (size.on, size.field) == (on, name)).map(|size| size.items);
        let page = argument("first").or_else(|| argument("last")).filter(|_| is_list || is_connection);
        let length = if let Some(first) = page {
            let default = first.node.default_value.as_ref().map(|value| &value.node);
            Length::Page(default.and_then(items).unwrap_or(self.pages.default))
        } else if !is_list || inside.is_none() {
            Length::One
        } else if argument("ids").is_some() {
            Length::Ids
        } else {
            Length::Usual(declared.or_else(|| introspected.length(on, name)).unwrap_or(USUAL_LIST))
        };
        let weight = weights.iter().find(|weight| (weight.on, weight.field) == (on, name));
        let usual = if on == "Mutation" { oriel_schema::cost::MUTATION } else { 1 };
        Price { weight: weight.map_or(usual, |weight| weight.cost), inside, length, introspection: false }
    }

    /// What one operation may cost.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// What the operation of this name costs (the only one, without a name); 1 if there is none.
    ///
    /// # Errors
    /// When it asks for a page that is too long, or costs too much.
    pub fn of(
        &self,
        document: &ExecutableDocument,
        operation: Option<&str>,
        variables: &Variables,
    ) -> Result<u64, Excess> {
        let chosen = document.operations.iter().find(|(name, _)| match operation.filter(|wanted| !wanted.is_empty()) {
            Some(wanted) => name.is_some_and(|name| name.as_str() == wanted),
            None => true,
        });
        let Some((_, chosen)) = chosen else { return Ok(1) };
        let root = match chosen.node.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        let mut pricing = Pricing {
            prices: self,
            document,
            variables,
            operation: &chosen.node,
            known: HashMap::new(),
            comes_back: !document.fragments.is_empty(),
            longest: 0,
        };
        let sum = match self.names.get(root) {
            Some(&root) => pricing.set(&chosen.node.selection_set.node, root),
            None => Sum::default(),
        };
        let found = |name, allowed, found, advice| Excess::Limit { name, allowed, found, at_least: false, advice };
        if pricing.longest > self.pages.most {
            let advice = "Ask for the rest with `after: endCursor` of the page before.";
            return Err(found("max_page", self.pages.most, pricing.longest, advice));
        }
        let cost = sum.with(1).max(1);
        if cost > self.most {
            let advice = "Every field costs 1 for each item of the lists around it: ask for shorter pages (`first`), for \
                          fewer fields of each item, or for inner lists in requests of their own.";
            return Err(found("max_cost", self.most, cost, advice));
        }
        Ok(cost)
    }
}

/// How long the lists of introspection are, on the average.
struct Introspected {
    types: u64,
    lengths: HashMap<&'static str, u64>,
}

impl Introspected {
    fn of(definitions: &[async_graphql::parser::types::TypeDefinition]) -> Self {
        let (mut fields, mut arguments, mut inputs, mut values) = (0, 0, 0, 0);
        for definition in definitions {
            match &definition.kind {
                TypeKind::Object(async_graphql::parser::types::ObjectType { fields: declared, .. })
                | TypeKind::Interface(async_graphql::parser::types::InterfaceType { fields: declared, .. }) => {
                    fields += declared.len();
                    arguments += declared.iter().map(|field| field.node.arguments.len()).sum::<usize>();
                }
                TypeKind::InputObject(input) => inputs += input.fields.len(),
                TypeKind::Enum(of) => values += of.values.len(),
                TypeKind::Scalar | TypeKind::Union(_) => {}
            }
        }
        let average = |all: usize, of: usize| all.div_ceil(of.max(1)) as u64;
        let types = definitions.len();
        let lengths = HashMap::from([
            ("fields", average(fields, types)),
            ("args", average(arguments, fields)),
            ("inputFields", average(inputs, types)),
            ("enumValues", average(values, types)),
            ("interfaces", 1),
            ("possibleTypes", 1),
        ]);
        Self { types: types as u64, lengths }
    }

    fn length(&self, on: &str, field: &str) -> Option<u64> {
        match (on.starts_with("__"), field) {
            (false, _) => None,
            (true, "types") => Some(self.types),
            (true, field) => self.lengths.get(field).copied(),
        }
    }
}

/// The name inside the brackets, and whether there are any.
fn named(ty: &Type) -> (&str, bool) {
    match &ty.base {
        BaseType::Named(name) => (name.as_str(), false),
        BaseType::List(inside) => (named(inside).0, true),
    }
}

/// A number of items; `None` for what is not a number. Validation says what is wrong with it.
fn items(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => Some(number.as_u64().unwrap_or_default()),
        _ => None,
    }
}

/// One operation, while it is priced.
struct Pricing<'a> {
    prices: &'a Prices,
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
    /// By the address of the set in the document, and the type that it stands on.
    known: HashMap<(usize, usize), Sum>,
    /// Whether a set can be met again: by a fragment, or on another type. Most documents have neither.
    comes_back: bool,
    /// The longest page that is asked for.
    longest: u64,
}

impl<'a> Pricing<'a> {
    fn set(&mut self, set: &'a SelectionSet, on: usize) -> Sum {
        if set.items.is_empty() {
            return Sum::default();
        }
        let prices = self.prices;
        let possible = &prices.types[on].possible;
        self.comes_back |= possible.len() > 1;
        if let ([object], false) = (possible.as_slice(), self.comes_back) {
            return self.of_object(set, *object);
        }
        let key = (std::ptr::from_ref(set).addr(), on);
        if let Some(sum) = self.known.get(&key) {
            return *sum;
        }
        // What stands within itself was refused before; here it would end.
        self.known.insert(key, Sum::default());
        let sums = possible.iter().map(|object| self.of_object(set, *object));
        let sum = sums.reduce(Sum::dearest).unwrap_or_default();
        self.known.insert(key, sum);
        sum
    }

    fn of_object(&mut self, set: &'a SelectionSet, object: usize) -> Sum {
        let mut sum = Sum::default();
        for selection in &set.items {
            if self.is_left_out(selection.node.directives()) {
                continue;
            }
            let (condition, inside) = match &selection.node {
                Selection::Field(field) => {
                    sum.add(self.field(&field.node, object));
                    continue;
                }
                Selection::InlineFragment(fragment) => {
                    (fragment.node.type_condition.as_ref(), &fragment.node.selection_set)
                }
                Selection::FragmentSpread(spread) => {
                    let Some(fragment) = self.document.fragments.get(&spread.node.fragment_name.node) else { continue };
                    (Some(&fragment.node.type_condition), &fragment.node.selection_set)
                }
            };
            let applies = condition.is_none_or(|condition| {
                let on = self.prices.names.get(condition.node.on.node.as_str());
                on.is_some_and(|on| self.prices.types[*on].possible.contains(&object))
            });
            if applies {
                sum.add(self.set(&inside.node, object));
            }
        }
        sum
    }

    fn field(&mut self, field: &'a Field, object: usize) -> Sum {
        let prices = self.prices;
        let name = field.name.node.as_str();
        let on = &prices.types[object];
        // `__typename` is known already, and an unknown field is refused before it is resolved.
        let Some(price) = on.fields.get(name) else { return Sum::default() };
        let of_page = on.connection && matches!(name, "nodes" | "edges");
        let within = price.inside.map_or_else(Sum::default, |inside| self.set(&field.selection_set.node, inside));
        let (length, page) = match price.length {
            Length::One => (1, 1),
            Length::Usual(_) if of_page => (1, 1),
            Length::Usual(length) => (length, 1),
            Length::Ids => (self.argument(field, "ids").map_or(USUAL_LIST, |ids| count(&ids)), 1),
            Length::Page(default) => {
                let asked = ["first", "last"].into_iter().filter_map(|name| items(&self.argument(field, name)?)).max();
                let page = asked.unwrap_or(default);
                self.longest = self.longest.max(page);
                // A connection is there once and holds the page; a list is the page itself.
                if price.inside.is_some_and(|inside| prices.types[inside].connection) { (1, page) } else { (page, 1) }
            }
        };
        let within = within.with(page);
        let within = if price.introspection { within.div_ceil(INTROSPECTED) } else { within };
        let cost = price.weight.saturating_add(within).saturating_mul(length);
        if of_page { Sum { once: 0, each: cost } } else { Sum { once: cost, each: 0 } }
    }

    /// The value of an argument; `None` where it has none, or where a variable has none.
    fn argument(&self, field: &Field, name: &str) -> Option<Value> {
        let value = field.get_argument(name)?.node.clone().into_const_with(self.variables()).ok()?;
        (value != Value::Null).then_some(value)
    }

    /// What stands in the place of a variable: for a list its length, which is all that is wanted of it.
    fn variables(&self) -> impl FnMut(Name) -> Result<Value, Infallible> {
        move |name| {
            let definitions = &self.operation.variable_definitions;
            let definition = definitions.iter().find(|definition| definition.node.name.node == name);
            let default = definition.and_then(|definition| definition.node.default_value.as_ref());
            Ok(match self.variables.get(&name).or_else(|| default.map(|default| &default.node)) {
                Some(Value::List(list)) => Value::from(list.len()),
                Some(value @ (Value::Number(_) | Value::Boolean(_))) => value.clone(),
                Some(_) | None => Value::Null,
            })
        }
    }

    /// Whether a directive says so already now.
    fn is_left_out(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().any(|directive| {
            let left_out_if = match directive.node.name.node.as_str() {
                "skip" => true,
                "include" => false,
                _ => return false,
            };
            let condition = directive.node.get_argument("if");
            let condition = condition.map(|value| value.node.clone().into_const_with(self.variables()));
            condition == Some(Ok(Value::Boolean(left_out_if)))
        })
    }
}

/// How many there are: a variable stands for its length, and a single value for a list of one.
fn count(ids: &Value) -> u64 {
    match ids {
        Value::List(list) => list.len() as u64,
        Value::Number(length) => length.as_u64().unwrap_or(1),
        _ => 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_graphql::parser::parse_query;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SDL: &str = "
        schema { query: Query mutation: Mutation subscription: Subscription }
        interface Node { id: ID! }
        union Found = Book | Author
        type Book implements Node { id: ID! title: String! tags: [String!]! author: Author! node: Node }
        type Author implements Node { id: ID! books(first: Int, last: Int): BookConnection! awards: [Award!]! }
        type Award { name: String! by: [Author!]! }
        type BookConnection { nodes: [Book!]! edges: [BookEdge!]! totalCount: Int! facets: [Award!]! }
        type BookEdge { node: Book! cursor: String! }
        type Query {
            book(id: ID!): Book
            books(first: Int, last: Int): BookConnection
            shelf(first: Int! = 8): [Book!]
            node(id: ID!): Node
            nodes(ids: [ID!]!): [Node]
            find: Found
            dear: Int
        }
        type Mutation { write: Book  sign: Book }
        type Subscription { live: Query! }
    ";

    fn prices(most: u64) -> Prices {
        let weights =
            [Weight { on: "Query", field: "dear", cost: 50 }, Weight { on: "Mutation", field: "sign", cost: 1_000 }];
        let sizes = [ListSize { on: "Author", field: "awards", items: 3 }];
        Prices::new(SDL, &weights, &sizes, Pages { default: 20, most: 100 }, most).unwrap()
    }

    fn of_with(text: &str, variables: serde_json::Value) -> Result<u64, Excess> {
        prices(u64::MAX).of(&parse_query(text).unwrap(), None, &Variables::from_json(variables))
    }

    fn cost(text: &str) -> u64 {
        of_with(text, json!({})).unwrap()
    }

    #[test]
    fn a_field_costs_1_and_a_list_that_for_each_item() {
        assert_eq!(cost("{ __typename }"), 1, "an operation costs 1 at least");
        assert_eq!(cost("{ book(id: 1) { id title tags } }"), 4);
        assert_eq!(cost("{ books { totalCount } }"), 2);
        assert_eq!(cost("{ books { nodes { id title } totalCount } }"), 1 + 20 * 3 + 1);
        assert_eq!(cost("{ books(first: 5) { nodes { id } edges { cursor node { id } } } }"), 1 + 5 * (2 + 4));
        assert_eq!(cost("{ books(last: 7) { nodes { id } } }"), 1 + 7 * 2);
        assert_eq!(cost("{ books(first: 0) { nodes { id } } }"), 1);
        assert_eq!(cost("{ books(first: 2) { facets { name } } }"), 1 + USUAL_LIST * 2, "not a part of the page");
        assert_eq!(cost("{ shelf { id } }"), 8 * 2);
        assert_eq!(cost("{ shelf(first: 2) { author { awards { name } } } }"), 2 * (1 + 1 + 3 * 2));
        assert_eq!(
            cost("{ books(first: 10) { nodes { author { books(first: 10) { nodes { id } } } } } }"),
            1 + 10 * 23
        );
    }

    #[test]
    fn ids_and_variables_say_how_many() {
        assert_eq!(cost("{ nodes(ids: [1, 2, 3]) { id } }"), 3 * 2);
        let ids = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }";
        assert_eq!(of_with(ids, json!({ "ids": ["a", "b", "c", "d"] })), Ok(4 * 2));
        assert_eq!(of_with(ids, json!({})), Ok(USUAL_LIST * 2));
        let page = "query($n: Int = 3) { books(first: $n) { nodes { id } } }";
        assert_eq!(of_with(page, json!({ "n": 50 })), Ok(1 + 50 * 2));
        assert_eq!(of_with(page, json!({})), Ok(1 + 3 * 2));
        assert_eq!(of_with(page, json!({ "n": null })), Ok(1 + 20 * 2));
    }

    #[test]
    fn where_many_types_can_stand_the_dearest_counts() {
        let book = "... on Book { id title tags }";
        let author = "... on Author { books(first: 10) { nodes { id } } }";
        assert_eq!(cost(&format!("{{ node(id: 1) {{ {book} }} }}")), 4);
        assert_eq!(cost(&format!("{{ node(id: 1) {{ {book} {author} }} }}")), 1 + 21);
        assert_eq!(cost(&format!("{{ nodes(ids: [1, 2]) {{ id {book} {author} }} }}")), 2 * (1 + 1 + 21));
        assert_eq!(cost(&format!("{{ find {{ {author} ... on Node {{ id {book} }} }} }}")), 1 + 22);
        assert_eq!(cost("{ book(id: 1) { ... on Author { id } ... on Node { id } ... { title } } }"), 3);
    }

    #[test]
    fn fragments_count_where_they_are_spread_with_the_page_of_that_place() {
        let text = "{ a: books(first: 2) { ...P } b: books(first: 30) { ...P } } fragment P on BookConnection { nodes { id } }";
        assert_eq!(cost(text), 1 + 2 * 2 + 1 + 30 * 2);
        assert_eq!(cost("{ book(id: 1) { ...B ...B } } fragment B on Book { id title }"), 5);
    }

    #[test]
    fn what_is_left_out_costs_nothing() {
        let text = "query($yes: Boolean!) { dear @include(if: $yes) book(id: 1) @skip(if: $yes) { id } ... @skip(if: true) { dear } }";
        assert_eq!(of_with(text, json!({ "yes": true })), Ok(50));
        assert_eq!(of_with(text, json!({ "yes": false })), Ok(2));
        assert_eq!(of_with(text, json!({})), Ok(52), "what is not known counts");
    }

    #[test]
    fn changes_cost_more_and_a_live_query_what_it_asks() {
        assert_eq!(cost("mutation { write { id } }"), 11);
        assert_eq!(cost("mutation { sign { id } }"), 1_001);
        assert_eq!(cost("subscription { live { book(id: 1) { id } } }"), 3);
    }

    #[test]
    fn the_operation_that_is_named_counts() {
        let document = parse_query("query A { dear } query B { book(id: 1) { id } }").unwrap();
        let of = |name| prices(1_000).of(&document, Some(name), &Variables::default());
        assert_eq!((of("A"), of("B"), of("C")), (Ok(50), Ok(2), Ok(1)));
    }

    #[test]
    fn too_much_and_too_long_a_page_are_refused_by_name() {
        let refused = |text: &str, variables| {
            let checked = prices(1_000).of(&parse_query(text).unwrap(), None, &Variables::from_json(variables));
            match checked.unwrap_err() {
                Excess::Limit { name, allowed, found, .. } => (name, allowed, found),
                Excess::Circle => panic!("a circle"),
            }
        };
        let nested = "{ books(first: 100) { nodes { author { books(first: 100) { nodes { id } } } } } }";
        assert_eq!(refused(nested, json!({})), ("max_cost", 1_000, 1 + 100 * (2 + 201)));
        let page = "query($n: Int) { books(first: $n) { totalCount } }";
        assert_eq!(refused(page, json!({ "n": 101 })), ("max_page", 100, 101));
    }

    #[test]
    fn introspection_of_the_whole_contract_is_within_the_usual_limit_and_a_spiral_of_it_is_not() {
        let pages = Pages { default: 20, most: 100 };
        let sizes = oriel_schema::cost::LISTS;
        let prices = Prices::new(&oriel_schema::sdl(), oriel_schema::cost::WEIGHTS, sizes, pages, 50_000).unwrap();
        let of = |text: &str| prices.of(&parse_query(text).unwrap(), None, &Variables::default());
        let usual = of(include_str!("tests/introspection.graphql")).unwrap();
        assert!((100..25_000).contains(&usual), "{usual}");
        let spiral =
            format!("{{ __schema {{ types {{ {} name {} }} }} }}", "fields { type { ".repeat(8), "} } ".repeat(8));
        assert!(of(&spiral).is_err());
    }

    #[test]
    fn a_bomb_of_fragments_is_priced_in_linear_time() {
        let mut text = "{ node(id: 1) { ...F0 } }".to_owned();
        for n in 0..60 {
            text.push_str(&format!(" fragment F{n} on Node {{ ...F{0} ... on Book {{ node {{ ...F{0} }} }} }}", n + 1));
        }
        text.push_str(" fragment F60 on Node { id }");
        assert!(cost(&text) > 1 << 59);
        let mut deep = "{ books(first: 100) ".to_owned();
        for _ in 0..20 {
            deep.push_str("{ nodes { author { books(first: 100) ");
        }
        deep.push_str(&format!("{{ totalCount }}{}", "} } }".repeat(20)));
        assert_eq!(cost(&format!("{deep} }}")), u64::MAX, "it saturates");
    }

    /// Selections on a book, with what they cost, computed from the outside.
    fn on_book() -> impl Strategy<Value = (String, u64)> {
        let leaf =
            prop_oneof![Just(("id".to_owned(), 1)), Just(("title".to_owned(), 1)), Just(("__typename".to_owned(), 0))];
        leaf.prop_recursive(6, 40, 4, |inner| {
            let several = prop::collection::vec(inner, 1..4).prop_map(|all| {
                let text = all.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(" ");
                (text, all.iter().map(|(_, cost)| cost).sum::<u64>())
            });
            (several, 0u64..30, 0..4).prop_map(|((text, cost), page, kind)| match kind {
                0 => (format!("author {{ books(first: {page}) {{ nodes {{ {text} }} }} }}"), 2 + page * (1 + cost)),
                1 => (
                    format!("author {{ books(last: {page}) {{ edges {{ node {{ {text} }} }} }} }}"),
                    2 + page * (2 + cost),
                ),
                2 => (
                    format!("... on Node {{ ... on Book {{ {text} }} ... on Author {{ books {{ totalCount }} }} }}"),
                    cost,
                ),
                _ => (format!("node {{ ... on Book {{ {text} }} }}"), 1 + cost),
            })
        })
    }

    proptest! {
        #[test]
        fn a_query_costs_the_sum_of_its_parts((text, inside) in on_book(), page in 0u64..100) {
            prop_assert_eq!(cost(&format!("{{ book(id: 1) {{ {text} }} }}")), 1 + inside);
            let listed = format!("{{ books(first: {page}) {{ nodes {{ ...B }} }} }} fragment B on Book {{ {text} }}");
            prop_assert_eq!(cost(&listed), 1 + page * (1 + inside));
        }

        #[test]
        fn any_document_has_a_price(text in "[{}a-z(): .@]{0,60}") {
            if let Ok(document) = parse_query(text) {
                let _ = prices(u64::MAX).of(&document, None, &Variables::default());
            }
        }
    }
}
