#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// Settings from any of the three places; the file is named with `--config`.
struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Given {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), sources: Sources::default() }
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.folder.path().join("given.toml");
        std::fs::write(&path, text).unwrap();
        self.sources.config = Some(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, flag: &'static str, key: &str, value: &str) -> Self {
        self.sources.flags.push(Flag { flag, key: key.to_owned(), value: value.to_owned() });
        self
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap()
    }

    fn refused(&self) -> String {
        load(&self.sources).unwrap_err().to_string()
    }
}

#[test]
fn a_wrong_value_is_refused_with_name_origin_value_and_what_is_allowed() {
    let refused = Given::new().variable("ORIEL_RATE_LIMIT", "fast").refused();
    for part in ["rate_limit", "ORIEL_RATE_LIMIT", "\"fast\"", "auto, off, or a number"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let refused = Given::new().file("\nmax_depth = 1\n").refused();
    for part in ["max_depth", "given.toml:2", "\"1\"", "from 5 to 100"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let refused = Given::new().flag("--listen", "listen", "8080").refused();
    assert!(refused.contains("listen (from --listen): \"8080\" is not allowed; allowed: ADDRESS:PORT"), "{refused}");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let refused = Given::new()
        .file("log_format = \"yaml\"\nmax_page = true\n")
        .variable("ORIEL_LISTEN", "here")
        .variable("ORIEL_LISTENER", "127.0.0.1:1")
        .flag("--set", "nonsense", "1");
    let SettingsError(lines) = load(&refused.sources).unwrap_err();
    assert_eq!(lines.len(), 5, "{lines:?}");
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_one() {
    let given =
        Given::new().file("rate_limt = \"off\"").variable("ORIEL_DATABSE_URL", "").flag("--set", "max-depth", "9");
    let refused = given.refused();
    for part in ["did you mean rate_limit?", "did you mean ORIEL_DATABASE_URL?", "did you mean max_depth?"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let refused = Given::new().file("colour = \"blue\"").refused();
    assert!(refused.contains("oriel config") && !refused.contains("did you mean"), "{refused}");
    let refused = Given::new().file("[limits]\nmax_depth = 9\n").refused();
    assert!(refused.contains("there is no setting \"limits\""), "{refused}");
}

#[test]
fn variables_of_others_are_left_alone() {
    let names = ["ORIEL_SERVICE_HOST", "ORIEL_PORT", "ORIEL_SERVICE_PORT_HTTP", "ORIEL_POSTGRES_PORT_5432_TCP_ADDR"];
    let given = names.iter().fold(Given::new(), |given, name| given.variable(name, "tcp://10.0.0.1:80"));
    given.variable("ORIEL_TOKEN", "t").variable("ORIEL_REQUIRE_SERVERS", "1").variable("ORIELLE", "x").load();
    let refused = Given::new().variable("ORIEL_LISTEN_PORT", "8080").refused();
    assert!(refused.contains("ORIEL_LISTEN_PORT: there is no such setting"), "{refused}");
}

#[test]
fn a_secret_is_never_part_of_a_refusal() {
    let refused = Given::new()
        .file("blobs_url = \"s3:hunter2\"\nmail_url = \"smpt://oriel:hunter2@mail\"")
        .variable("ORIEL_MASTER_KEY", "hunter2")
        .variable("ORIEL_DATABASE_URL", "posgres://oriel:hunter2@db/oriel")
        .variable("ORIEL_SEARCH_KEY", "hunter2 with blanks")
        .variable("ORIEL_REDIS_URL", "hunter2")
        .refused();
    assert!(!refused.contains("hunter2"), "{refused}");
    assert_eq!(refused.lines().count(), 7, "{refused}");
    let broken = Given::new().file("listen = \"127.0.0.1:1\"\nsearch_key = \"hunter2\n").refused();
    assert!(!broken.contains("hunter2") && broken.contains("given.toml:2"), "{broken}");
}

#[test]
fn a_secret_is_not_printed_by_debug_and_not_taken_from_the_command_line() {
    let given = Given::new()
        .variable("ORIEL_SEARCH_KEY", "hunter2")
        .variable("ORIEL_SEARCH_URL", "http://search")
        .variable("ORIEL_DATABASE_URL", "postgres://oriel:hunter2@db/oriel");
    let loaded = given.load();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert_eq!(loaded.settings.search_key.unwrap().expose(), "hunter2");
    assert_eq!(loaded.settings.database_url.unwrap().expose(), "postgres://oriel:hunter2@db/oriel");

    let given = Given::new().flag("--set", "search_key", "hunter2");
    assert!(!format!("{:?}", given.sources).contains("hunter2"));
    let refused = given.refused();
    assert!(refused.contains("ORIEL_SEARCH_KEY") && !refused.contains("hunter2"), "{refused}");
}

#[test]
fn the_file_in_the_data_folder_is_read_unless_another_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("oriel.toml"), "max_depth = 20").unwrap();
    let data = folder.path().to_str().unwrap();
    assert_eq!(Given::new().variable("ORIEL_DATA", data).load().settings.max_depth, 20);
    assert_eq!(Given::new().flag("--data", "data", data).load().settings.max_depth, 20);
    assert_eq!(Given::new().file("").variable("ORIEL_DATA", data).load().settings.max_depth, 15);

    let other = Given::new().file("max_depth = 30");
    let path = other.sources.config.clone().unwrap();
    let given = Given::new().variable("ORIEL_DATA", data).variable("ORIEL_CONFIG", path.to_str().unwrap());
    assert_eq!(given.load().settings.max_depth, 30);

    std::fs::write(folder.path().join("oriel.toml"), "data = \"/elsewhere\"").unwrap();
    assert!(Given::new().variable("ORIEL_DATA", data).refused().contains("data cannot be set"));
    let missing = Given::new().variable("ORIEL_CONFIG", "/nowhere/oriel.toml").refused();
    assert!(missing.contains("/nowhere/oriel.toml: the file cannot be read"), "{missing}");
}

#[test]
fn lists_are_arrays_or_have_commas() {
    let both = ["https://a.example".to_owned(), "https://b.example".to_owned()];
    let file = Given::new().file("cors_origins = [\"https://a.example\", \"https://b.example\"]");
    assert_eq!(file.load().settings.cors_origins, both);
    let variable = Given::new().variable("ORIEL_CORS_ORIGINS", "https://a.example, https://b.example");
    assert_eq!(variable.load().settings.cors_origins, both);
}

#[test]
fn a_flag_given_twice_is_refused() {
    let refused =
        Given::new().flag("--listen", "listen", "127.0.0.1:1").flag("--set", "listen", "127.0.0.1:2").refused();
    assert!(refused.contains("more than once"), "{refused}");
}

proptest! {
    #[test]
    fn flags_win_over_variables_over_the_file_over_defaults(
        file in proptest::option::of(5_usize..=100),
        variable in proptest::option::of(5_usize..=100),
        flag in proptest::option::of(5_usize..=100),
    ) {
        let mut given = Given::new();
        if let Some(value) = file { given = given.file(&format!("max_depth = {value}")) }
        if let Some(value) = variable { given = given.variable("ORIEL_MAX_DEPTH", &value.to_string()) }
        if let Some(value) = flag { given = given.flag("--set", "max_depth", &value.to_string()) }
        let loaded = given.load();
        let origin = &loaded.chosen.iter().find(|chosen| chosen.key == "max_depth").unwrap().origin;
        let (expected, from) = match (flag, variable, file) {
            (Some(value), _, _) => (value, Origin::Flag("--set")),
            (None, Some(value), _) => (value, Origin::Variable("ORIEL_MAX_DEPTH".to_owned())),
            (None, None, Some(value)) => (value, Origin::File { path: given.sources.config.clone().unwrap(), line: 1 }),
            (None, None, None) => (15, Origin::Default),
        };
        prop_assert_eq!(loaded.settings.max_depth, expected);
        prop_assert_eq!(origin, &from);
    }

    #[test]
    fn no_text_makes_a_setting_panic(text in "\\PC{0,24}|[0-9]{0,22}[a-zA-Z]{0,3}|[a-z0-9:/@?=.,\\[\\]-]{0,30}") {
        for setting in table() {
            let environment = vec![(setting.variable().into(), (&text).into())];
            let _ = load(&Sources { environment, ..Sources::default() });
        }
    }

    #[test]
    fn no_file_makes_the_reader_panic(text in "\\PC{0,60}|([a-z_]{1,8} = [\"\\[0-9a-z]{1,8}\n){0,4}") {
        let _ = load(&Given::new().file(&text).sources);
    }
}
