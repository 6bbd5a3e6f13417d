//! Keys of the profile itself, of its halves, and of the link of each.

use super::{
    CLIENT_GUARDS, CLIENT_LOGIN, DMZ_SERVICE, EACH_GATEWAY, INTERNAL_SERVICE, KeyMap, LINKS_PER_PEER, OUTER,
    POST_QUANTUM, ProfileKey, RESOLVER, REVOKED, REVOKED_EXPIRED, SOURCE, VIA, VIA_CREDENTIALS,
    values::{
        AddressValue, Alone, ChoiceValue, CountValue, DurationValue, FileOrMap, FlagValue,
        NAME_IN_CERTIFICATE, PEM_FILE, ServiceMap, SubMap, TextListValue, TextValue,
    },
};
use crate::profile::{
    AccessLogFormat, BindPolicy, ConfinePolicy, Mode, ReadyWhen, UnreadyPolicy, defaults,
    fields::ZeroDuration,
};

pub(in crate::profile) static PROFILE: KeyMap = KeyMap {
    about: "What one gateway, or a pair in one process, should be.",
    groups: &[&[
        &EXTENDS,
        &NAME,
        &MODE,
        &DMZ,
        &INTERNAL,
        &DRAIN,
        &DRAIN_DELAY,
        &HEALTH,
        &READY,
        &LOG,
        &ACCESS_LOG,
        &AUDIT,
        &CONFINE,
        &RESOLVER,
    ]],
};

pub(in crate::profile) static EXTENDS: ProfileKey<TextValue> = ProfileKey {
    name: "extends",
    about: "A file to start from, relative to this one; chains are allowed. Maps merge, lists and scalars replace, null removes a key; `name` and `extends` are not inherited.",
    example: r#"forward.yaml"#,
    value: TextValue { pattern: "", words: "file" },
};

pub(in crate::profile) static NAME: ProfileKey<TextValue> = ProfileKey {
    name: "name",
    about: "The profile's name. Unset: the file's name without `.yaml`.",
    example: r#"reverse"#,
    value: TextValue { pattern: "^[A-Za-z0-9._-]{1,64}$", words: "1 to 64 of `A-Za-z0-9._-`" },
};

pub(in crate::profile) static MODE: ProfileKey<ChoiceValue<Mode>> = ProfileKey {
    name: "mode",
    about: "Who dials the link: nobody, since there is none; the DMZ gateway; the internal gateway.",
    example: r#"reverse"#,
    value: ChoiceValue {
        options: &[("direct", Mode::Direct), ("forward", Mode::Forward), ("reverse", Mode::Reverse)],
        default: None,
        is_not: "not a mode",
    },
};

pub(in crate::profile) static DMZ: ProfileKey<SubMap> = ProfileKey {
    name: "dmz",
    about: "The half that clients reach. It holds no name and no address of a backend, but in direct mode.",
    example: "",
    value: SubMap(&DMZ_HALF),
};

pub(in crate::profile) static INTERNAL: ProfileKey<SubMap> = ProfileKey {
    name: "internal",
    about: "The half that reaches the backends.",
    example: "",
    value: SubMap(&INTERNAL_HALF),
};

pub(in crate::profile) static DRAIN: ProfileKey<DurationValue> = ProfileKey {
    name: "drain",
    about: "On stop, sessions get this long to end.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Allowed, default: defaults::DRAIN },
};

pub(in crate::profile) static DRAIN_DELAY: ProfileKey<DurationValue> = ProfileKey {
    name: "drain_delay",
    about: "On stop, clients are served for so long before ports close, while /readyz says no.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Allowed, default: std::time::Duration::ZERO },
};

pub(in crate::profile) static HEALTH: ProfileKey<AddressValue> = ProfileKey {
    name: "health",
    about: "Where monitors ask the DMZ half over HTTP: /livez, /readyz, /readyz/SERVICE, /metrics. Unset: nowhere.",
    example: "127.0.0.1:9464",
    value: AddressValue {
        pattern: HEALTH_PATTERN,
        words: "`HOST:PORT`",
        options: &HEALTH_ADDRESS,
        max: None,
    },
};

