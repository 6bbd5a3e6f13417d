//! The JSON Schema of a profile, for editors, generated from the table of keys as draft 2020-12. It says less
//! than `load` checks. Relations between keys are not in it. No key is required, since an extended file may
//! have it, and null is accepted everywhere, since it removes a key.

use serde_json::{Map, Value, json};

use super::keys::{self, AnyKey, KeyMap};

/// JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    let mut schema = map(&keys::PROFILE);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Portcullis profile");
    schema
}

/// A map that accepts the keys of `keys` and no others.
pub(super) fn map(keys: &KeyMap) -> Value {
    let property = |key: &dyn AnyKey| (key.name().to_owned(), or_null(described(key)));
    let properties: Map<String, Value> = keys.keys().map(property).collect();
    json!({
        "description": keys.about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn described(key: &dyn AnyKey) -> Value {
    let mut schema = key.value().schema();
    let example = match key.example() {
        "" => String::new(),
        example => format!(" Example: {example}"),
    };
    schema["description"] = json!(format!("{}{example}", key.about()));
    schema
}

/// Null removes what an extended file says.
pub(super) fn or_null(mut schema: Value) -> Value {
    if let Some(kind) = schema.get("type").cloned() {
        schema["type"] = json!([kind, "null"]);
    }
    for (choices, null) in [("enum", Value::Null), ("anyOf", json!({ "type": "null" }))] {
        if let Some(choices) = schema.get_mut(choices).and_then(Value::as_array_mut) {
            choices.push(null);
        }
    }
    schema
}
