//! `audit verify`: checks the chain of an audit file.

use std::{fs::OpenOptions, io::BufReader, os::unix::fs::OpenOptionsExt, path::Path, process::ExitCode};

use anyhow::{Context, ensure};
use rustix::fs::OFlags;

use crate::{
    exit,
    output::{print_line, print_note},
    telemetry::{
        audit::{ChainBreak, ChainBreakKind, ChainCheck, LineHash},
        format,
    },
};

/// Prints the number of lines and the hash of the last one, or names the first wrong one.
pub fn verify(path: &Path, head: Option<LineHash>) -> anyhow::Result<ExitCode> {
    let name = path.display().to_string();
    // A FIFO without a writer must not block it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.with_context(|| name.clone()).map_err(in_one_line)?;
    let facts = file.metadata().with_context(|| name.clone()).map_err(in_one_line)?;
    ensure!(facts.is_file(), "{name}: it is not a file");
    let chain = ChainCheck::of(BufReader::new(file)).with_context(|| name.clone()).map_err(in_one_line)?;
    let missing = head.filter(|head| *head != chain.last).map(|head| ChainBreak {
        line: chain.lines,
        kind: ChainBreakKind::OtherHead { found: chain.last, kept: head },
    });
    if let Some(fault) = chain.fault.or(missing) {
        print_note(format_args!("{name}: {fault}"));
        return Ok(exit::FAILED.into());
    }
    print_line(format_args!("{}, last {}", format::count(chain.lines, "line"), chain.last))?;
    Ok(ExitCode::SUCCESS)
}

/// With its cause, which would otherwise be left out.
fn in_one_line(error: anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
