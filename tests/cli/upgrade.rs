//! Upgrading a pair as `docs/operate.md` says it, command by command: no session is cut, and no client
//! is refused where there are two DMZ gateways. From this build to itself, and from the version before it.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    connect,
    ports::free_ports,
    previous::{self, OURS, SOCKS},
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

/// The command lines of the section, without what is said about them.
fn documented() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate.md");
    let text = fs::read_to_string(file).expect("the document");
    let (_, section) = text.split_once("## Upgrading a pair without a cut session\n").expect("the section");
    let section = section.split("\n## ").next().expect("it ends");
    let blocks = section.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).map(|line| line.split(" #").next().unwrap_or(line).trim());
    lines.filter(|line| line.starts_with("portcullis ")).map(str::to_owned).collect()
}

/// Does what the next documented line says, which has to be a `kind` of line.
struct Steps<'a> {
    folder: &'a TestFolder,
    lines: std::vec::IntoIter<String>,
}

impl<'a> Steps<'a> {
    fn next(&mut self, kind: &str) -> Vec<String> {
        let line = self.lines.next().unwrap_or_else(|| panic!("no line for {kind}"));
        assert!(line.contains(kind), "`{line}` where {kind} was expected");
        line.split_whitespace().skip(1).filter(|word| *word != "&").map(str::to_owned).collect()
    }

    fn command(&mut self, kind: &str) -> Child {
        let words = self.next(kind);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.folder.command(&words).stdout(Stdio::null()).spawn().expect("it starts")
    }

    fn run(&mut self, kind: &str) {
        let status = self.command(kind).wait().expect("it ends");
        assert!(status.success(), "{kind}: {status}");
    }

    fn gateway(&mut self) -> Gateway<'a> {
        let mut words = self.next("--no-ui");
        let admin = words.iter().position(|word| word == "--admin").expect("it names its socket");
        let socket = words.drain(admin..admin + 2).nth(1).expect("a path");
        let name = socket.trim_start_matches("run/").trim_end_matches(".sock").to_owned();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.folder.start_as(&name, &[], &words)
    }

    fn until_ready(&mut self) {
        let words = self.next("status --ready");
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        until("it is ready", SOON, || {
            self.folder.command(&words).output().expect("it runs").status.success().then_some(())
        });
    }
}

/// Clients that come one after the other, to the gateways that a balancer sends them to.
pub struct Clients {
    rotation: Arc<Mutex<Vec<SocketAddr>>>,
    served: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Clients {
    pub fn start(addresses: &[SocketAddr]) -> Self {
        let rotation = Arc::new(Mutex::new(addresses.to_vec()));
        let (served, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (inside, count, over) = (rotation.clone(), served.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let turn = count.load(Ordering::Relaxed) as usize;
                // Held while the client is there: one that is taken out has no client any more.
                let rotation = inside.lock().expect("no panic");
                let address = rotation[turn % rotation.len()];
                match ask(address) {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(format!("{address}: {error}")),
                }
                drop(rotation);
                thread::sleep(Duration::from_millis(5));
            }
            failures
        });
        Self { rotation, served, is_over, thread }
    }

    fn take_out(&self, address: SocketAddr) {
        self.rotation.lock().expect("no panic").retain(|other| *other != address);
    }

    fn put_in(&self, address: SocketAddr) {
        self.rotation.lock().expect("no panic").push(address);
    }

    /// Waits until more have been served, so that a step has had clients.
    pub fn some_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        until("more clients are served", SOON, || {
            (self.served.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
    }

    pub fn end(self) {
        let failures = self.failures();
        assert!(failures.is_empty(), "{} clients failed: {:?}", failures.len(), failures.first());
    }

    fn failures(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

/// One client of the echo, to its clean end.
pub fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"a question")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.as_str() {
        "a question" => Ok(()),
        other => Err(std::io::Error::other(format!("answered {other:?}"))),
    }
}

/// A session that stays open: it answers still, and then ends cleanly.
struct LongSession(TcpStream);

impl LongSession {
    fn open(address: SocketAddr) -> Self {
        let mut session = Self(connect(address));
        session.answers();
        session
    }

    fn answers(&mut self) {
        self.0.write_all(b"still there?").expect("it is open");
        let mut answer = [0; 12];
        self.0.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"still there?");
    }

    fn ends_cleanly(mut self) {
        self.answers();
        self.0.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(self.0.read(&mut [0; 1]).expect("a clean end"), 0);
    }
}

fn dmz(folder: &TestFolder, name: &str) -> (SocketAddr, String) {
    let [accept, link] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let text = dmz_half(&link, &["echo"]).replace("tcp://127.0.0.1:0", &format!("tcp://{accept}"));
    folder.write(&format!("{name}.yaml"), &format!("{text}drain: 50ms\n"));
    (accept.parse().expect("an address"), link)
}

/// A DMZ gateway is taken out of the balancer, ends with its last session, and comes back as this build.
fn upgrade_dmz<'a>(steps: &mut Steps<'a>, clients: &Clients, old: Gateway, at: SocketAddr) -> Gateway<'a> {
    let session = LongSession::open(at);
    clients.take_out(at);
    ends_with_its_last_session(steps, clients, old, session);
    let new = steps.gateway();
    steps.until_ready();
    clients.put_in(at);
    clients.some_more();
    LongSession::open(at).ends_cleanly();
    new
}

