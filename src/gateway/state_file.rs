//! A file in the gateway's state folder, which survives a restart.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::disk::{self, PipePolicy, ReadError};

#[derive(Debug, Error)]
pub enum StateFileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Unread { path: PathBuf, source: ReadError },
    #[error("{}: it belongs to another user", path.display())]
    Foreign { path: PathBuf },
    #[error("{}: others may write to it; run chmod 700 on it", path.display())]
    Open { path: PathBuf },
}

/// The location of the file. Nothing is opened or created until it is read or written.
#[derive(Debug, Clone)]
pub struct StateFile {
    folder: PathBuf,
    name: String,
}

impl StateFile {
    /// None where there is no state folder.
    pub fn named(name: String) -> Option<Self> {
        Some(Self { folder: state_folder()?, name })
    }

    #[cfg(test)]
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self { folder: folder.into(), name: name.into() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates the folder if it is missing, and checks that nobody else may write to it.
    pub fn prepare_folder(&self) -> Result<(), StateFileError> {
        let io = |source| StateFileError::Io { path: self.folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(io)?;
        check_owner(&self.folder)
    }

    /// Reads the contents, and checks that only this user can have written them; `None` if there is
    /// no file.
    pub fn read(&self, bytes_max: u64) -> Result<Option<Vec<u8>>, StateFileError> {
        let path = self.path();
        let contents = match disk::read(&path, bytes_max, PipePolicy::Refused) {
            Ok(contents) => contents,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateFileError::Unread { path, source }),
        };
        check_owner(&self.folder)?;
        check_owner(&path)?;
        Ok(Some(contents.bytes))
    }

    /// Replaces the contents atomically.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), StateFileError> {
        self.prepare_folder()?;
        self.write_beside_and_rename(bytes).map_err(|source| self.error(source))
    }

    pub fn remove(&self) -> Result<(), StateFileError> {
        self.prepare_folder()?;
        let removed = match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.folder).and_then(|folder| folder.sync_all()),
        };
        removed.map_err(|source| self.error(source))
    }

    fn write_beside_and_rename(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.folder.join(format!(".{}.new", self.name));
        // The file was left by a process that died meanwhile, or put there by somebody else.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.folder)?.sync_all()
    }

    fn error(&self, source: io::Error) -> StateFileError {
        StateFileError::Io { path: self.path(), source }
    }
}

/// Another user with write access could remove a lock.
fn check_owner(path: &Path) -> Result<(), StateFileError> {
    let facts = fs::metadata(path).map_err(|source| StateFileError::Io { path: path.into(), source })?;
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateFileError::Foreign { path: path.into() });
    }
    match facts.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(StateFileError::Open { path: path.into() }),
    }
}

/// The state folder: the one that a service manager has created for the unit (`StateDirectory=` of
/// systemd.exec(5)), otherwise the system's for root, otherwise one of the user's own.
fn state_folder() -> Option<PathBuf> {
    // The XDG base directory specification says that a relative path is invalid and must be ignored.
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
