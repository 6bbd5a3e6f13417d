//! What is left on the terminal when the dashboard has closed.

use std::io::{self, Write};

use crate::{
    telemetry::{snapshot::Snapshot, text},
    tui::{Ended, format},
};

/// A few lines; nothing where there is no terminal to print to.
pub fn print(ended: Ended, snapshot: &Snapshot) {
    let text = match ended {
        Ended::TerminalGone => return,
        Ended::Quit | Ended::GatewayStopped => told(snapshot),
        Ended::LeftHeadless => format!("{}The gateway goes on headless.\n", told(snapshot)),
    };
    let mut stdout = io::stdout().lock();
    // The summary is a courtesy: a terminal that does not take it ends nothing else.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn told(snapshot: &Snapshot) -> String {
    let totals = &snapshot.totals;
    format!(
        "portcullis {}: up {}, {} sessions, {} refused, {} up, {} down\n",
        text::clean(&snapshot.profile, PROFILE_CHARS),
        format::age(snapshot.uptime_seconds),
        totals.sessions,
        totals.refused,
        format::bytes(totals.bytes_up),
        format::bytes(totals.bytes_down),
    )
}

const PROFILE_CHARS: usize = 64;
