//! What the screen of a fleet adds: which gateway a command is for, and a view of one gateway alone.
//!
//! The rows of all gateways are in one snapshot, each with its gateway's name, so that lists, filters and
//! details are the same as for a single gateway. A command goes to the gateway of the chosen row, and the
//! question names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::{
        registry::{KillSelection, ListedSessions},
        snapshot::{
            CheckRow, GatewayFacts, GatewayPhase, GatewayReach, GatewayRow, Snapshot, SwitchRow,
            TrafficTotals, VerifyRow,
        },
    },
    tui::{
        app::{App, Freshness, Overlay, ReloadState, StatusMessage, UpdateResult},
        closing::drained_gateway,
        confirmation::Confirmation,
        filter::ListedSession,
        keys::Action,
        lists,
        screen::Screen,
        session_join::SessionJoin,
    },
};

/// The state of a screen that shows a fleet.
#[derive(Debug, Default)]
pub struct FleetState {
    /// The only gateway whose rows are shown.
    scope: Option<Arc<str>>,
    /// The last snapshot of all, while only one gateway is shown.
    whole: Option<Arc<Snapshot>>,
    /// The gateways that the question is about.
    addressees: Vec<Arc<str>>,
    /// The sessions that a question is about, by gateway.
    sessions: BTreeMap<Arc<str>, Vec<String>>,
    /// Whose profiles are listed.
    profiles_of: Option<Arc<str>>,
    /// Gateways that were stopped and are not listed until they are there again.
    hidden: BTreeSet<Arc<str>>,
    /// A command that several gateways were sent together, while not all have answered.
    pub(super) joint: Option<FleetConfirmation>,
}

/// How a gateway was sent a command: its answer belongs to those of others, or stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedAs {
    Alone,
    Together,
}

/// A command that several gateways were sent; their answers are shown together.
#[derive(Debug, Default)]
pub struct FleetConfirmation {
    /// How many answers of each to such commands are still to come.
    pub awaited: BTreeMap<Arc<str>, usize>,
    pub refused: Vec<String>,
    pub done: Vec<String>,
}

impl App {
    /// Whether an action makes sense on this screen; a recording may be of a fleet.
    pub fn is_action_known(&self, action: Action) -> bool {
        match action {
            Action::Only | Action::Hide | Action::Show(Screen::Gateways) => self.is_fleet(),
            _ => self.attachment().is_available(action),
        }
    }

    pub fn is_fleet(&self) -> bool {
        !self.latest().gateways.is_empty()
    }

    /// The only gateway whose rows are shown.
    pub fn scope(&self) -> Option<&Arc<str>> {
        self.fleet.scope.as_ref()
    }

    /// The gateways that the question on the screen is about.
    pub fn addressees(&self) -> &[Arc<str>] {
        if self.is_fleet() { &self.fleet.addressees } else { &[] }
    }

    /// Whether what is shown for a gateway is current; a single gateway's screen has its own sign for that.
    pub fn is_answering(&self, gateway: Option<&Arc<str>>) -> bool {
        is_answering(self.snapshot(), gateway)
    }

    /// The snapshot of all gateways, even while only one is shown.
    pub fn whole_snapshot(&self) -> &Snapshot {
        self.fleet.whole.as_deref().unwrap_or(self.snapshot())
    }

