//! Many gateways on one screen: who is there, sessions from client to backend in one row, and commands to the
//! gateway of the chosen row.

use std::sync::Arc;

use portcullis::{
    gateway::handle::{AdminAccess, Command, CommandAnswer},
    profile::{Half, Mode},
    telemetry::{
        failures::FailureRow,
        health::{Alert, AlertKind, Health},
        registry::{KillSelection, ListedSessions},
        snapshot::{
            EndedRow, GatewayFacts, GatewayPhase, GatewayReach, GatewayRow, Notice, PoolRow, PoolState,
            ServiceRow, SessionPhase, SessionRow, Snapshot, TrafficTotals,
        },
    },
    tui::{
        app::{App, StatusMessage, UpdateResult},
        fleet::AskedAs,
        source::Attachment,
        style::ScreenStyle,
    },
};

use crate::{check, pictures, press, report, styled};

fn gateway(name: &str, half: Half, reach: GatewayReach, health: Health) -> GatewayRow {
    let received = GatewayFacts {
        version: "0.1.0".into(),
        host: format!("{name}.example"),
        profile: "shop".into(),
        mode: Mode::Reverse,
        halves: vec![half],
        phase: GatewayPhase::Running,
        health: Some(health),
        ready: Some(health != Health::Down),
        uptime_seconds: 7322.0,
        instance: format!("i-{name}"),
        links_ready: 8,
        links_wanted: 8,
        sessions_open: 2,
        sessions_waiting: 0,
        sessions: 17,
        refused: 3,
        rate_up: 41_000_000,
        rate_down: 1_200_000,
        alerts: usize::from(health != Health::Healthy),
        worst: (health != Health::Healthy).then(|| "orders: clients wait for a link".into()),
        switching: None,
        walk: None,
        forward_checks: Vec::new(),
    };
    GatewayRow {
        name: name.into(),
        target: format!("ssh:ops@{name}:shop"),
        reach,
        since_seconds: 312.0,
        why: (reach == GatewayReach::Unreachable)
            .then(|| "ops@10.0.0.9: Permission denied (publickey).".into()),
        heard_seconds: Some(0.4),
        heard: (reach != GatewayReach::Calling).then_some(received),
    }
}

pub fn session(id: &str, half: Half, gateway: &str, peer: &str, bytes: u64) -> SessionRow {
    SessionRow {
        gateway: Some(gateway.into()),
        id: id.into(),
        half,
        client: "203.0.113.7:51220".into(),
        peer: Some(peer.into()),
        bytes_up: bytes,
        bytes_down: 2 * bytes,
        idle_seconds: 9.0,
        waited_ms: (half == Half::Dmz).then_some(12.0),
        connected_ms: Some(if half == Half::Dmz { 4.0 } else { 3.0 }),
        via: Some(if half == Half::Dmz { 17 } else { 4 }),
        backend: (half == Half::Internal).then(|| format!("tcp://{gateway}-db.corp:5432").into()),
        ..pictures::session(1, "orders", 1200, 3400)
    }
}

fn pool(gateway: &str, half: Half, peer: &str, instance: &str) -> PoolRow {
    PoolRow {
        gateway: Some(gateway.into()),
        peer: Some(peer.into()),
        address: Some("10.0.0.5".into()),
        instance: Some(instance.into()),
        state: PoolState::Healthy,
        ready: 8,
        target: 8,
        ..PoolRow::new(half, "*".into())
    }
}

fn service(gateway: &str, half: Half, sessions_open: u64) -> ServiceRow {
    ServiceRow {
        totals: TrafficTotals { sessions_open, ..TrafficTotals::default() },
        gateway: Some(gateway.into()),
        accept: if half == Half::Dmz { vec!["tcp://0.0.0.0:8000".into()] } else { Vec::new() },
        connect: (half == Half::Internal).then(|| format!("tcp://{gateway}-db.corp:5432")),
        ..ServiceRow::new(half, "orders")
    }
}

