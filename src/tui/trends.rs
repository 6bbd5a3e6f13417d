//! The last hours of the gateway on the screen, from the gateway's own history: what is requested from it, and
//! where the cursor is. The gateways of a fleet are asked one by one, and their answers are summed.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    doctor::{self, DoctorFinding},
    gateway::handle::CommandAnswer,
    profile::Half,
    record::ReplayProgress,
    telemetry::{
        history::{HistoryReport, HistoryRequest, HistorySample, unix_seconds},
        snapshot::{GatewayReach, Snapshot},
    },
    tui::{
        app::{App, Freshness},
        past_rows::PastRows,
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
const REFRESH_SECONDS: (f64, f64) = (3.0, 30.0);
/// How long a report may have been on its way.
const DELAY_SECONDS: i128 = 5;
/// How often a fleet is asked, where each request may go through a program.
const FLEET_REFRESH_SECONDS: (f64, f64) = (10.0, 60.0);
/// How many seconds a busy gateway may miss before they are a gap.
const MISSED_SECONDS_MAX: u64 = 2;
/// The doctor looks at whole minutes.
const DOCTOR_REFRESH_SECONDS: f64 = 60.0;

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

    fn request(self) -> HistoryRequest {
        HistoryRequest { step_seconds: self.seconds() / STEPS, steps: STEPS, rows_at: None }
    }

    fn longer(self) -> Self {
        Self((self.0 + 1).min(Self::ALL.len() - 1))
    }

    fn shorter(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The history as far as it is known.
#[derive(Debug)]
pub struct HistoryView {
    pub span: HistorySpan,
    /// The report of each gateway that has answered, or why it has not.
    reports: BTreeMap<Option<Arc<str>>, Result<TimedReport, String>>,
    /// By the clock of the snapshot's gateway; `None` if it should be requested at once.
    asked_at: Option<f64>,
    /// The selected time, in seconds since 1970; `None` for the newest.
    pub cursor: Option<u64>,
    /// What services and links were like there.
    pub(super) rows: Option<PastRows>,
    /// When the doctor's screen requested the last hour of each gateway, by the same clock.
    doctor_asked_at: BTreeMap<Option<Arc<str>>, f64>,
}

/// A report, and when it arrived, by the clock of the snapshot's gateway.
#[derive(Debug)]
struct TimedReport {
    report: HistoryReport,
    taken_at: u64,
    /// The next request was refused: the gateway may be away, which the snapshot only shows a moment later.
    is_last: bool,
}

/// The gateways that a chart sums up, and those whose newest report is in the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummedGateways {
    pub reported: usize,
    pub counted: usize,
}

impl TimedReport {
    /// What its gateway's clock would have shown when the screen started.
    fn clock(&self) -> i128 {
        i128::from(self.report.now) - i128::from(self.taken_at)
    }
}

impl Default for HistoryView {
    fn default() -> Self {
        Self {
            span: HistorySpan(0),
            reports: BTreeMap::new(),
            asked_at: None,
            cursor: None,
            rows: None,
            doctor_asked_at: BTreeMap::new(),
        }
    }
}

impl App {
    /// What to request now, and from whom; there is no message about it.
    pub fn history_requests(&mut self) -> Vec<(Option<Arc<str>>, HistoryRequest)> {
        let is_frozen = matches!(self.freshness(), Freshness::Frozen { .. });
        if let Some(progress) = self.replay_progress() {
            let whole_seconds = progress.whole.as_secs();
            return self
                .request_of_recording(whole_seconds)
                .map(|requested| (None, requested))
                .into_iter()
                .collect();
        }
        let asked = asked_gateways(self.latest(), self.scope());
        if is_frozen {
            return Vec::new();
        }
        match self.screen() {
            Screen::History => {
                let mut due = self.request_for_charts(asked);
                due.extend(self.request_for_rows());
                due
            }
            Screen::Doctor => self.request_for_doctor(asked),
            Screen::Overview | Screen::Path | Screen::Gateways | Screen::Pool => Vec::new(),
            Screen::Sessions | Screen::Services | Screen::Failures => Vec::new(),
            Screen::Events | Screen::Profiles => Vec::new(),
        }
    }

    /// Once for each span. The first is one that shows all of the recording, if there is one that long.
    fn request_of_recording(&mut self, whole_seconds: u64) -> Option<HistoryRequest> {
        if self.screen() != Screen::History || self.trends.asked_at.is_some() {
            return None;
        }
        let view = &mut self.trends;
        while view.reports.is_empty()
            && view.span.seconds() < whole_seconds
            && view.span != view.span.longer()
        {
            view.span = view.span.longer();
        }
        view.asked_at = Some(0.0);
        Some(view.span.request())
    }

    fn replay_progress(&self) -> Option<&ReplayProgress> {
        match self.attachment() {
            Attachment::Replay(progress) => Some(progress),
            Attachment::Own | Attachment::Attached(..) | Attachment::Fleet(_) => None,
        }
    }

    pub fn is_replay(&self) -> bool {
        self.replay_progress().is_some()
    }

    /// The selected time, in seconds since 1970; in a recording that is the time of what all screens show.
    pub fn history_cursor(&self) -> Option<u64> {
        match self.replay_progress() {
            Some(progress) => Some(unix_seconds(progress.at)),
            None => self.trends.cursor,
        }
    }

    /// Where the cursor goes in a recording: the player goes there, and all screens with it.
    pub(super) fn sought_time(&self, step: SideStep) -> Option<u64> {
        let progress = self.replay_progress().filter(|_| self.screen() == Screen::History)?;
        let (at, by) = (unix_seconds(progress.at), self.trends.span.seconds() / CURSOR_PARTS);
        Some(match step {
            SideStep::Right => at.saturating_add(by),
            SideStep::Left => at.saturating_sub(by),
        })
    }

    /// All at once, so that their steps end at the same time; at once too where one has not been asked yet.
    fn request_for_charts(
        &mut self,
        asked: Vec<Option<Arc<str>>>,
    ) -> Vec<(Option<Arc<str>>, HistoryRequest)> {
        let span = self.trends.span;
        let (soonest, latest) = if self.is_fleet() { FLEET_REFRESH_SECONDS } else { REFRESH_SECONDS };
        let again = (2.0 * span.seconds() as f64 / STEPS as f64).clamp(soonest, latest);
        let now = self.latest().uptime_seconds;
        let is_known = |name| self.trends.reports.contains_key(name);
        if is_recent(self.trends.asked_at, now, again) && asked.iter().all(is_known) {
            return Vec::new();
        }
        self.trends.asked_at = Some(now);
        self.drop_unknown_histories();
        asked.into_iter().map(|name| (name, span.request())).collect()
    }

    fn request_for_doctor(
        &mut self,
        asked: Vec<Option<Arc<str>>>,
    ) -> Vec<(Option<Arc<str>>, HistoryRequest)> {
        self.drop_unknown_histories();
        let now = self.latest().uptime_seconds;
        let mut due = asked;
        due.retain(|name| {
            let asked_at = self.trends.doctor_asked_at.get(name).copied();
            !is_recent(asked_at, now, DOCTOR_REFRESH_SECONDS)
        });
        self.trends.doctor_asked_at.extend(due.iter().map(|name| (name.clone(), now)));
        due.into_iter().map(|name| (name, doctor::LAST_HOUR)).collect()
    }

    /// Requests everything again, after another gateway has been chosen.
    pub(super) fn renew_histories(&mut self) {
        self.trends.asked_at = None;
        self.trends.doctor_asked_at.clear();
        self.drop_unknown_histories();
    }

    /// A gateway that is away keeps its charts, since the past stays the same without it. It has no findings.
    fn drop_unknown_histories(&mut self) {
        if self.is_replay() {
            return;
        }
        let known = known_gateways(self.latest(), self.scope());
        let asked = asked_gateways(self.latest(), self.scope());
        self.trends.reports.retain(|name, _| known.contains(name));
        self.trends.doctor_asked_at.retain(|name, _| asked.contains(name));
        self.lists.recent.retain(|finding| asked.contains(&finding.gateway));
    }

    /// Takes a gateway's answer to that.
    pub fn take_history(&mut self, name: Option<Arc<str>>, requested: HistoryRequest, answer: CommandAnswer) {
        if let Some(at) = requested.rows_at {
            return self.take_past_rows(name, at, answer);
        }
        let report = answer.into_history().map_err(|error| error.to_string());
        if requested == doctor::LAST_HOUR {
            // A gateway without a history has no such findings.
            let found =
                report.map(|report| doctor::find_in_last_hour(&report)).unwrap_or_default().into_iter();
            self.lists.recent.retain(|finding| finding.gateway != name);
            self.lists.recent.extend(found.map(|found| DoctorFinding { gateway: name.clone(), ..found }));
            return self.arrange();
        }
        if requested != self.trends.span.request() {
            // It is late: another span is shown by now.
            return;
        }
        let taken_at = self.latest().uptime_seconds as u64;
        let is_lost = self.lost_reason().is_some();
        let report = match (report, self.trends.reports.get_mut(&name)) {
            (Ok(report), _) => Ok(TimedReport { report, taken_at, is_last: false }),
            (Err(_), Some(Ok(taken))) if is_lost || !taken.is_last => return taken.is_last = true,
            (Err(why), _) => Err(why),
        };
        self.trends.reports.insert(name, report);
    }

    pub fn trends(&self) -> &HistoryView {
        &self.trends
    }

    pub(super) fn lengthen_history_span(&mut self) {
        self.set_history_span(self.trends.span.longer());
    }

    pub(super) fn shorten_history_span(&mut self) {
        self.set_history_span(self.trends.span.shorter());
    }

    fn set_history_span(&mut self, span: HistorySpan) {
        let view = &mut self.trends;
        view.span = span;
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
        if self.screen() == Screen::History {
            self.move_history_cursor(step, 1);
        } else {
            self.select_part_beside(step);
        }
    }

    pub(super) fn drop_history_cursor(&mut self) {
        self.trends.cursor = None;
    }
}

pub(super) fn is_recent(asked_at: Option<f64>, now: f64, again_seconds: f64) -> bool {
    asked_at.is_some_and(|at| (0.0..again_seconds).contains(&(now - at)))
}

/// In a fleet, all gateways that are reached, or the only one that is shown.
fn asked_gateways(latest: &Snapshot, scope: Option<&Arc<str>>) -> Vec<Option<Arc<str>>> {
    let mut names = known_gateways(latest, scope);
    let is_reached = |name: &Arc<str>| {
        latest.gateways.iter().any(|row| row.name == *name && row.reach == GatewayReach::Reached)
    };
    names.retain(|name| name.as_ref().is_none_or(is_reached));
    names
}

/// The gateways in scope, with those that are away.
fn known_gateways(latest: &Snapshot, scope: Option<&Arc<str>>) -> Vec<Option<Arc<str>>> {
    if latest.gateways.is_empty() {
        return vec![None];
    }
    let is_shown = |name: &Arc<str>| scope.is_none_or(|scope| scope == name);
    latest.gateways.iter().map(|row| Arc::clone(&row.name)).filter(is_shown).map(Some).collect()
}

/// Whether clients come in at this gateway of a fleet.
fn is_outer(shown: &Snapshot, name: &Option<Arc<str>>) -> bool {
    let row = shown.gateways.iter().find(|row| Some(&row.name) == name.as_ref());
    row.and_then(|row| row.heard.as_ref()).is_some_and(|facts| facts.halves.contains(&Half::Dmz))
}

impl HistoryView {
    /// One report. In a fleet it is the sum of the gateways where clients come in, like its traffic, by one
    /// common clock.
    pub fn report(&self, shown: &Snapshot) -> Option<HistoryReport> {
        let counted = self.counted(shown);
        // Other steps are of a time that was shown before, or of a gateway that keeps nothing as fine.
        let step = counted.iter().max_by_key(|(_, taken)| taken.taken_at)?.1.report.step_seconds;
        let clock = self.clock();
        let reports = counted.iter().filter(|(_, taken)| taken.report.step_seconds == step);
        let reports = reports.map(|(_, taken)| shift(&taken.report, clock - taken.clock()));
        let mut reports: Vec<_> = reports.collect();
        if reports.len() > 1 {
            align(&mut reports);
        }
        reports.into_iter().reduce(|sum, report| sum_reports(&sum, &report))
    }

    /// How many gateways of a fleet are in that sum; nothing where none of them is missing.
    pub fn summed_gateways(&self, shown: &Snapshot, scope: Option<&Arc<str>>) -> Option<SummedGateways> {
        let taken = self.counted(shown);
        let newest = taken.iter().max_by_key(|(_, taken)| taken.taken_at)?.1.report.step_seconds;
        let asked = asked_gateways(shown, scope);
        let is_new = |(name, taken): &&(&Option<Arc<str>>, &TimedReport)| {
            !taken.is_last && taken.report.step_seconds == newest && asked.contains(name)
        };
        let has_outer = taken.iter().any(|(name, _)| is_outer(shown, name));
        let known = known_gateways(shown, scope).into_iter();
        let counted = known.filter(|name| !has_outer || is_outer(shown, name)).count();
        let reported = taken.iter().filter(is_new).count();
        (reported < counted).then_some(SummedGateways { reported, counted })
    }

    /// The reports that are summed.
    fn counted(&self, shown: &Snapshot) -> Vec<(&Option<Arc<str>>, &TimedReport)> {
        let reported = self.reports.iter();
        let mut taken: Vec<_> =
            reported.filter_map(|(name, report)| Some((name, report.as_ref().ok()?))).collect();
        if taken.iter().any(|(name, _)| is_outer(shown, name)) {
            taken.retain(|(name, _)| is_outer(shown, name));
        }
        taken
    }

    /// What each gateway of a fleet has kept of this time, by one clock for all; nothing where it was not measured, or
    /// why nothing is known of it.
    pub fn of_gateways(&self, time: Range<u64>) -> Vec<(&str, Result<Option<HistorySample>, &str>)> {
        let clock = self.clock();
        let of_gateway = |taken: &TimedReport| {
            let report = shift(&taken.report, clock - taken.clock());
            let then = report.samples.iter().filter(|sample| time.contains(&sample.at)).copied();
            then.reduce(|sum, sample| sum.followed_by(&sample))
        };
        let named = self.reports.iter().filter_map(|(name, report)| Some((name.as_deref()?, report)));
        named.map(|(name, report)| (name, report.as_ref().map(of_gateway).map_err(String::as_str))).collect()
    }

    /// What the clock of most gateways would have shown when the screen began.
    fn clock(&self) -> i128 {
        let mut clocks: Vec<_> = self.reports.values().flatten().map(TimedReport::clock).collect();
        clocks.sort_unstable();
        clocks.get(clocks.len() / 2).copied().unwrap_or_default()
    }

    /// Why there is nothing to show, if all have refused.
    pub fn refusal(&self) -> Option<&str> {
        self.reports.values().find_map(|report| report.as_ref().err()).map(String::as_str)
    }
}

/// A report by a clock that is this many seconds ahead, in whole steps. Time on the way does not count as a
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

/// Gives reports by the second the same seconds, so that a sum of them has no dips of its own. A gateway measures
/// about once a second: two measurements may fall into one second, and none into the one before.
fn align(reports: &mut [HistoryReport]) {
    if reports.iter().any(|report| report.step_seconds != 1) {
        return;
    }
    for report in reports.iter_mut() {
        fill_missed_seconds(&mut report.samples);
    }
    // The same at both ends: where one report goes a moment further, its last seconds are not complete yet.
    let (begins, ends): (Vec<_>, Vec<_>) = reports
        .iter()
        .filter_map(|report| Some((report.samples.first()?.at, report.samples.last()?.at)))
        .unzip();
    let oldest = begins.iter().copied().min().unwrap_or_default();
    let newest = ends.iter().copied().max().unwrap_or_default();
    let first = begins.into_iter().filter(|at| at.abs_diff(oldest) <= MISSED_SECONDS_MAX).max();
    let last = ends.into_iter().filter(|at| at.abs_diff(newest) <= MISSED_SECONDS_MAX).min();
    let Some((first, last)) = first.zip(last) else { return };
    for report in reports.iter_mut() {
        report.samples.retain(|sample| (first..=last).contains(&sample.at));
    }
}

/// A second that was missed is like the one after it, which was measured over both. Whoever was refused is counted
/// there.
fn fill_missed_seconds(samples: &mut Vec<HistorySample>) {
    let mut filled: Vec<HistorySample> = Vec::with_capacity(samples.len());
    for sample in samples.drain(..) {
        let before = filled.last().map_or(sample.at, |last| last.at);
        if sample.at.saturating_sub(before) <= MISSED_SECONDS_MAX + 1 {
            let missed = before.saturating_add(1)..sample.at;
            filled.extend(missed.map(|at| HistorySample { at, refused: 0, wait_ms: None, ..sample }));
        }
        filled.push(sample);
    }
    *samples = filled;
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
        rows: None,
    }
}
