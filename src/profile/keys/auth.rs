//! Keys that say how clients of accepts that read requests name themselves.

use super::{
    KeyGroup, KeyMap, ProfileKey,
    values::{Alone, Choice, Flag, SubMap, Text, TextList},
};
use crate::profile::{PreflightPolicy, defaults};

/// At an accept, at its service, or at the half for all of its services.
pub(in crate::profile) static CLIENT_LOGIN: KeyGroup = &[&AUTH, &USERS];

pub(in crate::profile) static AUTH: ProfileKey<SubMap> = ProfileKey {
    name: "auth",
    about: "How clients say who they are, in each request; nobody else gets in. A service's own replaces the half's, whole.",
    example: "",
    value: SubMap(&AUTH_KEYS),
};

pub(in crate::profile) static USERS: ProfileKey<TextList> = ProfileKey {
    name: "users",
    about: "Of those that `auth` knows, who may use the service; others are answered 403. Unset: all of them.",
    example: r#"[alice, bob]"#,
    value: TextList {
        each: Text { pattern: "", words: "a user's name, at most 255 bytes" },
        max: defaults::USERS_MAX,
        alone: Alone::Allowed,
    },
};

pub(in crate::profile) static AUTH_KEYS: KeyMap = KeyMap {
    about: "How clients say who they are.",
    groups: &[&[&BASIC, &REALM, &PASS, &PREFLIGHT, &AUTH_INSECURE]],
};

pub(in crate::profile) static BASIC: ProfileKey<Text> = ProfileKey {
    name: "basic",
    about: "By name and password (RFC 7617). The file has a line `NAME:HASH` for each user, with a hash of bcrypt or argon2, and mode 0600; it is read again when it changes.",
    example: r#"users.htpasswd"#,
    value: Text { pattern: "", words: "file, as `htpasswd -B` writes it" },
};

pub(in crate::profile) static REALM: ProfileKey<Text> = ProfileKey {
    name: "realm",
    about: "What browsers show when they ask for it. Unset: the service's name.",
    example: r#"orders"#,
    value: Text { pattern: r#"^[ !#-\[\]-~]{1,64}$"#, words: "1 to 64 visible ASCII signs, without quotes" },
};

pub(in crate::profile) static PASS: ProfileKey<Flag> = ProfileKey {
    name: "pass",
    about: "Whether the credential goes on to the backend, where requests do.",
    example: "",
    value: Flag,
};

pub(in crate::profile) static PREFLIGHT: ProfileKey<Choice<PreflightPolicy>> = ProfileKey {
    name: "preflight",
    about: "Whether `OPTIONS` with `Origin` and `Access-Control-Request-Method` gets in without a credential, which browsers do not send with it.",
    example: "",
    value: Choice {
        options: &[("refuse", PreflightPolicy::Refuse), ("pass", PreflightPolicy::Pass)],
        default: Some("refuse"),
        is_not: "nothing to do with a preflight",
    },
};

pub(in crate::profile) static AUTH_INSECURE: ProfileKey<Flag> = ProfileKey {
    name: "insecure",
    about: "Allows credentials in the clear beyond loopback.",
    example: "",
    value: Flag,
};
