//! Which sessions are listed: words, `field:word`, `field>amount`, `/pattern/`, and `!` before what must
//! not match.
//!
//! ```text
//! web 203.0.113.             both words, anywhere in the row
//! client:203.0.113. !state:waiting
//! in>1M age>5m wait>100ms    bytes a second, and times
//! client:10.1.0.0/16         a network; a whole address is that address alone
//! /app-[12]/ client:/^10[.]/ a regular expression, anywhere or in one field
//! ```

use std::{net::SocketAddr, sync::Arc};

use regex::{Regex, RegexBuilder};

use crate::{
    profile::{Half, Mode, Network},
    telemetry::snapshot::{EndedRow, ServiceRow, SessionPhase, SessionRow, Snapshot},
};

/// A valid filter; an empty one lets every session through.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// The text as it was typed.
    pub text: String,
    terms: Vec<FilterTerm>,
}

#[derive(Debug, Clone)]
struct FilterTerm {
    is_inverted: bool,
    test: FilterTest,
}

#[derive(Debug, Clone)]
enum FilterTest {
    Anywhere(TextPattern),
    In(FilterField, TextPattern),
    Port(u16),
    /// A whole address, or a network, instead of a prefix of the text.
    ClientIn(Network),
    More(FilterAmount, f64),
    Less(FilterAmount, f64),
}

