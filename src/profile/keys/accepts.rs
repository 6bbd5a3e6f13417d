//! Keys of services as clients see them: where clients come in, and who they may be. How a value is read is in
//! [`super::values`].

use super::{
    BACKEND_OPTIONS, BIND, CLIENT_GUARDS, CLIENT_LOGIN, CONNECT_ADDRESS, CONNECT_PATTERN, CONNECT_WORDS,
    KeyGroup, KeyMap, OPENING_HOURS, OWN_NAMES, ProfileKey, REVOKED, REVOKED_EXPIRED, UNREADY,
    values::{
        ALPN_NAMES, AddressValue, ChoiceValue, CountValue, DurationValue, NAME_IN_CERTIFICATE,
        OptionalDurationValue, PEM_FILE, SingleText, SizeValue, SubMap, TextListValue, TextValue,
    },
};
use crate::profile::{Carries, MessageKind, TlsVersion, defaults, fields::ZeroDuration};

pub(in crate::profile) static DMZ_SERVICE: KeyMap = KeyMap {
    about: "A service as clients see it.",
    groups: &[
        &[&ACCEPT, &DMZ_SERVICE_CONNECT, &SESSIONS, &IDLE, &MAY_OFFER, &CARRIES],
        &[&OWN_NAMES, &ANSWER, &UNREADY],
        BACKEND_OPTIONS,
        OPENING_HOURS,
        CLIENT_GUARDS,
        ACCEPT_OPTIONS,
        ACCEPT_WEB,
        CLIENT_LOGIN,
    ],
};

pub(in crate::profile) static ACCEPT: ProfileKey<AddressValue> = ProfileKey {
    name: "accept",
    about: "Where clients come in.",
    example: r#"["tcp://0.0.0.0:8000"]"#,
    value: AddressValue {
        pattern: ACCEPT_PATTERN,
        words: ACCEPT_WORDS,
        options: &ACCEPT_ADDRESS,
        max: Some(defaults::ACCEPTS_MAX),
    },
};

pub(in crate::profile) static DMZ_SERVICE_CONNECT: ProfileKey<AddressValue> = ProfileKey {
    name: "connect",
    about: "What it reaches; in direct mode alone.",
    example: r#"tcp://127.0.0.1:9000"#,
    value: AddressValue {
        pattern: CONNECT_PATTERN,
        words: CONNECT_WORDS,
        options: &CONNECT_ADDRESS,
        max: Some(defaults::BACKENDS_MAX),
    },
};

pub(in crate::profile) static SESSIONS: ProfileKey<CountValue> = ProfileKey {
    name: "sessions",
    about: "Sessions at once; more are refused with a reset, or answered 503 where HTTP is spoken.",
    example: "",
    value: CountValue { range: defaults::SESSIONS_RANGE, default: defaults::SESSIONS },
};

pub(in crate::profile) static IDLE: ProfileKey<OptionalDurationValue> = ProfileKey {
    name: "idle",
    about: "A session ends after this long without a byte in either direction.",
    example: r#"10m"#,
    value: OptionalDurationValue,
};

pub(in crate::profile) static MAY_OFFER: ProfileKey<TextListValue> = ProfileKey {
    name: "peers",
    about: "Which of the link's peers may offer this service. Unset: all of them.",
    example: r#"[internal]"#,
    value: TextListValue { each: NAME_IN_CERTIFICATE, max: defaults::PEERS_MAX, single: SingleText::Refused },
};

pub(in crate::profile) static CARRIES: ProfileKey<ChoiceValue<Carries>> = ProfileKey {
    name: "carries",
    about: "What crosses the link, equally on both halves. Unset: `http` where an accept of this file is http, or what the service reaches is http or ws; else `bytes`.",
    example: "",
    value: ChoiceValue {
        options: &[("bytes", Carries::Bytes), ("http", Carries::Http)],
        default: None,
        is_not: "nothing that a service carries",
    },
};

pub(in crate::profile) static ANSWER: ProfileKey<DurationValue> = ProfileKey {
    name: "answer",
    about: "The longest wait for the head of an answer, after the last of its request; beside an http or ws connect.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::ANSWER },
};

pub(in crate::profile) static ACCEPT_ADDRESS: KeyMap = KeyMap {
    about: "Where clients come in, with options of this accept alone.",
    groups: &[&[&ACCEPT_ADDRESS_KEY, &BIND], ACCEPT_OPTIONS, ACCEPT_WEB, CLIENT_LOGIN],
};

