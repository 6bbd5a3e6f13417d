//! What the operator is looking at, and how keys and snapshots change it.
//!
//! Nothing here draws, waits or reads a clock: time comes with the snapshots. What a key needs done outside is
//! returned as an [`UpdateResult`]; the loop in `run` carries it out.

use std::sync::Arc;

use crossterm::event::KeyEvent;

use crate::{
    gateway::handle::{Command, GatewayContact},
    profile::{Half, Mode},
    record::{PlayerAction, ReplayProgress},
    telemetry::{
        checklist::VerifyReport,
        snapshot::{ProfileRow, Snapshot},
    },
    tui::{
        ScreenEnd,
        changes::count_changes,
        clients::SessionGrouping,
        command_line::InputLine,
        confirmation::Confirmation,
        filter::ListedSession,
        fleet::FleetState,
        history::{ChartWindow, RateHistory},
        keys::{self, Action, KeyContext},
        lists::ListState,
        order::SessionOrder,
        privacy::AddressMasking,
        screen::Screen,
        source::Attachment,
        style::ScreenStyle,
        trends::HistoryView,
    },
};

/// Everything the screen is drawn from.
#[derive(Debug)]
pub struct App {
    pub style: ScreenStyle,
    attachment: Attachment,
    latest: Arc<Snapshot>,
    /// The snapshot held while the gateway goes on, and how much has changed since.
    frozen: Option<FrozenSnapshot>,
    history: RateHistory,
    pub(super) window: ChartWindow,
    pub(super) screen: Screen,
    /// The screen that was shown before this one.
    pub(super) before: Option<Screen>,
    pub(super) mouse: MouseCapture,
    pub(super) lists: ListState,
    pub(super) fleet: FleetState,
    pub(super) trends: HistoryView,
    /// The row whose details are open, by its key, and the first line shown.
    pub(super) detail: Option<OpenDetail>,
    pub(super) overlay: Overlay,
    /// Lines that were typed, oldest first.
    pub(super) typed: Vec<String>,
    addresses: AddressMasking,
    pub(super) message: Option<StatusMessage>,
    /// Which problem the alert line shows; the worst is the first.
    alert: usize,
    /// Set when no snapshot has come for a while.
    silent_seconds: Option<u64>,
    /// A reload is under way, or was refused and its profile should be shown.
    pub(super) reload: ReloadState,
    /// The profiles shown were read before something changed.
    pub(super) profiles_aged: bool,
}

/// The owner of the mouse: by default the terminal, which selects text with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MouseCapture {
    Off,
    On,
}

#[derive(Debug)]
struct FrozenSnapshot {
    held: Arc<Snapshot>,
    changes: usize,
}

/// The open details of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDetail {
    pub key: String,
    pub scroll: usize,
}

/// An overlay that covers the panels.
#[derive(Debug, Clone, PartialEq)]
pub enum Overlay {
    Nothing,
    Help { page: HelpPage, scroll: usize },
    Typing(InputLine),
    AskQuit,
    Ask { question: Confirmation, scroll: usize },
}

impl Overlay {
    /// A question, from its first line on.
    pub(super) fn question(question: Confirmation) -> Self {
        Self::Ask { question, scroll: 0 }
    }
}

/// A page of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelpPage {
    Keys,
    Columns,
    /// What the two letters of a session's end mean.
    Ends,
}

impl HelpPage {
    pub fn next(self) -> Self {
        match self {
            Self::Keys => Self::Columns,
            Self::Columns => Self::Ends,
            Self::Ends => Self::Keys,
        }
    }
}

/// The gateway's last answer, shown until the next key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusMessage {
    Waiting(String),
    Done(String),
    Refused(String),
    /// The checklist was run to its end, by this gateway of a fleet.
    Checked(Option<Arc<str>>, VerifyReport),
}

/// How current the screen is.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    Live,
    Replay(ReplayProgress),
    Frozen {
        seconds: f64,
        changes: usize,
    },
    Stale {
        seconds: u64,
    },
    /// The gateway is away; what is shown is older.
    Lost {
        seconds: u64,
    },
}

/// The state of a reload. The gateway answers in one line; the lines of the profile that are wrong come with
/// the list of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadState {
    None,
    Asked,
    /// The profiles have to be read.
    Refused,
    /// They have been read, or are being read.
    Shown,
}

/// The effect of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateResult {
    Nothing,
    Redraw,
    Ask(Command),
    /// Send commands to gateways of a fleet.
    AskGateways(Vec<(Arc<str>, Command)>),
    /// Move through the recording.
    Play(PlayerAction),
    /// Write a table to a file.
    Export(TableExport),
    /// Take the mouse from the terminal, or give it back.
    Mouse(MouseCapture),
    /// Give the terminal back to the shell until the process continues in the foreground.
    Suspend,
    End(ScreenEnd),
}

/// A table on its way to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableExport {
    /// The beginning of the file's name.
    pub stem: String,
    pub json: String,
}

