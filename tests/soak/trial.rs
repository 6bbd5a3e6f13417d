//! Two halves as processes, clients and a backend around them, and what happens to the halves meanwhile.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::timeout,
};

use crate::{
    dialogue::{DialoguePlan, DialogueResult, answer, ask},
    ports::free_ports,
    process::{Gateway, SOON, TestFolder, until},
};

/// Sessions at once.
const CLIENTS: u64 = 16;
/// A dialogue takes a second or two, and a half that stands still three more.
const DIALOGUE_MAX: Duration = Duration::from_secs(90);
/// Links that stay, and what else a half may have open that it had not at first.
const LINKS_MAX: usize = 48;
const MEMORY_GROWN_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    StandStill,
    Reload,
    Kill,
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Dmz,
    Internal,
}

/// One side of a dialogue: when it ran, and its result.
struct DialogueRecord {
    began: Instant,
    ended: Instant,
    /// Where the gateway saw its client, and what it planned; on the client's side.
    client: Option<(SocketAddr, DialoguePlan)>,
    seen: DialogueResult,
}

/// What a half says of a session that has ended.
struct Row {
    client: String,
    end: String,
    reason: String,
}

pub struct Trial {
    started: Instant,
    folder: &'static TestFolder,
    halves: Mutex<[Option<Gateway<'static>>; 2]>,
    port: SocketAddr,
    runtime: Runtime,
    random: Mutex<fastrand::Rng>,
    dialogues: Arc<Mutex<Vec<DialogueRecord>>>,
    /// From before a half was killed until the pair was well again.
    outages: Mutex<Vec<(Instant, Instant)>>,
    /// What each half has said of sessions that ended, by their ids.
    rows: Mutex<[HashMap<String, Row>; 2]>,
    /// Dialogues so far, and the bytes of those that end cleanly.
    sums: Mutex<(u64, u64, u64)>,
    before: [Held; 2],
}

#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    memory: u64,
}

impl Trial {
    pub fn start(mode: &str, seed: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let dialogues = Arc::new(Mutex::new(Vec::new()));
        let backend = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        // A process that tests, and nothing else, so that it may keep this.
        let folder: &'static TestFolder = Box::leak(Box::new(TestFolder::with_certificates()));
        let [link, port] = free_ports();
        let (dmz, internal) = if mode == "reverse" { ("listen", "connect") } else { ("connect", "listen") };
        let half = |name: &str, peer: &str, key: &str, more: &str| {
            format!(
                "mode: {mode}\n{name}:\n  link: {{ {key}: 'socks+tls://127.0.0.1:{link}', prepared: 4{more}, tls: \
                 {{ certificate: pki/{name}.pem, key: pki/{name}.key, ca: pki/ca.pem, peers: [{peer}] }} }}\n"
            )
        };
        // Two SIGSTOPs in a row are waited for.
        let accept = format!("  services: {{ orders: {{ accept: ['tcp://127.0.0.1:{port}'] }} }}\n");
        let connect =
            format!("  services: {{ orders: {{ connect: 'tcp://{}' }} }}\n", backend.local_addr().unwrap());
        folder.write("dmz.yaml", &(half("dmz", "internal", dmz, ", wait: 30s") + &accept));
        folder.write("internal.yaml", &(half("internal", "dmz", internal, ", maximum: 40") + &connect));
        let halves = Mutex::new([Half::Dmz, Half::Internal].map(|half| Some(half.start(folder))));
        runtime.spawn(serve(backend, dialogues.clone()));
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let port = SocketAddr::from(([127, 0, 0, 1], port));
        let (outages, rows, sums) = (Mutex::default(), Mutex::default(), Mutex::default());
        let nothing = Held { descriptors: 0, memory: 0 };
        let mut trial = Self {
            started: Instant::now(),
            folder,
            halves,
            port,
            runtime,
            random,
            dialogues,
            outages,
            rows,
            sums,
            before: [nothing; 2],
        };
        trial.healthy();
        trial.before = trial.held();
        trial
    }

