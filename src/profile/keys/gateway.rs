//! Keys of the profile itself, and of its halves. Reading them, the schema and the reference are made from this table,
//! so none of them can forget a key.

use super::{
    CLIENT_GUARDS, CLIENT_LOGIN, DMZ_LINK, DMZ_SERVICE, INTERNAL_LINK, INTERNAL_SERVICE, KeyMap, ProfileKey,
    RESOLVER,
    values::{AddressValue, ChoiceValue, DurationValue, FileOrMap, FlagValue, ServiceMap, SubMap, TextValue},
};
use crate::profile::{
    AccessLogFormat, ConfinePolicy, Mode, ReadyWhen, UnreadyPolicy, defaults, fields::ZeroDuration,
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
    about: "Who dials the link: no one (direct), the DMZ gateway (forward), or the internal gateway (reverse).",
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
    about: "On stop, keep serving clients for this long while /readyz reports not ready, then close ports.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Allowed, default: std::time::Duration::ZERO },
};

pub(in crate::profile) static HEALTH: ProfileKey<AddressValue> = ProfileKey {
    name: "health",
    about: "Where monitors ask the DMZ half over HTTP: /livez, /readyz, /readyz/SERVICE, /metrics. Unset: no port.",
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
    about: "When a service manager is notified that the gateway is ready: with its ports open, or able to serve clients.",
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
    about: "Restricts this process to the system calls and files it needs. `on`: as far as the kernel supports it; `required`: fully, or the gateway does not start; `off`: not at all. A half that runs alone in reverse mode gets the stricter lock and cannot leave reverse mode without a restart.",
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
    about: "Whether a client port keeps accepting while no service on it is ready, or is closed meanwhile; for services that do not say it themselves.",
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

const HEALTH_PATTERN: &str = r"^[^/@?#]+:[0-9]{1,5}$";
