//! The last hours: asked for by the screen itself, drawn in charts at every size, of one gateway and of a fleet.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crossterm::event::KeyCode;
use portcullis::{
    gateway::handle::{AdminAccess, CommandAnswer},
    profile::Half,
    record::{PlayerAction, PlayerState, ReplayProgress},
    telemetry::{
        history::{HistoryReport, HistoryRequest, HistorySample},
        history_rows::{MinuteRow, MinuteRows, RowSubject},
        snapshot::{GatewayReach, Snapshot},
    },
    tui::{
        app::{App, UpdateResult},
        source::Attachment,
        style::ScreenStyle,
    },
};

use crate::{app, check, fleet, pictures, press, report, styled};

const NOW: u64 = 1_769_868_120;

/// A working day: clients come and go, the links are lost once, and for ten minutes the gateway was off.
fn sample_report(requested: HistoryRequest) -> HistoryReport {
    let step = requested.step_seconds;
    let first = (NOW - step * requested.steps) / step * step;
    let samples =
        (0..requested.steps).map(|n| (n, first + n * step)).filter(|(n, _)| !(120..132).contains(n));
    let samples = samples.map(|(n, at)| {
        let n = n / 2;
        let up = 84_200_000 / 150 * n.min(300 - n) * (10 + n * 7 % 5) / 14;
        let is_lost = (200..206).contains(&n);
        HistorySample {
            at,
            seconds: step,
            up,
            up_max: 2 * up,
            down: up / 7,
            down_max: up / 3,
            open: 20 + n / 3,
            waiting: if is_lost { 9 } else { 0 },
            links: if is_lost { n - 200 } else { 8 },
            links_wanted: 8,
            refused: if is_lost { n - 198 } else { 0 },
            wait_ms: (n > 100).then_some(if is_lost { 2900.0 } else { 0.4 + (n % 9) as f64 * 0.3 }),
        }
    });
    HistoryReport { now: NOW, step_seconds: step, samples: samples.collect(), rows: None }
}

/// Answers what the screen asks by itself.
#[track_caller]
pub fn answer(app: &mut App, of: impl Fn(Option<&str>, HistoryRequest) -> CommandAnswer) -> usize {
    let requested = app.history_requests();
    for (name, request) in &requested {
        app.take_history(name.clone(), *request, of(name.as_deref(), *request));
    }
    requested.len()
}

pub fn report_of(_: Option<&str>, requested: HistoryRequest) -> CommandAnswer {
    CommandAnswer::History(Box::new(sample_report(requested)))
}

fn text(app: &App, (width, height): (u16, u16)) -> String {
    let buffer = styled::draw(app, width, height);
    (0..height).map(|y| styled::line(&buffer, y) + "\n").collect()
}

#[test]
fn the_last_hours_are_drawn_as_they_were() {
    let mut wrong = vec![];
    for (name, longer) in [("history", 0), ("history-day", 3)] {
        let mut app = app(pictures::healthy());
        press(&mut app, "H");
        (0..longer).for_each(|_| drop(press(&mut app, "+")));
        answer(&mut app, report_of);
        for size in [(200, 60), (120, 36), (80, 24), (60, 15), (40, 10), (1, 1)] {
            check(name, &app, size, &mut wrong);
        }
    }
    let mut app = app(pictures::healthy());
    press(&mut app, "H");
    answer(&mut app, report_of);
    (0..33).for_each(|_| drop(press(&mut app, "h")));
    check("history-cursor", &app, (120, 36), &mut wrong);
    report(&wrong);
}

#[test]
fn it_is_asked_for_while_it_is_shown_and_not_too_often() {
    let mut app = app(pictures::healthy());
    assert_eq!(answer(&mut app, report_of), 0, "the overview needs none");
    press(&mut app, "H");
    assert_eq!(answer(&mut app, report_of), 1);
    let later = |app: &mut App, seconds: f64| {
        let uptime_seconds = app.latest().uptime_seconds + seconds;
        app.receive_snapshot(Arc::new(pictures::judged(Snapshot { uptime_seconds, ..pictures::healthy() })));
        answer(app, report_of)
    };
    assert_eq!((later(&mut app, 1.0), later(&mut app, 2.5)), (0, 1));
    press(&mut app, "+++");
    assert_eq!(
        answer(&mut app, |_, requested| {
            assert_eq!(requested.step_seconds * requested.steps, 86_400);
            report_of(None, requested)
        }),
        1,
        "another time is asked for at once"
    );
    assert_eq!((later(&mut app, 20.0), later(&mut app, 11.0)), (0, 1), "a day moves slowly");
    press(&mut app, " ");
    assert_eq!(later(&mut app, 90.0), 0, "a frozen screen asks for nothing");
}

