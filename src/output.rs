//! What commands print. A reader such as `head` may close its end of the pipe early, which is not an error. A
//! full disk is one, and ends the command with a message instead of a panic.

use std::{
    fmt::Display,
    io::{self, Write},
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("standard output: {0}; what was printed is not whole")]
pub struct OutputError(#[from] io::Error);

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints an answer as it is.
pub fn print(text: &str) -> Result<(), OutputError> {
    judge_printed(io::stdout().lock().write_all(text.as_bytes()))
}

/// What became of an answer that somebody else has printed.
pub fn judge_printed(printed: io::Result<()>) -> Result<(), OutputError> {
    match printed.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Prints one line of an answer.
pub fn print_line(line: impl Display) -> Result<(), OutputError> {
    print(&format!("{line}\n"))
}

/// Writes a line to standard error: progress, or what went wrong. If that fails, there is nobody left to tell.
pub fn print_note(line: impl Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
