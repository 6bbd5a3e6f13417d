//! Snapshots made by hand, one for each thing a screen has to show.

use std::time::{Duration, SystemTime};

use portcullis::{
    gateway::{
        plan::{EndingSessions, HalfChange, SwitchPlan, SwitchVerdict},
        service_changes::{ServiceChange, ServiceChangeKind},
    },
    profile::{Half, Mode},
    telemetry::{
        failures::FailureRow,
        health::{DrainRequest, LogLossRow, judge_snapshot},
        snapshot::{
            BackendRow, BackendRowState, CheckRow, DescriptorUsage, EndedRow, GatewayPhase, LinkRow,
            LinkState, Notice, NoticeLevel, PoolRow, PoolState, ProblemRow, ProfileRow, ServicePhase,
            ServiceRow, SessionPhase, SessionRow, Snapshot, TrafficSample, TrafficTotals,
        },
    },
};

/// Every picture with its name, as the golden files call it.
pub fn all() -> Vec<(&'static str, Snapshot)> {
    let mut all = vec![
        ("healthy", healthy()),
        ("degraded", degraded()),
        ("down", down()),
        ("empty", empty()),
        ("forward", forward()),
        ("direct", direct()),
        ("crowded", crowded(10_000)),
        ("hostile", hostile()),
    ];
    all.iter_mut().for_each(|(_, snapshot)| *snapshot = judged(snapshot.clone()));
    all
}

/// With what its rows mean for clients.
pub fn judged(mut snapshot: Snapshot) -> Snapshot {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_868_120);
    snapshot.time = "2026-01-31T14:02:00.000Z".into();
    judge_snapshot(&mut snapshot, now);
    snapshot
}

/// A DMZ gateway that has just started.
pub fn empty() -> Snapshot {
    Snapshot {
        halves: vec![Half::Dmz],
        uptime_seconds: 0.2,
        descriptors: DescriptorUsage { used: 12, limit: 1024 },
        ..Snapshot::new("demo", Mode::Reverse)
    }
}

/// Both halves in one process, all well.
pub fn healthy() -> Snapshot {
    let pools = vec![
        pool(Half::Dmz, "orders", 8, 8),
        PoolRow { ready: 7, carrying: 3, state: PoolState::Filling, ..pool(Half::Dmz, "chat", 7, 8) },
        pool(Half::Internal, "orders", 8, 8),
        PoolRow { dialling: 1, carrying: 3, state: PoolState::Filling, ..pool(Half::Internal, "chat", 7, 8) },
    ];
    Snapshot {
        profile: "reverse".into(),
        halves: vec![Half::Dmz, Half::Internal],
        phase: GatewayPhase::Running,
        uptime_seconds: 754.5,
        listening: vec!["socks+tls://127.0.0.1:41443".into()],
        totals: totals(4),
        services: services(),
        pools,
        sessions: vec![
            session(18_842, "chat", 41_000_000, 1_200_000),
            session(18_790, "chat", 18_300_000, 400_000),
            SessionRow { idle_seconds: 44.0, age_seconds: 11_520.0, ..session(17_003, "orders", 0, 0) },
            SessionRow { phase: SessionPhase::Draining, ..session(18_611, "chat", 6_600, 610) },
        ],
        ended: vec![
            ended(18_859, "--", "both sides finished", 2.0),
            ended(18_858, "CR", "client reset", 60.0),
        ],
        forward_checks: vec![CheckRow { profile: "forward".into(), passed: true, age_seconds: 192.0 }],
        notices: notices(),
        traffic: traffic(120),
        descriptors: DescriptorUsage { used: 64, limit: 1024 },
        ..empty()
    }
}

/// The healthy gateway with the inner half's parts of two sessions, one open, one ended, and one by itself.
pub fn pair() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.sessions.extend([
        SessionRow { half: Half::Internal, ..session(18_611, "chat", 6_600, 610) },
        SessionRow { half: Half::Internal, ..session(18_888, "chat", 0, 0) },
    ]);
    let inner = EndedRow { half: Half::Internal, ..ended(18_859, "--", "both sides finished", 2.0) };
    snapshot.ended.insert(1, inner);
    snapshot
}

