//! The codes of errors: `extensions.code` is one of these, whatever refuses. The README says what to do about each.

use axum::http::StatusCode;

/// A code, and the status of an answer that is nothing but an error of this code, in the media type
/// `application/graphql-response+json`.
pub type Code = (&'static str, StatusCode);

/// All of them. What a mutation says in `userErrors` has codes of its own, in the schema.
pub const CODES: [Code; 16] = [
    ("BAD_REQUEST", StatusCode::BAD_REQUEST),
    ("UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
    ("FORBIDDEN", StatusCode::FORBIDDEN),
    ("ORGANIZATION_SUSPENDED", StatusCode::FORBIDDEN),
    ("CONSENT_REQUIRED", StatusCode::FORBIDDEN),
    ("MAINTENANCE", StatusCode::SERVICE_UNAVAILABLE),
    ("LIMIT_EXCEEDED", StatusCode::BAD_REQUEST),
    ("RATE_LIMITED", StatusCode::TOO_MANY_REQUESTS),
    ("OVERLOADED", StatusCode::SERVICE_UNAVAILABLE),
    ("UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
    ("BEHIND", StatusCode::SERVICE_UNAVAILABLE),
    ("POSITION_UNKNOWN", StatusCode::BAD_REQUEST),
    ("OPERATION_NOT_REGISTERED", StatusCode::BAD_REQUEST),
    ("PERSISTED_QUERY_NOT_FOUND", StatusCode::BAD_REQUEST),
    ("PERSISTED_QUERY_NOT_SUPPORTED", StatusCode::BAD_REQUEST),
    ("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
];

/// The status of an answer without a result.
pub fn status_of(code: &str) -> Option<StatusCode> {
    CODES.iter().find(|(known, _)| *known == code).map(|(_, status)| *status)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{read_dir, read_to_string};
    use std::path::{Path, PathBuf};

    use super::*;

    /// Where errors are made.
    const ROOMS: [&str; 6] = ["src/kernel", "src/engine", "src/backends", "read_models", "schema", "src/server/http"];
    /// What stands before a code.
    const BEFORE: [&str; 5] = [" error(", "(error(", "::error(", "set(\"code\",", ".code ="];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    /// The codes that a file writes as `extensions.code`: a text in capitals as the first argument of `error`, beside
    /// `"code"`, or after the status of a refusal.
    fn written(code: &str) -> BTreeSet<String> {
        let flat = code.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut found = BTreeSet::new();
        for (at, _) in flat.match_indices('"') {
            let text: String = flat[at + 1..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            let ends = flat[at + 1 + text.len()..].starts_with('"');
            let before = flat[..at].trim_end_matches(' ');
            let status = before.rsplit_once("StatusCode::").is_some_and(|(_, name)| {
                name.strip_suffix(',').is_some_and(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            });
            if text.len() > 3 && ends && (status || BEFORE.iter().any(|said| before.ends_with(said))) {
                found.insert(text);
            }
        }
        found
    }

    #[test]
    fn what_is_written_as_a_code_is_seen() {
        let said = written(
            "access::error(\n  \"ONE\", x) error(\"FOUR\", y); Refusal::new(StatusCode::NOT_FOUND,\n\"FIVE\", m); \
             refusal.code = \"SEVEN\"; e.set(\"code\", \"EIGHT\"); let other = \"NINE\"; error(\"Text\")",
        );
        assert_eq!(said, ["FOUR", "FIVE", "SEVEN", "EIGHT"].map(str::to_owned).into());
    }

    #[test]
    fn every_code_that_the_sources_write_is_known_and_every_known_one_is_written() {
        let mut all = String::new();
        let mut seen = BTreeSet::new();
        for path in ROOMS.iter().flat_map(|room| sources(&root().join(room))) {
            let name = path.to_string_lossy().into_owned();
            if !name.ends_with(".rs") || name.contains("/tests") || name.ends_with("codes.rs") {
                continue;
            }
            let text = read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\n#[allow").next().unwrap();
            for code in written(product) {
                assert!(status_of(&code).is_some(), "{name} says {code}: add it to CODES and to the README");
                seen.insert(code);
            }
            all += product;
        }
        assert!(seen.len() > 6, "the sources were not read: {seen:?}");
        for (code, _) in CODES {
            assert!(all.contains(&format!("\"{code}\"")), "nothing says {code}");
        }
    }

    #[test]
    fn the_readme_says_what_each_means_with_which_status_and_what_to_do() {
        let readme = read_to_string(root().join("README.md")).unwrap();
        let (_, after) =
            readme.split_once("| code | what it means | status | what to do |\n|---|---|---|---|\n").unwrap();
        let rows: Vec<Vec<&str>> = after
            .lines()
            .take_while(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
            .collect();
        let told: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
        assert_eq!(told, CODES.map(|(code, _)| code), "the codes of the README, in the order of CODES");
        for (row, (_, status)) in rows.iter().zip(CODES) {
            assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
            assert!(row[2].starts_with(status.as_str()), "{row:?}: the status is {}", status.as_str());
        }
    }
}
