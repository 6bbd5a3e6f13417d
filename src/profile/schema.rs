//! The JSON Schema of a profile, for editors: the keys, their types and defaults, and what they
//! are for. It says less than `load` does: what concerns several keys is not in it, no key is
//! required since an extended file may hold it, and null is taken everywhere since it removes a
//! key.

use serde_json::{Map, Value, json};

use super::{defaults, duration::format_duration};

/// JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    let mut schema = object(
        "What one gateway, or a pair in one process, should be.",
        vec![
            (
                "extends",
                text(
                    "A file to start from, relative to this one. Maps merge, lists and scalars replace, null removes.",
                ),
            ),
            (
                "name",
                described(
                    json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" }),
                    "Default: the file's name.",
                ),
            ),
            ("mode", mode()),
            ("dmz", half("The half that clients reach.", dmz_link(), service_map(dmz_service()))),
            (
                "internal",
                half("The half that reaches back-ends.", internal_link(), service_map(internal_service())),
            ),
            ("drain", duration("On stop, sessions get this long to end.", &format_duration(defaults::DRAIN))),
            (
                "drain_delay",
                duration(
                    "On stop, clients are served for so long before ports close, while /readyz says no.",
                    "0s",
                ),
            ),
            ("health", health()),
            ("ready", ready()),
        ],
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Portcullis profile");
    schema
}

fn ready() -> Value {
    described(
        json!({ "enum": ["ports", "links"], "default": "ports" }),
        "When a service manager is told that the gateway is ready: with its ports open, or able to serve clients.",
    )
}

fn health() -> Value {
    let insecure = described(
        json!({ "type": "boolean", "default": false }),
        "Allows an address that other machines reach.",
    );
    address(
        "Where monitors ask over HTTP: /livez, /readyz, /readyz/SERVICE, /metrics. Default: nowhere.",
        HEALTH,
        vec![("insecure", insecure)],
    )
}

fn mode() -> Value {
    described(
        json!({ "enum": ["direct", "forward", "reverse"] }),
        "Who dials the link: nobody, as there is none; the DMZ gateway; the internal gateway.",
    )
}

fn half(about: &str, link: Value, services: Value) -> Value {
    object(about, vec![("link", link), ("services", services)])
}

fn dmz_link() -> Value {
    object(
        "The link to the internal gateway.",
        vec![
            ("listen", address("Where the internal gateway dials in, in reverse mode.", LINK, vec![bind()])),
            (
                "connect",
                one_or_many(
                    "The internal gateway to dial in forward mode, or a list.",
                    LINK,
                    vec![],
                    defaults::GATEWAYS_MAX,
                ),
            ),
            ("tls", tls()),
            ("insecure", insecure()),
            (
                "prepared",
                number(
                    "Links to keep ready at each internal gateway in forward mode; in reverse mode, ready links that count as healthy until the peer tells its own target.",
                    &defaults::PREPARED_RANGE,
                    defaults::DMZ_PREPARED,
                ),
            ),
            (
                "wait",
                duration(
                    "A client waits this long for a ready link, then is refused.",
                    &format_duration(defaults::WAIT),
                ),
            ),
            (
                "waiters",
                number(
                    "Clients of all services together that wait at once.",
                    &defaults::WAITERS_RANGE,
                    defaults::WAITERS,
                ),
            ),
        ],
    )
}

fn internal_link() -> Value {
    object(
        "The link to the DMZ gateway.",
        vec![
            (
                "connect",
                one_or_many(
                    "The DMZ gateway to dial in reverse mode, or a list.",
                    LINK,
                    vec![],
                    defaults::GATEWAYS_MAX,
                ),
            ),
            ("listen", address("Where the DMZ gateway dials in, in forward mode.", LINK, vec![bind()])),
            ("tls", tls()),
            ("insecure", insecure()),
            (
                "prepared",
                number(
                    "Links to keep ready at each DMZ gateway; over SOCKS5, for each service there.",
                    &defaults::PREPARED_RANGE,
                    defaults::INTERNAL_PREPARED,
                ),
            ),
            (
                "maximum",
                number("Links in all, ready or carrying.", &defaults::MAXIMUM_RANGE, defaults::MAXIMUM),
            ),
            (
                "retry",
                object(
                    "The pause between failed dials doubles from `first` to `maximum`.",
                    vec![
                        ("first", duration("The first pause.", &format_duration(defaults::RETRY_FIRST))),
                        (
                            "maximum",
                            duration("The longest pause.", &format_duration(defaults::RETRY_MAXIMUM)),
                        ),
                    ],
                ),
            ),
        ],
    )
}

fn bind() -> (&'static str, Value) {
    let about =
        "Whether an address that this machine lacks ends the start, or is waited for while all else runs.";
    ("bind", described(json!({ "enum": ["now", "wait"], "default": "now" }), about))
}

