//! The text about the selected session, below the list.

use ratatui::style::Style;

use crate::{
    telemetry::snapshot::SessionRow,
    tui::{app::App, filter::ListedSession, format},
};

/// The selected row, with everything that its columns have no room for.
pub(super) fn describe(app: &App, row: ListedSession<'_>) -> (String, Style) {
    let addresses = app.addresses();
    let moved = |up: u64, down: u64| format!("{} up, {} down in all", format::bytes(up), format::bytes(down));
    let over = |peer: &Option<String>| peer.as_ref().map(|peer| format!(" over {}", addresses.text(peer)));
    let text = match row {
        ListedSession::Open(row) => {
            let inner = app.session_order().inner(app.snapshot(), row);
            let waited = row.waited_ms.map(|ms| format!(", waited {}", format::wait(ms)));
            let connected = row.connected_ms.map(|ms| format!(", connected in {}", format::wait(ms)));
            let inside = inner.filter(|inner| inner.gateway.is_some()).and_then(|inner| inner.connected_ms);
            let inside = inside.map(|ms| format!(", its backend inside in {}", format::wait(ms)));
            format!(
                "{} {} to {}{}: {}{}{}{}",
                row.id,
                addresses.client(&row.client),
                row.service,
                between(row, inner).map(|path| addresses.text(&path)).or(over(&row.peer)).unwrap_or_default(),
                moved(row.bytes_up, row.bytes_down),
                waited.unwrap_or_default(),
                connected.unwrap_or_default(),
                inside.unwrap_or_default()
            )
        }
        ListedSession::Ended(row) => format!(
            "{} {} to {}{}: {} {}; {}",
            row.id,
            addresses.client(&row.client),
            row.service,
            over(&row.peer).unwrap_or_default(),
            row.end,
            addresses.text(&row.reason),
            moved(row.bytes_up, row.bytes_down)
        ),
    };
    (text, app.style.theme.plain)
}

/// From which gateway of a fleet to which, and through which link of the first.
fn between(row: &SessionRow, inner: Option<&SessionRow>) -> Option<String> {
    let (outer, inside) = (row.gateway.as_ref()?, inner?.gateway.as_ref()?);
    let link = row.via.map(|link| format!(" by link {link}")).unwrap_or_default();
    Some(format!(" over {outer}{link} to {inside}"))
}