/// Two edges and an inside that are linked, one edge that cannot be reached, and one that is called.
pub fn fleet() -> Snapshot {
    use GatewayReach::{Calling, Reached, Unreachable};
    let alert = |name: &str, kind, object: &str, text: &str| Alert {
        gateway: Some(name.into()),
        kind,
        object: object.into(),
        address: None,
        since: "2026-01-31T13:57:00.000Z".into(),
        text: text.into(),
    };
    let denied = "gateway edge-3 cannot be reached: ops@10.0.0.9: Permission denied (publickey).";
    Snapshot {
        halves: vec![Half::Dmz, Half::Internal],
        phase: GatewayPhase::Running,
        health: Some(Health::Degraded),
        uptime_seconds: 62.0,
        time: "2026-01-31T14:02:00.000Z".into(),
        gateways: vec![
            gateway("edge-3", Half::Dmz, Unreachable, Health::Healthy),
            gateway("edge-4", Half::Dmz, Calling, Health::Healthy),
            gateway("edge-2", Half::Dmz, Reached, Health::Degraded),
            gateway("edge-1", Half::Dmz, Reached, Health::Healthy),
            gateway("inside-1", Half::Internal, Reached, Health::Healthy),
        ],
        alerts: vec![
            alert("edge-3", AlertKind::Unreachable, "edge-3", denied),
            alert("edge-2", AlertKind::Starved, "orders", "edge-2: orders: clients wait for a link"),
        ],
        totals: TrafficTotals {
            sessions_open: 4,
            sessions_waiting: 1,
            sessions: 42,
            ..TrafficTotals::default()
        },
        services: vec![
            service("edge-1", Half::Dmz, 7),
            service("edge-2", Half::Dmz, 9),
            service("inside-1", Half::Internal, 16),
        ],
        pools: vec![
            pool("edge-1", Half::Dmz, "inside", "i-inside-1"),
            pool("edge-2", Half::Dmz, "inside", "i-inside-1"),
            pool("inside-1", Half::Internal, "dmz-1", "i-edge-1"),
            pool("inside-1", Half::Internal, "dmz-2", "i-edge-2"),
        ],
        sessions: vec![
            session("00a1", Half::Dmz, "edge-1", "inside", 5000),
            session("00a1", Half::Internal, "inside-1", "dmz-1", 5000),
            session("00a2", Half::Dmz, "edge-2", "inside", 7000),
            session("00a2", Half::Internal, "inside-1", "dmz-2", 6000),
            // The same id from a gateway that the edge is not linked with: nobody believes it.
            session("00a3", Half::Dmz, "edge-1", "inside", 900),
            session("00a3", Half::Internal, "inside-1", "dmz-2", 900),
            SessionRow {
                phase: SessionPhase::Waiting,
                peer: None,
                ..session("00a4", Half::Dmz, "edge-2", "-", 0)
            },
        ],
        ended: vec![ended("00b1", Half::Dmz, "edge-1", 300), ended("00b1", Half::Internal, "inside-1", 200)],
        notices: vec![Notice { gateway: Some("edge-2".into()), ..pictures::notices()[0].clone() }],
        failures: ["edge-2", "inside-1"]
            .into_iter()
            .zip(pictures::failures())
            .map(|(name, row)| FailureRow { gateway: Some(name.into()), ..row })
            .collect(),
        ..Snapshot::new("3 of 5 gateways", Mode::Reverse)
    }
}

fn ended(id: &str, half: Half, gateway: &str, bytes_up: u64) -> EndedRow {
    let peer = if half == Half::Dmz { "inside" } else { "dmz-1" };
    let gateway = Some(gateway.into());
    let plain = pictures::ended(1, "--", "both sides finished", 2.0);
    EndedRow { gateway, half, id: id.into(), peer: Some(peer.into()), bytes_up, ..plain }
}

