//! The path from clients to backends: joined in a fleet, known in part from one gateway, and a way into its rows.

use std::sync::Arc;

use crossterm::event::KeyCode;
use portcullis::{
    gateway::handle::AdminAccess,
    profile::Half,
    telemetry::snapshot::{BackendRow, BackendRowState, GatewayReach, PoolRow, PoolState, Snapshot},
    tui::{app::App, screen::Screen, source::Attachment, style::ScreenStyle},
};

use crate::{app, fleet, pictures, press, styled};

fn fleet_app(snapshot: Snapshot) -> App {
    let mut app = App::new(Arc::new(snapshot), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, "9");
    app
}

fn lines(app: &App, width: u16) -> Vec<String> {
    let buffer = styled::draw(app, width, 40);
    (0..40).map(|y| styled::line(&buffer, y)).collect()
}

/// The line that has all of these, in this order.
#[track_caller]
fn line_with(app: &App, parts: &[&str]) -> String {
    let lines = lines(app, 160);
    let has = |line: &&String| {
        let mut rest = line.as_str();
        parts.iter().all(|part| rest.split_once(part).map(|(_, behind)| rest = behind).is_some())
    };
    lines.iter().find(has).unwrap_or_else(|| panic!("{parts:?} in none of\n{}", lines.join("\n"))).clone()
}

#[test]
fn both_ends_of_a_link_are_one_part_of_a_fleet() {
    let app = fleet_app(fleet::fleet());
    line_with(
        &app,
        &["clients", "▶ ● orders", "▶ ● edge-1", "▶ ● 8 of 8 ready", "▶ ● inside-1", "▶ ● inside-1-db"],
    );
    line_with(&app, &["▶ ● edge-2", "▶ ● 8 of 8 ready", "┘"]);
    let text = lines(&app, 160).join("\n");
    assert_eq!(text.matches("8 of 8 ready").count(), 2, "four pools are two links\n{text}");
    assert_eq!(text.matches("● inside-1 ").count(), 1, "{text}");
    line_with(&app, &["▲ edge-3"]);
}

/// Which process its peer is, each gateway says itself; of a name alone nothing is believed.
#[test]
fn a_peer_that_is_no_gateway_of_the_fleet_is_a_part_by_itself() {
    let mut apart = fleet::fleet();
    for pool in &mut apart.pools {
        pool.instance = Some("i-somebody".into());
    }
    let app = fleet_app(apart);
    let text = lines(&app, 160).join("\n");
    assert_eq!(text.matches("8 of 8 ready").count(), 4, "no two ends are one link\n{text}");
    assert!(text.contains("seen by links"), "{text}");
}

/// The links and the gateway behind them are the other half of the path, whose own rows are not shown.
#[test]
fn of_one_gateway_of_a_fleet_the_other_half_is_shown_too() {
    let mut app = fleet_app(fleet::fleet());
    press(&mut app, ":only edge-1\n9");
    line_with(&app, &["▶ ● edge-1", "▶ ● 8 of 8 ready", "▶ ● inside-1", "▶ ● of orders"]);
    let text = lines(&app, 160).join("\n");
    assert!(!text.contains("edge-2"), "{text}");
    press(&mut app, ":only inside-1\n");
    line_with(&app, &["▶ ● edge-1", "▶ ● 8 of 8 ready", "▶ ● inside-1", "▶ ● inside-1-db"]);
    line_with(&app, &["▶ ● edge-2", "▶ ● 8 of 8 ready"]);
}

/// Its peers still say which process it was.
#[test]
fn a_gateway_that_was_killed_is_one_part() {
    let mut killed = fleet::fleet();
    for row in killed.gateways.iter_mut().filter(|row| &*row.name == "edge-2") {
        (row.reach, row.why) = (GatewayReach::Unreachable, Some("no gateway answers there".into()));
    }
    for pool in killed.pools.iter_mut().filter(|pool| pool.peer.as_deref() == Some("dmz-2")) {
        (pool.state, pool.ready, pool.gone_seconds) = (PoolState::Down, 0, Some(2.0));
    }
    let app = fleet_app(killed);
    let text = lines(&app, 160).join("\n");
    assert_eq!(text.matches("▲ edge-2 ").count(), 1, "{text}");
    assert!(!text.contains("seen by links"), "{text}");
}

/// What all links to it move, whichever gateways they are of.
#[test]
fn a_gateway_that_is_not_shown_moves_what_its_links_do() {
    let mut outer = fleet::fleet();
    outer.gateways.retain(|row| &*row.name != "inside-1");
    outer.services.retain(|row| row.half == Half::Dmz);
    outer.pools.retain(|row| row.half == Half::Dmz);
    outer.sessions.retain(|row| row.half == Half::Dmz);
    let app = fleet_app(outer);
    line_with(&app, &["▶ ● edge-1", "▶ ● 8 of 8 ready", "▶ ● inside"]);
    // Two sessions of the one edge and one of the other, 1.2 kB and 3.4 kB a second each.
    line_with(&app, &["2.4k", "6.8k", "3.6k", "10.2k"]);
}

#[test]
fn what_is_broken_is_marked_where_it_is() {
    let mut broken = fleet::fleet();
    for pool in broken
        .pools
        .iter_mut()
        .filter(|pool| pool.gateway.as_deref() == Some("edge-2") || pool.peer.as_deref() == Some("dmz-2"))
    {
        *pool = PoolRow {
            state: PoolState::Down,
            ready: 0,
            gone_seconds: Some(34.0),
            last_error: Some("no answer to a ping within 12 s".into()),
            ..pool.clone()
        };
    }
    let mut app = fleet_app(broken);
    line_with(&app, &["▶ ● edge-1", "▶ ● 8 of 8 ready", "▶ ● inside-1"]);
    line_with(&app, &["● edge-2", "─x ▲ none"]);
    line_with(&app, &["DOWN"]);
    press(&mut app, "jjjjjjjj");
    line_with(&app, &["links none: DOWN, for 34s, the last error: no answer to a ping within 12 s"]);
}

