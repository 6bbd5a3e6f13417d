//! `status` as text: the facts of a snapshot in lines, for people and screen readers. It prints what the snapshot says
//! and judges nothing; `--json` prints the snapshot itself.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    doctor,
    telemetry::{
        failures::FailureRow,
        format,
        snapshot::{BackendRow, EndedRow, PoolRow, ServiceRow, SessionRow, Snapshot},
    },
    text,
};

/// How many sessions are printed; `--json` prints them all.
const SESSIONS_MAX: usize = 50;
/// How many ended sessions are printed, newest first.
const ENDED_MAX: usize = 10;
/// How many causes of failures are printed, the most recent first.
const FAILURES_MAX: usize = 10;
/// The longest alert, which may quote several errors.
const ALERT_CHARS_MAX: usize = 400;
/// The longest foreign text in a line.
const FIELD_CHARS_MAX: usize = 120;

pub fn status_text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_all(&mut out, snapshot);
    out.trim_end().to_owned()
}

fn write_all(out: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let totals = &snapshot.totals;
    writeln!(
        out,
        "profile {}  mode {}  phase {}  up {}  version {}",
        snapshot.profile,
        enum_word(&snapshot.mode),
        enum_word(&snapshot.phase),
        format::uptime(snapshot.uptime_seconds),
        snapshot.version
    )?;
    writeln!(
        out,
        "sessions {} open, {} waiting, {} in all, {} refused  bytes {} up, {} down  descriptors {} of {}",
        totals.sessions_open,
        totals.sessions_waiting,
        totals.sessions,
        totals.refused,
        format::bytes(totals.bytes_up),
        format::bytes(totals.bytes_down),
        snapshot.descriptors.used,
        snapshot.descriptors.limit
    )?;
    if let Some(health) = &snapshot.health {
        writeln!(out, "health {}", enum_word(health))?;
    }
    for alert in &snapshot.alerts {
        let text = text::clean_text(&alert.text, ALERT_CHARS_MAX);
        writeln!(out, "alert {text}, since {}", alert.since)?;
    }
    for (half, row) in &snapshot.confined {
        let Some(row) = row else { continue };
        let landlock = row.landlock.map_or("no Landlock".into(), |abi| format!("Landlock ABI {abi}"));
        writeln!(
            out,
            "locked: {} by seccomp, {landlock}; refuses {}{}",
            enum_word(half),
            row.refuses.join(", "),
            if row.unix.is_some() { "; any Unix socket may be dialled, for a backend is one" } else { "" }
        )?;
    }
    for address in &snapshot.listening {
        writeln!(out, "links come in at {address}")?;
    }
    for address in &snapshot.monitored_at {
        writeln!(out, "monitors ask at {address}")?;
    }
    snapshot.services.iter().try_for_each(|row| service(out, row))?;
    snapshot.pools.iter().try_for_each(|row| pool(out, row))?;
    if let Some(rejected) = doctor::last_rejected_link(snapshot) {
        let text = text::clean_text(&rejected.text, ALERT_CHARS_MAX);
        writeln!(out, "rejected the last link, at {}: {text}", rejected.time)?;
    }
    snapshot.sessions.iter().take(SESSIONS_MAX).try_for_each(|row| session(out, row))?;
    let more = snapshot.sessions.len().saturating_sub(SESSIONS_MAX) + snapshot.sessions_left_out;
    if more > 0 {
        writeln!(out, "and {more} more sessions")?;
    }
    snapshot.ended.iter().take(ENDED_MAX).try_for_each(|row| ended(out, row))?;
    snapshot.failures.iter().take(FAILURES_MAX).try_for_each(|row| failure(out, row))
}