#[test]
fn a_cursor_tells_what_was_then_and_leaves_for_now() {
    let mut app = app(pictures::healthy());
    press(&mut app, "H");
    answer(&mut app, report_of);
    assert!(text(&app, (120, 36)).contains("now 14:02:00Z") && text(&app, (120, 36)).contains("8/8"));
    // The links were lost 200 s before the end of ten minutes.
    (0..33).for_each(|_| drop(press(&mut app, "h")));
    let then = text(&app, (120, 36));
    assert!(then.contains("at 13:58:") && then.contains("9 wait"), "{then}");
    app.press(KeyCode::Right.into());
    assert!(text(&app, (120, 36)).contains("at 13:58:"));
    app.press(KeyCode::Esc.into());
    assert!(!text(&app, (120, 36)).contains("at 13:58:"), "the newest again");
    (0..300).for_each(|_| drop(press(&mut app, "h")));
    let oldest = text(&app, (120, 36));
    assert!(
        oldest.contains("at 13:51:5") || oldest.contains("at 13:52:0"),
        "it stops at the oldest\n{oldest}"
    );
}

#[test]
fn columns_move_left_and_never_change_their_shape() {
    let draw = |now: u64| {
        let mut app = app(pictures::healthy());
        press(&mut app, "H");
        answer(&mut app, |_, requested| {
            let mut whole = sample_report(requested);
            whole.now = now;
            whole.samples.retain(|sample| sample.at <= now);
            CommandAnswer::History(Box::new(whole))
        });
        text(&app, (120, 36)).lines().nth(7).unwrap().to_owned()
    };
    // A column has seven seconds' worth of steps and more: a step later only the newest may differ.
    let (before, after) = (draw(NOW - 40), draw(NOW - 38));
    let same = before.chars().zip(after.chars()).filter(|(a, b)| a == b).count();
    assert!(same + 3 >= before.chars().count(), "{before}\n{after}");
}

#[test]
fn a_fleet_is_summed_where_clients_come_in_and_one_that_has_none_costs_itself() {
    let mut app = App::new(Arc::new(fleet::fleet()), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
    press(&mut app, "H");
    let requested = answer(&mut app, |name, requested| match name {
        Some("edge-2") => CommandAnswer::Refused("it is not a request".into()),
        Some("inside-1") => {
            let mut inner = sample_report(requested);
            inner.samples.iter_mut().for_each(|sample| sample.open = 77_777);
            CommandAnswer::History(Box::new(inner))
        }
        _ => report_of(name, requested),
    });
    assert_eq!(requested, 3, "those that are reached");
    let mut more = Snapshot { uptime_seconds: 63.0, ..fleet::fleet() };
    assert_eq!(answer(&mut app, report_of), 0, "not so soon again");
    more.gateways[1].reach = GatewayReach::Reached;
    let mut other = App::new(Arc::new(fleet::fleet()), ScreenStyle::FULL);
    press(&mut other, "H");
    answer(&mut other, report_of);
    other.receive_snapshot(Arc::new(more));
    assert_eq!(answer(&mut other, report_of), 4, "one that is reached now is asked at once");
    let shown = text(&app, (120, 36));
    assert!(shown.contains("119 open") && !shown.contains("77.8k"), "{shown}");
    // Under the cursor each of them has a line: what it kept itself, or why it has kept nothing.
    (0..33).for_each(|_| drop(press(&mut app, "h")));
    let mut wrong = vec![];
    check("history-fleet-cursor", &app, (120, 36), &mut wrong);
    report(&wrong);
    let then = text(&app, (120, 36));
    let line = |name: &str| then.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("edge-1").contains("87 open"), "{then}");
    assert!(line("inside-1").contains("77.8k open") && line("inside-1").contains("9 wait"), "{then}");
    assert!(line("edge-2").contains("it is not a request"), "{then}");
    app.press(KeyCode::Esc.into());
    assert!(!text(&app, (120, 36)).contains("inside-1"), "now the charts have the room");
    press(&mut app, ":only edge-2\n");
    let later = Snapshot { uptime_seconds: 99.0, ..fleet::fleet() };
    app.receive_snapshot(Arc::new(later));
    assert_eq!(answer(&mut app, |_, _| CommandAnswer::Refused("it is not a request".into())), 1);
    assert!(text(&app, (120, 36)).contains("no history: it is not a request"));
}