#[derive(Debug, Clone)]
enum TextPattern {
    /// In lower case.
    Word(String),
    Regex(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterField {
    Id,
    Client,
    User,
    Service,
    Peer,
    Target,
    State,
    Half,
    Mode,
    Code,
    Reason,
    Port,
    Gateway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterAmount {
    Up,
    Down,
    Rate,
    Total,
    Age,
    Idle,
    Wait,
}

/// Each with its meaning, for the suggestions.
const FIELDS: [(&str, FilterField, &str); 14] = [
    ("client", FilterField::Client, "its address, part of it, or a network"),
    ("user", FilterField::User, "its proven name"),
    ("service", FilterField::Service, "its name"),
    ("peer", FilterField::Peer, "the other gateway"),
    ("via", FilterField::Peer, "the same"),
    ("target", FilterField::Target, "the backend's address"),
    ("state", FilterField::State, "waiting, ended, ..."),
    ("mode", FilterField::Mode, "direct, forward, reverse"),
    ("code", FilterField::Code, "how it ended: TW, or T"),
    ("reason", FilterField::Reason, "why it ended"),
    ("port", FilterField::Port, "of any of its ends"),
    ("id", FilterField::Id, "of the session"),
    ("half", FilterField::Half, "dmz, internal"),
    ("gateway", FilterField::Gateway, "of a fleet"),
];

const AMOUNTS: [(&str, FilterAmount, &str); 9] = [
    ("in", FilterAmount::Up, "B/s from the client: in>1M"),
    ("out", FilterAmount::Down, "B/s to the client: out>20k"),
    ("up", FilterAmount::Up, "the same as in"),
    ("down", FilterAmount::Down, "the same as out"),
    ("rate", FilterAmount::Rate, "bytes a second, both ways"),
    ("total", FilterAmount::Total, "bytes in all, both ways"),
    ("age", FilterAmount::Age, "since it began: age>5m"),
    ("idle", FilterAmount::Idle, "since its last byte: idle>30s"),
    ("wait", FilterAmount::Wait, "for a link: wait>100ms"),
];

/// The beginnings of a term, with an explanation; other names for the same field are left out.
pub fn field_names() -> impl Iterator<Item = (String, &'static str)> {
    let fields = FIELDS.iter().map(|(name, _, help)| (format!("{name}:"), *help));
    let names = fields.chain(AMOUNTS.iter().map(|(name, _, help)| (format!("{name}>"), *help)));
    names.filter(|(_, help)| !help.starts_with("the same"))
}

/// A session as a filter sees it, open or ended.
#[derive(Debug, Clone, Copy)]
pub enum ListedSession<'a> {
    Open(&'a SessionRow),
    Ended(&'a EndedRow),
}

impl SessionFilter {
    /// Parses what was typed into a filter, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (term, remainder) = first_term(rest)?;
            terms.push(term);
            rest = remainder.trim_start();
        }
        Ok(Self { text: text.trim().to_owned(), terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn matches(&self, snapshot: &Snapshot, row: ListedSession<'_>) -> bool {
        self.matches_parts(snapshot, row, None)
    }

    /// Whether it matches a session that two gateways carry: either part may.
    pub fn matches_parts(
        &self,
        snapshot: &Snapshot,
        row: ListedSession<'_>,
        inner: Option<ListedSession<'_>>,
    ) -> bool {
        let holds = |test: &FilterTest| {
            test.holds(snapshot, row)
                || (test.is_of_gateway() && inner.is_some_and(|inner| test.holds(snapshot, inner)))
        };
        self.terms.iter().all(|term| holds(&term.test) != term.is_inverted)
    }
}

/// The first term of a line, and the rest. A pattern may contain spaces.
fn first_term(text: &str) -> Result<(FilterTerm, &str), String> {
    let (is_inverted, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (name, sign, value) = match rest[..end].find([':', '<', '>', '/']) {
        Some(at) if at > 0 && is_name(&rest[..at]) && !rest[at..].starts_with('/') => {
            (&rest[..at], &rest[at..=at], &rest[at + 1..])
        }
        _ => ("", ":", rest),
    };
    if let Some(pattern) = value.strip_prefix('/').filter(|_| sign == ":") {
        let (pattern, remainder) =
            split_pattern(pattern).ok_or("a pattern ends in `/` as it begins: /app-[12]/")?;
        if name == "port" {
            return Err("a port is a number: port:8443".into());
        }
        let pattern = TextPattern::Regex(regex(pattern)?);
        let test = if name.is_empty() {
            FilterTest::Anywhere(pattern)
        } else {
            FilterTest::In(field(name)?, pattern)
        };
        return Ok((FilterTerm { is_inverted, test }, remainder));
    }
    let (value, remainder) = value.split_at(value.find(char::is_whitespace).unwrap_or(value.len()));
    let test = match (name, value) {
        ("", "") => return Err("`!` stands alone; write the word that must not match behind it".into()),
        ("", word) => FilterTest::Anywhere(TextPattern::Word(word.to_ascii_lowercase())),
        (name, value) => test(name, sign, value)?,
    };
    Ok((FilterTerm { is_inverted, test }, remainder))
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Up to the slash that ends a word; one inside a word, as in `a/b`, does not count.
fn split_pattern(text: &str) -> Option<(&str, &str)> {
    let ends = |at: usize| text[at + 1..].chars().next().is_none_or(char::is_whitespace);
    let at = text.match_indices('/').map(|(at, _)| at).find(|&at| at > 0 && ends(at))?;
    Some((&text[..at], &text[at + 1..]))
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).case_insensitive(true).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| {
        // Its last line is the reason; the lines before show the pattern.
        let reported = error.to_string();
        let why = reported.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        format!("`/{pattern}/` is not a valid pattern: {why}")
    })
}

fn field(name: &str) -> Result<FilterField, String> {
    let known = || FIELDS.map(|(name, ..)| name).join(", ");
    let field = FIELDS.iter().find(|(field, ..)| *field == name).map(|(_, field, _)| *field);
    field.ok_or_else(|| format!("no field `{name}`; there are {}", known()))
}

fn test(name: &str, sign: &str, value: &str) -> Result<FilterTest, String> {
    if value.is_empty() {
        return Err(format!("`{name}{sign}` lacks a value"));
    }
    if sign == ":" {
        return match field(name)? {
            FilterField::Port => {
                value.parse().map(FilterTest::Port).map_err(|_| format!("`{value}` is not a port"))
            }
            FilterField::Client if value.parse::<Network>().is_ok() => {
                value.parse().map(FilterTest::ClientIn).map_err(|_| format!("`{value}` is not a network"))
            }
            field @ (FilterField::Id
            | FilterField::Client
            | FilterField::User
            | FilterField::Service
            | FilterField::Peer
            | FilterField::Target
            | FilterField::State
            | FilterField::Half
            | FilterField::Mode
            | FilterField::Code
            | FilterField::Reason
            | FilterField::Gateway) => {
                Ok(FilterTest::In(field, TextPattern::Word(value.to_ascii_lowercase())))
            }
        };
    }
    let amount = AMOUNTS.iter().find(|(known, ..)| *known == name);
    let known = || AMOUNTS.map(|(name, ..)| name).join(", ");
    let (_, amount, _) = amount.ok_or_else(|| format!("no amount `{name}`; there are {}", known()))?;
    let number = number(*amount, value)?;
    Ok(if sign == ">" { FilterTest::More(*amount, number) } else { FilterTest::Less(*amount, number) })
}

/// `1.5M` of bytes, `100ms`, `90s`, `5m`, `2h` or `1d` of time.
fn number(amount: FilterAmount, value: &str) -> Result<f64, String> {
    let (units, example): (&[(&str, f64)], _) = match amount {
        FilterAmount::Age | FilterAmount::Idle | FilterAmount::Wait => (
            &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)],
            "100ms, 30s, 5m or 2h",
        ),
        FilterAmount::Up | FilterAmount::Down | FilterAmount::Rate | FilterAmount::Total => {
            (&[("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("", 1.0)], "500, 20k or 1.5M")
        }
    };
    let split = value.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(value.len());
    let (digits, unit) = value.split_at(split);
    let scale = units.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit)).map(|(_, scale)| scale);
    let count = digits.parse::<f64>().ok();
    match (count, scale) {
        (Some(count), Some(scale)) => Ok(count * scale),
        _ => Err(format!("`{value}` is not an amount; write {example}")),
    }
}

impl FilterTest {
    fn is_of_gateway(&self) -> bool {
        matches!(self, Self::In(FilterField::Gateway, _))
    }

    fn holds(&self, snapshot: &Snapshot, row: ListedSession<'_>) -> bool {
        match self {
            // The code is matched from its beginning: the first letter says who, the second when.
            Self::In(FilterField::Code, TextPattern::Word(word)) => row
                .text(snapshot, FilterField::Code)
                .is_some_and(|code| code.to_ascii_lowercase().starts_with(word)),
            Self::In(field, pattern) => row.text(snapshot, *field).is_some_and(|text| pattern.is_in(text)),
            Self::Anywhere(pattern) => {
                let mut texts = ANYWHERE.iter().filter_map(|field| row.text(snapshot, *field));
                texts.any(|text| pattern.is_in(text))
            }
            Self::Port(port) => row.has_port(snapshot, *port),
            Self::ClientIn(network) => {
                let client = row.text(snapshot, FilterField::Client).and_then(|client| client.parse().ok());
                client.is_some_and(|client: SocketAddr| network.contains(client.ip()))
            }
            Self::More(amount, number) => row.amount(*amount).is_some_and(|value| value > *number),
            Self::Less(amount, number) => row.amount(*amount).is_some_and(|value| value < *number),
        }
    }
}

impl TextPattern {
    fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => contains(text, word),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl<'a> ListedSession<'a> {
    pub fn id(self) -> &'a str {
        match self {
            Self::Open(row) => &row.id,
            Self::Ended(row) => &row.id,
        }
    }

    pub fn half(self) -> Half {
        match self {
            Self::Open(row) => row.half,
            Self::Ended(row) => row.half,
        }
    }

    pub fn gateway(self) -> Option<&'a Arc<str>> {
        match self {
            Self::Open(row) => row.gateway.as_ref(),
            Self::Ended(row) => row.gateway.as_ref(),
        }
    }

    pub fn peer(self) -> Option<&'a str> {
        match self {
            Self::Open(row) => row.peer.as_deref(),
            Self::Ended(row) => row.peer.as_deref(),
        }
    }

    fn text(self, snapshot: &'a Snapshot, field: FilterField) -> Option<&'a str> {
        let (id, client, service, peer, half) = match self {
            Self::Open(row) => (&row.id, &row.client, &row.service, &row.peer, row.half),
            Self::Ended(row) => (&row.id, &row.client, &row.service, &row.peer, row.half),
        };
        Some(match field {
            FilterField::Id => id,
            FilterField::Client => client,
            FilterField::User => match self {
                Self::Open(row) => row.user.as_deref()?,
                Self::Ended(row) => row.user.as_deref()?,
            },
            FilterField::Service => service,
            FilterField::Peer => peer.as_deref()?,
            FilterField::Target => self.target(snapshot)?,
            FilterField::State => self.state(),
            FilterField::Half => match half {
                Half::Dmz => "dmz",
                Half::Internal => "internal",
            },
            FilterField::Mode => match snapshot.mode {
                Mode::Direct => "direct",
                Mode::Forward => "forward",
                Mode::Reverse => "reverse",
            },
            FilterField::Code => match self {
                Self::Open(_) => return None,
                Self::Ended(row) => &row.end,
            },
            FilterField::Reason => match self {
                Self::Open(_) => return None,
                Self::Ended(row) => &row.reason,
            },
            FilterField::Gateway => self.gateway()?,
            FilterField::Port => return None,
        })
    }

    fn services(self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a ServiceRow> {
        let name = match self {
            Self::Open(row) => &row.service,
            Self::Ended(row) => &row.service,
        };
        snapshot.services.iter().filter(move |service| service.name == *name)
    }

    /// Where its service goes, as far as this gateway knows.
    fn target(self, snapshot: &'a Snapshot) -> Option<&'a str> {
        self.services(snapshot).find_map(|service| service.connect.as_deref())
    }

    fn has_port(self, snapshot: &Snapshot, port: u16) -> bool {
        let client = match self {
            Self::Open(row) => &row.client,
            Self::Ended(row) => &row.client,
        };
        let ends_so = |address: &str| port_of(address) == Some(port);
        ends_so(client)
            || self.services(snapshot).any(|service| {
                service.accept.iter().any(|at| ends_so(at)) || service.connect.as_deref().is_some_and(ends_so)
            })
    }

    fn state(self) -> &'static str {
        match self {
            Self::Ended(_) => "ended",
            Self::Open(row) => phase_word(row.phase),
        }
    }

    /// `None` if a row has no such amount: it is then neither more nor less than anything.
    fn amount(self, amount: FilterAmount) -> Option<f64> {
        let of = |bytes: u64| Some(bytes as f64);
        match (self, amount) {
            (Self::Open(row), FilterAmount::Up) => of(row.rate_up),
            (Self::Open(row), FilterAmount::Down) => of(row.rate_down),
            (Self::Open(row), FilterAmount::Rate) => of(row.rate_up.saturating_add(row.rate_down)),
            (Self::Open(row), FilterAmount::Total) => of(row.bytes_up.saturating_add(row.bytes_down)),
            (Self::Open(row), FilterAmount::Age) => Some(row.age_seconds),
            (Self::Open(row), FilterAmount::Idle) => Some(row.idle_seconds),
            (Self::Open(row), FilterAmount::Wait) if row.phase == SessionPhase::Waiting => {
                Some(row.age_seconds)
            }
            (Self::Open(row), FilterAmount::Wait) => row.waited_ms.map(|ms| ms / 1e3),
            (Self::Ended(row), FilterAmount::Total) => of(row.bytes_up.saturating_add(row.bytes_down)),
            (Self::Ended(row), FilterAmount::Age) => Some(row.seconds),
            (
                Self::Ended(_),
                FilterAmount::Up
                | FilterAmount::Down
                | FilterAmount::Rate
                | FilterAmount::Idle
                | FilterAmount::Wait,
            ) => None,
        }
    }
}

/// The port in `tcp://10.0.0.8:9000`, `ws://0.0.0.0:8001/chat` and `[::1]:443`.
fn port_of(address: &str) -> Option<u16> {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    host.rsplit_once(':')?.1.parse().ok()
}

pub fn phase_word(phase: SessionPhase) -> &'static str {
    match phase {
        SessionPhase::Negotiating => "negotiating",
        SessionPhase::Authorising => "authorising",
        SessionPhase::Waiting => "waiting",
        SessionPhase::Connecting => "connecting",
        SessionPhase::Relaying => "relaying",
        SessionPhase::Draining => "draining",
    }
}

/// Without a copy, since ten thousand rows are checked several times a second. `word` is in lower case.
fn contains(text: &str, word: &str) -> bool {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// The fields that are searched for a word without a field.
const ANYWHERE: [FilterField; 9] = [
    FilterField::Client,
    FilterField::Service,
    FilterField::Peer,
    FilterField::Target,
    FilterField::State,
    FilterField::Code,
    FilterField::Reason,
    FilterField::Id,
    FilterField::Half,
];
/// The limit of a compiled pattern; patterns are typed in one line.
const REGEX_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
