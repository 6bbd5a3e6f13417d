//! Rate limits for log lines that outsiders can cause: a few of each kind per second in full, the rest as a
//! count, so that whoever sends a lot does not fill the log.
//!
//! The engine flushes the counts several times a second; nothing here waits or spawns. Refused sessions are counted apart,
//! in `refusals`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{end::EndedBy, log::LogEvent, snapshot::NoticeLevel};

const SECOND: Duration = Duration::from_secs(1);
/// Lines a second for sessions that ended well: on a gateway that is not busy, one for each.
const SERVED_PER_SECOND: u32 = 100;
/// Lines a second for every other kind: enough to see what is happening.
const LINES_PER_SECOND: u32 = 10;

/// The kind of a line. Lines of one kind share a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// By who ended it.
    SessionEnded(EndedBy),
    ProbeEnded,
    UnknownService,
    ClientRejected,
    LinkRejected,
    /// A dialled link has failed, or is up again.
    LinkChanged,
    RequestFailed,
}

impl LogKind {
    fn lines_per_second(self) -> u32 {
        match self {
            Self::SessionEnded(EndedBy::Nobody) => SERVED_PER_SECOND,
            Self::SessionEnded(_)
            | Self::ProbeEnded
            | Self::UnknownService
            | Self::ClientRejected
            | Self::LinkRejected
            | Self::LinkChanged
            | Self::RequestFailed => LINES_PER_SECOND,
        }
    }

    /// The event of such a line.
    pub fn event(self) -> LogEvent {
        match self {
            Self::SessionEnded(_) => LogEvent::SessionEnded,
            Self::ProbeEnded => LogEvent::ProbeEnded,
            Self::UnknownService => LogEvent::UnknownService,
            Self::ClientRejected => LogEvent::ClientRejected,
            Self::LinkRejected => LogEvent::LinkRejected,
            Self::LinkChanged => LogEvent::LinkChanged,
            Self::RequestFailed => LogEvent::RequestFailed,
        }
    }

    fn level(self) -> NoticeLevel {
        match self {
            Self::SessionEnded(_) | Self::ProbeEnded | Self::ClientRejected | Self::RequestFailed => {
                NoticeLevel::Info
            }
            Self::UnknownService | Self::LinkRejected | Self::LinkChanged => NoticeLevel::Warn,
        }
    }

    /// The plural for counting them.
    fn counted(self) -> &'static str {
        match self {
            Self::SessionEnded(_) => "more sessions ended",
            Self::ProbeEnded => "more probes ended",
            Self::UnknownService => "more times an unknown service was asked for",
            Self::ClientRejected => "more clients were rejected",
            Self::LinkRejected => "more links were rejected",
            Self::LinkChanged => "more links failed, or worked again",
            Self::RequestFailed => "more requests were not answered by the backend",
        }
    }

    /// The first letter of an end code, which says who ended them.
    fn by(self) -> char {
        match self {
            Self::SessionEnded(ended_by) => ended_by.letter(),
            Self::ProbeEnded
            | Self::UnknownService
            | Self::ClientRejected
            | Self::LinkRejected
            | Self::LinkChanged
            | Self::RequestFailed => '-',
        }
    }
}

/// The rate limits of one gateway's log.
#[derive(Debug, Default)]
pub struct RateLimitedLog {
    windows: Mutex<HashMap<LogKind, RateWindow>>,
}

/// A second, or longer if its count is not flushed yet, starting with the first of its lines.
#[derive(Debug)]
struct RateWindow {
    began: Instant,
    written: u32,
    counted: u64,
}

/// Lines that were not written.
#[derive(Debug, PartialEq)]
struct SuppressedCount {
    kind: LogKind,
    lines: u64,
    within: Duration,
}

impl RateLimitedLog {
    /// Whether a line of this kind may be written now. If not, it is counted.
    pub fn admits(&self, kind: LogKind) -> bool {
        self.admits_at(kind, Instant::now())
    }

