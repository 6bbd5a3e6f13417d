//! The last hours of the gateway on the screen, from the gateway's own history: what is requested from it, and
//! where the cursor is.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    gateway::handle::{Command, CommandAnswer},
    profile::Half,
    telemetry::{
        history::{HistoryReport, HistoryRequest, HistorySample},
        snapshot::{GatewayReach, Snapshot},
    },
    tui::{
        app::{App, Freshness},
        path::SideStep,
        screen::Screen,
        source::Attachment,
    },
};

/// The number of steps requested, whatever the screen has room for.
const STEPS: u64 = 600;
/// The cursor moves by this fraction of the window.
const CURSOR_PARTS: u64 = 100;
/// How soon the history is requested again, for a short window and for a long one.
const AGAIN_SECONDS: (f64, f64) = (3.0, 30.0);
/// How long a report may have been on its way.
const DELAY_SECONDS: i128 = 5;
/// The same for a fleet, where each request may go through a program.
const AGAIN_SECONDS_OF_FLEET: (f64, f64) = (10.0, 60.0);

/// How far back the charts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySpan(usize);

impl HistorySpan {
    const ALL: [(u64, &'static str); 4] =
        [(600, "last 10 min"), (3600, "last hour"), (21_600, "last 6 h"), (86_400, "last 24 h")];

    pub fn seconds(self) -> u64 {
        Self::ALL[self.0].0
    }

    pub fn words(self) -> &'static str {
        Self::ALL[self.0].1
    }

    fn longer(self) -> Self {
        Self((self.0 + 1).min(Self::ALL.len() - 1))
    }

    fn shorter(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// What is known of the history.
#[derive(Debug)]
pub struct HistoryView {
    pub span: HistorySpan,
    /// The report of each gateway that has answered, or why it has not.
    reports: BTreeMap<Option<Arc<str>>, Result<TakenReport, String>>,
    /// By the clock of the snapshot's gateway; `None` if it should be requested at once.
    asked_at: Option<f64>,
    /// The selected time, in seconds since 1970; `None` for the newest.
    pub cursor: Option<u64>,
}

/// A report, and when it arrived, by the clock of the snapshot's gateway.
#[derive(Debug)]
struct TakenReport {
    report: HistoryReport,
    taken_at: u64,
}

impl TakenReport {
    /// What its gateway's clock would have shown when the screen started.
    fn clock(&self) -> i128 {
        i128::from(self.report.now) - i128::from(self.taken_at)
    }
}

impl Default for HistoryView {
    fn default() -> Self {
        Self { span: HistorySpan(0), reports: BTreeMap::new(), asked_at: None, cursor: None }
    }
}

impl App {
    /// What to request now, and from whom; there is no message about it.
    pub fn history_requests(&mut self) -> Vec<(Option<Arc<str>>, Command)> {
        let is_live = !matches!(self.attachment(), Attachment::Replay(_))
            && !matches!(self.freshness(), Freshness::Frozen { .. });
        if self.screen() != Screen::History || !is_live {
            return Vec::new();
        }
        let now = self.latest().uptime_seconds;
        let span = self.trends.span.seconds();
        let (soonest, latest) = if self.is_fleet() { AGAIN_SECONDS_OF_FLEET } else { AGAIN_SECONDS };
        let again = (2.0 * span as f64 / STEPS as f64).clamp(soonest, latest);
        if self.trends.asked_at.is_some_and(|at| (0.0..again).contains(&(now - at))) {
            return Vec::new();
        }
        self.trends.asked_at = Some(now);
        let names = asked_gateways(self.latest(), self.scope());
        self.trends.reports.retain(|name, _| names.contains(name));
        let requested = HistoryRequest { step_seconds: span / STEPS, steps: STEPS };
        names.into_iter().map(|name| (name, Command::History(requested))).collect()
    }

    /// Takes a gateway's answer to that.
    pub fn take_history(&mut self, name: Option<Arc<str>>, answer: CommandAnswer) {
        let taken_at = self.latest().uptime_seconds as u64;
        let report = match answer {
            CommandAnswer::History(report) => Ok(TakenReport { report: *report, taken_at }),
            CommandAnswer::Refused(why) => Err(why),
            _ => Err("it has answered something else".into()),
        };
        self.trends.reports.insert(name, report);
    }

    pub fn trends(&self) -> &HistoryView {
        &self.trends
    }

    pub(super) fn change_history_span(&mut self, is_longer: bool) {
        let view = &mut self.trends;
        view.span = if is_longer { view.span.longer() } else { view.span.shorter() };
        view.asked_at = None;
        view.cursor = None;
    }

    /// Moves the cursor back in time, or forward until it is gone; the newest is then shown again.
    pub(super) fn move_history_cursor(&mut self, step: SideStep, parts: u64) {
        let Some(now) = self.trends.reports.values().flatten().map(|taken| taken.report.now).max() else {
            return;
        };
        let span = self.trends.span.seconds();
        let by = span / CURSOR_PARTS * parts;
        let at = self.trends.cursor.unwrap_or(now);
        let at = match step {
            SideStep::Right => at.saturating_add(by),
            SideStep::Left => at.saturating_sub(by),
        };
        self.trends.cursor = (at < now).then_some(at.max(now.saturating_sub(span)));
    }

    /// To a connected part, or to another time.
    pub(super) fn move_sideways(&mut self, step: SideStep) {
        match self.screen() {
            Screen::History => self.move_history_cursor(step, 1),
            _ => self.select_part_beside(step),
        }
    }

    pub(super) fn drop_history_cursor(&mut self) {
        self.trends.cursor = None;
    }
}

/// In a fleet, all gateways that are reached, or the only one that is shown.
fn asked_gateways(latest: &Snapshot, scope: Option<&Arc<str>>) -> Vec<Option<Arc<str>>> {
    if latest.gateways.is_empty() {
        return vec![None];
    }
    let is_asked = |name: &Arc<str>| scope.is_none_or(|scope| scope == name);
    let reached = latest.gateways.iter().filter(|row| row.reach == GatewayReach::Reached);
    reached.map(|row| Arc::clone(&row.name)).filter(is_asked).map(Some).collect()
}

impl HistoryView {
    /// One report. In a fleet it is the sum of the gateways where clients come in, like its traffic, by one
    /// common clock.
    pub fn report(&self, shown: &Snapshot) -> Option<HistoryReport> {
        let is_outer = |name: &Option<Arc<str>>| {
            let row = shown.gateways.iter().find(|row| Some(&row.name) == name.as_ref());
            row.and_then(|row| row.heard.as_ref()).is_some_and(|facts| facts.roles.contains(&Half::Dmz))
        };
        let has_outer = self.reports.iter().any(|(name, report)| report.is_ok() && is_outer(name));
        let counted = self.reports.iter().filter(|(name, _)| !has_outer || is_outer(name));
        let taken = counted.filter_map(|(_, report)| report.as_ref().ok());
        let clock = self.clock();
        let reports = taken.map(|taken| shift(&taken.report, clock - taken.clock()));
        reports.fold(None, |sum: Option<HistoryReport>, report| match sum {
            Some(sum) if sum.step_seconds == report.step_seconds => Some(sum_reports(&sum, &report)),
            Some(sum) => Some(sum),
            None => Some(report),
        })
    }

    /// What each gateway of a fleet has kept of this time, by one clock for all; nothing where it was not measured, or
    /// why nothing is known of it.
    pub fn of_gateways(&self, time: Range<u64>) -> Vec<(&str, Result<Option<HistorySample>, &str>)> {
        let clock = self.clock();
        let of_gateway = |taken: &TakenReport| {
            let report = shift(&taken.report, clock - taken.clock());
            let then = report.samples.iter().filter(|sample| time.contains(&sample.at)).copied();
            then.reduce(|sum, sample| sum.followed_by(&sample))
        };
        let named = self.reports.iter().filter_map(|(name, report)| Some((name.as_deref()?, report)));
        named.map(|(name, report)| (name, report.as_ref().map(of_gateway).map_err(String::as_str))).collect()
    }

    /// What the clock of most gateways would have shown when the screen began.
    fn clock(&self) -> i128 {
        let mut clocks: Vec<_> = self.reports.values().flatten().map(TakenReport::clock).collect();
        clocks.sort_unstable();
        clocks.get(clocks.len() / 2).copied().unwrap_or_default()
    }

    /// Why there is nothing to show, if all have refused.
    pub fn refusal(&self) -> Option<&str> {
        self.reports.values().find_map(|report| report.as_ref().err()).map(String::as_str)
    }
}

/// The same by a clock that is this many seconds ahead, in whole steps. Time on the way does not count as a
/// difference.
fn shift(report: &HistoryReport, seconds: i128) -> HistoryReport {
    let step = i128::from(report.step_seconds.max(1));
    if seconds.abs() < DELAY_SECONDS.max(step) {
        return report.clone();
    }
    let seconds = seconds / step * step;
    let shifted = |at: u64| u64::try_from(i128::from(at) + seconds).unwrap_or(0);
    let mut report = report.clone();
    report.now = shifted(report.now);
    report.samples.iter_mut().for_each(|sample| sample.at = shifted(sample.at));
    report
}

fn sum_reports(one: &HistoryReport, other: &HistoryReport) -> HistoryReport {
    let mut samples: BTreeMap<u64, HistorySample> =
        one.samples.iter().map(|sample| (sample.at, *sample)).collect();
    for sample in &other.samples {
        samples.entry(sample.at).and_modify(|sum| *sum = sum.beside(sample)).or_insert(*sample);
    }
    HistoryReport {
        now: one.now.max(other.now),
        step_seconds: one.step_seconds,
        samples: samples.into_values().collect(),
    }
}
