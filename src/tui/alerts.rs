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
        let cause = (alert.kind, text::cause(reported(alert)));
        match groups.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, group)) => group.count += 1,
            None => groups.push((cause, AlertGroup { alert, count: 1 })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// What is wrong, without the words before it that say where: the gateway, in a fleet, and what the alert is about.
fn reported(alert: &Alert) -> &str {
    let text = alert.text.as_str();
    let of_gateway = alert.gateway.as_deref().and_then(|name| {
        // Either `NAME: …`, as it reported it itself, or `gateway NAME …`, about one that is away.
        let after_name = text.strip_prefix("gateway ").unwrap_or(text).strip_prefix(name)?;
        Some(after_name.strip_prefix(": ").unwrap_or(after_name))
    });
    let text = of_gateway.unwrap_or(text);
    text.strip_prefix(&alert.object).unwrap_or(text)
}
