//! The admin socket of a running gateway: only its owner can open it (mode 0600).

use std::{
    borrow::Cow,
    fs, io,
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
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    protocol::{AdminHello, AdminRequest, AdminStream, WatchPace, WireError},
    socket_path,
};
use crate::{
    gateway::handle::{Command, CommandAnswer, GatewayHandle},
    tasks::Tasks,
    telemetry::{audit::AuditActor, snapshot},
};

/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// So many of them may watch: the others' places are for commands.
const WATCHES_MAX: usize = 32;
/// A client that is connected and asks nothing is let go.
const SILENT: Duration = Duration::from_secs(60);
/// An answer that is not read in this time is dropped with its client.
const SEND: Duration = Duration::from_secs(10);
/// An engine that turns takes several pictures in this time.
const TURNS: Duration = Duration::from_secs(3);
/// Answers under way get so long when the gateway ends.
const FAREWELL: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum AdminError {
    #[error("admin socket {}: a gateway answers there already; stop it, or choose another with --admin", .0.display())]
    Taken(PathBuf),
    #[error("admin socket {}: there is something else of that name; remove it, or choose another with --admin", .0.display())]
    NoSocket(PathBuf),
    #[error("admin socket {}: {source}; choose another with --admin", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket; dropping it removes it, unless another has taken its path meanwhile.
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
        // The process's umask (077) keeps others out between these two lines.
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
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        self.tasks.spawn("admin socket", async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors: some will be free in a moment.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let handle = handle.for_asker(&describe_asker(&stream, &path)).acting_for(actor(&stream));
                let (stop, watches) = (stop.clone(), watches.clone());
                tasks.spawn("admin client", async move {
                    let _place = place;
                    serve_connection(AdminStream::server(stream), handle, &stop, &watches).await;
                });
            }
        });
    }

    /// Lets answers under way be read, then removes the socket.
    pub async fn close(self) {
        self.stop.cancel();
        // A client that does not read its answer is dropped with the process.
        let _ = timeout(FAREWELL, self.tasks.all_ended()).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.own.remove(&self.path);
    }
}

/// What stood at a path at one moment. It is kept open: its number is given to no other file meanwhile.
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

    /// Removes it from its path, where it still stands there.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let (own, now) = (rustix::fs::fstat(&self.file)?, rustix::fs::lstat(path)?);
        match (own.st_dev, own.st_ino) == (now.st_dev, now.st_ino) {
            true => fs::remove_file(path),
            false => Ok(()),
        }
    }
}

async fn serve_connection(
    mut wire: AdminStream,
    handle: GatewayHandle,
    stop: &CancellationToken,
    watches: &Semaphore,
) {
    let hello = AdminHello { portcullis: env!("CARGO_PKG_VERSION").into(), snapshot: snapshot::VERSION };
    if !matches!(timeout(SEND, wire.send(&hello)).await, Ok(Ok(()))) {
        return;
    }
    loop {
        let asked = timeout(SILENT, wire.request());
        let Some(Ok(request)) = stop.run_until_cancelled(asked).await else { return };
        // What follows a request that is too long is not known to begin where one does.
        let is_last = matches!(request, Err(WireError::TooLong { .. }));
        let answer = match (request, watches.try_acquire()) {
            (Ok(AdminRequest::Command(command)), _) => answer_command(&handle, command).await,
            (Ok(AdminRequest::Watch), Ok(_place)) => {
                return send_snapshots(wire, handle, WatchPace::new(Duration::ZERO)).await;
            }
            (Ok(AdminRequest::WatchEvery(pace)), Ok(_place)) => {
                return send_snapshots(wire, handle, pace).await;
            }
            (Ok(AdminRequest::Watch | AdminRequest::WatchEvery(_)), Err(_)) => {
                CommandAnswer::Refused(format!("{WATCHES_MAX} screens watch already"))
            }
            (Err(error @ (WireError::Unclear(_) | WireError::TooLong { .. })), _) => {
                CommandAnswer::Refused(error.to_string())
            }
            (Err(WireError::Io(_) | WireError::Json(_) | WireError::Closed | WireError::Greeting(_)), _) => {
                return;
            }
        };
        if !matches!(timeout(SEND, wire.send(&answer)).await, Ok(Ok(()))) || is_last {
            return;
        }
    }
}

/// The engine's answer, or that it gives none: an asker is not to wait for what does not come.
async fn answer_command(handle: &GatewayHandle, command: Command) -> CommandAnswer {
    tokio::select! {
        answer = handle.ask(command) => answer,
        () = wait_until_hung(handle) => CommandAnswer::Refused("the gateway does not answer: its engine hangs".into()),
    }
}