/// The next documented `stop`: clients are served meanwhile, and the session is carried to its end.
fn ends_with_its_last_session(steps: &mut Steps, clients: &Clients, old: Gateway, mut session: LongSession) {
    session.answers();
    let mut stopping = steps.command("stop");
    until("it drains", SOON, || (old.try_status()?["phase"] == "draining").then_some(()));
    clients.some_more();
    session.answers();
    assert!(stopping.try_wait().expect("ours").is_none(), "it did not wait for its session");
    session.ends_cleanly();
    assert!(stopping.wait().expect("it ends").success());
    assert_eq!(old.ended().code(), Some(0));
    clients.some_more();
}

/// Whether the new half inside speaks this protocol with the DMZ gateway at `link`.
fn expect_protocol(internal: &Gateway, link: &str, protocol: &str) {
    let is_of = |row: &&Value| row["address"].as_str().is_some_and(|address| address.contains(link));
    internal.wait(protocol, SOON, |status| {
        let rows = status["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut rows = rows.iter().filter(is_of).peekable();
        // A link in SOCKS5 carries one session, so with clients about some are always on their way.
        let has_links = |row: &Value| row["state"] == "healthy" || row["state"] == "filling";
        rows.peek().is_some() && rows.all(|row| has_links(row) && row["protocol"] == protocol)
    });
}

/// How many clients the previous version's inside refused that came in the moment of its drain: this version
/// takes them to another link, and what runs already cannot be changed.
fn refused_at_drain(folder: &TestFolder) -> usize {
    let log = fs::read_to_string(folder.path("old.log")).expect("the log of the old one");
    log.lines()
        .filter(|line| line.contains(r#"end="OA""#) && line.contains("the service is draining"))
        .count()
}

/// Walks the section from `start`'s version to this build.
fn run_documented_upgrade<'a>(
    folder: &'a TestFolder,
    start: impl Fn(&str, &str) -> Gateway<'a>,
    between: &str,
) {
    let ((first, one), (second, two)) = (dmz(folder, "dmz-1"), dmz(folder, "dmz-2"));
    let both = format!("{one}\", \"socks+tls://{two}");
    let text = internal_half(&both, &[("echo", "echo://")]).replace("connect: \"socks", "connect: [\"socks");
    folder.write(
        "internal.yaml",
        &format!("{}drain: 50ms\n", text.replace(&format!("{two}\""), &format!("{two}\"]"))),
    );
    let (dmz_1, dmz_2) = (start("dmz-1", "dmz-1.yaml"), start("dmz-2", "dmz-2.yaml"));
    let old = start("old", "internal.yaml");
    [&old, &dmz_1, &dmz_2].into_iter().for_each(|gateway| drop(gateway.wait_healthy()));
    let mut steps = Steps { folder, lines: documented().into_iter() };
    let clients = Clients::start(&[first, second]);
    let session = LongSession::open(first);

    // Sessions get the time they need.
    for name in ["dmz-1", "dmz-2", "internal"] {
        let file = folder.path(&format!("{name}.yaml"));
        let text = fs::read_to_string(&file).expect("a profile").replace("drain: 50ms", "drain: 1h");
        fs::write(&file, text).expect("it is written");
    }
    (0..3).for_each(|_| steps.run("reload"));

    // The inside: the new one beside the old one.
    let new = steps.gateway();
    steps.until_ready();
    ends_with_its_last_session(&mut steps, &clients, old, session);
    expect_protocol(&new, &one, between);

    let _dmz_1 = upgrade_dmz(&mut steps, &clients, dmz_1, first);
    expect_protocol(&new, &one, OURS);
    expect_protocol(&new, &two, between);
    let _dmz_2 = upgrade_dmz(&mut steps, &clients, dmz_2, second);
    expect_protocol(&new, &two, OURS);
    let failures = clients.failures();
    let refused = if between == OURS { 0 } else { refused_at_drain(folder) };
    assert!(failures.len() <= refused, "{refused} were refused, and these failed: {failures:?}");
    assert_eq!(steps.lines.as_slice(), [""; 0], "documented, and not walked");
    new.wait_healthy();
}

#[test]
fn a_pair_is_upgraded_without_a_cut_session() {
    let folder = TestFolder::with_certificates();
    run_documented_upgrade(
        &folder,
        |name, profile| folder.start_as(name, &[], &["--no-ui", "--profile", profile]),
        OURS,
    );
}

#[test]
fn a_pair_is_upgraded_from_the_previous_version() {
    let Some(program) = previous::program("a_pair_is_upgraded_from_the_previous_version") else { return };
    let folder = TestFolder::with_certificates();
    run_documented_upgrade(&folder, |name, profile| folder.start_by(&program, name, profile), SOCKS);
}
