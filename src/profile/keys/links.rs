//! Keys of the link of each half. Reading them, the schema and the reference are made from this table, so none of them
//! can forget a key.

use super::{
    EACH_GATEWAY, KeyMap, LINKS_PER_PEER, OUTER, POST_QUANTUM, ProfileKey, REVOKED, REVOKED_EXPIRED, SOURCE,
    VIA, VIA_CREDENTIALS,
    values::{
        AddressValue, ChoiceValue, CountValue, DurationValue, FlagValue, NAME_IN_CERTIFICATE, PEM_FILE,
        SingleText, SubMap, TextListValue, TextValue,
    },
};
use crate::profile::{BindPolicy, defaults, fields::ZeroDuration};

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
    about: "In forward mode, links to keep to each internal gateway, which its sessions share; in reverse mode, links that count as healthy until the peer announces its own number.",
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
    about: "A link is replaced at this age, ± 10 %; its sessions move to other links. From 1m to 24h.",
    example: "",
    value: DurationValue { zero: ZeroDuration::Refused, default: defaults::RETIRE },
};

pub(in crate::profile) static SESSIONS_PER_LINK: ProfileKey<CountValue> = ProfileKey {
    name: "sessions_per_link",
    about: "Sessions that one link carries at once, which is what its loss ends; for more, further links are dialled. The DMZ half learns and respects it.",
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
    value: TextListValue { each: NAME_IN_CERTIFICATE, max: defaults::PEERS_MAX, single: SingleText::Refused },
};

const LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`";

const LINK_PATTERN: &str =
    r"^(socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}|socks\+wss?://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?)$";

const DIALLED_LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`; `srv+` before one of them, and a name without a port, for the targets of its SRV records";

const DIALLED_LINK_PATTERN: &str = r"^(socks(\+tls|\+ssl)?://[^/@?#]+:[0-9]{1,5}|socks\+wss?://[^/@?#]+:[0-9]{1,5}(/[^@?#%]*)?|srv\+socks(\+tls|\+ssl)?://[^/@?#:]+|srv\+socks\+wss?://[^/@?#:]+(/[^@?#%]*)?)$";

const PASSED_LINK_PATTERN: &str = r"^(socks(\+tls|\+ssl)?://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)|socks\+wss?://([^/@?#]+:[0-9]{1,5}|fd@[A-Za-z0-9._-]+)(/[^@?#%]*)?)$";

const PASSED_LINK_WORDS: &str = "`socks+tls://HOST:PORT` or `socks://HOST:PORT`; `socks+wss://HOST:PORT/PATH` or `socks+ws://HOST:PORT/PATH`; `fd@NAME` instead of `HOST:PORT` for a socket that is passed in";
