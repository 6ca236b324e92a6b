//! The guard of the house: rooms, names and dependencies as README and Cargo.toml promise them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The rooms, in order: each may use those before it.
const ROOMS: &[(&str, &str)] = &[
    ("src/kernel", "oriel-kernel"),
    ("src/domain", "oriel-domain"),
    ("src/engine", "oriel-engine"),
    ("src/backends", "oriel-backends"),
    ("migrations", "oriel-migrations"),
    ("read_models", "oriel-read-models"),
    ("src/reactors", "oriel-reactors"),
    ("schema", "oriel-schema"),
    ("src/server", "oriel"),
];

/// Words that may not stand in the code of a room.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("src/kernel", &["tokio::", "sqlx", "axum", "reqwest", "std::fs", "std::net"]),
    (
        "src/domain",
        &[
            "tokio",
            "sea_orm",
            "async_graphql",
            "axum",
            "std::fs",
            "std::net",
            "SystemTime",
            "Utc::now",
            "Uuid::new_v",
            "Uuid::now_v",
        ],
    ),
    ("src/engine", &["Document", "Project", "oriel_domain", "oriel_backends", "axum"]),
    ("src/backends", &["oriel_domain", "oriel_engine", "sea_orm", "axum"]),
    ("read_models", &["oriel_backends", "axum", "tokio::fs"]),
    ("schema", &["axum"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The code of a file without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let product = text.split("#[cfg(test)]\n#[allow").next().unwrap();
    let product = product.split("#[cfg(test)]\nmod tests {").next().unwrap();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("test") || text.contains("suite") || text.contains("fixtures") || text.contains("contract")
}

#[test]
fn a_room_uses_only_the_rooms_above_it() {
    for (n, (folder, name)) in ROOMS.iter().enumerate() {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for (_, below) in &ROOMS[n + 1..] {
            let line = format!("\n{below}.workspace");
            assert!(!manifest.contains(&line), "{name} uses {below}, which stands below it");
        }
    }
}

#[test]
fn words_stay_in_their_rooms() {
    for (folder, words) in FORBIDDEN {
        for path in sources(&root().join(folder)).iter().filter(|path| !is_test(path)) {
            let code = code(path);
            for word in *words {
                // A name of the product is a whole word: a projection is none.
                let said = match word.chars().all(char::is_alphanumeric) {
                    true => code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == *word),
                    false => code.contains(word),
                };
                assert!(!said, "{} says `{word}`", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (folder, _) in ROOMS {
        for path in sources(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!") || text.starts_with("#!["), "{} begins without `//!`", path.display());
        }
    }
}

#[test]
fn every_file_is_part_of_its_room() {
    for (folder, _) in ROOMS {
        let folder = root().join(folder);
        let all: String = sources(&folder).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let declared =
            |name: &str| all.contains(&format!("mod {name};")) || all.contains(&format!("#[path = \"{name}.rs\"]"));
        for path in sources(&folder) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            if !["lib", "main", "mod"].contains(&name) && !path.starts_with(folder.join("macros")) {
                assert!(declared(name), "{} is no module of its room", path.display());
            }
        }
    }
}

#[test]
fn a_module_has_the_same_name_on_every_floor() {
    for module in ["users", "organizations", "members", "sessions", "projects", "documents", "persisted_operations"] {
        for floor in ["src/domain", "read_models", "schema"] {
            let path = root().join(floor).join(format!("{module}.rs"));
            assert!(path.exists(), "{} is missing", path.display());
        }
        let migrations = sources(&root().join("migrations"));
        let ending = format!("_{module}.rs");
        assert!(migrations.iter().any(|path| path.to_string_lossy().ends_with(&ending)), "no migration of {module}");
    }
}

#[test]
fn nothing_stands_beside_the_agreed_top_level() {
    let agreed: BTreeSet<&str> = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "schema",
        "migrations",
        "read_models",
        "tests",
        "graphql.schema",
        "docker-compose.yml",
        "README.md",
        "deploy",
        "LICENSE",
        "rustfmt.toml",
        "clippy.toml",
        "deny.toml",
        "target",
        "oriel-data",
    ]
    .into();
    for entry in std::fs::read_dir(root()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with('.') || agreed.contains(name.as_str()), "{name} stands at the top");
    }
}

#[test]
fn the_packages_of_the_customer_are_used_outside_tests() {
    let all: String = ROOMS
        .iter()
        .flat_map(|(folder, _)| sources(&root().join(folder)))
        .filter(|path| !is_test(path))
        .map(|path| code(&path))
        .collect();
    for package in [
        "async_graphql",
        "async_graphql_axum",
        "axum",
        "tokio",
        "sea_orm",
        "redis",
        "meilisearch_sdk",
        "aws_sdk_s3",
        "dataloader",
        "jsonwebtoken",
        "serde",
        "tracing",
    ] {
        assert!(all.contains(&format!("{package}::")), "{package} is not used");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (dependencies, _) = dependencies.split_once("\n[workspace.lints").unwrap();
    let plain = [
        "serde",
        "serde_json",
        "uuid",
        "chrono",
        "tracing",
        "tracing-subscriber",
        "metrics",
        "metrics-exporter-prometheus",
        "clap",
        "indicatif",
        "toml",
        "syn",
        "quote",
        "proc-macro2",
        "proptest",
        "tempfile",
        "encoding_rs",
        "tokio-util",
    ];
    let mut reason = false;
    for line in dependencies.lines() {
        let Some((name, _)) = line.split_once(" = ") else {
            reason = line.starts_with('#');
            continue;
        };
        let known = line.starts_with('#') || name.starts_with("oriel-") || plain.contains(&name);
        assert!(reason || known, "{name} has no reason beside it");
        reason = line.starts_with('#') || reason;
    }
}
