//! Reads files that may not respond: a pipe that nobody writes to, a network file system that hangs.
//!
//! [`read`] opens without blocking and refuses, by name, anything that is not a plain file. [`FileWork`] does
//! such work on threads of its own, with a deadline, for callers that must not wait: the engine and the tasks
//! of the runtime. What the files contain is up to the caller.

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Gid, OFlags},
};
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout};

use crate::tasks::{self, BlockedWork};

/// How long a command waits for data from a pipe.
pub const PIPE_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a pipe may stand where a file is expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PipePolicy {
    /// A gateway reads its files again and again, which is impossible with a pipe.
    #[default]
    Refused,
    /// A command reads once: `check <(…)`.
    Read,
}

/// The contents, and the permissions of the file that was actually opened.
#[derive(Debug)]
pub struct FileContents {
    pub bytes: Vec<u8>,
    pub access: FileAccess,
}

/// The owner and permission bits of a file, which say who may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAccess {
    pub mode: u32,
    /// The user that owns it, and its group.
    pub owner: u32,
    pub group: u32,
    pub location: FileLocation,
}

/// The location of a file: a credentials folder of systemd, or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLocation {
    /// In the folder that a service manager has handed over to this process (`LoadCredential=`).
    Credentials,
    Elsewhere,
}

impl FileAccess {
    /// For text of this program that is not a file.
    pub const OWN: Self = Self { mode: 0o600, owner: 0, group: 0, location: FileLocation::Elsewhere };

    /// Whether such a file may contain a secret: only its owner, or those whom root allows, can open it.
    pub fn keeps_secret(&self) -> bool {
        let mut own = rustix::process::getgroups().unwrap_or_default();
        own.push(rustix::process::getegid());
        self.keeps_secret_from_all_but(&own)
    }

    fn keeps_secret_from_all_but(&self, groups: &[Gid]) -> bool {
        let is_of = |groups: &[Gid]| groups.iter().any(|group| group.as_raw() == self.group);
        match (self.mode, self.owner, self.location) {
            (mode, _, _) if mode & 0o077 == 0 => true,
            // Readable by a group of this process, as with secrets of Kubernetes and Debian's `ssl-cert`.
            (0o440 | 0o640, 0, _) if is_of(groups) => true,
            // From version 254 on, systemd lets the unit's user read through an access control list. Its mask
            // appears as the group's bits, while the group itself, root's, has no rights at all.
            (0o440, 0, FileLocation::Credentials) => is_of(&[Gid::ROOT]),
            (_, _, _) => false,
        }
    }
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is {0}")]
    NotPlain(FileKind),
    #[error("it is larger than {}", ByteSize(*bytes_max))]
    TooLarge { bytes_max: u64 },
    #[error(
        "the lock of this gateway (`confine`) covers no such folder; a restart with that profile opens it"
    )]
    Locked,
    #[error("it is a pipe, and what is written to it did not end within {}s", PIPE_READ_TIMEOUT.as_secs())]
    Silent,
}

/// The kind of something that is not a plain file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Folder,
    Pipe,
    Socket,
    Device,
}

impl FileKind {
    /// `None` for a plain file; a socket cannot be opened.
    fn of(kind: fs::FileType) -> Option<Self> {
        match kind {
            kind if kind.is_file() => None,
            kind if kind.is_fifo() => Some(Self::Pipe),
            kind if kind.is_dir() => Some(Self::Folder),
            _ => Some(Self::Device),
        }
    }
}

impl ReadError {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == ErrorKind::NotFound)
    }

    /// What to do about a file that this process may not read.
    pub fn permission_advice(&self, path: &Path) -> Option<String> {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::PermissionDenied => Some(permission_advice(path)),
            Self::Io(_) | Self::NotPlain(_) | Self::TooLarge { .. } | Self::Locked | Self::Silent => None,
        }
    }
}

fn permission_advice(path: &Path) -> String {
    let (own, shown) = (rustix::process::geteuid().as_raw(), path.display());
    let own_name = user_name(own);
    match fs::metadata(path).map(|facts| facts.uid()) {
        Ok(owner) if owner == own => "it belongs to this user: run chmod 600 on it".into(),
        Ok(owner) => {
            let owner = user_name(owner);
            format!(
                "it belongs to `{owner}`, and this runs as `{own_name}`: run `chown {own_name}: {shown}`, or run \
                 this as `{owner}`"
            )
        }
        Err(_) => format!(
            "this runs as `{own_name}`, who may not enter a folder of this path: let it in, or correct the path"
        ),
    }
}

/// The name of a user, from the system's list of users, or else the number.
pub fn user_name(uid: u32) -> String {
    let users = fs::read("/etc/passwd").unwrap_or_default();
    let (users, uid) = (String::from_utf8_lossy(&users).into_owned(), uid.to_string());
    let is_user = |line: &&str| line.split(':').nth(2) == Some(&*uid);
    let name = users.lines().find(is_user).and_then(|line| line.split(':').next()).map(str::to_owned);
    name.unwrap_or(uid)
}

