//! Where values come from: flags, variables, the file, the defaults, in this order; and how a wrong one is refused.
//!
//! Invariants: everything wrong is told at once; a value that may be a secret is masked, also inside a refusal and
//! in the text of a broken file. The environment is passed in, never read here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::value::Kind;
use super::{Settings, table, variable};

/// Variables that begin with `ORIEL_` and are no settings: of the command line and of the test suite.
const OTHER_VARIABLES: [&str; 4] = ["ORIEL_CONFIG", "ORIEL_TOKEN", "ORIEL_URL", "ORIEL_REQUIRE_SERVERS"];

/// Everything that settings are read from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// From the command line.
    pub flags: Vec<Flag>,
    /// The environment; what does not begin with `ORIEL_` is not looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// `--config FILE`.
    pub config: Option<PathBuf>,
}

/// One setting from the command line.
#[derive(Clone)]
pub struct Flag {
    /// As it was typed: `--listen` or `--set`.
    pub flag: &'static str,
    /// The key of the setting.
    pub key: String,
    /// Its text.
    pub value: String,
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}=...", self.flag, self.key)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The setting.
    pub key: &'static str,
    /// The value, masked where it must be.
    pub shown: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The settings, and how they came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Every value in force, in the order of the table.
    pub chosen: Vec<Chosen>,
    /// What is allowed and unwise; to be logged at the start.
    pub warnings: Vec<String>,
}

/// Why the start is refused, a line for each wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for SettingsError {}

/// Reads all settings from all sources.
pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
    let mut wrong = Vec::new();
    let mut choice = Choice::default();
    let environment = environment(sources, &mut wrong);
    // Later sources overwrite earlier ones; the file is found with the help of the others.
    let file = configuration_file(sources, &environment);
    if let Some((path, named)) = file {
        read_file(&path, named, &mut choice, &mut wrong);
    }
    read_environment(&environment, &mut choice, &mut wrong);
    read_flags(&sources.flags, &mut choice, &mut wrong);

    let mut warnings = Vec::new();
    let settings = Settings::read(&mut choice, &mut wrong);
    if let Some(settings) = &settings {
        settings.check(&mut wrong, &mut warnings);
    }
    match settings {
        Some(settings) if wrong.is_empty() => Ok(Loaded { settings, chosen: choice.shown, warnings }),
        _ => Err(SettingsError(wrong)),
    }
}

/// The texts that win, by key; then, setting by setting, what they were read as.
#[derive(Default)]
pub(super) struct Choice {
    texts: BTreeMap<String, (String, Origin)>,
    shown: Vec<Chosen>,
}

impl Choice {
    fn set(&mut self, key: &str, value: String, origin: Origin) {
        self.texts.insert(key.to_owned(), (value, origin));
    }

    /// Reads one setting as its kind.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: &str,
        kind: &Kind<T>,
        wrong: &mut Vec<String>,
    ) -> Option<T> {
        let (text, origin) = self.texts.remove(key).unwrap_or_else(|| (default.to_owned(), Origin::Default));
        if kind.secret && matches!(origin, Origin::Flag(_)) {
            let name = variable(key);
            wrong.push(format!(
                "{key} (from {origin}): a secret is not taken from the command line, which others \
                                can see; use {name} or the file"
            ));
            return None;
        }
        let Some(value) = kind.read(&text) else {
            let text = kind.mask(&text);
            wrong.push(format!("{key} (from {origin}): {text:?} is not allowed; allowed: {}", kind.allowed));
            return None;
        };
        self.shown.push(Chosen { key, shown: kind.show(&value), origin });
        Some(value)
    }
}

/// The `ORIEL_` variables as text.
fn environment(sources: &Sources, wrong: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in &sources.environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("ORIEL_")) else { continue };
        match value.to_str() {
            Some(value) => drop(variables.insert(name.to_owned(), value.to_owned())),
            None => wrong.push(format!("{name}: the value is not UTF-8")),
        }
    }
    variables
}