pub(in crate::profile) static ACCEPT_ADDRESS_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: TextValue { pattern: ACCEPT_PATTERN, words: ACCEPT_WORDS },
};

/// Options of one accept, or of a service for all of its accepts.
pub(in crate::profile) static ACCEPT_OPTIONS: KeyGroup = &[&ACCEPT_TLS_KEY, &SNI, &PROXY_FROM_KEY];

/// The keys of accepts that read requests.
pub(in crate::profile) static ACCEPT_WEB: KeyGroup =
    &[&HOSTS, &ORIGINS, &FORWARDED, &BODY, &KEEP_ALIVE, &MESSAGE_LIMIT, &INACTIVITY, &PROTOCOLS, &FRAMES];

/// Options that mean nothing unless WebSocket frames are decoded.
pub(in crate::profile) static FRAME_OPTIONS: KeyGroup = &[&MESSAGE_LIMIT, &INACTIVITY, &PROTOCOLS, &FRAMES];

pub(in crate::profile) static ACCEPT_TLS_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "tls",
    about: "Who the service is to its clients, and who they may be.",
    example: "",
    value: SubMap(&ACCEPT_TLS),
};

pub(in crate::profile) static SNI: ProfileKey<TextListValue> = ProfileKey {
    name: "sni",
    about: "The names in a ClientHello that mean this service. A `tcp` accept then passes TLS on as it is. Unset: all other names.",
    example: r#"[shop.example.com]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a DNS name; `*.` stands for one label" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static PROXY_FROM_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "proxy",
    about: "Clients come through proxies that say who they are by the PROXY protocol, version 1 or 2.",
    example: "",
    value: SubMap(&PROXY_FROM),
};

pub(in crate::profile) static PROXY_FROM: KeyMap =
    KeyMap { about: "Proxies before an accept.", groups: &[&[&PROXY_NETWORKS]] };

pub(in crate::profile) static PROXY_NETWORKS: ProfileKey<TextListValue> = ProfileKey {
    name: "from",
    about: "The networks of the proxies; connections from elsewhere are refused.",
    example: r#"[10.1.0.0/24]"#,
    value: TextListValue { each: NETWORK, max: defaults::NETWORKS_MAX, single: SingleText::Refused },
};

pub(in crate::profile) static FORWARDED: ProfileKey<SubMap> = ProfileKey {
    name: "forwarded",
    about: "Clients may come through proxies that say in each request who they are.",
    example: "",
    value: SubMap(&FORWARDED_FROM),
};

pub(in crate::profile) static FORWARDED_FROM: KeyMap =
    KeyMap { about: "Proxies that name the client of each request.", groups: &[&[&FORWARDED_NETWORKS]] };

pub(in crate::profile) static FORWARDED_NETWORKS: ProfileKey<TextListValue> = ProfileKey {
    name: "from",
    about: "The networks of the proxies; what others say is dropped, and their requests are served.",
    example: r#"[10.1.0.0/24]"#,
    value: TextListValue { each: NETWORK, max: defaults::NETWORKS_MAX, single: SingleText::Refused },
};

pub(in crate::profile) static HOSTS: ProfileKey<TextListValue> = ProfileKey {
    name: "hosts",
    about: "The hosts of a request that mean this service. Unset: any.",
    example: r#"[www.example.com]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a name without a port; `*.` stands for one label" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static ORIGINS: ProfileKey<TextListValue> = ProfileKey {
    name: "origins",
    about: "The pages that may open a WebSocket. Unset: any, and clients other than web pages.",
    example: r#"["https://www.example.com"]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "an origin as a browser writes it" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static BODY: ProfileKey<DurationValue> = ProfileKey {
    name: "body",
    about: "The longest pause of a request's body.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::BODY },
};

pub(in crate::profile) static KEEP_ALIVE: ProfileKey<DurationValue> = ProfileKey {
    name: "keep_alive",
    about: "How long a client's connection stays open without a request.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::KEEP_ALIVE },
};

pub(in crate::profile) static MESSAGE_LIMIT: ProfileKey<SizeValue> = ProfileKey {
    name: "message_limit",
    about: "The longest message of a WebSocket client; a longer one closes with 1009.",
    example: "",
    value: SizeValue { range: defaults::MESSAGE_LIMIT_RANGE, default: defaults::MESSAGE_LIMIT },
};