/// What it has reported was so; only what comes after lacks it, which is reported.
#[test]
fn a_gateway_that_is_lost_keeps_its_past() {
    let of = |uptime_seconds: f64, reach: GatewayReach| {
        let mut snapshot = Snapshot { uptime_seconds, ..fleet::fleet() };
        snapshot.gateways.retain(|row| row.reach == GatewayReach::Reached);
        let row = snapshot.gateways.iter_mut().find(|row| &*row.name == "edge-1");
        row.unwrap().reach = reach;
        Arc::new(snapshot)
    };
    let later = |requested, seconds| {
        CommandAnswer::History(Box::new(HistoryReport { now: NOW + seconds, ..sample_report(requested) }))
    };
    let mut app = App::new(of(60.0, GatewayReach::Reached), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
    press(&mut app, "H");
    assert_eq!(answer(&mut app, report_of), 3);
    let shown = text(&app, (120, 36));
    assert!(shown.contains("238 open") && !shown.contains("of 2 gateways"), "{shown}");
    // It is lost, which its answer tells before the snapshot does.
    app.receive_snapshot(of(75.0, GatewayReach::Reached));
    answer(&mut app, |name, requested| match name {
        Some("edge-1") => CommandAnswer::Refused("the gateway is lost".into()),
        _ => later(requested, 15),
    });
    app.receive_snapshot(of(90.0, GatewayReach::Unreachable));
    assert_eq!(answer(&mut app, |_, requested| later(requested, 30)), 2, "those that are reached");
    let shown = text(&app, (120, 36));
    assert!(shown.contains("238 open") && shown.contains("now 1 of 2 gateways"), "{shown}");
    (0..40).for_each(|_| drop(press(&mut app, "h")));
    let then = text(&app, (120, 36));
    let line = then.lines().find(|line| line.contains("edge-1")).unwrap_or_default();
    assert!(line.contains(" open"), "{then}");
    // One that refuses all the time has no past that anybody knows.
    for seconds in [105.0, 120.0] {
        app.receive_snapshot(of(seconds, GatewayReach::Reached));
        answer(&mut app, |name, requested| match name {
            Some("edge-1") => CommandAnswer::Refused("it keeps none".into()),
            _ => later(requested, 45),
        });
    }
    assert!(text(&app, (120, 36)).contains("it keeps none"));
    press(&mut app, ":only edge-2\n");
    assert_eq!(answer(&mut app, |_, requested| later(requested, 60)), 2, "its charts and its rows, at once");
    let one = text(&app, (120, 36));
    assert!(one.contains("119 open") && !one.contains("238 open") && !one.contains("gateways"), "{one}");
}

/// The clock of one goes two minutes behind: its samples are still of the same moments.
#[test]
fn a_fleet_whose_clocks_differ_has_no_dip_that_never_was() {
    let draw = |behind: u64| {
        let mut app = App::new(Arc::new(fleet::fleet()), ScreenStyle::FULL);
        app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
        press(&mut app, "H");
        answer(&mut app, |name, requested| {
            let mut own = sample_report(requested);
            if name == Some("edge-2") {
                own.now -= behind;
                own.samples.iter_mut().for_each(|sample| sample.at -= behind);
            }
            CommandAnswer::History(Box::new(own))
        });
        let shown = text(&app, (120, 36));
        shown.lines().filter(|line| line.contains('█')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(draw(120), draw(0));
    assert_eq!(draw(3600), draw(0));
}

/// Under the cursor each service and each peer has its row of that minute.
#[test]
fn under_the_cursor_services_and_links_are_as_they_were() {
    let row = |subject, name: &str, open, links| MinuteRow {
        half: Half::Dmz,
        subject,
        name: name.into(),
        up: 84_000,
        down: 12_000,
        open,
        waiting: 9,
        refused: 4,
        links,
        links_wanted: 8,
    };
    let then = move |_: Option<&str>, requested: HistoryRequest| {
        let rows = requested.rows_at.map(|at| {
            let rows = vec![
                row(RowSubject::Service, "orders", 37, 0),
                row(RowSubject::Peer, "internal (0a1b2c3d) at 10.0.0.5", 12, 3),
                row(RowSubject::Peer, "internal (9f86d081) at 10.0.0.5", 7, 5),
            ];
            MinuteRows { at, rows }
        });
        CommandAnswer::History(Box::new(HistoryReport { rows, ..sample_report(requested) }))
    };
    let mut app = app(pictures::healthy());
    press(&mut app, "H");
    assert_eq!(answer(&mut app, then), 1, "without a cursor nobody needs rows");
    (0..33).for_each(|_| drop(press(&mut app, "h")));
    assert_eq!(answer(&mut app, then), 1, "the rows of one minute");
    assert_eq!(answer(&mut app, then), 0, "once");
    let shown = text(&app, (120, 36));
    let line = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("orders").contains("37 open") && line("orders").contains("84"), "{shown}");
    for (name, open, links) in [("(0a1b2c3d) at 10.0.0.5", "12 open", "3/8"), ("(9f86d081)", "7 open", "5/8")]
    {
        assert!(line(name).contains(open) && line(name).contains(links), "{name}: {shown}");
    }
    let mut wrong = vec![];
    check("history-rows", &app, (120, 36), &mut wrong);
    report(&wrong);
    // Within the same minute there is nothing to ask; in another one there is.
    press(&mut app, "hhhhhhhhhhhh");
    assert!(!text(&app, (120, 36)).contains("37 open"), "what is not known yet is not shown");
    assert_eq!(answer(&mut app, |_, _| CommandAnswer::Refused("it keeps none".into())), 1);
    assert!(text(&app, (120, 36)).contains("it keeps none"));
    assert_eq!(answer(&mut app, then), 0, "it has just said so");
    let later = pictures::healthy();
    let later = Snapshot { uptime_seconds: later.uptime_seconds + 10.0, ..later };
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_eq!(answer(&mut app, |_, _| CommandAnswer::Refused("it keeps none".into())), 2, "charts and rows");
    assert_eq!(answer(&mut app, then), 0);
    let later = pictures::healthy();
    let later = Snapshot { uptime_seconds: later.uptime_seconds + 20.0, ..later };
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_eq!(answer(&mut app, then), 2, "charts and rows");
    assert!(text(&app, (120, 36)).contains("37 open"), "it answers now");
    app.press(KeyCode::Esc.into());
    assert!(!text(&app, (120, 36)).contains("37 open"), "now the charts have the space");
}

/// Screen `H` alone knows what was of a running gateway: a table must not be read as if it did.
#[test]
fn a_table_beside_a_cursor_in_the_past_says_that_it_shows_now() {
    let mut app = app(pictures::healthy());
    press(&mut app, "H");
    answer(&mut app, report_of);
    (0..33).for_each(|_| drop(press(&mut app, "h")));
    let note = "this is now; the cursor of H is at 13:58:";
    assert!(!text(&app, (120, 36)).contains(note), "the charts show what was then");
    for screen in ["1", "2", "3", "4", "7", "9", "0"] {
        press(&mut app, screen);
        assert!(text(&app, (120, 36)).contains(note), "{screen}: {}", text(&app, (120, 36)));
        assert_eq!(text(&app, (80, 24)).contains(note), screen != "1", "{screen}");
    }
    press(&mut app, "H");
    app.press(KeyCode::Esc.into());
    press(&mut app, "2");
    assert!(!text(&app, (120, 36)).contains("this is now"), "the cursor is gone");
}

/// The cursor is where the player stands, and moving it moves the player: all screens show what was then.
#[test]
fn in_a_recording_the_cursor_moves_everything() {
    let mut app = app(pictures::healthy());
    let (passed, whole) = (Duration::from_secs(2500), Duration::from_secs(3000));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW - 500);
    let state = PlayerState::Paused;
    app.set_attachment(Attachment::Replay(ReplayProgress {
        state,
        at,
        passed,
        whole,
        speed: 1.0,
        gap: None,
    }));
    press(&mut app, "H");
    let requested = app.history_requests();
    let hour = HistoryRequest { step_seconds: 6, steps: 600, rows_at: None };
    assert_eq!(requested, [(None, hour)], "as long as the recording");
    app.take_history(None, hour, report_of(None, hour));
    assert_eq!(app.history_requests(), [], "it does not change");
    let mut wrong = vec![];
    check("history-replay", &app, (120, 36), &mut wrong);
    report(&wrong);
    let shown = text(&app, (120, 36));
    assert!(shown.contains("at 13:53:") && shown.contains("ends 14:02:00Z"), "{shown}");
    assert_eq!(press(&mut app, "h"), UpdateResult::Play(PlayerAction::To(NOW - 536)));
    assert_eq!(press(&mut app, "l"), UpdateResult::Play(PlayerAction::To(NOW - 464)));
    press(&mut app, "+");
    assert_eq!(app.history_requests().len(), 1, "another time is asked for at once");
    press(&mut app, "3");
    assert_eq!(press(&mut app, "h"), UpdateResult::Redraw, "elsewhere it moves nothing");
}

/// Times at their ends, no samples at all, and numbers that overflow.
#[test]
fn hostile_histories_keep_to_their_place() {
    let most = HistorySample {
        at: u64::MAX,
        seconds: u64::MAX,
        up: u64::MAX,
        down: u64::MAX,
        refused: u64::MAX,
        links: 0,
        links_wanted: u64::MAX,
        wait_ms: Some(f64::MAX),
        ..HistorySample::default()
    };
    for (now, step_seconds, samples) in [
        (0, 0, vec![]),
        (u64::MAX, u64::MAX, vec![most, most]),
        (NOW, 2, vec![most; 3]),
        (u64::MAX, 1, vec![HistorySample { wait_ms: Some(-1e300), ..most }]),
    ] {
        let mut app = app(pictures::healthy());
        press(&mut app, "H");
        let report = HistoryReport { now, step_seconds, samples, rows: None };
        answer(&mut app, |_, _| CommandAnswer::History(Box::new(report.clone())));
        for keys in ["", "hhh", "l", "+", "e"] {
            press(&mut app, keys);
            for size in [(120, 36), (80, 24), (40, 10), (24, 3), (1, 1)] {
                text(&app, size);
            }
        }
    }
}

/// Each second has been measured, but one gateway's measurement fell into the next second now and then.
#[test]
fn a_second_that_one_gateway_missed_is_no_dip_of_the_sum() {
    let mut app = App::new(Arc::new(fleet::fleet()), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
    press(&mut app, "H");
    answer(&mut app, |name, requested| {
        let misses = |at: u64| match name {
            Some("edge-1") => at.is_multiple_of(7) || at + 2 > NOW,
            _ => at.is_multiple_of(11) || at < NOW - 598,
        };
        let samples = (NOW - 600..=NOW).filter(|at| !misses(*at)).map(|at| HistorySample {
            at,
            seconds: 1,
            links: 8,
            links_wanted: 8,
            refused: 1,
            ..HistorySample::default()
        });
        CommandAnswer::History(Box::new(HistoryReport {
            now: NOW,
            step_seconds: requested.step_seconds,
            samples: samples.collect(),
            rows: None,
        }))
    });
    let sum = app.trends().report(app.snapshot()).unwrap();
    let dips: Vec<_> =
        sum.samples.iter().filter(|sample| (sample.links, sample.links_wanted) != (16, 16)).collect();
    assert!(dips.is_empty(), "{dips:?}");
    assert!(sum.samples.len() > 590, "{} seconds are left", sum.samples.len());
    assert!(sum.samples.windows(2).all(|pair| pair[1].at == pair[0].at + 1), "no second is missing");
    let refused: u64 = sum.samples.iter().map(|sample| sample.refused).sum();
    let measured = |every: u64| (NOW - 598..NOW - 1).filter(|at| !at.is_multiple_of(every)).count() as u64;
    assert!(refused.abs_diff(measured(7) + measured(11)) <= 4, "nobody is counted twice: {refused}");
}
