//! Alerts are shown prominently, and outdated values are faded.

use std::sync::Arc;

use portcullis::{
    fleet::merge::{FleetMerge, MemberSnapshot},
    gateway::handle::{AdminAccess, GatewayContact},
    profile::Half,
    telemetry::{
        health::AlertKind,
        notices::NoticeLog,
        snapshot::{PoolRow, ServiceRow, SessionPhase, SessionRow, Snapshot},
    },
    tui::{app::App, source::Attachment, style::ScreenStyle, theme::Theme},
};
use ratatui::style::{Color, Modifier};

use crate::{app, attachment, fleet, history, pictures, press, styled};

fn shown(app: &App, (width, height): (u16, u16)) -> Vec<String> {
    let buffer = styled::draw(app, width, height);
    (0..height).map(|y| styled::line(&buffer, y)).collect()
}

/// This many that carry bytes, and then one more that waits.
fn joined_by_one_that_waits(count: u64) -> (Snapshot, Snapshot) {
    let before = pictures::crowded(count);
    let mut after = before.clone();
    after.sessions.push(SessionRow {
        id: "waits".into(),
        phase: SessionPhase::Waiting,
        rate_up: 0,
        rate_down: 0,
        ..before.sessions[0].clone()
    });
    after.uptime_seconds += 0.25;
    (before, after)
}

#[test]
fn a_client_that_begins_to_wait_is_on_top_at_once() {
    let (before, after) = joined_by_one_that_waits(10);
    let top = |app: &App| app.session_order().row(app.snapshot(), 0).unwrap().id().to_owned();
    let mut app = app(before);
    app.receive_snapshot(Arc::new(after.clone()));
    assert_eq!(top(&app), "waits");
    press(&mut app, "S");
    assert_eq!(
        app.session_order().row(app.snapshot(), 10).unwrap().id(),
        "waits",
        "last, where that was asked for"
    );
}

#[test]
fn sessions_that_do_not_fit_are_counted() {
    for size in [(120, 36), (80, 24), (60, 15), (40, 10)] {
        let mut app = app(pictures::crowded(200));
        press(&mut app, "3");
        let lines = shown(&app, size);
        let drawn = lines.iter().filter(|line| line.contains("203.0.113.")).count();
        let rest = format!("+{} more", 200 + 1 - drawn);
        assert!(lines.iter().any(|line| line.contains(&rest)), "{rest} is not on\n{}", lines.join("\n"));
    }
}

#[test]
fn the_header_has_the_hosts_name_and_the_time() {
    let mut snapshot = pictures::healthy();
    snapshot.host = "edge-1.example.com".into();
    let app = app(snapshot);
    for size in [(120, 36), (80, 24)] {
        let header = shown(&app, size).remove(0);
        assert!(header.contains("edge-1") && header.contains("14:02:00Z"), "{header}");
    }
}

#[test]
fn the_selected_row_has_one_style() {
    let look = ScreenStyle::FULL;
    let of_gateway = ["1j", "2j", "3j", "3G", "4j", "5j", "7j", "0j"].map(|keys| (keys, false));
    for (keys, is_fleet) in of_gateway.into_iter().chain(["1j", "3j", "7j", "8j"].map(|keys| (keys, true))) {
        let mut app = if is_fleet { fleet::app() } else { app(pictures::degraded()) };
        press(&mut app, keys);
        let buffer = styled::draw(&app, 120, 36);
        let is_selected = |x, y| buffer[(x, y)].modifier.contains(Modifier::REVERSED);
        let row =
            (3..34).find(|&y| is_selected(60, y)).unwrap_or_else(|| panic!("{keys}: no row is selected"));
        let cells = (0..120).filter(|&x| is_selected(x, row));
        let styles: std::collections::HashSet<_> = cells.map(|x| buffer[(x, row)].style()).collect();
        assert_eq!(styles.len(), 1, "{keys} with {:?}: {styles:?}", look.theme.selected);
    }
}

