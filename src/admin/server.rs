//! The admin socket of a running gateway: only its owner can open it (mode 0600). A client that asks nothing, or
//! does not read its answers, is closed. How a request is written is in `protocol`, and what it does in
//! `gateway::commands`.

use std::{
    borrow::Cow,
    fs, io,
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    protocol::{AdminHello, AdminRequest, AdminStream, WatchPace, WireError},
    socket_path,
};
use crate::{
    admission::handshakes::{HandshakeLimiter, HandshakePermit},
    gateway::handle::{Command, CommandAnswer, GatewayHandle},
    tasks::Tasks,
    telemetry::{audit::AuditActor, snapshot},
};

/// How many commands are processed at once.
const COMMANDS_MAX: usize = 32;
/// How many screens watch at once.
const WATCHES_MAX: usize = 32;
/// How many connected clients may be silent. Past that, the one that has been silent for longest is closed, so
/// that scripts which leak their connections lock nobody out.
const SILENT_MAX: usize = 32;
/// The message for that client.
const EVICTED: &str = "too many idle clients are connected; this was the oldest";
/// After this long, a connected client that sends nothing is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// If an answer is not read within this time, it is dropped with its client.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A running engine makes several snapshots in this time.
const ENGINE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long answers under way get when the gateway ends.
const CLOSE_GRACE_PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum AdminError {
    #[error("admin socket {}: a gateway answers there already; stop it, or choose another with --admin", .0.display())]
    Taken(PathBuf),
    #[error("admin socket {}: a file that is not a socket is in the way; remove it, or choose another with --admin", .0.display())]
    NoSocket(PathBuf),
    #[error("admin socket {}: {source}; choose another with --admin", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket. Dropping it removes it, unless another process has taken its path meanwhile.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    own: SocketFile,
    stop: CancellationToken,
    tasks: Tasks,
}

impl AdminSocket {
    /// Binds `path`, replacing a socket that nobody answers.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), AdminError> {
        let io = |source| AdminError::Io { path: path.into(), source };
        if let Some(there) = SocketFile::open(path).map_err(io)? {
            if !there.is_socket {
                return Err(AdminError::NoSocket(path.into()));
            }
            if socket_path::answers(path) {
                return Err(AdminError::Taken(path.into()));
            }
            there.remove(path).map_err(io)?;
        }
        // Between these two lines, the process's umask (077) keeps others out.
        let listener = UnixListener::bind(path).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
        let own = SocketFile::open(path).map_err(io)?.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
        let (stop, tasks) = (CancellationToken::new(), Tasks::default());
        let socket = Self { path: path.into(), own, stop, tasks };
        Ok((socket, listener))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until [`AdminSocket::close`].
    pub fn serve(&self, listener: UnixListener, handle: GatewayHandle) {
        let (stop, tasks, path) = (self.stop.clone(), self.tasks.clone(), self.path.clone());
        let limits = Arc::new(AdminPermits::default());
        self.tasks.spawn("admin socket", async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors; some will be free in a moment.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let handle = handle.for_actor(&describe_caller(&stream, &path)).acting_for(actor(&stream));
                let (stop, limits) = (stop.clone(), limits.clone());
                let silent = limits.begin_silence();
                tasks.spawn("admin client", async move {
                    serve_connection(AdminStream::server(stream), handle, &stop, (&*limits, silent)).await;
                });
            }
        });
    }

    /// Lets answers under way be read, then removes the socket.
    pub async fn close(self) {
        self.stop.cancel();
        // A client that does not read its answer is dropped with the process.
        let _ = timeout(CLOSE_GRACE_PERIOD, self.tasks.all_ended()).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.own.remove(&self.path);
    }
}

/// The file at a path at one moment. It is kept open, so that no other file gets its number meanwhile.
#[derive(Debug)]
struct SocketFile {
    file: OwnedFd,
    is_socket: bool,
}

impl SocketFile {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let is_socket = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_socket();
        Ok(Some(Self { file, is_socket }))
    }

    /// Removes it from its path, if it is still there.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let (own, now) = (rustix::fs::fstat(&self.file)?, rustix::fs::lstat(path)?);
        match (own.st_dev, own.st_ino) == (now.st_dev, now.st_ino) {
            true => fs::remove_file(path),
            false => Ok(()),
        }
    }
}

/// The permits that clients have taken.
struct AdminPermits {
    commands: Semaphore,
    watches: Semaphore,
    silent: Arc<HandshakeLimiter>,
}

impl Default for AdminPermits {
    fn default() -> Self {
        Self {
            commands: Semaphore::new(COMMANDS_MAX),
            watches: Semaphore::new(WATCHES_MAX),
            silent: Arc::new(HandshakeLimiter::new(SILENT_MAX)),
        }
    }
}

impl AdminPermits {
    /// Notes that a client is silent from now on. All clients belong to the same user, so none may have more
    /// than another.
    fn begin_silence(&self) -> HandshakePermit {
        HandshakePermit::begin(self.silent.clone(), Ipv4Addr::LOCALHOST.into())
    }
}

/// An event on the connection of a silent client.
enum SilentClientEvent {
    Request(Result<AdminRequest, WireError>),
    /// Too many are silent, and this one has been for longest.
    Evicted,
    /// Nothing, for too long, or the gateway ends.
    Nothing,
}