    pub fn selected_gateway_row<'a>(&self, shown: &'a Snapshot) -> Option<&'a GatewayRow> {
        let key = self.selected_key().filter(|_| self.screen() == Screen::Gateways)?;
        shown.gateways.iter().find(|row| &*row.name == key)
    }

    /// The snapshot with the rows of one gateway only, if one is chosen.
    pub(super) fn narrowed(&mut self, mut snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.drop_hidden(&mut snapshot);
        let Some(scope) = self.fleet.scope.clone().filter(|_| !snapshot.gateways.is_empty()) else {
            self.fleet.whole = None;
            return snapshot;
        };
        let narrowed = Arc::new(narrow(&snapshot, &scope));
        self.fleet.whole = Some(snapshot);
        narrowed
    }

    /// A gateway that was stopped and hidden is listed again as soon as it is anything else, and until then nobody
    /// is alerted of it.
    fn drop_hidden(&mut self, snapshot: &mut Arc<Snapshot>) {
        let hidden = &mut self.fleet.hidden;
        hidden.retain(|name| {
            let mut rows = snapshot.gateways.iter();
            rows.find(|row| row.name == *name).is_none_or(was_stopped)
        });
        if !hidden.is_empty() {
            leave_out(Arc::make_mut(snapshot), hidden);
        }
    }

    /// Whether the selected gateway was stopped, and is not the last on the screen.
    pub(super) fn can_hide_gateway(&self, shown: &Snapshot) -> bool {
        let row = self.selected_gateway_row(shown);
        row.is_some_and(was_stopped) && shown.gateways.len() > 1
    }

    /// Takes the selected gateway from the list until it runs again, if it was stopped.
    pub(super) fn hide_gateway(&mut self) -> UpdateResult {
        let shown = self.shown_snapshot();
        match self.selected_gateway_row(&shown).filter(|_| self.can_hide_gateway(&shown)) {
            Some(row) => {
                if self.fleet.scope.as_ref() == Some(&row.name) {
                    self.fleet.scope = None;
                }
                self.fleet.hidden.insert(Arc::clone(&row.name));
                let whole = self.fleet.whole.take().unwrap_or_else(|| Arc::clone(self.latest_shared()));
                self.replace_latest(whole);
                self.arrange_now();
            }
            None => self.refuse("no gateway that was stopped is selected; the arrows select one"),
        }
        UpdateResult::Redraw
    }

    /// Shows the rows of one gateway only, or those of all again.
    pub(super) fn set_scope(&mut self, name: Option<&str>) {
        if matches!(self.freshness(), Freshness::Frozen { .. }) {
            return self.refuse("the screen is frozen; Space resumes it");
        }
        let shown = self.shown_snapshot();
        let named = match name {
            Some(name) => {
                shown.gateways.iter().find(|row| &*row.name == name).map(|row| Arc::clone(&row.name))
            }
            None => self.selected_gateway(&shown),
        };
        self.fleet.scope = match (self.fleet.scope.take(), named) {
            (None, None) => return self.refuse(NO_GATEWAY),
            // The same name again, or none, shows all.
            (Some(before), named) if named.as_ref().is_none_or(|named| *named == before) => None,
            (_, named) => named,
        };
        let whole = self.fleet.whole.take().unwrap_or_else(|| Arc::clone(self.latest_shared()));
        self.replace_latest(whole);
        self.renew_histories();
        self.arrange_now();
    }

    /// The gateway of the chosen row.
    pub(super) fn selected_gateway(&self, shown: &Snapshot) -> Option<Arc<str>> {
        if let Some(scope) = &self.fleet.scope {
            return Some(Arc::clone(scope));
        }
        if let [only] = shown.gateways.as_slice() {
            return Some(Arc::clone(&only.name));
        }
        match self.screen() {
            Screen::Gateways => self.selected_gateway_row(shown).map(|row| Arc::clone(&row.name)),
            Screen::Overview | Screen::Sessions => match self.selected_session(shown)? {
                ListedSession::Open(row) => row.gateway.clone(),
                ListedSession::Ended(row) => row.gateway.clone(),
            },
            Screen::Pool => self
                .selected_pool(shown)
                .map(|row| &row.gateway)
                .or_else(|| self.selected_service_row(shown).map(|row| &row.gateway))?
                .clone(),
            Screen::Services => self.selected_service_row(shown)?.gateway.clone(),
            Screen::Failures => self.selected_failure(shown)?.gateway.clone(),
            Screen::Events => lists::notices(shown).nth(self.selected_line()?)?.gateway.clone(),
            Screen::Profiles => self.fleet.profiles_of.clone(),
            Screen::Path => self.selected_part_gateway(shown),
            Screen::Doctor => self.selected_finding()?.gateway,
            Screen::History => None,
        }
    }

    /// The gateway whose profiles the screen requests by itself.
    pub(super) fn profiles_of(&self) -> Option<&Arc<str>> {
        self.fleet.profiles_of.as_ref()
    }

    /// The facts about a gateway of the fleet.
    fn facts(&self, name: Option<&Arc<str>>) -> Option<&GatewayFacts> {
        let row = self.latest().gateways.iter().find(|row| Some(&row.name) == name)?;
        row.heard.as_ref()
    }

    /// The forward checks of a gateway; in a fleet, of the named one.
    pub(super) fn forward_checks(&self, name: Option<&Arc<str>>) -> &[CheckRow] {
        match self.is_fleet() {
            true => self.facts(name).map_or(&[], |facts| &facts.forward_checks),
            false => &self.latest().forward_checks,
        }
    }

    /// The checks of forward mode of the gateway whose profiles are listed.
    pub fn listed_checks(&self) -> &[CheckRow] {
        self.forward_checks(self.profiles_of())
    }

    /// The switch under way there.
    pub fn switching(&self) -> Option<&SwitchRow> {
        match self.is_fleet() {
            true => self.facts(self.profiles_of())?.switching.as_ref(),
            false => self.latest().switching.as_ref(),
        }
    }

    /// The last run of the checklist there, or the one under way.
    pub fn verify_row(&self) -> Option<&VerifyRow> {
        match self.is_fleet() {
            true => self.facts(self.profiles_of())?.walk.as_ref(),
            false => self.latest().walk.as_ref(),
        }
    }

    /// The running profile of the gateway whose profiles are listed.
    pub(super) fn running_profile<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a str> {
        if snapshot.gateways.is_empty() {
            return Some(&snapshot.profile);
        }
        let of = self.profiles_of()?;
        let row = snapshot.gateways.iter().find(|row| row.name == *of)?;
        row.heard.as_ref().map(|facts| facts.profile.as_str())
    }

    /// The sessions that a question will be about, since they may belong to several gateways.
    pub(super) fn note_listed(&mut self, sessions: BTreeMap<Arc<str>, Vec<String>>) {
        self.fleet.sessions = sessions;
    }

    /// Sends the result of a key to the gateway that it is for; `chosen` was the gateway before the key was
    /// pressed.
    pub(super) fn address(
        &mut self,
        chosen: Option<Arc<str>>,
        was_asking: bool,
        reaction: UpdateResult,
    ) -> UpdateResult {
        if !self.is_fleet() {
            return reaction;
        }
        if let (Overlay::Ask { question, .. }, false) = (&self.overlay, was_asking) {
            self.fleet.addressees = self.question_addressees(question, chosen.as_ref());
            if self.fleet.addressees.is_empty() {
                self.overlay = Overlay::Nothing;
                self.refuse(NO_GATEWAY);
            }
            return reaction;
        }
        let UpdateResult::Ask(command) = reaction else { return reaction };
        if let Command::KillAll(KillSelection::Listed(ListedSessions { by, .. })) = &command {
            let sessions = std::mem::take(&mut self.fleet.sessions).into_iter();
            let kill = |sessions| {
                Command::KillAll(KillSelection::Listed(ListedSessions { sessions, by: by.clone() }))
            };
            return UpdateResult::AskGateways(sessions.map(|(name, listed)| (name, kill(listed))).collect());
        }
        let addressee = if was_asking { self.fleet.addressees.first().cloned() } else { chosen };
        let Some(name) = addressee else {
            self.refuse(NO_GATEWAY);
            return UpdateResult::Redraw;
        };
        if command == Command::Profiles && self.fleet.profiles_of.as_ref() != Some(&name) {
            self.lists.profiles.clear();
            self.fleet.profiles_of = Some(Arc::clone(&name));
        }
        UpdateResult::AskGateways(vec![(name, command)])
    }

    /// Takes the answer of one gateway. A plan becomes a question about that gateway, whatever others were sent
    /// meanwhile.
    pub fn take_answer_of(&mut self, name: Arc<str>, asked: AskedAs, answer: CommandAnswer) {
        let lists_its_profiles = self.fleet.profiles_of.as_ref() == Some(&name);
        match answer {
            CommandAnswer::Profiles(_) if !lists_its_profiles => return,
            CommandAnswer::Planned(_) => {
                if matches!(self.overlay, Overlay::Nothing) {
                    self.fleet.addressees = vec![Arc::clone(&name)];
                }
            }
            CommandAnswer::Refused(_) => {
                // Its profiles show the lines for which a reload was refused.
                if self.reload == ReloadState::Asked && !lists_its_profiles {
                    self.lists.profiles.clear();
                    self.fleet.profiles_of = Some(Arc::clone(&name));
                }
            }
            CommandAnswer::Done(_) | CommandAnswer::Cut(_) | CommandAnswer::NotSaved(_) => {}
            CommandAnswer::Killed(_) | CommandAnswer::Status(_) | CommandAnswer::Profiles(_) => {}
            CommandAnswer::Metrics(_) | CommandAnswer::History(_) | CommandAnswer::Verified(_) => {}
        }
        // The message may still be the checklist of another gateway.
        let is_checklist = matches!(answer, CommandAnswer::Verified(_));
        self.take_answer(answer);
        match asked {
            AskedAs::Together => self.join_answer(&name),
            // No checklist is asked of several gateways together.
            AskedAs::Alone => {
                if let Some(StatusMessage::Checked(of, _)) = &mut self.message
                    && is_checklist
                {
                    *of = Some(name);
                }
            }
        }
    }

    fn question_addressees(&self, question: &Confirmation, chosen: Option<&Arc<str>>) -> Vec<Arc<str>> {
        let shown = self.snapshot();
        match question {
            Confirmation::Close { id, .. } => {
                let id = id.rsplit_once('/').map_or(id.as_str(), |(_, id)| id);
                let rows = || shown.sessions.iter().filter(|row| row.id == id);
                // A typed id may belong to any gateway. If two carry the session, the one with its client ends
                // it.
                match chosen.filter(|name| rows().any(|row| row.gateway.as_ref() == Some(*name))) {
                    Some(name) => vec![Arc::clone(name)],
                    None => {
                        let outer = rows().map(|row| row.half).min();
                        let outer = rows().filter(|row| Some(row.half) == outer);
                        let names: BTreeSet<_> = outer.filter_map(|row| row.gateway.clone()).collect();
                        // If several have a session with this name, none was meant more than the others.
                        if names.len() == 1 { names.into_iter().collect() } else { Vec::new() }
                    }
                }
            }
            Confirmation::CloseAll { .. } => self.fleet.sessions.keys().cloned().collect(),
            Confirmation::Drain { service, .. } => {
                drained_gateway(shown, service, chosen).into_iter().collect()
            }
            Confirmation::Switch(_)
            | Confirmation::Unproven(_)
            | Confirmation::Lockdown { .. }
            | Confirmation::Unlock { .. }
            | Confirmation::Stop { .. } => chosen.into_iter().cloned().collect(),
        }
    }
}