#[test]
fn a_light_theme_has_nothing_yellow_or_cyan() {
    let mut app = app(pictures::degraded());
    press(&mut app, ":theme light\n");
    assert_ne!(app.style.theme, Theme::ANSI);
    let pale = [Color::Yellow, Color::Cyan, Color::White, Color::LightYellow, Color::LightCyan, Color::Gray];
    let check = |app: &App, keys: &str| {
        let buffer = styled::draw(app, 120, 36);
        let found = buffer.content().iter().find(|cell| pale.contains(&cell.fg) || pale.contains(&cell.bg));
        assert_eq!(found, None, "{keys}");
    };
    for keys in ["1", "2j", "3j", "4j", "5j", "7j", "9", "0", "H", "3x", "q"] {
        press(&mut app, keys);
        history::answer(&mut app, history::report_of);
        check(&app, keys);
    }
    let mut app = fleet::app();
    press(&mut app, ":theme light\n");
    for keys in ["1", "3j", "5", "8j", "9", "0", "H", "hhh"] {
        press(&mut app, keys);
        history::answer(&mut app, history::report_of);
        check(&app, keys);
    }
}

#[test]
fn a_terminal_that_says_it_is_light_gets_the_light_theme() {
    let theme = |colours: &str| {
        let found = |name: &str| (name == "COLORFGBG").then(|| colours.to_owned());
        ScreenStyle::from_variables(found).theme_name()
    };
    assert_eq!(theme("0;15"), "light");
    assert_eq!(theme("0;default;7"), "light");
    assert_eq!(theme("15;0"), "default");
    assert_eq!(theme("nonsense"), "default");
}

/// On every size, and neither as a word nor as a colour.
#[test]
fn of_a_gateway_that_is_lost_or_silent_nothing_looks_well() {
    let standings: [(&str, Option<Attachment>); 2] = [("LOST", Some(attachment::lost())), ("STALE", None)];
    for (word, standing) in standings {
        let mut app = app(pictures::healthy());
        standing.map(|standing| app.set_attachment(standing));
        app.set_silence(12);
        for (width, height) in [(120, 36), (80, 24), (60, 15), (40, 10), (40, 1)] {
            for keys in ["1", "2", "3", "4"] {
                press(&mut app, keys);
                let buffer = styled::draw(&app, width, height);
                assert!(styled::line(&buffer, 0).contains(word), "{}", styled::line(&buffer, 0));
                let green = (0..height).find(|&y| (0..width).any(|x| buffer[(x, y)].fg == Color::Green));
                let line = green.map(|y| styled::line(&buffer, y));
                assert_eq!(line, None, "{word} at {width}x{height} on {keys}");
            }
        }
    }
}

#[test]
fn a_repeated_alert_is_one_event() {
    let notices = NoticeLog::default();
    for number in 0..28 {
        notices.warn(format!("chat: dial 10.1.4.9:143 refused, next in {number}.5s"));
        // Others between, more than a few.
        (0..20).for_each(|other| notices.info(format!("link to gateway-{other} is up")));
        notices.warn("chat: dial 10.1.4.8:143 refused, next in 1.5s");
    }
    let all = notices.all();
    assert_eq!(all.len(), 22, "{all:?}");
    let reported = |text: &str| all.iter().any(|notice| notice.text == text);
    assert!(reported("chat: dial 10.1.4.9:143 refused, next in 27.5s (28x)"), "{all:?}");
    assert!(reported("chat: dial 10.1.4.8:143 refused, next in 1.5s (28x)"), "{all:?}");
}

/// Services whose sessions all fail at one backend.
fn with_failing_services(count: u64) -> Snapshot {
    let mut snapshot = pictures::healthy();
    let row = snapshot.services[2].clone();
    snapshot.services = (0..count)
        .map(|number| ServiceRow {
            name: format!("app-{number}"),
            failed_in_a_row: 3 + number,
            backend_error: Some("backend 10.0.0.8:9001: connection refused".into()),
            ..row.clone()
        })
        .collect();
    snapshot
}