pub(in crate::profile) static INACTIVITY: ProfileKey<OptionalDurationValue> = ProfileKey {
    name: "inactivity",
    about: "A WebSocket client that does not answer a ping for this long is closed.",
    example: r#"60s"#,
    value: OptionalDurationValue,
};

pub(in crate::profile) static PROTOCOLS: ProfileKey<TextListValue> = ProfileKey {
    name: "protocols",
    about: "The subprotocols of a WebSocket whose frames are taken off; the first offered that is listed is taken. Unset: the first offered that is not `x-kaazing-*`.",
    example: r#"[mqtt]"#,
    value: TextListValue {
        each: TextValue { pattern: "", words: "a name as clients offer it" },
        max: defaults::NAMES_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static FRAMES: ProfileKey<ChoiceValue<MessageKind>> = ProfileKey {
    name: "frames",
    about: "The type of messages sent to such a WebSocket's client; text has to be UTF-8.",
    example: "",
    value: ChoiceValue {
        options: &[("binary", MessageKind::Binary), ("text", MessageKind::Text)],
        default: Some("binary"),
        is_not: "no kind of messages",
    },
};

pub(in crate::profile) static ACCEPT_TLS: KeyMap = KeyMap {
    about: "Who the service is to its clients, and who they may be.",
    groups: &[&[
        &SERVICE_CERTIFICATE,
        &SERVICE_KEY,
        &CLIENT_CA,
        &VERIFY_CLIENT,
        &CLIENT_NAMES,
        &MIN_VERSION,
        &CLIENT_ALPN,
        &REVOKED,
        &REVOKED_EXPIRED,
    ]],
};

pub(in crate::profile) static SERVICE_CERTIFICATE: ProfileKey<TextValue> = ProfileKey {
    name: "certificate",
    about: "The service's certificate, and those between it and its authority.",
    example: r#"pki/www.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static SERVICE_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "key",
    about: "The certificate's private key, mode 0600.",
    example: r#"pki/www.key"#,
    value: PEM_FILE,
};

pub(in crate::profile) static CLIENT_CA: ProfileKey<TextValue> = ProfileKey {
    name: "ca",
    about: "The authority that clients' certificates come from.",
    example: r#"pki/clients.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static MIN_VERSION: ProfileKey<ChoiceValue<TlsVersion>> = ProfileKey {
    name: "min_version",
    about: "The oldest TLS that is spoken with clients.",
    example: "",
    value: ChoiceValue {
        options: &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)],
        default: Some("1.2"),
        is_not: "no TLS that is spoken here",
    },
};

pub(in crate::profile) static CLIENT_ALPN: ProfileKey<TextListValue> = ProfileKey {
    name: "alpn",
    about: "The protocols that are agreed on with clients by ALPN, the preferred one first; who offers only others is refused. Unset: none. What is agreed on, the backend is offered.",
    example: r#"[h2, http/1.1]"#,
    value: ALPN_NAMES,
};

pub(in crate::profile) static VERIFY_CLIENT: ProfileKey<ChoiceValue<ClientVerification>> = ProfileKey {
    name: "verify_client",
    about: "Whether clients show certificates. Unset: `required` where there is a `ca`, else `none`.",
    example: "",
    value: ChoiceValue {
        options: &[
            ("required", ClientVerification::Required),
            ("optional", ClientVerification::Optional),
            ("none", ClientVerification::None),
        ],
        default: None,
        is_not: "no way to verify clients",
    },
};

pub(in crate::profile) static CLIENT_NAMES: ProfileKey<TextListValue> = ProfileKey {
    name: "names",
    about: "Names of which a client's certificate must carry one. Unset: any.",
    example: r#"[partner-a]"#,
    value: TextListValue { each: NAME_IN_CERTIFICATE, max: defaults::NAMES_MAX, single: SingleText::Refused },
};

/// Whether clients of an accept show certificates.
#[derive(Debug, Clone, Copy)]
pub(in crate::profile) enum ClientVerification {
    Required,
    Optional,
    None,
}

const NETWORK: TextValue = TextValue { pattern: "", words: "an address, or one with its bits: `10.0.0.0/8`" };

const ACCEPT_WORDS: &str = "`tcp`, `tls`, `ws`, `wss`, `http` or `https`: `SCHEME://HOST:PORT[/PATH]`; `fd@NAME` instead of `HOST:PORT` for a socket that is passed in";

const ACCEPT_PATTERN: &str = r"^((tcp|tls|ssl)://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)|(wss?|https?)://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)(/[^@?#%]*)?)$";
