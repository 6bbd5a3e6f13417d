//! What the screen is to its gateway: attached, read-only, lost, a recording.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portcullis::{
    gateway::handle::{Access, Contact},
    record::{Play, Progress, State},
    tui::{
        Ended,
        app::{App, Reaction},
        keys::{self, Action},
        source::Standing,
    },
};

use crate::{SIZES, all_help, app, check, pictures, press, report, styled};

fn lost() -> Standing {
    let why = "/run/portcullis/edge.sock: no gateway answers there: Connection refused (os error 111)".into();
    Standing::Attached(Access::Full, Contact::Lost { why })
}

fn replay(state: State, gap: Option<Duration>) -> Standing {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_021_018);
    let (passed, whole) = (Duration::from_secs(41), Duration::from_secs(300));
    Standing::Replay(Progress { state, at, passed, whole, speed: 4.0, gap })
}

fn every() -> Vec<(&'static str, Standing)> {
    vec![
        ("attached", Standing::Attached(Access::Full, Contact::There)),
        ("read-only", Standing::Attached(Access::ReadOnly, Contact::There)),
        ("lost", lost()),
        ("replay", replay(State::Playing, None)),
        ("replay-gap", replay(State::Paused, Some(Duration::from_secs(97)))),
    ]
}

fn standing(standing: Standing) -> App {
    let mut app = app(pictures::healthy());
    app.stand(standing);
    app
}

#[test]
fn every_standing_is_told_as_it_was() {
    let mut wrong = vec![];
    for (name, which) in every() {
        let mut app = standing(which);
        app.silent_for(12);
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
        assert_eq!(press(&mut app, "q"), Reaction::End(Ended::Left), "{name}");
    }
}

#[test]
fn who_may_only_look_is_offered_nothing_else() {
    for which in [Standing::Attached(Access::ReadOnly, Contact::There), replay(State::Playing, None)] {
        let mut app = standing(which);
        press(&mut app, "j");
        for key in ["x", "r", "d"] {
            assert_eq!(press(&mut app, key), Reaction::Redraw, "{key}");
            let footer = styled::line(&styled::draw(&app, 120, 36), 35);
            assert!(footer.contains("refused: this screen may look"), "{key}: {footer}");
        }
    }
}

#[test]
fn a_recording_is_moved_by_its_keys_and_no_other_screen_is() {
    let moves = [
        (" ", Play::Pause),
        (".", Play::StepOn),
        (",", Play::StepBack),
        (">", Play::MinuteOn),
        ("<", Play::MinuteBack),
        ("]", Play::Faster),
        ("[", Play::Slower),
    ];
    let mut app = standing(replay(State::Playing, None));
    for (key, play) in moves {
        assert_eq!(press(&mut app, key), Reaction::Play(play), "{key}");
    }
    for (name, which) in every().into_iter().filter(|(_, which)| !matches!(which, Standing::Replay(_))) {
        let mut app = standing(which);
        for (key, play) in &moves[1..] {
            assert_eq!(press(&mut app, key), Reaction::Nothing, "{name}: {play:?}");
        }
    }
}

#[test]
fn only_a_process_without_a_gateway_is_suspended() {
    let suspend = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
    assert_eq!(app(pictures::healthy()).press(suspend), Reaction::Nothing);
    for (name, which) in every() {
        assert_eq!(standing(which).press(suspend), Reaction::Suspend, "{name}");
    }
}

#[test]
fn help_offers_what_the_standing_does_and_nothing_else() {
    for (name, which) in every() {
        let text = all_help(&which, (120, 36));
        let app = standing(which);
        assert!(!text.contains("stop the gateway"), "{name} can only leave it");
        for binding in keys::BINDINGS.iter().filter(|binding| binding.action != Action::Back) {
            let offered = app.standing().offers(binding.action);
            assert_eq!(text.contains(binding.label), offered, "{name}: {}", binding.label);
        }
    }
}

#[test]
fn a_gateway_that_is_back_is_live_again() {
    let mut app = standing(lost());
    app.silent_for(70);
    let line = |app: &App| styled::line(&styled::draw(app, 120, 36), 0);
    assert!(line(&app).contains("LOST 1m") && !line(&app).contains("HEALTHY"), "{}", line(&app));
    assert!(app.stand(Standing::Attached(Access::Full, Contact::There)));
    app.take(Arc::new(pictures::judged(pictures::healthy())));
    assert!(line(&app).contains("LIVE") && line(&app).contains("HEALTHY"), "{}", line(&app));
}

#[test]
fn every_key_in_every_standing_at_every_size_can_be_drawn() {
    for (_, which) in every() {
        for binding in keys::BINDINGS {
            let mut app = standing(which.clone());
            for key in binding.keys {
                let code = match *key {
                    keys::Key::Char(letter) | keys::Key::Ctrl(letter) => KeyCode::Char(letter),
                    keys::Key::Code(code) => code,
                };
                app.press(KeyEvent::new(code, KeyModifiers::NONE));
                SIZES.iter().for_each(|&(width, height)| drop(styled::draw(&app, width, height)));
            }
        }
    }
}
