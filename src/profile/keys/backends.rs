//! Keys of services as the inside reaches them: backends, and what they are told.

use super::{
    ANSWER, CARRIES, KeyMap, ProfileKey,
    values::{Address, Alone, Choice, NAME_IN_CERTIFICATE, PEM_FILE, SubMap, Text, TextList},
};
use crate::profile::{ProxyVersion, defaults};

pub(in crate::profile) static INTERNAL_SERVICE: KeyMap = KeyMap {
    about: "A service as the inside reaches it.",
    groups: &[&[&INTERNAL_SERVICE_CONNECT, &MAY_USE, &CARRIES, &OWN_NAMES, &ANSWER]],
};

pub(in crate::profile) static INTERNAL_SERVICE_CONNECT: ProfileKey<Address> = ProfileKey {
    name: "connect",
    about: "What it reaches.",
    example: r#"tcp://127.0.0.1:9000"#,
    value: Address { pattern: CONNECT_PATTERN, words: CONNECT_WORDS, options: &CONNECT_ADDRESS, max: None },
};

pub(in crate::profile) static MAY_USE: ProfileKey<TextList> = ProfileKey {
    name: "peers",
    about: "Which of the link's peers may use this service. Unset: all of them.",
    example: r#"[dmz]"#,
    value: TextList { each: NAME_IN_CERTIFICATE, max: defaults::PEERS_MAX, alone: Alone::Refused },
};

pub(in crate::profile) static OWN_NAMES: ProfileKey<TextList> = ProfileKey {
    name: "own_names",
    about: "What an HTTP backend calls itself: mended in answers as its address is.",
    example: r#"[app.internal]"#,
    value: TextList {
        each: Text { pattern: "", words: "a host, without a port" },
        max: defaults::NAMES_MAX,
        alone: Alone::Allowed,
    },
};

pub(in crate::profile) static CONNECT_ADDRESS: KeyMap = KeyMap {
    about: "A backend, with the options of its scheme.",
    groups: &[&[&CONNECT_ADDRESS_KEY, &CONNECT_TLS_KEY, &PROXY_VERSION]],
};

pub(in crate::profile) static CONNECT_ADDRESS_KEY: ProfileKey<Text> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: Text { pattern: CONNECT_PATTERN, words: CONNECT_WORDS },
};

pub(in crate::profile) static CONNECT_TLS_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "tls",
    about: "Who the backend must be, and who the gateway is to it.",
    example: "",
    value: SubMap(&CONNECT_TLS),
};

pub(in crate::profile) static PROXY_VERSION: ProfileKey<Choice<ProxyVersion>> = ProfileKey {
    name: "proxy",
    about: "Tells the backend by this version of the PROXY protocol who the client is. Unset: it is not told.",
    example: "",
    value: Choice {
        options: &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)],
        default: None,
        is_not: "no version of the PROXY protocol",
    },
};

pub(in crate::profile) static CONNECT_TLS: KeyMap = KeyMap {
    about: "Who the backend must be, and who the gateway is to it.",
    groups: &[&[&BACKEND_CA, &BACKEND_NAME, &SHOWN_CERTIFICATE, &SHOWN_KEY]],
};

pub(in crate::profile) static BACKEND_CA: ProfileKey<Text> = ProfileKey {
    name: "ca",
    about: "The authority that the backend's certificate comes from.",
    example: r#"pki/shop-ca.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static BACKEND_NAME: ProfileKey<Text> = ProfileKey {
    name: "name",
    about: "The name that its certificate carries. Unset: the host of the address.",
    example: r#"shop.internal"#,
    value: Text { pattern: "", words: "a host" },
};

pub(in crate::profile) static SHOWN_CERTIFICATE: ProfileKey<Text> = ProfileKey {
    name: "certificate",
    about: "A certificate to show it.",
    example: r#"pki/gateway.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static SHOWN_KEY: ProfileKey<Text> = ProfileKey {
    name: "key",
    about: "That certificate's private key, mode 0600.",
    example: r#"pki/gateway.key"#,
    value: PEM_FILE,
};

pub(in crate::profile) const CONNECT_WORDS: &str =
    "`tcp`, `tls`, `ws`, `wss`, `http` or `https`: `SCHEME://HOST:PORT[/PATH]`; `echo://`";

pub(in crate::profile) const CONNECT_PATTERN: &str =
    r"^(echo://|(tcp|tls|ssl)://[^/@?#]+:[0-9]{1,5}|(wss?|https?)://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";