fn tls() -> Value {
    object(
        "Who this half is, and who its peer may be.",
        vec![
            ("certificate", text("PEM file with this half's certificate.")),
            ("key", text("PEM file with the certificate's private key.")),
            ("ca", text("PEM file with the authority that peers' certificates come from.")),
            ("peers", names("Names of which a peer's certificate must carry one.")),
        ],
    )
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
        "additionalProperties": or_null(service),
    })
}

fn dmz_service() -> Value {
    let keys = vec![
        (
            "accept",
            one_or_many(
                "Where clients come in.",
                ACCEPT,
                [vec![bind()], accept_options()].concat(),
                defaults::ACCEPTS_MAX,
            ),
        ),
        ("connect", address("What it reaches; in direct mode alone.", CONNECT, connect_options())),
        (
            "sessions",
            number("Sessions at once; more are refused.", &defaults::SESSIONS_RANGE, defaults::SESSIONS),
        ),
        ("idle", described(duration_type(), "No byte either way for so long ends a session. Default: off.")),
        ("peers", names("Which of the link's peers may offer this service. Default: all of them.")),
        ("carries", carries()),
        ("answer", answer()),
    ];
    object("A service as clients see it.", [keys, accept_options()].concat())
}

fn answer() -> Value {
    let about = "The longest wait for the head of an answer, beside an http or ws connect.";
    duration(about, &format_duration(defaults::ANSWER))
}

/// Of one accept, or of a service for all of its accepts.
fn accept_options() -> Vec<(&'static str, Value)> {
    let tls = object(
        "Who the service is to its clients, and who they may be.",
        vec![
            ("certificate", text("PEM file with the service's certificate and those between it and its CA.")),
            ("key", text("PEM file with the certificate's private key.")),
            ("ca", text("PEM file with the authority that clients' certificates come from.")),
            (
                "verify_client",
                described(
                    json!({ "enum": ["required", "optional", "none"] }),
                    "Whether clients show certificates. Default: required where there is a `ca`, else none.",
                ),
            ),
            ("names", names("Names of which a client's certificate must carry one. Default: any.")),
            (
                "min_version",
                described(
                    json!({ "enum": ["1.2", "1.3"], "default": "1.2" }),
                    "The oldest TLS that is spoken.",
                ),
            ),
        ],
    );
    let name = text("A DNS name; `*.` stands for one label.");
    let many =
        json!({ "type": "array", "items": name.clone(), "minItems": 1, "maxItems": defaults::NAMES_MAX });
    let sni = described(
        json!({ "anyOf": [name, many] }),
        "The names in a ClientHello that mean this service. A `tcp` accept then passes TLS on as it is.",
    );
    let network = text("An address, or one with its bits: `10.0.0.0/8`.");
    let from =
        json!({ "type": "array", "items": network, "minItems": 1, "maxItems": defaults::NETWORKS_MAX });
    let forwarded = object(
        "Clients may come through proxies that say in each request who they are.",
        vec![("from", described(from.clone(), "The networks of the proxies; what others say is dropped."))],
    );
    let proxy = object(
        "Clients come through proxies that say who they are by the PROXY protocol, version 1 or 2.",
        vec![("from", described(from, "The networks of the proxies; nobody else comes in."))],
    );
    let limit = json!({ "type": "string", "pattern": "^[0-9]+(B|KB|KiB|MB|MiB)$", "default": "128KiB" });
    vec![
        ("tls", tls),
        ("sni", sni),
        ("proxy", proxy),
        ("forwarded", forwarded),
        (
            "protocols",
            one_or_more(
                "The subprotocols of a WebSocket whose frames are taken off; a client offers one. Default: any.",
                "A name as clients offer it.",
            ),
        ),
        (
            "frames",
            described(
                json!({ "enum": ["binary", "text"], "default": "binary" }),
                "The kind of the messages that go down such a WebSocket; text has to be UTF-8.",
            ),
        ),
        (
            "hosts",
            one_or_more(
                "The hosts of a request that mean this service. Default: any.",
                "A name without a port; `*.` stands for one label.",
            ),
        ),
        (
            "origins",
            one_or_more(
                "The pages that may open a WebSocket. Default: any, and clients that are no page.",
                "As a browser writes it: `https://www.example.com`.",
            ),
        ),
        (
            "message_limit",
            described(limit, "The longest message of a client; a longer one closes with 1009."),
        ),
        (
            "inactivity",
            described(
                duration_type(),
                "A client that is silent for so long, though it is asked by a ping, is gone. Default: off.",
            ),
        ),
        ("body", duration("The longest pause of a request's body.", &format_duration(defaults::BODY))),
        (
            "keep_alive",
            duration(
                "A client's connection without a request stays open for so long.",
                &format_duration(defaults::KEEP_ALIVE),
            ),
        ),
    ]
}

