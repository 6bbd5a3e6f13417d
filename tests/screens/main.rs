//! Every screen: drawn from hand-made snapshots, compared with golden files, and shaken at random.
//!
//! `PORTCULLIS_BLESS=1 cargo test --test screens` updates the golden files; read the difference
//! before committing it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alerts;
mod assets;
mod attachment;
#[path = "../links/count.rs"]
mod count;
mod doctor;
mod fleet;
mod fleet_commands;
mod fleet_silence;
mod history;
mod operate;
mod path;
mod pictures;
mod status;
mod styled;
#[path = "../pictures/svg.rs"]
mod svg;

use std::{fs, path::PathBuf, sync::Arc};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::{Half, Mode},
    telemetry::snapshot::{CheckRow, Snapshot, SwitchRow},
    tui::{
        app::{App, UpdateResult},
        keys,
        screen::Screen,
        source::Attachment,
        style::ScreenStyle,
        symbols::SymbolSet,
        theme::Theme,
    },
};
use proptest::prelude::*;
use ratatui::style::Color;

const SIZES: [(u16, u16); 4] = [(120, 36), (80, 24), (60, 15), (1, 1)];
const SCREENS: [(&str, &str); 9] = [
    ("overview", "1"),
    ("pool", "2j"),
    ("sessions", "3jj"),
    ("services", "4j"),
    ("events", "5j"),
    ("profiles", "6"),
    ("failures", "7j"),
    ("path", "9jj"),
    ("doctor", "0j"),
];

/// Keys that open what lies over the panels, and the details.
const OPENED: [&str; 12] =
    ["3aj", "3X", "?", "q", "jjx", " Pj", "4jd", "/service:am", ":drian", "3ssS", "2j\n", "4j\n"];

fn app(snapshot: Snapshot) -> App {
    App::new(Arc::new(pictures::judged(snapshot)), ScreenStyle::FULL)
}

fn press(app: &mut App, keys: &str) -> UpdateResult {
    let mut reaction = UpdateResult::Nothing;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            key => KeyCode::Char(key),
        };
        reaction = app.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
    reaction
}

/// Compares with the golden file of this name, or writes it when asked to.
fn check(name: &str, app: &App, (width, height): (u16, u16), wrong: &mut Vec<String>) {
    let name = format!("{name}-{width}x{height}.txt");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/screens").join(&name);
    let drawn = styled::dump(&styled::draw(app, width, height));
    if std::env::var_os("PORTCULLIS_BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, drawn).unwrap();
        return;
    }
    let golden = fs::read_to_string(&file).unwrap_or_default();
    if golden != drawn {
        let at = golden.lines().zip(drawn.lines()).position(|(a, b)| a != b);
        let line = at.unwrap_or_else(|| golden.lines().count().min(drawn.lines().count()));
        let [was, is] = [&golden, &drawn].map(|text| text.lines().nth(line).unwrap_or("(end)").to_owned());
        wrong.push(format!("{name}, line {}:\n  golden {was}\n  drawn  {is}", line + 1));
    }
}

