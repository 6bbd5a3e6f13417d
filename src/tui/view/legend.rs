//! What the columns of each screen mean, for the help. It is text for people: what is in a column is decided by the
//! file of its screen.

use crate::{
    profile::Mode,
    tui::{app::App, clients::SessionGrouping, screen::Screen},
};

/// Begins the meaning of a column that only a fleet's screen has.
pub const OF_A_FLEET: &str = "of a fleet: ";

/// Columns with their meaning.
type ColumnMeanings = &'static [(&'static str, &'static str)];

/// For the current screen, in the order in which they are drawn.
pub fn column_meanings(app: &App) -> Vec<(&'static str, ColumnMeanings)> {
    let is_direct = app.snapshot().mode == Mode::Direct;
    let sessions = match app.grouping() {
        SessionGrouping::None => ("Sessions", SESSIONS),
        SessionGrouping::ByClient => ("Clients", CLIENTS),
    };
    match app.screen() {
        Screen::Overview if app.is_fleet() => vec![("Gateways", GATEWAYS), sessions],
        Screen::Overview if is_direct => vec![("Services", SERVICES), sessions],
        Screen::Overview => vec![("Links", POOL), sessions],
        Screen::Pool if !is_direct => vec![("Links", POOL)],
        Screen::Pool | Screen::Services => vec![("Services", SERVICES)],
        Screen::Sessions => vec![sessions],
        Screen::Events => vec![("Events", EVENTS)],
        Screen::Profiles => vec![("Profiles", PROFILES)],
        Screen::Failures => vec![("Failures", FAILURES)],
        Screen::Gateways => vec![("Gateways", GATEWAYS)],
        Screen::Path => vec![("Path", PATH)],
        Screen::Doctor => vec![("Doctor", DOCTOR)],
        Screen::History => vec![("History", HISTORY)],
    }
}

pub const POOL: ColumnMeanings = &[
    ("GATEWAY", "of a fleet: whose they are"),
    ("STATE", "healthy: as many links as wanted; filling: fewer; STARVED: a client waits; DOWN: none"),
    ("HALF", "the half of a pair: dmz, or int for internal"),
    ("SERVICE", "what its links carry; if links are missing, the service whose clients wait"),
    ("PEER", "the other gateway, by its certificate, or where it is"),
    ("ADDRESS", "where it is"),
    ("NAME", "of a name that is followed: that name"),
    ("POOL", "its links: ready, being dialled, missing"),
    ("READY", "links that take sessions, of those wanted"),
    ("CARRY", "links that carry sessions and take no more"),
    ("SESS", "sessions on its links"),
    ("DIAL", "dials under way, or when the next is due"),
    ("WAIT", "clients that wait for a link"),
    ("MISS", "clients refused because no link was ready in time"),
    ("WAIT50", "median wait of the last minute's clients"),
    ("WAIT99", "99th percentile of that"),
    ("FAIL/M", "dials, handshakes and links that failed in the last minute"),
    ("FAIL", "failures since the start"),
    ("SPEAKS", "the protocol: portcullis/2, or socks/5"),
    ("RTT MS", "round trip in milliseconds, and its spread"),
    ("LAST ERROR", "why the last of those failed"),
];

pub const SESSIONS: ColumnMeanings = &[
    ("ID", "the same on both gateways; what `close` takes"),
    ("HALF", "the half of a pair: dmz, int for internal, or both"),
    ("AGE", "age, or duration if it has ended"),
    ("CLIENT", "the client's address"),
    ("SERVICE", "the requested service"),
    ("PEER", "the gateway that carries it"),
    ("GATEWAY", "of a fleet: the one that the client came to"),
    ("LINK", "of a fleet: the link that carries it, as that gateway counts"),
    ("INSIDE", "of a fleet: the gateway that carries it on"),
    ("WAITS", "of a fleet: how long it waited for a link, and how long its backend took"),
    ("BACKEND", "in a pair: where it goes"),
    ("UP/S", "bytes a second from the client, over the last second"),
    ("DOWN/S", "bytes a second to the client"),
    ("UP", "bytes from the client in all"),
    ("DOWN", "bytes to the client in all"),
    ("PHASE", "where it is, or each half; of an ended one its two letters and the reason"),
];

pub const CLIENTS: ColumnMeanings = &[
    ("CLIENT", "the client's address, without the port"),
    ("SESSIONS", "its open sessions that pass the filter"),
    ("WAITING", "those of them that wait for a link"),
    ("OLDEST", "since the first of them began"),
    ("UP/S", "bytes a second from the client, over the last second"),
    ("DOWN/S", "bytes a second to the client"),
    ("UP", "bytes from the client in these sessions"),
    ("DOWN", "bytes to the client"),
    ("SERVICES", "the requested services"),
];

