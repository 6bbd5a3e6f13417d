//! The one table of keys: it drives dispatch, footer, questions and help.
//!
//! A key that is not here does nothing, nor does one that the screen's standing does not offer.
//! Nothing that ends something lies on Enter or next to `k`.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use Context::{AskClose, AskQuit, Help, Panels};
use Key::{Char, Code, Ctrl};

use crate::{record::Play, tui::symbols::Symbols};

/// What the keys speak to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// The panels, with the list of sessions.
    Panels,
    Help,
    /// "Quit?", with sessions open.
    AskQuit,
    /// "Close this session?"
    AskClose,
}

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Down,
    Up,
    PageDown,
    PageUp,
    First,
    Last,
    /// Of a recording: pause.
    Freeze,
    Play(Play),
    Close,
    Reload,
    Mask,
    Help,
    Suspend,
    Quit,
    Back,
    ConfirmQuit,
    LeaveHeadless,
    ConfirmClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    Code(KeyCode),
}

/// One line of the table.
#[derive(Debug)]
pub struct Binding {
    pub context: Context,
    pub keys: &'static [Key],
    pub action: Action,
    /// What it does, for help and questions.
    pub label: &'static str,
    /// One word for the footer; `None` where the footer has no room for it.
    pub hint: Option<&'static str>,
}

/// The action of `key` in `context`; `None` when it does nothing there.
pub fn action(context: Context, key: KeyEvent) -> Option<Action> {
    let key = Key::pressed(key)?;
    of(context).find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
}

/// The lines of one context, in the order they are shown.
pub fn of(context: Context) -> impl Iterator<Item = &'static Binding> {
    BINDINGS.iter().filter(move |binding| binding.context == context)
}

impl Key {
    /// Releases and repeats of a held modifier are no presses; unknown modifiers are no keys.
    fn pressed(event: KeyEvent) -> Option<Self> {
        if event.kind != KeyEventKind::Press {
            return None;
        }
        // A capital carries SHIFT on some terminals and not on others: the letter tells it already.
        match (event.code, event.modifiers.difference(KeyModifiers::SHIFT)) {
            (KeyCode::Char(letter), KeyModifiers::NONE) => Some(Self::Char(letter)),
            (KeyCode::Char(letter), KeyModifiers::CONTROL) => Some(Self::Ctrl(letter)),
            (code, KeyModifiers::NONE) => Some(Self::Code(code)),
            _ => None,
        }
    }

    /// How the key is written on the screen.
    pub fn name(self, symbols: &Symbols) -> String {
        match self {
            Self::Char(' ') => "Space".into(),
            Self::Char(letter) => letter.into(),
            Self::Ctrl(letter) => format!("Ctrl-{}", letter.to_ascii_uppercase()),
            Self::Code(KeyCode::Up) => symbols.arrow_up.into(),
            Self::Code(KeyCode::Down) => symbols.arrow_down.into(),
            Self::Code(KeyCode::PageUp) => "PgUp".into(),
            Self::Code(KeyCode::PageDown) => "PgDn".into(),
            Self::Code(code) => code.to_string(),
        }
    }
}

const fn line(
    context: Context,
    keys: &'static [Key],
    action: Action,
    label: &'static str,
    hint: Option<&'static str>,
) -> Binding {
    Binding { context, keys, action, label, hint }
}

