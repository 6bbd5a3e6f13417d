//! What each action does, whether it was triggered by its key or by its word. It changes what is shown, or returns
//! a command; nothing is sent or drawn here.

use crate::{
    gateway::handle::Command,
    profile::Mode,
    record::PlayerAction,
    telemetry::{
        checklist::CheckStep,
        failures::FailureRow,
        health::{Severity, severity},
        snapshot::{PoolRow, ServiceRow, Snapshot},
    },
    tui::{
        ScreenEnd,
        app::{
            App, DIALS_NOTHING, HelpPage, LOOKS_ONLY, OpenDetail, Overlay, StatusMessage, TableExport,
            UpdateResult,
        },
        clients::SessionGrouping,
        command_line::{self, InputLine},
        export,
        filter::{ListedSession, SessionFilter},
        keys::Action,
        lists, lockdown,
        order::SortColumn,
        path::SideStep,
        screen::Screen,
        source::Attachment,
        theme::Theme,
    },
};

impl App {
    pub(super) fn perform(&mut self, action: Action) -> UpdateResult {
        match action {
            Action::Down => self.move_selection(|at, _| at.map_or(0, |at| at + 1)),
            Action::Up => self.move_selection(|at, _| at.map_or(0, |at| at.saturating_sub(1))),
            Action::PageDown => self.move_selection(|at, _| at.unwrap_or(0) + PAGE_LINES),
            Action::PageUp => self.move_selection(|at, _| at.unwrap_or(0).saturating_sub(PAGE_LINES)),
            Action::First => self.move_selection(|_, _| 0),
            Action::Last => self.move_selection(|_, last| last),
            Action::Show(screen) => return self.show(screen),
            Action::NextScreen => return self.show(self.screen_beside(1)),
            Action::PreviousScreen => return self.show(self.screen_beside(-1)),
            Action::Left => return self.step_sideways(SideStep::Left),
            Action::Right => return self.step_sideways(SideStep::Right),
            Action::Only => self.set_scope(None),
            Action::LastScreen => return self.show_last_screen(),
            Action::Longer if self.screen == Screen::History => self.lengthen_history_span(),
            Action::Shorter if self.screen == Screen::History => self.shorten_history_span(),
            Action::Longer => self.window = self.window.longer(),
            Action::Shorter => self.window = self.window.shorter(),
            Action::Mouse => return self.toggle_mouse(),
            Action::Profiles => return self.show_profiles(),
            Action::Verify => return UpdateResult::Ask(Command::Verify { steps: CheckStep::ALL.to_vec() }),
            Action::Enter if self.screen == Screen::Path => return self.open_part(),
            Action::Enter => self.enter(),
            Action::Back => self.back(),
            Action::Sort => self.sort(self.lists.order.column.next()),
            Action::Flip => self.flip_order(),
            Action::Filter => {
                self.overlay = Overlay::Typing(InputLine::filter(&self.lists.order.filter.text))
            }
            Action::CommandLine => self.overlay = Overlay::Typing(InputLine::command("")),
            Action::Resize if !self.keeps_links() => self.refuse(DIALS_NOTHING),
            Action::Resize => self.overlay = Overlay::Typing(InputLine::command("resize ")),
            Action::LogLevel => self.overlay = Overlay::Typing(InputLine::command("log-level ")),
            Action::Complete => self.complete(),
            Action::Earlier => self.recall_typed(InputLine::earlier),
            Action::Later => self.recall_typed(InputLine::later),
            Action::Run => return self.run_line(),
            Action::Freeze => return self.freeze(),
            Action::Play(requested) => return UpdateResult::Play(requested),
            Action::NextAlert => self.next_alert(),
            Action::Mask => self.toggle_masking(),
            Action::Theme => self.next_theme(),
            Action::Export => return self.export(),
            Action::Help => self.overlay = Overlay::Help { page: HelpPage::Keys, scroll: 0 },
            Action::NextPage => self.next_help_page(),
            Action::Reload => return UpdateResult::Ask(Command::Reload),
            Action::Close => self.ask_close(None),
            Action::CloseAll => return self.ask_close_all(None),
            Action::Clients => self.toggle_grouping(),
            Action::Drain => self.ask_drain(None),
            Action::Lockdown => self.ask_lockdown(Default::default()),
            Action::Unlock => self.ask_unlock(Default::default()),
            Action::Hide => return self.hide_gateway(),
            Action::Dismiss => return self.dismiss(None),
            Action::Switch => return self.ask_switch(None),
            Action::Stop => self.ask_stop(),
            Action::Suspend => return UpdateResult::Suspend,
            Action::Quit if *self.attachment() != Attachment::Own => {
                return UpdateResult::End(ScreenEnd::Left);
            }
            Action::Quit => self.overlay = Overlay::AskQuit,
            Action::ConfirmQuit => return UpdateResult::End(ScreenEnd::Quit),
            Action::LeaveHeadless => return UpdateResult::End(ScreenEnd::LeftHeadless),
            Action::Confirm => return self.confirm(),
        }
        UpdateResult::Redraw
    }

