//! What the operator is looking at, and how keys and snapshots change it.
//!
//! Nothing here draws, waits or reads a clock: time comes with the snapshots. What a key asks of
//! the world is returned as a [`Reaction`]; the loop in `run` carries it out.

use std::sync::Arc;

use crossterm::event::KeyEvent;

use crate::{
    gateway::handle::{Answer, Command},
    telemetry::snapshot::{SessionRow, Snapshot},
    tui::{
        Ended,
        keys::{self, Action, Context},
        look::Look,
        order::Order,
        privacy::Addresses,
    },
};

/// Everything the screen is drawn from.
#[derive(Debug)]
pub struct App {
    pub look: Look,
    latest: Arc<Snapshot>,
    /// The picture held while the gateway goes on.
    frozen: Option<Arc<Snapshot>>,
    order: Order,
    selected: Option<Selected>,
    open: Open,
    addresses: Addresses,
    said: Option<Said>,
    /// Set when no snapshot has come for a while.
    silent_seconds: Option<u64>,
}

/// A session under the cursor. It is known by its id; the line is where the cursor goes when
/// the session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selected {
    id: String,
    line: usize,
}

/// What lies over the panels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    Nothing,
    Help,
    AskQuit,
    AskClose(Target),
}

/// The session a question is about, kept by value: the row may end while the question stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: String,
    pub service: String,
    pub client: String,
}

/// The last answer of the gateway, shown until the next key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Waiting(String),
    Done(String),
    Refused(String),
}

/// How far the screen can be believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Freshness {
    Live,
    Frozen { seconds: f64 },
    Stale { seconds: u64 },
}

/// What follows from a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Reaction {
    Nothing,
    Redraw,
    Ask(Command),
    End(Ended),
}

impl App {
    pub fn new(snapshot: Arc<Snapshot>, look: Look) -> Self {
        let mut order = Order::default();
        order.arrange(&snapshot);
        Self {
            look,
            latest: snapshot,
            frozen: None,
            order,
            selected: None,
            open: Open::Nothing,
            addresses: Addresses::Shown,
            said: None,
            silent_seconds: None,
        }
    }

    /// The picture to draw: the latest, or the frozen one.
    pub fn snapshot(&self) -> &Snapshot {
        self.frozen.as_ref().unwrap_or(&self.latest)
    }

    pub fn latest(&self) -> &Snapshot {
        &self.latest
    }

    pub fn order(&self) -> &Order {
        &self.order
    }

    pub fn selected_line(&self) -> Option<usize> {
        self.selected.as_ref().map(|selected| selected.line)
    }

    pub fn open(&self) -> &Open {
        &self.open
    }

    pub fn said(&self) -> Option<&Said> {
        self.said.as_ref()
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn freshness(&self) -> Freshness {
        match (&self.frozen, self.silent_seconds) {
            (Some(held), _) => {
                let seconds = (self.latest.uptime_seconds - held.uptime_seconds).max(0.0);
                Freshness::Frozen { seconds }
            }
            (None, Some(seconds)) => Freshness::Stale { seconds },
            (None, None) => Freshness::Live,
        }
    }

    pub fn context(&self) -> Context {
        match self.open {
            Open::Nothing => Context::Panels,
            Open::Help => Context::Help,
            Open::AskQuit => Context::AskQuit,
            Open::AskClose(_) => Context::AskClose,
        }
    }

    /// Takes a new picture; says whether the screen changes by it.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) -> bool {
        let silent = self.silent_seconds.take().is_some();
        let seconds_before = self.latest.uptime_seconds as u64;
        let changed = *self.latest != *snapshot;
        self.latest = snapshot;
        if self.frozen.is_some() {
            // Only the age of the frozen picture moves, by whole seconds.
            return silent || seconds_before != self.latest.uptime_seconds as u64;
        }
        if changed {
            self.arrange();
        }
        changed || silent
    }

    /// No snapshot has come for so long; says whether the screen changes by it.
    pub fn silent_for(&mut self, seconds: u64) -> bool {
        let silent = (seconds >= STALE_SECONDS).then_some(seconds);
        let changed = silent != self.silent_seconds;
        self.silent_seconds = silent;
        changed
    }

    pub fn answered(&mut self, answer: Answer) {
        self.said = Some(match answer {
            Answer::Done(text) | Answer::Cut(text) => Said::Done(text),
            Answer::Planned(plan) => Said::Done(plan.to_string()),
            Answer::Refused(text) => Said::Refused(text),
            Answer::Verified(report) if report.passed => Said::Done(report.line()),
            Answer::Verified(report) => Said::Refused(report.line()),
            Answer::Status(_) => Said::Done("the gateway sent its snapshot".into()),
        });
    }

