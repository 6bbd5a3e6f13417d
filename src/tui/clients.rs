//! The open sessions by client: who has how many, and what they move.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use crate::{
    telemetry::snapshot::{SessionPhase, SessionRow, Snapshot},
    tui::order::{SessionOrder, SortColumn},
};

/// Whether the list of sessions has a row for each session or for each client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionGrouping {
    #[default]
    None,
    ByClient,
}

/// The sessions of one client that pass the filter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientSessions {
    /// Its address without the port.
    pub client: String,
    pub sessions: u64,
    /// How many of them wait for a link.
    pub waiting: u64,
    pub services: BTreeSet<String>,
    pub rate_up: u64,
    pub rate_down: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub oldest_seconds: f64,
}

/// A row for each client, in the order of the session list.
#[derive(Debug, Default)]
pub struct ClientList {
    rows: Vec<ClientSessions>,
    /// The line of each client when the rows were last sorted, and when that was.
    lines: HashMap<String, usize>,
    sorted_at_seconds: Option<f64>,
}

impl ClientList {
    /// Groups the listed sessions. Rows are sorted when the sessions are, and keep their places in between.
    pub fn arrange(&mut self, snapshot: &Snapshot, order: &SessionOrder) {
        let mut clients: HashMap<&str, ClientSessions> = HashMap::new();
        for row in order.open_rows(snapshot) {
            let client = host(&row.client);
            let of_client = clients
                .entry(client)
                .or_insert_with(|| ClientSessions { client: client.to_owned(), ..ClientSessions::default() });
            of_client.add(row);
        }
        self.rows = clients.into_values().collect();
        if self.sorted_at_seconds == order.sorted_at_seconds() {
            let lines = &self.lines;
            let line = |row: &ClientSessions| lines.get(&row.client).copied().unwrap_or(usize::MAX);
            self.rows.sort_by(|a, b| line(a).cmp(&line(b)).then_with(|| a.client.cmp(&b.client)));
            return;
        }
        self.rows.sort_by(|a, b| {
            let rows = compare(order.column, a, b);
            if order.is_flipped { rows.reverse() } else { rows }
        });
        self.lines = self.rows.iter().enumerate().map(|(line, row)| (row.client.clone(), line)).collect();
        self.sorted_at_seconds = order.sorted_at_seconds();
    }

    pub fn rows(&self) -> &[ClientSessions] {
        &self.rows
    }

    pub fn find(&self, client: &str) -> Option<&ClientSessions> {
        self.rows.iter().find(|row| row.client == client)
    }
}

impl ClientSessions {
    fn add(&mut self, row: &SessionRow) {
        self.sessions += 1;
        self.waiting += u64::from(row.phase == SessionPhase::Waiting);
        if !self.services.contains(&row.service) {
            self.services.insert(row.service.clone());
        }
        self.rate_up = self.rate_up.saturating_add(row.rate_up);
        self.rate_down = self.rate_down.saturating_add(row.rate_down);
        self.bytes_up = self.bytes_up.saturating_add(row.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(row.bytes_down);
        self.oldest_seconds = self.oldest_seconds.max(row.age_seconds);
    }

    fn rate(&self) -> u64 {
        self.rate_up.saturating_add(self.rate_down)
    }
}

/// "Less" means higher up, as in the column of the sessions.
fn compare(column: SortColumn, a: &ClientSessions, b: &ClientSessions) -> Ordering {
    let most = |of: fn(&ClientSessions) -> u64| of(b).cmp(&of(a));
    match column {
        SortColumn::Waiting => {
            let key = |row: &ClientSessions| Reverse((row.waiting, row.sessions, row.rate()));
            key(a).cmp(&key(b))
        }
        SortColumn::Busiest => most(ClientSessions::rate),
        SortColumn::Age => b.oldest_seconds.total_cmp(&a.oldest_seconds),
        SortColumn::Client => a.client.cmp(&b.client),
        SortColumn::Service => a.services.cmp(&b.services),
        SortColumn::RateUp => most(|row| row.rate_up),
        SortColumn::RateDown => most(|row| row.rate_down),
        SortColumn::Up => most(|row| row.bytes_up),
        SortColumn::Down => most(|row| row.bytes_down),
    }
    .then_with(|| b.sessions.cmp(&a.sessions))
    .then_with(|| a.client.cmp(&b.client))
}

/// A client's address without its port; the whole text if it is not an address.
pub fn host(client: &str) -> &str {
    let end = client.rfind(':').filter(|_| client.parse::<SocketAddr>().is_ok()).unwrap_or(client.len());
    client[..end].trim_start_matches('[').trim_end_matches(']')
}

/// The listed sessions of one client.
pub fn sessions_of<'a>(
    order: &SessionOrder,
    snapshot: &'a Snapshot,
    client: &str,
) -> impl Iterator<Item = &'a SessionRow> {
    order.open_rows(snapshot).filter(move |row| host(&row.client) == client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_address_without_the_port() {
        for (client, expected) in [
            ("192.0.2.7:50000", "192.0.2.7"),
            ("[2001:db8::7]:50000", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("192.0.2.7", "192.0.2.7"),
            ("a name:80", "a name:80"),
            ("", ""),
        ] {
            assert_eq!(host(client), expected);
        }
    }
}
