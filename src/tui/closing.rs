//! What is asked before sessions are closed: one, those of a client, or all that pass the filter.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    profile::Half,
    telemetry::snapshot::{SessionRow, Snapshot},
    tui::{
        app::{App, Overlay, Reaction},
        clients::{self, SessionGrouping},
        confirmation::Confirmation,
        filter::{ListedSession, SessionFilter},
    },
};

/// Names of sessions that one request has room for, with what stands around them.
const NAMES_BYTES_MAX: usize = 1000 * 1024;
const AROUND_NAME_BYTES: usize = 3;

impl App {
    /// The session of this id, or else what is under the cursor.
    pub(super) fn ask_close(&mut self, id: Option<&str>) {
        let shown = self.shown_snapshot();
        if id.is_none() && self.grouping() == SessionGrouping::ByClient {
            return match self.selected_client().map(str::to_owned) {
                Some(client) => self.ask_close_listed(&shown, Some(&client)),
                None => self.refuse("no client is selected; the arrows select one"),
            };
        }
        let found = match id {
            Some(id) => shown
                .sessions
                .iter()
                .find(|row| row.id == id || full_name(row) == id)
                .map(ListedSession::Open),
            None => self.selected_session(&shown),
        };
        match found {
            Some(ListedSession::Open(row)) => {
                let id = SessionNames::of(&shown).name(row);
                let (service, client) = (row.service.clone(), row.client.clone());
                self.overlay = Overlay::Ask(Confirmation::Close { id, service, client });
            }
            Some(ListedSession::Ended(row)) => self.refuse(format!("session {} has ended already", row.id)),
            None if id.is_some() => self.refuse("no open session is called so"),
            None => self.refuse("no session is selected; the arrows select one"),
        }
    }

    /// All that pass the filter, or this one, which is put into force so that they are seen.
    pub(super) fn ask_close_all(&mut self, filter: Option<&str>) -> Reaction {
        if let Some(filter) = filter {
            self.lists.order.filter = SessionFilter::parse(filter).unwrap_or_default();
            self.arrange_now();
        }
        let shown = self.shown_snapshot();
        self.ask_close_listed(&shown, None);
        Reaction::Redraw
    }

    fn ask_close_listed(&mut self, shown: &Snapshot, client: Option<&str>) {
        let order = &self.lists.order;
        let is_meant = |row: &&SessionRow| client.is_none_or(|client| clients::host(&row.client) == client);
        let rows: Vec<_> = order.open_rows(shown).filter(is_meant).collect();
        let names = SessionNames::of(shown);
        let sessions: Vec<_> = rows.iter().map(|row| names.name(row)).collect();
        let bytes: usize = sessions.iter().map(|name| name.len() + AROUND_NAME_BYTES).sum();
        let mut of_gateways = BTreeMap::new();
        for (row, name) in rows.iter().zip(&sessions) {
            if let Some(gateway) = &row.gateway {
                of_gateways.entry(Arc::clone(gateway)).or_insert_with(Vec::new).push(name.clone());
            }
        }
        if sessions.is_empty() {
            return self.refuse("no open session passes the filter");
        }
        if bytes > NAMES_BYTES_MAX {
            return self.refuse("these are too many to be named at once; narrow the filter");
        }
        let clients = rows.iter().map(|row| clients::host(&row.client)).collect::<HashSet<_>>().len();
        let filter = order.filter.text.clone();
        self.note_listed(of_gateways);
        self.overlay = Overlay::Ask(Confirmation::CloseAll {
            sessions,
            clients,
            client: client.map(str::to_owned),
            filter,
            not_listed: shown.sessions_left_out,
        });
    }
}

/// Names sessions for the gateway: by the id, and with the peer where two have the same.
struct SessionNames<'a> {
    /// The peers of the sessions of one half and id; `None`: several.
    peers: HashMap<(Half, &'a str), Option<&'a Option<String>>>,
}

impl<'a> SessionNames<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut peers = HashMap::new();
        for row in &snapshot.sessions {
            let of_id = peers.entry((row.role, &*row.id)).or_insert(Some(&row.peer));
            if *of_id != Some(&row.peer) {
                *of_id = None;
            }
        }
        Self { peers }
    }

    fn name(&self, row: &SessionRow) -> String {
        let is_shared = self.peers.get(&(row.role, &*row.id)).is_some_and(Option::is_none);
        if is_shared { full_name(row) } else { row.id.clone() }
    }
}

/// A session's id with the name of its peer, since two of them may use the same.
fn full_name(row: &SessionRow) -> String {
    match &row.peer {
        Some(peer) => format!("{peer}/{}", row.id),
        None => row.id.clone(),
    }
}
