//! What the operator is looking at, and how keys and snapshots change it.
//!
//! Nothing here draws, waits or reads a clock: time comes with the snapshots. What a key asks of
//! the world is returned as a [`Reaction`]; the loop in `run` carries it out.

use std::sync::Arc;

use crossterm::event::KeyEvent;

use crate::{
    gateway::handle::{Answer, Command, Contact},
    profile::{Mode, Role},
    record::{Play, Progress},
    telemetry::snapshot::{ProfileRow, Snapshot},
    text,
    tui::{
        Ended,
        changes::changes,
        command_line::Line,
        filter::{Filter, Row},
        history::{History, Window},
        keys::{self, Action, Context},
        lists::Lists,
        look::Look,
        order::Order,
        privacy::Addresses,
        question::Question,
        screen::Screen,
        source::Standing,
    },
};

/// Everything the screen is drawn from.
#[derive(Debug)]
pub struct App {
    pub look: Look,
    standing: Standing,
    latest: Arc<Snapshot>,
    /// The picture held while the gateway goes on, and how much has changed since.
    frozen: Option<Frozen>,
    history: History,
    pub(super) window: Window,
    pub(super) screen: Screen,
    /// The screen that was shown before this one.
    pub(super) before: Option<Screen>,
    pub(super) mouse: Mouse,
    pub(super) lists: Lists,
    /// The row that is told of in full, by what it is known by, and the first line shown.
    pub(super) detail: Option<Detail>,
    pub(super) open: Open,
    /// Lines that were typed, oldest first.
    pub(super) typed: Vec<String>,
    addresses: Addresses,
    pub(super) said: Option<Said>,
    /// Which trouble the alert line tells, the worst being the first.
    alert: usize,
    /// Set when no snapshot has come for a while.
    silent_seconds: Option<u64>,
    /// A reload is under way, or was refused and its profile is to be shown.
    pub(super) reload: Reload,
    /// The profiles that are shown were read before something changed.
    profiles_aged: bool,
}

/// Whose the mouse is. The terminal's by default: it selects text there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mouse {
    Off,
    On,
}

#[derive(Debug)]
struct Frozen {
    held: Arc<Snapshot>,
    changes: usize,
}

/// One row told of in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    pub key: String,
    pub scroll: usize,
}

/// What lies over the panels.
#[derive(Debug, Clone, PartialEq)]
pub enum Open {
    Nothing,
    Help { page: Page, scroll: usize },
    Typing(Line),
    AskQuit,
    Ask(Question),
}

/// What the help tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Keys,
    Columns,
    /// What the two letters of a session's end mean.
    Ends,
}

impl Page {
    pub fn next(self) -> Self {
        match self {
            Self::Keys => Self::Columns,
            Self::Columns => Self::Ends,
            Self::Ends => Self::Keys,
        }
    }
}

/// The last answer of the gateway, shown until the next key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Waiting(String),
    Done(String),
    Refused(String),
}

/// How far the screen can be believed.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    Live,
    Replay(Progress),
    Frozen {
        seconds: f64,
        changes: usize,
    },
    Stale {
        seconds: u64,
    },
    /// The gateway is away; what is shown is from before that.
    Lost {
        seconds: u64,
    },
}

/// What a reload has come to. The gateway answers one line; the lines of the profile that it is about
/// come with the list of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    None,
    Asked,
    /// The profiles are to be read.
    Refused,
    /// They are, or are on their way.
    Told,
}

/// What follows from a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Reaction {
    Nothing,
    Redraw,
    Ask(Command),
    /// Move through the recording.
    Play(Play),
    /// Write a table to a file.
    Export(Export),
    /// Take the mouse from the terminal, or give it back.
    Mouse(Mouse),
    /// Give the terminal back to the shell until it is called to the front again.
    Suspend,
    End(Ended),
}

/// A table on its way to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// What the file's name begins with.
    pub stem: String,
    pub json: String,
}

