//! The visible table as JSON: the listed rows, in their order, with addresses hidden if the screen hides them.
//! Anything that the screen masks is masked in the file as well.

use serde::Serialize;
use serde_json::Value;

use crate::{
    profile::Mode,
    tui::{
        app::App,
        clients::{ClientSessions, SessionGrouping},
        filter::ListedSession,
        lists,
        path::DrawnPath,
        privacy::AddressMasking,
        screen::Screen,
    },
};

/// One object: what is listed, for which gateway and when, and its rows.
pub fn table(app: &App) -> serde_json::Result<String> {
    let shown = app.snapshot();
    let rows = match app.screen() {
        Screen::Overview | Screen::Sessions if app.grouping() == SessionGrouping::ByClient => {
            app.lists().clients.rows().iter().map(client_value).collect()
        }
        Screen::Overview | Screen::Sessions => {
            let order = app.session_order();
            let rows = order.rows(shown, 0..order.len()).into_iter();
            rows.map(|row| match row {
                ListedSession::Open(row) => value(row),
                ListedSession::Ended(row) => value(row),
            })
            .collect::<serde_json::Result<Vec<_>>>()?
        }
        Screen::Pool if shown.mode != Mode::Direct => values(lists::pools(shown))?,
        Screen::Pool | Screen::Services => values(lists::services(shown))?,
        Screen::Events => values(lists::notices(shown))?,
        Screen::Profiles => values(app.profiles())?,
        Screen::Failures => values(lists::failures(shown))?,
        Screen::Gateways => values(&shown.gateways)?,
        Screen::History => values(app.trends().report(shown).map(|report| report.samples).iter().flatten())?,
        Screen::Doctor => values(&app.findings())?,
        Screen::Path => values(&DrawnPath::of(shown).parts)?,
    };
    let mut table = serde_json::json!({
        "table": app.screen().name().to_lowercase(),
        "profile": shown.profile,
        "uptime_seconds": shown.uptime_seconds,
        "filter": app.session_order().filter.text,
        "rows": rows,
    });
    mask_addresses(&mut table, app.addresses());
    serde_json::to_string_pretty(&table)
}

fn client_value(row: &ClientSessions) -> Value {
    serde_json::json!({
        "client": row.client,
        "sessions": row.sessions,
        "waiting": row.waiting,
        "services": row.services,
        "oldest_seconds": row.oldest_seconds,
        "rate_up": row.rate_up,
        "rate_down": row.rate_down,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
    })
}

fn value(row: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::to_value(row)
}

fn values<'a, T: Serialize + 'a>(rows: impl IntoIterator<Item = &'a T>) -> serde_json::Result<Vec<Value>> {
    rows.into_iter().map(value).collect()
}

/// A client's whole address is hidden; elsewhere every IP address is.
fn mask_addresses(value: &mut Value, addresses: AddressMasking) {
    match value {
        Value::String(text) => *text = addresses.text(text),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_addresses(value, addresses)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(client) if name == "client" => *client = addresses.client(client),
                    _ => mask_addresses(value, addresses),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
