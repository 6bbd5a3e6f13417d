//! How a session ended: two letters for who ended it and when, and the reason in words.
//!
//! `--` is the healthy end. The letters appear in the log line, the snapshot and on the screen.

use std::fmt;

use super::snapshot::SessionPhase;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// Both sides finished cleanly.
    Nobody,
    /// The client closed or failed.
    Client,
    /// The backend closed or failed.
    Backend,
    /// The peer gateway refused or was lost.
    Peer,
    /// A time limit of ours.
    Time,
    /// A limit of ours: sessions, waiters.
    Limit,
    /// A limit of one client is reached: others are served.
    ClientLimit,
    /// A policy refused it.
    Policy,
    /// The operator: drain, kill, stop, switch.
    Operator,
    /// A bug.
    Internal,
}

impl EndedBy {
    pub fn letter(self) -> char {
        match self {
            Self::Nobody => '-',
            Self::Client => 'C',
            Self::Backend => 'B',
            Self::Peer => 'P',
            Self::Time => 'T',
            Self::Limit | Self::ClientLimit => 'L',
            Self::Policy => 'X',
            Self::Operator => 'O',
            Self::Internal => 'I',
        }
    }
}

/// How serious an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSeverity {
    /// Both sides had finished.
    Healthy,
    /// The client or the operator wanted it.
    Intended,
    /// A limit, a timeout or a rule of ours.
    Refusal,
    /// A backend, a peer or a bug.
    Failure,
}

impl EndSeverity {
    /// From the two letters.
    pub fn of_code(code: &str) -> Self {
        match code.chars().next() {
            Some('B' | 'P' | 'I') => Self::Failure,
            Some('T' | 'L' | 'X') => Self::Refusal,
            Some('-') => Self::Healthy,
            Some(_) | None => Self::Intended,
        }
    }

    /// Whether it is kept and shown for longer than ordinary ends.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failure | Self::Refusal)
    }
}

/// Why sessions end whose client or gateway has a revoked certificate.
pub const REVOKED: &str = "a certificate was revoked";

/// Why and when a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    pub ended_by: EndedBy,
    /// Where the session was; meaningless for a clean end.
    pub phase: SessionPhase,
    pub reason: String,
}

impl SessionEnd {
    pub fn clean() -> Self {
        Self {
            ended_by: EndedBy::Nobody,
            phase: SessionPhase::Draining,
            reason: "both sides finished".into(),
        }
    }

    /// Whether something went wrong that neither the client nor the operator wanted.
    pub fn is_failure(&self) -> bool {
        EndSeverity::of_code(&self.code()).is_failure()
    }

    /// The two letters.
    pub fn code(&self) -> String {
        [self.ended_by.letter(), self.when()].iter().collect()
    }

    fn when(&self) -> char {
        if self.ended_by == EndedBy::Nobody {
            return '-';
        }
        match self.phase {
            SessionPhase::Negotiating => 'N',
            SessionPhase::Authorising => 'A',
            SessionPhase::Waiting => 'W',
            SessionPhase::Connecting => 'C',
            SessionPhase::Relaying => 'R',
            SessionPhase::Draining => 'D',
        }
    }
}

/// What the two letters mean, in words; `None` if they are not ours.
pub fn explain_code(code: &str) -> Option<String> {
    let mut letters = code.chars();
    let (ended_by, when) = (letters.next()?, letters.next()?);
    if (ended_by, when) == ('-', '-') {
        return Some("both sides finished, nothing was cut".into());
    }
    let meaning = |letters: &[(char, &'static str)], letter| {
        letters.iter().find(|(known, _)| *known == letter).map(|(_, meaning)| *meaning)
    };
    let (ended_by, when) = (meaning(&WHO, ended_by)?, meaning(&WHEN, when)?);
    Some(format!("{ended_by} {when}"))
}

/// The first letter in words.
pub const WHO: [(char, &str); 8] = [
    ('C', "the client ended it"),
    ('B', "the backend ended it"),
    ('P', "the other gateway refused it or was lost"),
    ('T', "a time limit of ours ended it"),
    ('L', "a limit of ours was reached"),
    ('X', "it was not allowed"),
    ('O', "the operator ended it"),
    ('I', "a bug ended it"),
];
/// The second letter in words.
pub const WHEN: [(char, &str); 6] = [
    ('N', "while it was negotiated"),
    ('A', "before it was let in"),
    ('W', "while it waited for a link"),
    ('C', "while the backend was connected"),
    ('R', "while bytes were relayed"),
    ('D', "after one side had finished"),
];

impl fmt::Display for SessionEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.code(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_who_and_when() {
        use SessionPhase::{Authorising, Connecting, Draining, Negotiating, Relaying, Waiting};
        let phases = [Negotiating, Authorising, Waiting, Connecting, Relaying, Draining];
        let codes =
            |ended_by| phases.map(|phase| SessionEnd { ended_by, phase, reason: String::new() }.code());
        assert_eq!(codes(EndedBy::Nobody), ["--"; 6]);
        assert_eq!(codes(EndedBy::Client), ["CN", "CA", "CW", "CC", "CR", "CD"]);
        assert_eq!(codes(EndedBy::Backend), ["BN", "BA", "BW", "BC", "BR", "BD"]);
        assert_eq!(codes(EndedBy::Peer), ["PN", "PA", "PW", "PC", "PR", "PD"]);
        assert_eq!(codes(EndedBy::Time), ["TN", "TA", "TW", "TC", "TR", "TD"]);
        assert_eq!(codes(EndedBy::Limit), ["LN", "LA", "LW", "LC", "LR", "LD"]);
        assert_eq!(codes(EndedBy::Policy), ["XN", "XA", "XW", "XC", "XR", "XD"]);
        assert_eq!(codes(EndedBy::Operator), ["ON", "OA", "OW", "OC", "OR", "OD"]);
        assert_eq!(codes(EndedBy::Internal), ["IN", "IA", "IW", "IC", "IR", "ID"]);
    }

    #[test]
    fn every_code_is_explained_and_nothing_else() {
        use SessionPhase::{Authorising, Connecting, Draining, Negotiating, Relaying, Waiting};
        let phases = [Negotiating, Authorising, Waiting, Connecting, Relaying, Draining];
        let whos = [
            EndedBy::Nobody,
            EndedBy::Client,
            EndedBy::Backend,
            EndedBy::Peer,
            EndedBy::Time,
            EndedBy::Limit,
            EndedBy::Policy,
            EndedBy::Operator,
            EndedBy::Internal,
        ];
        for (ended_by, phase) in whos.into_iter().flat_map(|ended_by| phases.map(|phase| (ended_by, phase))) {
            let code = SessionEnd { ended_by, phase, reason: String::new() }.code();
            assert!(explain_code(&code).is_some(), "{code}");
        }
        let waits = explain_code("TW");
        assert_eq!(waits.as_deref(), Some("a time limit of ours ended it while it waited for a link"));
        for code in ["", "C", "ZZ", "CZ"] {
            assert_eq!(explain_code(code), None, "{code}");
        }
    }
}