/// Services that share a backend fail together; that is one trouble with their names.
#[test]
fn alerts_of_one_cause_are_one_line_with_a_count() {
    let mut app = app(with_failing_services(28));
    let failing = app.snapshot().alerts.iter().filter(|alert| alert.kind == AlertKind::Backend).count();
    assert_eq!(failing, 28);
    let line = shown(&app, (120, 36)).remove(2);
    assert!(line.contains("app-0") && line.contains("28 alike"), "{line}");
    assert!(line.contains("10.0.0.8:9001"), "{line}");
    press(&mut app, "!");
    let next = shown(&app, (120, 36)).remove(2);
    assert!(!next.contains("10.0.0.8:9001") || next == line, "{next}");
}

/// Each gateway says it of its own services, and all that are behind one that is dead are away for one reason.
#[test]
fn alerts_of_one_cause_are_one_line_in_a_fleet_too() {
    let member = |name: String, contact, latest: Option<Snapshot>| MemberSnapshot {
        target: format!("/run/{name}.sock"),
        name: name.into(),
        contact,
        contact_seconds: 60.0,
        latest: latest.map(|snapshot| (Arc::new(pictures::judged(snapshot)), 0.5)),
    };
    let lost = |name: &str| GatewayContact::Lost { why: format!("/run/{name}.sock: the bastion is away") };
    let failing = (1..3).map(|number| {
        member(format!("edge-{number}"), GatewayContact::There, Some(with_failing_services(14)))
    });
    let away = (0..5).map(|number| format!("gone-{number}")).map(|name| {
        let contact = lost(&name);
        member(name, contact, None)
    });
    let merged = FleetMerge::default().next(failing.chain(away).collect(), 60.0);
    let count = |merged: &Snapshot, kind| merged.alerts.iter().filter(|alert| alert.kind == kind).count();
    assert_eq!(
        (count(&merged, AlertKind::Backend), count(&merged, AlertKind::Unreachable)),
        (28, 5),
        "{:?}",
        merged.alerts
    );
    let mut app = App::new(Arc::new(merged), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    let mut lines = Vec::new();
    for _ in 0..8 {
        lines.push(shown(&app, (160, 36)).remove(2));
        press(&mut app, "!");
    }
    for (alike, of) in [("28 alike", "edge-1: app-0"), ("5 alike", "gateway gone-0 cannot be reached")] {
        assert!(lines.iter().any(|line| line.contains(alike) && line.contains(of)), "{alike}: {lines:#?}");
    }
}

#[test]
fn a_followed_name_is_in_its_rows_and_a_spare_raises_no_alert() {
    let mut snapshot = pictures::healthy();
    for row in &mut snapshot.pools {
        row.name = Some("gates.test".into());
    }
    let spare = PoolRow {
        address: Some("socks+tls://dmz3.example.com:1443".into()),
        name: Some("gates.test".into()),
        standby: true,
        last_error: Some("it stands by for those with a lower priority number".into()),
        ..PoolRow::new(Half::Internal, "*".into())
    };
    snapshot.pools.push(spare);
    let snapshot = pictures::judged(snapshot);
    let usual = pictures::judged(pictures::healthy());
    assert_eq!(snapshot.alerts.len(), usual.alerts.len(), "{:?}", snapshot.alerts);
    let mut app = app(snapshot);
    press(&mut app, "2");
    let lines = shown(&app, (180, 36));
    let named = lines.iter().filter(|line| line.contains("gates.test")).count();
    assert_eq!(named, 5, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("standby")).count(), 1, "{lines:#?}");
    press(&mut app, "j\n");
    let lines = shown(&app, (120, 36));
    assert!(lines.iter().any(|line| line.contains("of name") && line.contains("gates.test")), "{lines:#?}");
}
