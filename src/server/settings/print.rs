//! What `oriel config` prints: the commented default file, and the values in force with their origin.
//!
//! Invariants: a line that begins with `#` and a key is a setting, one with `# ` is prose; a secret is masked.

use std::fmt::Write;

use super::sources::{Chosen, Origin};
use super::table;

/// The whole default file. Every setting is commented out, so that the file changes nothing until edited.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Oriel's settings, each with its default. Remove the # before one to change it.\n\
         # A flag wins over a variable (ORIEL_LISTEN), a variable over this file.\n\
         # Read from: --config FILE, else $ORIEL_CONFIG, else oriel.toml in the data folder.\n",
    );
    let mut section = "";
    for setting in table() {
        if setting.section != section {
            section = setting.section;
            let _ = write!(out, "\n\n# ---- {section} ----\n");
        }
        out.push('\n');
        for line in setting.doc {
            let _ = writeln!(out, "# {}", line.trim());
        }
        let _ = writeln!(out, "# Allowed: {}. Variable: {}", setting.allowed, setting.variable());
        let _ = writeln!(out, "#{} = {}", setting.key, literal(setting.default));
    }
    out
}

/// The values in force, a line each, with the place each one came from.
pub fn effective(chosen: &[Chosen]) -> String {
    let mut out = String::new();
    for Chosen { key, shown, origin } in chosen {
        let _ = match origin {
            Origin::Default => writeln!(out, "{key} = {}", literal(shown)),
            origin => writeln!(out, "{key} = {}   # from {origin}", literal(shown)),
        };
    }
    out
}

/// A number stands as it is, all else as a quoted TOML string.
fn literal(text: &str) -> String {
    if text.parse::<i64>().is_ok() { text.to_owned() } else { toml::Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Sources, load};
    use super::*;

    #[test]
    fn the_default_file_read_back_gives_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oriel.toml");
        let printed = default_file();
        let uncommented: Vec<&str> =
            printed.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(uncommented.len(), table().len(), "a line for every setting");
        std::fs::write(&path, uncommented.join("\n")).unwrap();

        let read = load(&Sources { config: Some(path), ..Sources::default() }).unwrap();
        let defaults = load(&Sources::default()).unwrap();
        assert_eq!(format!("{:?}", read.settings), format!("{:?}", defaults.settings));
        assert!(read.chosen.iter().all(|chosen| matches!(chosen.origin, Origin::File { .. })));
        assert!(defaults.chosen.iter().all(|chosen| chosen.origin == Origin::Default));
    }

    #[test]
    fn the_commented_file_is_valid_and_empty() {
        assert!(default_file().parse::<toml::Table>().unwrap().is_empty());
    }

    #[test]
    fn what_is_in_force_names_its_origin_and_no_secret() {
        let sources = Sources {
            environment: vec![
                ("ORIEL_SEARCH_KEY".into(), "hunter2".into()),
                ("ORIEL_SEARCH_URL".into(), "http://admin:hunter2@search:7700".into()),
            ],
            ..Sources::default()
        };
        let printed = effective(&load(&sources).unwrap().chosen);
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("search_key = \"***\"   # from ORIEL_SEARCH_KEY"), "{printed}");
        assert!(printed.contains("search_url = \"http://***@search:7700\"   # from ORIEL_SEARCH_URL"), "{printed}");
        assert!(printed.lines().any(|line| line == "max_depth = 15"), "{printed}");
    }
}