    /// Runs dialogues for this long, while one of these happens each second or so; then lets all
    /// end.
    pub fn run(&self, lasts: Duration, disturbances: &[Disturbance]) {
        let ends_at = Instant::now() + lasts;
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (seed, port, dialogues) =
                (self.random.lock().unwrap().u64(..), self.port, self.dialogues.clone());
            clients.spawn_on(run_dialogues(port, seed, ends_at, dialogues), self.runtime.handle());
        }
        while Instant::now() < ends_at {
            let disturbance = self.random.lock().unwrap().choice(disturbances).copied().unwrap();
            let half = if self.random.lock().unwrap().bool() { Half::Dmz } else { Half::Internal };
            self.happens(disturbance, half);
            self.look();
            thread::sleep(Duration::from_millis(self.random.lock().unwrap().u64(500..1500)));
            self.look();
        }
        println!("the last dialogues");
        let ended = self.runtime.spawn(clients.join_all());
        until("each dialogue has an end", DIALOGUE_MAX + SOON, || {
            self.look();
            ended.is_finished().then_some(())
        });
        let mut sums = self.sums.lock().unwrap();
        for (count, up, down) in self.runtime.block_on(ended).unwrap() {
            *sums = (sums.0 + count, sums.1 + up, sums.2 + down);
        }
        drop(sums);
        self.until_ended();
        self.look();
        self.assert_well();
    }

    /// Notes the sessions that have ended since the last look: a half tells of the last 512.
    fn look(&self) {
        let mut rows = self.rows.lock().unwrap();
        for (half, rows) in self.halves.lock().unwrap().iter().flatten().zip(&mut *rows) {
            for row in half.status()["ended"].as_array().unwrap() {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                let row = Row { client: text("client"), end: text("end"), reason: text("reason") };
                rows.insert(text("id"), row);
            }
        }
    }

    fn happens(&self, disturbance: Disturbance, half: Half) {
        println!("{:?}: {disturbance:?} {half:?}", self.started.elapsed());
        let mut halves = self.halves.lock().unwrap();
        let gateway = &mut halves[half as usize];
        match disturbance {
            Disturbance::StandStill => {
                let pid = Pid::from_child(&gateway.as_ref().unwrap().child);
                kill_process(pid, Signal::STOP).unwrap();
                // An internal half that answers no `open` for 5 s costs the client.
                let most_ms = match half {
                    Half::Dmz => 5000,
                    Half::Internal => 4000,
                };
                thread::sleep(Duration::from_millis(self.random.lock().unwrap().u64(1000..most_ms)));
                kill_process(pid, Signal::CONT).unwrap();
            }
            Disturbance::Reload => {
                let args = ["reload", "--admin", &format!("run/{}.sock", half.name())];
                let mut reload = self.folder.command(&args).stdout(Stdio::null()).spawn().unwrap();
                let ended = until("the reload is answered", SOON, || reload.try_wait().unwrap());
                assert!(ended.success(), "{half:?}: {}", gateway.as_ref().unwrap().log());
            }
            Disturbance::Kill => {
                let before = Instant::now();
                // Dropped, it is killed.
                drop(gateway.take());
                *gateway = Some(half.start(self.folder));
                drop(halves);
                self.healthy();
                self.outages.lock().unwrap().push((before, Instant::now()));
            }
        }
    }

    fn healthy(&self) {
        for half in self.halves.lock().unwrap().iter().flatten() {
            half.wait("a pool", SOON, |status| !status["pools"].as_array().is_none_or(Vec::is_empty));
            half.wait_healthy();
        }
    }

    fn until_ended(&self) {
        for half in self.halves.lock().unwrap().iter().flatten() {
            half.wait("none is open", SOON, |status| status["totals"]["sessions_open"] == 0);
        }
    }

    /// No byte was wrong, and who ended early did so with a half that was killed.
    fn assert_well(&self) {
        let outages = self.outages.lock().unwrap();
        for DialogueRecord { began, ended, client, seen } in self.dialogues.lock().unwrap().iter() {
            let is_excused = outages.iter().any(|(from, to)| began <= to && ended >= from);
            match seen {
                DialogueResult::Early(_) if is_excused => {}
                DialogueResult::Well => {}
                DialogueResult::Wrong(what) | DialogueResult::Early(what) => {
                    let times = [began, ended].map(|at| at.duration_since(self.started));
                    panic!("{what} at {times:?}, {client:?}\n{}", self.unplanned());
                }
            }
        }
    }

    /// What both halves have said of sessions that nobody planned to end so, and all that they warned of.
    fn unplanned(&self) -> String {
        let mut sent = String::new();
        for (name, rows) in ["dmz", "internal"].iter().zip(&*self.rows.lock().unwrap()) {
            for (id, Row { client, end, reason }) in rows {
                if !["-", "C", "B"].contains(&&end[..1]) || ["C", "W"].contains(&&end[1..]) {
                    sent += &format!("{name} {id} {client}: {end} {reason}\n");
                }
            }
            let log = fs::read_to_string(self.folder.path(&format!("{name}.log"))).unwrap();
            let warned = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
            warned.for_each(|line| sent += &format!("{name} {line}\n"));
        }
        sent
    }

    /// Both halves have carried the same sessions, all of them and not one more, have refused none, name each
    /// end as it was planned, and count no fewer bytes than were said.
    pub fn assert_all_counted(&self) {
        let (count, up, down) = *self.sums.lock().unwrap();
        for half in self.halves.lock().unwrap().iter().flatten() {
            let totals = &half.status()["totals"];
            let of = |name: &str| totals[name].as_u64().unwrap();
            let carried = (of("sessions"), of("refused"));
            assert_eq!(carried, (count, 0), "{totals}\n{}", self.unplanned());
            assert!(of("bytes_up") >= up && of("bytes_down") >= down, "{totals}, and not {up} and {down}");
        }
        for rows in &*self.rows.lock().unwrap() {
            let mut planned: HashMap<String, Vec<char>> = HashMap::new();
            for (client, plan) in
                self.dialogues.lock().unwrap().iter().filter_map(|dialogues| dialogues.client)
            {
                planned.entry(client.to_string()).or_default().push(plan.ended_by());
            }
            for (id, Row { client, end, reason }) in rows {
                let of_client = planned.get_mut(client).unwrap();
                let at = of_client.iter().position(|&by| end.starts_with(by));
                let at =
                    at.unwrap_or_else(|| panic!("{id} {client}: {end} {reason}, planned: {of_client:?}"));
                of_client.swap_remove(at);
            }
        }
        println!("{count} sessions, {up} bytes up, {down} down");
    }

    pub fn assert_all_let_go(&self) {
        println!(
            "{} sides of sessions, {} outages",
            self.dialogues.lock().unwrap().len(),
            self.outages.lock().unwrap().len()
        );
        for (held, before) in self.held().iter().zip(self.before) {
            assert!(held.descriptors <= before.descriptors + LINKS_MAX, "{held:?}, before {before:?}");
            assert!(held.memory <= before.memory + MEMORY_GROWN_MAX, "{held:?}, before {before:?}");
        }
    }

    fn held(&self) -> [Held; 2] {
        let halves = self.halves.lock().unwrap();
        [Half::Dmz, Half::Internal].map(|half| {
            let pid = halves[half as usize].as_ref().unwrap().child.id();
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            let memory = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
            Held { descriptors, memory }
        })
    }
}

