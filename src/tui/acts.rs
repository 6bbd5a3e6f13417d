//! What each action does, whether it came by its key or by its word.

use crate::{
    gateway::handle::Command,
    profile::Mode,
    record::Play,
    telemetry::{
        checklist::Step,
        health::{Severity, severity},
        snapshot::{PoolRow, ServiceRow, SessionRow, Snapshot},
    },
    tui::{
        Ended,
        app::{App, DIALS_NOTHING, Detail, Export, LOOKS_ONLY, Open, Page, Reaction, Said},
        command_line::{self, Line},
        export,
        filter::{Filter, Row},
        keys::Action,
        lists,
        order::Column,
        question::Question,
        screen::Screen,
        source::Standing,
        theme::Theme,
    },
};

impl App {
    pub(super) fn act(&mut self, action: Action) -> Reaction {
        match action {
            Action::Down => self.step(|at, _| at.map_or(0, |at| at + 1)),
            Action::Up => self.step(|at, _| at.map_or(0, |at| at.saturating_sub(1))),
            Action::PageDown => self.step(|at, _| at.unwrap_or(0) + PAGE_LINES),
            Action::PageUp => self.step(|at, _| at.unwrap_or(0).saturating_sub(PAGE_LINES)),
            Action::First => self.step(|_, _| 0),
            Action::Last => self.step(|_, last| last),
            Action::Show(screen) => return self.show(screen),
            Action::NextScreen => return self.show(self.screen.next()),
            Action::PreviousScreen => return self.show(self.screen.previous()),
            Action::LastScreen => match self.before {
                Some(before) => return self.show(before),
                None => self.refuse("no other screen was seen before this one"),
            },
            Action::Longer => self.window = self.window.longer(),
            Action::Shorter => self.window = self.window.shorter(),
            Action::Mouse => return self.toggle_mouse(),
            Action::Profiles
                if self.screen == Screen::Profiles
                    && self.selected_line().is_some()
                    && self.standing().offers(Action::Switch) =>
            {
                return self.ask_switch(None);
            }
            Action::Profiles => return self.show(Screen::Profiles),
            Action::Verify => return Reaction::Ask(Command::Verify { steps: Step::ALL.to_vec() }),
            Action::Enter => self.enter(),
            Action::Back => self.back(),
            Action::Sort => self.sort(self.lists.order.column.next()),
            Action::Flip => {
                self.lists.order.is_flipped = !self.lists.order.is_flipped;
                self.arrange_now();
            }
            Action::Filter => self.open = Open::Typing(Line::filter(&self.lists.order.filter.text)),
            Action::CommandLine => self.open = Open::Typing(Line::command("")),
            Action::Resize if !self.dials() => self.refuse(DIALS_NOTHING),
            Action::Resize => self.open = Open::Typing(Line::command("resize ")),
            Action::Complete => self.complete(),
            Action::Earlier => {
                if let Open::Typing(line) = &mut self.open {
                    line.earlier(&self.typed);
                }
                self.follow_typing();
            }
            Action::Later => {
                if let Open::Typing(line) = &mut self.open {
                    line.later(&self.typed);
                }
                self.follow_typing();
            }
            Action::Run => return self.run(),
            Action::Freeze if matches!(self.standing(), Standing::Replay(_)) => {
                return Reaction::Play(Play::Pause);
            }
            Action::Freeze => self.freeze(),
            Action::Play(asked) => return Reaction::Play(asked),
            Action::NextAlert => self.next_alert(),
            Action::Mask => self.mask(),
            Action::Theme => {
                self.look = self.look.with_next_theme();
                self.said = Some(Said::Done(format!("theme {}", self.look.theme_name())));
            }
            Action::Export => return self.export(),
            Action::Help => self.open = Open::Help { page: Page::Keys, scroll: 0 },
            Action::NextPage => {
                if let Open::Help { page, scroll } = &mut self.open {
                    (*page, *scroll) = (page.next(), 0);
                }
            }
            Action::Reload => return Reaction::Ask(Command::Reload),
            Action::Close => self.ask_close(None),
            Action::Drain => self.ask_drain(None),
            Action::Dismiss => return self.dismiss(None),
            Action::Switch => return self.ask_switch(None),
            Action::Stop => {
                let sessions_open = self.latest().totals.clients();
                self.open = Open::Ask(Question::Stop { sessions_open });
            }
            Action::Suspend => return Reaction::Suspend,
            Action::Quit if *self.standing() != Standing::Own => return Reaction::End(Ended::Left),
            Action::Quit => self.open = Open::AskQuit,
            Action::ConfirmQuit => return Reaction::End(Ended::Quit),
            Action::LeaveHeadless => return Reaction::End(Ended::LeftHeadless),
            Action::Confirm => {
                if let Open::Ask(question) = std::mem::replace(&mut self.open, Open::Nothing) {
                    match question.next(self.latest()) {
                        Ok(command) => return Reaction::Ask(command),
                        Err(question) => self.open = Open::Ask(question),
                    }
                }
            }
        }
        Reaction::Redraw
    }

