//! The JSON Schema of a profile, for editors: the keys, their types and defaults, and what they
//! are for. It says less than `load` does: what concerns several keys is not in it.

use serde_json::{Map, Value, json};

use super::{
    defaults,
    duration::written,
    keys::{self, Keys},
};

/// JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    let mut schema = object(
        &keys::PROFILE,
        "What one gateway, or a pair in one process, should be.",
        vec![
            text(
                "A file to start from, relative to this one. Maps merge, lists and scalars replace, null removes.",
            ),
            described(
                json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" }),
                "Default: the file's name.",
            ),
            mode(),
            half("The half that clients reach.", dmz_link(), service_map(dmz_service())),
            half("The half that reaches back-ends.", internal_link(), service_map(internal_service())),
            duration("On stop, sessions get this long to end.", &written(defaults::DRAIN)),
        ],
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Portcullis profile");
    schema
}

fn mode() -> Value {
    described(
        json!({ "enum": ["direct", "forward", "reverse"] }),
        "Who dials the link: nobody, as there is none; the DMZ gateway; the internal gateway.",
    )
}

fn half(about: &str, link: Value, services: Value) -> Value {
    object(&keys::HALF, about, vec![link, services])
}

fn dmz_link() -> Value {
    object(
        &keys::DMZ_LINK,
        "The link to the internal gateway.",
        vec![
            address("Where the internal gateway dials in, in reverse mode.", LINK),
            one_or_many(
                "The internal gateway to dial in forward mode, or a list.",
                LINK,
                defaults::GATEWAYS_MAX,
            ),
            tls(),
            insecure(),
            number(
                "Ready links that count as healthy until the peer tells its own target.",
                &defaults::PREPARED_RANGE,
                defaults::DMZ_PREPARED,
            ),
            duration("A client waits this long for a ready link, then is refused.", &written(defaults::WAIT)),
            number("Clients that wait at once.", &defaults::WAITERS_RANGE, defaults::WAITERS),
        ],
    )
}

fn internal_link() -> Value {
    object(
        &keys::INTERNAL_LINK,
        "The link to the DMZ gateway.",
        vec![
            one_or_many("The DMZ gateway to dial in reverse mode, or a list.", LINK, defaults::GATEWAYS_MAX),
            address("Where the DMZ gateway dials in, in forward mode.", LINK),
            tls(),
            insecure(),
            number(
                "Ready links to keep, for each service and DMZ gateway.",
                &defaults::PREPARED_RANGE,
                defaults::INTERNAL_PREPARED,
            ),
            number("Links in all, ready or carrying.", &defaults::MAXIMUM_RANGE, defaults::MAXIMUM),
            object(
                &keys::RETRY,
                "The pause between failed dials doubles from `first` to `maximum`.",
                vec![
                    duration("The first pause.", &written(defaults::RETRY_FIRST)),
                    duration("The longest pause.", &written(defaults::RETRY_MAXIMUM)),
                ],
            ),
        ],
    )
}

fn tls() -> Value {
    let mut tls = object(
        &keys::LINK_TLS,
        "Who this half is, and who its peer may be.",
        vec![
            text("PEM file with this half's certificate."),
            text("PEM file with the certificate's private key."),
            text("PEM file with the authority that peers' certificates come from."),
            names("Names of which a peer's certificate must carry one."),
        ],
    );
    tls["required"] = json!(keys::LINK_TLS.known);
    tls
}

fn insecure() -> Value {
    described(
        json!({ "type": "boolean", "default": false }),
        "Allows `socks` without TLS beyond this machine.",
    )
}

fn service_map(service: Value) -> Value {
    json!({
        "description": "Services by name; those of the two halves belong together by it.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": defaults::SERVICES_MAX,
        "propertyNames": { "pattern": "^[A-Za-z0-9._-]{1,255}$" },
        "additionalProperties": service,
    })
}

fn dmz_service() -> Value {
    let mut service = object(
        &keys::DMZ_SERVICE,
        "A service as clients see it.",
        vec![
            one_or_many("Where clients come in.", ACCEPT, defaults::ACCEPTS_MAX),
            address("What it reaches; in direct mode alone.", CONNECT),
            number("Sessions at once; more are refused.", &defaults::SESSIONS_RANGE, defaults::SESSIONS),
            described(duration_type(), "No byte either way for so long ends a session. Default: off."),
            names("Which of the link's peers may offer this service. Default: all of them."),
            carries(),
        ],
    );
    service["required"] = json!(["accept"]);
    service
}