pub const BINDINGS: &[Binding] = &[
    line(Panels, &[Char('j'), Code(KeyCode::Down)], Action::Down, "next session", Some("down")),
    line(Panels, &[Char('k'), Code(KeyCode::Up)], Action::Up, "previous session", Some("up")),
    line(Panels, &[Code(KeyCode::PageDown)], Action::PageDown, "ten sessions down", None),
    line(Panels, &[Code(KeyCode::PageUp)], Action::PageUp, "ten sessions up", None),
    line(Panels, &[Char('g'), Code(KeyCode::Home)], Action::First, "first session", None),
    line(Panels, &[Char('G'), Code(KeyCode::End)], Action::Last, "last session", None),
    line(Panels, &[Char(' ')], Action::Freeze, "freeze, or go on", Some("freeze")),
    line(Panels, &[Char('.')], Action::Play(Play::StepOn), "next picture", Some("step")),
    line(Panels, &[Char(',')], Action::Play(Play::StepBack), "picture before", None),
    line(Panels, &[Char('>')], Action::Play(Play::MinuteOn), "a minute on", None),
    line(Panels, &[Char('<')], Action::Play(Play::MinuteBack), "a minute back", None),
    line(Panels, &[Char(']')], Action::Play(Play::Faster), "twice as fast", Some("faster")),
    line(Panels, &[Char('[')], Action::Play(Play::Slower), "half as fast", Some("slower")),
    line(Panels, &[Char('x')], Action::Close, "close the session", Some("close")),
    line(Panels, &[Char('r')], Action::Reload, "reload the profile", Some("reload")),
    line(Panels, &[Char('P')], Action::Mask, "hide addresses", Some("privacy")),
    line(Panels, &[Char('?')], Action::Help, "this help", Some("help")),
    line(Panels, &[Ctrl('z')], Action::Suspend, "back to the shell", None),
    line(Panels, &[Char('q'), Ctrl('c')], Action::Quit, "quit", Some("quit")),
    line(Panels, &[Code(KeyCode::Esc)], Action::Back, "select none", None),
    line(Help, &[Code(KeyCode::Esc), Char('?')], Action::Back, "back", Some("back")),
    line(Help, &[Char('q'), Ctrl('c')], Action::Quit, "quit", Some("quit")),
    line(AskQuit, &[Char('y')], Action::ConfirmQuit, "stop the gateway", Some("quit")),
    line(AskQuit, &[Char('h')], Action::LeaveHeadless, "leave it headless", Some("leave headless")),
    line(AskQuit, &[Code(KeyCode::Esc)], Action::Back, "do nothing", Some("back")),
    line(AskClose, &[Char('y')], Action::ConfirmClose, "close it", Some("close it")),
    line(AskClose, &[Code(KeyCode::Esc)], Action::Back, "leave it open", Some("back")),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const EVERY: [Action; 23] = [
        Action::Down,
        Action::Up,
        Action::PageDown,
        Action::PageUp,
        Action::First,
        Action::Last,
        Action::Freeze,
        Action::Play(Play::StepOn),
        Action::Play(Play::StepBack),
        Action::Play(Play::MinuteOn),
        Action::Play(Play::MinuteBack),
        Action::Play(Play::Faster),
        Action::Play(Play::Slower),
        Action::Close,
        Action::Reload,
        Action::Mask,
        Action::Help,
        Action::Suspend,
        Action::Quit,
        Action::Back,
        Action::ConfirmQuit,
        Action::LeaveHeadless,
        Action::ConfirmClose,
    ];

    #[test]
    fn no_key_means_two_things_in_one_context() {
        let mut seen = HashSet::new();
        for binding in BINDINGS {
            for key in binding.keys {
                assert!(seen.insert(format!("{:?} {key:?}", binding.context)), "{key:?} twice: {binding:?}");
            }
        }
    }

    #[test]
    fn every_action_has_a_key_and_a_label() {
        for action in EVERY {
            let bound: Vec<_> = BINDINGS.iter().filter(|binding| binding.action == action).collect();
            assert!(!bound.is_empty(), "{action:?} has no key");
            assert!(bound.iter().all(|b| !b.label.is_empty() && !b.keys.is_empty()), "{bound:?}");
        }
    }

    #[test]
    fn enter_never_does_anything_and_escape_never_quits() {
        for binding in BINDINGS {
            assert!(!binding.keys.contains(&Code(KeyCode::Enter)), "{binding:?}");
            if binding.keys.contains(&Code(KeyCode::Esc)) {
                assert_eq!(binding.action, Action::Back, "{binding:?}");
            }
        }
    }

    #[test]
    fn modifiers_and_releases_are_told_apart() {
        let press = |code, modifiers| KeyEvent::new(code, modifiers);
        let c = KeyCode::Char('c');
        assert_eq!(action(Panels, press(c, KeyModifiers::CONTROL)), Some(Action::Quit));
        assert_eq!(action(Panels, press(c, KeyModifiers::NONE)), None);
        assert_eq!(action(Panels, press(KeyCode::Char('z'), KeyModifiers::NONE)), None);
        assert_eq!(action(Panels, press(KeyCode::Char('x'), KeyModifiers::ALT)), None);
        assert_eq!(action(Panels, press(KeyCode::Char('G'), KeyModifiers::SHIFT)), Some(Action::Last));
        let mut release = press(KeyCode::Char('q'), KeyModifiers::NONE);
        release.kind = KeyEventKind::Release;
        assert_eq!(action(Panels, release), None);
    }
}
