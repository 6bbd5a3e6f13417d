//! The most recent lines that deserve an operator's attention. They are written to the log as well.
//!
//! Lines with the same cause that follow one another soon are shown as one line with a count, the latest of
//! them, so that a flood of one problem does not displace the others.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    link_cause::LinkCause,
    log::{self, NoticeLine},
    rate_limited::{LogKind, RateLimitedLog},
    snapshot::{Notice, NoticeLevel},
};
use crate::text;

/// How many lines are kept for the screen.
const KEPT_MAX: usize = 200;
/// An older line with the same cause stays separate.
const MERGE_WINDOW: Duration = Duration::from_secs(600);
/// The longest text of a line; parts of it come from the other side.
const TEXT_CHARS_MAX: usize = 400;

/// How many different things of one kind are reported.
const ONCE_MAX: usize = 64;

/// Reports each thing once, however often it is seen.
#[derive(Debug, Default)]
pub struct ReportOnce(Mutex<HashSet<String>>);

impl ReportOnce {
    /// Whether it should be reported now. When many things were reported already, new ones are not.
    pub fn is_first(&self, thing: &str) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reported.len() < ONCE_MAX && !reported.contains(thing) && reported.insert(thing.to_owned())
    }
}

/// The latest line of one cause.
#[derive(Debug)]
struct KeptNotice {
    notice: Notice,
    cause: String,
    count: u64,
    at: Instant,
}

#[derive(Debug, Default)]
pub struct NoticeLog {
    kept: Mutex<VecDeque<KeptNotice>>,
    limited: Arc<RateLimitedLog>,
}

impl NoticeLog {
    pub fn info(&self, line: impl Into<NoticeLine>) {
        self.push(NoticeLevel::Info, line.into());
    }

    pub fn warn(&self, line: impl Into<NoticeLine>) {
        self.push(NoticeLevel::Warn, line.into());
    }

    pub fn error(&self, line: impl Into<NoticeLine>) {
        self.push(NoticeLevel::Error, line.into());
    }

    /// Like [`NoticeLog::warn_limited`], for good news.
    pub fn info_limited(&self, kind: LogKind, text: impl Into<String>) {
        if self.limited.admits(kind) {
            self.info(kind.event().line(text));
        }
    }

    /// Writes a line that somebody outside can cause, as long as there are not too many of its kind.
    pub fn warn_limited(&self, kind: LogKind, text: impl Into<String>) {
        if self.limited.admits(kind) {
            self.warn(kind.event().line(text));
        }
    }

    /// Warns of a rejected link, at a bounded rate.
    pub fn warn_rejected_link(&self, cause: LinkCause, text: impl Into<String>) {
        if self.limited.admits(LogKind::LinkRejected) {
            let line = LogKind::LinkRejected.event().line(text);
            self.push(NoticeLevel::Warn, NoticeLine { rejected_link: Some(cause), ..line });
        }
    }

    /// The rate limits for such lines that do not concern operators.
    pub fn limited(&self) -> &Arc<RateLimitedLog> {
        &self.limited
    }

    /// Oldest first, with a count after a repeated line.
    pub fn all(&self) -> Vec<Notice> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let with_count = |KeptNotice { notice, count, .. }: &KeptNotice| match count {
            1 => notice.clone(),
            _ => Notice { text: format!("{} ({count}x)", notice.text), ..notice.clone() },
        };
        kept.iter().map(with_count).collect()
    }

    fn push(&self, level: NoticeLevel, line: NoticeLine) {
        let NoticeLine { event, text: line, rejected_link } = line;
        let line = text::clean_text(&line, TEXT_CHARS_MAX);
        match level {
            NoticeLevel::Info => tracing::info!(%event, "{line}"),
            NoticeLevel::Warn => tracing::warn!(%event, "{line}"),
            NoticeLevel::Error => tracing::error!(%event, "{line}"),
        }
        self.keep(level, line, rejected_link);
    }

    /// Keeps a line that is in the log already.
    pub fn push_logged(&self, level: NoticeLevel, line: String) {
        self.keep(level, line, None);
    }

    fn keep(&self, level: NoticeLevel, line: String, rejected_link: Option<LinkCause>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (cause, at) = (text::cause(&line), Instant::now());
        let is_same = |kept: &KeptNotice| {
            kept.notice.level == level && kept.cause == cause && at.duration_since(kept.at) < MERGE_WINDOW
        };
        let same = kept.iter().rposition(is_same);
        let count = same.and_then(|index| kept.remove(index)).map_or(1, |kept| kept.count + 1);
        let notice = Notice { gateway: None, time: log::utc_now(), level, text: line, rejected_link };
        kept.push_back(KeptNotice { notice, cause, count, at });
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_counted_not_kept_again() {
        let notices = NoticeLog::default();
        for _ in 0..3 {
            notices.warn("link lost");
            notices.warn("backend refused");
        }
        let texts: Vec<_> = notices.all().into_iter().map(|notice| notice.text).collect();
        assert_eq!(texts, ["link lost (3x)", "backend refused (3x)"]);
    }

    #[test]
    fn the_oldest_line_gives_way() {
        let notices = NoticeLog::default();
        for number in 0..KEPT_MAX + 5 {
            notices.info(format!("line-{number}"));
        }
        assert_eq!(notices.all().len(), KEPT_MAX);
        assert_eq!(notices.all()[0].text, "line-5");
    }
}
