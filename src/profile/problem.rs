//! A problem with a profile: where it is, what it is, what to do.

use std::{fmt, sync::Arc};

/// A place in a profile. Line and column count from 1; 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
    /// The dotted path of the key, `dmz.link.tls.key`.
    pub key: String,
}

/// One thing wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub what: String,
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, column, key } = &self.place;
        write!(out, "{file}:{line}:{column}: {key}: {}; {}", self.what, self.advice)
    }
}
