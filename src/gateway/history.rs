//! What operators have asked: one line of the log for each, with who, what and what came of it, and a
//! notice beside it.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::handle::{Answer, Command};
use crate::telemetry::{notices::Notices, snapshot::NoticeLevel};

/// Somebody who has asked and waits for the answer; giving it writes the line.
pub struct Asker {
    pub by: String,
    /// `None` for a mere look, which is not written down.
    kind: Option<&'static str>,
    asked: String,
    began: Instant,
    notices: Arc<Notices>,
    answer: oneshot::Sender<Answer>,
}

impl Asker {
    pub fn new(
        command: &Command,
        by: String,
        notices: Arc<Notices>,
        answer: oneshot::Sender<Answer>,
    ) -> Self {
        Self { by, kind: kind(command), asked: asked(command), began: Instant::now(), notices, answer }
    }

    pub fn answer(self, answer: Answer) {
        if let Some((kind, (outcome, level, text))) = self.kind.zip(outcome(&answer)) {
            let seconds = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let (by, asked) = (&*self.by, &*self.asked);
            match level {
                NoticeLevel::Info => tracing::info!(kind, by, asked, outcome, seconds, text, "operator"),
                NoticeLevel::Warn | NoticeLevel::Error => {
                    tracing::warn!(kind, by, asked, outcome, seconds, text, "operator");
                }
            }
            self.notices.keep(level, format!("{asked}, asked by {by}: {text}"));
        }
        // An asker that has left needs no answer.
        let _ = self.answer.send(answer);
    }
}

/// The word of an outcome, how much it matters, and the outcome itself.
fn outcome(answer: &Answer) -> Option<(&'static str, NoticeLevel, String)> {
    Some(match answer {
        Answer::Status(_) | Answer::Profiles(_) | Answer::Planned(_) => return None,
        Answer::Done(text) => ("done", NoticeLevel::Info, text.clone()),
        Answer::Cut(text) => ("cut", NoticeLevel::Warn, text.clone()),
        Answer::Refused(text) => ("refused", NoticeLevel::Warn, text.clone()),
        Answer::Verified(report) if report.passed => ("passed", NoticeLevel::Info, report.line()),
        Answer::Verified(report) => ("failed", NoticeLevel::Warn, report.line()),
    })
}

fn kind(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::Status | Command::Profiles | Command::Plan { .. } => return None,
        Command::Drain { .. } => "drain",
        Command::Stop => "stop",
        Command::Resize { .. } => "resize",
        Command::Reload => "reload",
        Command::Switch { .. } => "switch",
        Command::Verify { .. } => "verify",
        Command::Dismiss { .. } => "dismiss",
        Command::Kill { .. } => "kill",
    })
}

/// What was asked, in words.
fn asked(command: &Command) -> String {
    match command {
        Command::Status => "status".into(),
        Command::Profiles => "profiles".into(),
        Command::Resize { prepared } => format!("{prepared} ready links"),
        Command::Plan { profile } => format!("plan of a switch to `{profile}`"),
        Command::Drain { service: None } => "drain".into(),
        Command::Drain { service: Some(service) } => format!("drain of `{service}`"),
        Command::Dismiss { peer } => format!("dismissal of `{peer}`"),
        Command::Stop => "stop".into(),
        Command::Reload => "reload".into(),
        Command::Switch { profile } => format!("switch to `{profile}`"),
        Command::Verify { .. } => "verify".into(),
        Command::Kill { session } => format!("kill of session `{session}`"),
    }
}