impl fmt::Display for FileKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Folder => "a folder",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

struct ByteSize(u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 20 {
            0 => write!(out, "{} KiB", self.0 >> 10),
            megabytes => write!(out, "{megabytes} MiB"),
        }
    }
}

/// The folders that may still be read, if the kernel refuses all others.
static FOLDERS_ALLOWED: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// From now on, an access refused outside these folders is due to the lock.
pub fn note_folders_allowed(folders: Vec<PathBuf>) {
    // Set once, since a lock is never lifted.
    let _ = FOLDERS_ALLOWED.set(folders);
}

/// Whether the kernel refuses folders to this process.
pub fn is_locked() -> bool {
    FOLDERS_ALLOWED.get().is_some()
}

fn is_locked_out(path: &Path) -> bool {
    let real = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    FOLDERS_ALLOWED.get().is_some_and(|folders| !folders.iter().any(|folder| real.starts_with(folder)))
}

/// Opens a plain file for reading; anything else is refused, and not waited for.
pub fn open_plain(path: &Path) -> Result<File, ReadError> {
    let file = open(path)?;
    match FileKind::of(file.metadata()?.file_type()) {
        Some(kind) => Err(ReadError::NotPlain(kind)),
        None => Ok(file),
    }
}

/// Opening a pipe without a writer would wait, and so would opening some devices.
fn open(path: &Path) -> Result<File, ReadError> {
    let is_socket = || fs::metadata(path).is_ok_and(|facts| facts.file_type().is_socket());
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    match OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path) {
        // open(2) refuses a socket like this.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_socket() => {
            Err(ReadError::NotPlain(FileKind::Socket))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied && is_locked_out(path) => {
            Err(ReadError::Locked)
        }
        opened => Ok(opened?),
    }
}

/// Reads a whole file of at most `bytes_max` bytes.
pub fn read(path: &Path, bytes_max: u64, pipes: PipePolicy) -> Result<FileContents, ReadError> {
    let mut file = open(path)?;
    // Checked on the open file, so that a rename in between cannot get round the check.
    let facts = file.metadata()?;
    let access = FileAccess {
        mode: facts.mode() & 0o7777,
        owner: facts.uid(),
        group: facts.gid(),
        location: FileLocation::of(path),
    };
    let mut bytes = Vec::new();
    match FileKind::of(facts.file_type()) {
        None => {
            file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        }
        Some(FileKind::Pipe) if pipes == PipePolicy::Read => read_pipe(&mut file, bytes_max, &mut bytes)?,
        Some(kind) => return Err(ReadError::NotPlain(kind)),
    }
    match bytes.len() as u64 > bytes_max {
        true => Err(ReadError::TooLarge { bytes_max }),
        false => Ok(FileContents { bytes, access }),
    }
}

impl FileLocation {
    fn of(path: &Path) -> Self {
        // systemd.exec(5): set if the unit has credentials.
        let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY") else { return Self::Elsewhere };
        let is_below =
            || Some(path.canonicalize().ok()?.starts_with(credentials_folder(Path::new(&folder))?));
        match is_below() {
            Some(true) => Self::Credentials,
            Some(false) | None => Self::Elsewhere,
        }
    }
}

/// The real folder, if only root or this user could have put anything into it.
fn credentials_folder(named: &Path) -> Option<PathBuf> {
    let folder = named.canonicalize().ok()?;
    let facts = folder.metadata().ok()?;
    let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&facts.uid());
    (is_ours && facts.mode() & 0o022 == 0).then_some(folder)
}

/// Reads until the last writer has closed, or too much has arrived.
fn read_pipe(pipe: &mut File, bytes_max: u64, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
    let deadline = Instant::now() + PIPE_READ_TIMEOUT;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut chunk) {
            // Before the first writer has opened it, a pipe reads as ended.
            Ok(0) if bytes.is_empty() => {}
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        if bytes.len() as u64 > bytes_max {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut wanted = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        match poll(&mut wanted, Some(&timeout)) {
            Ok(0) => return Err(ReadError::Silent),
            Ok(_) if bytes.is_empty() && wanted[0].revents() == PollFlags::HUP => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ReadError::Io(error.into())),
        }
    }
}

