//! The one table of actions: it drives keys, command line, footer, questions and help.
//!
//! A key that is not here does nothing, and neither does one that the screen's attachment does not offer.
//! Nothing that ends something is on Enter or next to `k`.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use BindingScope::{Asked, AskedToQuit, Detail, Everywhere, Helping, Lists, On, Typing};
use KeyPress::{Char, Code, Ctrl};

use crate::{
    record::PlayerAction,
    tui::{screen::Screen, symbols::SymbolSet},
};

/// The context that decides what keys do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyContext {
    /// A screen with its list.
    Screen(Screen),
    /// The details of one row of a screen.
    Detail(Screen),
    Help,
    /// A line is being typed: a filter or a command.
    Typing,
    /// "Quit?", with open sessions.
    AskQuit,
    /// "Do this?", for something destructive.
    Ask,
}

/// The contexts that a line of the table applies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingScope {
    /// On every screen and in all details.
    Everywhere,
    /// On every screen, but not in details.
    Lists,
    /// On these screens and in their details.
    On(&'static [Screen]),
    Detail,
    Helping,
    Typing,
    AskedToQuit,
    Asked,
}

/// The action of a key or a typed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Down,
    Up,
    PageDown,
    PageUp,
    First,
    Last,
    Show(Screen),
    /// To the parts before and after the selected one.
    Left,
    Right,
    /// Show the rows of one gateway of a fleet only.
    Only,
    /// Leave a gateway that was stopped out of the list.
    Hide,
    NextScreen,
    PreviousScreen,
    LastScreen,
    Enter,
    Filter,
    Sort,
    Flip,
    /// In a recording: pause.
    Freeze,
    Play(PlayerAction),
    NextAlert,
    Close,
    CloseAll,
    Lockdown,
    Unlock,
    Clients,
    Drain,
    Dismiss,
    Resize,
    LogLevel,
    Reload,
    Profiles,
    Verify,
    Switch,
    Stop,
    Mask,
    Mouse,
    Longer,
    Shorter,
    Theme,
    Export,
    CommandLine,
    Help,
    Suspend,
    Quit,
    Back,
    NextPage,
    Complete,
    Earlier,
    Later,
    Run,
    Confirm,
    ConfirmQuit,
    LeaveHeadless,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPress {
    Char(char),
    Ctrl(char),
    Code(KeyCode),
}

/// One line of the table.
#[derive(Debug)]
pub struct KeyBinding {
    pub scope: BindingScope,
    pub keys: &'static [KeyPress],
    pub action: Action,
    /// Its word on the command line; empty if there is only a key.
    pub command: &'static str,
    /// What it does, for help and questions.
    pub label: &'static str,
    /// One word for the footer; `None` if it is not shown there.
    pub hint: Option<&'static str>,
}

/// The action of `key` in `context`; `None` if it does nothing there.
pub fn action_for(context: KeyContext, key: KeyEvent) -> Option<Action> {
    let key = KeyPress::pressed(key)?;
    bindings_in(context).find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
}

/// The lines of one context, in the order they are shown.
pub fn bindings_in(context: KeyContext) -> impl Iterator<Item = &'static KeyBinding> {
    BINDINGS.iter().filter(move |binding| binding.scope.covers(context))
}

impl BindingScope {
    fn covers(self, context: KeyContext) -> bool {
        match context {
            KeyContext::Screen(screen) => match self {
                Everywhere | Lists => true,
                On(screens) => screens.contains(&screen),
                Detail | Helping | Typing | AskedToQuit | Asked => false,
            },
            KeyContext::Detail(screen) => match self {
                Everywhere | Detail => true,
                On(screens) => screens.contains(&screen),
                Lists | Helping | Typing | AskedToQuit | Asked => false,
            },
            KeyContext::Help => self == Helping,
            KeyContext::Typing => self == Typing,
            KeyContext::AskQuit => self == AskedToQuit,
            KeyContext::Ask => self == Asked,
        }
    }
}

impl Action {
    /// The command of the admin socket that it sends, if any.
    pub fn command(self) -> Option<&'static str> {
        match self {
            Self::Close => Some("kill"),
            Self::CloseAll => Some("killall"),
            Self::Lockdown => Some("lockdown"),
            Self::Unlock => Some("unlock"),
            Self::Drain => Some("drain"),
            Self::Dismiss => Some("dismiss"),
            Self::Resize => Some("resize"),
            Self::LogLevel => Some("log-level"),
            Self::Reload => Some("reload"),
            Self::Profiles | Self::Show(Screen::Profiles) => Some("profiles"),
            Self::Switch => Some("switch"),
            Self::Verify => Some("verify"),
            Self::Stop => Some("stop"),
            _ => None,
        }
    }

    /// Whether it changes the gateway.
    pub fn changes(self) -> bool {
        matches!(
            self,
            Self::Close
                | Self::CloseAll
                | Self::Lockdown
                | Self::Unlock
                | Self::Drain
                | Self::Dismiss
                | Self::Resize
                | Self::LogLevel
                | Self::Reload
                | Self::Switch
                | Self::Verify
                | Self::Stop
                | Self::Confirm
        )
    }
}