fn services() -> Vec<ServiceRow> {
    let service = |half, name: &str, accept: &[&str], connect: Option<&str>, totals| ServiceRow {
        accept: accept.iter().map(|&at| at.into()).collect(),
        connect: connect.map(Into::into),
        totals,
        ..ServiceRow::new(half, name)
    };
    vec![
        service(Half::Dmz, "chat", &["tcp://0.0.0.0:8001"], None, totals(3)),
        service(Half::Dmz, "orders", &["tcp://0.0.0.0:8000"], None, totals(1)),
        service(Half::Internal, "chat", &[], Some("tcp://10.0.0.8:9001"), totals(3)),
        service(Half::Internal, "orders", &[], Some("tcp://10.0.0.8:9000"), totals(1)),
    ]
}

/// One pool down with its reason, one starved; clients wait.
pub fn degraded() -> Snapshot {
    let refused = "connect 10.1.4.9:41443: connection refused (os error 111)";
    let mut snapshot = healthy();
    snapshot.halves = vec![Half::Internal];
    snapshot.profile = "prod-reverse".into();
    snapshot.uptime_seconds = 273_840.0;
    snapshot.pools = vec![
        PoolRow { certificate_days: Some(12), ..pool(Half::Internal, "web", 12, 12) },
        PoolRow {
            state: PoolState::Starved,
            carrying: 4,
            waiting: 3,
            misses: 7,
            ..pool(Half::Internal, "amqp", 0, 4)
        },
        PoolRow {
            peer: None,
            address: Some("10.1.4.9:41443".into()),
            state: PoolState::Down,
            failures: 1208,
            failures_minute: 12,
            certificate_days: None,
            protocol: None,
            sessions: 0,
            instance: None,
            last_error: Some(refused.into()),
            retry_seconds: Some(3.2),
            gone_seconds: Some(34.0),
            ..pool(Half::Internal, "mail", 0, 4)
        },
    ];
    snapshot.sessions.push(SessionRow {
        phase: SessionPhase::Waiting,
        peer: None,
        age_seconds: 3.1,
        waited_ms: None,
        connected_ms: None,
        last_byte_seconds: None,
        bytes_up: 0,
        bytes_down: 0,
        ..session(18_861, "amqp", 0, 0)
    });
    snapshot.ended.insert(0, ended(18_860, "TW", "no link within 5 s", 1.0));
    snapshot.failures = failures();
    snapshot.totals.sessions_waiting = 1;
    snapshot.services[2].totals.sessions_waiting = 1;
    snapshot.log_lines_lost = 17;
    let (target, cause) = ("standard error".into(), "standard error is read too slowly".into());
    snapshot.log_losses = vec![LogLossRow { target, lost: 17, cause }];
    let service = |name: &str| ServiceRow {
        name: name.into(),
        connect: Some(format!("tcp://{name}.corp.example:9000")),
        ..snapshot.services[3].clone()
    };
    let dead = Some("backend web.corp.example:9000: connection refused (os error 111)".to_owned());
    snapshot.services = vec![
        service("chat"),
        ServiceRow { failed_in_a_row: 12, backend_error: dead, ..service("web") },
        service("amqp"),
        ServiceRow { backends: mail_backends(), ..service("mail") },
    ];
    snapshot.pools[0].serves = vec!["chat".into(), "web".into()];
    snapshot.pools[0].service = "*".into();
    snapshot
}

/// Of a list: one in use, one that is down, and one of a name that stands by.
fn mail_backends() -> Vec<BackendRow> {
    let backend = |address: &str, state, sessions| BackendRow {
        address: address.into(),
        name: None,
        state,
        sessions_open: u64::from(sessions > 0),
        sessions,
        failures: 0,
        last_error: None,
    };
    let refused = Some("connection refused (os error 111)".to_owned());
    vec![
        backend("tcp://mail.corp.example:9000", BackendRowState::Up, 18_861),
        BackendRow {
            failures: 3,
            last_error: refused,
            ..backend("tcp://mail-2.corp.example:9000", BackendRowState::Down, 0)
        },
        BackendRow {
            name: Some("spare.corp.example".into()),
            ..backend("tcp://10.1.4.20:9000", BackendRowState::Standby, 0)
        },
    ]
}