pub(in crate::profile) static READY: ProfileKey<ChoiceValue<ReadyWhen>> = ProfileKey {
    name: "ready",
    about: "When a service manager is told that the gateway is ready: with its ports open, or able to serve clients.",
    example: "",
    value: ChoiceValue {
        options: &[("ports", ReadyWhen::Ports), ("links", ReadyWhen::Links)],
        default: Some("ports"),
        is_not: "not when a gateway is ready",
    },
};

pub(in crate::profile) static LOG: ProfileKey<TextValue> = ProfileKey {
    name: "log",
    about: "A file for the log, as JSON lines, beside standard error. Unset: none.",
    example: r#"/var/log/portcullis/gate.json"#,
    value: LOG_FILE,
};

pub(in crate::profile) static ACCESS_LOG: ProfileKey<FileOrMap> = ProfileKey {
    name: "access_log",
    about: "A line for each request of http and ws accepts, without its query. Unset: none.",
    example: r#"/var/log/portcullis/access.json"#,
    value: FileOrMap { file: ACCESS_LOG_FILE, options: &ACCESS_LOG_MAP },
};

pub(in crate::profile) static AUDIT: ProfileKey<TextValue> = ProfileKey {
    name: "audit",
    about: "A file with a line for each command of an operator, each start, stop and change of certificates, chained by SHA-256. Each gateway needs its own. Unset: none.",
    example: r#"/var/log/portcullis/audit.jsonl"#,
    value: LOG_FILE,
};

pub(in crate::profile) static ACCESS_LOG_MAP: KeyMap = KeyMap {
    about: "Where requests are written, and how.",
    groups: &[&[&ACCESS_LOG_TARGET, &ACCESS_LOG_FORMAT]],
};

pub(in crate::profile) static ACCESS_LOG_TARGET: ProfileKey<TextValue> = ProfileKey {
    name: "file",
    about: "The file, when it is written as a map.",
    example: "",
    value: ACCESS_LOG_FILE,
};

pub(in crate::profile) static ACCESS_LOG_FORMAT: ProfileKey<ChoiceValue<AccessLogFormat>> = ProfileKey {
    name: "format",
    about: "JSON lines, or the combined format of web servers.",
    example: "",
    value: ChoiceValue {
        options: &[("json", AccessLogFormat::Json), ("combined", AccessLogFormat::Combined)],
        default: Some("json"),
        is_not: "no format of a request's line",
    },
};

const LOG_FILE: TextValue = TextValue::of("file");
const ACCESS_LOG_FILE: TextValue = TextValue::of("file, or `stderr`");

pub(in crate::profile) static CONFINE: ProfileKey<ChoiceValue<ConfinePolicy>> = ProfileKey {
    name: "confine",
    about: "Whether the kernel refuses this gateway what it never does, and in reverse mode, where a half has a process of its own, whatever is not its part; as much as the kernel offers, or all of it before it starts. A locked process does not leave reverse mode: `off` is for those who go back and forth.",
    example: "",
    value: ChoiceValue {
        options: &[
            ("on", ConfinePolicy::On),
            ("off", ConfinePolicy::Off),
            ("required", ConfinePolicy::Required),
        ],
        default: Some("on"),
        is_not: "no way to confine a gateway",
    },
};

pub(in crate::profile) static HEALTH_ADDRESS: KeyMap =
    KeyMap { about: "The port that monitors ask at.", groups: &[&[&HEALTH_ADDRESS_KEY, &HEALTH_INSECURE]] };

pub(in crate::profile) static HEALTH_ADDRESS_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: TextValue { pattern: HEALTH_PATTERN, words: "`HOST:PORT`" },
};

pub(in crate::profile) static HEALTH_INSECURE: ProfileKey<FlagValue> = ProfileKey {
    name: "insecure",
    about: "Allows an address that other machines reach.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static DMZ_HALF: KeyMap = KeyMap {
    about: "The half that clients reach.",
    groups: &[&[&DMZ_LINK_KEY, &DMZ_SERVICES, &HALF_UNREADY], CLIENT_GUARDS, CLIENT_LOGIN],
};

