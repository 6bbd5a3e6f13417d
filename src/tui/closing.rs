//! The questions before sessions are closed: one session, those of a client, all that pass the filter, or, by
//! draining, those of a service or of a gateway. In a fleet, the numbers are those of the gateway that the
//! question is for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    profile::Half,
    telemetry::snapshot::{SessionRow, Snapshot},
    tui::{
        app::{App, Overlay, UpdateResult},
        clients::{self, SessionGrouping},
        confirmation::Confirmation,
        filter::{ListedSession, SessionFilter},
        fleet::is_of,
    },
};

/// Room for the names of sessions in one request, without what surrounds them.
const NAMES_BYTES_MAX: usize = 1000 * 1024;
const AROUND_NAME_BYTES: usize = 3;

impl App {
    /// The session with this id, or else the selected one.
    pub(super) fn ask_close(&mut self, id: Option<&str>) {
        let shown = self.shown_snapshot();
        if id.is_none() && self.grouping() == SessionGrouping::ByClient {
            return match self.selected_client().map(str::to_owned) {
                Some(client) => self.ask_close_listed(&shown, Some(&client)),
                None => self.refuse("no client is selected; the arrows select one"),
            };
        }
        let found = match id {
            Some(id) => self.named_session(&shown, id).map(ListedSession::Open),
            None => self.selected_session(&shown),
        };
        match found {
            Some(ListedSession::Open(row)) => {
                let id = SessionNames::of(&shown).name(row);
                let (service, client) = (row.service.clone(), row.client.clone());
                self.overlay = Overlay::question(Confirmation::Close { id, service, client });
            }
            Some(ListedSession::Ended(row)) => self.refuse(format!("session {} has ended already", row.id)),
            None if id.is_some() => self.refuse("no open session is called so"),
            None => self.refuse("no session is selected; the arrows select one"),
        }
    }

    /// The open session with this name; if there are two, that of the chosen gateway.
    fn named_session<'a>(&self, shown: &'a Snapshot, id: &str) -> Option<&'a SessionRow> {
        let chosen = self.selected_gateway(shown);
        let rows = || shown.sessions.iter().filter(|row| row.id == id || full_name(row) == id);
        rows().find(|row| row.gateway == chosen).or_else(|| rows().min_by_key(|row| row.half))
    }

    pub(super) fn ask_stop(&mut self) {
        let shown = self.shown_snapshot();
        let chosen = self.selected_gateway(&shown);
        let row = shown.gateways.iter().find(|row| Some(&row.name) == chosen.as_ref());
        let sessions_open = match row.and_then(|row| row.heard.as_ref()) {
            Some(facts) => facts.sessions_open.saturating_add(facts.sessions_waiting),
            None => self.latest().totals.open_and_waiting(),
        };
        self.overlay = Overlay::question(Confirmation::Stop { sessions_open });
    }

    pub(super) fn ask_drain(&mut self, service: Option<&str>) {
        let shown = self.shown_snapshot();
        let service = service.map(str::to_owned).or_else(|| self.selected_service(&shown));
        let Some(service) = service else {
            return self.refuse("no service is selected; the arrows select one");
        };
        let gateway = drained_gateway(&shown, &service, self.selected_gateway(&shown).as_ref());
        let rows = shown.services.iter().filter(|row| row.name == service);
        let open =
            rows.filter(|row| is_of(gateway.as_ref(), &row.gateway)).map(|row| row.totals.sessions_open);
        // In a pair, both halves count a session.
        let Some(sessions_open) = open.max() else {
            return self.refuse(format!("no service is called {service}"));
        };
        self.overlay = Overlay::question(Confirmation::Drain { service, sessions_open });
    }

    /// All that pass the filter, or this one, which is applied so that they are visible.
    pub(super) fn ask_close_all(&mut self, filter: Option<&str>) -> UpdateResult {
        if let Some(filter) = filter {
            self.lists.order.filter = SessionFilter::parse(filter).unwrap_or_default();
            self.arrange_now();
        }
        let shown = self.shown_snapshot();
        self.ask_close_listed(&shown, None);
        UpdateResult::Redraw
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
        self.overlay = Overlay::question(Confirmation::CloseAll {
            sessions,
            clients,
            client: client.map(str::to_owned),
            filter,
            not_listed: shown.sessions_left_out,
        });
    }
}

/// The gateway of a fleet that has the service: the chosen one if it has it, or the only one that does.
pub(super) fn drained_gateway(
    shown: &Snapshot,
    service: &str,
    chosen: Option<&Arc<str>>,
) -> Option<Arc<str>> {
    let rows = shown.services.iter().filter(|row| row.name == service);
    let mut names: BTreeSet<_> = rows.filter_map(|row| row.gateway.as_ref()).collect();
    match chosen.filter(|name| names.contains(name)) {
        Some(name) => Some(Arc::clone(name)),
        None if names.len() == 1 => names.pop_first().cloned(),
        None => None,
    }
}

/// Names sessions for the gateway: by id, and with the peer if two have the same id.
struct SessionNames<'a> {
    /// The peers of the sessions by gateway, half and id; `None` if there are several.
    peers: HashMap<IdPosition<'a>, Option<&'a Option<String>>>,
}

/// A gateway, one half of it, and an id there.
type IdPosition<'a> = (Option<&'a Arc<str>>, Half, &'a str);

impl<'a> SessionNames<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut peers = HashMap::new();
        for row in &snapshot.sessions {
            let of_id = peers.entry((row.gateway.as_ref(), row.half, &*row.id)).or_insert(Some(&row.peer));
            if *of_id != Some(&row.peer) {
                *of_id = None;
            }
        }
        Self { peers }
    }

    fn name(&self, row: &SessionRow) -> String {
        let key = (row.gateway.as_ref(), row.half, &*row.id);
        let is_shared = self.peers.get(&key).is_some_and(Option::is_none);
        if is_shared { full_name(row) } else { row.id.clone() }
    }
}

/// A session's id with its peer's name, since two peers may use the same id.
fn full_name(row: &SessionRow) -> String {
    match &row.peer {
        Some(peer) => format!("{peer}/{}", row.id),
        None => row.id.clone(),
    }
}