    /// Moves what moves here: the help, the detail, or the cursor of the list.
    pub(super) fn step(&mut self, to: impl Fn(Option<usize>, usize) -> usize) {
        match (&mut self.open, &mut self.detail) {
            (Open::Help { scroll, .. }, _) => *scroll = to(Some(*scroll), SCROLL_MAX).min(SCROLL_MAX),
            (Open::Typing(line), _) => line.scroll = to(Some(line.scroll), SCROLL_MAX).min(SCROLL_MAX),
            (_, Some(detail)) => detail.scroll = to(Some(detail.scroll), SCROLL_MAX).min(SCROLL_MAX),
            (_, None) => {
                let shown = self.shown();
                self.lists.move_to(self.screen, &shown, to);
            }
        }
    }

    fn show(&mut self, screen: Screen) -> Reaction {
        if screen != self.screen {
            self.before = Some(self.screen);
        }
        self.screen = screen;
        self.detail = None;
        self.open = Open::Nothing;
        match (screen, self.standing()) {
            (Screen::Profiles, Standing::Own | Standing::Attached(..)) => Reaction::Ask(Command::Profiles),
            _ => Reaction::Redraw,
        }
    }

    fn enter(&mut self) {
        if self.selected_line().is_none() {
            self.step(|_, _| 0);
        }
        let key = self.lists.selected_key(self.screen).map(str::to_owned);
        self.detail = key.map(|key| Detail { key, scroll: 0 });
    }