impl App {
    pub fn new(snapshot: Arc<Snapshot>, look: Look) -> Self {
        let mut lists = Lists::default();
        lists.order.arrange(&snapshot);
        let mut history = History::default();
        history.hear(&snapshot);
        Self {
            look,
            standing: Standing::Own,
            latest: snapshot,
            frozen: None,
            history,
            window: Window::default(),
            screen: Screen::Overview,
            before: None,
            mouse: Mouse::Off,
            lists,
            detail: None,
            open: Open::Nothing,
            typed: Vec::new(),
            addresses: Addresses::Shown,
            said: None,
            alert: 0,
            silent_seconds: None,
            reload: Reload::None,
            profiles_aged: false,
        }
    }

    /// The picture to draw: the latest, or the frozen one.
    pub fn snapshot(&self) -> &Snapshot {
        self.frozen.as_ref().map_or(&self.latest, |frozen| &frozen.held)
    }

    /// The same, to be kept while this changes.
    pub(super) fn shown(&self) -> Arc<Snapshot> {
        Arc::clone(self.frozen.as_ref().map_or(&self.latest, |frozen| &frozen.held))
    }

    pub fn latest(&self) -> &Snapshot {
        &self.latest
    }

    pub fn screen(&self) -> Screen {
        self.screen
    }

    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    pub fn order(&self) -> &Order {
        &self.lists.order
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// How far back the charts go.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Where the cursor stands on the screen that is shown.
    pub fn selected_line(&self) -> Option<usize> {
        self.lists.selected_line(self.screen)
    }

    pub fn detail(&self) -> Option<&Detail> {
        self.detail.as_ref()
    }

    pub fn alert(&self) -> usize {
        self.alert
    }

    pub fn profiles(&self) -> &[ProfileRow] {
        &self.lists.profiles
    }

    pub fn open(&self) -> &Open {
        &self.open
    }

    pub fn said(&self) -> Option<&Said> {
        self.said.as_ref()
    }

    /// Whether an action has a meaning for this gateway and for the row under the cursor.
    pub fn offers(&self, action: Action) -> bool {
        let closes_ended = || {
            action == Action::Close && matches!(self.selected_session(self.snapshot()), Some(Row::Ended(_)))
        };
        let resizes_nothing = action == Action::Resize && !self.dials();
        self.standing.offers(action) && !closes_ended() && !resizes_nothing
    }

    /// Whether this gateway keeps links ready: the half that dials decides how many.
    pub(super) fn dials(&self) -> bool {
        let snapshot = &self.latest;
        match snapshot.mode {
            Mode::Direct => false,
            Mode::Reverse => snapshot.roles.contains(&Role::Internal),
            // Over SOCKS5 each session dials its own.
            Mode::Forward => snapshot.pools.iter().any(|row| row.role == Role::Dmz && row.target > 0),
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn freshness(&self) -> Freshness {
        if let Standing::Replay(progress) = &self.standing {
            return Freshness::Replay(progress.clone());
        }
        match (&self.frozen, self.silent_seconds) {
            (_, seconds) if self.lost().is_some() => Freshness::Lost { seconds: seconds.unwrap_or(0) },
            (Some(Frozen { held, changes }), _) => {
                let seconds = (self.latest.uptime_seconds - held.uptime_seconds).max(0.0);
                Freshness::Frozen { seconds, changes: *changes }
            }
            (None, Some(seconds)) => Freshness::Stale { seconds },
            (None, None) => Freshness::Live,
        }
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Why the gateway is away.
    pub fn lost(&self) -> Option<&str> {
        match &self.standing {
            Standing::Attached(_, Contact::Lost { why }) => Some(why),
            Standing::Attached(_, Contact::There) | Standing::Own | Standing::Replay(_) => None,
        }
    }

    /// Takes a new standing; says whether the screen changes by it.
    pub fn stand(&mut self, standing: Standing) -> bool {
        let changed = self.standing != standing;
        self.standing = standing;
        changed
    }

    pub fn context(&self) -> Context {
        match (&self.open, &self.detail) {
            (Open::Nothing, None) => Context::Screen(self.screen),
            (Open::Nothing, Some(_)) => Context::Detail(self.screen),
            (Open::Help { .. }, _) => Context::Help,
            (Open::Typing(_), _) => Context::Typing,
            (Open::AskQuit, _) => Context::AskQuit,
            (Open::Ask(_), _) => Context::Ask,
        }
    }

    /// Where the help was asked for.
    pub fn context_below(&self) -> Context {
        match self.detail {
            None => Context::Screen(self.screen),
            Some(_) => Context::Detail(self.screen),
        }
    }

    /// Takes a new picture; says whether the screen changes by it.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) -> bool {
        let silent = self.silent_seconds.take().is_some();
        let seconds_before = self.latest.uptime_seconds as u64;
        let changed = *self.latest != *snapshot;
        self.profiles_aged |= self.latest.profile != snapshot.profile;
        self.latest = snapshot;
        self.history.hear(&self.latest);
        if let Some(frozen) = &mut self.frozen {
            // Only the age of the frozen picture moves, by whole seconds.
            let is_second = seconds_before != self.latest.uptime_seconds as u64;
            if is_second {
                frozen.changes = changes(&frozen.held, &self.latest);
            }
            return silent || is_second;
        }
        if changed {
            self.arrange();
        }
        changed || silent
    }

    /// No snapshot has come for so long; says whether the screen changes by it.
    pub fn silent_for(&mut self, seconds: u64) -> bool {
        let telling = seconds >= STALE_SECONDS || self.lost().is_some();
        // A recording has times of its own, and they are told.
        let replayed = matches!(self.standing, Standing::Replay(_));
        let silent = (telling && !replayed).then_some(seconds);
        let changed = silent != self.silent_seconds;
        self.silent_seconds = silent;
        changed
    }

    /// What the screen asks for by itself, so that what it shows goes on being true.
    pub fn wish(&mut self) -> Option<Command> {
        let shows_profiles = self.screen == Screen::Profiles && !matches!(self.standing, Standing::Replay(_));
        let aged = shows_profiles && std::mem::take(&mut self.profiles_aged);
        let refused = self.reload == Reload::Refused;
        if refused {
            self.reload = Reload::Told;
        }
        (aged || refused).then_some(Command::Profiles)
    }

    pub fn answered(&mut self, answer: Answer) {
        let said = self.said.take();
        self.reload = match (self.reload, &answer) {
            (Reload::Asked, Answer::Refused(_)) => Reload::Refused,
            (told, Answer::Profiles(_)) => told,
            _ => Reload::None,
        };
        // A reload or a switch may be behind it.
        self.profiles_aged |= matches!(answer, Answer::Done(_));
        self.said = Some(match answer {
            Answer::Done(text) | Answer::Cut(text) => Said::Done(text),
            Answer::Planned(plan) => {
                self.said = None;
                // Another question may have been asked meanwhile.
                if matches!(self.open, Open::Nothing) {
                    self.open = Open::Ask(Question::Switch(plan));
                }
                return;
            }
            Answer::Refused(text) => Said::Refused(text),
            Answer::Verified(report) if report.passed => Said::Done(report.line()),
            Answer::Verified(report) => Said::Refused(report.line()),
            Answer::Status(_) => Said::Done("the gateway sent its snapshot".into()),
            Answer::Profiles(profiles) => {
                self.lists.profiles = profiles;
                self.profiles_aged = false;
                self.arrange();
                // What was asked for is on the screen: there is nothing to say of it.
                self.said = said.filter(|said| !matches!(said, Said::Waiting(_)));
                return;
            }
        });
    }

    /// A command is on its way.
    pub fn asked(&mut self, command: &Command) {
        self.reload = if *command == Command::Reload { Reload::Asked } else { Reload::None };
        self.said = Some(Said::Waiting(described(command)));
    }

    /// What is wrong with the profile that a reload was refused for, with the lines it is about.
    pub fn refused_profile(&self) -> Option<&ProfileRow> {
        let row = self.lists.profiles.iter().find(|row| row.is_current && !row.problems.is_empty());
        row.filter(|_| self.reload == Reload::Told && matches!(self.said, Some(Said::Refused(_))))
    }

    /// Something that was asked of the world is done, or is not.
    pub fn told(&mut self, told: Result<String, String>) {
        self.said = Some(match told {
            Ok(text) => Said::Done(text),
            Err(text) => Said::Refused(text),
        });
    }

    pub fn press(&mut self, key: KeyEvent) -> Reaction {
        let said = self.said.take();
        match keys::action(self.context(), key) {
            Some(action) if self.standing.offers(action) => return self.act(action),
            Some(action) if action.changes() => {
                self.refuse(LOOKS_ONLY);
                return Reaction::Redraw;
            }
            Some(_) | None => {}
        }
        if let Open::Typing(line) = &mut self.open
            && line.press(key)
        {
            self.follow_typing();
            return Reaction::Redraw;
        }
        if matches!(self.open, Open::AskQuit | Open::Ask(_)) {
            // A question is closed by any key that does not answer it: what is typed by mistake must
            // not lead to its yes.
            self.open = Open::Nothing;
            return Reaction::Redraw;
        }
        if said.is_some() { Reaction::Redraw } else { Reaction::Nothing }
    }

    /// Text from the clipboard: it belongs into a line that is being typed, and is dropped elsewhere.
    pub fn paste(&mut self, pasted: &str) -> Reaction {
        let Open::Typing(line) = &mut self.open else {
            self.refuse("pasted text is no command here; `/` takes a filter, `:` a command");
            return Reaction::Redraw;
        };
        line.insert(&text::clean(pasted, pasted.len()));
        self.follow_typing();
        Reaction::Redraw
    }

    /// A filter that is being typed filters already; under a bad one the list is as it was before.
    pub(super) fn follow_typing(&mut self) {
        if let Open::Typing(line) = &mut self.open
            && line.is_filter()
        {
            match Filter::parse(line.text()) {
                Ok(filter) => {
                    line.wrong = None;
                    self.lists.order.filter = filter;
                }
                Err(why) => {
                    line.wrong = Some(why);
                    let before = line.before().and_then(|before| Filter::parse(before).ok());
                    self.lists.order.filter = before.unwrap_or_default();
                }
            }
            self.arrange_now();
        }
    }

    pub(super) fn freeze(&mut self) {
        if self.frozen.take().is_none() {
            self.frozen = Some(Frozen { held: Arc::clone(&self.latest), changes: 0 });
        } else {
            self.arrange();
        }
    }

    pub(super) fn next_alert(&mut self) {
        self.alert = self.alert.wrapping_add(1);
    }

    pub(super) fn mask(&mut self) {
        self.addresses = self.addresses.toggled();
    }

    /// Sorts the rows anew; each cursor follows its row.
    pub(super) fn arrange(&mut self) {
        let shown = self.shown();
        self.lists.arrange(&shown);
    }

    pub(super) fn arrange_now(&mut self) {
        self.lists.order.sort_soon();
        self.arrange();
    }
}

fn described(command: &Command) -> String {
    match command {
        Command::Status => "asking for a snapshot".into(),
        Command::Profiles => "reading the profiles".into(),
        Command::Drain { service: Some(service) } => format!("draining {service}"),
        Command::Drain { service: None } => "draining".into(),
        Command::Resize { prepared } => format!("resizing the pool to {prepared} ready links"),
        Command::Stop => "stopping".into(),
        Command::Plan { profile } => format!("planning a switch to {profile}"),
        Command::Verify { .. } => "verifying".into(),
        Command::Reload => "reloading the profile".into(),
        Command::Switch { profile } => format!("switching to {profile}"),
        Command::Dismiss { peer } => format!("dismissing {peer}"),
        Command::Kill { session } => format!("closing session {session}"),
    }
}

/// Said to who asks for a change where none can be made.
pub(super) const LOOKS_ONLY: &str = "this screen may look, and change nothing";
/// Said to who wants to resize a pool that this gateway does not fill.
pub(super) const DIALS_NOTHING: &str =
    "no links are kept ready from here: the half that dials decides how many are";
/// The gateway publishes several snapshots a second; so long without one is worth telling.
const STALE_SECONDS: u64 = 3;