#[test]
fn one_gateway_knows_the_other_half_by_its_links() {
    let mut outer = app(Snapshot { halves: vec![Half::Dmz], host: "edge".into(), ..pictures::healthy() });
    press(&mut outer, "9");
    line_with(
        &outer,
        &["clients", "▶ ● chat", "▶ ● edge", "▶ ● 15 of 16 ready", "▶ ● internal", "▶ ● of chat"],
    );
    line_with(&outer, &["known inside"]);
    let mut inner =
        app(Snapshot { halves: vec![Half::Internal], host: "core".into(), ..pictures::healthy() });
    press(&mut inner, "9");
    line_with(&inner, &["▶ ● chat", "▶ ● dmz", "▶ ● 15 of 16 ready", "▶ ● core", "▶ ● 10.0.0.8:900"]);
    let mut direct = app(pictures::direct());
    press(&mut direct, "9");
    line_with(&direct, &["CLIENTS", "SERVICES", "DMZ GATEWAYS", "BACKENDS"]);
    assert!(!lines(&direct, 160).join("\n").contains("LINKS"), "there are none");
}

#[test]
fn backends_that_stand_in_for_each_other_are_reported_one_by_one() {
    let mut snapshot = pictures::healthy();
    let backend = |address: &str, state| BackendRow {
        address: address.into(),
        name: None,
        state,
        sessions_open: 2,
        sessions: 9,
        failures: 1,
        last_error: Some("connection refused (os error 111)".into()),
    };
    let inner = snapshot.services.iter_mut().find(|row| row.half == Half::Internal).unwrap();
    inner.backends = vec![
        backend("tcp://db-1:5432", BackendRowState::Up),
        backend("tcp://db-2:5432", BackendRowState::Down),
    ];
    let mut app = app(snapshot);
    press(&mut app, "9");
    line_with(&app, &["● db-1:5432"]);
    line_with(&app, &["x ▲ db-2:5432"]);
    line_with(&app, &["backends db-2:5432: down, connection refused (os error 111)"]);
}

#[test]
fn the_arrows_follow_the_path_and_enter_opens_the_rows() {
    let opened = |right: usize| {
        let mut app = fleet_app(fleet::fleet());
        press(&mut app, "j");
        (0..right).for_each(|_| drop(app.press(KeyCode::Right.into())));
        press(&mut app, "\n");
        (app.screen(), app.selected_line().is_some(), app)
    };
    let screens = (0..6).map(|right| opened(right).0).collect::<Vec<_>>();
    assert_eq!(
        screens,
        [
            Screen::Sessions,
            Screen::Services,
            Screen::Gateways,
            Screen::Pool,
            Screen::Gateways,
            Screen::Services
        ]
    );
    for right in 1..6 {
        assert!(opened(right).1, "its row is selected");
    }
    let mut app = opened(2).2;
    assert_eq!(
        app.selected_gateway_row(app.snapshot()).map(|row| row.name.to_string()),
        Some("edge-1".into())
    );
    app.press(KeyCode::Backspace.into());
    assert_eq!(app.screen(), Screen::Path, "back to where it was opened");
    app.press(KeyCode::Left.into());
    app.press(KeyCode::Left.into());
    app.press(KeyCode::Left.into());
    assert_eq!(app.selected_line(), Some(0), "there is nothing before the clients");
}

/// Forty services and twenty gateways: the worst stay in sight, and the rest is counted.
#[test]
fn what_does_not_fit_is_counted_and_the_worst_is_shown() {
    let mut many = fleet::fleet();
    let template = many.services[0].clone();
    for number in 0..40 {
        let mut row = template.clone();
        row.name = format!("service-{number:02}");
        row.accept = vec![];
        many.services.push(row);
    }
    let last = many.services.len() - 1;
    many.services[last].phase = portcullis::telemetry::snapshot::ServicePhase::Down;
    let app = fleet_app(many);
    let text = lines(&app, 120).join("\n");
    assert!(text.contains("▲ service-39") && text.contains(" more"), "{text}");
}

#[test]
fn a_click_selects_the_part_under_the_mouse() {
    use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
    use ratatui::layout::Rect;
    for (width, height) in [(120, 36), (80, 24)] {
        let mut app = fleet_app(fleet::fleet());
        press(&mut app, "jjm");
        let buffer = styled::draw(&app, width, height);
        let is_it = |y: &u16| styled::line(&buffer, *y).contains("● edge-2");
        let y = (0..height).find(is_it);
        let Some(row) = y else {
            assert_eq!(width, 80, "below the stages stand the parts of one alone");
            continue;
        };
        let line = styled::line(&buffer, row);
        let column = line[..line.find("edge-2").unwrap()].chars().count() as u16;
        let kind = MouseEventKind::Down(MouseButton::Left);
        let event = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        app.handle_mouse(event, Rect { x: 0, y: 0, width, height });
        press(&mut app, "\n");
        assert_eq!(
            app.selected_gateway_row(app.snapshot()).map(|row| row.name.to_string()),
            Some("edge-2".into())
        );
    }
}

#[test]
fn the_echo_that_is_built_in_has_a_name_too() {
    let mut direct = pictures::direct();
    direct.services[0].connect = Some("echo://".into());
    direct.services[0].backends.clear();
    let mut app = app(direct);
    press(&mut app, "9");
    line_with(&app, &["orders", "▶ ● echo"]);
}