    fn admits_at(&self, kind: LogKind, now: Instant) -> bool {
        let mut windows = self.lock();
        let window = windows.entry(kind).or_insert(RateWindow { began: now, written: 0, counted: 0 });
        if window.counted == 0 && now.saturating_duration_since(window.began) >= SECOND {
            *window = RateWindow { began: now, written: 0, counted: 0 };
        }
        let is_admitted = window.written < kind.lines_per_second();
        match is_admitted {
            true => window.written += 1,
            false => window.counted += 1,
        }
        is_admitted
    }

    /// Logs a client that gets no session.
    pub fn reject_client(&self, client: SocketAddr, why: &str) {
        if self.admits(LogKind::ClientRejected) {
            tracing::info!(event = %LogEvent::ClientRejected, %client, "client rejected: {why}");
        }
    }

    /// Writes the counts whose second is over.
    pub fn flush(&self) {
        self.write_left_out(SECOND);
    }

    /// Writes every count, at the end.
    pub fn flush_all(&self) {
        self.write_left_out(Duration::ZERO);
    }

    fn write_left_out(&self, after: Duration) {
        for SuppressedCount { kind, lines: more, within } in self.take_left_out(Instant::now(), after) {
            let (what, by, within) = (kind.counted(), kind.by(), within.as_secs_f32());
            match kind.level() {
                NoticeLevel::Info => {
                    tracing::info!(event = %LogEvent::LinesLeftOut, more, %by, "{what} within {within:.1}s")
                }
                NoticeLevel::Warn | NoticeLevel::Error => {
                    tracing::warn!(event = %LogEvent::LinesLeftOut, more, %by, "{what} within {within:.1}s");
                }
            }
        }
    }

    fn take_left_out(&self, now: Instant, after: Duration) -> Vec<SuppressedCount> {
        let mut windows = self.lock();
        let mut left_out = Vec::new();
        windows.retain(|&kind, window| {
            let within = now.saturating_duration_since(window.began);
            let is_over = within >= after;
            if is_over && window.counted > 0 {
                left_out.push(SuppressedCount { kind, lines: window.counted, within });
            }
            !is_over
        });
        left_out
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LogKind, RateWindow>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: LogKind = LogKind::SessionEnded(EndedBy::Client);
    const SERVED: LogKind = LogKind::SessionEnded(EndedBy::Nobody);

    #[test]
    fn a_flood_is_a_few_lines_and_a_count_and_costs_other_kinds_nothing() {
        let (log, start) = (RateLimitedLog::default(), Instant::now());
        let written = |kind, count, at| (0..count).filter(|_| log.admits_at(kind, at)).count();
        assert_eq!(written(CUT, 1000, start), 10);
        assert_eq!(written(SERVED, 1000, start), 100);
        assert_eq!(written(LogKind::LinkRejected, 3, start), 3);
        assert_eq!(log.take_left_out(start + SECOND / 2, SECOND), [], "the second is not over");
        // It lasts until it is flushed.
        let timed_out = start + SECOND + SECOND / 4;
        assert_eq!(written(CUT, 5, timed_out), 0);
        let mut left_out = log.take_left_out(timed_out, SECOND);
        left_out.sort_unstable_by_key(|left_out| left_out.lines);
        let of = |kind, lines| SuppressedCount { kind, lines, within: timed_out - start };
        assert_eq!(left_out, [of(SERVED, 900), of(CUT, 995)]);
        assert_eq!(log.take_left_out(timed_out + SECOND, SECOND), [], "nothing is left of it");
        assert_eq!(written(CUT, 3, timed_out), 3);
    }

    #[test]
    fn who_stays_below_the_limit_has_every_line() {
        let (log, start) = (RateLimitedLog::default(), Instant::now());
        let at = |number: u32| start + SECOND * number / 10;
        assert!((0..100).all(|number| log.admits_at(CUT, at(number))));
        assert_eq!(log.take_left_out(at(200), SECOND), []);
    }
}