    /// The screen to the right or to the left.
    fn screen_beside(&self, step: isize) -> Screen {
        let screens: Vec<_> = self.screens().collect();
        let at = screens.iter().position(|&screen| screen == self.screen).unwrap_or(0);
        let beside = at as isize + step;
        screens[beside.rem_euclid(screens.len() as isize) as usize]
    }

    /// The screens that this app has, in order.
    pub fn screens(&self) -> impl Iterator<Item = Screen> {
        Screen::ALL.into_iter().filter(|&screen| self.is_available(Action::Show(screen)))
    }

    fn show_last_screen(&mut self) -> UpdateResult {
        match self.before {
            Some(before) => self.show(before),
            None => {
                self.refuse("no other screen was seen before this one");
                UpdateResult::Redraw
            }
        }
    }

    /// Opens the list of profiles; if it is open, asks for a switch to the selected one.
    fn show_profiles(&mut self) -> UpdateResult {
        let is_there = self.screen == Screen::Profiles && self.selected_line().is_some();
        match is_there && self.attachment().is_available(Action::Switch) {
            true => self.ask_switch(None),
            false => self.show(Screen::Profiles),
        }
    }

    fn flip_order(&mut self) {
        self.lists.order.is_flipped = !self.lists.order.is_flipped;
        self.arrange_now();
    }

    /// Puts an earlier line into the input.
    fn recall_typed(&mut self, recall: impl FnOnce(&mut InputLine, &[String])) {
        if let Overlay::Typing(line) = &mut self.overlay {
            recall(line, &self.typed);
        }
        self.follow_typing();
    }

    fn step_sideways(&mut self, step: SideStep) -> UpdateResult {
        if let Some(at) = self.sought_time(step) {
            return UpdateResult::Play(PlayerAction::To(at));
        }
        self.move_sideways(step);
        UpdateResult::Redraw
    }

    fn freeze(&mut self) -> UpdateResult {
        if matches!(self.attachment(), Attachment::Replay(_)) {
            return UpdateResult::Play(PlayerAction::Pause);
        }
        self.toggle_freeze();
        UpdateResult::Redraw
    }

    fn next_theme(&mut self) {
        self.style = self.style.with_next_theme();
        self.message = Some(StatusMessage::Done(format!("theme {}", self.style.theme_name())));
    }

    fn next_help_page(&mut self) {
        if let Overlay::Help { page, scroll } = &mut self.overlay {
            (*page, *scroll) = (page.next(), 0);
        }
    }

    /// A yes to the open question: its command, or the next question.
    fn confirm(&mut self) -> UpdateResult {
        if let Overlay::Ask { question, .. } = std::mem::replace(&mut self.overlay, Overlay::Nothing) {
            match question.next(self.forward_checks(self.addressees().first())) {
                Ok(command) => return UpdateResult::Ask(command),
                Err(question) => self.overlay = Overlay::question(question),
            }
        }
        UpdateResult::Redraw
    }

    /// Moves whatever can move here: the help, a question, the details, or the cursor of the list.
    pub(super) fn move_selection(&mut self, to: impl Fn(Option<usize>, usize) -> usize) {
        match (&mut self.overlay, &mut self.detail) {
            (Overlay::Help { scroll, .. }, _) => *scroll = to(Some(*scroll), SCROLL_MAX).min(SCROLL_MAX),
            (Overlay::Ask { scroll, .. }, _) => {
                *scroll = to(Some(*scroll), QUESTION_SCROLL_MAX).min(QUESTION_SCROLL_MAX);
            }
            (Overlay::Typing(line), _) => line.scroll = to(Some(line.scroll), SCROLL_MAX).min(SCROLL_MAX),
            (_, Some(detail)) => detail.scroll = to(Some(detail.scroll), SCROLL_MAX).min(SCROLL_MAX),
            (_, None) => {
                let shown = self.shown_snapshot();
                self.lists.move_to(self.screen, &shown, to);
            }
        }
    }

