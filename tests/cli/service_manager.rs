//! What a service manager receives, over a socket like systemd's.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    DIRECT,
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

/// Receives the notifications of a gateway.
struct Manager {
    socket: UnixDatagram,
    variable: String,
}

impl Manager {
    fn new(folder: &TestFolder) -> Self {
        Self::at(folder, "notify")
    }

    fn at(folder: &TestFolder, name: &str) -> Self {
        let path = folder.path(name);
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        Self { socket, variable: format!("NOTIFY_SOCKET={}", path.display()) }
    }

    /// The next message, if one comes in a moment.
    fn next(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Everything up to the message with this line, which has to come.
    #[track_caller]
    fn until(&self, line: &str) -> Vec<String> {
        let (mut received, began) = (Vec::new(), Instant::now());
        while began.elapsed() < SOON {
            received.extend(self.next());
            if received.last().is_some_and(|message| message.lines().any(|one| one.starts_with(line))) {
                return received;
            }
        }
        panic!("no {line} in {received:?}");
    }
}

fn has(messages: &[String], line: &str) -> bool {
    messages.iter().flat_map(|message| message.lines()).any(|one| one.starts_with(line))
}

#[test]
fn a_manager_is_notified_of_start_reload_turns_and_stop() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let manager = Manager::new(&folder);
    let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=2000000"];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    let received = manager.until("READY=1");
    assert!(has(&received, "STATUS=ready; 0 sessions open"), "{received:?}");
    // The engine turns, twice and more within the watchdog's time.
    let began = Instant::now();
    for _ in 0..4 {
        manager.until("WATCHDOG=1");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    gateway.signal(Signal::HUP);
    let received = manager.until("RELOADING=1");
    assert!(received.last().is_some_and(|message| message.contains("\nMONOTONIC_USEC=")), "{received:?}");
    assert!(!has(&received, "READY=1"), "it says so once, and again when it has reloaded: {received:?}");
    manager.until("READY=1");
    // A reload that is refused ends as well.
    folder.write("one.yaml", "mode: nonsense\n");
    gateway.signal(Signal::HUP);
    manager.until("RELOADING=1");
    manager.until("READY=1");
    gateway.signal(Signal::TERM);
    manager.until("STOPPING=1");
    assert_eq!(gateway.ended().code(), Some(0));
}

/// A locked half opens no Unix socket any more, and writes to the one that it has.
#[test]
fn a_manager_gets_watchdog_messages_of_locked_halves_across_a_reload() {
    let folder = TestFolder::with_certificates();
    let [of_dmz, of_internal] = ["notify-dmz", "notify-internal"].map(|name| Manager::at(&folder, name));
    let start = |manager: &Manager, name: &str| {
        let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=2000000"];
        folder.start_as(name, &wrapper, &["--no-ui", "--profile", &format!("{name}.yaml")])
    };
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo"]));
    let dmz = start(&of_dmz, "dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = start(&of_internal, "internal");
    let expect_pings = |manager: &Manager, gateway: &Gateway<'_>, half: &str| {
        manager.until("READY=1");
        assert_eq!(gateway.status()["confined"][half]["seccomp"], true, "{half} is not locked");
        while manager.next().is_some() {}
        // Two for each period.
        for _ in 0..6 {
            let began = Instant::now();
            manager.until("WATCHDOG=1");
            assert!(began.elapsed() < Duration::from_secs(2), "{half} would be ended: {:?}", began.elapsed());
        }
        gateway.signal(Signal::HUP);
        for line in ["RELOADING=1", "READY=1", "WATCHDOG=1"] {
            manager.until(line);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| expect_pings(&of_dmz, &dmz, "dmz"));
        scope.spawn(|| expect_pings(&of_internal, &internal, "internal"));
    });
}

#[test]
fn a_process_that_is_stopped_feeds_no_watchdog() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let manager = Manager::new(&folder);
    let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=1000000"];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    manager.until("WATCHDOG=1");
    gateway.signal(Signal::STOP);
    while manager.next().is_some() {}
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(manager.next(), None);
    gateway.signal(Signal::CONT);
    manager.until("WATCHDOG=1");
}

#[test]
fn ready_can_wait_for_links() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &format!("ready: links\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let manager = Manager::new(&folder);
    let dmz = folder.start_as("dmz", &["env", &manager.variable], &["--no-ui", "--profile", "dmz.yaml"]);
    let received = manager.until("STATUS=not ready; 0 of ");
    assert!(!has(&received, "READY=1"), "{received:?}");
    // Until then the start is given more time.
    assert!(has(&received, "EXTEND_TIMEOUT_USEC=30000000"), "{received:?}");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let _internal = folder.start("internal");
    let received = manager.until("READY=1");
    assert!(has(&received, "STATUS=ready; "), "{received:?}");
}

#[test]
fn a_missing_service_manager_is_logged_and_does_no_harm() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let wrapper = ["env", "NOTIFY_SOCKET=/nowhere/notify"];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    let expected = "WARN NOTIFY_SOCKET /nowhere/notify: No such file";
    until("it is reported", SOON, || gateway.log().contains(expected).then_some(()));
    assert_eq!(gateway.status()["phase"], "running");
}
