//! Everything known about one pool, and a line for each of its links.

use super::{DetailLine, certificate, fact, gateway_line};
use crate::{
    telemetry::snapshot::{LinkRow, LinkState, PoolRow},
    tui::{
        app::App,
        format,
        view::{header::half_label, pool::state_word},
    },
};

/// A line for each link.
fn links(app: &App, pool: &PoolRow) -> Vec<DetailLine> {
    let of_link = |link: &LinkRow| {
        let state = match link.state {
            LinkState::Ready => "ready",
            LinkState::Full => "carrying",
            LinkState::Bulk => "bulk",
            LinkState::Leaving => "leaving",
        };
        let tls = match (&link.tls, &link.group) {
            (Some(tls), Some(group)) => format!("{tls} {group}"),
            (tls, _) => tls.clone().unwrap_or("no TLS".into()),
        };
        let address = app.addresses().text(link.address.as_deref().unwrap_or("-"));
        let age = format::age(link.age_seconds);
        let (id, open, all) = (link.id, link.sessions_open, link.sessions);
        format!("{id:>5} {age:>6} {state:<8} {open:>5} {all:>7} {address:<21} {tls}")
    };
    let head = if pool.links.is_empty() {
        "none is up".to_owned()
    } else {
        " LINK    AGE STATE     OPEN CARRIED ADDRESS               SECURED".into()
    };
    let rest = (pool.ready.saturating_add(pool.carrying)).saturating_sub(pool.links.len());
    let rest = (rest > 0 && !pool.links.is_empty()).then(|| fact(app, "", format!("and {rest} more")));
    let head = DetailLine { style: app.style.theme.title, ..fact(app, "links", head) };
    let links = pool.links.iter().map(|link| fact(app, "", of_link(link)));
    std::iter::once(head).chain(links).chain(rest).collect()
}

pub(super) fn pool_lines(app: &App, row: &PoolRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let addresses = app.addresses();
    let known = |text: &Option<String>| addresses.text(text.as_deref().unwrap_or("-"));
    let service = if row.service == "*" { "any service of this peer" } else { &row.service };
    let for_bulk = if row.bulk > 0 { format!(" ({} for bulk)", row.bulk) } else { String::new() };
    let mut facts: Vec<_> = gateway_line(app, row.gateway.as_deref()).into_iter().collect();
    facts.extend([
        fact("service", service.to_owned()),
        fact("half", half_label(row.half).to_owned()),
        DetailLine { style: app.style.theme.title, ..fact("state", pool_state(row)) },
        fact("peer", known(&row.peer)),
        fact("address", known(&row.address)),
        fact("speaks", known(&row.protocol)),
        fact("instance", known(&row.instance)),
        fact(
            "count",
            format!(
                "{} ready of {} wanted, {} carrying{}, {} dialling; {} on them",
                row.ready,
                row.target,
                row.carrying,
                for_bulk,
                row.dialling,
                format::count(row.sessions as u64, "session")
            ),
        ),
        fact(
            "clients",
            format!("{} wait, {} were refused because no link came in time", row.waiting, row.misses),
        ),
        fact("failures", format!("{} in the last minute, {} in all", row.failures_minute, row.failures)),
    ]);
    if row.name.is_some() {
        facts.insert(5 + usize::from(row.gateway.is_some()), fact("of name", known(&row.name)));
    }
    if let (Some(half), Some(most)) = (row.wait_p50_ms, row.wait_p99_ms) {
        let (half, most) = (format::wait(half), format::wait(most));
        facts.push(fact(
            "waits",
            format!("half of the last minute's clients at most {half}, 99 of 100 at most {most}"),
        ));
    }
    facts.extend(certificate(app, row));
    facts.extend(row.round_trip_ms.map(|ms| {
        fact("round trip", format!("{ms:.1} ms, give or take {:.1}", row.round_trip_spread_ms.unwrap_or(0.0)))
    }));
    facts.extend(
        row.retry_seconds.map(|seconds| fact("next dial", format!("in {}", format::whole_span(seconds)))),
    );
    facts.push(DetailLine {
        style: if row.last_error.is_some() { app.style.theme.warn } else { app.style.theme.plain },
        ..fact("last error", known(&row.last_error))
    });
    facts.extend(links(app, row));
    facts
}

fn pool_state(row: &PoolRow) -> String {
    let state = state_word(row).to_lowercase();
    match row.gone_seconds {
        Some(seconds) => format!("{state}, its last link ended {} ago", format::whole_span(seconds)),
        None => state,
    }
}