    /// One step back, and never out.
    fn back(&mut self) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Typing(line) => {
                if let Some(filter) = line.before().and_then(|before| Filter::parse(before).ok()) {
                    self.lists.order.filter = filter;
                    self.arrange_now();
                }
            }
            Open::Nothing if self.detail.is_some() => self.detail = None,
            Open::Nothing if self.selected_line().is_some() => self.lists.select_none(self.screen),
            Open::Nothing => {
                self.lists.order.filter = Filter::default();
                self.arrange_now();
            }
            Open::Help { .. } | Open::AskQuit | Open::Ask(_) => {}
        }
    }

    pub(super) fn sort(&mut self, column: Column) {
        (self.lists.order.column, self.lists.order.is_flipped) = (column, false);
        self.arrange_now();
    }

    pub(super) fn refuse(&mut self, why: impl Into<String>) {
        self.said = Some(Said::Refused(why.into()));
    }

    fn ask_close(&mut self, id: Option<&str>) {
        let shown = self.shown();
        let found = match id {
            Some(id) => shown.sessions.iter().find(|row| row.id == id || full_name(row) == id).map(Row::Open),
            None => self.selected_session(&shown),
        };
        match found {
            Some(Row::Open(row)) => {
                let is_same = |other: &SessionRow| other.id == row.id && other.role == row.role;
                let is_other = |other: &SessionRow| is_same(other) && other.peer != row.peer;
                let is_shared = shown.sessions.iter().any(is_other);
                let id = if is_shared { full_name(row) } else { row.id.clone() };
                let (service, client) = (row.service.clone(), row.client.clone());
                self.open = Open::Ask(Question::Close { id, service, client });
            }
            Some(Row::Ended(row)) => self.refuse(format!("session {} has ended already", row.id)),
            None if id.is_some() => self.refuse("no open session is called so"),
            None => self.refuse("no session is selected; the arrows select one"),
        }
    }

    /// Nothing ends by it: there is nothing left, and the gateway may come back.
    fn dismiss(&mut self, peer: Option<&str>) -> Reaction {
        let shown = self.shown();
        let selected = self.selected_pool(&shown).filter(|pool| severity(pool) == Severity::Lost);
        let selected = selected.and_then(|pool| pool.peer.as_ref().or(pool.address.as_ref()));
        let Some(peer) = peer.or(selected.map(String::as_str)) else {
            self.refuse("no gateway that was lost is selected; the arrows select one");
            return Reaction::Redraw;
        };
        Reaction::Ask(Command::Dismiss { peer: peer.to_owned() })
    }

    fn ask_drain(&mut self, service: Option<&str>) {
        let shown = self.shown();
        let service = service.map(str::to_owned).or_else(|| self.selected_service(&shown));
        let Some(service) = service else {
            return self.refuse("no service is selected; the arrows select one");
        };
        let rows = || shown.services.iter().filter(|row| row.name == service);
        if rows().next().is_none() {
            return self.refuse(format!("no service is called {service}"));
        }
        // A pair counts a session in both halves.
        let sessions_open = rows().map(|row| row.totals.sessions_open).max().unwrap_or(0);
        self.open = Open::Ask(Question::Drain { service, sessions_open });
    }

    /// Asks the gateway for the plan; the question is about that.
    fn ask_switch(&mut self, profile: Option<&str>) -> Reaction {
        let at = self.lists.selected_line(Screen::Profiles);
        let row = at.and_then(|line| self.lists.profiles.get(line)).cloned();
        let profile = match (profile, row) {
            (Some(profile), _) => profile.to_owned(),
            (None, Some(row)) if !row.problems.is_empty() => {
                self.refuse(format!("{} has problems; Enter shows them", row.name));
                return Reaction::Redraw;
            }
            (None, Some(row)) => row.name,
            (None, None) => {
                self.refuse("no profile is selected; the arrows select one");
                return Reaction::Redraw;
            }
        };
        Reaction::Ask(Command::Plan { profile })
    }

    /// The session that is told of in full, or else the one under the cursor.
    pub fn selected_session<'a>(&self, shown: &'a Snapshot) -> Option<Row<'a>> {
        if !self.screen.lists_sessions() {
            return None;
        }
        let key = self.selected_key()?;
        let (half, id) = key.split_once(' ')?;
        let is_it = |row: &Row<'_>| row.id() == id && format!("{:?}", row.role()) == half;
        let open = shown.sessions.iter().map(Row::Open);
        open.chain(shown.ended.iter().map(Row::Ended)).find(is_it)
    }

    pub fn selected_pool<'a>(&self, shown: &'a Snapshot) -> Option<&'a PoolRow> {
        let key = self.selected_key()?;
        shown.pools.iter().find(|row| self.screen == Screen::Pool && lists::pool_key(row) == key)
    }

    pub fn selected_service_row<'a>(&self, shown: &'a Snapshot) -> Option<&'a ServiceRow> {
        let is_listed = match self.screen {
            Screen::Services => true,
            Screen::Pool => shown.mode == Mode::Direct,
            Screen::Overview | Screen::Sessions | Screen::Events | Screen::Profiles => false,
        };
        let key = self.selected_key()?;
        shown.services.iter().find(|row| is_listed && lists::service_key(row) == key)
    }

    fn selected_key(&self) -> Option<&str> {
        match &self.detail {
            Some(detail) => Some(&detail.key),
            None => self.lists.selected_key(self.screen),
        }
    }

    fn selected_service(&self, shown: &Snapshot) -> Option<String> {
        match self.selected_session(shown) {
            Some(Row::Open(row)) => return Some(row.service.clone()),
            Some(Row::Ended(row)) => return Some(row.service.clone()),
            None => {}
        }
        let of_pool = self.selected_pool(shown).map(|row| row.service.clone()).filter(|name| name != "*");
        of_pool.or_else(|| self.selected_service_row(shown).map(|row| row.name.clone()))
    }

    fn export(&mut self) -> Reaction {
        match export::table(self) {
            Ok(json) => {
                let stem = format!("portcullis-{}", self.screen.name().to_lowercase());
                Reaction::Export(Export { stem, json })
            }
            Err(error) => {
                self.refuse(format!("the table can not be written: {error}"));
                Reaction::Redraw
            }
        }
    }

    /// Takes the typed line. A bad one stays, with what is wrong with it.
    fn run(&mut self) -> Reaction {
        let Open::Typing(line) = &self.open else { return Reaction::Nothing };
        let (text, remembered) = (line.text().to_owned(), format!("{}{}", line.sign(), line.text().trim()));
        if line.is_filter() {
            if line.wrong.is_none() {
                self.remember(remembered);
                self.open = Open::Nothing;
            }
            return Reaction::Redraw;
        }
        if text.trim().is_empty() {
            self.open = Open::Nothing;
            return Reaction::Redraw;
        }
        match command_line::parse(&text).and_then(|(action, argument)| self.check(action, argument)) {
            Ok((action, argument)) => {
                self.remember(remembered);
                self.open = Open::Nothing;
                self.obey(action, argument)
            }
            Err(why) => {
                if let Open::Typing(line) = &mut self.open {
                    line.wrong = Some(why);
                }
                Reaction::Redraw
            }
        }
    }

    fn remember(&mut self, line: String) {
        self.typed.retain(|before| *before != line);
        self.typed.push(line);
        if self.typed.len() > TYPED_MAX {
            self.typed.remove(0);
        }
    }

    /// Whether a typed command can be meant here.
    fn check<'a>(
        &self,
        action: Action,
        argument: Option<&'a str>,
    ) -> Result<(Action, Option<&'a str>), String> {
        if !self.standing().offers(action) {
            return Err(LOOKS_ONLY.into());
        }
        match (action, argument) {
            (Action::Resize, _) if !self.dials() => Err(DIALS_NOTHING.into()),
            (Action::Resize, argument) if argument.and_then(links).is_none() => {
                Err("write how many links to keep ready: `resize 16`".into())
            }
            (Action::Sort, Some(name)) if column(name).is_none() => {
                Err(format!("no column `{name}`; {}", Column::ALL.map(Column::name).join(", ")))
            }
            (Action::Theme, Some(name)) if !Theme::ALL.iter().any(|(known, _)| *known == name) => {
                Err(format!("no theme `{name}`; {}", Theme::ALL.map(|(name, _)| name).join(", ")))
            }
            (Action::Filter, Some(text)) => Filter::parse(text).map(|_| (action, argument)),
            _ => Ok((action, argument)),
        }
    }

    /// A typed command, with what stands behind its word.
    fn obey(&mut self, action: Action, argument: Option<&str>) -> Reaction {
        match (action, argument) {
            (Action::Resize, argument) => {
                let prepared = argument.and_then(links);
                return prepared
                    .map_or(Reaction::Redraw, |prepared| Reaction::Ask(Command::Resize { prepared }));
            }
            (Action::Close, Some(id)) => self.ask_close(Some(id)),
            (Action::Drain, Some(service)) => self.ask_drain(Some(service)),
            (Action::Dismiss, Some(peer)) => return self.dismiss(Some(peer)),
            (Action::Switch, Some(profile)) => return self.ask_switch(Some(profile)),
            (Action::Sort, Some(name)) => {
                if let Some(column) = column(name) {
                    self.sort(column);
                }
            }
            (Action::Theme, Some(name)) => {
                self.look = self.look.with_theme(name);
                self.said = Some(Said::Done(format!("theme {}", self.look.theme_name())));
            }
            (Action::Filter, Some(text)) => {
                self.lists.order.filter = Filter::parse(text).unwrap_or_default();
                self.arrange_now();
            }
            _ => return self.act(action),
        }
        Reaction::Redraw
    }
}

fn links(text: &str) -> Option<usize> {
    text.parse().ok().filter(|links| (1..=LINKS_MAX).contains(links))
}

fn column(name: &str) -> Option<Column> {
    Column::ALL.into_iter().find(|column| column.name() == name)
}

/// A page of the list; the same on every size of screen, so that fingers can count.
const PAGE_LINES: usize = 10;
/// No help and no detail is longer.
const SCROLL_MAX: usize = 500;
const TYPED_MAX: usize = 50;
/// As many as a profile may ask for.
const LINKS_MAX: usize = 1024;

/// A session's id with the name of its peer, since two of them may use the same.
fn full_name(row: &SessionRow) -> String {
    match &row.peer {
        Some(peer) => format!("{peer}/{}", row.id),
        None => row.id.clone(),
    }
}