    pub(super) fn show(&mut self, screen: Screen) -> UpdateResult {
        if screen != self.screen {
            self.before = Some(self.screen);
        }
        self.screen = screen;
        self.detail = None;
        self.overlay = Overlay::Nothing;
        let is_asked = screen == Screen::Profiles && !matches!(self.attachment(), Attachment::Replay(_));
        if is_asked { UpdateResult::Ask(Command::Profiles) } else { UpdateResult::Redraw }
    }

    fn enter(&mut self) {
        if self.selected_line().is_none() {
            self.move_selection(|_, _| 0);
        }
        let key = self.lists.selected_key(self.screen).map(str::to_owned);
        self.detail = key.map(|key| OpenDetail { key, scroll: 0 });
    }

    /// One step back, but never out.
    fn back(&mut self) {
        match std::mem::replace(&mut self.overlay, Overlay::Nothing) {
            Overlay::Typing(line) => {
                if let Some(filter) = line.before().and_then(|before| SessionFilter::parse(before).ok()) {
                    self.lists.order.filter = filter;
                    self.arrange_now();
                }
            }
            Overlay::Nothing if self.screen == Screen::History => self.drop_history_cursor(),
            Overlay::Nothing if self.detail.is_some() => self.detail = None,
            Overlay::Nothing if self.selected_line().is_some() => self.lists.select_none(self.screen),
            Overlay::Nothing => {
                self.lists.order.filter = SessionFilter::default();
                self.arrange_now();
            }
            Overlay::Help { .. } | Overlay::AskQuit | Overlay::Ask { .. } => {}
        }
    }

    /// Nothing was chosen in the other list.
    fn toggle_grouping(&mut self) {
        self.lists.grouping = match self.lists.grouping {
            SessionGrouping::None => SessionGrouping::ByClient,
            SessionGrouping::ByClient => SessionGrouping::None,
        };
        self.lists.select_none(Screen::Sessions);
        self.detail = None;
        self.arrange_now();
    }

    pub(super) fn sort(&mut self, column: SortColumn) {
        (self.lists.order.column, self.lists.order.is_flipped) = (column, false);
        self.arrange_now();
    }

    pub(super) fn refuse(&mut self, why: impl Into<String>) {
        self.message = Some(StatusMessage::Refused(why.into()));
    }

    /// Forgets a lost peer. This ends nothing: there is nothing left, and the gateway may come back.
    fn dismiss(&mut self, peer: Option<&str>) -> UpdateResult {
        let shown = self.shown_snapshot();
        let selected = self.selected_pool(&shown).filter(|pool| severity(pool) == Severity::Lost);
        let selected = selected.and_then(|pool| pool.peer.as_ref().or(pool.address.as_ref()));
        let Some(peer) = peer.or(selected.map(String::as_str)) else {
            self.refuse("no gateway that was lost is selected; the arrows select one");
            return UpdateResult::Redraw;
        };
        UpdateResult::Ask(Command::Dismiss { peer: peer.to_owned() })
    }

    /// Requests the plan; the question is about that.
    fn ask_switch(&mut self, profile: Option<&str>) -> UpdateResult {
        let at = self.lists.selected_line(Screen::Profiles);
        let row = at.and_then(|line| self.lists.profiles.get(line)).cloned();
        let profile = match (profile, row) {
            (Some(profile), _) => profile.to_owned(),
            (None, Some(row)) if !row.problems.is_empty() => {
                self.refuse(format!("{} has problems; Enter shows them", row.name));
                return UpdateResult::Redraw;
            }
            (None, Some(row)) => row.name,
            (None, None) => {
                self.refuse("no profile is selected; the arrows select one");
                return UpdateResult::Redraw;
            }
        };
        UpdateResult::Ask(Command::Plan { profile })
    }

