//! A problem with a profile: where it is, what it is, what to do.

use std::{fmt, sync::Arc};

/// A location in a profile. Line and column count from 1; 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileLocation {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
    /// The dotted path of the key, `dmz.link.tls.key`.
    pub key: String,
}

/// A thing wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub location: ProfileLocation,
    pub what: String,
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProfileLocation { file, line, column, key } = &self.location;
        write!(out, "{file}:{line}:{column}: {key}: {}; {}", self.what, self.advice)
    }
}

/// A problem whose location only the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValueProblem {
    pub what: String,
    pub advice: String,
}

impl ValueProblem {
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }

    pub fn at(self, location: ProfileLocation) -> Problem {
        Problem { location, what: self.what, advice: self.advice }
    }
}

/// Text of the profile, made safe for a problem: short, on one line, and unable to control a terminal.
pub(super) fn quote_for_problem(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    let start = start.replace("\\\"", "\"").replace("\\'", "'");
    match text.chars().nth(SHOWN_CHARS_MAX) {
        Some(_) => format!("{start}…"),
        None => start,
    }
}

/// Enough to recognise a value.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::quote_for_problem;

    #[test]
    fn shown_text_is_short_and_harmless() {
        assert_eq!(quote_for_problem("plain 'text' \"here\""), "plain 'text' \"here\"");
        assert_eq!(quote_for_problem("\u{1b}[2J\n"), "\\u{1b}[2J\\n");
        assert_eq!(quote_for_problem(&"é".repeat(200)).chars().count(), 81);
    }
}
