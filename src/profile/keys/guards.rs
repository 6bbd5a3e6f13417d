//! Keys that say which clients may come in, and how much one client gets. Reading them, the schema and the reference
//! are made from this table, so none of them can forget a key.

use super::{
    KeyGroup, KeyMap, ProfileKey,
    rates::{OptionalCountValue, PerTime, Throughput, ThroughputOrMap},
    values::{OptionalDurationValue, SingleText, SubMap, TextListValue, TextValue},
};
use crate::profile::defaults;

/// At a service, or at the half for all of its services.
pub(in crate::profile) static CLIENT_GUARDS: KeyGroup = &[&CLIENTS, &PER_CLIENT, &RATE, &SESSION_LIMIT];

/// Beside what a service reaches.
pub(in crate::profile) static OPENING_HOURS: KeyGroup = &[&HOURS, &TIMEZONE];

pub(in crate::profile) static HOURS: ProfileKey<TextListValue> = ProfileKey {
    name: "hours",
    about: "When it takes new sessions; open ones continue. Past midnight is allowed. Without days, every day. Unset: always.",
    example: r#"["Mon-Fri 07:00-19:00", "Sat 22:00-06:00"]"#,
    value: TextListValue { each: HOURS_SPAN, max: defaults::HOURS_MAX, single: SingleText::Allowed },
};

pub(in crate::profile) static TIMEZONE: ProfileKey<TextValue> = ProfileKey {
    name: "timezone",
    about: "The time zone of `hours`. Unset: local time.",
    example: "Europe/Berlin",
    value: TextValue::of("a name of the IANA database"),
};

const HOURS_SPAN: TextValue = TextValue {
    pattern: r"^(((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(-(Mon|Tue|Wed|Thu|Fri|Sat|Sun))?(,|(?= )))+ )?[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$",
    words: "days and times, `DAY[-DAY][,…] HH:MM-HH:MM`",
};

pub(in crate::profile) static CLIENTS: ProfileKey<SubMap> = ProfileKey {
    name: "clients",
    about: "Whose sessions are taken, by the client's own address. A service's setting replaces that of the half completely.",
    example: "",
    value: SubMap(&CLIENT_NETWORKS),
};

pub(in crate::profile) static CLIENT_NETWORKS: KeyMap = KeyMap {
    about: "Which clients get in: of the networks that hold an address, the one with the most bits decides.",
    groups: &[&[&ALLOWED_NETWORKS, &DENIED_NETWORKS]],
};

pub(in crate::profile) static ALLOWED_NETWORKS: ProfileKey<TextListValue> = ProfileKey {
    name: "allow",
    about: "Allowed networks; all others are then denied. Unset: all that are not denied.",
    example: r#"[203.0.113.0/24, "2001:db8::/32"]"#,
    value: TextListValue {
        each: CLIENT_NETWORK,
        max: defaults::CLIENT_NETWORKS_MAX,
        single: SingleText::Refused,
    },
};

pub(in crate::profile) static DENIED_NETWORKS: ProfileKey<TextListValue> = ProfileKey {
    name: "deny",
    about: "Denied networks.",
    example: r#"[203.0.113.7]"#,
    value: TextListValue {
        each: CLIENT_NETWORK,
        max: defaults::CLIENT_NETWORKS_MAX,
        single: SingleText::Refused,
    },
};

pub(in crate::profile) static PER_CLIENT: ProfileKey<SubMap> = ProfileKey {
    name: "per_client",
    about: "What one client may have: each IPv4 address, each IPv6 /64. At the half it counts over all services that have none of their own.",
    example: "",
    value: SubMap(&CLIENT_LIMITS),
};

pub(in crate::profile) static CLIENT_LIMITS: KeyMap =
    KeyMap { about: "What one client may have.", groups: &[&[&CLIENT_SESSIONS, &NEW_SESSIONS, &BURST]] };

pub(in crate::profile) static INTERNAL_SESSIONS: ProfileKey<OptionalCountValue> = ProfileKey {
    name: "sessions",
    about: "Sessions at once, of all DMZ gateways together. Unset: as many as its links carry.",
    example: "1000",
    value: OptionalCountValue { range: defaults::SESSIONS_RANGE },
};

pub(in crate::profile) static PER_PEER: ProfileKey<SubMap> = ProfileKey {
    name: "per_peer",
    about: "What one DMZ gateway may have, by the name in its certificate, all of that name together.",
    example: "",
    value: SubMap(&PEER_LIMITS),
};

pub(in crate::profile) static PEER_LIMITS: KeyMap =
    KeyMap { about: "What one DMZ gateway may have.", groups: &[&[&CLIENT_SESSIONS, &NEW_SESSIONS, &BURST]] };

pub(in crate::profile) static CLIENT_SESSIONS: ProfileKey<OptionalCountValue> = ProfileKey {
    name: "sessions",
    about: "Its sessions at once. Unset: as many as the service takes.",
    example: "100",
    value: OptionalCountValue { range: defaults::SESSIONS_RANGE },
};

pub(in crate::profile) static NEW_SESSIONS: ProfileKey<PerTime> = ProfileKey {
    name: "rate",
    about: "How many new sessions. Unset: unlimited.",
    example: r#"20/s"#,
    value: PerTime,
};

pub(in crate::profile) static BURST: ProfileKey<OptionalCountValue> = ProfileKey {
    name: "burst",
    about: "How many of them may come at once. Unset: those of one second, at least one.",
    example: "40",
    value: OptionalCountValue { range: defaults::SESSIONS_RANGE },
};

pub(in crate::profile) static RATE: ProfileKey<ThroughputOrMap> = ProfileKey {
    name: "rate",
    about: "Bytes a second, each way: of each session where it is one value, else as the map says. Unset: no bound.",
    example: r#"1MB/s"#,
    value: ThroughputOrMap(&RATES),
};

pub(in crate::profile) static RATES: KeyMap =
    KeyMap { about: "Bytes a second, each way.", groups: &[&[&SESSION_RATE, &SERVICE_RATE]] };

pub(in crate::profile) static SESSION_RATE: ProfileKey<Throughput> =
    ProfileKey { name: "session", about: "Of each session.", example: r#"1MB/s"#, value: Throughput };

pub(in crate::profile) static SERVICE_RATE: ProfileKey<Throughput> = ProfileKey {
    name: "service",
    about: "Of all sessions of the service together.",
    example: r#"50MB/s"#,
    value: Throughput,
};

pub(in crate::profile) static SESSION_LIMIT: ProfileKey<OptionalDurationValue> = ProfileKey {
    name: "session_limit",
    about: "The maximum duration of a session.",
    example: r#"8h"#,
    value: OptionalDurationValue,
};

const CLIENT_NETWORK: TextValue =
    TextValue { pattern: "", words: "an address, or a network with its bits: `10.0.0.0/8`" };

pub(in crate::profile) static LINKS_PER_PEER: ProfileKey<SubMap> = ProfileKey {
    name: "per_peer",
    about: "What one peer may have, by the name in its certificate, wherever it dials from.",
    example: "",
    value: SubMap(&PEER_LINKS),
};

pub(in crate::profile) static PEER_LINKS: KeyMap =
    KeyMap { about: "What one peer may have.", groups: &[&[&PEER_LINKS_MAX]] };

pub(in crate::profile) static PEER_LINKS_MAX: ProfileKey<OptionalCountValue> = ProfileKey {
    name: "links",
    about: "Its links in all. Unset: what its `hello` says that it keeps, at most half of what is left.",
    example: "64",
    value: OptionalCountValue { range: defaults::MAXIMUM_RANGE },
};