pub const SERVICES: ColumnMeanings = &[
    ("GATEWAY", "of a fleet: whose it is"),
    ("STATE", "open, DRAINING, or what it lacks: links or a backend"),
    ("HALF", "the half of a pair: dmz, or int for internal"),
    ("SERVICE", "its name"),
    ("ACCEPT", "where its clients come in"),
    ("BACKEND", "where they go"),
    ("ACCEPT OR BACKEND", "the one in the dmz half, the other in the internal half"),
    ("OPEN", "sessions open now"),
    ("WAIT", "clients that are not carried yet"),
    ("TOTAL", "sessions in all"),
    ("REFUSED", "clients rejected"),
    ("UP/S", "bytes a second from clients, over the last second"),
    ("DOWN/S", "bytes a second to clients"),
    ("UP", "bytes from clients in all"),
    ("DOWN", "bytes to clients in all"),
    ("WHY", "what it lacks, in words"),
];

const EVENTS: ColumnMeanings =
    &[("time", "in UTC"), ("level", "INFO, WARN or ERROR"), ("text", "what happened; Enter tells all of it")];

pub const PROFILES: ColumnMeanings = &[
    ("PROFILE", "its name, as `switch` takes it"),
    ("MODE", "direct, forward or reverse"),
    ("HALVES", "which halves it holds"),
    ("VALID", "whether it is valid, or how many problems it has"),
    ("FORWARD", "its last forward check since this gateway started, and how long ago"),
    ("NOTE", "whether it runs now, its first problem or its services"),
];

pub const FAILURES: ColumnMeanings = &[
    ("COUNT", "sessions that failed of this cause since the gateway began"),
    ("END", "the two letters: who ended them, and when"),
    ("GATEWAY", "of a fleet: whose they are"),
    ("HALF", "the half of a pair: dmz, or int for internal"),
    ("SERVICE", "the requested service"),
    ("LAST", "since the last of them"),
    ("FIRST", "day and time of the first of them, in UTC"),
    ("LAST CLIENT", "whose the last of them was"),
    ("REASON", "of the last of them, with the cause"),
];

const HISTORY: ColumnMeanings = &[
    ("up, down", "bytes a second from clients and to them, the mean of each column"),
    ("sessions", "open at once, at most"),
    ("links", "that took sessions, at the least, of those wanted"),
    ("wait99", "99th percentile of the clients' wait for a link in a minute"),
    ("refused", "clients rejected in each column"),
];

const DOCTOR: ColumnMeanings = &[
    ("must", "clients feel it now, or will for certain"),
    ("should", "clients may feel it one day"),
    ("why", "how what was measured limits the gateway"),
    ("do", "what to change"),
];

const PATH: ColumnMeanings = &[
    ("clients", "all of them: sessions open, clients that wait, clients rejected"),
    ("services", "by name, at whichever gateways they are"),
    ("DMZ gateways", "where clients come in; one that is not shown itself is known by its links"),
    ("links", "all links of two gateways; its bytes are those of the sessions that are listed"),
    ("internal gateways", "where sessions go on to their backends"),
    ("backends", "of all services; behind a gateway that is not shown their addresses are not known"),
];

pub const GATEWAYS: ColumnMeanings = &[
    ("STATE", "its health, or that it cannot be reached, or says nothing"),
    ("GATEWAY", "as it is called here"),
    ("HALF", "which halves it runs"),
    ("MODE", "direct, forward or reverse"),
    ("READY", "whether clients should be sent there"),
    ("LINKS", "links that take sessions, of those wanted"),
    ("SESS", "sessions open now"),
    ("WAIT", "clients that are not carried yet"),
    ("UP/S", "bytes a second from clients"),
    ("DOWN/S", "bytes a second to clients"),
    ("SINCE", "how long it is reached, or is not"),
    ("VERSION", "of its program"),
    ("PROFILE", "what it runs"),
    ("TARGET", "where it was called"),
    ("WORST", "why it cannot be reached, or else its worst alert"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::view::{clients, failures, gateways, pool, profiles, services, sessions};

    #[test]
    fn every_column_is_explained_in_its_place() {
        fn check<K>(columns: &[crate::tui::view::table::TableColumn<K>], explained: ColumnMeanings) {
            let titles: Vec<_> =
                columns.iter().map(|column| column.title).filter(|title| !title.is_empty()).collect();
            let explained: Vec<_> = explained.iter().map(|(title, _)| *title).collect();
            assert_eq!(titles, explained);
        }
        check(&pool::COLUMNS, POOL);
        check(&sessions::COLUMNS, SESSIONS);
        check(&clients::COLUMNS, CLIENTS);
        check(&services::COLUMNS, SERVICES);
        check(&profiles::COLUMNS, PROFILES);
        check(&failures::COLUMNS, FAILURES);
        check(&gateways::COLUMNS, GATEWAYS);
    }
}
