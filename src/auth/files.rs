//! The files that identify clients, loaded and checked. A faulty file takes its services down, or leaves its
//! previous contents in force: a missing file lets nobody in.

use std::{collections::HashMap, sync::Arc};

use super::{
    key_set::{KeySecrecy, KeySet},
    password_file::PasswordFile,
    token::TokenKeys,
};
use crate::{
    disk::{self, FileAccess, FileContents, PipePolicy},
    profile::{AuthSource, PemSource, Problem, ProfileLocation},
};

/// The largest file of users.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// All files that a profile names.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    sources: HashMap<AuthSource, SourceState>,
    problems: Vec<Problem>,
}

/// The contents of a file.
#[derive(Debug)]
pub enum OpenedSource {
    Passwords(Box<PasswordFile>),
    Tokens(Box<TokenKeys>),
}

#[derive(Debug, Clone)]
enum SourceState {
    Opened(Arc<OpenedSource>),
    /// The file cannot be used; its previous contents stay in force.
    Kept(Arc<OpenedSource>, Problem),
    Faulty(Problem),
}

/// Why a file is invalid.
#[derive(Debug, Clone, Copy)]
pub struct AuthFileError<'a> {
    pub problem: &'a Problem,
    /// The previous contents stay in force.
    pub is_kept: bool,
}

impl SourceState {
    fn opened(&self) -> Option<&Arc<OpenedSource>> {
        match self {
            Self::Opened(opened) | Self::Kept(opened, _) => Some(opened),
            Self::Faulty(_) => None,
        }
    }
}

impl AuthFiles {
    pub fn load<'a>(sources: impl Iterator<Item = &'a AuthSource>, pipes: PipePolicy) -> Self {
        let mut files = Self::default();
        for source in sources {
            if files.sources.contains_key(source) {
                continue;
            }
            let state = match open(source, pipes) {
                Ok(opened) => SourceState::Opened(Arc::new(opened)),
                Err(problem) => {
                    files.problems.push(problem.clone());
                    SourceState::Faulty(problem)
                }
            };
            files.sources.insert(source.clone(), state);
        }
        files
    }

    /// All problems, in the order of the profile.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What cannot be used now keeps its previous contents. A file with the same contents as before stays the
    /// same value, with everything that is remembered for it.
    pub fn falling_back_to(self, before: &Self) -> Self {
        let sources = self.sources.into_iter().map(|(source, state)| {
            let was = before.sources.get(&source).and_then(SourceState::opened);
            let state = match (state, was) {
                (SourceState::Faulty(problem), Some(was)) => SourceState::Kept(was.clone(), problem),
                (SourceState::Opened(opened), Some(was)) if opened.is_same_as(was) => {
                    SourceState::Opened(was.clone())
                }
                (state, _) => state,
            };
            (source, state)
        });
        Self { sources: sources.collect(), problems: self.problems }
    }

    pub fn fault_of(&self, source: &AuthSource) -> Option<AuthFileError<'_>> {
        match self.sources.get(source)? {
            SourceState::Opened(_) => None,
            SourceState::Kept(_, problem) => Some(AuthFileError { problem, is_kept: true }),
            SourceState::Faulty(problem) => Some(AuthFileError { problem, is_kept: false }),
        }
    }

    /// Whether a file has this user. Tokens name their users themselves, and a file that cannot be used is reported
    /// elsewhere.
    pub fn may_know(&self, source: &AuthSource, user: &str) -> bool {
        match self.sources.get(source).and_then(SourceState::opened).map(|opened| &**opened) {
            Some(OpenedSource::Passwords(users)) => users.has_user(user),
            Some(OpenedSource::Tokens(_)) | None => true,
        }
    }

    /// Problems with the current files where the previous contents stay in force.
    pub fn kept_problems(&self) -> impl Iterator<Item = &Problem> {
        self.sources.values().filter_map(|state| match state {
            SourceState::Kept(_, problem) => Some(problem),
            SourceState::Opened(_) | SourceState::Faulty(_) => None,
        })
    }

    pub(super) fn in_force(&self) -> HashMap<AuthSource, Arc<OpenedSource>> {
        let opened =
            |(source, state): (&AuthSource, &SourceState)| Some((source.clone(), state.opened()?.clone()));
        self.sources.iter().filter_map(opened).collect()
    }
}

impl OpenedSource {
    fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Passwords(one), Self::Passwords(other)) => one.is_same_as(other),
            (Self::Tokens(one), Self::Tokens(other)) => one.is_same_as(other),
            (Self::Passwords(_), Self::Tokens(_)) | (Self::Tokens(_), Self::Passwords(_)) => false,
        }
    }
}

fn open(source: &AuthSource, pipes: PipePolicy) -> Result<OpenedSource, Problem> {
    match source {
        AuthSource::Passwords(file) => {
            let advice = "make it with `htpasswd -B -c FILE NAME`, and run chmod 600 on it";
            let read = read_file(file, pipes, advice)?;
            check_secret(file, read.access)?;
            let users = PasswordFile::parse(&read.bytes).map_err(|error| {
                problem(file, error.to_string(), "write `NAME:HASH` in each line, as `htpasswd -B` does")
            })?;
            Ok(OpenedSource::Passwords(Box::new(users)))
        }
        AuthSource::Tokens(rules) => {
            let file = &rules.keys;
            let read = read_file(file, pipes, "write the keys that tokens are signed with there, a JWKS")?;
            let keys = KeySet::parse(&read.bytes).map_err(|error| {
                problem(
                    file,
                    error.to_string(),
                    "write the public keys of who signs the tokens, or secrets alone",
                )
            })?;
            if keys.secrecy == KeySecrecy::Shared {
                check_secret(file, read.access)?;
            }
            Ok(OpenedSource::Tokens(TokenKeys::new(keys, &read.bytes).into()))
        }
    }
}

/// Checks that nobody else may read a file.
fn check_secret(file: &PemSource, access: FileAccess) -> Result<(), Problem> {
    if access.keeps_secret() {
        return Ok(());
    }
    let what = format!("others may read it (mode {:04o})", access.mode);
    let advice = "run chmod 600 on it, and have what is in it changed if others had access";
    Err(problem(file, what, advice))
}

fn read_file(file: &PemSource, pipes: PipePolicy, advice: &str) -> Result<FileContents, Problem> {
    match file {
        PemSource::Memory(text) => {
            Ok(FileContents { bytes: text.as_bytes().to_vec(), access: FileAccess::OWN })
        }
        PemSource::File { path, .. } => disk::read(path, FILE_BYTES_MAX, pipes).map_err(|error| {
            let advice = error.permission_advice(path).unwrap_or_else(|| advice.to_owned());
            problem(file, error.to_string(), &advice)
        }),
    }
}

fn problem(file: &PemSource, what: String, advice: &str) -> Problem {
    match file {
        PemSource::File { path, location } => Problem {
            location: location.clone(),
            what: format!("{}: {what}", path.display()),
            advice: advice.to_owned(),
        },
        PemSource::Memory(_) => {
            let location =
                ProfileLocation { file: "built in".into(), line: 0, column: 0, key: "auth".into() };
            Problem { location, what, advice: advice.to_owned() }
        }
    }
}
