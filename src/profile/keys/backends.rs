//! Keys of services as the inside reaches them: backends, and what is sent to them about clients. Reading them, the
//! schema and the reference are made from this table, so none of them can forget a key.

use super::{
    ANSWER, CARRIES, INTERNAL_SESSIONS, KeyGroup, KeyMap, OPENING_HOURS, PER_PEER, ProfileKey, SOURCE,
    values::{
        ALPN_NAMES, AddressValue, ChoiceValue, CountValue, DurationValue, FlagValue, NAME_IN_CERTIFICATE,
        PEM_FILE, SingleText, StatusList, SubMap, TextListValue, TextValue,
    },
};
use crate::profile::{Balance, ProxyVersion, defaults, fields::ZeroDuration};

pub(in crate::profile) static INTERNAL_SERVICE: KeyMap = KeyMap {
    about: "A service as the inside reaches it.",
    groups: &[
        &[&INTERNAL_SERVICE_CONNECT, &MAY_USE, &INTERNAL_SESSIONS, &PER_PEER],
        &[&CARRIES, &SOCKET_HOSTS, &OWN_NAMES, &ANSWER],
        BACKEND_OPTIONS,
        OPENING_HOURS,
    ],
};

pub(in crate::profile) static INTERNAL_SERVICE_CONNECT: ProfileKey<AddressValue> = ProfileKey {
    name: "connect",
    about: "What it reaches.",
    example: r#"tcp://127.0.0.1:9000"#,
    value: AddressValue {
        pattern: CONNECT_PATTERN,
        words: CONNECT_WORDS,
        options: &CONNECT_ADDRESS,
        max: Some(defaults::BACKENDS_MAX),
    },
};

/// How several backends stand in for each other.
pub(in crate::profile) static BACKEND_OPTIONS: KeyGroup = &[&BALANCE, &CHECK, &REST];

pub(in crate::profile) static BALANCE: ProfileKey<ChoiceValue<Balance>> = ProfileKey {
    name: "balance",
    about: "Which backend a session gets: in turn, the one with the fewest open sessions, or the same for the same client's address.",
    example: "",
    value: ChoiceValue {
        options: &[("turn", Balance::Turn), ("least", Balance::Least), ("client", Balance::Client)],
        default: Some("turn"),
        is_not: "no way to choose a backend",
    },
};

pub(in crate::profile) static CHECK: ProfileKey<SubMap> = ProfileKey {
    name: "check",
    about: "Checks each backend; while none passes, the service is down. Unset: backends are known by their sessions alone.",
    example: "",
    value: SubMap(&CHECK_KEYS),
};

pub(in crate::profile) static REST: ProfileKey<DurationValue> = ProfileKey {
    name: "rest",
    about: "How long a backend that refused or was late gets no sessions, if there is another. Afterwards its share grows again over 10 s.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::REST },
};

pub(in crate::profile) static CHECK_KEYS: KeyMap = KeyMap {
    about: "How each backend is checked: by a connection, or by a request.",
    groups: &[&[&CHECK_EVERY, &CHECK_TIMEOUT, &CHECK_FALLS, &CHECK_RISES, &CHECK_REQUEST, &CHECK_EXPECT]],
};

pub(in crate::profile) static CHECK_EVERY: ProfileKey<DurationValue> = ProfileKey {
    name: "every",
    about: "From one check to the next, ± 10 %.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::CHECK_EVERY },
};

pub(in crate::profile) static CHECK_TIMEOUT: ProfileKey<DurationValue> = ProfileKey {
    name: "timeout",
    about: "A check that takes longer has failed.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::CHECK_TIMEOUT },
};

pub(in crate::profile) static CHECK_FALLS: ProfileKey<CountValue> = ProfileKey {
    name: "falls",
    about: "This many failed checks in a row take a backend down.",
    example: "",
    value: CountValue { range: defaults::CHECKS_RANGE, default: defaults::CHECK_FALLS },
};

pub(in crate::profile) static CHECK_RISES: ProfileKey<CountValue> = ProfileKey {
    name: "rises",
    about: "This many successful checks in a row bring it back.",
    example: "",
    value: CountValue { range: defaults::CHECKS_RANGE, default: defaults::CHECK_RISES },
};

pub(in crate::profile) static CHECK_REQUEST: ProfileKey<TextValue> = ProfileKey {
    name: "request",
    about: "What is asked for, by HTTP/1.1. Unset: a connection is enough.",
    example: r#""GET /healthz""#,
    value: TextValue {
        pattern: "^(GET|HEAD|OPTIONS) /[!-~]*$",
        words: "`GET`, `HEAD` or `OPTIONS`, and a path",
    },
};