/// No link anywhere, and the gateway drains.
pub fn down() -> Snapshot {
    let error = Some("peer certificate is for wrong-name, not in peers".to_owned());
    let lost = |service| PoolRow {
        state: PoolState::Down,
        last_error: error.clone(),
        retry_seconds: Some(29.0),
        misses: 12,
        ..pool(Half::Dmz, service, 0, 8)
    };
    Snapshot {
        profile: "dmz".into(),
        halves: vec![Half::Dmz],
        phase: GatewayPhase::Draining,
        pools: vec![lost("orders"), lost("chat")],
        sessions: vec![],
        totals: TrafficTotals { sessions_open: 0, ..totals(0) },
        traffic: vec![TrafficSample::default(); 120],
        descriptors: DescriptorUsage { used: 1000, limit: 1024 },
        ..healthy()
    }
}

/// Links dialled, one for each session.
pub fn forward() -> Snapshot {
    let dialled = PoolRow {
        address: Some("10.0.0.5:41080".into()),
        carrying: 4,
        failures: 2,
        last_error: Some("timed out after 10 s".into()),
        ..pool(Half::Dmz, "*", 0, 0)
    };
    Snapshot {
        profile: "forward".into(),
        mode: Mode::Forward,
        halves: vec![Half::Dmz],
        listening: vec![],
        pools: vec![dialled],
        traffic: traffic(45),
        ..healthy()
    }
}

/// No links: services and their backends.
pub fn direct() -> Snapshot {
    let service = |name: &str, accept: &str, phase, totals| ServiceRow {
        accept: vec![accept.into()],
        connect: Some(format!("{name}.corp.example:8443")),
        phase,
        totals,
        drained: (phase == ServicePhase::Draining)
            .then(|| DrainRequest { since: "2026-01-31T14:01:58.000Z".into(), by: "dashboard".into() }),
        ..ServiceRow::new(Half::Dmz, name)
    };
    let mut snapshot = healthy();
    for row in &mut snapshot.sessions {
        row.peer = None;
    }
    for row in &mut snapshot.ended {
        row.peer = None;
    }
    Snapshot {
        profile: "direct".into(),
        mode: Mode::Direct,
        halves: vec![Half::Dmz],
        listening: vec![],
        pools: vec![],
        services: vec![
            service("orders", "tcp://0.0.0.0:8000", ServicePhase::Open, totals(1)),
            service(
                "chat",
                "ws://0.0.0.0:8001/chat",
                ServicePhase::Draining,
                TrafficTotals { refused: 7, ..totals(3) },
            ),
        ],
        ..snapshot
    }
}

/// One that runs, one that could, one with a problem.
pub fn profiles() -> Vec<ProfileRow> {
    let row = |name: &str, mode| ProfileRow {
        name: name.into(),
        file: Some(format!("/etc/portcullis/profiles/{name}.yaml")),
        is_current: false,
        mode: Some(mode),
        halves: vec![Half::Dmz, Half::Internal],
        services: vec!["chat".into(), "orders".into()],
        problems: vec![],
        refused: None,
    };
    let problem = ProblemRow {
        text: "dr-site.yaml:14:5: internal.link.pol: unknown key; remove it, or correct it to `pool`".into(),
        excerpt: vec!["   13 |   link:".into(), "   14 |     pol: 3".into(), "      |     ^".into()],
    };
    vec![
        ProfileRow { is_current: true, ..row("reverse", Mode::Reverse) },
        row("forward", Mode::Forward),
        ProfileRow {
            mode: None,
            halves: vec![],
            services: vec![],
            problems: vec![problem],
            ..row("dr-site", Mode::Direct)
        },
    ]
}

/// What the gateway of `forward` would change for `reverse`.
pub fn plan() -> SwitchPlan {
    SwitchPlan {
        profile: "reverse".into(),
        from: "forward".into(),
        from_mode: Mode::Forward,
        to: "reverse".into(),
        to_mode: Mode::Reverse,
        dmz: HalfChange::Replaced,
        internal: HalfChange::Replaced,
        services: vec![ServiceChange {
            half: Half::Dmz,
            service: "chat".into(),
            becomes: ServiceChangeKind::Removed,
            what: vec!["accept tcp://0.0.0.0:8001".into()],
        }],
        over: vec![],
        lost_grants: vec![],
        loses: vec![],
        opens: vec!["socks+tls://127.0.0.1:41443 for links".into()],
        closes: vec!["socks+tls://127.0.0.1:41444 for links".into()],
        links: vec!["the internal half dials socks+tls://127.0.0.1:41443 and keeps 8 ready".into()],
        retires: 8,
        stay: 4,
        end: vec![EndingSessions { service: "chat".into(), sessions: 2, drain_seconds: 30 }],
        lock: None,
        outlook: SwitchVerdict::Possible,
    }
}