    /// The session whose details are open, or else the selected one.
    pub fn selected_session<'a>(&self, shown: &'a Snapshot) -> Option<ListedSession<'a>> {
        if !self.screen.lists_sessions() || self.grouping() == SessionGrouping::ByClient {
            return None;
        }
        let key = self.selected_key()?;
        let open = shown.sessions.iter().map(ListedSession::Open);
        open.chain(shown.ended.iter().map(ListedSession::Ended)).find(|row| lists::is_session(*row, key))
    }

    /// The client whose details are open, or else the selected one, if sessions are grouped.
    pub fn selected_client(&self) -> Option<&str> {
        let is_grouped = self.screen.lists_sessions() && self.grouping() == SessionGrouping::ByClient;
        self.selected_key().filter(|_| is_grouped)
    }

    pub fn selected_pool<'a>(&self, shown: &'a Snapshot) -> Option<&'a PoolRow> {
        let key = self.selected_key()?;
        shown.pools.iter().find(|row| self.screen == Screen::Pool && lists::pool_key(row) == key)
    }

    pub fn selected_service_row<'a>(&self, shown: &'a Snapshot) -> Option<&'a ServiceRow> {
        let is_listed = match self.screen {
            Screen::Services => true,
            Screen::Pool => shown.mode == Mode::Direct,
            Screen::Overview | Screen::Sessions | Screen::Events => false,
            Screen::Profiles | Screen::Failures | Screen::Gateways => false,
            Screen::Path | Screen::Doctor | Screen::History => false,
        };
        let key = self.selected_key()?;
        shown.services.iter().find(|row| is_listed && lists::service_key(row) == key)
    }

    pub fn selected_failure<'a>(&self, shown: &'a Snapshot) -> Option<&'a FailureRow> {
        let key = self.selected_key().filter(|_| self.screen == Screen::Failures)?;
        shown.failures.iter().find(|row| lists::failure_key(row) == key)
    }

    pub(super) fn selected_key(&self) -> Option<&str> {
        match &self.detail {
            Some(detail) => Some(&detail.key),
            None => self.lists.selected_key(self.screen),
        }
    }

    pub(super) fn selected_service(&self, shown: &Snapshot) -> Option<String> {
        match self.selected_session(shown) {
            Some(ListedSession::Open(row)) => return Some(row.service.clone()),
            Some(ListedSession::Ended(row)) => return Some(row.service.clone()),
            None => {}
        }
        let of_pool = self.selected_pool(shown).map(|row| row.service.clone()).filter(|name| name != "*");
        let of_failure = || self.selected_failure(shown).map(|row| row.service.clone());
        let of_service = || self.selected_service_row(shown).map(|row| row.name.clone());
        of_pool.or_else(of_service).or_else(of_failure)
    }

    fn export(&mut self) -> UpdateResult {
        match export::table(self) {
            Ok(json) => {
                let stem = format!("portcullis-{}", self.screen.name().to_lowercase());
                UpdateResult::Export(TableExport { stem, json })
            }
            Err(error) => {
                self.refuse(format!("the table cannot be written: {error}"));
                UpdateResult::Redraw
            }
        }
    }

    /// Runs the typed line. An invalid one stays, with what is wrong with it.
    fn run_line(&mut self) -> UpdateResult {
        let Overlay::Typing(line) = &self.overlay else { return UpdateResult::Nothing };
        let (text, remembered) = (line.text().to_owned(), format!("{}{}", line.sign(), line.text().trim()));
        if line.is_filter() {
            if line.wrong.is_none() {
                self.remember_line(remembered);
                self.overlay = Overlay::Nothing;
            }
            return UpdateResult::Redraw;
        }
        if text.trim().is_empty() {
            self.overlay = Overlay::Nothing;
            return UpdateResult::Redraw;
        }
        match command_line::parse(&text).and_then(|(action, argument)| self.check_typed(action, argument)) {
            Ok((action, argument)) => {
                self.remember_line(remembered);
                self.overlay = Overlay::Nothing;
                self.run_typed(action, argument)
            }
            Err(why) => {
                if let Overlay::Typing(line) = &mut self.overlay {
                    line.wrong = Some(why);
                }
                UpdateResult::Redraw
            }
        }
    }

    fn remember_line(&mut self, line: String) {
        self.typed.retain(|before| *before != line);
        self.typed.push(line);
        if self.typed.len() > TYPED_MAX {
            self.typed.remove(0);
        }
    }

    /// Whether a typed command makes sense here.
    fn check_typed<'a>(
        &self,
        action: Action,
        argument: Option<&'a str>,
    ) -> Result<(Action, Option<&'a str>), String> {
        if !self.is_action_known(action) {
            let is_of_fleet = matches!(action, Action::Only | Action::Hide | Action::Show(Screen::Gateways));
            return Err(if is_of_fleet { NO_FLEET } else { LOOKS_ONLY }.into());
        }
        match (action, argument) {
            (Action::Resize, _) if !self.keeps_links() => Err(DIALS_NOTHING.into()),
            (Action::Resize, argument) if argument.and_then(parse_links).is_none() => {
                Err("write how many links to keep ready: `resize 16`".into())
            }
            (Action::Only, Some(name)) if !self.latest().gateways.iter().any(|row| &*row.name == name) => {
                Err(format!("no gateway is called {name}"))
            }
            (Action::Lockdown | Action::Unlock, text) => {
                lockdown::parse_target(text).map(|_| (action, argument))
            }
            (Action::LogLevel, None) => Err("write what the log should have: `log-level debug`".into()),
            (Action::Sort, Some(name)) if parse_column(name).is_none() => {
                Err(format!("no column `{name}`; {}", SortColumn::ALL.map(SortColumn::name).join(", ")))
            }
            (Action::Theme, Some(name)) if !Theme::ALL.iter().any(|(known, _)| *known == name) => {
                Err(format!("no theme `{name}`; {}", Theme::ALL.map(|(name, _)| name).join(", ")))
            }
            (Action::Filter | Action::CloseAll, Some(text)) => {
                SessionFilter::parse(text).map(|_| (action, argument))
            }
            _ => Ok((action, argument)),
        }
    }

    /// A typed command, with the text after its word.
    fn run_typed(&mut self, action: Action, argument: Option<&str>) -> UpdateResult {
        match (action, argument) {
            (Action::Resize, argument) => {
                let prepared = argument.and_then(parse_links);
                return prepared.map_or(UpdateResult::Redraw, |prepared| {
                    UpdateResult::Ask(Command::Resize { prepared })
                });
            }
            (Action::LogLevel, Some(level)) => {
                return UpdateResult::Ask(Command::LogLevel { level: level.to_owned() });
            }
            (Action::Close, Some(id)) => self.ask_close(Some(id)),
            (Action::CloseAll, Some(filter)) => return self.ask_close_all(Some(filter)),
            (Action::Lockdown, text) => self.ask_lockdown(lockdown::parse_target(text).unwrap_or_default()),
            (Action::Unlock, text) => self.ask_unlock(lockdown::parse_target(text).unwrap_or_default()),
            (Action::Drain, Some(service)) => self.ask_drain(Some(service)),
            (Action::Only, Some(name)) => self.set_scope(Some(name)),
            (Action::Dismiss, Some(peer)) => return self.dismiss(Some(peer)),
            (Action::Switch, Some(profile)) => return self.ask_switch(Some(profile)),
            (Action::Sort, Some(name)) => {
                if let Some(column) = parse_column(name) {
                    self.sort(column);
                }
            }
            (Action::Theme, Some(name)) => {
                self.style = self.style.with_theme(name);
                self.message = Some(StatusMessage::Done(format!("theme {}", self.style.theme_name())));
            }
            (Action::Filter, Some(text)) => {
                self.lists.order.filter = SessionFilter::parse(text).unwrap_or_default();
                self.arrange_now();
            }
            _ => return self.perform(action),
        }
        UpdateResult::Redraw
    }
}

fn parse_links(text: &str) -> Option<usize> {
    text.parse().ok().filter(|links| (1..=LINKS_MAX).contains(links))
}

fn parse_column(name: &str) -> Option<SortColumn> {
    SortColumn::ALL.into_iter().find(|column| column.name() == name)
}

/// A page of the list is the same on every size of screen, so that it becomes a habit.
const PAGE_LINES: usize = 10;
/// No help and no details are longer.
const SCROLL_MAX: usize = 500;
/// A plan may have several lines for each of many services, and all can be read before the answer.
const QUESTION_SCROLL_MAX: usize = 100_000;
const TYPED_MAX: usize = 50;
const NO_FLEET: &str = "this screen shows one gateway, and no fleet";
/// As many as a profile may have.
const LINKS_MAX: usize = 1024;