fn internal_service() -> Value {
    let about = "A service as the inside reaches it.";
    let mut service = object(
        &keys::INTERNAL_SERVICE,
        about,
        vec![
            address("What it reaches.", CONNECT),
            names("Which of the link's peers may use this service. Default: all of them."),
            carries(),
        ],
    );
    service["required"] = json!(["connect"]);
    service
}

fn carries() -> Value {
    described(
        json!({ "enum": ["bytes"], "default": "bytes" }),
        "What crosses the link, equally on both halves.",
    )
}

/// A map with exactly these keys; null removes what an extended file says.
fn object(keys: &Keys, about: &str, values: Vec<Value>) -> Value {
    let properties: Map<String, Value> = keys.known.iter().map(|key| (*key).to_owned()).zip(values).collect();
    json!({
        "description": about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn described(mut schema: Value, about: &str) -> Value {
    schema["description"] = json!(about);
    schema
}

fn text(about: &str) -> Value {
    described(json!({ "type": "string", "minLength": 1 }), about)
}

fn number(about: &str, range: &std::ops::RangeInclusive<usize>, default: usize) -> Value {
    let number =
        json!({ "type": "integer", "minimum": range.start(), "maximum": range.end(), "default": default });
    described(number, about)
}

fn duration_type() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
}

fn duration(about: &str, default: &str) -> Value {
    let mut duration = described(duration_type(), about);
    duration["default"] = json!(default);
    duration
}

fn names(about: &str) -> Value {
    let name = json!({ "type": "string", "pattern": "^[!-~]{1,253}$" });
    let names = json!({ "type": "array", "items": name, "minItems": 1, "maxItems": defaults::PEERS_MAX });
    described(names, about)
}

fn address(about: &str, pattern: &str) -> Value {
    let plain = json!({ "type": "string", "pattern": pattern });
    let map = object(&keys::ADDRESS, "The address and options of its scheme.", vec![plain.clone()]);
    described(json!({ "anyOf": [plain, map] }), about)
}

fn one_or_many(about: &str, pattern: &str, max: usize) -> Value {
    let one = address("SCHEME://HOST:PORT", pattern);
    let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": max });
    described(json!({ "anyOf": [one, many] }), about)
}

const ACCEPT: &str = r"^tcp://[^/@?#]+:[0-9]{1,5}$";

const CONNECT: &str = r"^(echo://|tcp://[^/@?#]+:[0-9]{1,5})$";

const LINK: &str = r"^socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}$";

#[cfg(test)]
mod tests {
    use super::*;

    /// `zip` in `object` would drop what is one too many on either side.
    #[test]
    fn every_known_key_has_its_own_schema() {
        let schema = schema();
        let table = [
            ("", &keys::PROFILE),
            ("/properties/dmz", &keys::HALF),
            ("/properties/internal", &keys::HALF),
            ("/properties/dmz/properties/link", &keys::DMZ_LINK),
            ("/properties/internal/properties/link", &keys::INTERNAL_LINK),
            ("/properties/dmz/properties/link/properties/tls", &keys::LINK_TLS),
            ("/properties/internal/properties/link/properties/retry", &keys::RETRY),
            ("/properties/dmz/properties/services/additionalProperties", &keys::DMZ_SERVICE),
            ("/properties/internal/properties/services/additionalProperties", &keys::INTERNAL_SERVICE),
            ("/properties/dmz/properties/link/properties/listen/anyOf/1", &keys::ADDRESS),
        ];
        for (pointer, keys) in table {
            let object = schema.pointer(pointer).unwrap_or(&Value::Null);
            let mut found: Vec<_> =
                object["properties"].as_object().into_iter().flat_map(Map::keys).collect();
            let mut known = keys.known.to_vec();
            found.sort();
            known.sort_unstable();
            assert_eq!(found, known, "{pointer}");
            assert_eq!(object["additionalProperties"], json!(false), "{pointer}");
        }
    }

    #[test]
    fn defaults_stand_beside_their_keys() {
        let schema = schema();
        let table = [
            ("/properties/drain", json!("30s")),
            ("/properties/dmz/properties/link/properties/wait", json!("3s")),
            ("/properties/dmz/properties/link/properties/waiters", json!(1024)),
            ("/properties/dmz/properties/link/properties/prepared", json!(8)),
            ("/properties/internal/properties/link/properties/maximum", json!(1024)),
            ("/properties/internal/properties/link/properties/retry/properties/first", json!("500ms")),
        ];
        for (pointer, default) in table {
            assert_eq!(schema.pointer(pointer).map(|key| &key["default"]), Some(&default), "{pointer}");
        }
    }
}