pub fn app() -> App {
    let mut app = App::new(Arc::new(fleet()), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    app
}

pub fn text(app: &App) -> String {
    styled::dump(&styled::draw(app, 200, 50))
}

#[test]
fn every_screen_of_a_fleet_is_as_it_was() {
    let mut wrong = vec![];
    for (name, keys) in [
        ("overview", "1"),
        ("gateways", "8j"),
        ("sessions", "3jj"),
        ("pool", "2j"),
        ("services", "4j"),
        ("events", "5"),
        ("failures", "7j"),
        ("path", "9"),
        ("path-selected", "9jjjjj"),
        ("doctor", "0j"),
        ("detail", "3jjj\n"),
        ("gateway-detail", "8j\n"),
        ("only", "8gjjjo3"),
        ("ask", "3jjx"),
        ("help", "8?"),
    ] {
        let mut app = app();
        press(&mut app, keys);
        for size in [(120, 36), (80, 24), (40, 10)] {
            check(&format!("fleet-{name}"), &app, size, &mut wrong);
        }
    }
    report(&wrong);
}

#[test]
fn a_session_that_two_gateways_carry_is_one_row_from_client_to_backend() {
    let mut app = app();
    press(&mut app, "3");
    let shown = text(&app);
    let line =
        |id: &str| shown.lines().filter(|line| line.contains(id)).map(str::to_owned).collect::<Vec<_>>();
    let [joined] = line("00a1").try_into().unwrap();
    for part in ["203.0.113.7:51220", "edge-1", "17", "inside-1", "12ms+3.0ms", "tcp://inside-1-"] {
        assert!(joined.contains(part), "{part}: {joined}");
    }
    assert!(!joined.contains('≠'), "{joined}");
    assert!(line("00a2")[0].contains("7.0k≠"), "bytes that disagree are marked: {:?}", line("00a2"));
    assert_eq!(line("00a3").len(), 2, "an id alone proves nothing: {shown}");
    assert_eq!(line("00b1").len(), 1, "the same of one that has ended");
    assert!(line("00b1")[0].contains("300≠"), "{:?}", line("00b1"));
    assert_eq!(line("00b1")[0].matches('≠').count(), 1, "they agree the other way: {:?}", line("00b1"));
    press(&mut app, "/gateway:inside\n");
    assert!(text(&app).contains("00a1") && !text(&app).contains("00a4"), "a session is of both its gateways");
    press(&mut app, "/!gateway:inside\n");
}

/// Bytes on their way between two snapshots do not count as a difference.
#[test]
fn bytes_that_move_are_not_compared() {
    let mut moving = fleet();
    moving.sessions.iter_mut().for_each(|row| row.idle_seconds = 1.0);
    let mut app = App::new(Arc::new(moving), ScreenStyle::FULL);
    press(&mut app, "3");
    assert!(!text(&app).lines().any(|line| line.contains("00a2") && line.contains('≠')));
}

#[test]
fn a_command_goes_to_the_gateway_of_its_row_and_the_question_names_it() {
    let mut app = app();
    press(&mut app, "8jjjd");
    press(&mut app, "4jd");
    assert!(
        text(&app).contains("edge-1: Drain orders? No new sessions; 7 open sessions continue"),
        "{}",
        text(&app)
    );
    let drain = Command::Drain { service: Some("orders".into()) };
    assert_eq!(press(&mut app, "y"), UpdateResult::AskGateways(vec![("edge-1".into(), drain)]));

    press(&mut app, "8gjjj");
    let reload = |name: &str| UpdateResult::AskGateways(vec![(name.into(), Command::Reload)]);
    assert_eq!(press(&mut app, "r"), reload("edge-1"));
    press(&mut app, ":stop\n");
    assert!(text(&app).contains("edge-1: Stop the gateway? 2 open sessions"), "{}", text(&app));
    assert_eq!(press(&mut app, "y"), UpdateResult::AskGateways(vec![("edge-1".into(), Command::Stop)]));

    press(&mut app, ":kill 00a2\n");
    assert!(text(&app).contains("edge-2: Close session 00a2"), "{}", text(&app));
    let kill = |id: &str| Command::Kill { session: id.into() };
    assert_eq!(press(&mut app, "y"), UpdateResult::AskGateways(vec![("edge-2".into(), kill("00a2"))]));

    // Of two rows with one id that are different sessions, it is the chosen one.
    for (name, filter) in [("inside-1", "/id:00a3 gateway:inside\n"), ("edge-1", "/id:00a3 gateway:edge\n")] {
        press(&mut app, "3");
        app.press(crossterm::event::KeyCode::Esc.into());
        app.press(crossterm::event::KeyCode::Esc.into());
        press(&mut app, filter);
        press(&mut app, "jx");
        assert!(text(&app).contains(&format!("{name}: Close session")), "{name}: {}", text(&app));
        let UpdateResult::AskGateways(requested) = press(&mut app, "y") else { panic!("it asks nobody") };
        assert_eq!(requested.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn closing_all_that_pass_names_every_gateway_and_asks_each_for_its_own() {
    // By a filter, and by the row of a client.
    for (keys, of) in [("3/service:orders\nX", "service:orders"), ("3ajx", "203.0.113.7")] {
        let mut app = app();
        press(&mut app, keys);
        let shown = text(&app);
        assert!(shown.contains("edge-1, edge-2, inside-1: Close 5 sessions of"), "{keys}: {shown}");
        let UpdateResult::AskGateways(mut requested) = press(&mut app, "y") else { panic!("it asks nobody") };
        let mut listed = Vec::new();
        for (gateway, command) in &mut requested {
            let Command::KillAll(KillSelection::Listed(ListedSessions { sessions, by })) = command else {
                panic!("{gateway}: {command:?}")
            };
            assert!(by.contains(of), "{by}");
            sessions.sort();
            listed.push((&**gateway, sessions.join(" ")));
        }
        let expected = [("edge-1", "00a1 00a3"), ("edge-2", "00a2 00a4"), ("inside-1", "00a3")];
        assert_eq!(listed, expected.map(|(gateway, sessions)| (gateway, sessions.into())), "{keys}");
    }
}

#[test]
fn a_gateway_that_was_lost_is_dismissed_where_its_row_is() {
    let mut fleet = fleet();
    let row = &mut fleet.pools[1];
    (row.state, row.ready, row.gone_seconds) = (PoolState::Down, 0, Some(62.0));
    let mut app = App::new(Arc::new(fleet), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    let dismissed = Command::Dismiss { peer: "inside".into() };
    assert_eq!(press(&mut app, "2jx"), UpdateResult::AskGateways(vec![("edge-2".into(), dismissed)]));
}

#[test]
fn what_no_row_says_the_gateway_of_is_asked_of_nobody() {
    for keys in ["1r", "1v", "3:stop\n", "4:drain orders\n", "6"] {
        let mut app = app();
        let reaction = press(&mut app, keys);
        assert!(
            !matches!(reaction, UpdateResult::Ask(_) | UpdateResult::AskGateways(_)),
            "{keys}: {reaction:?}"
        );
        let reported = app.status_message();
        assert!(
            matches!(reported, Some(StatusMessage::Refused(why)) if why.contains("no gateway is chosen")),
            "{keys}: {reported:?}"
        );
        assert_eq!(press(&mut app, "y"), UpdateResult::Redraw, "{keys}: no question stands");
    }
}

#[test]
fn one_gateway_alone_can_be_looked_at_and_all_again() {
    let mut app = app();
    press(&mut app, ":only edge-1\n");
    assert_eq!(app.scope().map(|name| &**name), Some("edge-1"));
    let pools = |app: &App| app.snapshot().pools.len();
    assert_eq!(pools(&app), 1);
    press(&mut app, "3");
    let shown = text(&app);
    assert!(shown.contains("00a1") && !shown.contains("00a2"), "{shown}");
    let line = |id: &str| shown.lines().find(|line| line.contains(id)).unwrap_or_default();
    for part in ["inside-1", "tcp://inside-1-", "12ms+3.0ms"] {
        assert!(line("00a1").contains(part), "the other end of its sessions is reported with them: {shown}");
    }
    assert!(!line("00a3").contains("inside-1 "), "an id alone proves nothing here either: {shown}");
    // The next snapshot is narrowed too, and commands need no row.
    app.receive_snapshot(Arc::new(Snapshot { uptime_seconds: 63.0, ..fleet() }));
    assert_eq!(pools(&app), 1);
    assert_eq!(press(&mut app, "r"), UpdateResult::AskGateways(vec![("edge-1".into(), Command::Reload)]));
    press(&mut app, "o");
    assert_eq!((pools(&app), app.scope()), (4, None));
    press(&mut app, ":only nobody\n");
    assert_eq!(pools(&app), 4);
}

/// Two edges have the same service, peer and address; each is compared with itself.
#[test]
fn a_frozen_fleet_counts_only_what_has_changed() {
    let mut before = fleet();
    before.pools[1].state = PoolState::Down;
    let after = |change: fn(&mut Snapshot)| {
        let mut after = Snapshot { uptime_seconds: 67.0, ..before.clone() };
        change(&mut after);
        let mut app = App::new(Arc::new(before.clone()), ScreenStyle::FULL);
        press(&mut app, " ");
        app.receive_snapshot(Arc::new(after));
        text(&app)
    };
    let same = after(|_| {});
    assert!(same.contains("(+0 changes)"), "{same}");
    let healed = after(|snapshot| snapshot.pools[1].state = PoolState::Healthy);
    assert!(healed.contains("(+1 changes)"), "{healed}");
}

#[test]
fn profiles_are_those_of_the_chosen_gateway() {
    let mut app = app();
    press(&mut app, "8gjjj");
    assert_eq!(press(&mut app, "p"), UpdateResult::AskGateways(vec![("edge-1".into(), Command::Profiles)]));
    app.take_answer_of("edge-2".into(), AskedAs::Alone, CommandAnswer::Profiles(Vec::new()));
    app.take_answer_of("edge-1".into(), AskedAs::Alone, CommandAnswer::Profiles(pictures::profiles()));
    app.take_answer_of("edge-2".into(), AskedAs::Alone, CommandAnswer::Profiles(Vec::new()));
    press(&mut app, "j");
    let plan = Command::Plan { profile: "reverse".into() };
    assert_eq!(press(&mut app, "p"), UpdateResult::AskGateways(vec![("edge-1".into(), plan)]));
    // Something else is asked of another gateway before the plan comes, and left.
    press(&mut app, ":kill 00a2\n");
    app.press(crossterm::event::KeyCode::Esc.into());
    app.take_answer_of("edge-1".into(), AskedAs::Alone, CommandAnswer::Planned(pictures::plan().into()));
    assert!(text(&app).contains("edge-1: Switch from"), "{}", text(&app));
}

#[test]
fn a_screen_that_may_only_look_asks_for_nothing() {
    let mut app = app();
    app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
    for keys in ["8jjjr", "3jx", "4jd", "3X"] {
        assert_eq!(press(&mut app, keys), UpdateResult::Redraw, "{keys}");
    }
    assert!(text(&app).contains("READ-ONLY"));
}

/// Names with signs that drive a terminal, numbers at their end, times from the future, and more gateways than
/// there are lines.
#[test]
fn hostile_gateways_keep_to_their_rows() {
    let mut hostile = fleet();
    for (number, row) in (0..20).zip(fleet().gateways.iter().cycle()) {
        let mut row = row.clone();
        row.name = format!("\u{1b}[2Jgateway-{number}\u{202e}").into();
        row.why = Some("\u{1b}]0;title\u{7}".repeat(100));
        row.since_seconds = f64::MAX;
        row.heard_seconds = Some(-1e300);
        if let Some(received) = &mut row.heard {
            (received.links_ready, received.links_wanted, received.rate_up) =
                (usize::MAX, usize::MAX, u64::MAX);
            (received.sessions_open, received.uptime_seconds) = (u64::MAX, -5.0);
            received.version = "\u{1b}[31m9.9".into();
        }
        hostile.gateways.push(row);
    }
    for row in &mut hostile.pools {
        (row.ready, row.target, row.carrying) = (usize::MAX, usize::MAX, usize::MAX);
        (row.sessions, row.waiting, row.dialling) = (usize::MAX, usize::MAX, usize::MAX);
    }
    for row in &mut hostile.services {
        let most = u64::MAX;
        row.totals = TrafficTotals {
            sessions_open: most,
            sessions_waiting: most,
            sessions: most,
            refused: most,
            bytes_up: most,
            bytes_down: most,
        };
    }
    for row in &mut hostile.sessions {
        (row.age_seconds, row.idle_seconds, row.bytes_up) = (-1e9, -1e9, u64::MAX);
        row.gateway = Some("\u{1b}[2J".into());
    }
    let mut app = App::new(Arc::new(hostile), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    for keys in [
        "1",
        "2j",
        "3j",
        "3j\n",
        "4",
        "4jd",
        "5",
        "8jjjjjjjj",
        "8G\n",
        "7",
        "9",
        "9G",
        "0G",
        "0G\n",
        "H",
        ":stop\n",
        "2jjj:lockdown\n",
    ] {
        press(&mut app, keys);
        for (width, height) in [(200, 50), (120, 36), (80, 24), (60, 15), (40, 10), (1, 1)] {
            let buffer = styled::draw(&app, width, height);
            for y in 0..height {
                let line = styled::line(&buffer, y);
                let is_plain = |c: char| !c.is_control() && !matches!(c, '\u{202e}' | '\u{200b}');
                assert!(line.chars().all(is_plain), "{line:?}");
            }
        }
        app.press(crossterm::event::KeyCode::Esc.into());
    }
}

#[test]
fn an_event_that_wraps_keeps_its_gateways_name() {
    let mut fleet = fleet();
    let long = "cannot be reached: this does not start: No such file or directory; correct the command";
    fleet.notices = vec![Notice {
        gateway: Some("edge-3".into()),
        text: format!("{long}, {long}"),
        ..pictures::notices()[0].clone()
    }];
    let mut app = App::new(Arc::new(fleet), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    for size in [(120, 36), (80, 24)] {
        let shown = styled::dump(&styled::draw(&app, size.0, size.1));
        assert!(shown.contains("edge-3: cannot be"), "{shown}");
    }
    press(&mut app, "5j");
    let shown = styled::dump(&styled::draw(&app, 80, 24));
    assert_eq!(shown.matches("edge-3: cannot be").count(), 2, "in its line and in full below: {shown}");
}

#[test]
fn with_one_gateway_alone_header_and_sums_are_its_own() {
    let mut app = app();
    press(&mut app, ":only edge-1\n");
    press(&mut app, "3");
    let shown = text(&app);
    let header = shown.lines().next().unwrap();
    assert!(header.contains("edge-1 [REVERSE]") && header.contains("│ dmz │"), "{header}");
    assert!(header.contains("up 2h02m"), "{header}");
    assert!(shown.contains("2 open of 17, 0 waiting, 3 refused"), "{shown}");
    let mut never = fleet();
    (never.gateways[0].heard, never.gateways[0].heard_seconds) = (None, None);
    let mut app = App::new(Arc::new(never), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, ":only edge-3\n");
    let shown = text(&app);
    let header = shown.lines().next().unwrap();
    assert!(header.contains("UNREACHABLE"), "{header}");
    for invented in ["running", "REVERSE", "dmz", "HEALTHY", "up "] {
        assert!(!header.contains(invented), "{invented}: {header}");
    }
}

#[test]
fn a_gateway_that_drains_says_so_and_one_long_gone_has_no_numbers() {
    let mut fleet = fleet();
    let facts = fleet.gateways[3].heard.as_mut().unwrap();
    (facts.phase, facts.health, facts.worst) = (GatewayPhase::Draining, Some(Health::Down), None);
    let mut app = App::new(Arc::new(fleet), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, "8");
    let shown = text(&app);
    let line = |name: &str| shown.lines().find(|line| line.contains(&format!(" {name} "))).unwrap();
    assert!(line("edge-1").contains("it drains: no new sessions"), "{shown}");
    assert!(!line("edge-3").contains("8/8") && line("edge-2").contains("8/8"), "{shown}");
}