/// Whether a row counts when one gateway, or all, are asked about.
pub(super) fn is_of(requested: Option<&Arc<str>>, gateway: &Option<Arc<str>>) -> bool {
    requested.is_none() || gateway.as_ref() == requested
}

/// Whether a gateway's snapshots arrive; otherwise its last state may be outdated.
pub(super) fn is_answering(snapshot: &Snapshot, gateway: Option<&Arc<str>>) -> bool {
    let row = snapshot.gateways.iter().find(|row| Some(&row.name) == gateway);
    row.is_none_or(|row| row.reach == GatewayReach::Reached)
}

/// Whether it is away since it said that it ended, however long ago.
fn was_stopped(row: &GatewayRow) -> bool {
    let has_ended = || row.heard.as_ref().is_some_and(|facts| facts.phase == GatewayPhase::Stopped);
    match row.reach {
        GatewayReach::Stopped => true,
        GatewayReach::Unreachable => has_ended(),
        GatewayReach::Reached | GatewayReach::Calling | GatewayReach::Silent => false,
    }
}

/// Takes hidden gateways out, with what is said of their absence.
fn leave_out(whole: &mut Snapshot, hidden: &BTreeSet<Arc<str>>) {
    let is_hidden = |gateway: &Option<Arc<str>>| gateway.as_ref().is_some_and(|name| hidden.contains(name));
    let is_missed = |row: &GatewayRow| row.reach == GatewayReach::Unreachable && hidden.contains(&row.name);
    let was_judged = whole.gateways.iter().any(is_missed);
    whole.gateways.retain(|row| !hidden.contains(&row.name));
    whole.alerts.retain(|alert| !is_hidden(&alert.gateway));
    whole.findings.retain(|finding| !is_hidden(&finding.gateway));
    let rest = &whole.gateways;
    let is_expected = |row: &&GatewayRow| row.reach != GatewayReach::Stopped;
    // If another one is away too, the fleet stays as it was judged.
    if was_judged && rest.iter().filter(is_expected).all(|row| row.reach == GatewayReach::Reached) {
        let healths = rest.iter().filter(is_expected).filter_map(|row| row.heard.as_ref()?.health);
        whole.health = healths.max();
    }
}

