//! What is asked of the gateways of a fleet: numbers and sessions are those of the gateway that a question names, and
//! no answer hides another.

use std::{sync::Arc, time::Duration};

use portcullis::{
    gateway::handle::{AdminAccess, Command, CommandAnswer, LockdownTarget},
    profile::{Half, Mode},
    telemetry::{
        checklist::{CheckStep, StepFinding, VerifyReport},
        snapshot::{CheckRow, Snapshot, SwitchRow},
    },
    tui::{
        app::{App, StatusMessage, UpdateResult},
        fleet::AskedAs::{Alone, Together},
        source::Attachment,
        style::ScreenStyle,
    },
};

use crate::{
    fleet::{app, fleet, session, text},
    pictures, press,
};

fn of(snapshot: Snapshot) -> App {
    let mut app = App::new(Arc::new(snapshot), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    app
}

#[test]
fn what_a_gateway_has_locked_is_unlocked_by_its_row() {
    let mut app = app();
    press(&mut app, "8gG:lockdown orders\n");
    let shown = text(&app);
    assert!(shown.contains("inside-1: Lock service orders? 3 sessions cut, links stay"), "{shown}");
    let target = LockdownTarget { service: Some("orders".into()), peer: None };
    let requested = |command| UpdateResult::AskGateways(vec![("inside-1".into(), command)]);
    assert_eq!(press(&mut app, "y"), requested(Command::Lockdown(target.clone())));
    press(&mut app, ":unlock orders\n");
    assert!(text(&app).contains("inside-1: Unlock service orders?"), "{}", text(&app));
    assert_eq!(press(&mut app, "y"), requested(Command::Unlock(target)));
}

/// Two internal gateways have the service, and two DMZ gateways are at each.
#[test]
fn a_lock_counts_what_its_gateway_cuts_alone() {
    let mut two = fleet();
    let other = |name: &mut Option<Arc<str>>| *name = Some("inside-2".into());
    let mut sessions = vec![session("00c1", Half::Internal, "inside-1", "dmz-1", 0)];
    sessions.iter_mut().for_each(|row| other(&mut row.gateway));
    let mut pools: Vec<_> = two.pools.iter().filter(|row| row.half == Half::Internal).cloned().collect();
    pools.iter_mut().for_each(|row| other(&mut row.gateway));
    two.sessions.extend(sessions);
    two.pools.extend(pools);
    let mut app = of(two);
    press(&mut app, "8gG:lockdown\n");
    let shown = text(&app);
    assert!(shown.contains("inside-1: Lock everything? 3 sessions cut, 16 links closed"), "{shown}");
}

#[test]
fn a_refused_reload_is_reported_and_its_gateways_profiles_are_read() {
    let mut app = app();
    press(&mut app, "8gjjjp");
    app.take_answer_of("edge-1".into(), Alone, CommandAnswer::Profiles(pictures::profiles()));
    assert_eq!(app.background_command(), None);
    press(&mut app, "8gjj");
    let reload = press(&mut app, "r");
    assert_eq!(reload, UpdateResult::AskGateways(vec![("edge-2".into(), Command::Reload)]));
    app.note_sent(&Command::Reload);
    let why = "edge-2: shop.yaml:2:1: mode: no such mode";
    app.take_answer_of("edge-2".into(), Alone, CommandAnswer::Refused(why.into()));
    assert_eq!(app.background_command(), Some(Command::Profiles));
    app.take_answer_of("edge-1".into(), Alone, CommandAnswer::Profiles(pictures::profiles()));
    assert!(app.profiles().is_empty(), "another gateway's profiles say nothing of it");
    app.take_answer_of("edge-2".into(), Alone, CommandAnswer::Profiles(pictures::profiles()));
    assert_eq!(app.status_message(), Some(&StatusMessage::Refused(why.into())));
    assert!(!app.profiles().is_empty());
}

#[test]
fn profiles_that_belong_to_no_gateway_yet_are_not_asked_for() {
    let mut app = app();
    press(&mut app, "6");
    let reported = Snapshot { profile: "4 of 5 gateways".into(), uptime_seconds: 63.0, ..fleet() };
    app.receive_snapshot(Arc::new(reported));
    assert_eq!(app.background_command(), None);
}

#[test]
fn a_refusal_by_one_of_many_is_not_hidden_by_what_the_others_did() {
    let mut app = app();
    press(&mut app, "3/service:orders\nX");
    let UpdateResult::AskGateways(requested) = press(&mut app, "y") else { panic!("it asks nobody") };
    requested.iter().for_each(|(_, command)| app.note_sent(command));
    app.note_asked_together(requested.iter().map(|(name, _)| name.clone()));
    let killed = |name: &str, sessions| CommandAnswer::Killed(sessions).of_gateway(name);
    app.take_answer_of("edge-1".into(), Together, killed("edge-1", 2));
    assert!(
        matches!(app.status_message(), Some(StatusMessage::Waiting(text)) if text.contains("edge-2, inside-1")),
        "{:?}",
        app.status_message()
    );
    app.take_answer_of(
        "edge-2".into(),
        Together,
        CommandAnswer::Refused("this way is read-only".into()).of_gateway("edge-2"),
    );
    app.take_answer_of("inside-1".into(), Together, killed("inside-1", 1));
    let reported = "edge-2: this way is read-only; edge-1: 2 sessions are cut; inside-1: 1 session is cut";
    assert_eq!(app.status_message(), Some(&StatusMessage::Refused(reported.into())));
}

/// A command between a question to many and their answers, of a gateway that still owes one of those.
#[test]
fn another_command_hides_no_answer_that_is_still_to_come_and_is_not_taken_for_one() {
    let mut app = app();
    let asked = |app: &mut App| {
        let kill = Command::Kill { session: "00a1".into() };
        (0..2).for_each(|_| app.note_sent(&kill));
        app.note_asked_together(["edge-1".into(), "edge-2".into()].into_iter());
    };
    let killed = |name: &str, sessions| CommandAnswer::Killed(sessions).of_gateway(name);
    asked(&mut app);
    app.note_sent(&Command::Reload);
    app.take_answer_of("edge-1".into(), Together, killed("edge-1", 2));
    let reloaded = CommandAnswer::Done("read again".into()).of_gateway("edge-2");
    app.take_answer_of("edge-2".into(), Alone, reloaded);
    assert_eq!(app.status_message(), Some(&StatusMessage::Done("edge-2: read again".into())));
    asked(&mut app);
    app.take_answer_of("edge-2".into(), Together, killed("edge-2", 1));
    app.take_answer_of("edge-2".into(), Together, killed("edge-2", 3));
    app.take_answer_of("edge-1".into(), Together, killed("edge-1", 4));
    let all = "edge-1: 2 sessions are cut; edge-2: 1 session is cut; edge-2: 3 sessions are cut; \
               edge-1: 4 sessions are cut";
    assert_eq!(app.status_message(), Some(&StatusMessage::Done(all.into())));
}

#[test]
fn a_failed_checklist_names_its_gateway() {
    let mut app = app();
    let found = StepFinding::fail("no link", "look").at(CheckStep::Reverse, Duration::ZERO);
    let failed = CommandAnswer::Verified(VerifyReport::new(vec![found])).of_gateway("inside-1");
    app.take_answer_of("inside-1".into(), Alone, failed);
    let shown = text(&app);
    assert!(shown.contains("Checklist of inside-1 failed: reverse fail (no link; do: look)"), "{shown}");
}

/// What one gateway has proven says nothing of another.
#[test]
fn a_switch_of_one_gateway_is_asked_for_and_followed_by_its_own_checks() {
    let passed = CheckRow { profile: "forward".into(), passed: true, age_seconds: 5.0 };
    let switching =
        SwitchRow { profile: "reverse".into(), mode: Mode::Reverse, missing: None, seconds_left: 9.0 };
    let with = |name: &str| {
        let mut fleet = fleet();
        let row = fleet.gateways.iter_mut().find(|row| &*row.name == name);
        let received = row.and_then(|row| row.heard.as_mut()).expect("it was heard");
        (received.forward_checks, received.switching) = (vec![passed.clone()], Some(switching.clone()));
        fleet
    };
    let plan = pictures::plan();
    for (name, is_proven) in [("edge-1", true), ("edge-2", false)] {
        let mut app = of(with(name));
        press(&mut app, "8gjjjp");
        app.take_answer_of("edge-1".into(), Alone, CommandAnswer::Profiles(pictures::profiles()));
        assert_eq!(text(&app).contains("Switch to reverse"), is_proven, "{}", text(&app));
        app.take_answer_of("edge-1".into(), Alone, CommandAnswer::Planned(plan.clone().into()));
        let reaction = press(&mut app, "y");
        let asks = matches!(&reaction, UpdateResult::AskGateways(requested) if &*requested[0].0 == "edge-1");
        assert_eq!(asks, is_proven, "{name}: {reaction:?} {}", text(&app));
    }
}

/// The second gateway copies an id, or has the same by chance.
#[test]
fn two_sessions_of_one_id_are_two_rows_and_each_is_its_own_gateways() {
    let mut twice = fleet();
    let copy = session("00a1", Half::Dmz, "edge-2", "inside", 70);
    twice.sessions.insert(4, copy);
    let mut app = of(twice);
    press(&mut app, "3/id:00a1\n");
    let shown = text(&app);
    let rows: Vec<_> = shown.lines().filter(|line| line.contains("00a1") && line.contains("203.0")).collect();
    assert_eq!(rows.len(), 2, "{shown}");
    let of = |name: &str| rows.iter().find(|row| row.contains(name)).expect("its row");
    assert!(of("edge-1").contains("inside-1") && of("edge-1").contains("12ms+3.0ms"), "{shown}");
    assert!(!of("edge-2").contains("inside-1 "), "nobody says that it carries it: {shown}");
    for name in ["edge-1", "edge-2"] {
        app.press(crossterm::event::KeyCode::Esc.into());
        app.press(crossterm::event::KeyCode::Esc.into());
        press(&mut app, &format!("3/id:00a1 gateway:{name}\njx"));
        assert!(text(&app).contains(&format!("{name}: Close session 00a1")), "{}", text(&app));
        let kill = Command::Kill { session: "00a1".into() };
        assert_eq!(press(&mut app, "y"), UpdateResult::AskGateways(vec![(name.into(), kill)]));
    }
    app.press(crossterm::event::KeyCode::Esc.into());
    app.press(crossterm::event::KeyCode::Esc.into());
    press(&mut app, ":kill 00a1\n");
    let reported = app.status_message();
    assert!(
        matches!(reported, Some(StatusMessage::Refused(why)) if why.contains("no gateway is chosen")),
        "which of them is meant nobody knows: {reported:?}"
    );
}
