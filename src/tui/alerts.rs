//! Alerts as they are shown: those of one cause are one, with their number.

use crate::{
    telemetry::{
        health::{Alert, AlertKind},
        snapshot::Snapshot,
    },
    text,
};

/// The first alert of a cause, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlertGroup<'a> {
    pub alert: &'a Alert,
    pub count: usize,
}

/// Worst first, as in the snapshot.
pub fn group_alerts(snapshot: &Snapshot) -> Vec<AlertGroup<'_>> {
    let mut groups: Vec<((AlertKind, String), AlertGroup<'_>)> = Vec::new();
    for alert in &snapshot.alerts {
        // The text begins with what the alert is about; the rest is the cause.
        let reported = alert.text.strip_prefix(&alert.object).unwrap_or(&alert.text);
        let cause = (alert.kind, text::cause(reported));
        match groups.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, group)) => group.count += 1,
            None => groups.push((cause, AlertGroup { alert, count: 1 })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