    /// A command is on its way.
    pub fn asked(&mut self, command: &Command) {
        self.said = Some(Said::Waiting(described(command)));
    }

    pub fn press(&mut self, key: KeyEvent) -> Reaction {
        let said = self.said.take();
        match keys::action(self.context(), key) {
            Some(action) => self.act(action),
            None if said.is_some() => Reaction::Redraw,
            None => Reaction::Nothing,
        }
    }

    fn act(&mut self, action: Action) -> Reaction {
        match action {
            Action::Down => self.move_to(|line, _| line.map_or(0, |line| line + 1)),
            Action::Up => self.move_to(|line, _| line.map_or(0, |line| line.saturating_sub(1))),
            Action::PageDown => self.move_to(|line, _| line.unwrap_or(0) + PAGE_LINES),
            Action::PageUp => self.move_to(|line, _| line.unwrap_or(0).saturating_sub(PAGE_LINES)),
            Action::First => self.move_to(|_, _| 0),
            Action::Last => self.move_to(|_, last| last),
            Action::Freeze => self.freeze(),
            Action::Close => self.ask_close(),
            Action::Reload => return Reaction::Ask(Command::Reload),
            Action::Mask => self.addresses = self.addresses.toggled(),
            Action::Help => self.open = Open::Help,
            Action::Quit if self.latest.totals.sessions_open == 0 => return Reaction::End(Ended::Quit),
            Action::Quit => self.open = Open::AskQuit,
            Action::Back if self.open == Open::Nothing => self.selected = None,
            Action::Back => self.open = Open::Nothing,
            Action::ConfirmQuit => return Reaction::End(Ended::Quit),
            Action::LeaveHeadless => return Reaction::End(Ended::LeftHeadless),
            Action::ConfirmClose => return self.close(),
        }
        Reaction::Redraw
    }

    fn move_to(&mut self, line: impl Fn(Option<usize>, usize) -> usize) {
        let Some(last) = self.order.len().checked_sub(1) else { return };
        let line = line(self.selected_line(), last).min(last);
        self.selected = self.session_at(line).map(|row| Selected { id: row.id.clone(), line });
    }

    fn session_at(&self, line: usize) -> Option<&SessionRow> {
        self.order.rows(self.snapshot(), line..line.saturating_add(1)).first().copied()
    }

    fn freeze(&mut self) {
        if self.frozen.take().is_none() {
            self.frozen = Some(Arc::clone(&self.latest));
        } else {
            self.arrange();
        }
    }

    /// Sorts the rows anew; the cursor follows its session, or stays on its line when that ended.
    fn arrange(&mut self) {
        self.order.arrange(&self.latest);
        let Some(Selected { id, line }) = self.selected.take() else { return };
        let line = self.order.line_of(&self.latest, &id).unwrap_or(line);
        self.move_to(|_, _| line);
    }

    fn ask_close(&mut self) {
        let row = self.selected_line().and_then(|line| self.session_at(line));
        let Some(row) = row else {
            self.said = Some(Said::Refused("no session is selected; j and k select one".into()));
            return;
        };
        let target = Target { id: row.id.clone(), service: row.service.clone(), client: row.client.clone() };
        self.open = Open::AskClose(target);
    }

    fn close(&mut self) -> Reaction {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::AskClose(target) => Reaction::Ask(Command::Kill { session: target.id }),
            Open::Nothing | Open::Help | Open::AskQuit => Reaction::Redraw,
        }
    }
}

fn described(command: &Command) -> String {
    match command {
        Command::Status => "asking for a snapshot".into(),
        Command::Drain { service: Some(service) } => format!("draining {service}"),
        Command::Drain { service: None } => "draining".into(),
        Command::Stop => "stopping".into(),
        Command::Plan { profile } => format!("planning a switch to {profile}"),
        Command::Verify { .. } => "verifying".into(),
        Command::Reload => "reloading the profile".into(),
        Command::Switch { profile } => format!("switching to {profile}"),
        Command::Kill { session } => format!("closing session {session}"),
    }
}

/// A page of the list; the same on every size of screen, so that fingers can count.
const PAGE_LINES: usize = 10;

/// The gateway publishes several snapshots a second; so long without one is worth telling.
const STALE_SECONDS: u64 = 3;
