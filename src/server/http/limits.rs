//! The limits of a GraphQL document, checked on the raw text and on the parsed document, before any work.
//!
//! Invariants: the text is scanned in one pass before it is parsed, so that the parser never sees a document that is
//! too large or too deeply nested for its recursion; fragments count wherever they are spread, in linear time; what
//! is refused is told which limit, its value, what was found, and how to ask for less.

use std::collections::HashMap;
use std::convert::Infallible;

use async_graphql::parser::types::{ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{Name, Value, Variables};

use crate::settings::Settings;

/// Brackets within brackets, and fragments within fragments. What the parser and the executor recurse over.
const MAX_NESTING: usize = 128;
/// What a document holds when its fragments are written out: selections, the values of their arguments, and how often
/// the validator compares the arguments of one field with those of another beside it. It makes an error of each, and
/// walks over all of it before anything is priced.
const MAX_EXPANSION: u64 = 100_000;

/// What one document may hold.
#[derive(Clone, Copy, Debug)]
pub struct DocumentLimits {
    /// The text.
    pub bytes: u64,
    /// Names, numbers, texts and signs.
    pub tokens: usize,
    /// Fields inside fields.
    pub depth: usize,
    /// Fields under another name.
    pub aliases: usize,
    /// Fields of the root.
    pub root_fields: usize,
    /// Directives.
    pub directives: usize,
    /// Fields, each one wherever its fragment is spread: what costs 1 each at least.
    pub fields: u64,
    /// Values inside the variables.
    pub variable_values: usize,
}

impl DocumentLimits {
    /// Those of the settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            bytes: settings.max_query_bytes,
            tokens: settings.max_query_tokens,
            depth: settings.max_depth,
            aliases: settings.max_aliases,
            root_fields: settings.max_root_fields,
            directives: settings.max_directives,
            fields: settings.max_cost,
            variable_values: settings.max_variable_values,
        }
    }
}

/// Why a document is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// More than is allowed.
    Limit {
        /// The limit, as the setting is named.
        name: &'static str,
        /// Its value.
        allowed: u64,
        /// What the document has; with `at_least`, or more.
        found: u64,
        /// Counting ended there.
        at_least: bool,
        /// How to ask for less.
        advice: &'static str,
    },
    /// A fragment that contains itself.
    Circle,
}

fn excess(name: &'static str, allowed: impl TryInto<u64>, found: u64, at_least: bool, advice: &'static str) -> Excess {
    Excess::Limit { name, allowed: allowed.try_into().unwrap_or(u64::MAX), found, at_least, advice }
}

/// Looks at the text: its bytes, its tokens, its brackets.
pub fn check_text(text: &str, limits: &DocumentLimits) -> Result<(), Excess> {
    if text.len() as u64 > limits.bytes {
        let advice = "Send a shorter document: move values into variables, and repeated fields into fragments.";
        return Err(excess("max_query_bytes", limits.bytes, text.len() as u64, false, advice));
    }
    let (mut tokens, mut nesting) = (0usize, 0usize);
    let mut rest = text.as_bytes();
    while let Some((kind, after)) = token(rest) {
        rest = after;
        match kind {
            Token::Ignored => continue,
            Token::Open => nesting += 1,
            Token::Close => nesting = nesting.saturating_sub(1),
            Token::Other => {}
        }
        tokens += 1;
        if tokens > limits.tokens {
            let advice = "Ask for fewer fields at once, or move values into variables.";
            return Err(excess("max_query_tokens", limits.tokens, tokens as u64, true, advice));
        }
        if nesting > MAX_NESTING {
            let advice = "Nest fewer brackets.";
            return Err(excess("nesting", MAX_NESTING, nesting as u64, true, advice));
        }
    }
    Ok(())
}

enum Token {
    Ignored,
    Open,
    Close,
    Other,
}

