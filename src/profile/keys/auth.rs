//! Keys that say how clients of accepts that read requests identify themselves. Reading them, the schema and the
//! reference are made from this table, so none of them can forget a key.

use serde_json::{Value, json};

use super::{
    KeyGroup, KeyMap, ProfileKey,
    values::{ChoiceValue, FlagValue, SingleText, SubMap, TextListValue, TextValue, ValueKind},
};
use crate::profile::{PreflightPolicy, defaults};

/// At an accept, at its service, or at the half for all of its services.
pub(in crate::profile) static CLIENT_LOGIN: KeyGroup = &[&AUTH, &USERS];

pub(in crate::profile) static AUTH: ProfileKey<SubMap> = ProfileKey {
    name: "auth",
    about: "How clients authenticate in each request; others are refused. A service's setting replaces that of the half completely.",
    example: "",
    value: SubMap(&AUTH_KEYS),
};

pub(in crate::profile) static USERS: ProfileKey<TextListValue> = ProfileKey {
    name: "users",
    about: "Of those that `auth` knows, who may use the service; others are answered 403. Unset: all of them.",
    example: r#"[alice, bob]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a user's name, at most 255 bytes" },
        max: defaults::USERS_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static AUTH_KEYS: KeyMap = KeyMap {
    about: "How clients say who they are.",
    groups: &[&[&BASIC, &JWT, &REALM, &PASS, &PREFLIGHT, &AUTH_INSECURE]],
};

pub(in crate::profile) static BASIC: ProfileKey<TextValue> = ProfileKey {
    name: "basic",
    about: "By name and password (RFC 7617). The file has a line `NAME:HASH` for each user, with a hash of bcrypt or argon2, and mode 0600; it is read again when it changes.",
    example: r#"users.htpasswd"#,
    value: TextValue { pattern: "", words: "file, as `htpasswd -B` writes it" },
};

pub(in crate::profile) static JWT: ProfileKey<SubMap> = ProfileKey {
    name: "jwt",
    about: "By a signed token (RFC 7519), instead of `basic`. Its `sub` is the user's name, and it has an `exp`.",
    example: "",
    value: SubMap(&JWT_KEYS),
};

pub(in crate::profile) static JWT_KEYS: KeyMap = KeyMap {
    about: "Which tokens name a client.",
    groups: &[&[&TOKEN_KEYS, &ISSUER, &AUDIENCE, &CLAIMS, &TOKEN_FROM, &UNTIL_EXPIRY]],
};

pub(in crate::profile) static TOKEN_KEYS: ProfileKey<TextValue> = ProfileKey {
    name: "keys",
    about: "The keys that tokens are signed with (RFC 7517), of RS256, ES256 and EdDSA, none of them private; or secrets of HS256, 32 bytes at least, which stand alone in their file, mode 0600. It is read again when it changes.",
    example: r#"jwks.json"#,
    value: TextValue { pattern: "", words: "file, JWKS" },
};

pub(in crate::profile) static ISSUER: ProfileKey<TextValue> = ProfileKey {
    name: "issuer",
    about: "What `iss` has to be. Unset: anything.",
    example: r#""https://id.example.com""#,
    value: TextValue { pattern: "", words: "text, as tokens have it" },
};

pub(in crate::profile) static AUDIENCE: ProfileKey<TextValue> = ProfileKey {
    name: "audience",
    about: "What `aud` has to be, or to hold. Unset: anything.",
    example: r#"orders"#,
    value: TextValue { pattern: "", words: "text, as tokens have it" },
};

pub(in crate::profile) static CLAIMS: ProfileKey<ClaimMap> = ProfileKey {
    name: "claims",
    about: "Other claims that a token must have: each claim is the value, or a list that holds it. Whoever lacks one is answered 403.",
    example: r#"{ groups: traders }"#,
    value: ClaimMap,
};

pub(in crate::profile) static TOKEN_FROM: ProfileKey<TextListValue> = ProfileKey {
    name: "from",
    about: "Where a token may be; the first place that has one counts. Unset: `header`, which is `Authorization: Bearer TOKEN`.",
    example: r#"[header, "cookie:token", "query:access_token"]"#,
    value: TextListValue {
        each: TextValue {
            pattern: "^(header|(cookie|query):[A-Za-z0-9_.-]{1,64})$",
            words: "`header`, `cookie:NAME` or `query:NAME`",
        },
        max: defaults::TOKEN_PLACES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static UNTIL_EXPIRY: ProfileKey<FlagValue> = ProfileKey {
    name: "until_expiry",
    about: "Whether a session ends when its token does; a WebSocket is closed with 1008.",
    example: "",
    value: FlagValue,
};

/// Claims, with names that the operator chooses.
pub(in crate::profile) struct ClaimMap;

impl ValueKind for ClaimMap {
    fn schema(&self) -> Value {
        let value = json!({ "type": ["string", "integer", "boolean", "null"] });
        json!({ "type": "object", "minProperties": 1, "maxProperties": defaults::CLAIMS_MAX, "additionalProperties": value })
    }

    fn describe_type(&self) -> String {
        "map: a claim's name, and text, a whole number or `true` or `false`".to_owned()
    }
}

pub(in crate::profile) static REALM: ProfileKey<TextValue> = ProfileKey {
    name: "realm",
    about: "What browsers show when they ask for it. Unset: the service's name.",
    example: r#"orders"#,
    value: TextValue {
        pattern: r#"^[ !#-\[\]-~]{1,64}$"#,
        words: "1 to 64 visible ASCII signs, without quotes",
    },
};

pub(in crate::profile) static PASS: ProfileKey<FlagValue> = ProfileKey {
    name: "pass",
    about: "Whether the credential is forwarded to HTTP backends.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static PREFLIGHT: ProfileKey<ChoiceValue<PreflightPolicy>> = ProfileKey {
    name: "preflight",
    about: "Whether `OPTIONS` with `Origin` and `Access-Control-Request-Method` gets in without a credential, which browsers do not send with it.",
    example: "",
    value: ChoiceValue {
        options: &[("refuse", PreflightPolicy::Refuse), ("pass", PreflightPolicy::Pass)],
        default: Some("refuse"),
        is_not: "nothing to do with a preflight",
    },
};

pub(in crate::profile) static AUTH_INSECURE: ProfileKey<FlagValue> = ProfileKey {
    name: "insecure",
    about: "Allows credentials in the clear beyond loopback.",
    example: "",
    value: FlagValue,
};
