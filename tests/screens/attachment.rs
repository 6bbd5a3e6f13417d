//! What the screen is to its gateway: attached, read-only, lost, a recording.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portcullis::{
    gateway::handle::{AdminAccess, GatewayContact},
    record::{PlayerAction, PlayerState, ReplayProgress},
    telemetry::snapshot::{RecordingRow, Snapshot},
    tui::{
        ScreenEnd,
        app::{App, UpdateResult},
        keys::{self, Action},
        source::Attachment,
    },
};

use crate::{SIZES, all_help, app, check, fleet, pictures, press, report, styled};

pub fn lost() -> Attachment {
    let why = "/run/portcullis/edge.sock: no gateway answers there: Connection refused (os error 111)".into();
    Attachment::Attached(AdminAccess::Full, GatewayContact::Lost { why })
}

fn replay(state: PlayerState, gap: Option<Duration>) -> Attachment {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_021_018);
    let (passed, whole) = (Duration::from_secs(41), Duration::from_secs(300));
    Attachment::Replay(ReplayProgress { state, at, passed, whole, speed: 4.0, gap })
}

fn every() -> Vec<(&'static str, Attachment)> {
    vec![
        ("attached", Attachment::Attached(AdminAccess::Full, GatewayContact::There)),
        ("read-only", Attachment::Attached(AdminAccess::ReadOnly, GatewayContact::There)),
        ("lost", lost()),
        ("fleet", Attachment::Fleet(AdminAccess::Full)),
        ("fleet-read-only", Attachment::Fleet(AdminAccess::ReadOnly)),
        ("replay", replay(PlayerState::Playing, None)),
        ("replay-gap", replay(PlayerState::Paused, Some(Duration::from_secs(97)))),
    ]
}

pub fn standing(standing: Attachment) -> App {
    let mut app = match &standing {
        Attachment::Fleet(_) => fleet::app(),
        Attachment::Own | Attachment::Attached(..) | Attachment::Replay(_) => app(pictures::healthy()),
    };
    app.set_attachment(standing);
    app
}

#[test]
fn every_attachment_state_is_shown_as_before() {
    let mut wrong = vec![];
    for (name, which) in every() {
        let mut app = standing(which);
        app.set_silence(12);
        for size in [(80, 24), (60, 15), (40, 1)] {
            check(name, &app, size, &mut wrong);
        }
    }
    report(&wrong);
}

#[test]
fn leaving_never_asks_where_the_gateway_goes_on() {
    for (name, which) in every() {
        let mut app = standing(which);
        assert!(app.snapshot().totals.sessions_open > 0);
        assert_eq!(press(&mut app, "q"), UpdateResult::End(ScreenEnd::Left), "{name}");
    }
}

#[test]
fn who_may_only_look_is_offered_nothing_else() {
    for which in [
        Attachment::Attached(AdminAccess::ReadOnly, GatewayContact::There),
        Attachment::Fleet(AdminAccess::ReadOnly),
        replay(PlayerState::Playing, None),
    ] {
        let mut app = standing(which);
        press(&mut app, "j");
        for key in ["x", "r", "d"] {
            assert_eq!(press(&mut app, key), UpdateResult::Redraw, "{key}");
            let footer = styled::line(&styled::draw(&app, 120, 36), 35);
            assert!(footer.contains("refused: this screen may look"), "{key}: {footer}");
        }
    }
}

#[test]
fn a_recording_is_moved_by_its_keys_and_no_other_screen_is() {
    let moves = [
        (" ", PlayerAction::Pause),
        (".", PlayerAction::StepOn),
        (",", PlayerAction::StepBack),
        (">", PlayerAction::MinuteOn),
        ("<", PlayerAction::MinuteBack),
        ("]", PlayerAction::Faster),
        ("[", PlayerAction::Slower),
    ];
    let mut app = standing(replay(PlayerState::Playing, None));
    for (key, play) in moves {
        assert_eq!(press(&mut app, key), UpdateResult::Play(play), "{key}");
    }
    for (name, which) in every().into_iter().filter(|(_, which)| !matches!(which, Attachment::Replay(_))) {
        let mut app = standing(which);
        for (key, play) in &moves[1..] {
            assert_eq!(press(&mut app, key), UpdateResult::Nothing, "{name}: {play:?}");
        }
    }
}

#[test]
fn only_a_process_without_a_gateway_is_suspended() {
    let suspend = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
    assert_eq!(app(pictures::healthy()).press(suspend), UpdateResult::Nothing);
    for (name, which) in every() {
        assert_eq!(standing(which).press(suspend), UpdateResult::Suspend, "{name}");
    }
}

#[test]
fn help_offers_what_the_standing_does_and_nothing_else() {
    for (name, which) in every() {
        let text = all_help(&which, (120, 36));
        let app = standing(which);
        assert!(!text.contains("stop the gateway"), "{name} can only leave it");
        for binding in keys::BINDINGS.iter().filter(|binding| binding.action != Action::Back) {
            let offered = app.is_action_known(binding.action);
            assert_eq!(text.contains(binding.label), offered, "{name}: {}", binding.label);
        }
    }
}

#[test]
fn a_gateway_that_is_back_is_live_again() {
    let mut app = standing(lost());
    app.set_silence(70);
    let line = |app: &App| styled::line(&styled::draw(app, 120, 36), 0);
    assert!(line(&app).contains("LOST 1m") && !line(&app).contains("HEALTHY"), "{}", line(&app));
    assert!(app.set_attachment(Attachment::Attached(AdminAccess::Full, GatewayContact::There)));
    app.receive_snapshot(Arc::new(pictures::judged(pictures::healthy())));
    assert!(line(&app).contains("LIVE") && line(&app).contains("HEALTHY"), "{}", line(&app));
}

#[test]
fn every_key_in_every_standing_at_every_size_can_be_drawn() {
    for (_, which) in every() {
        for binding in keys::BINDINGS {
            let mut app = standing(which.clone());
            for key in binding.keys {
                let code = match *key {
                    keys::KeyPress::Char(letter) | keys::KeyPress::Ctrl(letter) => KeyCode::Char(letter),
                    keys::KeyPress::Code(code) => code,
                };
                app.press(KeyEvent::new(code, KeyModifiers::NONE));
                SIZES.iter().for_each(|&(width, height)| drop(styled::draw(&app, width, height)));
            }
        }
    }
}

#[test]
fn a_recording_is_marked_and_that_it_fails_too() {
    let mut wrong = vec![];
    for (name, mark, trouble) in
        [("recording", "REC", None), ("recording-fails", "REC FAILS", Some("No space left on device"))]
    {
        let (file, trouble) = ("/var/lib/portcullis/kept.jsonl".into(), trouble.map(Into::into));
        let row = RecordingRow { file, left_out: 7, trouble };
        let app = app(Snapshot { recording: Some(row), ..pictures::healthy() });
        for size in [(120, 36), (80, 24)] {
            let header = styled::line(&styled::draw(&app, size.0, size.1), 0);
            assert!(header.contains(mark), "{name} at {size:?}: {header}");
            check(name, &app, size, &mut wrong);
        }
    }
    report(&wrong);
}