/// The first token, and what follows it. Lenient: a wrong text has its tokens too, and the parser says what is wrong.
fn token(text: &[u8]) -> Option<(Token, &[u8])> {
    let (&first, after) = text.split_first()?;
    let skip = |matches: fn(u8) -> bool| {
        let end = text.iter().position(|byte| !matches(*byte)).unwrap_or(text.len());
        &text[end.max(1)..]
    };
    Some(match first {
        b' ' | b'\t' | b'\r' | b'\n' | b',' => (Token::Ignored, after),
        0xEF if text.starts_with(b"\xEF\xBB\xBF") => (Token::Ignored, &text[3..]),
        b'#' => (Token::Ignored, skip(|byte| !matches!(byte, b'\r' | b'\n'))),
        b'{' | b'[' | b'(' => (Token::Open, after),
        b'}' | b']' | b')' => (Token::Close, after),
        b'"' if text.starts_with(b"\"\"\"") => (Token::Other, after_block(&text[3..])),
        b'"' => (Token::Other, after_string(after)),
        b'.' if text.starts_with(b"...") => (Token::Other, &text[3..]),
        b'0'..=b'9' | b'-' => {
            (Token::Other, skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')))
        }
        b'_' | b'a'..=b'z' | b'A'..=b'Z' => (Token::Other, skip(|byte| byte == b'_' || byte.is_ascii_alphanumeric())),
        _ => (Token::Other, after),
    })
}

fn after_string(text: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return &text[at + 1..],
            // A string ends with its line: what follows is counted again, not skipped.
            b'\r' | b'\n' => return &text[at..],
            _ => at += 1,
        }
    }
    &[]
}

fn after_block(text: &[u8]) -> &[u8] {
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(b"\\\"\"\"") {
            at += 4;
        } else if text[at..].starts_with(b"\"\"\"") {
            return &text[at + 3..];
        } else {
            at += 1;
        }
    }
    &[]
}

/// Looks at the parsed document.
pub fn check_document(document: &ExecutableDocument, limits: &DocumentLimits) -> Result<(), Excess> {
    let mut measuring = Measuring { document, fragments: HashMap::new() };
    let (mut fields, mut aliases, mut directives, mut expansion) = (0u64, 0u64, 0u64, 0u64);
    for (_, operation) in document.operations.iter() {
        let operation = &operation.node;
        let size = measuring.set(&operation.selection_set.node, 0)?;
        // `live` opens a second root.
        let (roots, extra) = match operation.ty {
            OperationType::Subscription => (size.roots.max(size.second), 1),
            OperationType::Query | OperationType::Mutation => (size.roots, 0),
        };
        if size.depth > (limits.depth + extra) as u64 {
            let advice = "Ask for the inner objects in a request of their own, by id.";
            return Err(excess("max_depth", limits.depth, size.depth, false, advice));
        }
        if roots > limits.root_fields as u64 {
            let advice = "Ask for fewer fields of the root in one operation.";
            return Err(excess("max_root_fields", limits.root_fields, roots, false, advice));
        }
        fields = fields.saturating_add(size.fields);
        aliases = aliases.saturating_add(size.aliases);
        expansion = expansion.saturating_add(size.expansion);
        let own = operation.directives.len()
            + operation.variable_definitions.iter().map(|v| v.node.directives.len()).sum::<usize>();
        directives = directives.saturating_add(size.directives).saturating_add(own as u64);
    }
    // Those that no operation spreads are read by the validator all the same.
    for name in document.fragments.keys() {
        if !measuring.fragments.contains_key(name.as_str()) {
            expansion = expansion.saturating_add(measuring.fragment(name, 0)?.expansion);
        }
    }
    if aliases > limits.aliases as u64 {
        let advice = "Ask for the same field fewer times; a list with a filter may do it in one.";
        return Err(excess("max_aliases", limits.aliases, aliases, false, advice));
    }
    if directives > limits.directives as u64 {
        let advice = "Use fewer directives: leave out of the document what is not wanted.";
        return Err(excess("max_directives", limits.directives, directives, false, advice));
    }
    if fields > limits.fields {
        return Err(excess("max_cost", limits.fields, fields, true, "Ask for fewer fields at once."));
    }
    if expansion > MAX_EXPANSION {
        let advice = "Spread fragments in fewer places, and move arguments into variables.";
        return Err(excess("expansion", MAX_EXPANSION, expansion, true, advice));
    }
    Ok(())
}

