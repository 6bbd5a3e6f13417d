//! The chain of an audit file: each line contains the SHA-256 of the line before it, without its line end. So
//! no line can be changed, removed or added without changing all that follow. Missing lines at the end cannot
//! be detected.

use std::{
    fmt,
    io::{self, BufRead, Read},
    str::FromStr,
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use super::AuditActor;

/// The action of a line that follows one which a crash has cut.
pub(super) const CUT: &str = "cut";
/// The longest line that we write.
const LINE_BYTES_MAX: u64 = 256 * 1024;
/// How many crashes in a row may have cut a line; a file with more is not an audit file.
const CUT_LINES_MAX: usize = 16;
/// How each line begins.
const BEGIN: &[u8] = b"{\"n\":";

/// The SHA-256 of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineHash([u8; SHA256_OUTPUT_LEN]);

/// The error for a text that is not a SHA-256.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a hash is 64 hexadecimal digits")]
pub struct LineHashError;

impl LineHash {
    pub(super) fn of(line: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.0.copy_from_slice(digest(&SHA256, line).as_ref());
        hash
    }
}

impl fmt::Display for LineHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for LineHash {
    type Err = LineHashError;

    fn from_str(text: &str) -> Result<Self, LineHashError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map_err(|_| LineHashError)?;
        bytes.try_into().map(Self).map_err(|_| LineHashError)
    }
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AuditLine {
    pub n: u64,
    pub time: String,
    pub actor: AuditActor,
    pub action: String,
    pub object: String,
    pub result: String,
    pub previous: String,
}

/// Where the chain of an audit file breaks, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct ChainBreak {
    pub line: u64,
    pub kind: ChainBreakKind,
}

/// Why a line is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainBreakKind {
    #[error("it is not a line of an audit file")]
    Foreign,
    #[error("the line is truncated, and no later line records the truncation")]
    Truncated,
    #[error("it cannot be read, and no later line records that it was cut")]
    Unreadable,
    #[error("its `previous` is not the SHA-256 of the line before it")]
    OtherPrevious,
    #[error("its number does not follow that of the previous line")]
    OtherNumber,
    #[error("it records that a line was cut, with another hash than the line before it has")]
    OtherCut,
    /// The last line has another hash than the operator has kept.
    #[error(
        "the last has the hash {found}, not {kept}: lines at the end are missing, were changed or were added"
    )]
    OtherHead { found: LineHash, kept: LineHash },
}

/// The check of an audit file's chain, line by line.
#[derive(Debug, Default)]
pub struct ChainCheck {
    pub lines: u64,
    /// The hash of the last line; zeros before the first.
    pub last: LineHash,
    /// The first fault.
    pub fault: Option<ChainBreak>,
    /// The last line is unfinished.
    pub(super) is_open: bool,
    /// The file was not written as an audit.
    pub(super) is_foreign: bool,
    /// The number of the last readable line.
    n: u64,
    /// Unreadable lines that no later line has marked as cut, and the number of the first.
    unmarked: Vec<LineHash>,
    first_unmarked: u64,
}

impl ChainCheck {
    /// Goes through all lines; also keeps what can be said about the last one.
    pub fn of(mut file: impl BufRead) -> io::Result<Self> {
        let (mut chain, mut line) = (Self::default(), Vec::new());
        loop {
            line.clear();
            let read = file.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
            if read == 0 || chain.is_foreign {
                break;
            }
            chain.is_open = line.pop_if(|last| *last == b'\n').is_none();
            chain.take(&line);
        }
        if chain.fault.is_none() && chain.is_open {
            chain.note_fault(chain.lines, ChainBreakKind::Truncated);
        } else if !chain.unmarked.is_empty() {
            chain.note_unmarked();
        }
        Ok(chain)
    }

    fn take(&mut self, line: &[u8]) {
        let hash = LineHash::of(line);
        self.lines += 1;
        let begins = line.len().min(BEGIN.len());
        let is_foreign = self.lines == 1 && line[..begins] != BEGIN[..begins];
        match serde_json::from_slice::<AuditLine>(line) {
            Ok(read) => self.check(&read),
            Err(_) => {
                if self.unmarked.is_empty() {
                    self.first_unmarked = self.lines;
                }
                self.unmarked.push(hash);
            }
        }
        self.last = hash;
        let is_too_long = line.len() as u64 > LINE_BYTES_MAX;
        if is_foreign || is_too_long || self.unmarked.len() > CUT_LINES_MAX {
            self.note_fault(self.lines, ChainBreakKind::Foreign);
            self.is_foreign = true;
        }
    }

    fn check(&mut self, read: &AuditLine) {
        if !self.unmarked.is_empty() && read.action != CUT {
            self.note_unmarked();
        } else if read.previous != self.last.to_string() {
            self.note_fault(self.lines, ChainBreakKind::OtherPrevious);
        } else if read.n <= self.n {
            self.note_fault(self.lines, ChainBreakKind::OtherNumber);
        } else if self.unmarked.len() > 1 && read.result != describe_cut(&self.unmarked) {
            // One line is covered by `previous`, several are listed.
            self.note_fault(self.lines, ChainBreakKind::OtherCut);
        }
        self.n = read.n;
        self.unmarked.clear();
    }

    /// The lines at the end that the next one has to mark as cut.
    pub(super) fn cut_lines(&self) -> Vec<LineHash> {
        match self.unmarked.is_empty() && self.is_open {
            true => vec![self.last],
            false => self.unmarked.clone(),
        }
    }

    fn note_unmarked(&mut self) {
        self.note_fault(self.first_unmarked, ChainBreakKind::Unreadable);
    }

    fn note_fault(&mut self, line: u64, kind: ChainBreakKind) {
        self.fault.get_or_insert(ChainBreak { line, kind });
    }
}

/// How a line describes those before it that were cut.
pub(super) fn describe_cut(cut: &[LineHash]) -> String {
    let hashes: Vec<_> = cut.iter().map(ToString::to_string).collect();
    format!("the writer ended within a line: {}", hashes.join(" "))
}