/// More sessions than can be built at once: only a window of them is.
pub fn crowded(sessions: u64) -> Snapshot {
    let rows =
        (0..sessions).map(|n| session(n, if n % 3 == 0 { "orders" } else { "chat" }, n * 7919 % 90_001, n));
    Snapshot {
        totals: TrafficTotals { sessions_open: sessions + 2000, ..totals(0) },
        sessions: rows.collect(),
        sessions_left_out: 2000,
        pools: (0..40)
            .map(|n| format!("service-{n}"))
            .chain(["chat".into(), "orders".into()])
            .map(|service| pool(Half::Dmz, &service, 8, 8))
            .collect(),
        halves: vec![Half::Dmz],
        ..healthy()
    }
}

/// Names that try to move the cursor, to turn the line and to be endless.
pub fn hostile() -> Snapshot {
    let bad = format!("\u{1b}[2J\u{202e}evil\u{200b}\n日本語{}", "long".repeat(40));
    let mut snapshot = healthy();
    snapshot.profile = bad.clone();
    snapshot.listening = vec![bad.clone()];
    for row in &mut snapshot.sessions {
        (row.id, row.client, row.service, row.peer) =
            (bad.clone(), bad.clone(), bad.clone(), Some(bad.clone()));
    }
    for row in &mut snapshot.pools {
        (row.service, row.peer, row.last_error) = (bad.clone(), Some(bad.clone()), Some(bad.clone()));
        (row.misses, row.failures, row.ready) = (u64::MAX, u64::MAX, usize::MAX);
    }
    for row in &mut snapshot.ended {
        (row.end, row.reason) = (bad.clone(), bad.clone());
    }
    snapshot.failures = failures();
    for row in &mut snapshot.failures {
        (row.reason, row.service, row.end) = (bad.clone(), bad.clone(), bad.clone());
        (row.first, row.last, row.session, row.client) = (bad.clone(), bad.clone(), bad.clone(), bad.clone());
        (row.count, row.ago_seconds) = (u64::MAX, f64::INFINITY);
    }
    snapshot.failures_left_out = u64::MAX;
    snapshot.notices.push(Notice {
        gateway: None,
        time: "\u{1b}now".into(),
        level: NoticeLevel::Error,
        text: bad,
        rejected_link: None,
    });
    snapshot.totals = TrafficTotals {
        sessions_open: u64::MAX,
        sessions_waiting: u64::MAX,
        sessions: u64::MAX,
        refused: u64::MAX,
        bytes_up: u64::MAX,
        bytes_down: u64::MAX,
    };
    snapshot.traffic.push(TrafficSample { up: u64::MAX, down: u64::MAX });
    snapshot.uptime_seconds = f64::INFINITY;
    snapshot
}

fn pool(half: Half, service: &str, ready: usize, target: usize) -> PoolRow {
    let (peer, address) = match half {
        Half::Dmz => ("internal", "10.0.0.5"),
        Half::Internal => ("dmz", "192.0.2.1:41443"),
    };
    PoolRow {
        peer: Some(peer.into()),
        address: Some(address.into()),
        state: PoolState::Healthy,
        ready,
        target,
        protocol: Some("portcullis/2".into()),
        sessions: 5 * ready,
        round_trip_ms: Some(8.4),
        round_trip_spread_ms: Some(2.1),
        certificate_days: Some(300),
        wait_p50_ms: (half == Half::Dmz).then_some(0.4),
        wait_p99_ms: (half == Half::Dmz).then_some(212.0),
        links: (0..ready.min(9)).map(link).collect(),
        ..PoolRow::new(half, service.into())
    }
}

