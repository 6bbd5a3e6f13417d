//! What services and links were like where the cursor of the history stands, asked of a running gateway: of the only
//! one, or of the one whose rows are shown. A recording moves all screens instead.

use std::sync::Arc;

use crate::{
    gateway::handle::CommandAnswer,
    telemetry::{history::HistoryRequest, history_rows::MinuteRow},
    tui::{app::App, trends},
};

/// How soon a gateway is asked again that has not answered with rows.
const RETRY_SECONDS: f64 = 10.0;

/// The rows at one time, or why there are none.
#[derive(Debug)]
pub struct PastRows {
    of: Option<Arc<str>>,
    at: u64,
    rows: Result<Vec<MinuteRow>, String>,
    /// By the clock of the snapshot's gateway.
    taken_at: f64,
}

impl App {
    /// Asks for the rows at the cursor, once for each minute and gateway, and again where there was no answer.
    pub(super) fn request_for_rows(&self) -> Option<(Option<Arc<str>>, HistoryRequest)> {
        let (of, at) = (self.gateway_of_rows()?, self.minute_at_cursor()?);
        let now = self.latest().uptime_seconds;
        let is_answer =
            |rows: &PastRows| rows.rows.is_ok() || trends::is_recent(Some(rows.taken_at), now, RETRY_SECONDS);
        let known = self.trends.rows.as_ref().filter(|rows| (&rows.of, rows.at) == (&of, at));
        (!known.is_some_and(is_answer))
            .then_some((of, HistoryRequest { step_seconds: 60, steps: 1, rows_at: Some(at) }))
    }

    pub(super) fn take_past_rows(&mut self, of: Option<Arc<str>>, at: u64, answer: CommandAnswer) {
        let report = answer.into_history().map_err(|error| error.to_string());
        let rows = report.map(|report| report.rows.unwrap_or_default().rows);
        // The cursor may have moved on meanwhile.
        if self.minute_at_cursor() == Some(at) {
            self.trends.rows = Some(PastRows { of, at, rows, taken_at: self.latest().uptime_seconds });
        }
    }

    /// The rows at the cursor, if they have arrived.
    pub fn past_rows(&self) -> Option<Result<&[MinuteRow], &str>> {
        let (of, at) = (self.gateway_of_rows()?, self.minute_at_cursor()?);
        let rows = self.trends.rows.as_ref().filter(|rows| (&rows.of, rows.at) == (&of, at))?;
        Some(rows.rows.as_deref().map_err(String::as_str))
    }

    fn minute_at_cursor(&self) -> Option<u64> {
        // Up to its end: the rows are taken when a minute begins.
        let at = self.history_cursor().filter(|_| !self.is_replay())?;
        Some((at / 60 * 60).saturating_add(59))
    }

    /// Nobody in particular, while several gateways are shown.
    fn gateway_of_rows(&self) -> Option<Option<Arc<str>>> {
        match self.is_fleet() {
            true => self.scope().cloned().map(Some),
            false => Some(None),
        }
    }
}