/// Looks at the variables: how many values they hold, and how deep those stand.
pub fn check_variables(variables: &Variables, limits: &DocumentLimits) -> Result<(), Excess> {
    let mut waiting: Vec<(&Value, usize)> = variables.values().map(|value| (value, 1)).collect();
    let mut found = waiting.len();
    while let Some((value, level)) = waiting.pop() {
        if level > MAX_NESTING {
            return Err(excess("nesting", MAX_NESTING, level as u64, true, "Nest the variables less."));
        }
        let before = waiting.len();
        match value {
            Value::List(list) => waiting.extend(list.iter().map(|inside| (inside, level + 1))),
            Value::Object(object) => waiting.extend(object.values().map(|inside| (inside, level + 1))),
            _ => {}
        }
        found += waiting.len() - before;
        if found > limits.variable_values {
            let advice = "Send fewer values at once: shorter lists, in several requests.";
            return Err(excess("max_variable_values", limits.variable_values, found as u64, true, advice));
        }
    }
    Ok(())
}

/// What a set of selections holds, fragments included.
#[derive(Clone, Copy, Default)]
struct Size {
    depth: u64,
    fields: u64,
    aliases: u64,
    directives: u64,
    /// Fields of this level.
    roots: u64,
    /// Fields of the level below.
    second: u64,
    /// Sets within this one, one inside the other.
    nesting: usize,
    /// See [`MAX_EXPANSION`].
    expansion: u64,
    /// The most arguments of a field of this level.
    arguments: u64,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.depth = self.depth.max(other.depth);
        self.fields = self.fields.saturating_add(other.fields);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.directives = self.directives.saturating_add(other.directives);
        self.roots = self.roots.saturating_add(other.roots);
        self.second = self.second.saturating_add(other.second);
        self.nesting = self.nesting.max(other.nesting + 1);
        self.expansion = self.expansion.saturating_add(other.expansion).saturating_add(1);
        self.arguments = self.arguments.max(other.arguments);
    }
}

/// What stands where a variable does: its value is not asked for.
fn unknown(_: Name) -> Result<Value, Infallible> {
    Ok(Value::Null)
}

/// How many values there are in this one, itself included.
fn values(value: Result<Value, Infallible>) -> u64 {
    let Ok(value) = value;
    let mut waiting = vec![&value];
    let mut found = 0;
    while let Some(value) = waiting.pop() {
        found += 1;
        match value {
            Value::List(list) => waiting.extend(list),
            Value::Object(object) => waiting.extend(object.values()),
            _ => {}
        }
    }
    found
}

fn too_nested(level: usize) -> Excess {
    excess("nesting", MAX_NESTING, level as u64, true, "Nest fewer fragments.")
}

struct Measuring<'a> {
    document: &'a ExecutableDocument,
    /// Each fragment is measured once. `None`: it is being measured.
    fragments: HashMap<&'a str, Option<Size>>,
}

impl<'a> Measuring<'a> {
    fn set(&mut self, set: &'a SelectionSet, level: usize) -> Result<Size, Excess> {
        if level > MAX_NESTING {
            return Err(too_nested(level));
        }
        let mut size = Size::default();
        for selection in &set.items {
            let directives = selection.node.directives();
            size.directives = size.directives.saturating_add(directives.len() as u64);
            for (_, value) in directives.iter().flat_map(|directive| &directive.node.arguments) {
                size.expansion = size.expansion.saturating_add(values(value.node.clone().into_const_with(unknown)));
            }
            match &selection.node {
                Selection::Field(field) => {
                    let below = self.set(&field.node.selection_set.node, level + 1)?;
                    let arguments = &field.node.arguments;
                    let given = arguments.iter().map(|(_, value)| values(value.node.clone().into_const_with(unknown)));
                    size.add(Size {
                        depth: below.depth + 1,
                        fields: below.fields.saturating_add(1),
                        aliases: below.aliases.saturating_add(u64::from(field.node.alias.is_some())),
                        directives: below.directives,
                        roots: 1,
                        second: below.roots,
                        nesting: below.nesting,
                        expansion: below.expansion.saturating_add(given.sum()),
                        arguments: arguments.len() as u64,
                    });
                }
                Selection::InlineFragment(fragment) => {
                    let inside = self.set(&fragment.node.selection_set.node, level + 1)?;
                    size.add(inside);
                }
                Selection::FragmentSpread(spread) => {
                    let inside = self.fragment(&spread.node.fragment_name.node, level + 1)?;
                    size.add(inside);
                }
            }
        }
        size.expansion = size.expansion.saturating_add(size.arguments.saturating_mul(size.roots));
        Ok(size)
    }