/// Work on files for callers that must not wait: a limited number of pieces at once, each with a deadline. A
/// piece that hangs keeps its thread and its place until it ends, so that no file system can use up the
/// runtime's threads.
#[derive(Debug, Clone)]
pub struct FileWork {
    permits: Arc<Semaphore>,
    within: Duration,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum FileWorkError {
    #[error("a file, or the file system it is on, did not answer within {}s", .0.as_secs())]
    Late(Duration),
    #[error("the thread that read a file panicked; this is a bug, see the log, please report it")]
    Panicked,
}

impl FileWork {
    pub fn new(at_once: usize, within: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once)), within }
    }

    /// Waits for a permit and for the work, both within the deadline. Work that is late is abandoned.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileWorkError> {
        let running = async {
            let permit = self.permits.clone().acquire_owned().await;
            // The permit goes with the work, and is free when that has ended, however late.
            tasks::run_blocking("file work", self.within, move || (work(), permit).0).await
        };
        match timeout(self.within, running).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(BlockedWork::Panicked)) => Err(FileWorkError::Panicked),
            Ok(Err(BlockedWork::Late(_))) | Err(_) => Err(FileWorkError::Late(self.within)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, net::UnixListener},
        sync::mpsc,
        thread,
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn pipe(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    #[test]
    fn root_may_share_a_file_with_a_group_of_this_process_and_with_nobody_else() {
        let ours = [Gid::from_raw(33), Gid::from_raw(998)];
        let keeps = |mode, owner, group, location| {
            FileAccess { mode, owner, group, location }.keeps_secret_from_all_but(&ours)
        };
        for location in [FileLocation::Elsewhere, FileLocation::Credentials] {
            assert!(keeps(0o600, 1000, 1000, location) && keeps(0o400, 0, 0, location));
            assert!(keeps(0o640, 0, 998, location) && keeps(0o440, 0, 33, location));
            for mode in [0o644, 0o660, 0o650, 0o4640, 0o604, 0o444] {
                assert!(!keeps(mode, 0, 998, location), "{mode:o}");
            }
            assert!(!keeps(0o640, 0, 0, location), "of another group");
            assert!(!keeps(0o640, 1000, 998, location), "of another owner, who may change its group");
        }
    }

    #[test]
    fn what_systemd_hands_over_is_a_secret_in_its_own_folder_alone() {
        let ours = [Gid::from_raw(998)];
        let keeps = |mode, owner, group, location| {
            FileAccess { mode, owner, group, location }.keeps_secret_from_all_but(&ours)
        };
        assert!(keeps(0o440, 0, 0, FileLocation::Credentials));
        assert!(!keeps(0o440, 0, 0, FileLocation::Elsewhere));
        for (mode, owner, group) in [(0o460, 0, 0), (0o444, 0, 0), (0o440, 1000, 0), (0o440, 0, 1000)] {
            assert!(!keeps(mode, owner, group, FileLocation::Credentials), "{mode:o} {owner} {group}");
        }
        // A folder that others may write to cannot be trusted.
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        assert_eq!(credentials_folder(&at), Some(at.clone()));
        fs::set_permissions(&at, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(credentials_folder(&at), None);
    }

    #[test]
    fn what_is_no_plain_file_is_refused_by_name_and_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        pipe(&at("pipe"));
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("large"), vec![b'x'; 2049]).unwrap();
        let reported = [
            (at("pipe"), "it is a pipe"),
            (at("socket"), "it is a socket"),
            (folder.path().to_owned(), "it is a folder"),
            ("/dev/zero".into(), "it is a device"),
            (at("large"), "it is larger than 2 KiB"),
            (at("none"), "No such file or directory (os error 2)"),
        ];
        for (path, expected) in reported {
            let error = read(&path, 2048, PipePolicy::Refused).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", path.display());
        }
        assert_eq!(read(&at("large"), 2049, PipePolicy::Refused).unwrap().bytes.len(), 2049);
    }

    #[test]
    fn a_command_reads_what_comes_through_a_pipe_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        pipe(&path);
        let (reported, continues) = mpsc::channel();
        let to = path.clone();
        let writer = thread::spawn(move || {
            use std::io::Write;
            let mut pipe = OpenOptions::new().write(true).open(to).unwrap();
            pipe.write_all(b"one, ").unwrap();
            continues.recv().unwrap();
            pipe.write_all(b"two").unwrap();
        });
        reported.send(()).unwrap();
        assert_eq!(read(&path, 8, PipePolicy::Read).unwrap().bytes, b"one, two");
        writer.join().unwrap();
        let began = Instant::now();
        let silent = read(&path, 8, PipePolicy::Read).unwrap_err();
        assert!(began.elapsed() >= PIPE_READ_TIMEOUT && began.elapsed() < 2 * PIPE_READ_TIMEOUT);
        assert!(silent.to_string().ends_with("did not end within 5s"), "{silent}");
    }

    #[tokio::test]
    async fn work_that_hangs_is_left_to_itself_after_the_deadline() {
        let within = Duration::from_millis(100);
        let files = FileWork::new(2, within);
        let hang = || {
            let (release, held) = mpsc::channel::<()>();
            (release, move || held.recv().is_ok())
        };
        let ((first, one), (second, other)) = (hang(), hang());
        assert_eq!(files.run(one).await, Err(FileWorkError::Late(within)));
        while files.run(|| 7).await != Ok(7) {}
        assert_eq!(files.run(other).await, Err(FileWorkError::Late(within)));
        assert_eq!(files.run(|| 7).await, Err(FileWorkError::Late(within)), "no place is left");
        first.send(()).unwrap();
        while files.run(|| 7).await != Ok(7) {}
        second.send(()).unwrap();
    }
}
