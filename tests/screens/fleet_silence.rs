//! A connected but silent gateway of a fleet: its last values are not shown as current.

use std::sync::Arc;

use portcullis::{
    gateway::handle::AdminAccess,
    telemetry::snapshot::{GatewayReach, GatewayRow, Snapshot},
    tui::{app::App, source::Attachment, style::ScreenStyle},
};

use crate::{
    check,
    fleet::{app, fleet, text},
    press, report, styled,
};

/// The fleet, of which these gateways do not speak any more.
fn silent(names: &[&str]) -> Snapshot {
    let mut fleet = fleet();
    for row in fleet.gateways.iter_mut().filter(|row| names.contains(&&*row.name)) {
        (row.reach, row.heard_seconds) = (GatewayReach::Silent, Some(7.0));
    }
    fleet
}

#[test]
fn screens_of_a_fleet_with_a_silent_gateway_are_as_they_were() {
    let mut wrong = vec![];
    for (name, keys) in
        [("gateways", "8"), ("sessions", "3"), ("pool", "2"), ("services", "4"), ("path", "9")]
    {
        let mut app = App::new(Arc::new(silent(&["edge-2"])), ScreenStyle::FULL);
        press(&mut app, keys);
        check(&format!("fleet-silent-{name}"), &app, (120, 36), &mut wrong);
    }
    report(&wrong);
}

/// More gateways than there are lines.
#[test]
fn the_worst_of_many_gateways_are_seen_on_the_smallest_screens() {
    let mut many = fleet();
    let well = many.gateways[3].clone();
    let name = |number| format!("edge-{number}").into();
    many.gateways.extend((10..25).map(|number| GatewayRow { name: name(number), ..well.clone() }));
    let mut wrong = vec![];
    for (screen, keys) in [("overview", "1"), ("gateways", "8"), ("gateways-last", "8G")] {
        let mut app = App::new(Arc::new(many.clone()), ScreenStyle::FULL);
        press(&mut app, keys);
        for size in [(40, 10), (60, 15)] {
            check(&format!("fleet-many-{screen}"), &app, size, &mut wrong);
        }
    }
    for (screen, keys) in [
        ("pool", "2"),
        ("sessions", "3"),
        ("failures", "7"),
        ("path", "9"),
        ("doctor", "0"),
        ("history", "H"),
    ] {
        let mut app = App::new(Arc::new(many.clone()), ScreenStyle::FULL);
        press(&mut app, keys);
        check(&format!("fleet-many-{screen}"), &app, (40, 10), &mut wrong);
    }
    report(&wrong);
    let app = App::new(Arc::new(many), ScreenStyle::FULL);
    let shown = styled::dump(&styled::draw(&app, 40, 10));
    assert!(shown.contains("UNREACHABLE edge-3") && shown.contains("+18 more, 17 of them well"), "{shown}");
}

#[test]
fn the_last_values_of_a_silent_gateway_are_not_shown_as_current() {
    let mut app = App::new(Arc::new(silent(&["edge-1", "edge-2", "inside-1"])), ScreenStyle::FULL);
    for (keys, was) in [("2", "healthy"), ("4", "open "), ("3", "relaying"), ("9", "healthy"), ("9", "open ")]
    {
        press(&mut app, keys);
        let shown = text(&app);
        let rows: Vec<_> = shown.lines().skip(4).collect();
        assert!(!rows.iter().any(|row| row.contains(was)), "{keys}: {shown}");
        assert!(shown.contains("unknown") || shown.contains("not known"), "{keys}: {shown}");
    }
}

/// One end of each link is still heard, and knows of both.
#[test]
fn links_of_a_silent_gateway_are_as_their_other_end_says() {
    let mut app = App::new(Arc::new(silent(&["inside-1"])), ScreenStyle::FULL);
    press(&mut app, "9");
    let shown = text(&app);
    assert!(shown.contains("8 of 8 ready") && shown.contains("SILENT"), "{shown}");
    assert!(shown.contains("not known"), "its backend: {shown}");
}

#[test]
fn the_detail_of_a_joined_session_tells_both_sides_also_when_it_has_ended() {
    let mut app = app();
    press(&mut app, "3/id:00b1\nj\n");
    let shown = text(&app);
    for part in ["gateway", "edge-1", "inside", "inside-1: -- both sides finished", "differs", "200 B up"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // The other row of this id does not belong to it.
    let mut other = fleet();
    other.ended[1].peer = Some("dmz-2".into());
    let mut app = App::new(Arc::new(other), ScreenStyle::FULL);
    press(&mut app, "3/id:00b1 gateway:edge\nj\n");
    assert!(!text(&app).contains("inside-1: --"), "{}", text(&app));
}

#[test]
fn the_line_below_the_list_names_both_gateways_the_link_and_both_waits() {
    let mut app = app();
    press(&mut app, "3/id:00a1\nj");
    let shown = styled::dump(&styled::draw(&app, 120, 36));
    for part in
        ["over edge-1 by link 17 to inside-1", "waited 12ms, connected in 4.0ms, its backend inside in 3.0ms"]
    {
        let reported: Vec<_> =
            shown.split(|sign: char| "│| \n".contains(sign)).filter(|word| !word.is_empty()).collect();
        assert!(reported.join(" ").contains(part), "{part}: {shown}");
    }
}

#[test]
fn details_of_a_fleet_name_their_gateway() {
    for (keys, name) in [("2j\n", "edge-1"), ("4j\n", "edge-1"), ("5j\n", "edge-2")] {
        let mut app = app();
        press(&mut app, keys);
        let shown = text(&app);
        let line = shown.lines().find(|line| line.contains("│ gateway ")).unwrap_or_default();
        assert!(line.contains(name), "{keys}: {shown}");
    }
}

#[test]
fn a_backend_on_the_path_moves_what_its_sessions_do() {
    let mut app = app();
    press(&mut app, "9");
    let shown = text(&app);
    // Three sessions that a gateway inside has dialled it for, of 1.2 kB/s and 3.4 kB/s each.
    assert!(shown.contains("↑3.6k ↓10.2k"), "{shown}");
}

/// Neither a fault nor anything to do: it is listed last, and may be hidden.
#[test]
fn a_gateway_that_was_stopped_is_neutral_and_may_be_hidden_until_it_runs_again() {
    let mut fleet = fleet();
    let mut row = fleet.gateways.remove(3);
    (row.reach, row.since_seconds) = (GatewayReach::Stopped, 312.0);
    let name = row.name.to_string();
    fleet.gateways.push(row);
    let mut app = App::new(Arc::new(fleet.clone()), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::ReadOnly));
    press(&mut app, "8G");
    let shown = text(&app);
    assert!(shown.contains("STOPPED for 5m") && shown.contains("1 stopped"), "{shown}");
    assert!(shown.contains("x hide"), "{shown}");
    press(&mut app, "x");
    assert!(!text(&app).contains(&name), "{}", text(&app));
    app.receive_snapshot(Arc::new(Snapshot { uptime_seconds: 70.0, ..fleet.clone() }));
    assert!(!text(&app).contains(&name), "{}", text(&app));
    let last = fleet.gateways.len() - 1;
    fleet.gateways[last].reach = GatewayReach::Reached;
    app.receive_snapshot(Arc::new(Snapshot { uptime_seconds: 71.0, ..fleet }));
    assert!(text(&app).contains(&name), "{}", text(&app));
    press(&mut app, "8gx");
    assert!(text(&app).contains("no gateway that was stopped is selected"), "{}", text(&app));
}