    fn fragment(&mut self, name: &'a str, level: usize) -> Result<Size, Excess> {
        match self.fragments.get(name) {
            // It was measured where less stood around it.
            Some(Some(size)) if level + size.nesting > MAX_NESTING => return Err(too_nested(level + size.nesting)),
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(Excess::Circle),
            None => {}
        }
        // One that is not there: validation says so.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Size::default()) };
        self.fragments.insert(name, None);
        let mut size = self.set(&fragment.node.selection_set.node, level)?;
        size.directives = size.directives.saturating_add(fragment.node.directives.len() as u64);
        self.fragments.insert(name, Some(size));
        Ok(size)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_graphql::parser::parse_query;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: DocumentLimits = DocumentLimits {
        bytes: 100_000,
        tokens: 20_000,
        depth: 4,
        aliases: 3,
        root_fields: 3,
        directives: 200,
        fields: 1_000,
        variable_values: 10,
    };

    fn tokens(text: &str) -> usize {
        let (mut rest, mut count) = (text.as_bytes(), 0);
        while let Some((kind, after)) = token(rest) {
            assert!(after.len() < rest.len());
            rest = after;
            count += usize::from(!matches!(kind, Token::Ignored));
        }
        count
    }

    fn refused(text: &str) -> Option<&'static str> {
        let checked = check_text(text, &LIMITS).and_then(|()| check_document(&parse_query(text).unwrap(), &LIMITS));
        match checked {
            Ok(()) => None,
            Err(Excess::Limit { name, .. }) => Some(name),
            Err(Excess::Circle) => Some("circle"),
        }
    }

