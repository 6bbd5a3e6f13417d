//! The notices for operators about the names that are followed.

use crate::{
    net::dns::{
        name_rules::LookupAnswer,
        name_watch::{NameReport, NameUpdate},
    },
    telemetry::{log::LogEvent, notices::NoticeLog},
};

/// Reports what a look-up has found.
pub fn report_update<A: LookupAnswer>(notices: &NoticeLog, name: &str, event: &NameUpdate<A>) {
    for report in &event.lines {
        let line = format!("name {name}: {report}");
        match report {
            NameReport::Unanswered(_) => notices.warn(LogEvent::NameUnanswered.line(line)),
            NameReport::AnsweredAgain { .. } => notices.info(LogEvent::NameAnswered.line(line)),
            NameReport::Unusable(_) | NameReport::TooMany(..) => {
                notices.warn(LogEvent::NameLeftOut.line(line));
            }
        }
    }
    if !event.change.is_empty() {
        notices.info(LogEvent::NameChanged.line(format!("name {name}: {}", event.change)));
    }
}