impl App {
    pub fn new(snapshot: Arc<Snapshot>, screen_style: ScreenStyle) -> Self {
        let mut lists = ListState::default();
        lists.order.arrange(&snapshot);
        let mut history = RateHistory::default();
        history.receive_snapshot(&snapshot);
        Self {
            style: screen_style,
            attachment: Attachment::Own,
            latest: snapshot,
            frozen: None,
            history,
            window: ChartWindow::default(),
            screen: Screen::Overview,
            before: None,
            mouse: MouseCapture::Off,
            lists,
            fleet: FleetState::default(),
            trends: HistoryView::default(),
            detail: None,
            overlay: Overlay::Nothing,
            typed: Vec::new(),
            addresses: AddressMasking::Shown,
            message: None,
            alert: 0,
            silent_seconds: None,
            reload: ReloadState::None,
            profiles_aged: false,
        }
    }

    /// The snapshot to draw: the latest, or the frozen one.
    pub fn snapshot(&self) -> &Snapshot {
        self.frozen.as_ref().map_or(&self.latest, |frozen| &frozen.held)
    }

    /// The snapshot that is shown, to be kept while the app changes.
    pub(super) fn shown_snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.frozen.as_ref().map_or(&self.latest, |frozen| &frozen.held))
    }

    pub fn latest(&self) -> &Snapshot {
        &self.latest
    }

    pub(super) fn latest_shared(&self) -> &Arc<Snapshot> {
        &self.latest
    }

    pub(super) fn replace_latest(&mut self, snapshot: Arc<Snapshot>) {
        self.latest = self.narrowed(snapshot);
    }

    pub fn screen(&self) -> Screen {
        self.screen
    }

    pub fn lists(&self) -> &ListState {
        &self.lists
    }

    pub fn session_order(&self) -> &SessionOrder {
        &self.lists.order
    }

    /// Whether the sessions are listed by client.
    pub fn grouping(&self) -> SessionGrouping {
        self.lists.grouping
    }

    pub fn history(&self) -> &RateHistory {
        &self.history
    }

    /// How far back the charts go.
    pub fn window(&self) -> ChartWindow {
        self.window
    }

    /// The line of the cursor on the current screen.
    pub fn selected_line(&self) -> Option<usize> {
        self.lists.selected_line(self.screen)
    }

    pub fn detail(&self) -> Option<&OpenDetail> {
        self.detail.as_ref()
    }

    pub fn alert(&self) -> usize {
        self.alert
    }

    pub fn profiles(&self) -> &[ProfileRow] {
        &self.lists.profiles
    }

    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub fn status_message(&self) -> Option<&StatusMessage> {
        self.message.as_ref()
    }

    /// Whether an action makes sense for this gateway and for the selected row.
    pub fn is_available(&self, action: Action) -> bool {
        let closes_ended = || {
            action == Action::Close
                && matches!(self.selected_session(self.snapshot()), Some(ListedSession::Ended(_)))
        };
        let resizes_nothing = action == Action::Resize && !self.keeps_links();
        let hides_nothing = || action == Action::Hide && !self.can_hide_gateway(self.snapshot());
        self.is_action_known(action) && !closes_ended() && !resizes_nothing && !hides_nothing()
    }

    /// Whether this gateway keeps links ready: the half that dials decides how many.
    pub(super) fn keeps_links(&self) -> bool {
        let snapshot = &self.latest;
        match snapshot.mode {
            Mode::Direct => false,
            Mode::Reverse => snapshot.halves.contains(&Half::Internal),
            // Over SOCKS5 each session dials its own link.
            Mode::Forward => snapshot.pools.iter().any(|row| row.half == Half::Dmz && row.target > 0),
        }
    }

    pub fn addresses(&self) -> AddressMasking {
        self.addresses
    }

    pub fn freshness(&self) -> Freshness {
        if let Attachment::Replay(progress) = &self.attachment {
            return Freshness::Replay(progress.clone());
        }
        match (&self.frozen, self.silent_seconds) {
            (_, seconds) if self.lost_reason().is_some() => Freshness::Lost { seconds: seconds.unwrap_or(0) },
            (Some(FrozenSnapshot { held, changes }), _) => {
                let seconds = (self.latest.uptime_seconds - held.uptime_seconds).max(0.0);
                Freshness::Frozen { seconds, changes: *changes }
            }
            (None, Some(seconds)) => Freshness::Stale { seconds },
            (None, None) => Freshness::Live,
        }
    }

    /// Whether the screen shows an old state that may have changed.
    pub fn is_outdated(&self) -> bool {
        matches!(self.freshness(), Freshness::Stale { .. } | Freshness::Lost { .. })
    }

    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Why the gateway is away.
    pub fn lost_reason(&self) -> Option<&str> {
        match &self.attachment {
            Attachment::Attached(_, GatewayContact::Lost { why }) => Some(why),
            Attachment::Attached(_, GatewayContact::Calling | GatewayContact::There)
            | Attachment::Own
            | Attachment::Fleet(_)
            | Attachment::Replay(_) => None,
        }
    }

    /// Sets a new attachment; returns whether that changes the screen.
    pub fn set_attachment(&mut self, attachment: Attachment) -> bool {
        let changed = self.attachment != attachment;
        self.attachment = attachment;
        changed
    }

    pub fn context(&self) -> KeyContext {
        match (&self.overlay, &self.detail) {
            (Overlay::Nothing, None) => KeyContext::Screen(self.screen),
            (Overlay::Nothing, Some(_)) => KeyContext::Detail(self.screen),
            (Overlay::Help { .. }, _) => KeyContext::Help,
            (Overlay::Typing(_), _) => KeyContext::Typing,
            (Overlay::AskQuit, _) => KeyContext::AskQuit,
            (Overlay::Ask { .. }, _) => KeyContext::Ask,
        }
    }

    /// The context in which the help was opened.
    pub fn context_below(&self) -> KeyContext {
        match self.detail {
            None => KeyContext::Screen(self.screen),
            Some(_) => KeyContext::Detail(self.screen),
        }
    }

    /// Takes a new snapshot; returns whether that changes the screen.
    pub fn receive_snapshot(&mut self, snapshot: Arc<Snapshot>) -> bool {
        let snapshot = self.narrowed(snapshot);
        let silent = self.silent_seconds.take().is_some();
        let seconds_before = self.latest.uptime_seconds as u64;
        let changed = *self.latest != *snapshot;
        self.profiles_aged |= self.running_profile(&self.latest) != self.running_profile(&snapshot);
        self.latest = snapshot;
        self.history.receive_snapshot(&self.latest);
        if let Some(frozen) = &mut self.frozen {
            // Only the age of the frozen snapshot changes, in whole seconds.
            let is_second = seconds_before != self.latest.uptime_seconds as u64;
            if is_second {
                frozen.changes = count_changes(&frozen.held, &self.latest);
            }
            return silent || is_second;
        }
        if changed {
            self.arrange();
        }
        changed || silent
    }

    /// Notes that no snapshot has come for this long; returns whether that changes the screen.
    pub fn set_silence(&mut self, seconds: u64) -> bool {
        let reporting = seconds >= STALE_SECONDS || self.lost_reason().is_some();
        // A recording has its own times, which are shown.
        let replayed = matches!(self.attachment, Attachment::Replay(_));
        let silent = (reporting && !replayed).then_some(seconds);
        let changed = silent != self.silent_seconds;
        self.silent_seconds = silent;
        changed
    }

    pub fn press(&mut self, key: KeyEvent) -> UpdateResult {
        let chosen = self.selected_gateway(self.snapshot());
        let was_asking = matches!(self.overlay, Overlay::Ask { .. });
        let reaction = self.press_key(key);
        self.address(chosen, was_asking, reaction)
    }

    fn press_key(&mut self, key: KeyEvent) -> UpdateResult {
        let message = self.message.take();
        match keys::action_for(self.context(), key) {
            Some(action) if self.is_action_known(action) => return self.perform(action),
            Some(action) if action.changes() => {
                self.refuse(LOOKS_ONLY);
                return UpdateResult::Redraw;
            }
            Some(_) | None => {}
        }
        if let Overlay::Typing(line) = &mut self.overlay
            && line.press(key)
        {
            self.follow_typing();
            return UpdateResult::Redraw;
        }
        if matches!(self.overlay, Overlay::AskQuit | Overlay::Ask { .. }) {
            // Any key that does not answer a question closes it, so that mistyping cannot lead to a yes.
            self.overlay = Overlay::Nothing;
            return UpdateResult::Redraw;
        }
        if message.is_some() { UpdateResult::Redraw } else { UpdateResult::Nothing }
    }

    pub(super) fn toggle_freeze(&mut self) {
        if self.frozen.take().is_none() {
            self.frozen = Some(FrozenSnapshot { held: Arc::clone(&self.latest), changes: 0 });
        } else {
            self.arrange();
        }
    }

    pub(super) fn next_alert(&mut self) {
        self.alert = self.alert.wrapping_add(1);
    }

    pub(super) fn toggle_masking(&mut self) {
        self.addresses = self.addresses.toggled();
    }

    /// Sorts the rows again; each cursor follows its row.
    pub(super) fn arrange(&mut self) {
        let shown = self.shown_snapshot();
        self.lists.arrange(&shown);
    }

    pub(super) fn arrange_now(&mut self) {
        self.lists.order.sort_soon();
        self.arrange();
    }
}

/// The message for a command that changes something, on a screen with read-only access.
pub(super) const LOOKS_ONLY: &str = "this screen may look, and change nothing";
/// The message for resizing a pool that this gateway does not fill.
pub(super) const DIALS_NOTHING: &str =
    "no links are kept ready from here: the half that dials decides how many are";
/// The gateway publishes several snapshots a second, so this long without one is worth reporting.
const STALE_SECONDS: u64 = 3;