/// Returns when the engine has taken no picture for a while. Twice: a process that was stopped goes on
/// with its clocks first.
async fn wait_until_hung(handle: &GatewayHandle) {
    let (mut last, mut same) = (handle.latest(), 0);
    while same < 2 {
        tokio::time::sleep(TURNS).await;
        let now = handle.latest();
        same = if Arc::ptr_eq(&last, &now) { same + 1 } else { 0 };
        last = now;
    }
}

/// Sends picture after picture until the client or the engine ends: a client that does not read
/// holds one picture, and misses those that are made meanwhile.
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
        if !matches!(timeout(SEND, wire.send(&CommandAnswer::Status(snapshot))).await, Ok(Ok(()))) {
            return;
        }
        sleep_until(next_at).await;
    }
}

fn actor(stream: &UnixStream) -> AuditActor {
    let who = stream.peer_cred().ok();
    AuditActor::socket(who.map(|who| who.uid()), who.and_then(|who| who.pid()))
}

fn describe_asker(stream: &UnixStream, path: &Path) -> String {
    match stream.peer_cred() {
        Ok(who) => {
            let pid = who.pid().unwrap_or_default();
            format!("admin socket {} (uid {}, pid {pid})", path.display(), who.uid())
        }
        Err(_) => format!("admin socket {}", path.display()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{
        admin::{
            attach::attach,
            client::{self, AdminConnection},
            target::AdminTarget,
        },
        gateway::handle::{self, AdminAccess, HandleFeed},
        profile::Mode as ProfileMode,
        telemetry::snapshot::{Notice, NoticeLevel, Snapshot},
        tests::happens_after,
    };

    /// A picture of 100 kB: a few fill every buffer between two ends of a socket.
    fn picture() -> Arc<Snapshot> {
        let text = "x".repeat(100_000);
        let notice =
            Notice { gateway: None, time: "now".into(), level: NoticeLevel::Info, text, rejected_link: None };
        Arc::new(Snapshot { notices: vec![notice], ..Snapshot::new("demo", ProfileMode::Direct) })
    }

    struct Gateway {
        folder: tempfile::TempDir,
        socket: AdminSocket,
        feed: HandleFeed,
    }

    impl Gateway {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (socket, listener) = AdminSocket::bind(&folder.path().join("a.sock")).unwrap();
            let (handle, feed) = handle::channel(picture(), "test");
            socket.serve(listener, handle);
            Self { folder, socket, feed }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("a.sock")
        }

        async fn watcher(&self) -> AdminConnection {
            let mut client = AdminConnection::connect(&AdminTarget::Socket(self.path())).await.unwrap();
            client.send(&AdminRequest::Watch).await.unwrap();
            client
        }

        /// Publishes a picture a quarter second until `done` says so; tells how many.
        async fn publish_until(&mut self, done: impl Fn(&Self) -> bool) -> u32 {
            for count in 0..1000 {
                if done(self) {
                    return count;
                }
                self.feed.snapshots.send_replace(picture());
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            panic!("not within 1000 pictures");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_screen_that_does_not_read_costs_itself_only() {
        let mut gateway = Gateway::start();
        let stuck = gateway.watcher().await;
        gateway.publish_until(|gateway| gateway.feed.is_watched()).await;
        let began = tokio::time::Instant::now();
        gateway.publish_until(|gateway| !gateway.feed.is_watched()).await;
        // What it took to fill the socket is added.
        assert!(began.elapsed() >= SEND && began.elapsed() < 2 * SEND, "after {:?}", began.elapsed());
        assert_eq!(gateway.socket.tasks.count(), 1, "its task has ended, with what it held");
        drop(stuck);
    }

    #[tokio::test]
    async fn who_reads_late_gets_the_newest_and_commands_are_answered_meanwhile() {
        let mut gateway = Gateway::start();
        let mut late = gateway.watcher().await;
        while !gateway.feed.is_watched() {
            tokio::task::yield_now().await;
        }
        for number in 1..=50 {
            let next = Snapshot { uptime_seconds: f64::from(number), ..(*picture()).clone() };
            gateway.feed.snapshots.send_replace(Arc::new(next));
            tokio::task::yield_now().await;
        }
        let path = gateway.path();
        let answers = async {
            let asked = gateway.feed.commands.recv().await.unwrap();
            asked.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        };
        let (answer, ()) = tokio::join!(client::send_command(&path, Command::Reload), answers);
        assert!(matches!(answer, Ok(CommandAnswer::Done(text)) if text == "read again"));
        let mut seen = vec![];
        while seen.last() != Some(&50.0) {
            seen.push(late.next_snapshot().await.unwrap().uptime_seconds);
        }
        assert!(seen.is_sorted() && seen.len() < 50, "{seen:?}");
    }

    #[tokio::test]
    async fn watches_leave_places_for_commands() {
        let mut gateway = Gateway::start();
        let mut watchers = vec![];
        for _ in 0..WATCHES_MAX {
            let mut watcher = gateway.watcher().await;
            // A first picture shows that it has its place.
            let publish = async {
                loop {
                    gateway.feed.snapshots.send_replace(picture());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                first = watcher.next_snapshot() => drop(first.unwrap()),
                () = publish => {}
            }
            watchers.push(watcher);
        }
        let refused = gateway.watcher().await.next_snapshot().await;
        assert!(refused.unwrap_err().to_string().contains("screens watch already"));
        let path = gateway.path();
        let asks = client::send_command(&path, Command::Reload);
        let asked = tokio::select! {
            asked = gateway.feed.commands.recv() => asked.unwrap(),
            _ = asks => panic!("nobody has answered yet"),
        };
        assert_eq!(asked.command, Command::Reload);
    }

    #[tokio::test]
    async fn a_read_only_handle_asks_nothing_of_the_gateway() {
        let mut gateway = Gateway::start();
        let (target, tasks) = (AdminTarget::Socket(gateway.path()), Tasks::default());
        for (access, passes) in [(AdminAccess::ReadOnly, false), (AdminAccess::Full, true)] {
            let publish = async {
                loop {
                    gateway.feed.snapshots.send_replace(picture());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let (handle, _contact) = tokio::select! {
                attached = attach(&target, access, &tasks) => attached.unwrap(),
                () = publish => unreachable!("it publishes for ever"),
            };
            let heard = tokio::select! {
                answer = handle.ask(Command::Reload) => {
                    assert!(matches!(answer, CommandAnswer::Refused(_)), "{answer:?}");
                    false
                }
                asked = gateway.feed.commands.recv() => asked.is_some(),
            };
            assert_eq!(heard, passes, "{access:?}");
        }
    }

    /// What the gateway answers to these bytes.
    async fn said_at(path: &Path, messages: &[&[u8]]) -> Vec<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = UnixStream::connect(path).await.unwrap();
        for message in messages {
            stream.write_all(message).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let (mut heard, mut answers) = (Vec::new(), Vec::new());
        stream.read_to_end(&mut heard).await.unwrap();
        let mut rest = heard.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (answer, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            answers.push(String::from_utf8(answer.to_vec()).unwrap());
            rest = after;
        }
        answers.split_off(1)
    }

    fn framed(text: &str) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    #[tokio::test]
    async fn a_request_that_does_not_parse_is_told_what_is_wrong_with_it() {
        let mut gateway = Gateway::start();
        let requests = ["{", "\"stpo\"", r#"{"kill":{}}"#, r#"{"drain":{"service":7}}"#, "\"reload\""];
        let messages: Vec<_> = requests.iter().map(|text| framed(text)).collect();
        let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
        let path = gateway.path();
        let answering = async {
            let asked = gateway.feed.commands.recv().await.unwrap();
            asked.answer.send(CommandAnswer::Done("read again".into())).unwrap();
            std::future::pending::<()>().await
        };
        let answers = tokio::select! {
            answers = said_at(&path, &messages) => answers,
            () = answering => unreachable!("it waits for ever"),
        };
        let told =
            ["EOF while parsing", "unknown variant `stpo`, expected one of", "missing field `session`"];
        for (answer, expected) in answers.iter().zip(told) {
            assert!(answer.contains("it is no request: ") && answer.contains(expected), "{answer}");
        }
        assert!(answers[3].contains("invalid type: integer `7`"), "{}", answers[3]);
        assert!(answers[4].contains("read again"), "the connection goes on: {answers:?}");
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_refused_before_it_is_heard() {
        let gateway = Gateway::start();
        let length = (super::super::protocol::REQUEST_BYTES_MAX as u32 + 1).to_be_bytes();
        let answers = said_at(&gateway.path(), &[&length]).await;
        assert_eq!(answers.len(), 1);
        assert!(answers[0].contains("a message is longer than 1048576 bytes"), "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_is_told_to_who_asks_it() {
        let gateway = Gateway::start();
        for command in [Command::Status, Command::Stop] {
            let path = gateway.path();
            match happens_after(2 * TURNS, client::send_command(&path, command)).await {
                Ok(CommandAnswer::Refused(why)) => assert!(why.contains("its engine hangs"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_taken_the_path_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (first, listener) = AdminSocket::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::Taken(_))));
        drop(listener);
        let (_second, _listener) = AdminSocket::bind(&path).unwrap();
        drop(first);
        assert!(socket_path::answers(&path), "the second's socket is gone");
    }
}
