//! Alerts as they are told: those of one cause are one, with their number.

use crate::{
    telemetry::{
        health::{Alert, AlertKind},
        snapshot::Snapshot,
    },
    text,
};

/// The first alert of a cause, and how many there are of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble<'a> {
    pub alert: &'a Alert,
    pub count: usize,
}

/// Worst first, as the snapshot has them.
pub fn troubles(snapshot: &Snapshot) -> Vec<Trouble<'_>> {
    let mut troubles: Vec<((AlertKind, String), Trouble<'_>)> = Vec::new();
    for alert in &snapshot.alerts {
        // What it is about stands first; the cause is what is said of it.
        let told = alert.text.strip_prefix(&alert.object).unwrap_or(&alert.text);
        let cause = (alert.kind, text::cause(told));
        match troubles.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, trouble)) => trouble.count += 1,
            None => troubles.push((cause, Trouble { alert, count: 1 })),
        }
    }
    troubles.into_iter().map(|(_, trouble)| trouble).collect()
}
