//! Which sessions are listed: words, `field:word`, `field>amount`, and `!` before what must not match.
//!
//! ```text
//! web 203.0.113.             both words, anywhere in the row
//! client:203.0.113. !state:waiting
//! down>1M age>5m             bytes a second, and a time
//! ```

use crate::{
    profile::Role,
    telemetry::snapshot::{EndedRow, SessionPhase, SessionRow},
};

/// A filter that can be used; an empty one lets every session through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// As it was typed.
    pub text: String,
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq)]
struct Term {
    is_inverted: bool,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Anywhere(String),
    In(Field, String),
    More(Amount, f64),
    Less(Amount, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Client,
    Service,
    Peer,
    State,
    Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Up,
    Down,
    Rate,
    Total,
    Age,
    Idle,
}

const FIELDS: [(&str, Field); 7] = [
    ("id", Field::Id),
    ("client", Field::Client),
    ("service", Field::Service),
    ("peer", Field::Peer),
    ("via", Field::Peer),
    ("state", Field::State),
    ("half", Field::Half),
];

const AMOUNTS: [(&str, Amount); 6] = [
    ("up", Amount::Up),
    ("down", Amount::Down),
    ("rate", Amount::Rate),
    ("total", Amount::Total),
    ("age", Amount::Age),
    ("idle", Amount::Idle),
];

/// One session as a filter sees it, open or ended.
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
    Open(&'a SessionRow),
    Ended(&'a EndedRow),
}

impl Filter {
    /// What was typed, as a filter; else what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms = text.split_whitespace().map(term).collect::<Result<_, _>>()?;
        Ok(Self { text: text.trim().to_owned(), terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn matches(&self, row: Row<'_>) -> bool {
        self.terms.iter().all(|term| term.test.holds(row) != term.is_inverted)
    }
}

fn term(word: &str) -> Result<Term, String> {
    let (is_inverted, rest) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
    if rest.is_empty() {
        return Err("`!` stands alone; write the word that must not match behind it".into());
    }
    let test = match rest.find([':', '<', '>']) {
        Some(at) if rest[..at].bytes().all(|byte| byte.is_ascii_alphabetic()) && at > 0 => {
            let (name, sign, value) = (&rest[..at], &rest[at..=at], &rest[at + 1..]);
            test(name, sign, value)?
        }
        _ => Test::Anywhere(rest.to_ascii_lowercase()),
    };
    Ok(Term { is_inverted, test })
}

fn test(name: &str, sign: &str, value: &str) -> Result<Test, String> {
    if value.is_empty() {
        return Err(format!("`{name}{sign}` lacks a value"));
    }
    if sign == ":" {
        let field = FIELDS.iter().find(|(known, _)| *known == name);
        let known = || FIELDS.map(|(name, _)| name).join(", ");
        let (_, field) = field.ok_or_else(|| format!("no field `{name}`; there are {}", known()))?;
        return Ok(Test::In(*field, value.to_ascii_lowercase()));
    }
    let amount = AMOUNTS.iter().find(|(known, _)| *known == name);
    let known = || AMOUNTS.map(|(name, _)| name).join(", ");
    let (_, amount) = amount.ok_or_else(|| format!("no amount `{name}`; there are {}", known()))?;
    let number = number(*amount, value)?;
    Ok(if sign == ">" { Test::More(*amount, number) } else { Test::Less(*amount, number) })
}

/// `1.5M` of bytes, `90s`, `5m`, `2h` or `1d` of time.
fn number(amount: Amount, value: &str) -> Result<f64, String> {
    let (units, example): (&[(&str, f64)], _) = match amount {
        Amount::Age | Amount::Idle => {
            (&[("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)], "30s, 5m or 2h")
        }
        Amount::Up | Amount::Down | Amount::Rate | Amount::Total => {
            (&[("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("", 1.0)], "500, 20k or 1.5M")
        }
    };
    let split = value.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(value.len());
    let (digits, unit) = value.split_at(split);
    let scale = units.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit)).map(|(_, scale)| scale);
    let count = digits.parse::<f64>().ok();
    match (count, scale) {
        (Some(count), Some(scale)) => Ok(count * scale),
        _ => Err(format!("`{value}` is no amount here; write {example}")),
    }
}

impl Test {
    fn holds(&self, row: Row<'_>) -> bool {
        match self {
            Self::In(field, word) => row.text(*field).is_some_and(|text| contains(text, word)),
            Self::Anywhere(word) => {
                FIELDS.iter().any(|(_, field)| row.text(*field).is_some_and(|text| contains(text, word)))
            }
            Self::More(amount, number) => row.amount(*amount).is_some_and(|value| value > *number),
            Self::Less(amount, number) => row.amount(*amount).is_some_and(|value| value < *number),
        }
    }
}

impl<'a> Row<'a> {
    pub fn id(self) -> &'a str {
        match self {
            Self::Open(row) => &row.id,
            Self::Ended(row) => &row.id,
        }
    }

    pub fn role(self) -> Role {
        match self {
            Self::Open(row) => row.role,
            Self::Ended(row) => row.role,
        }
    }

    fn text(self, field: Field) -> Option<&'a str> {
        let (id, client, service, peer, role) = match self {
            Self::Open(row) => (&row.id, &row.client, &row.service, &row.peer, row.role),
            Self::Ended(row) => (&row.id, &row.client, &row.service, &row.peer, row.role),
        };
        Some(match field {
            Field::Id => id,
            Field::Client => client,
            Field::Service => service,
            Field::Peer => peer.as_deref()?,
            Field::State => self.state(),
            Field::Half => match role {
                Role::Dmz => "dmz",
                Role::Internal => "internal",
            },
        })
    }

    fn state(self) -> &'static str {
        match self {
            Self::Ended(_) => "ended",
            Self::Open(row) => phase_word(row.phase),
        }
    }

    /// `None`: not known of such a row, so neither more nor less than anything.
    fn amount(self, amount: Amount) -> Option<f64> {
        let of = |bytes: u64| Some(bytes as f64);
        match (self, amount) {
            (Self::Open(row), Amount::Up) => of(row.rate_up),
            (Self::Open(row), Amount::Down) => of(row.rate_down),
            (Self::Open(row), Amount::Rate) => of(row.rate_up.saturating_add(row.rate_down)),
            (Self::Open(row), Amount::Total) => of(row.bytes_up.saturating_add(row.bytes_down)),
            (Self::Open(row), Amount::Age) => Some(row.age_seconds),
            (Self::Open(row), Amount::Idle) => Some(row.idle_seconds),
            (Self::Ended(row), Amount::Total) => of(row.bytes_up.saturating_add(row.bytes_down)),
            (Self::Ended(row), Amount::Age) => Some(row.seconds),
            (Self::Ended(_), Amount::Up | Amount::Down | Amount::Rate | Amount::Idle) => None,
        }
    }
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

/// Without a copy: it is asked of ten thousand rows several times a second. `word` is lower case.
fn contains(text: &str, word: &str) -> bool {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn row() -> SessionRow {
        SessionRow {
            id: "0049ad".into(),
            role: Role::Dmz,
            service: "Orders".into(),
            client: "203.0.113.7:51220".into(),
            peer: Some("internal-2".into()),
            phase: SessionPhase::Relaying,
            age_seconds: 400.0,
            idle_seconds: 2.0,
            last_byte_seconds: None,
            bytes_up: 5_000_000,
            bytes_down: 10,
            rate_up: 1_500_000,
            rate_down: 0,
            waited_ms: None,
            connected_ms: None,
        }
    }

    #[test]
    fn words_fields_amounts_and_their_opposites() {
        let row = row();
        for (text, expected) in [
            ("", true),
            ("orders", true),
            ("ORDERS 203.0", true),
            ("orders chat", false),
            ("!chat", true),
            ("!orders", false),
            ("service:ord", true),
            ("client:orders", false),
            ("via:internal-2 peer:internal", true),
            ("!via:internal-2", false),
            ("state:relaying half:dmz", true),
            ("state:waiting", false),
            ("up>1M age>5m idle<10s", true),
            ("up>2M", false),
            ("up>1.4M !down>0", true),
            ("total>5m", true),
            ("203.0.113.7:51220", true),
            ("age>1h", false),
        ] {
            assert_eq!(Filter::parse(text).unwrap().matches(Row::Open(&row)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("!", "`!` stands alone"),
            ("colour:red", "no field `colour`; there are id, client"),
            ("client:", "`client:` lacks a value"),
            ("size>1M", "no amount `size`; there are up, down"),
            ("age>5", "`5` is no amount here; write 30s"),
            ("up>fast", "`fast` is no amount here; write 500"),
        ] {
            let wrong = Filter::parse(text).unwrap_err();
            assert!(wrong.starts_with(expected), "{text}: {wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_brings_it_down(text: String) {
            if let Ok(filter) = Filter::parse(&text) {
                filter.matches(Row::Open(&row()));
            }
        }
    }
}
