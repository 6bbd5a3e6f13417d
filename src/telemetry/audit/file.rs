//! An open audit file: locked, read to the end of its chain, and appended to. The lock keeps a second process from
//! continuing the same chain.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use thiserror::Error;

use super::{
    ActorOrigin, AuditActor, AuditRecord,
    chain::{AuditLine, CUT, ChainCheck, LineHash, describe_cut},
};
use crate::disk;

/// Why a file cannot be used for the audit.
#[derive(Debug, Error)]
pub enum AuditFileError {
    #[error("another gateway writes it")]
    Taken,
    #[error("it is not a file")]
    NoFile,
    #[error("it is not an audit file")]
    Foreign,
    #[error("it is a link")]
    Link,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The end of the chain in a file that nobody else writes to.
#[derive(Debug)]
pub struct AuditFile {
    file: File,
    pub lines: u64,
    pub last: LineHash,
    /// Lines that a crash has cut and that are not marked yet, and whether the last of them is unfinished.
    cut: Vec<LineHash>,
    is_open: bool,
}

impl AuditFile {
    /// Opens the file, without waiting for a reader of a FIFO or for another writer.
    pub fn open(path: &Path) -> Result<Self, AuditFileError> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let mut how = OpenOptions::new();
        how.read(true).append(true).create(true).mode(0o600).custom_flags(flags);
        let file = how.open(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => AuditFileError::Link,
            Some(Errno::ISDIR) => AuditFileError::NoFile,
            _ => AuditFileError::Io(error),
        })?;
        let facts = file.metadata()?;
        let is_device = facts.file_type().is_char_device();
        if !facts.is_file() && !is_device {
            return Err(AuditFileError::NoFile);
        }
        // A device has no chain to continue, and no other writers that matter.
        let chain = if is_device { ChainCheck::default() } else { Self::take_over(&file, &facts)? };
        let (lines, last, cut) = (chain.lines, chain.last, chain.cut_lines());
        Ok(Self { file, lines, last, cut, is_open: chain.is_open })
    }

    fn take_over(file: &File, facts: &fs::Metadata) -> Result<ChainCheck, AuditFileError> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(AuditFileError::Taken),
            locked => locked.map_err(io::Error::from)?,
        }
        let chain = ChainCheck::of(BufReader::new(file))?;
        if chain.is_foreign {
            return Err(AuditFileError::Foreign);
        }
        if facts.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(chain)
    }

    /// Whether somebody has removed it: what is written now would be lost when it is closed.
    pub fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|facts| facts.nlink() == 0)
    }

    /// Appends records at once. After an error, the file has to be opened again.
    pub fn append(&mut self, records: Vec<AuditRecord>) -> io::Result<()> {
        let mut text = Vec::new();
        if self.is_open {
            text.push(b'\n');
        }
        let cut = (!self.cut.is_empty()).then(|| {
            let actor = AuditActor::own(ActorOrigin::Gateway);
            AuditRecord::new(actor, CUT, &self.cut.len().to_string(), &describe_cut(&self.cut))
        });
        let (mut lines, mut last) = (self.lines, self.last);
        for record in cut.into_iter().chain(records) {
            lines += 1;
            let line = AuditLine {
                n: lines,
                time: record.time,
                actor: named(record.actor),
                action: record.action.into(),
                object: record.object,
                result: record.result,
                previous: last.to_string(),
            };
            let line = serde_json::to_vec(&line)?;
            last = LineHash::of(&line);
            text.extend(line);
            text.push(b'\n');
        }
        self.file.write_all(&text)?;
        (self.lines, self.last, self.is_open) = (lines, last, false);
        self.cut.clear();
        Ok(())
    }
}

/// Adds the name of the actor's user, from the system's list of users.
fn named(mut actor: AuditActor) -> AuditActor {
    if let (true, Some(uid)) = (actor.name.is_empty(), actor.uid) {
        actor.name = disk::user_name(uid);
    }
    actor
}