fn report(wrong: &[String]) {
    let how = "PORTCULLIS_BLESS=1 cargo test --test screens writes them again; read the difference";
    assert!(wrong.is_empty(), "{} screens differ; {how}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_screen_of_every_snapshot_matches_its_golden_file() {
    let mut wrong = vec![];
    for (name, snapshot) in pictures::all() {
        for (screen, keys) in SCREENS {
            let mut app = app(snapshot.clone());
            press(&mut app, keys);
            if screen == "profiles" {
                app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
                press(&mut app, "jj");
            }
            for size in SIZES {
                check(&format!("{name}-{screen}"), &app, size, &mut wrong);
            }
        }
    }
    report(&wrong);
}

/// What a large terminal has room for goes to the charts and to the lists.
#[test]
fn large_screens_use_their_room() {
    let mut wrong = vec![];
    for (name, keys) in [("overview", "1"), ("services", "4j"), ("detail-service", "4j\n")] {
        let mut app = app(pictures::degraded());
        press(&mut app, keys);
        check(&format!("degraded-{name}"), &app, (160, 50), &mut wrong);
    }
    for size in [(160, 50), (200, 60)] {
        let mut one = app(pictures::healthy());
        press(&mut one, "9jj");
        check("healthy-path", &one, size, &mut wrong);
        let mut fleet = fleet::app();
        press(&mut fleet, "9");
        check("fleet-path", &fleet, size, &mut wrong);
    }
    report(&wrong);
}

/// Too small for any layout: what fits of one list, below header and alert.
#[test]
fn small_screens_show_what_fits() {
    let mut wrong = vec![];
    for (name, keys) in [
        ("overview", "1"),
        ("pool", "2j"),
        ("services", "4j"),
        ("events", "5j"),
        ("failures", "7j"),
        ("clients", "3aj"),
        ("detail", "3j\n"),
        ("help", "?"),
        ("quit", "q"),
        ("close", "jjx"),
        ("typing", "/ser"),
    ] {
        let mut app = app(pictures::degraded());
        press(&mut app, keys);
        for size in [(40, 10), (40, 5), (30, 3)] {
            check(&format!("small-{name}"), &app, size, &mut wrong);
        }
    }
    report(&wrong);
}

#[test]
fn every_detail_is_as_it_was() {
    let mut wrong = vec![];
    for (name, snapshot) in [("degraded", pictures::degraded()), ("direct", pictures::direct())] {
        for (detail, keys) in [
            ("session", "3j\n"),
            ("ended", "3G\n"),
            ("pool", "2j\n"),
            ("service", "4j\n"),
            ("event", "5j\n"),
            ("failure", "7j\n"),
        ] {
            let mut app = app(snapshot.clone());
            press(&mut app, keys);
            for size in [(120, 36), (80, 24), (60, 15)] {
                check(&format!("{name}-detail-{detail}"), &app, size, &mut wrong);
            }
        }
    }
    let mut app = app(pictures::healthy());
    press(&mut app, "6");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    press(&mut app, "G\n");
    for size in [(120, 36), (80, 24), (60, 15)] {
        check("healthy-detail-profile", &app, size, &mut wrong);
    }
    report(&wrong);
}

#[test]
fn what_keys_open_is_as_it_was() {
    let mut wrong = vec![];
    for (name, keys) in [
        ("help", "?"),
        ("help-columns", "2?\t"),
        ("help-ends", "3?\t\t"),
        ("ask-quit", "q"),
        ("ask-close", "jjx"),
        ("frozen-hidden", " Pj"),
        ("ask-drain", "4jd"),
        ("ask-close-all", "3/service:chat\nX"),
        ("clients", "3aj"),
        ("client-detail", "3a\n"),
        ("typing-filter", "/service:am"),
        ("typing-fields", "/!"),
        ("typing-commands", ":s"),
        ("typing-nothing", ":"),
        ("typing-value", ":kill "),
        ("typing-wrong", ":drian"),
        ("sorted", "3ssS"),
        ("nothing-passes", "3/nosuch"),
    ] {
        let mut app = app(pictures::degraded());
        press(&mut app, keys);
        for size in [(120, 36), (60, 15), (40, 1)] {
            check(name, &app, size, &mut wrong);
        }
    }
    for (name, answer) in [
        ("answer-done", CommandAnswer::Done("session 0049ad closed".into())),
        (
            "answer-refused",
            CommandAnswer::Refused("reverse.yaml:14:3: pol: unknown key; did you mean pool".into()),
        ),
    ] {
        let mut app = app(pictures::healthy());
        app.take_answer(answer);
        check(name, &app, (80, 24), &mut wrong);
    }
    report(&wrong);
}

/// `p` on a profile asks for the plan; `y` goes, Esc leaves all as it was; reversing what no forward
/// check has proven asks once more.
#[test]
fn a_switch_is_shown_before_it_goes_and_ticks_while_it_does() {
    let mut wrong = vec![];
    let forward = |checks: &[(&str, bool)]| Snapshot {
        profile: "forward".into(),
        forward_checks: checks
            .iter()
            .map(|(profile, passed)| CheckRow {
                profile: (*profile).into(),
                passed: *passed,
                age_seconds: 5.0,
            })
            .collect(),
        ..pictures::forward()
    };
    let open = |snapshot: Snapshot| {
        let mut app = app(snapshot);
        assert_eq!(press(&mut app, "p"), UpdateResult::Ask(Command::Profiles));
        app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
        press(&mut app, "j");
        assert_eq!(press(&mut app, "p"), UpdateResult::Ask(Command::Plan { profile: "reverse".into() }));
        app.take_answer(CommandAnswer::Planned(pictures::plan().into()));
        app
    };
    let go = UpdateResult::Ask(Command::Switch { profile: "reverse".into() });

    let mut proven = open(forward(&[("forward", true)]));
    for size in [(120, 36), (80, 24), (60, 15)] {
        check("ask-switch", &proven, size, &mut wrong);
    }
    assert_eq!(press(&mut proven, "y"), go);
    let mut left = open(forward(&[("forward", true)]));
    left.press(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
    assert_eq!(press(&mut left, "y"), UpdateResult::Nothing, "the question is gone, and nothing was asked");

    for checks in [&[][..], &[("forward", false)], &[("somebody", true)]] {
        let mut unproven = open(forward(checks));
        assert_eq!(press(&mut unproven, "y"), UpdateResult::Redraw, "it asks once more");
        // Its picture with a check that has failed; the others differ in that cell alone.
        for size in [(80, 24), (60, 15)].into_iter().filter(|_| checks == [("forward", false)]) {
            check("ask-unproven", &unproven, size, &mut wrong);
        }
        assert_eq!(press(&mut unproven, "y"), go);
    }

    let switching = Some(SwitchRow {
        profile: "reverse".into(),
        mode: Mode::Reverse,
        missing: Some("link to 127.0.0.1:41443: 3 of 8 links are ready".into()),
        seconds_left: 6.2,
    });
    proven.receive_snapshot(Arc::new(Snapshot {
        switching,
        uptime_seconds: 9999.0,
        ..forward(&[("forward", true)])
    }));
    check("switch-ticks", &proven, (80, 24), &mut wrong);
    report(&wrong);
}

#[test]
fn a_plain_terminal_gets_neither_colour_nor_anything_but_ascii() {
    let mut wrong = vec![];
    let plain = ScreenStyle { theme: Theme::MONO, symbols: SymbolSet::ASCII, has_colours: false };
    for (name, snapshot) in pictures::all() {
        let mut app = App::new(Arc::new(pictures::judged(snapshot.clone())), plain.clone());
        if name == "degraded" {
            press(&mut app, "j");
            check("plain", &app, (80, 24), &mut wrong);
        }
        for keys in SCREENS.map(|(_, keys)| keys).into_iter().chain(OPENED) {
            let mut app = App::new(Arc::new(pictures::judged(snapshot.clone())), plain.clone());
            press(&mut app, keys);
            if keys == "6" {
                app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
            }
            // The widest shows every column.
            for (width, height) in SIZES.into_iter().chain([(200, 50)]) {
                for cell in styled::draw(&app, width, height).content() {
                    assert!(cell.symbol().is_ascii(), "{name} {keys} shows {:?}", cell.symbol());
                    assert_eq!(
                        (cell.fg, cell.bg),
                        (Color::Reset, Color::Reset),
                        "{name} {keys} has a colour"
                    );
                }
            }
        }
    }
    report(&wrong);
    let of_fleet = fleet::fleet;
    for keys in
        SCREENS.map(|(_, keys)| keys).into_iter().chain(OPENED).chain(["8j", "8j\n", "9jjjjj", "Hhhh"])
    {
        for snapshot in [of_fleet(), pictures::healthy()] {
            let mut app = App::new(Arc::new(snapshot), plain.clone());
            // What the cursor moves over has to be there first.
            press(&mut app, "H");
            history::answer(&mut app, history::report_of);
            press(&mut app, keys);
            for (width, height) in SIZES.into_iter().chain([(200, 50)]) {
                let buffer = styled::draw(&app, width, height);
                let odd = buffer.content().iter().find(|cell| {
                    !cell.symbol().is_ascii() || (cell.fg, cell.bg) != (Color::Reset, Color::Reset)
                });
                assert_eq!(odd, None, "{keys} at {width}x{height}");
            }
        }
    }
}

#[test]
fn only_the_palette_of_the_terminal_is_used() {
    for (name, snapshot) in pictures::all() {
        for cell in styled::draw(&app(snapshot), 120, 36).content() {
            assert!(!matches!(cell.fg, Color::Rgb(..) | Color::Indexed(_)), "{name}: {:?}", cell.fg);
            assert_eq!(cell.bg, Color::Reset, "{name} sets a background");
        }
    }
}

/// Everything in the help of some screen or detail, scrolled to its end.
fn all_help(standing: &Attachment, (width, height): (u16, u16)) -> String {
    let mut reported = String::new();
    for screen in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "H", "1j\n", "4j\n", "3a"] {
        let mut app = attachment::standing(standing.clone());
        press(&mut app, screen);
        press(&mut app, "?");
        for _ in 0..8 {
            let buffer = styled::draw(&app, width, height);
            reported.extend((0..height).map(|y| styled::line(&buffer, y) + "\n"));
            // Ten lines on.
            press(&mut app, " ");
        }
    }
    reported
}

#[test]
fn help_tells_every_line_of_the_key_table() {
    for size in [(120, 36), (80, 24), (60, 15)] {
        let reported = all_help(&Attachment::Own, size);
        for binding in keys::BINDINGS {
            let offered = Attachment::Own.is_available(binding.action);
            let elsewhere = matches!(
                binding.action,
                keys::Action::Suspend
                    | keys::Action::Play(_)
                    | keys::Action::Only
                    | keys::Action::Hide
                    | keys::Action::Show(Screen::Gateways)
            );
            assert_eq!(offered, !elsewhere, "a gateway's own screen: {binding:?}");
            assert!(
                !offered || reported.contains(binding.label),
                "{} is not in the help at {size:?}",
                binding.label
            );
        }
    }
}

#[test]
fn hostile_text_cannot_leave_its_place() {
    let app = app(pictures::hostile());
    for (width, height) in SIZES {
        let buffer = styled::draw(&app, width, height);
        for y in 0..height {
            let line = styled::line(&buffer, y);
            let is_plain = |c: char| !c.is_control() && !matches!(c, '\u{202e}' | '\u{200b}');
            assert!(line.chars().all(is_plain), "{line:?}");
        }
    }
}

#[test]
fn the_selection_follows_its_session_and_closing_names_it() {
    let mut app = app(pictures::healthy());
    press(&mut app, "j");
    let buffer = styled::draw(&app, 120, 36);
    let before = (0..36).map(|y| styled::line(&buffer, y)).find(|line| line.starts_with("│> ")).unwrap();
    let id = before.split_whitespace().nth(1).unwrap().to_owned();
    let mut later = pictures::healthy();
    later.uptime_seconds += 5.0;
    for row in later.sessions.iter_mut().filter(|row| row.id == id) {
        (row.rate_up, row.rate_down) = (0, 0);
    }
    app.receive_snapshot(Arc::new(pictures::judged(later)));
    assert_ne!(app.selected_line(), Some(0), "the row has moved down");
    press(&mut app, "x");
    assert_eq!(press(&mut app, "y"), UpdateResult::Ask(Command::Kill { session: id }));
}

#[test]
fn closing_one_of_two_sessions_with_one_id_names_its_peer() {
    let mut snapshot = pictures::healthy();
    let mut twin = snapshot.sessions[0].clone();
    twin.peer = Some("twin".into());
    let id = twin.id.clone();
    snapshot.sessions.push(twin);
    let mut app = app(snapshot);
    press(&mut app, &format!(":kill twin/{id}\n"));
    assert_eq!(press(&mut app, "y"), UpdateResult::Ask(Command::Kill { session: format!("twin/{id}") }));
}

#[test]
fn rows_keep_their_places_for_two_seconds() {
    let mut app = app(pictures::healthy());
    let ids = |app: &App| -> Vec<String> {
        app.session_order()
            .rows(app.snapshot(), 0..app.session_order().open_len())
            .iter()
            .map(|row| row.id().to_owned())
            .collect()
    };
    let before = ids(&app);
    let mut later = pictures::healthy();
    later.sessions.reverse();
    later.sessions[0].rate_up = u64::MAX / 2;
    later.uptime_seconds += 1.0;
    app.receive_snapshot(Arc::new(pictures::judged(later.clone())));
    assert_eq!(ids(&app), before, "a second later");
    later.uptime_seconds += 1.5;
    app.receive_snapshot(Arc::new(pictures::judged(later.clone())));
    assert_eq!(ids(&app)[0], later.sessions[0].id, "after two seconds the busiest is on top");
}

#[test]
fn a_hundred_thousand_sessions_cost_a_frame_no_more_than_a_hundred() {
    for keys in ["3", "3G", "3jjj", "3S", "3a", "3aG", "3/203\n"] {
        let [few, many] = [100, 100_000].map(|sessions| {
            let mut app = app(pictures::crowded(sessions));
            press(&mut app, keys);
            // What the first frame keeps is not part of the second.
            styled::draw(&app, 120, 36);
            count::peak_of(|| drop(styled::draw(&app, 120, 36)))
        });
        // Of each session that is not shown not even a name is copied.
        assert!(many < few + 10_000, "{keys}: {few} bytes for 100 sessions, {many} for 100,000");
    }
}

#[test]
fn a_pair_lists_each_session_once_with_both_halves() {
    let mut app = app(pictures::pair());
    press(&mut app, "3");
    let (shown, order) = (app.snapshot(), app.session_order());
    let listed: Vec<_> =
        order.rows(shown, 0..99).iter().map(|row| (row.id().to_owned(), row.half())).collect();
    let of = |number: u64| {
        let id = format!("{number:06x}");
        listed.iter().filter(|row| row.0 == id).map(|row| row.1).collect::<Vec<_>>()
    };
    assert_eq!(shown.sessions.iter().filter(|row| row.id == "0048b3").count(), 2, "as `status` has it");
    assert_eq!((of(18_611), of(18_859)), (vec![Half::Dmz], vec![Half::Dmz]), "reported with its other half");
    assert_eq!(of(18_888), [Half::Internal], "its other half has ended");
    assert_eq!((order.open_len(), order.listable_len(), order.len()), (5, 5, 6));
    let text = styled::dump(&styled::draw(&app, 120, 36));
    let line = text.lines().find(|line| line.contains("0048b3")).unwrap();
    assert!(line.contains(" both ") && line.contains("draining/relaying"), "{line}");
    assert!(line.contains("tcp://10.0.0.8:9001"), "{line}");
    let mut wrong = vec![];
    for size in [(120, 36), (80, 24)] {
        check("pair-sessions", &app, size, &mut wrong);
    }
    press(&mut app, "/orders\n");
    assert!(styled::dump(&styled::draw(&app, 120, 36)).contains("1 of 5"));
    report(&wrong);
}

fn any_key() -> impl Strategy<Value = KeyEvent> {
    let bound: Vec<char> = "jkgG xrP?qyhlz1234567890HsS/:depntvw!,.mc+-=<>[]aXo".chars().collect();
    let code = prop_oneof![
        8 => proptest::sample::select(bound).prop_map(KeyCode::Char),
        3 => proptest::sample::select(vec![
            KeyCode::Esc, KeyCode::Enter, KeyCode::Up, KeyCode::Down, KeyCode::PageUp, KeyCode::PageDown,
            KeyCode::Home, KeyCode::End, KeyCode::Tab, KeyCode::BackTab, KeyCode::Backspace,
        ]),
        1 => any::<char>().prop_map(KeyCode::Char),
    ];
    (code, prop_oneof![9 => Just(KeyModifiers::NONE), 1 => any::<u8>().prop_map(KeyModifiers::from_bits_truncate)])
        .prop_map(|(code, modifiers)| KeyEvent::new(code, modifiers))
}

proptest! {
    // A failure prints its input and a seed; PROPTEST_RNG_SEED runs one again.
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_keys_and_no_size_bring_the_screen_down(
        first in 0_usize..8,
        steps in proptest::collection::vec((any_key(), 0_usize..8, 0_u16..140, 0_u16..45), 1..50),
    ) {
        let mut pictures: Vec<_> = pictures::all().into_iter().map(|(_, snapshot)| snapshot).collect();
        pictures[6] = pictures::crowded(300);
        let mut app = app(pictures[first].clone());
        for (key, next, width, height) in steps {
            if let UpdateResult::Ask(command) = app.press(key) {
                app.note_sent(&command);
                match command {
                    Command::Profiles => app.take_answer(CommandAnswer::Profiles(pictures::profiles())),
                    Command::Plan { .. } => app.take_answer(CommandAnswer::Planned(pictures::plan().into())),
                    _ => {}
                }
            }
            styled::draw(&app, width, height);
            let mut snapshot = pictures[next].clone();
            snapshot.uptime_seconds += f64::from(width);
            app.receive_snapshot(Arc::new(pictures::judged(snapshot)));
            app.set_silence(u64::from(height));
            styled::draw(&app, width, height);
        }
    }
}
