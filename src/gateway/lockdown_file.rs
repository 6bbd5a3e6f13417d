//! The file that keeps an internal half locked over a restart, in the state folder.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    disk::{self, PipePolicy, ReadError},
    telemetry::snapshot::LockdownRow,
};

/// More than any operator locks by hand.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum LockdownFileError {
    #[error("there is no state folder; set STATE_DIRECTORY, XDG_STATE_HOME or HOME")]
    NoFolder,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Unread { path: PathBuf, source: ReadError },
    #[error("{}: {source}", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error("{}: it belongs to another user", path.display())]
    Foreign { path: PathBuf },
    #[error("{}: others may write to it; run chmod 700 on it", path.display())]
    Open { path: PathBuf },
}

/// Where the locks of one profile's internal half are kept.
#[derive(Debug, Clone)]
pub struct LockdownFile {
    folder: PathBuf,
    name: String,
}

impl LockdownFile {
    /// Nothing is opened or made yet.
    pub fn of_profile(profile: &str) -> Option<Self> {
        Some(Self { folder: state_folder()?, name: format!("{profile}-internal.lockdown") })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder where it is missing; nobody else may write to it.
    pub fn prepare_folder(&self) -> Result<(), LockdownFileError> {
        let io = |source| LockdownFileError::Io { path: self.folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(io)?;
        check_owner(&self.folder)
    }

    /// The locks that are kept; none where there is no file.
    pub fn read(&self) -> Result<Vec<LockdownRow>, LockdownFileError> {
        let path = self.path();
        let contents = match disk::read(&path, BYTES_MAX, PipePolicy::Refused) {
            Ok(contents) => contents,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(LockdownFileError::Unread { path, source }),
        };
        check_owner(&self.folder)?;
        check_owner(&path)?;
        serde_json::from_slice(&contents.bytes).map_err(|source| LockdownFileError::Form { path, source })
    }

    /// Keeps these from now on: all of them, or those before.
    pub fn write(&self, rows: &[LockdownRow]) -> Result<(), LockdownFileError> {
        self.prepare_folder()?;
        let path = self.path();
        let written = if rows.is_empty() { self.remove() } else { self.replace(rows) };
        written.map_err(|source| LockdownFileError::Io { path, source })
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.folder)?.sync_all(),
        }
    }

    fn replace(&self, rows: &[LockdownRow]) -> io::Result<()> {
        let new = self.folder.join(format!(".{}.new", self.name));
        // What was left by a process that died meanwhile, or put there by somebody else.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(rows)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Somebody else who could write there could lift a lock.
fn check_owner(path: &Path) -> Result<(), LockdownFileError> {
    let facts = fs::metadata(path).map_err(|source| LockdownFileError::Io { path: path.into(), source })?;
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(LockdownFileError::Foreign { path: path.into() });
    }
    match facts.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(LockdownFileError::Open { path: path.into() }),
    }
}

/// What a service manager has made for the unit (`StateDirectory=` of systemd.exec(5)), else the system's for
/// root, else one of the user's own.
fn state_folder() -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is invalid and is to be ignored.
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let of_unit = env::var_os("STATE_DIRECTORY").and_then(|list| env::split_paths(&list).next());
    if let Some(folder) = of_unit.and_then(absolute) {
        return Some(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/portcullis".into());
    }
    let of_user = env::var_os("XDG_STATE_HOME").map(PathBuf::from).and_then(absolute);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")).and_then(absolute);
    Some(of_user.or_else(home)?.join("portcullis"))
}