pub(in crate::profile) static HALF_UNREADY: ProfileKey<ChoiceValue<UnreadyPolicy>> = ProfileKey {
    name: "unready",
    about: "Whether a client port goes on accepting while no service on it is ready, or is closed for so long; for services that do not say it themselves.",
    example: "",
    value: UNREADY_CHOICE,
};

pub(in crate::profile) static UNREADY: ProfileKey<ChoiceValue<UnreadyPolicy>> = ProfileKey {
    name: "unready",
    about: "The same for this service: a port is closed where all services on it say so. Unset: what the half says.",
    example: "refuse",
    value: ChoiceValue { default: None, ..UNREADY_CHOICE },
};

const UNREADY_CHOICE: ChoiceValue<UnreadyPolicy> = ChoiceValue {
    options: &[("accept", UnreadyPolicy::Accept), ("refuse", UnreadyPolicy::Refuse)],
    default: Some("accept"),
    is_not: "nothing that a port can do",
};

pub(in crate::profile) static INTERNAL_HALF: KeyMap = KeyMap {
    about: "The half that reaches the backends.",
    groups: &[&[&INTERNAL_LINK_KEY, &INTERNAL_SERVICES]],
};

pub(in crate::profile) static DMZ_LINK_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "link",
    about: "The link to the internal gateway.",
    example: "",
    value: SubMap(&DMZ_LINK),
};

pub(in crate::profile) static INTERNAL_LINK_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "link",
    about: "The link to the DMZ gateway.",
    example: "",
    value: SubMap(&INTERNAL_LINK),
};

pub(in crate::profile) static DMZ_SERVICES: ProfileKey<ServiceMap> = ProfileKey {
    name: "services",
    about: "Services by name; those of the two halves belong together by it.",
    example: "",
    value: ServiceMap(&DMZ_SERVICE),
};

pub(in crate::profile) static INTERNAL_SERVICES: ProfileKey<ServiceMap> = ProfileKey {
    name: "services",
    about: "Services by name; those of the two halves belong together by it.",
    example: "",
    value: ServiceMap(&INTERNAL_SERVICE),
};

pub(in crate::profile) static DMZ_LINK: KeyMap = KeyMap {
    about: "The link to the internal gateway.",
    groups: &[&[
        &DMZ_LISTEN,
        &DMZ_CONNECT,
        &LINK_TLS_KEY,
        &POST_QUANTUM,
        &OUTER,
        &INSECURE,
        &VIA,
        &VIA_CREDENTIALS,
        &DMZ_PREPARED,
        &WAIT,
        &WAITERS,
        &RETIRE,
        &LINKS_PER_PEER,
    ]],
};

pub(in crate::profile) static INTERNAL_LINK: KeyMap = KeyMap {
    about: "The link to the DMZ gateway.",
    groups: &[&[
        &INTERNAL_CONNECT,
        &INTERNAL_LISTEN,
        &LINK_TLS_KEY,
        &POST_QUANTUM,
        &OUTER,
        &INSECURE,
        &VIA,
        &VIA_CREDENTIALS,
        &INTERNAL_PREPARED,
        &MAXIMUM,
        &RETRY_KEY,
        &RETIRE,
        &SESSIONS_PER_LINK,
    ]],
};

pub(in crate::profile) static DMZ_LISTEN: ProfileKey<AddressValue> = ProfileKey {
    name: "listen",
    about: "Where the internal gateway dials in, in reverse mode. Inside a WebSocket it may be the port of `http`, `https`, `ws` and `wss` accepts.",
    example: r#"socks+tls://0.0.0.0:1443"#,
    value: AddressValue {
        pattern: PASSED_LINK_PATTERN,
        words: PASSED_LINK_WORDS,
        options: &LINK_LISTEN,
        max: None,
    },
};