/// The rows of one gateway, with the other parts of its sessions. The list of gateways stays complete.
fn narrow(whole: &Snapshot, scope: &Arc<str>) -> Snapshot {
    let is_of = |gateway: &Option<Arc<str>>| gateway.as_ref() == Some(scope);
    let mut one = whole.clone();
    one.services.retain(|row| is_of(&row.gateway));
    one.pools.retain(|row| is_of(&row.gateway));
    one.failures.retain(|row| is_of(&row.gateway));
    one.notices.retain(|row| is_of(&row.gateway));
    one.alerts.retain(|row| is_of(&row.gateway));
    one.findings.retain(|finding| is_of(&finding.gateway));
    // Joining rows into sessions needs all pools, not only those of one gateway.
    let join = SessionJoin::of(whole);
    let (open, ended) = kept_sessions(whole, &join, scope);
    let (mut open, mut ended) = (open.into_iter(), ended.into_iter());
    one.sessions.retain(|_| open.next().unwrap_or(false));
    one.ended.retain(|_| ended.next().unwrap_or(false));
    let row = whole.gateways.iter().find(|row| row.name == *scope);
    if let Some(facts) = row.and_then(|row| row.heard.as_ref()) {
        let is_away =
            |row: &GatewayRow| matches!(row.reach, GatewayReach::Unreachable | GatewayReach::Stopped);
        one.health = facts.health.filter(|_| !row.is_some_and(is_away));
        (one.mode, one.phase) = (facts.mode, facts.phase);
        one.halves = facts.halves.clone();
        (one.totals.sessions_open, one.totals.sessions_waiting) =
            (facts.sessions_open, facts.sessions_waiting);
        (one.totals.sessions, one.totals.refused) = (facts.sessions, facts.refused);
    } else {
        // Nothing is known of it.
        (one.health, one.phase) = (None, GatewayPhase::Starting);
        one.halves.clear();
        one.totals = TrafficTotals {
            bytes_up: one.totals.bytes_up,
            bytes_down: one.totals.bytes_down,
            ..TrafficTotals::default()
        };
    }
    // The other half's parts of its sessions are shown with them.
    one.halves.extend(one.sessions.iter().map(|row| row.half).collect::<BTreeSet<_>>());
    one.halves.sort_unstable();
    one.halves.dedup();
    one.profile = scope.to_string();
    one
}