pub(in crate::profile) static CHECK_EXPECT: ProfileKey<StatusList> = ProfileKey {
    name: "expect",
    about: "The status of a good answer.",
    example: "",
    value: StatusList { default: 200 },
};

pub(in crate::profile) static MAY_USE: ProfileKey<TextListValue> = ProfileKey {
    name: "peers",
    about: "Which of the link's peers may use this service. Unset: all of them.",
    example: r#"[dmz]"#,
    value: TextListValue { each: NAME_IN_CERTIFICATE, max: defaults::PEERS_MAX, single: SingleText::Refused },
};

pub(in crate::profile) static OWN_NAMES: ProfileKey<TextListValue> = ProfileKey {
    name: "own_names",
    about: "What an HTTP backend calls itself: rewritten in responses like its address.",
    example: r#"[app.internal]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a host, without a port" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static SOCKET_HOSTS: ProfileKey<TextListValue> = ProfileKey {
    name: "hosts",
    about: "How requests name a backend at an `http+unix` socket, which has no host: by the first. Unset: `localhost`.",
    example: r#"[app.internal]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a host, without a port" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static CONNECT_ADDRESS: KeyMap = KeyMap {
    about: "A backend, with the options of its scheme.",
    groups: &[&[&CONNECT_ADDRESS_KEY, &CONNECT_TLS_KEY, &PROXY_VERSION, &STANDBY, &EACH_BACKEND, &SOURCE]],
};

pub(in crate::profile) static STANDBY: ProfileKey<FlagValue> = ProfileKey {
    name: "standby",
    about: "Gets sessions only while every other is down or resting.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static EACH_BACKEND: ProfileKey<FlagValue> = ProfileKey {
    name: "each",
    about: "Makes each address that the name has a backend of its own, and follows it: the first 64, which are looked up again at their time to live.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static CONNECT_ADDRESS_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: TextValue { pattern: CONNECT_PATTERN, words: CONNECT_WORDS },
};

pub(in crate::profile) static CONNECT_TLS_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "tls",
    about: "Who the backend must be, and who the gateway is to it.",
    example: "",
    value: SubMap(&CONNECT_TLS),
};

pub(in crate::profile) static PROXY_VERSION: ProfileKey<ChoiceValue<ProxyVersion>> = ProfileKey {
    name: "proxy",
    about: "Tells the backend by this version of the PROXY protocol who the client is. Unset: no header is sent.",
    example: "",
    value: ChoiceValue {
        options: &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)],
        default: None,
        is_not: "no version of the PROXY protocol",
    },
};

pub(in crate::profile) static CONNECT_TLS: KeyMap = KeyMap {
    about: "Who the backend must be, and who the gateway is to it.",
    groups: &[&[&BACKEND_CA, &BACKEND_NAME, &SHOWN_CERTIFICATE, &SHOWN_KEY, &BACKEND_ALPN]],
};

pub(in crate::profile) static BACKEND_CA: ProfileKey<TextValue> = ProfileKey {
    name: "ca",
    about: "The authority that the backend's certificate comes from.",
    example: r#"pki/shop-ca.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static BACKEND_NAME: ProfileKey<TextValue> = ProfileKey {
    name: "name",
    about: "The name that its certificate carries. Unset: the host of the address.",
    example: r#"shop.internal"#,
    value: TextValue { pattern: "", words: "a host" },
};

pub(in crate::profile) static BACKEND_ALPN: ProfileKey<TextListValue> = ProfileKey {
    name: "alpn",
    about: "The protocols that the backend is offered by ALPN; it has to take one. Unset: exactly the one that was agreed on with the client, if any was.",
    example: r#"[h2]"#,
    value: ALPN_NAMES,
};

pub(in crate::profile) static SHOWN_CERTIFICATE: ProfileKey<TextValue> = ProfileKey {
    name: "certificate",
    about: "A certificate to show it.",
    example: r#"pki/gateway.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static SHOWN_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "key",
    about: "That certificate's private key, mode 0600.",
    example: r#"pki/gateway.key"#,
    value: PEM_FILE,
};

pub(in crate::profile) const CONNECT_WORDS: &str = "`tcp`, `tls`, `ws`, `wss`, `http` or `https`: `SCHEME://HOST:PORT[/PATH]`; `unix:///PATH`, `http+unix:///PATH`; `echo://`";

pub(in crate::profile) const CONNECT_PATTERN: &str = r"^(echo://|(http\+)?unix:///.+|(tcp|tls|ssl)://[^/@?#]+:[0-9]{1,5}|(wss?|https?)://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";