pub(in crate::profile) static DMZ_CONNECT: ProfileKey<AddressValue> = ProfileKey {
    name: "connect",
    about: "The internal gateways to dial, in forward mode.",
    example: r#"socks+tls://internal.example.com:1444"#,
    value: AddressValue {
        pattern: DIALLED_LINK_PATTERN,
        words: DIALLED_LINK_WORDS,
        options: &LINK_ADDRESS,
        max: Some(defaults::GATEWAYS_MAX),
    },
};

pub(in crate::profile) static INTERNAL_LISTEN: ProfileKey<AddressValue> = ProfileKey {
    name: "listen",
    about: "Where the DMZ gateway dials in, in forward mode.",
    example: r#"socks+tls://0.0.0.0:1444"#,
    value: AddressValue { pattern: LINK_PATTERN, words: LINK_WORDS, options: &LINK_LISTEN, max: None },
};

pub(in crate::profile) static INTERNAL_CONNECT: ProfileKey<AddressValue> = ProfileKey {
    name: "connect",
    about: "The DMZ gateways to dial, in reverse mode.",
    example: r#"["socks+tls://dmz.example.com:1443"]"#,
    value: AddressValue {
        pattern: DIALLED_LINK_PATTERN,
        words: DIALLED_LINK_WORDS,
        options: &LINK_ADDRESS,
        max: Some(defaults::GATEWAYS_MAX),
    },
};

pub(in crate::profile) static LINK_TLS_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "tls",
    about: "Who this half is, and who its peer may be.",
    example: "",
    value: SubMap(&LINK_TLS),
};

pub(in crate::profile) static INSECURE: ProfileKey<FlagValue> = ProfileKey {
    name: "insecure",
    about: "Allows `socks` without TLS beyond this machine.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static DMZ_PREPARED: ProfileKey<CountValue> = ProfileKey {
    name: "prepared",
    about: "In forward mode, links to keep to each internal gateway, which its sessions share; in reverse mode, links that count as healthy until the peer tells its own target.",
    example: "",
    value: CountValue { range: defaults::PREPARED_RANGE, default: defaults::DMZ_PREPARED },
};

pub(in crate::profile) static INTERNAL_PREPARED: ProfileKey<CountValue> = ProfileKey {
    name: "prepared",
    about: "Links to keep to each DMZ gateway, which its sessions share; over SOCKS5, for each service there.",
    example: "",
    value: CountValue { range: defaults::PREPARED_RANGE, default: defaults::INTERNAL_PREPARED },
};

pub(in crate::profile) static WAIT: ProfileKey<DurationValue> = ProfileKey {
    name: "wait",
    about: "A client waits this long for a ready link, then is refused.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Allowed, default: defaults::WAIT },
};

pub(in crate::profile) static WAITERS: ProfileKey<CountValue> = ProfileKey {
    name: "waiters",
    about: "Clients of all services together that wait at once.",
    example: "",
    value: CountValue { range: defaults::WAITERS_RANGE, default: defaults::WAITERS },
};

pub(in crate::profile) static MAXIMUM: ProfileKey<CountValue> = ProfileKey {
    name: "maximum",
    about: "Links in all; several DMZ gateways have equal shares of it.",
    example: "",
    value: CountValue { range: defaults::MAXIMUM_RANGE, default: defaults::MAXIMUM },
};

pub(in crate::profile) static RETRY_KEY: ProfileKey<SubMap> = ProfileKey {
    name: "retry",
    about: "The pause between failed dials doubles from `first` to `maximum`, at random below that.",
    example: "",
    value: SubMap(&RETRY),
};

pub(in crate::profile) static RETIRE: ProfileKey<DurationValue> = ProfileKey {
    name: "retire",
    about: "A link is replaced at this age, give or take a tenth; its sessions go on. From 1m to 24h.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::RETIRE },
};

pub(in crate::profile) static SESSIONS_PER_LINK: ProfileKey<CountValue> = ProfileKey {
    name: "sessions_per_link",
    about: "Sessions that one link carries at once, which is what its loss ends; for more, further links are dialled. The DMZ half is told, and keeps to it.",
    example: "",
    value: CountValue { range: defaults::SESSIONS_PER_LINK_RANGE, default: defaults::SESSIONS_PER_LINK },
};