fn link(number: usize) -> LinkRow {
    LinkRow {
        id: 1 + number as u64,
        age_seconds: 900.0 - number as f64 * 100.0,
        state: if number == 0 { LinkState::Full } else { LinkState::Ready },
        sessions: 40 - number as u64,
        sessions_open: if number == 0 { 256 } else { 2 },
        address: Some(format!("10.0.0.5:{}", 40_000 + number)),
        tls: Some("TLS 1.3".into()),
        group: Some("X25519MLKEM768".into()),
        segments_sent: 40_000,
        segments_resent: 12,
    }
}

pub fn session(number: u64, service: &str, rate_up: u64, rate_down: u64) -> SessionRow {
    let age = (number % 4000) as u32;
    SessionRow {
        gateway: None,
        id: format!("{number:06x}"),
        half: Half::Dmz,
        service: service.into(),
        client: format!("203.0.113.{}:{}", number % 250, 40_000 + number % 20_000),
        peer: Some("internal".into()),
        phase: SessionPhase::Relaying,
        age_seconds: f64::from(age),
        idle_seconds: 0.1,
        last_byte_seconds: Some(0.1),
        bytes_up: rate_up * 17,
        bytes_down: rate_down * 17,
        rate_up,
        rate_down,
        waited_ms: Some(0.4),
        connected_ms: Some(1.8),
        via: Some(1 + number % 9),
        user: None,
        requests: 0,
        backend: None,
    }
}

pub fn ended(number: u64, end: &str, reason: &str, ago_seconds: f64) -> EndedRow {
    let row = session(number, "orders", 400, 90);
    EndedRow {
        gateway: None,
        id: row.id,
        half: row.half,
        service: row.service,
        client: row.client,
        peer: row.peer,
        end: end.into(),
        reason: reason.into(),
        seconds: 5.2,
        ago_seconds,
        bytes_up: row.bytes_up,
        bytes_down: row.bytes_down,
        user: None,
        requests: 0,
        backend: None,
    }
}

/// What has failed: a backend now, links now and then, a limit last night.
pub fn failures() -> Vec<FailureRow> {
    let row = |service: &str, end: &str, reason: &str, count, (first, last): (&str, &str), ago_seconds| {
        FailureRow {
            gateway: None,
            half: Half::Internal,
            service: service.into(),
            end: end.into(),
            reason: reason.into(),
            count,
            first: format!("2026-01-{first}:00.123Z"),
            last: format!("2026-01-{last}:59.456Z"),
            ago_seconds,
            session: format!("{:06x}", 18_000 + count),
            client: "203.0.113.7:51220".into(),
            peer: Some("dmz".into()),
        }
    };
    let (now, night) = (("31T13:58", "31T14:01"), ("30T23:12", "31T02:40"));
    vec![
        row("web", "BC", "backend web.corp.example:9000: connection refused (os error 111)", 12, now, 1.2),
        row("amqp", "TW", "no link within 5 s", 7, now, 9.0),
        row("mail", "PR", "the link to dmz is lost: no answer to a ping within 12 s", 3, night, 40_860.0),
        row("chat", "LA", "200 sessions are open, which is its limit", 18_861, night, 40_861.0),
    ]
}

fn totals(sessions_open: u64) -> TrafficTotals {
    TrafficTotals {
        sessions_open,
        sessions_waiting: 0,
        sessions: 18_861,
        refused: 7,
        bytes_up: 1_234_567_890,
        bytes_down: 98_765_432,
    }
}

pub fn notices() -> Vec<Notice> {
    let notice = |second: u8, level, text: &str| Notice {
        gateway: None,
        time: format!("2026-01-31T14:01:{second:02}.123Z"),
        level,
        text: text.into(),
        rejected_link: None,
    };
    vec![
        notice(1, NoticeLevel::Info, "gateway runs profile reverse"),
        notice(31, NoticeLevel::Info, "orders: 8 links ready from internal"),
        notice(42, NoticeLevel::Error, "chat: dial 10.1.4.9:143 refused, next in 1.2s"),
        notice(58, NoticeLevel::Warn, "chat: 1 link ready, 8 wanted"),
    ]
}

fn traffic(seconds: u64) -> Vec<TrafficSample> {
    let wave = |n: u64, height: u64| height / 20 * (10 + (n * 7 % 11)).min(20) * (n % 40 + 5) / 45;
    (0..seconds).map(|n| TrafficSample { up: wave(n, 84_200_000), down: wave(n + 9, 12_900_000) }).collect()
}