/// Which session rows belong to one gateway, or are the other part of such a row: open ones, and those that
/// ended.
fn kept_sessions(whole: &Snapshot, join: &SessionJoin<'_>, scope: &Arc<str>) -> (Vec<bool>, Vec<bool>) {
    let is_of = |gateway: &Option<Arc<str>>| gateway.as_ref() == Some(scope);
    let mut open: Vec<_> = whole.sessions.iter().map(|row| is_of(&row.gateway)).collect();
    let mut ended: Vec<_> = whole.ended.iter().map(|row| is_of(&row.gateway)).collect();
    for (index, row) in whole.sessions.iter().enumerate() {
        if let Some(outer) = join.outer_open(ListedSession::Open(row)) {
            let is_kept = open[index] || open[outer];
            (open[index], open[outer]) = (is_kept, is_kept);
        }
    }
    for (index, row) in whole.ended.iter().enumerate() {
        if let Some(outer) = join.outer_ended(ListedSession::Ended(row)) {
            let is_kept = ended[index] || ended[outer];
            (ended[index], ended[outer]) = (is_kept, is_kept);
        }
    }
    (open, ended)
}

/// The message if nothing says which gateway a command is for.
pub(super) const NO_GATEWAY: &str = "no gateway is chosen; select a row of one, or type `only NAME`";
