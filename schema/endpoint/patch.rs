//! The difference of two answers as a JSON Patch. <https://www.rfc-editor.org/rfc/rfc6902>

use async_graphql::Value;

/// What makes `now` of `before`; nothing when saying it takes more than `now` itself.
pub(super) fn between(before: &str, now: &str) -> Option<Value> {
    let parse = serde_json::from_str::<serde_json::Value>;
    let patch = json_patch::diff(&parse(before).ok()?, &parse(now).ok()?);
    let text = serde_json::to_string(&patch).ok()?;
    if text.len() >= now.len() {
        return None;
    }
    Value::from_json(serde_json::to_value(patch).ok()?).ok()
}
