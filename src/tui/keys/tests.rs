//! The table of actions is complete, and means the same everywhere.

use super::*;

fn contexts() -> Vec<KeyContext> {
    let screens =
        Screen::ALL.into_iter().flat_map(|screen| [KeyContext::Screen(screen), KeyContext::Detail(screen)]);
    screens.chain([KeyContext::Help, KeyContext::Typing, KeyContext::AskQuit, KeyContext::Ask]).collect()
}

#[test]
fn no_key_means_two_things_in_one_context() {
    for context in contexts() {
        let mut seen = Vec::new();
        for binding in bindings_in(context) {
            for key in binding.keys {
                assert!(!seen.contains(key), "{context:?}: {key:?} twice: {binding:?}");
                seen.push(*key);
            }
        }
    }
}

#[test]
fn every_line_holds_somewhere_and_can_be_asked_for() {
    for binding in BINDINGS {
        assert!(contexts().into_iter().any(|context| binding.scope.covers(context)), "{binding:?}");
        assert!(!binding.label.is_empty(), "{binding:?}");
        assert!(
            !binding.keys.is_empty() || !binding.command.is_empty(),
            "{binding:?} has neither key nor word"
        );
    }
}

/// Every action on a screen other than a movement also has a word, so that it can be found without its key. One
/// that changes the gateway has its command.
#[test]
fn keys_command_line_and_admin_socket_know_the_same_actions() {
    use Action::*;
    for binding in BINDINGS.iter().filter(|binding| matches!(binding.scope, Everywhere | Lists | On(_))) {
        let by_key_alone = matches!(
            binding.action,
            Down | Up
                | PageDown
                | PageUp
                | First
                | Last
                | NextScreen
                | Left
                | Right
                | PreviousScreen
                | LastScreen
                | Enter
                | Back
                | Play(_)
                | CommandLine
                | Suspend
                | Profiles
        );
        assert_eq!(binding.command.is_empty(), by_key_alone, "{binding:?}");
        let has_command = binding.action.command().is_some();
        assert!(
            !binding.action.changes() || has_command,
            "{binding:?} changes the gateway without a command"
        );
    }
    let mut words: Vec<_> =
        BINDINGS.iter().map(|binding| binding.command).filter(|word| !word.is_empty()).collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count, "a word stands twice");
}

#[test]
fn every_command_of_the_admin_socket_is_an_action() {
    use crate::gateway::handle::Command;
    let commands = [
        Command::Status,
        Command::Drain { service: None },
        Command::Stop,
        Command::Reload,
        Command::Switch { profile: String::new() },
        Command::Kill { session: String::new() },
        Command::KillAll(crate::telemetry::registry::KillSelection::Listed(Default::default())),
        Command::Resize { prepared: 1 },
        Command::LogLevel { level: String::new() },
        Command::Dismiss { peer: String::new() },
        Command::Profiles,
        Command::Metrics { format: crate::telemetry::metrics::MetricsFormat::Text },
        Command::History(crate::telemetry::history::HistoryRequest {
            step_seconds: 1,
            steps: 1,
            rows_at: None,
        }),
        Command::Plan { profile: String::new() },
        Command::Verify { steps: Vec::new() },
        Command::Lockdown(Default::default()),
        Command::Unlock(Default::default()),
    ];
    for command in commands {
        // A new command does not compile until it is named here.
        let name = match &command {
            // The screen shows it all the time.
            Command::Status => continue,
            // For monitors; its contents are on the screens.
            Command::Metrics { .. } => continue,
            // The screen of that name requests it by itself.
            Command::History(_) => continue,
            // A switch requests it first.
            Command::Plan { .. } => continue,
            Command::Lockdown(_) => "lockdown",
            Command::Unlock(_) => "unlock",
            Command::Verify { .. } => "verify",
            Command::Drain { .. } => "drain",
            Command::Stop => "stop",
            Command::Reload => "reload",
            Command::Switch { .. } => "switch",
            Command::Kill { .. } => "kill",
            Command::KillAll(_) => "killall",
            Command::Resize { .. } => "resize",
            Command::LogLevel { .. } => "log-level",
            Command::Dismiss { .. } => "dismiss",
            Command::Profiles => "profiles",
        };
        let sent = serde_json::to_string(&command).unwrap_or_default();
        assert!(sent.contains(&format!("\"{name}\"")), "{sent} is not called {name}");
        assert!(
            BINDINGS.iter().any(|binding| binding.action.command() == Some(name)),
            "{name} has no action"
        );
    }
}

#[test]
fn enter_never_destroys_and_escape_never_quits() {
    for binding in BINDINGS {
        if binding.keys.contains(&Code(KeyCode::Enter)) {
            assert!(matches!(binding.action, Action::Enter | Action::Run), "{binding:?}");
        }
        if binding.keys.contains(&Code(KeyCode::Esc)) {
            assert_eq!(binding.action, Action::Back, "{binding:?}");
        }
        assert!(!binding.action.changes() || !binding.keys.contains(&Char('k')), "{binding:?}");
    }
}

#[test]
fn modifiers_and_releases_are_distinguished() {
    let press = |code, modifiers| KeyEvent::new(code, modifiers);
    let here = KeyContext::Screen(Screen::Sessions);
    let c = KeyCode::Char('c');
    assert_eq!(action_for(here, press(c, KeyModifiers::CONTROL)), Some(Action::Quit));
    assert_eq!(action_for(here, press(c, KeyModifiers::NONE)), None);
    assert_eq!(action_for(here, press(KeyCode::Char('z'), KeyModifiers::NONE)), None);
    assert_eq!(action_for(here, press(KeyCode::Char('x'), KeyModifiers::ALT)), None);
    assert_eq!(action_for(here, press(KeyCode::Char('G'), KeyModifiers::SHIFT)), Some(Action::Last));
    let mut release = press(KeyCode::Char('q'), KeyModifiers::NONE);
    release.kind = KeyEventKind::Release;
    assert_eq!(action_for(here, release), None);
}

#[test]
fn each_screen_is_shown_by_the_key_in_its_tab() {
    for screen in Screen::ALL {
        let key = KeyEvent::new(KeyCode::Char(screen.key()), KeyModifiers::NONE);
        assert_eq!(action_for(KeyContext::Screen(Screen::Overview), key), Some(Action::Show(screen)));
    }
}