    #[test]
    fn tokens_are_counted_as_graphql_counts_them() {
        assert_eq!(tokens("{ a(b: 1.5e+3, c: \"x \\\" y\") ...F @d } # {{{ not these"), 15);
        assert_eq!(tokens("\u{feff}\"\"\"a \\\"\"\" \n { b\"\"\" [$v!]"), 6);
        assert_eq!(tokens("\"never ends"), 1);
        assert_eq!(tokens("\"\"\"never ends"), 1);
        assert_eq!(tokens("\"\\"), 1);
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_nest() {
        let text = format!("{{ a(b: \"{0}\") # {0}\n }}", "{".repeat(500));
        assert_eq!(check_text(&text, &LIMITS), Ok(()));
    }

    #[test]
    fn each_limit_holds_and_is_named() {
        assert_eq!(refused("{ a { b { c { d } } } }"), None);
        assert_eq!(refused("{ a { b { c { d { e } } } } }"), Some("max_depth"));
        assert_eq!(refused("{ a { ... { ...F } } } fragment F on X { b { c { d { e } } } }"), Some("max_depth"));
        assert_eq!(refused("{ r { x: a y: a z: a } }"), None);
        assert_eq!(refused("{ r { w: a x: a y: a z: a } }"), Some("max_aliases"));
        assert_eq!(refused("{ r { ...F } s { ...F } } fragment F on X { x: a y: a }"), Some("max_aliases"));
        assert_eq!(refused("{ a b c }"), None);
        assert_eq!(refused("{ a ... { b c } d }"), Some("max_root_fields"));
        assert_eq!(refused("subscription { live { a b c d } }"), Some("max_root_fields"));
        assert_eq!(refused("subscription { live { a { b { c { d } } } } }"), None);
        assert_eq!(refused(&format!("{{ r {{ {} }} }}", "a ".repeat(1_001))), Some("max_cost"));
        assert_eq!(refused(&format!("{{ r {{ a {} }} }}", "@d ".repeat(201))), Some("max_directives"));
        assert_eq!(refused(&format!("{{ r {{ {} }} }}", "a ".repeat(20_000))), Some("max_query_tokens"));
        assert_eq!(refused(&" ".repeat(100_001)), Some("max_query_bytes"));
    }

    #[test]
    fn variables_are_counted_and_not_too_deep() {
        let check = |variables| check_variables(&Variables::from_json(variables), &LIMITS);
        let name = |checked| match checked {
            Err(Excess::Limit { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(check(serde_json::json!({ "a": [1, 2, 3], "b": { "c": [null], "d": "x" } })), Ok(()));
        assert_eq!(name(check(serde_json::json!({ "a": vec![0; 10] }))), "max_variable_values");
        assert_eq!(name(check(serde_json::json!({ "a": vec![vec![0; 2]; 4] }))), "max_variable_values");
        let deep = (0..MAX_NESTING).fold(serde_json::json!(1), |inside, _| serde_json::json!([inside]));
        let limits = DocumentLimits { variable_values: 1_000, ..LIMITS };
        assert_eq!(name(check_variables(&Variables::from_json(serde_json::json!({ "a": deep })), &limits)), "nesting");
    }

    #[test]
    fn a_bomb_of_fragments_is_measured_in_linear_time_and_refused() {
        let mut text = "{ r { ...F0 } }".to_owned();
        for n in 0..60 {
            text.push_str(&format!(" fragment F{n} on X {{ ...F{0} ...F{0} }}", n + 1));
        }
        text.push_str(" fragment F60 on X { a }");
        assert_eq!(refused(&text), Some("max_cost"));
    }

    #[test]
    fn fragments_in_a_circle_and_in_a_long_chain_are_refused() {
        assert_eq!(refused("{ ...A } fragment A on X { ...B } fragment B on X { a { ...A } }"), Some("circle"));
        let mut text = "{ ...F0 }".to_owned();
        for n in 0..1_000 {
            text.push_str(&format!(" fragment F{n} on X {{ ...F{} }}", n + 1));
        }
        assert_eq!(refused(&text), Some("nesting"));
    }

    #[test]
    fn fragments_that_were_measured_before_are_nested_too() {
        let mut text = "{ ...F0 ...F1 ...F2 ...F3 } fragment F0 on X { a }".to_owned();
        for n in 1..4 {
            let (open, close) = ("...{".repeat(50), "}".repeat(50));
            text.push_str(&format!(" fragment F{n} on X {{ {open} ...F{} {close} }}", n - 1));
        }
        assert_eq!(refused(&text), Some("nesting"));
    }

    #[test]
    fn a_bomb_without_a_field_is_refused() {
        for end in ["...Gone", "...{ ...Gone }"] {
            let mut text = "{ a ...F0 }".to_owned();
            for n in 0..30 {
                text.push_str(&format!(" fragment F{n} on X {{ ...F{0} ...F{0} }}", n + 1));
            }
            text.push_str(&format!(" fragment F30 on X {{ {end} }}"));
            assert_eq!(refused(&text), Some("expansion"), "{end}");
        }
    }

    #[test]
    fn what_the_validator_would_compare_with_each_other_is_bounded() {
        let arguments: String = (0..1_000).map(|n| format!("x{n}: 1 ")).collect();
        let fields = "a ".repeat(900);
        assert_eq!(refused(&format!("{{ r {{ a({arguments}) {fields} }} }}")), Some("expansion"));
        let spread = "{ b } fragment A on X { a(ARGUMENTS) } fragment B on X { FIELDS } fragment C on X { ...A ...B }";
        let spread = spread.replace("ARGUMENTS", &arguments).replace("FIELDS", &fields);
        assert_eq!(refused(&spread), Some("expansion"), "also where no operation comes");
        assert_eq!(refused(&format!("{{ r {{ a(x: [{}]) {} }} }}", "$v ".repeat(5_000), "b ".repeat(900))), None);
    }

    #[test]
    fn what_is_nested_as_deep_as_allowed_does_not_exhaust_a_thread_of_the_runtime() {
        let inside = MAX_NESTING - 2;
        for (open, close) in [("[", "]"), ("{a:", "}")] {
            let text = format!("{{ f(x: {}1{}) }}", open.repeat(inside), close.repeat(inside));
            assert_eq!(check_text(&text, &LIMITS), Ok(()));
            let parsing = std::thread::Builder::new().stack_size(2 << 20).spawn(move || parse_query(&text).is_ok());
            assert!(parsing.unwrap().join().unwrap());
        }
        let text = format!("{}{}", "{a".repeat(MAX_NESTING), "}".repeat(MAX_NESTING));
        let parsing = std::thread::Builder::new().stack_size(2 << 20).spawn(move || parse_query(&text).is_err());
        assert!(parsing.unwrap().join().unwrap());
    }

    /// How many selections there are when every fragment is written out, and how deep they stand: the recursion of an
    /// executor, which ends where there are more than `most`.
    fn written_out(
        document: &ExecutableDocument,
        set: &SelectionSet,
        depth: usize,
        found: &mut u64,
        most: u64,
    ) -> usize {
        let mut deepest = depth;
        for selection in &set.items {
            *found += 1;
            if *found > most {
                return deepest;
            }
            let inside = match &selection.node {
                Selection::Field(field) => Some(&field.node.selection_set.node),
                Selection::InlineFragment(fragment) => Some(&fragment.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    document.fragments.get(&spread.node.fragment_name.node).map(|f| &f.node.selection_set.node)
                }
            };
            if let Some(inside) = inside {
                deepest = deepest.max(written_out(document, inside, depth + 1, found, most));
            }
        }
        deepest
    }

    fn selections() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            2 => Just("a".to_owned()),
            1 => Just("b: a(x: [1, $v])".to_owned()),
            4 => (0..14usize, 1..4usize).prop_map(|(n, times)| format!("...F{n} ").repeat(times)),
        ];
        let set = leaf.prop_recursive(6, 24, 4, |inside| {
            (prop_oneof![Just("a"), Just("..."), Just("... on X")], prop::collection::vec(inside, 1..4), 1..40usize)
                .prop_map(|(name, sets, times)| {
                    format!("{}{}{}", format!("{name} {{").repeat(times), sets.join(" "), "}".repeat(times))
                })
        });
        prop::collection::vec(set, 1..4).prop_map(|sets| sets.join(" "))
    }

    proptest! {
        /// However the fragments are spread: what is not refused is small when they are written out.
        #[test]
        fn what_passes_is_small_and_flat_when_it_is_written_out(sets in prop::collection::vec(selections(), 1..14)) {
            let mut text = format!("{{ {} }}", sets[0]);
            for (n, set) in sets.iter().enumerate().skip(1) {
                text.push_str(&format!(" fragment F{n} on X {{ {set} }}"));
            }
            let limits = DocumentLimits { depth: 1_000, aliases: 100_000, root_fields: 100_000, fields: 100_000, ..LIMITS };
            let Ok(()) = check_text(&text, &limits) else { return Ok(()) };
            let Ok(document) = parse_query(&text) else { return Ok(()) };
            if check_document(&document, &limits).is_err() {
                return Ok(());
            }
            for (_, operation) in document.operations.iter() {
                let mut found = 0;
                let set = &operation.node.selection_set.node;
                let deepest = written_out(&document, set, 0, &mut found, MAX_EXPANSION);
                prop_assert!(found <= MAX_EXPANSION, "more than {MAX_EXPANSION} selections");
                prop_assert!(deepest <= MAX_NESTING, "{deepest} sets within each other");
            }
        }

        #[test]
        fn any_text_is_scanned_to_its_end(text in "\\PC*|[{}\\[\\]()\"\\\\#.a0 \n]{0,60}") {
            tokens(&text);
        }
    }
}