impl KeyBinding {
    /// What a newcomer needs comes first in the help: how to leave, go back, look closer, find, close.
    pub fn help_rank(&self) -> usize {
        let first = [
            Action::Quit,
            Action::Back,
            Action::Enter,
            Action::Filter,
            // Only in a fleet.
            Action::Only,
            Action::Close,
            Action::Help,
        ];
        let rank = first.iter().position(|&action| action == self.action && !self.keys.is_empty());
        rank.unwrap_or(first.len())
    }
}

impl KeyPress {
    /// Releases and repeats of a held modifier do not count as presses; unknown modifiers are ignored.
    fn pressed(event: KeyEvent) -> Option<Self> {
        if event.kind != KeyEventKind::Press {
            return None;
        }
        // Some terminals send SHIFT with a capital and others do not; the letter itself is enough.
        match (event.code, event.modifiers.difference(KeyModifiers::SHIFT)) {
            (KeyCode::Char(letter), KeyModifiers::NONE) => Some(Self::Char(letter)),
            (KeyCode::Char(letter), KeyModifiers::CONTROL) => Some(Self::Ctrl(letter)),
            (code, KeyModifiers::NONE) => Some(Self::Code(code)),
            _ => None,
        }
    }

    /// How the key is written on the screen.
    pub fn name(self, symbols: &SymbolSet) -> String {
        match self {
            Self::Char(' ') => "Space".into(),
            Self::Char(letter) => letter.into(),
            Self::Ctrl(letter) => format!("Ctrl-{}", letter.to_ascii_uppercase()),
            Self::Code(KeyCode::Up) => symbols.arrow_up.into(),
            Self::Code(KeyCode::Down) => symbols.arrow_down.into(),
            Self::Code(KeyCode::PageUp) => "PgUp".into(),
            Self::Code(KeyCode::PageDown) => "PgDn".into(),
            Self::Code(KeyCode::BackTab) => "Shift-Tab".into(),
            Self::Code(code) => code.to_string(),
        }
    }
}

const fn line(
    scope: BindingScope,
    keys: &'static [KeyPress],
    action: Action,
    command: &'static str,
    label: &'static str,
    hint: Option<&'static str>,
) -> KeyBinding {
    KeyBinding { scope, keys, action, command, label, hint }
}

const SESSIONS: BindingScope = On(&[Screen::Overview, Screen::Sessions]);
/// Screens with and without a traffic chart.
const CHARTED: BindingScope = On(&[Screen::Overview, Screen::Services, Screen::History]);
const UNCHARTED: BindingScope = On(&[
    Screen::Pool,
    Screen::Sessions,
    Screen::Events,
    Screen::Profiles,
    Screen::Failures,
    Screen::Gateways,
    Screen::Path,
    Screen::Doctor,
]);
/// Screens where left and right have a meaning of their own.
const SIDEWAYS: BindingScope = On(&[Screen::Path, Screen::History]);
const LEFT_RIGHT_SCROLL: BindingScope = On(&[
    Screen::Overview,
    Screen::Pool,
    Screen::Sessions,
    Screen::Services,
    Screen::Events,
    Screen::Profiles,
    Screen::Failures,
    Screen::Gateways,
    Screen::Doctor,
]);
/// Screens whose rows are about a service.
const SERVICES: BindingScope =
    On(&[Screen::Overview, Screen::Pool, Screen::Sessions, Screen::Services, Screen::Failures]);