/// The file to read and whether someone named it: `--config`, `ORIEL_CONFIG`, or `oriel.toml` in the data folder.
fn configuration_file(sources: &Sources, environment: &BTreeMap<String, String>) -> Option<(PathBuf, bool)> {
    let variable = environment.get("ORIEL_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = sources.config.clone().or(variable) {
        return Some((path, true));
    }
    let flag = sources.flags.iter().rev().find(|flag| flag.key == "data").map(|flag| flag.value.as_str());
    let data = flag.or_else(|| environment.get(&variable_of_data()).map(String::as_str));
    let default = || table().iter().find(|setting| setting.key == "data").map_or("", |setting| setting.default);
    let path = Path::new(data.unwrap_or_else(default)).join("oriel.toml");
    path.exists().then_some((path, false))
}

fn variable_of_data() -> String {
    variable("data")
}

fn read_file(path: &Path, named: bool, choice: &mut Choice, wrong: &mut Vec<String>) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return wrong.push(format!("{}: the file cannot be read: {error}", path.display())),
    };
    let line_of = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let document = match DeTable::parse(&text) {
        Ok(document) => document,
        Err(error) => {
            // The error's own text quotes the line, which may hold a secret.
            let line = line_of(error.span().map_or(0, |span| span.start));
            return wrong.push(format!("{}:{line}: not valid TOML: {}", path.display(), error.message()));
        }
    };
    let keys: Vec<&str> = table().iter().map(|setting| setting.key).collect();
    for (key, value) in document.get_ref() {
        let origin = Origin::File { path: path.to_owned(), line: line_of(key.span().start) };
        let key = key.get_ref().as_ref();
        if !keys.contains(&key) {
            let hint = did_you_mean(key, keys.iter().copied());
            wrong.push(format!("{origin}: there is no setting {key:?}{hint}"));
        } else if key == "data" && !named {
            wrong.push(format!(
                "{origin}: data cannot be set by the file inside the data folder; use ORIEL_DATA, \
                                --data, or name the file with --config"
            ));
        } else if let Some(value) = text_of(value.get_ref()) {
            choice.set(key, value, origin);
        } else {
            wrong.push(format!("{key} (from {origin}): write a string, a number or a list of strings"));
        }
    }
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn read_environment(environment: &BTreeMap<String, String>, choice: &mut Choice, wrong: &mut Vec<String>) {
    let known: BTreeMap<String, &str> = table().iter().map(|setting| (setting.variable(), setting.key)).collect();
    for (name, value) in environment {
        if let Some(key) = known.get(name) {
            choice.set(key, value.clone(), Origin::Variable(name.clone()));
        } else if !is_not_a_setting(name, value) {
            let names = known.keys().map(String::as_str).chain(OTHER_VARIABLES);
            wrong.push(format!("{name}: there is no such setting{}", did_you_mean(name, names)));
        }
    }
}

/// Variables of the command line, of tests, and those that Kubernetes makes from a service called `oriel...`.
fn is_not_a_setting(name: &str, value: &str) -> bool {
    let kubernetes = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()));
    OTHER_VARIABLES.contains(&name) || name.starts_with("ORIEL_TEST_") || kubernetes
}

fn read_flags(flags: &[Flag], choice: &mut Choice, wrong: &mut Vec<String>) {
    let keys: Vec<&str> = table().iter().map(|setting| setting.key).collect();
    for (at, Flag { flag, key, value }) in flags.iter().enumerate() {
        if !keys.contains(&key.as_str()) {
            let hint = did_you_mean(key, keys.iter().copied());
            wrong.push(format!("{flag}: there is no setting {key:?}{hint}"));
        } else if flags[..at].iter().any(|earlier| earlier.key == *key) {
            wrong.push(format!("{key} (from {flag}): given more than once on the command line"));
        } else {
            choice.set(key, value.clone(), Origin::Flag(flag));
        }
    }
}

fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase().replace('-', "_");
    let near = candidates
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, _)| *distance <= 1 + wanted.len() / 6);
    match near {
        Some((_, candidate)) => format!("; did you mean {candidate}?"),
        None => "; `oriel config` prints all of them".to_owned(),
    }
}

/// How many letters have to be added, removed or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
