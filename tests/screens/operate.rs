//! What an operator does on the screens, key by key.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use portcullis::{
    gateway::handle::{Command, CommandAnswer, LockdownTarget},
    profile::{Half, Mode},
    telemetry::{
        checklist::{CheckStep, StepFinding, VerifyReport},
        failures::FailureRow,
        registry::{KillSelection, ListedSessions},
        snapshot::{LockdownRow, SessionPhase, SessionRow, Snapshot, VerifyRow},
    },
    tui::{
        app::{App, MouseCapture, UpdateResult},
        style::ScreenStyle,
        theme::Theme,
    },
};

use ratatui::{layout::Rect, style::Modifier};

use crate::{app, check, pictures, press, report, styled};

fn shown(app: &App, (width, height): (u16, u16)) -> String {
    let buffer = styled::draw(app, width, height);
    (0..height).map(|y| styled::line(&buffer, y) + "\n").collect()
}

#[track_caller]
fn shows(app: &App, text: &str) {
    for size in [(120, 36), (80, 24)] {
        let shown = shown(app, size);
        assert!(shown.contains(text), "{text} is not on\n{shown}");
    }
}

fn code(app: &mut App, code: KeyCode) -> UpdateResult {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn a_filter_narrows_while_typed_and_an_invalid_one_shows_its_reason() {
    let mut app = app(pictures::crowded(66));
    press(&mut app, "3/service:ord");
    shows(&app, "22 of 66 pass the filter");
    press(&mut app, " !");
    shows(&app, "2066 open of");
    assert!(shown(&app, (120, 36)).contains("`!` stands alone"), "{}", shown(&app, (120, 36)));
    press(&mut app, "\n");
    shows(&app, "service:ord !_");
    code(&mut app, KeyCode::Esc);
    shows(&app, "2066 open of");
    press(&mut app, "/!service:orders\n");
    shows(&app, "44 of 66 pass the filter");
    code(&mut app, KeyCode::Esc);
    assert!(app.session_order().filter.is_empty(), "Esc takes the filter off");
}

/// The first line of the list of sessions.
fn top(app: &App) -> String {
    app.session_order().row(app.snapshot(), 0).unwrap().id().to_owned()
}

#[test]
fn the_sort_order_is_shown_in_words_and_by_an_arrow() {
    let mut app = app(pictures::degraded());
    press(&mut app, "3");
    let (waits, busiest, newest) = ("0049ad", "00499a", "0049ad");
    for (keys, words, head, first) in [
        ("", "waiting first", "PHASE▼", waits),
        ("s", "busiest first", "PHASE ", busiest),
        ("s", "oldest first", "AGE▼", "00426b"),
        ("S", "newest first", "AGE▲", newest),
        ("s", "clients from A", "CLIENT▲", "0048b3"),
        ("sss", "most down/s first", "DOWN/S▼", busiest),
    ] {
        press(&mut app, keys);
        shows(&app, words);
        shows(&app, head);
        assert_eq!(top(&app), first, "{words}");
    }
}

#[test]
fn columns_that_do_not_fit_are_shown_below_the_list() {
    let mut app = app(pictures::degraded());
    let error = "10.1.4.9:41443: connection refused (os error 111)";
    for (keys, reported) in
        [("2", error), ("3G", "-- both sides finished; 6.8 kB up"), ("3gj", "over internal: 697 MB up")]
    {
        press(&mut app, keys);
        let shown = shown(&app, (120, 36));
        assert!(shown.contains(reported), "{reported} is not on\n{shown}");
    }
    press(&mut app, "2");
    let narrow = shown(&app, (80, 24)).replace("│\n│ ", "").replace("  ", "");
    assert!(narrow.contains("refused (os error 111)"), "{narrow}");
}

#[test]
fn a_service_that_serves_nobody_is_marked_with_its_reason() {
    let mut app = app(pictures::degraded());
    press(&mut app, "4");
    for mark in ["▲ NO LINK mail", "▲ FAILING web", "▲ STARVED amqp", "open      chat"] {
        shows(&app, mark);
    }
    shows(&app, "mail in the int half: no link: connect 10.1.4.9:41443");
    press(&mut app, "jj");
    shows(&app, "web in the int half: the last 12 sessions failed: backend");
    press(&mut app, "\n");
    shows(&app, "FAILING: the last 12 sessions failed");
    shows(&app, "Traffic of web");
}

#[test]
fn commands_are_shown_with_their_help_while_one_is_typed() {
    let mut pair = pictures::healthy();
    let other_half = |row: &_| SessionRow { half: Half::Internal, ..SessionRow::clone(row) };
    pair.sessions = pair.sessions.iter().flat_map(|row| [row.clone(), other_half(row)]).collect();
    let mut app = app(pair);
    press(&mut app, ":");
    shows(&app, "close SESSION");
    let narrow = |app: &App| shown(app, (60, 15));
    assert!(narrow(&app).contains("0 above, "), "{}", narrow(&app));
    assert!(!narrow(&app).contains("run the checklist"), "further down");
    for _ in 0..4 {
        code(&mut app, KeyCode::PageDown);
    }
    assert!(narrow(&app).contains("run the checklist"), "{}", narrow(&app));
    let of_pair = |app: &App| shown(app, (60, 15)).matches("203.0.113.3:57003 to").count();
    press(&mut app, "kill ");
    assert_eq!(of_pair(&app), 1);
    app.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    press(&mut app, "th");
    shows(&app, "theme THEME");
    press(&mut app, "\t");
    shows(&app, "high-contrast");
    code(&mut app, KeyCode::Esc);
    assert!(!shown(&app, (120, 36)).contains("Commands"));
}

#[test]
fn a_filter_shows_its_fields_and_their_values_and_comes_back() {
    let mut app = app(pictures::healthy());
    press(&mut app, "3/");
    shows(&app, "B/s from the client: in>1M");
    press(&mut app, "!serv\t");
    shows(&app, "/!service:_");
    press(&mut app, "o\t\n");
    assert_eq!(app.session_order().filter.text, "!service:orders");
    code(&mut app, KeyCode::Esc);
    press(&mut app, "/in>1M\n");
    code(&mut app, KeyCode::Esc);
    press(&mut app, "/");
    code(&mut app, KeyCode::Up);
    code(&mut app, KeyCode::Up);
    assert_eq!(app.session_order().filter.text, "!service:orders", "the one before the last");
    code(&mut app, KeyCode::Down);
    code(&mut app, KeyCode::Down);
    assert!(app.session_order().filter.is_empty(), "what was being typed");
}

/// The screen tells its columns and the ends of sessions, each on a page of the help.
#[test]
fn help_has_pages_for_columns_and_ends() {
    let mut app = app(pictures::healthy());
    press(&mut app, "2?");
    shows(&app, "Help 1 of 3: keys");
    press(&mut app, "\t");
    shows(&app, "99th percentile of that");
    press(&mut app, "\t");
    shows(&app, "a limit of ours was reached");
    press(&mut app, "\t");
    shows(&app, "Help 1 of 3: keys");
}

#[test]
fn backspace_and_minus_go_to_the_screen_seen_before() {
    let mut app = app(pictures::healthy());
    press(&mut app, "35-");
    shows(&app, "[3 Sessions]");
    press(&mut app, "-");
    shows(&app, "[5 Events]");
    code(&mut app, KeyCode::Backspace);
    shows(&app, "[3 Sessions]");
}

#[test]
fn plus_and_minus_change_the_time_of_the_charts() {
    let mut app = app(pictures::healthy());
    press(&mut app, "4");
    for (keys, words) in [("-", "last min"), ("--", "last 30 s"), ("+", "last min"), ("=+++", "last 10 min")]
    {
        press(&mut app, keys);
        shows(&app, words);
    }
    shows(&app, "[4 Services]");
}

/// The screens and what the list goes by share a line of 80 cells.
#[test]
fn the_screens_leave_room_for_the_filter() {
    let mut app = app(pictures::crowded(66));
    press(&mut app, "3/service:orders\n");
    let line = |app: &App| shown(app, (80, 24)).lines().nth(1).unwrap().to_owned();
    assert_eq!(
        line(&app).trim(),
        "1  2 [3 Sessions] 4  5  6  7  9  0  H    filter service:orders, waiting first"
    );
    press(&mut app, "7");
    assert_eq!(
        line(&app).trim(),
        "1 Over 2 Pool 3 Sess 4 Serv 5 Event 6 Prof [7 Failures] 9 Path 0 Doct H Hist"
    );
}

#[test]
fn failures_are_reported_by_cause_and_those_of_now_come_first() {
    let mut app = app(pictures::degraded());
    press(&mut app, "7");
    shows(&app, "18883 sessions, of 4 causes");
    let all = shown(&app, (120, 36));
    let line = |end: &str| all.lines().position(|line| line.contains(end)).unwrap();
    let order = [" 12 BC  web ", " 7 TW  amqp ", " 18.9k LA  chat ", " 3 PR  mail "].map(line);
    assert!(order.is_sorted(), "{all}");
    press(&mut app, "jjj");
    shows(&app, "200 sessions are open, which is its limit; last 11h21m ago");
    press(&mut app, "\n");
    shows(&app, "LA a limit of ours was reached before it was let in");
    shows(&app, "18861 have failed so since the gateway began");
    shows(&app, "the last was session");
    code(&mut app, KeyCode::Esc);
    // A failure more of that cause: the cursor goes with its group.
    let mut later = pictures::degraded();
    later.uptime_seconds += 1.0;
    later.failures[3] = FailureRow { count: 18_862, ago_seconds: 0.1, ..later.failures[3].clone() };
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_eq!(app.selected_line(), Some(0));
    press(&mut app, "d");
    shows(&app, "Drain chat?");
    code(&mut app, KeyCode::Esc);
    app.receive_snapshot(Arc::new(pictures::judged(pictures::healthy())));
    shows(&app, "no session has failed");
}

/// Four clients: one with three sessions, one with two of another service, two with one each.
fn of_clients() -> Snapshot {
    let mut snapshot = pictures::crowded(7);
    let clients = ["192.0.2.7:1", "192.0.2.77:1", "192.0.2.7:2", "192.0.2.9:1", "192.0.2.7:3", "192.0.2.9:2"];
    let clients = clients.into_iter().chain(["[2001:db8::7]:1"]);
    for (row, client) in snapshot.sessions.iter_mut().zip(clients) {
        row.client = client.into();
        row.service = if client.starts_with("192.0.2.9") { "chat" } else { "orders" }.into();
        row.rate_up = 1000;
    }
    snapshot.sessions_left_out = 0;
    snapshot
}

/// The sessions that are to be closed, by name.
fn closed(reaction: UpdateResult) -> Vec<String> {
    let UpdateResult::Ask(Command::KillAll(KillSelection::Listed(ListedSessions { mut sessions, .. }))) =
        reaction
    else {
        panic!("no session is closed by {reaction:?}")
    };
    sessions.sort();
    sessions
}

#[test]
fn the_busiest_client_is_found_and_all_its_sessions_closed() {
    let mut app = app(of_clients());
    press(&mut app, "3a");
    shows(&app, "4 clients, 7 sessions");
    shows(&app, "192.0.2.7 ");
    press(&mut app, "x");
    shows(&app, "no client is selected");
    press(&mut app, "j\n");
    shows(&app, "3 that pass the filter, 0 of them waiting");
    shows(&app, "3.0 kB/s now");
    code(&mut app, KeyCode::Esc);
    press(&mut app, "x");
    shows(&app, "Close 3 sessions of 192.0.2.7?");
    assert_eq!(code(&mut app, KeyCode::Enter), UpdateResult::Redraw, "Enter never destroys");
    assert_eq!(press(&mut app, "y"), UpdateResult::Nothing);
    press(&mut app, "x");
    assert_eq!(closed(press(&mut app, "y")), ["000000", "000002", "000004"]);
    app.take_answer(CommandAnswer::Killed(3));
    shows(&app, "done: 3 sessions are cut");
    press(&mut app, "a");
    shows(&app, "open of");
}

#[test]
fn the_cursor_follows_its_client() {
    let mut app = app(of_clients());
    press(&mut app, "3ajj");
    assert_eq!(app.selected_client(), Some("192.0.2.9"));
    let mut later = of_clients();
    later.uptime_seconds += 5.0;
    for row in later.sessions.iter_mut().filter(|row| row.client == "192.0.2.77:1") {
        row.phase = SessionPhase::Waiting;
    }
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_eq!((app.selected_client(), app.selected_line()), (Some("192.0.2.9"), Some(2)));
    app.receive_snapshot(Arc::new(pictures::judged(pictures::down())));
    assert_eq!((app.selected_client(), app.selected_line()), (None, None), "it is gone");
    shows(&app, "no session is open");
}

#[test]
fn all_that_pass_the_filter_are_closed_after_they_were_counted() {
    let mut app = app(of_clients());
    press(&mut app, "3X");
    shows(&app, "Close 7 sessions of 4 clients?");
    press(&mut app, "z/client:192.0.2.7\nX");
    // A whole address does not match another that begins with it.
    shows(&app, "Close 3 sessions of 1 client that pass `client:192.0.2.7`?");
    code(&mut app, KeyCode::Esc);
    press(&mut app, ":close-all service:chat\n");
    shows(&app, "Close 2 sessions of 1 client that pass `service:chat`?");
    assert_eq!(app.session_order().filter.text, "service:chat", "what will be closed is listed");
    assert_eq!(closed(press(&mut app, "y")), ["000003", "000005"]);
    press(&mut app, ":close-all nosuch\n");
    shows(&app, "no open session passes the filter");
    press(&mut app, ":close-all !\n");
    shows(&app, "`!` stands alone");
}

#[test]
fn what_is_not_listed_is_not_closed_and_the_question_says_so() {
    let mut snapshot = of_clients();
    snapshot.sessions_left_out = 2000;
    let mut twin = snapshot.sessions[0].clone();
    twin.peer = Some("twin".into());
    snapshot.sessions.push(twin);
    let mut app = app(snapshot);
    press(&mut app, "3/id:000000\nX");
    shows(&app, "2000 more");
    assert_eq!(closed(press(&mut app, "y")), ["internal/000000", "twin/000000"], "by their peers");
}

fn mouse(app: &mut App, kind: MouseEventKind, (column, row): (u16, u16)) -> UpdateResult {
    let event = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
    app.handle_mouse(event, Rect::new(0, 0, 120, 36))
}

/// Where `text` stands on a screen of 120 by 36.
#[track_caller]
fn place(app: &App, text: &str) -> (u16, u16) {
    let buffer = styled::draw(app, 120, 36);
    let lines = (0..36).map(|y| styled::line(&buffer, y));
    let found = lines.zip(0..).find_map(|(line, y)| Some((line.find(text)?, line, y)));
    let (at, line, y) = found.unwrap_or_else(|| panic!("{text} is not shown"));
    (u16::try_from(line[..at].chars().count()).unwrap(), y)
}

#[test]
fn the_mouse_is_taken_when_asked_and_selects_scrolls_and_sorts() {
    const LEFT: MouseEventKind = MouseEventKind::Down(MouseButton::Left);
    let mut app = app(pictures::degraded());
    press(&mut app, "3");
    let at = place(&app, "004966");
    assert_eq!(mouse(&mut app, LEFT, at), UpdateResult::Nothing, "the mouse is the terminal's");
    assert_eq!(press(&mut app, "m"), UpdateResult::Mouse(MouseCapture::On));
    // On every screen a click on a row selects it, also where there are lines below the list.
    for (screen, rows) in [
        ("3", ["004966", "0049ab", "0049ad"]),
        ("1", ["004966", "0049ab", "0049ad"]),
        ("2", ["STARVED amqp", "healthy any", "DOWN    mail"]),
        ("4", ["FAILING web", "open      chat", "NO LINK mail"]),
        ("5", ["chat: dial", "gateway runs", "chat: 1 link"]),
    ] {
        press(&mut app, screen);
        for row in rows {
            let at = place(&app, row);
            assert_eq!(mouse(&mut app, LEFT, at), UpdateResult::Redraw, "{row} on {screen}");
            let buffer = styled::draw(&app, 120, 36);
            assert!(buffer[at].modifier.contains(Modifier::REVERSED), "{row} on {screen}");
        }
    }
    press(&mut app, "3");
    let at = place(&app, "CLIENT");
    mouse(&mut app, LEFT, at);
    shows(&app, "clients from A");
    mouse(&mut app, LEFT, at);
    shows(&app, "clients from Z");
    press(&mut app, "g");
    mouse(&mut app, MouseEventKind::ScrollDown, (10, 10));
    assert_eq!(app.selected_line(), Some(3));
    let at = place(&app, "2 Pool");
    mouse(&mut app, LEFT, at);
    shows(&app, "[2 Pool]");
    assert_eq!(press(&mut app, "m"), UpdateResult::Mouse(MouseCapture::Off));
}

#[test]
fn closing_draining_and_stopping_ask_and_enter_never_confirms() {
    let kill = Command::Kill { session: "00499a".into() };
    let drain = Command::Drain { service: Some("chat".into()) };
    for (keys, requested, command) in [
        ("3jx", "Close session 00499a of 203.0.113.92:58842 to chat?", kill.clone()),
        ("3j\nx", "Close session 00499a", kill.clone()),
        (":close 00499a\n", "Close session 00499a", kill.clone()),
        (":kill 00499a\n", "Close session 00499a", kill),
        ("4jd", "Drain chat?", drain.clone()),
        (":drain chat\n", "Drain chat?", drain),
        (":stop\n", "Stop the gateway?", Command::Stop),
    ] {
        for answer in ["y", "\n", "q"] {
            let mut app = app(pictures::healthy());
            app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
            press(&mut app, keys);
            shows(&app, requested);
            let reaction = press(&mut app, answer);
            match answer {
                "y" => assert_eq!(reaction, UpdateResult::Ask(command.clone()), "{keys}"),
                _ => assert_eq!(reaction, UpdateResult::Redraw, "{keys}{answer} closes the question"),
            }
        }
    }
}

#[test]
fn locking_names_what_it_cuts_and_unlocking_asks_too() {
    let mut inside = pictures::healthy();
    inside.services.iter_mut().for_each(|row| row.half = Half::Internal);
    inside.sessions.iter_mut().for_each(|row| row.half = Half::Internal);
    inside.pools.iter_mut().for_each(|row| row.half = Half::Internal);
    let of_chat = inside.sessions.iter().filter(|row| row.service == "chat").count();
    let links: usize = inside.pools.iter().map(|row| row.ready + row.carrying).sum();
    assert!(of_chat > 1 && links > 1 && of_chat < inside.sessions.len());
    let chat = LockdownTarget { peer: None, service: Some("chat".into()) };
    let all = inside.sessions.len();
    for (keys, requested, target) in [
        (":lockdown chat\n", format!("Lock service chat? {of_chat} sessions cut, links stay"), chat.clone()),
        (
            ":lockdown\n",
            format!("Lock everything? {all} sessions cut, {links} links closed"),
            LockdownTarget::default(),
        ),
    ] {
        for answer in ["y", "\n"] {
            let mut app = app(inside.clone());
            press(&mut app, keys);
            shows(&app, &requested);
            let wanted = if answer == "y" {
                UpdateResult::Ask(Command::Lockdown(target.clone()))
            } else {
                UpdateResult::Redraw
            };
            assert_eq!(press(&mut app, answer), wanted, "{keys}{answer}");
        }
    }
    let mut locked = app(inside.clone());
    press(&mut locked, ":unlock chat\n");
    shows(&locked, "nothing is locked");
    inside.lockdown =
        vec![LockdownRow { peer: None, service: Some("chat".into()), since: inside.time.clone() }];
    let mut locked = app(inside);
    press(&mut locked, ":unlock chat\n");
    shows(&locked, "Unlock service chat?");
    assert_eq!(press(&mut locked, "y"), UpdateResult::Ask(Command::Unlock(chat)));
    // A DMZ half locks nothing.
    let mut outside = pictures::healthy();
    outside.services.retain(|row| row.half == Half::Dmz);
    let mut outside = app(outside);
    press(&mut outside, ":lockdown chat\n");
    shows(&outside, "no service `chat` of an internal half");
}

#[test]
fn what_destroys_nothing_is_asked_at_once() {
    for (keys, command) in [
        ("r", Command::Reload),
        (":reload\n", Command::Reload),
        ("n16\n", Command::Resize { prepared: 16 }),
        (":resize 4\n", Command::Resize { prepared: 4 }),
        ("p", Command::Profiles),
        // A switch shows its plan first, and asks then.
        (":switch forward\n", Command::Plan { profile: "forward".into() }),
    ] {
        let mut app = app(pictures::healthy());
        assert_eq!(press(&mut app, keys), UpdateResult::Ask(command), "{keys}");
    }
    for wrong in
        [":resize\n", ":resize 0\n", ":resize many\n", ":relaod\n", ":sort colour\n", ":theme pink\n"]
    {
        let mut app = app(pictures::healthy());
        assert_eq!(press(&mut app, wrong), UpdateResult::Redraw, "{wrong}");
        shows(&app, wrong.trim());
    }
}

#[test]
fn a_half_that_does_not_dial_says_at_once_that_it_resizes_nothing() {
    let healthy = pictures::healthy();
    let half = |mode, half| Snapshot { mode, halves: vec![half], ..healthy.clone() };
    for (snapshot, dials) in [
        (half(Mode::Reverse, Half::Internal), true),
        (half(Mode::Reverse, Half::Dmz), false),
        (half(Mode::Forward, Half::Dmz), true),
        (pictures::forward(), false),
        (pictures::direct(), false),
    ] {
        let mut app = app(snapshot);
        press(&mut app, "2");
        assert_eq!(shown(&app, (120, 36)).contains("n resize"), dials);
        press(&mut app, "n");
        assert_eq!(shown(&app, (120, 36)).contains(":resize _"), dials);
        if !dials {
            shows(&app, "the half that dials decides");
            assert_eq!(press(&mut app, ":resize 4\n"), UpdateResult::Redraw);
            shows(&app, "the half that dials");
        }
    }
}

#[test]
fn a_refused_reload_shows_the_lines_it_is_about_until_the_next_key() {
    let mut app = app(pictures::healthy());
    assert_eq!(press(&mut app, "r"), UpdateResult::Ask(Command::Reload));
    app.note_sent(&Command::Reload);
    let refusal = "reverse.yaml:14:5: internal.link.pol: there is no key `pol` here; did you mean `pool`?";
    app.take_answer(CommandAnswer::Refused(refusal.into()));
    assert_eq!(app.background_command(), Some(Command::Profiles), "the lines come with the profiles");
    let mut rows = pictures::profiles();
    rows[0].problems = rows[2].problems.clone();
    app.take_answer(CommandAnswer::Profiles(rows));
    assert_eq!(app.background_command(), None);
    shows(&app, "14 |     pol: 3");
    shows(&app, "|     ^");
    shows(&app, "refused: reverse.yaml:14:5");
    press(&mut app, "z");
    assert!(!shown(&app, (120, 36)).contains("pol: 3"), "{}", shown(&app, (120, 36)));
}

#[test]
fn a_gateway_that_was_never_reached_is_reported_once_by_host_and_port() {
    let mut down = pictures::forward();
    down.pools[0].peer = None;
    down.pools[0].address = Some("socks+tls://internal.example.com:1444".into());
    let mut app = app(down);
    press(&mut app, "2");
    let wide = shown(&app, (160, 40));
    let row = wide.lines().find(|line| line.contains("any ")).unwrap();
    assert!(row.contains(" internal.example.com:1444 ") && !row.contains("socks"), "{row}");
    assert!(!wide.contains("ADDRESS"), "{wide}");
}

#[test]
fn a_long_refusal_is_reported_in_full() {
    let mut app = app(pictures::healthy());
    app.take_answer(CommandAnswer::Refused(format!(
        "a reason {} to its end",
        "that goes on and on ".repeat(8)
    )));
    shows(&app, "to its end");
    shows(&app, "any key goes on");
}

fn failed_checklist() -> VerifyReport {
    let steps = [
        (CheckStep::Profile, StepFinding::pass("the profile and its certificates are valid")),
        (CheckStep::Basic, StepFinding::pass("3 of 3 backends answer")),
        (
            CheckStep::Forward,
            StepFinding::skip("this half is dialled in mode forward, and the other half knows more"),
        ),
        (
            CheckStep::Reverse,
            StepFinding::fail(
                format!("no link is up to edge.example.com:4443: {}", "connection refused, ".repeat(12)),
                "start the DMZ half, or correct `connect`",
            ),
        ),
        (CheckStep::Closed, StepFinding::skip("the DMZ half listens by design")),
    ];
    VerifyReport::new(steps.map(|(step, found)| found.at(step, Duration::ZERO)).to_vec())
}

#[test]
fn a_failed_checklist_is_no_refusal_and_each_of_its_steps_is_readable() {
    let mut app = app(pictures::healthy());
    app.take_answer(CommandAnswer::Verified(failed_checklist()));
    for text in [
        "Checklist failed",
        "forward  skip  this half is dialled",
        "do: start the DMZ half, or correct `connect`",
        "closed   skip  the DMZ half listens by design",
    ] {
        shows(&app, text);
    }
    assert!(!shown(&app, (80, 24)).to_lowercase().contains("refused:"), "{}", shown(&app, (80, 24)));
    app.take_answer(CommandAnswer::Verified(VerifyReport::new(Vec::new())));
    shows(&app, "Checklist passed");
    let mut wrong = vec![];
    app.take_answer(CommandAnswer::Verified(failed_checklist()));
    check("answer-checklist", &app, (80, 24), &mut wrong);
    report(&wrong);
}

#[test]
fn what_the_last_checklist_has_found_is_below_the_profiles() {
    let steps = failed_checklist().steps;
    let run = VerifyRow { profile: "reverse".into(), walking: None, steps, age_seconds: 12.0 };
    let mut app = app(Snapshot { walk: Some(run), ..pictures::healthy() });
    press(&mut app, "6");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    press(&mut app, "g");
    shows(&app, "the checklist of reverse failed 00:12 ago:");
    shows(&app, "closed   skip  the DMZ half listens by design");
}

#[test]
fn what_has_no_room_in_the_box_of_an_answer_is_counted() {
    let mut app = app(pictures::healthy());
    app.take_answer(CommandAnswer::Refused("a reason that goes on and on ".repeat(130)));
    let shown = shown(&app, (80, 24));
    assert!(shown.contains("more lines; a larger terminal shows them"), "{shown}");
}

#[test]
fn a_profile_with_problems_is_not_switched_to() {
    let mut app = app(pictures::healthy());
    press(&mut app, "6");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    press(&mut app, "Gw");
    shows(&app, "dr-site has problems");
    shows(&app, "14 |     pol: 3");
}

#[test]
fn a_frozen_snapshot_counts_what_it_misses() {
    let mut app = app(pictures::healthy());
    press(&mut app, " ");
    let mut later = pictures::healthy();
    later.uptime_seconds += 41.0;
    later.sessions.pop();
    later.totals.sessions += 17;
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    shows(&app, "FROZEN 00:41 (+17 changes)");
    shows(&app, "4 open");
    press(&mut app, " ");
    shows(&app, "LIVE");
}

#[test]
fn an_ended_session_stays_and_its_end_is_explained() {
    let mut app = app(pictures::degraded());
    press(&mut app, "3Gk\n");
    shows(&app, "TW a time limit of ours ended it while it waited for a link");
    press(&mut app, "x");
    shows(&app, "has ended already");
}

#[test]
fn the_exported_table_is_what_is_listed_and_masked_alike() {
    let mut app = app(pictures::crowded(66));
    press(&mut app, "3/service:orders\nP");
    let UpdateResult::Export(export) = press(&mut app, "e") else { panic!("no export") };
    let table: serde_json::Value = serde_json::from_str(&export.json).unwrap();
    assert_eq!(
        (export.stem.as_str(), table["filter"].as_str()),
        ("portcullis-sessions", Some("service:orders"))
    );
    let rows = table["rows"].as_array().unwrap();
    let open = rows.iter().filter(|row| row["phase"].is_string());
    assert_eq!(open.count(), 22);
    assert!(rows.iter().all(|row| row["service"] == "orders" && row["client"] == "(hidden)"), "{rows:?}");
    assert!(!export.json.contains("203.0.113"), "an address is left");
}

#[test]
fn themes_take_turns_and_no_color_stays_without() {
    let mut app = app(pictures::healthy());
    for expected in [Theme::LIGHT, Theme::MONO, Theme::HIGH_CONTRAST, Theme::ANSI] {
        press(&mut app, "t");
        assert_eq!(app.style.theme, expected);
    }
    press(&mut app, ":theme high-contrast\n");
    assert_eq!(app.style.theme, Theme::HIGH_CONTRAST);
    let without = ScreenStyle { theme: Theme::MONO, has_colours: false, ..ScreenStyle::FULL };
    let mut app = App::new(Arc::new(pictures::judged(pictures::healthy())), without);
    press(&mut app, "t:theme default\n");
    assert_eq!(app.style.theme, Theme::MONO);
}

#[test]
fn help_begins_with_what_a_newcomer_needs() {
    let mut app = app(pictures::healthy());
    press(&mut app, "3?");
    let drawn = styled::draw(&app, 80, 24);
    let page: String = (0..24).map(|line| styled::line(&drawn, line) + "\n").collect();
    for line in ["q Ctrl-C", "Esc", "Enter", "/ ", "x "] {
        assert!(page.contains(&format!("│ {line}")), "{line} is not in\n{page}");
    }
}

#[test]
fn alerts_are_reported_one_by_one() {
    let mut app = app(pictures::degraded());
    shows(&app, "1 of 5, ! next, 34s: 10.1.4.9:41443: lost; no link for mail");
    press(&mut app, "!");
    shows(&app, "2 of 5, ! next: amqp");
    press(&mut app, "!!!!");
    shows(&app, "1 of 5, ! next, 34s: 10.1.4.9:41443: lost; no link for mail");
}

#[test]
fn tab_goes_round_the_screens_and_completes_a_command() {
    let mut app = app(pictures::healthy());
    for screen in [
        "[2 Pool]",
        "[3 Sessions]",
        "[4 Services]",
        "[5 Events]",
        "[6 Profiles]",
        "[7 Failures]",
        "[9 Path]",
        "[0 Doctor]",
        "[H History]",
        "[1 Overview]",
    ] {
        press(&mut app, "\t");
        shows(&app, screen);
    }
    press(&mut app, ":dra\tch\t");
    shows(&app, ":drain chat_");
}

#[test]
fn a_bad_filter_leaves_the_one_before_it_in_force() {
    let mut app = app(pictures::crowded(66));
    press(&mut app, "3/service:orders\n/");
    app.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    press(&mut app, "upp>1M");
    assert_eq!(app.session_order().filter.text, "service:orders");
    shows(&app, "22 of 66 pass the filter");
}

/// `x` pressed a moment too late must not hit whoever stands there now.
#[test]
fn the_cursor_leaves_with_its_row() {
    let mut app = app(pictures::degraded());
    press(&mut app, "3G");
    assert!(!shown(&app, (120, 36)).contains("x close"), "{}", shown(&app, (120, 36)));
    assert!(shown(&app, (120, 36)).contains("│>x "), "{}", shown(&app, (120, 36)));
    let mut later = pictures::degraded();
    later.uptime_seconds += 6.0;
    later.ended.iter_mut().for_each(|row| row.ago_seconds += 6.0);
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_eq!(app.selected_line(), None);
    press(&mut app, "x");
    shows(&app, "no session is selected");
}

#[test]
fn profiles_are_read_again_when_another_one_runs() {
    let mut app = app(pictures::healthy());
    press(&mut app, "6");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    assert_eq!(app.background_command(), None);
    let other = Snapshot { profile: "forward".into(), ..pictures::healthy() };
    app.receive_snapshot(Arc::new(pictures::judged(other)));
    assert_eq!(
        (app.background_command(), app.background_command()),
        (Some(Command::Profiles), None),
        "it is asked once"
    );
    app.take_answer(CommandAnswer::Done("switched to forward".into()));
    assert_eq!(app.background_command(), Some(Command::Profiles), "a reload is done");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    shows(&app, "switched to forward");
}

/// No question is answered by what does not fit on the screen: it moves, and its keys stay.
#[test]
fn a_question_longer_than_the_screen_scrolls_and_hides_nothing_unsaid() {
    let mut plan = pictures::plan();
    plan.opens = (0..40).map(|n| format!("tcp://127.0.0.1:{}", 41_000 + n)).collect();
    plan.lock = Some(format!("refused: {} takes a restart with that profile", "a long reason, ".repeat(12)));
    let mut app = app(pictures::forward());
    app.take_answer(CommandAnswer::Planned(plan.into()));
    for (width, height) in [(120, 36), (80, 24), (60, 15), (40, 10)] {
        let seen = |app: &App| {
            let buffer = styled::draw(app, width, height);
            (0..height).map(|y| styled::line(&buffer, y) + "\n").collect::<String>()
        };
        let mut all = String::new();
        for place in 0..120 {
            let shown = seen(&app);
            assert!(shown.contains("Switch from forward to") && shown.contains("do it"), "{shown}");
            assert!(shown.contains("leave it as it is"), "{shown}");
            assert!(place > 0 || shown.contains("lines below; j k move them"), "{shown}");
            all.push_str(&shown);
            press(&mut app, "j");
        }
        assert!(seen(&app).contains("lines above; j k"), "{}", seen(&app));
        for expected in ["127.0.0.1:41000", "127.0.0.1:41039", "restart", "end "] {
            assert!(all.contains(expected), "{expected} is not seen at {width}x{height}");
        }
        (0..130).for_each(|_| drop(press(&mut app, "k")));
    }
    // One line has room for one part at a time, which is counted.
    let one = styled::line(&styled::draw(&app, 60, 1), 0);
    assert!(one.contains("y do it, Esc back 1/"), "{one}");
    press(&mut app, "j");
    assert!(styled::line(&styled::draw(&app, 60, 1), 0).contains("y do it, Esc back 2/"));
    assert!(matches!(press(&mut app, "y"), UpdateResult::Redraw | UpdateResult::Ask(_)));
}

#[test]
fn a_profile_that_the_process_would_refuse_says_why() {
    let mut app = app(pictures::healthy());
    press(&mut app, "6");
    let mut profiles = pictures::profiles();
    let why = "this process is locked: the DMZ half can accept and nothing else; going to another half takes a \
               restart with that profile";
    profiles[1].refused = Some(why.into());
    app.take_answer(CommandAnswer::Profiles(profiles));
    press(&mut app, "jj");
    let shown = styled::dump(&styled::draw(&app, 80, 24));
    assert!(shown.contains("would refuse a switch to it") && shown.contains("restart"), "{shown}");
    assert!(!shown.contains("none: the gateway"), "{shown}");
}

#[test]
fn a_word_of_fleets_is_refused_for_its_own_reason() {
    let mut app = app(pictures::healthy());
    press(&mut app, ":only dmz-1\n");
    let shown = styled::dump(&styled::draw(&app, 120, 36));
    assert!(shown.contains("shows one gateway, and no fleet"), "{shown}");
}