impl Half {
    fn start(self, folder: &'static TestFolder) -> Gateway<'static> {
        let profile = format!("{}.yaml", self.name());
        folder.start_as(self.name(), &[], &["--no-ui", "--profile", &profile])
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dmz => "dmz",
            Self::Internal => "internal",
        }
    }
}

/// One dialogue after another: their number, and the bytes of those that end cleanly.
async fn run_dialogues(
    port: SocketAddr,
    seed: u64,
    until: Instant,
    dialogues: Arc<Mutex<Vec<DialogueRecord>>>,
) -> (u64, u64, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut count, mut up, mut down) = (0, 0, 0);
    while Instant::now() < until {
        let (plan, began) = (DialoguePlan::of(random.u64(..)), Instant::now());
        let (client, seen) = match TcpStream::connect(port).await {
            Ok(stream) => {
                let client = stream.local_addr().unwrap();
                let seen = timeout(DIALOGUE_MAX, ask(stream, plan)).await;
                (Some((client, plan)), seen.unwrap_or_else(|_| DialogueResult::Wrong("it hangs".into())))
            }
            Err(error) => (None, DialogueResult::Early(format!("connect: {error}"))),
        };
        count += 1;
        if plan.ends_cleanly() {
            (up, down) = (up + plan.bytes().0, down + plan.bytes().1);
        }
        if matches!(seen, DialogueResult::Early(_)) {
            // While a half is away its clients are refused at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        dialogues.lock().unwrap().push(DialogueRecord { began, ended: Instant::now(), client, seen });
    }
    (count, up, down)
}

async fn serve(backend: TcpListener, dialogues: Arc<Mutex<Vec<DialogueRecord>>>) {
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = backend.accept().await.unwrap();
        while sessions.try_join_next().is_some() {}
        let dialogues = dialogues.clone();
        sessions.spawn(async move {
            let began = Instant::now();
            let seen = answer(stream).await;
            dialogues.lock().unwrap().push(DialogueRecord {
                began,
                ended: Instant::now(),
                client: None,
                seen,
            });
        });
    }
}
