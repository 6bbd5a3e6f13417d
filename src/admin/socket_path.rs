//! Where admin sockets are: the runtime folder, and the only gateway in it.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::profile::Half;

/// A Unix socket's longest path (unix(7)).
const PATH_BYTES_MAX: usize = 107;

#[derive(Debug, Error)]
pub enum SocketPathError {
    #[error("{}: {source}; set XDG_RUNTIME_DIR to a folder of this user, or name a socket with --admin", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: it belongs to another user; remove it, or set XDG_RUNTIME_DIR", path.display())]
    Foreign { path: PathBuf },
    #[error("{}: others may write to it; run chmod 700 on it", path.display())]
    Open { path: PathBuf },
    #[error("{}: longer than {PATH_BYTES_MAX} bytes; choose a shorter one with --admin", path.display())]
    Long { path: PathBuf },
    #[error("no gateway runs here ({} holds no socket that answers); start one with `portcullis --profile NAME`, or name its socket with --admin", folder.display())]
    None { folder: PathBuf },
    #[error("no gateway of profile {profile} runs here ({} holds no socket of it that answers)", folder.display())]
    Stopped { profile: String, folder: PathBuf },
    #[error("several gateways run here; name one with --admin: {}", list(found))]
    Several { found: Vec<PathBuf> },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The folder of this user's gateways: the one that a service manager has created for the unit
/// (`RuntimeDirectory=` of systemd.exec(5)), or else one in the user's own runtime folder.
pub fn runtime_folder() -> PathBuf {
    let user = rustix::process::geteuid();
    let of_unit = env::var_os("RUNTIME_DIRECTORY").and_then(|list| env::split_paths(&list).next());
    let of_user = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // The XDG base directory specification says that a relative path is invalid and must be ignored.
    let absolute = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    match (absolute(of_unit), absolute(of_user)) {
        (Some(folder), _) => folder,
        (None, Some(folder)) => folder.join("portcullis"),
        (None, None) if user.is_root() => "/run/portcullis".into(),
        (None, None) => env::temp_dir().join(format!("portcullis-{}", user.as_raw())),
    }
}

/// Whether a file lies where the sockets of this user's gateways are.
pub fn is_in_runtime_folder(file: &Path) -> bool {
    file.parent().is_some_and(|folder| *folder == runtime_folder())
}

/// The default socket of a profile, in a folder that is created if it is missing.
pub fn default_socket(profile: &str, half: Option<Half>) -> Result<PathBuf, SocketPathError> {
    private_socket(&match half {
        None => format!("{profile}.sock"),
        Some(Half::Dmz) => format!("{profile}-dmz.sock"),
        Some(Half::Internal) => format!("{profile}-internal.sock"),
    })
}

/// A socket of this name in the runtime folder, which is created if it is missing.
pub fn private_socket(name: &str) -> Result<PathBuf, SocketPathError> {
    let folder = runtime_folder();
    make_private(&folder)?;
    let path = folder.join(name);
    match path.as_os_str().len() {
        0..=PATH_BYTES_MAX => Ok(path),
        _ => Err(SocketPathError::Long { path }),
    }
}

/// The socket of the only gateway that answers in the runtime folder.
pub fn only_socket() -> Result<PathBuf, SocketPathError> {
    let mut found = sockets();
    match found.len() {
        0 => Err(SocketPathError::None { folder: runtime_folder() }),
        1 => Ok(found.remove(0)),
        _ => Err(SocketPathError::Several { found }),
    }
}

/// The socket of the only gateway with this profile, whichever halves it has.
pub fn socket_of(profile: &str) -> Result<PathBuf, SocketPathError> {
    let names = ["", "-dmz", "-internal"].map(|half| format!("{profile}{half}.sock"));
    let is_of =
        |path: &PathBuf| path.file_name().is_some_and(|name| names.iter().any(|known| name == &**known));
    let mut found: Vec<_> = sockets().into_iter().filter(is_of).collect();
    match found.len() {
        0 => Err(SocketPathError::Stopped { profile: profile.into(), folder: runtime_folder() }),
        1 => Ok(found.remove(0)),
        _ => Err(SocketPathError::Several { found }),
    }
}

/// The sockets of the gateways that answer in the runtime folder.
pub fn sockets() -> Vec<PathBuf> {
    let entries = fs::read_dir(runtime_folder()).into_iter().flatten().flatten();
    let is_socket = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "sock")
            && path.metadata().is_ok_and(|facts| facts.file_type().is_socket())
    };
    let mut found: Vec<_> =
        entries.map(|entry| entry.path()).filter(is_socket).filter(|path| answers(path)).collect();
    found.sort_unstable();
    found
}

/// Whether somebody listens at a socket. One whose queue is full does, even if it hangs.
pub fn answers(path: &Path) -> bool {
    let connected = || -> io::Result<()> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    connected().map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |()| true)
}

fn make_private(folder: &Path) -> Result<(), SocketPathError> {
    let io = |source| SocketPathError::Io { path: folder.into(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let facts = fs::symlink_metadata(folder).map_err(io)?;
    if facts.uid() != rustix::process::geteuid().as_raw() || !facts.is_dir() {
        return Err(SocketPathError::Foreign { path: folder.into() });
    }
    if facts.mode() & 0o022 != 0 {
        return Err(SocketPathError::Open { path: folder.into() });
    }
    Ok(())
}