#[rustfmt::skip]
pub const BINDINGS: &[KeyBinding] = &[
    line(Everywhere, &[Char('j'), Code(KeyCode::Down)], Action::Down, "", "down", None),
    line(Everywhere, &[Char('k'), Code(KeyCode::Up)], Action::Up, "", "up", None),
    line(Everywhere, &[Code(KeyCode::PageDown)], Action::PageDown, "", "ten lines down", None),
    line(Everywhere, &[Code(KeyCode::PageUp)], Action::PageUp, "", "ten lines up", None),
    line(Everywhere, &[Char('g'), Code(KeyCode::Home)], Action::First, "", "first line", None),
    line(Everywhere, &[Char('G'), Code(KeyCode::End)], Action::Last, "", "last line", None),
    line(Everywhere, &[Char('1')], Action::Show(Screen::Overview), "overview", "everything at a glance", None),
    line(Everywhere, &[Char('2')], Action::Show(Screen::Pool), "pool", "the links, worst first", None),
    line(Everywhere, &[Char('3')], Action::Show(Screen::Sessions), "sessions", "the sessions", None),
    line(Everywhere, &[Char('4')], Action::Show(Screen::Services), "services", "the services, worst first", None),
    line(Everywhere, &[Char('5')], Action::Show(Screen::Events), "events", "what has happened", None),
    line(Everywhere, &[Char('6')], Action::Show(Screen::Profiles), "profiles", "what it can be switched to", None),
    line(Everywhere, &[Char('7')], Action::Show(Screen::Failures), "failures", "what has failed, by its cause", None),
    line(Everywhere, &[Char('8')], Action::Show(Screen::Gateways), "gateways", "the gateways of a fleet, worst first", None),
    line(Everywhere, &[Char('9')], Action::Show(Screen::Path), "path", "the path from clients to backends", None),
    line(Everywhere, &[Char('0')], Action::Show(Screen::Doctor), "doctor", "what limits it, and what to change", None),
    line(Everywhere, &[Char('H')], Action::Show(Screen::History), "history", "the last hours in charts", None),
    line(Everywhere, &[Char('o')], Action::Only, "only", "show one gateway only, or all", Some("only")),
    line(CHARTED, &[Char('+'), Char('=')], Action::Longer, "longer", "charts of a longer time", None),
    line(CHARTED, &[Char('-')], Action::Shorter, "shorter", "charts of a shorter time", Some("chart")),
    line(Everywhere, &[Char('m')], Action::Mouse, "mouse", "capture or release the mouse", Some("mouse")),
    line(Everywhere, &[Char('t')], Action::Theme, "theme", "the next theme", Some("theme")),
    line(Everywhere, &[Char('e')], Action::Export, "export", "write the table into a JSON file", Some("export")),
    line(Everywhere, &[Char('P')], Action::Mask, "privacy", "hide addresses, or show them", Some("privacy")),
    line(Everywhere, &[Code(KeyCode::Tab)], Action::NextScreen, "", "next screen", Some("screens")),
    line(LEFT_RIGHT_SCROLL, &[Char('l'), Code(KeyCode::Right)], Action::NextScreen, "", "the screen to the right", None),
    line(Everywhere, &[Code(KeyCode::BackTab)], Action::PreviousScreen, "", "previous screen", None),
    line(LEFT_RIGHT_SCROLL, &[Char('h'), Code(KeyCode::Left)], Action::PreviousScreen, "", "the screen to the left", None),
    line(SIDEWAYS, &[Char('l'), Code(KeyCode::Right)], Action::Right, "", "where it leads, or later", None),
    line(SIDEWAYS, &[Char('h'), Code(KeyCode::Left)], Action::Left, "", "where it comes from, or earlier", None),
    line(Everywhere, &[Code(KeyCode::Backspace)], Action::LastScreen, "", "back to the screen seen before", None),
    line(UNCHARTED, &[Char('-')], Action::LastScreen, "", "the screen seen before", None),
    line(Everywhere, &[Char('!')], Action::NextAlert, "alert", "show the next alert", Some("alert")),
    line(Everywhere, &[Char('r')], Action::Reload, "reload", "read profile and certificates again", Some("reload")),
    line(Everywhere, &[Char('p')], Action::Profiles, "", "the profiles; on one: plan a switch", Some("profiles")),
    line(Everywhere, &[Char('v')], Action::Verify, "verify", "run the checklist", Some("verify")),
    line(Everywhere, &[Char('n')], Action::Resize, "resize", "set the number of ready links", Some("resize")),
    line(Everywhere, &[], Action::LogLevel, "log-level", "write more or less into the log", None),
    line(Everywhere, &[], Action::Lockdown, "lockdown", "cut and refuse a service, a gateway, or all", None),
    line(Everywhere, &[], Action::Unlock, "unlock", "lift a lockdown", None),
    line(Everywhere, &[], Action::Stop, "stop", "drain, then end", None),
    line(Everywhere, &[Char('.')], Action::Play(PlayerAction::StepOn), "", "next snapshot", Some("step")),
    line(Everywhere, &[Char(',')], Action::Play(PlayerAction::StepBack), "", "previous snapshot", None),
    line(Everywhere, &[Char('>')], Action::Play(PlayerAction::MinuteOn), "", "a minute on", None),
    line(Everywhere, &[Char('<')], Action::Play(PlayerAction::MinuteBack), "", "a minute back", None),
    line(Everywhere, &[Char(']')], Action::Play(PlayerAction::Faster), "", "twice as fast", Some("faster")),
    line(Everywhere, &[Char('[')], Action::Play(PlayerAction::Slower), "", "half as fast", Some("slower")),
    line(Everywhere, &[Char(' ')], Action::Freeze, "freeze", "freeze or resume the screen", Some("freeze")),
    line(SERVICES, &[Char('d')], Action::Drain, "drain", "drain its service", Some("drain")),
    line(On(&[Screen::Gateways]), &[Char('x')], Action::Hide, "hide", "hide a gateway that was stopped", Some("hide")),
    line(On(&[Screen::Pool]), &[Char('x')], Action::Dismiss, "dismiss", "forget a gateway that was lost", Some("dismiss")),
    line(SESSIONS, &[Char('S')], Action::Flip, "flip", "reverse the order", None),
    line(SESSIONS, &[Char('s')], Action::Sort, "sort", "sort by the next column", Some("sort")),
    line(SESSIONS, &[Char('/')], Action::Filter, "filter", "list the sessions that match", Some("filter")),
    line(SESSIONS, &[Char('a')], Action::Clients, "clients", "list the sessions by client, or each", Some("clients")),
    line(SESSIONS, &[Char('X')], Action::CloseAll, "close-all", "close all that pass the filter", Some("close all")),
    line(SESSIONS, &[Char('x')], Action::Close, "close", "close the session, or all of a client", Some("close")),
    line(SESSIONS, &[], Action::Close, "kill", "the same as close", None),
    line(On(&[Screen::Profiles]), &[Char('w')], Action::Switch, "switch", "plan a switch to it", Some("switch")),
    line(Lists, &[Code(KeyCode::Enter)], Action::Enter, "", "all about the selected line", Some("detail")),
    line(Lists, &[Code(KeyCode::Esc)], Action::Back, "", "clear the selection, then the filter", None),
    line(Detail, &[Code(KeyCode::Esc)], Action::Back, "", "back to the list", Some("back")),
    line(Everywhere, &[Char(':')], Action::CommandLine, "", "type a command", Some("command")),
    line(Everywhere, &[Char('?')], Action::Help, "help", "this help", Some("help")),
    line(Everywhere, &[Ctrl('z')], Action::Suspend, "", "back to the shell", None),
    line(Everywhere, &[Char('q'), Ctrl('c')], Action::Quit, "quit", "quit", Some("quit")),
    line(Everywhere, &[], Action::Quit, "q", "the same as quit", None),
    line(Helping, &[Char('j'), Code(KeyCode::Down)], Action::Down, "", "further down", Some("down")),
    line(Helping, &[Char('k'), Code(KeyCode::Up)], Action::Up, "", "further up", Some("up")),
    line(Helping, &[Code(KeyCode::PageDown), Char(' ')], Action::PageDown, "", "ten lines further down", None),
    line(Helping, &[Code(KeyCode::PageUp)], Action::PageUp, "", "ten lines further up", None),
    line(Helping, &[Code(KeyCode::Tab), Char('l'), Code(KeyCode::Right)], Action::NextPage, "", "next page: keys, columns, ends", Some("next page")),
    line(Helping, &[Code(KeyCode::Esc), Char('?')], Action::Back, "", "back", Some("back")),
    line(Helping, &[Char('q'), Ctrl('c')], Action::Quit, "", "quit", Some("quit")),
    line(Typing, &[Code(KeyCode::Tab)], Action::Complete, "", "complete the word", Some("complete")),
    line(Typing, &[Code(KeyCode::Up)], Action::Earlier, "", "previous entry", Some("before")),
    line(Typing, &[Code(KeyCode::Down)], Action::Later, "", "next entry", None),
    line(Typing, &[Code(KeyCode::PageDown)], Action::PageDown, "", "more suggestions", None),
    line(Typing, &[Code(KeyCode::PageUp)], Action::PageUp, "", "earlier suggestions", None),
    line(Typing, &[Code(KeyCode::Enter)], Action::Run, "", "run it", Some("run")),
    line(Typing, &[Code(KeyCode::Esc), Ctrl('c')], Action::Back, "", "leave it", Some("leave")),
    line(AskedToQuit, &[Char('y')], Action::ConfirmQuit, "", "stop the gateway", Some("quit")),
    line(AskedToQuit, &[Char('h')], Action::LeaveHeadless, "", "leave it headless", Some("leave headless")),
    line(AskedToQuit, &[Code(KeyCode::Esc)], Action::Back, "", "do nothing", Some("back")),
    line(Asked, &[Char('y')], Action::Confirm, "", "do it", Some("do it")),
    line(Asked, &[Code(KeyCode::Esc)], Action::Back, "", "leave it as it is", Some("back")),
    line(Asked, &[Char('j'), Code(KeyCode::Down)], Action::Down, "", "further down in what would change", None),
    line(Asked, &[Char('k'), Code(KeyCode::Up)], Action::Up, "", "further up in it", None),
    line(Asked, &[Code(KeyCode::PageDown)], Action::PageDown, "", "ten lines down in it", None),
    line(Asked, &[Code(KeyCode::PageUp)], Action::PageUp, "", "ten lines up in it", None),
];

#[cfg(test)]
mod tests;