fn connect_options() -> Vec<(&'static str, Value)> {
    let tls = object(
        "Who the back-end must be, and who the gateway is to it.",
        vec![
            ("ca", text("PEM file with the authority that its certificate comes from.")),
            ("name", text("The name that its certificate carries. Default: the host of the address.")),
            ("certificate", text("PEM file with a certificate to show it.")),
            ("key", text("PEM file with that certificate's private key.")),
        ],
    );
    let proxy = described(
        json!({ "enum": ["v1", "v2"] }),
        "Tells the back-end by this version of the PROXY protocol who the client is. Default: off.",
    );
    vec![("tls", tls), ("proxy", proxy)]
}

fn internal_service() -> Value {
    object(
        "A service as the inside reaches it.",
        vec![
            ("connect", address("What it reaches.", CONNECT, connect_options())),
            ("peers", names("Which of the link's peers may use this service. Default: all of them.")),
            ("carries", carries()),
            (
                "own_names",
                one_or_more(
                    "What an HTTP back-end calls itself: mended in answers as its address is.",
                    "A host, without a port.",
                ),
            ),
            ("answer", answer()),
        ],
    )
}

fn carries() -> Value {
    described(
        json!({ "enum": ["bytes", "http"] }),
        "What crosses the link, equally on both halves. Default: http where an accept of this file is http, or what \
         the service reaches is http or ws; else bytes.",
    )
}

/// A map with no other keys than these.
fn object(about: &str, keys: Vec<(&str, Value)>) -> Value {
    let property = |(key, value): (&str, Value)| (key.to_owned(), or_null(value));
    let properties: Map<String, Value> = keys.into_iter().map(property).collect();
    json!({
        "description": about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// Null removes what an extended file says.
fn or_null(mut schema: Value) -> Value {
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

/// A text, or a list of some.
fn one_or_more(about: &str, each: &str) -> Value {
    let one = text(each);
    let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": defaults::NAMES_MAX });
    described(json!({ "anyOf": [one, many] }), about)
}

fn address(about: &str, pattern: &str, options: Vec<(&str, Value)>) -> Value {
    let plain = json!({ "type": "string", "pattern": pattern });
    let keys = [vec![("address", plain.clone())], options].concat();
    let map = object("The address and options of its scheme.", keys);
    described(json!({ "anyOf": [plain, map] }), about)
}

fn one_or_many(about: &str, pattern: &str, options: Vec<(&str, Value)>, max: usize) -> Value {
    let one = address("SCHEME://HOST:PORT", pattern, options);
    let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": max });
    described(json!({ "anyOf": [one, many] }), about)
}

const ACCEPT: &str =
    r"^((tcp|tls|ssl)://[^/@?#]+:[0-9]{1,5}|(wss?|https?)://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";

const CONNECT: &str =
    r"^(echo://|(tcp|tls|ssl)://[^/@?#]+:[0-9]{1,5}|(wss?|https?)://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";

const HEALTH: &str = r"^[^/@?#]+:[0-9]{1,5}$";

const LINK: &str = r"^socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}$";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::keys;

    #[test]
    fn the_keys_are_those_that_reading_knows() {
        let schema = schema();
        let table = [
            ("", &keys::PROFILE),
            ("/properties/health/anyOf/1", &keys::HEALTH),
            ("/properties/dmz", &keys::HALF),
            ("/properties/internal", &keys::HALF),
            ("/properties/dmz/properties/link", &keys::DMZ_LINK),
            ("/properties/internal/properties/link", &keys::INTERNAL_LINK),
            ("/properties/dmz/properties/link/properties/tls", &keys::LINK_TLS),
            ("/properties/internal/properties/link/properties/retry", &keys::RETRY),
            ("/properties/dmz/properties/services/additionalProperties", &keys::DMZ_SERVICE),
            ("/properties/internal/properties/services/additionalProperties", &keys::INTERNAL_SERVICE),
            ("/properties/dmz/properties/link/properties/listen/anyOf/1", &keys::LINK_LISTEN),
            ("/properties/dmz/properties/link/properties/connect/anyOf/0/anyOf/1", &keys::LINK_ADDRESS),
            (
                "/properties/dmz/properties/services/additionalProperties/properties/accept/anyOf/0/anyOf/1",
                &keys::ACCEPT_ADDRESS,
            ),
            ("/properties/dmz/properties/services/additionalProperties/properties/tls", &keys::ACCEPT_TLS),
            (
                "/properties/dmz/properties/services/additionalProperties/properties/proxy",
                &keys::ACCEPT_PROXY,
            ),
            (
                "/properties/internal/properties/services/additionalProperties/properties/connect/anyOf/1",
                &keys::CONNECT_ADDRESS,
            ),
            (
                "/properties/internal/properties/services/additionalProperties/properties/connect/anyOf/1\
                 /properties/tls",
                &keys::CONNECT_TLS,
            ),
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
