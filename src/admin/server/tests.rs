//! The admin socket against real clients, with an engine that the test plays: answers, deadlines and a client that
//! does not read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::{
    admin::{
        attach::attach,
        client::{self, AdminConnection},
        target::AdminTarget,
    },
    gateway::handle::{self, AdminAccess, HandleFeed},
    profile::Mode as ProfileMode,
    telemetry::{
        registry::{KillSelection, ListedSessions},
        snapshot::{Notice, NoticeLevel, Snapshot},
    },
    tests::happens_after,
};

/// A snapshot of 100 kB: a few of them fill every buffer between two ends of a socket.
fn snapshot() -> Arc<Snapshot> {
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
        let (handle, feed) = handle::channel(snapshot(), "test");
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

    /// Publishes a snapshot every quarter of a second until `done` says so; returns how many.
    async fn publish_until(&mut self, done: impl Fn(&Self) -> bool) -> u32 {
        for count in 0..1000 {
            if done(self) {
                return count;
            }
            self.feed.snapshots.send_replace(snapshot());
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
    // Filling the socket takes some time too.
    assert!(
        began.elapsed() >= WRITE_TIMEOUT && began.elapsed() < 2 * WRITE_TIMEOUT,
        "after {:?}",
        began.elapsed()
    );
    assert_eq!(gateway.socket.tasks.count(), 1, "its task has ended, with what it held");
    drop(stuck);
}

#[tokio::test]
async fn who_reads_late_gets_the_newest_and_commands_are_answered_meanwhile() {
    let mut gateway = Gateway::start();
    let mut slow = gateway.watcher().await;
    while !gateway.feed.is_watched() {
        tokio::task::yield_now().await;
    }
    for number in 1..=50 {
        let next = Snapshot { uptime_seconds: f64::from(number), ..(*snapshot()).clone() };
        gateway.feed.snapshots.send_replace(Arc::new(next));
        tokio::task::yield_now().await;
    }
    let path = gateway.path();
    let answers = async {
        let requested = gateway.feed.commands.recv().await.unwrap();
        requested.answer.send(CommandAnswer::Done("read again".into())).unwrap();
    };
    let (answer, ()) = tokio::join!(client::send_command(&path, Command::Reload), answers);
    assert!(matches!(answer, Ok(CommandAnswer::Done(text)) if text == "read again"));
    let mut seen = vec![];
    while seen.last() != Some(&50.0) {
        seen.push(slow.next_snapshot().await.unwrap().uptime_seconds);
    }
    assert!(seen.is_sorted() && seen.len() < 50, "{seen:?}");
}

#[tokio::test]
async fn watches_leave_permits_for_commands() {
    let mut gateway = Gateway::start();
    let mut watchers = vec![];
    for _ in 0..WATCHES_MAX {
        let mut watcher = gateway.watcher().await;
        // A first snapshot shows that it has its permit.
        let publish = async {
            loop {
                gateway.feed.snapshots.send_replace(snapshot());
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
    let command_answer = client::send_command(&path, Command::Reload);
    let requested = tokio::select! {
        requested = gateway.feed.commands.recv() => requested.unwrap(),
        _ = command_answer => panic!("nobody has answered yet"),
    };
    assert_eq!(requested.command, Command::Reload);
}

#[tokio::test]
async fn silent_clients_do_not_block_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut gateway = Gateway::start();
    let path = gateway.path();
    let mut silent = vec![];
    // Some send nothing at all, others half a request.
    for number in 0..3 * SILENT_MAX {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        if number % 2 == 0 {
            client.write_all(&[0, 0]).await.unwrap();
        }
        silent.push(client);
    }
    for _ in 0..2 {
        let command_answer = client::send_command(&path, Command::Reload);
        let answers = async {
            let requested = gateway.feed.commands.recv().await.unwrap();
            requested.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        };
        let (answer, ()) = tokio::join!(command_answer, answers);
        assert!(matches!(answer, Ok(CommandAnswer::Done(_))), "{answer:?}");
    }
    let (mut oldest, mut reported) = (silent.remove(0), String::new());
    oldest.read_to_string(&mut reported).await.unwrap_or_else(|_| panic!("{reported}"));
    assert!(reported.contains("too many idle clients are connected"), "{reported}");
    let newest = silent.last_mut().unwrap();
    newest.write_all(&framed("\"reload\"")[2..]).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_at_its_deadline() {
    use tokio::io::AsyncReadExt;
    let gateway = Gateway::start();
    let mut client = UnixStream::connect(gateway.path()).await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    let mut rest = Vec::new();
    happens_after(IDLE_TIMEOUT, client.read_to_end(&mut rest)).await.unwrap();
    assert!(!rest.is_empty(), "the rest of its hello");
}

#[tokio::test]
async fn a_read_only_handle_asks_nothing_of_the_gateway() {
    let mut gateway = Gateway::start();
    let (target, tasks) = (AdminTarget::Socket(gateway.path()), Tasks::default());
    for (access, passes) in [(AdminAccess::ReadOnly, false), (AdminAccess::Full, true)] {
        let publish = async {
            loop {
                gateway.feed.snapshots.send_replace(snapshot());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (handle, _contact) = tokio::select! {
            attached = attach(&target, access, &tasks) => attached.unwrap(),
            () = publish => unreachable!("it publishes forever"),
        };
        let received = tokio::select! {
            answer = handle.send_and_wait(Command::Reload) => {
                assert!(matches!(answer, CommandAnswer::Refused(_)), "{answer:?}");
                false
            }
            requested = gateway.feed.commands.recv() => requested.is_some(),
        };
        assert_eq!(received, passes, "{access:?}");
    }
}

/// The gateway's answers to these bytes.
async fn received_at(path: &Path, messages: &[&[u8]]) -> Vec<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = UnixStream::connect(path).await.unwrap();
    for message in messages {
        stream.write_all(message).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let (mut received, mut answers) = (Vec::new(), Vec::new());
    stream.read_to_end(&mut received).await.unwrap();
    let mut rest = received.as_slice();
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
async fn an_unparsable_request_gets_the_reason() {
    let mut gateway = Gateway::start();
    let requests = ["{", "\"stpo\"", r#"{"kill":{}}"#, r#"{"drain":{"service":7}}"#, "\"reload\""];
    let messages: Vec<_> = requests.iter().map(|text| framed(text)).collect();
    let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
    let path = gateway.path();
    let answering = async {
        let requested = gateway.feed.commands.recv().await.unwrap();
        requested.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        std::future::pending::<()>().await
    };
    let answers = tokio::select! {
        answers = received_at(&path, &messages) => answers,
        () = answering => unreachable!("it waits forever"),
    };
    let reported =
        ["EOF while parsing", "unknown variant `stpo`, expected one of", "missing field `session`"];
    for (answer, expected) in answers.iter().zip(reported) {
        assert!(answer.contains("not a valid request: ") && answer.contains(expected), "{answer}");
    }
    assert!(answers[3].contains("invalid type: integer `7`"), "{}", answers[3]);
    assert!(answers[4].contains("read again"), "the connection goes on: {answers:?}");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_is_read() {
    let gateway = Gateway::start();
    let length = (crate::admin::protocol::REQUEST_BYTES_MAX as u32 + 1).to_be_bytes();
    let answers = received_at(&gateway.path(), &[&length]).await;
    assert_eq!(answers.len(), 1);
    assert!(answers[0].contains("a message is longer than 65536 bytes"), "{answers:?}");
}

#[tokio::test]
async fn a_list_that_is_too_long_for_one_request_is_answered_as_one() {
    let mut gateway = Gateway::start();
    let sessions: Vec<_> = (0..20_000).map(|number| format!("1f2e-{number:x}")).collect();
    let listed = ListedSessions { sessions, by: "that passed `x`".into() };
    let path = gateway.path();
    let command_answer = client::send_command(&path, Command::KillAll(KillSelection::Listed(listed)));
    let answers = async {
        while let Some(requested) = gateway.feed.commands.recv().await {
            let Command::KillAll(KillSelection::Listed(part)) = requested.command else { panic!("another") };
            requested.answer.send(CommandAnswer::Killed(part.sessions.len() as u64)).unwrap();
        }
    };
    let answer = tokio::select! {
        answer = command_answer => answer,
        () = answers => unreachable!("the gateway lives"),
    };
    assert!(matches!(answer, Ok(CommandAnswer::Killed(20_000))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_learns_that_the_engine_hangs() {
    let gateway = Gateway::start();
    for command in [Command::Status, Command::Stop] {
        let path = gateway.path();
        match happens_after(2 * ENGINE_RESPONSE_TIMEOUT, client::send_command(&path, command)).await {
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