fn service(out: &mut String, row: &ServiceRow) -> std::fmt::Result {
    let from = if row.accept.is_empty() { "links".into() } else { row.accept.join(", ") };
    let to = row.connect.as_deref().unwrap_or("a link");
    writeln!(
        out,
        "service {} ({}, {})  {from} -> {to}  {} open, {} waiting, {} in all, {} refused",
        row.name,
        enum_word(&row.half),
        enum_word(&row.phase),
        row.totals.sessions_open,
        row.totals.sessions_waiting,
        row.totals.sessions,
        row.totals.refused
    )?;
    row.backends
        .iter()
        .filter(|backend| row.backends.len() > 1 || backend.name.is_some())
        .try_for_each(|backend| self::backend(out, row, backend))
}

fn backend(out: &mut String, service: &ServiceRow, row: &BackendRow) -> std::fmt::Result {
    write!(
        out,
        "backend {} of {}  {}  {} open, {} in all, {} failed",
        row.address,
        service.name,
        row.state.label(),
        row.sessions_open,
        row.sessions,
        row.failures
    )?;
    if let Some(name) = &row.name {
        write!(out, "  of {name}")?;
    }
    match &row.last_error {
        Some(error) => writeln!(out, "  last error: {}", text::clean_text(error, FIELD_CHARS_MAX)),
        None => writeln!(out),
    }
}

fn for_bulk(row: &PoolRow) -> String {
    if row.bulk > 0 { format!(" ({} for bulk)", row.bulk) } else { String::new() }
}

fn pool(out: &mut String, row: &PoolRow) -> std::fmt::Result {
    write!(
        out,
        "pool {} ({})  peer {}  {}  {}  ready {}/{}  carrying {}{}  sessions {}  dialling {}  waiting {}  misses {}  failures {}",
        row.service,
        enum_word(&row.half),
        row.peer.as_deref().unwrap_or("-"),
        row.address.as_deref().unwrap_or("-"),
        enum_word(&row.state),
        row.ready,
        row.target,
        row.carrying,
        for_bulk(row),
        row.sessions,
        row.dialling,
        row.waiting,
        row.misses,
        row.failures
    )?;
    if let Some(name) = &row.name {
        write!(out, "  of {name}{}", if row.standby { ", stands by" } else { "" })?;
    }
    if let Some(protocol) = &row.protocol {
        write!(out, "  speaks {protocol}")?;
    }
    if let (Some(time), Some(spread)) = (row.round_trip_ms, row.round_trip_spread_ms) {
        write!(out, "  round trip {time:.1} ms, spread {spread:.1}")?;
    }
    match &row.last_error {
        Some(error) => writeln!(out, "  last error: {}", text::clean_text(error, FIELD_CHARS_MAX)),
        None => writeln!(out),
    }
}

fn session(out: &mut String, row: &SessionRow) -> std::fmt::Result {
    writeln!(
        out,
        "session {} ({})  {}  client {}  peer {}  {}  age {}  {} up, {} down",
        row.id,
        enum_word(&row.half),
        row.service,
        row.client,
        row.peer.as_deref().unwrap_or("-"),
        enum_word(&row.phase),
        format::uptime(row.age_seconds),
        format::bytes(row.bytes_up),
        format::bytes(row.bytes_down)
    )
}

fn ended(out: &mut String, row: &EndedRow) -> std::fmt::Result {
    writeln!(
        out,
        "ended {} ({})  {}  client {}  {} {}  {} ago",
        row.id,
        enum_word(&row.half),
        row.service,
        row.client,
        row.end,
        text::clean_text(&row.reason, FIELD_CHARS_MAX),
        format::uptime(row.ago_seconds)
    )
}

fn failure(out: &mut String, row: &FailureRow) -> std::fmt::Result {
    writeln!(
        out,
        "failed {} since {} ({})  {}  {} {}  last {} ago, client {}",
        row.count,
        row.first,
        enum_word(&row.half),
        row.service,
        row.end,
        text::clean_text(&row.reason, FIELD_CHARS_MAX),
        format::uptime(row.ago_seconds),
        row.client
    )
}

/// An enum's word, the same as in JSON.
fn enum_word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}
