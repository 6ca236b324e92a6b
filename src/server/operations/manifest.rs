//! The manifests in which tools hand over the operations of a client.
//!
//! Two forms are known: that of Apollo (`apollo-persisted-query-manifest`, version 1), and an object from hash to
//! text, as Relay and the client preset of graphql-codegen write it.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One operation of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Operation {
    /// What clients will send.
    #[serde(rename = "id")]
    pub hash: String,
    /// The document.
    pub body: String,
    /// What the tool calls it.
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Deserialize)]
struct Apollo {
    version: i64,
    operations: Vec<Operation>,
}

/// Reads a manifest. The error says what is wrong with it.
pub fn read(text: &str) -> Result<Vec<Operation>, String> {
    const KNOWN: &str = "the manifests of Apollo (generate-persisted-query-manifest), Relay (persistConfig.file) and \
                         graphql-codegen (persistedDocuments) are known";
    let fields: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("this is not a JSON object ({error}); {KNOWN}"))?;
    let operations = match fields.get("format").and_then(Value::as_str) {
        Some("apollo-persisted-query-manifest") => {
            let Apollo { version, operations } = serde_json::from_value(Value::Object(fields))
                .map_err(|error| format!("this is not a manifest of Apollo: {error}"))?;
            if version != 1 {
                return Err(format!("this is version {version} of Apollo's manifest; 1 is known"));
            }
            operations
        }
        // A manifest of Apollo's in another form, or an operation of another one whose hash is `format`.
        Some(format) if fields.contains_key("version") => return Err(format!("{format:?} is not known; {KNOWN}")),
        _ => fields.into_iter().map(operation).collect::<Result<_, _>>()?,
    };
    if operations.is_empty() { Err("there is no operation in it".to_owned()) } else { Ok(operations) }
}

fn operation((hash, body): (String, Value)) -> Result<Operation, String> {
    match body {
        Value::String(body) => Ok(Operation { hash, body, name: None }),
        _ => Err(format!("what stands under {hash:?} is not the text of an operation")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation(hash: &str, body: &str, name: Option<&str>) -> Operation {
        Operation { hash: hash.to_owned(), body: body.to_owned(), name: name.map(str::to_owned) }
    }

    #[test]
    fn the_manifests_of_the_known_tools_are_read() {
        let apollo = r#"{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [
            {"id": "aa", "name": "Names", "type": "query", "body": "query Names { a }"},
            {"id": "bb", "name": "Go", "type": "mutation", "body": "mutation Go { b }", "clientName": "web"}]}"#;
        let wanted =
            [operation("aa", "query Names { a }", Some("Names")), operation("bb", "mutation Go { b }", Some("Go"))];
        assert_eq!(read(apollo).unwrap(), wanted);
        let relay = r#"{"d41d8cd98f00b204e9800998ecf8427e": "query Names { a }\n"}"#;
        assert_eq!(read(relay).unwrap(), [operation("d41d8cd98f00b204e9800998ecf8427e", "query Names { a }\n", None)]);
    }

    #[test]
    fn what_is_no_manifest_is_told() {
        for (text, why) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{}", "no operation"),
            (r#"{"aa": 1}"#, "\"aa\""),
            (r#"{"format": "other", "version": 1, "operations": []}"#, "\"other\""),
            (r#"{"format": "apollo-persisted-query-manifest", "version": 2, "operations": []}"#, "version 2"),
            (r#"{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [{"id": "a"}]}"#, "body"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn hashes_and_texts_stay_as_they_are(texts in prop::collection::btree_map("[0-9a-f]{1,64}", "\\PC{0,40}", 1..9)) {
            let read = read(&serde_json::to_string(&texts).unwrap()).unwrap();
            let read: std::collections::BTreeMap<_, _> = read.into_iter().map(|o| (o.hash, o.body)).collect();
            prop_assert_eq!(read, texts);
        }
    }
}