async fn receive_request(
    wire: &mut AdminStream,
    stop: &CancellationToken,
    silent: HandshakePermit,
) -> SilentClientEvent {
    tokio::select! {
        biased;
        // A request that has arrived is answered, even if the permit belongs to another client by now.
        requested = timeout(IDLE_TIMEOUT, wire.request()) => requested.map_or(SilentClientEvent::Nothing, SilentClientEvent::Request),
        () = silent.evicted.cancelled() => SilentClientEvent::Evicted,
        () = stop.cancelled() => SilentClientEvent::Nothing,
    }
}

async fn serve_connection(
    mut wire: AdminStream,
    handle: GatewayHandle,
    stop: &CancellationToken,
    (limits, mut silent): (&AdminPermits, HandshakePermit),
) {
    let hello = AdminHello { portcullis: env!("CARGO_PKG_VERSION").into(), snapshot: snapshot::VERSION };
    if !matches!(timeout(WRITE_TIMEOUT, wire.send(&hello)).await, Ok(Ok(()))) {
        return;
    }
    loop {
        let (request, is_last) = match receive_request(&mut wire, stop, silent).await {
            // After a request that is too long, it is unknown where the next one begins.
            SilentClientEvent::Request(request @ Err(WireError::TooLong { .. })) => (request, true),
            SilentClientEvent::Request(request) => (request, false),
            SilentClientEvent::Evicted => {
                // A client that does not read this is still closed.
                let _ = timeout(WRITE_TIMEOUT, wire.send(&refusal(EVICTED.into()))).await;
                return;
            }
            SilentClientEvent::Nothing => return,
        };
        let answer = match request {
            Ok(AdminRequest::Command(command)) => match limits.commands.try_acquire() {
                Ok(_permit) => answer_command(&handle, command).await,
                Err(_) => refusal(format!("{COMMANDS_MAX} commands are at work already")),
            },
            Ok(AdminRequest::Watch) => match limits.watches.try_acquire() {
                Ok(_permit) => return send_snapshots(wire, handle, WatchPace::new(Duration::ZERO)).await,
                Err(_) => refusal(format!("{WATCHES_MAX} screens watch already")),
            },
            Ok(AdminRequest::WatchEvery(pace)) => match limits.watches.try_acquire() {
                Ok(_permit) => return send_snapshots(wire, handle, pace).await,
                Err(_) => refusal(format!("{WATCHES_MAX} screens watch already")),
            },
            Err(error @ (WireError::Unclear(_) | WireError::TooLong { .. })) => refusal(error.to_string()),
            Err(
                WireError::Io(_)
                | WireError::Json(_)
                | WireError::Closed
                | WireError::Unfinished
                | WireError::Banner(_),
            ) => return,
        };
        if !matches!(timeout(WRITE_TIMEOUT, wire.send(&answer)).await, Ok(Ok(()))) || is_last {
            return;
        }
        silent = limits.begin_silence();
    }
}

fn refusal(why: String) -> CommandAnswer {
    CommandAnswer::Refused(why)
}

/// The engine's answer, or that there is none: nobody should wait for what does not come.
async fn answer_command(handle: &GatewayHandle, command: Command) -> CommandAnswer {
    tokio::select! {
        answer = handle.send_and_wait(command) => answer,
        () = wait_until_hung(handle) => CommandAnswer::Refused("the gateway does not answer: its engine hangs".into()),
    }
}

/// Returns when the engine has made no snapshot for a while. It waits twice, since after a stop of the process
/// the timers fire first.
async fn wait_until_hung(handle: &GatewayHandle) {
    let (mut last, mut same) = (handle.latest(), 0);
    while same < 2 {
        tokio::time::sleep(ENGINE_RESPONSE_TIMEOUT).await;
        let now = handle.latest();
        same = if Arc::ptr_eq(&last, &now) { same + 1 } else { 0 };
        last = now;
    }
}

/// Sends snapshots until the client or the engine ends. A client that does not read holds one snapshot, and
/// misses those made meanwhile.
async fn send_snapshots(mut wire: AdminStream, handle: GatewayHandle, pace: WatchPace) {
    let mut watch = handle.watch();
    // The handle would keep an engine running that nobody can stop any more.
    drop(handle);
    while let Some(snapshot) = watch.next().await {
        let snapshot = match snapshot.brief() {
            Cow::Owned(brief) => Arc::new(brief),
            Cow::Borrowed(_) => snapshot,
        };
        let next_at = Instant::now() + pace.every();
        if !matches!(timeout(WRITE_TIMEOUT, wire.send(&CommandAnswer::Status(snapshot))).await, Ok(Ok(()))) {
            return;
        }
        // The last snapshot says that the gateway has stopped, so it is sent whatever the pace.
        let _ = timeout_at(next_at, watch.until_stopped()).await;
    }
}

fn actor(stream: &UnixStream) -> AuditActor {
    let who = stream.peer_cred().ok();
    AuditActor::socket(who.map(|who| who.uid()), who.and_then(|who| who.pid()))
}

fn describe_caller(stream: &UnixStream, path: &Path) -> String {
    match stream.peer_cred() {
        Ok(who) => {
            let pid = who.pid().unwrap_or_default();
            format!("admin socket {} (uid {}, pid {pid})", path.display(), who.uid())
        }
        Err(_) => format!("admin socket {}", path.display()),
    }
}

#[cfg(test)]
mod tests;