pub(in crate::profile) static RETRY: KeyMap =
    KeyMap { about: "The pause between failed dials.", groups: &[&[&RETRY_FIRST, &RETRY_MAXIMUM]] };

pub(in crate::profile) static RETRY_FIRST: ProfileKey<DurationValue> = ProfileKey {
    name: "first",
    about: "The first pause.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::RETRY_FIRST },
};

pub(in crate::profile) static RETRY_MAXIMUM: ProfileKey<DurationValue> = ProfileKey {
    name: "maximum",
    about: "The longest pause.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::RETRY_MAXIMUM },
};

pub(in crate::profile) static LINK_ADDRESS: KeyMap = KeyMap {
    about: "An address of a link to dial.",
    groups: &[&[&LINK_ADDRESS_KEY, &EACH_GATEWAY, &SOURCE]],
};

pub(in crate::profile) static LINK_LISTEN: KeyMap =
    KeyMap { about: "An address of a link to listen on.", groups: &[&[&LINK_LISTEN_ADDRESS, &BIND]] };

pub(in crate::profile) static LINK_ADDRESS_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: TextValue { pattern: DIALLED_LINK_PATTERN, words: DIALLED_LINK_WORDS },
};

pub(in crate::profile) static LINK_LISTEN_ADDRESS: ProfileKey<TextValue> = ProfileKey {
    name: "address",
    about: "The address, when it is written as a map.",
    example: "",
    value: TextValue { pattern: PASSED_LINK_PATTERN, words: PASSED_LINK_WORDS },
};

pub(in crate::profile) static BIND: ProfileKey<ChoiceValue<BindPolicy>> = ProfileKey {
    name: "bind",
    about: "Whether an address that this machine lacks ends the start, or is waited for while everything else runs.",
    example: "",
    value: ChoiceValue {
        options: &[("now", BindPolicy::Now), ("wait", BindPolicy::Wait)],
        default: Some("now"),
        is_not: "no way to bind",
    },
};

pub(in crate::profile) static LINK_TLS: KeyMap = KeyMap {
    about: "Who this half is, and who its peer may be.",
    groups: &[&[&LINK_CERTIFICATE, &LINK_KEY, &LINK_CA, &LINK_PEERS, &REVOKED, &REVOKED_EXPIRED]],
};

pub(in crate::profile) static LINK_CERTIFICATE: ProfileKey<TextValue> = ProfileKey {
    name: "certificate",
    about: "This half's certificate, and those between it and its authority.",
    example: r#"pki/dmz.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static LINK_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "key",
    about: "The certificate's private key, mode 0600.",
    example: r#"pki/dmz.key"#,
    value: PEM_FILE,
};

pub(in crate::profile) static LINK_CA: ProfileKey<TextValue> = ProfileKey {
    name: "ca",
    about: "The authority that peers' certificates come from.",
    example: r#"pki/ca.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static LINK_PEERS: ProfileKey<TextListValue> = ProfileKey {
    name: "peers",
    about: "Names of which a peer's certificate must carry one.",
    example: r#"[internal]"#,
    value: TextListValue { each: NAME_IN_CERTIFICATE, max: defaults::PEERS_MAX, alone: Alone::Refused },
};

const LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`";

const LINK_PATTERN: &str =
    r"^(socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}|socks\+wss?://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";

const DIALLED_LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`; `srv+` before one of them, and a name without a port, for the targets of its SRV records";

const DIALLED_LINK_PATTERN: &str = r"^(socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}|socks\+wss?://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?|srv\+socks(\+tls|\+ssl)?://[^/@?#:]+|srv\+socks\+wss?://[^/@?#:]+(/[^@?#%]*)?)$";

const PASSED_LINK_PATTERN: &str = r"^(socks(\+tls|\+ssl)?://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)|socks\+wss?://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)(/[^@?#%]*)?)$";

const PASSED_LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`; `fd@NAME` instead of `HOST:PORT` for a socket that is passed in";

const HEALTH_PATTERN: &str = r"^[^/@?#]+:[0-9]{1,5}$";
