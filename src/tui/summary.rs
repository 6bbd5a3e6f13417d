//! What stays on the terminal after the dashboard has closed: a few lines of plain text that can be pasted into
//! a mail.

use std::io::{self, Write};

use crate::{
    profile::Mode,
    telemetry::{
        health::Health,
        snapshot::{GatewayPhase, Snapshot},
    },
    tui::{ScreenEnd, app::App, format, health::links_ready, source::Attachment},
};

/// A few lines; nothing if there is no terminal to print to.
pub fn print(ended: ScreenEnd, app: &App) {
    if ended == ScreenEnd::TerminalGone {
        return;
    }
    let mut stdout = io::stdout().lock();
    // The summary is a courtesy: if the terminal does not take it, nothing else is affected.
    let _ = stdout.write_all(summary_text(ended, app).as_bytes()).and_then(|()| stdout.flush());
}

/// One line about a stop that is under way.
pub fn print_stopping(snapshot: &Snapshot) {
    let open = snapshot.totals.open_and_waiting();
    let left = snapshot.cut_in_seconds.unwrap_or_default();
    let sessions = if open == 1 { "1 session is".into() } else { format!("{open} sessions are") };
    let line = format!("stopping: {sessions} open, cut in {left:.0} s; Ctrl-C cuts now\n");
    let mut stdout = io::stdout().lock();
    // A courtesy as well.
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
}

/// With addresses hidden, and without colours, if the screen was like that.
fn summary_text(ended: ScreenEnd, app: &App) -> String {
    let snapshot = app.latest();
    let totals = &snapshot.totals;
    let peak = |up: bool| snapshot.traffic.iter().map(|s| if up { s.up } else { s.down }).max().unwrap_or(0);
    let mut lines = vec![
        format!(
            "portcullis {}: {}, up {}",
            snapshot.profile,
            health_word(app),
            format::age(snapshot.uptime_seconds)
        ),
        format!(
            "  sessions  {} open, {} carried, {} refused",
            totals.sessions_open, totals.sessions, totals.refused
        ),
        format!(
            "  bytes     {} up, {} down; at most {} up, {} down in the last two minutes",
            format::bytes(totals.bytes_up),
            format::bytes(totals.bytes_down),
            format::rate(peak(true)),
            format::rate(peak(false)),
        ),
    ];
    let has_stopped = snapshot.phase == GatewayPhase::Stopped;
    if snapshot.mode != Mode::Direct && !has_stopped {
        let (ready, target) = links_ready(snapshot);
        lines.push(format!("  links     {ready} ready of {target} wanted"));
    }
    let worst = snapshot.alerts.first().filter(|_| !has_stopped);
    lines.extend(worst.map(|worst| format!("  trouble   {}", worst.text)));
    lines.extend(closing_line(ended, app).map(Into::into));
    let lines = lines.iter().map(|line| app.style.text(&app.addresses().text(line), LINE_CHARS) + "\n");
    lines.collect()
}

fn health_word(app: &App) -> String {
    let health = match app.latest().phase {
        GatewayPhase::Stopped => "stopped",
        GatewayPhase::Starting | GatewayPhase::Running | GatewayPhase::Draining => {
            app.latest().health.map_or("health unknown", Health::label)
        }
    };
    match app.lost_reason() {
        Some(why) => format!("lost ({why}); before that {health}"),
        None => health.into(),
    }
}

/// What goes on without the screen.
fn closing_line(ended: ScreenEnd, app: &App) -> Option<&'static str> {
    match (ended, app.attachment()) {
        (ScreenEnd::LeftHeadless, _) => Some("The gateway keeps running headless."),
        (ScreenEnd::Left, Attachment::Attached(..)) if app.lost_reason().is_none() => {
            Some("The gateway keeps running.")
        }
        (ScreenEnd::Left, Attachment::Fleet(_)) => Some("The gateways keep running."),
        (ScreenEnd::Left, _) | (ScreenEnd::Quit | ScreenEnd::TerminalGone | ScreenEnd::GatewayStopped, _) => {
            None
        }
    }
}

const LINE_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        gateway::handle::{AdminAccess, GatewayContact},
        profile::Half,
        telemetry::{
            health::judge_snapshot,
            snapshot::{PoolRow, Snapshot, TrafficSample, TrafficTotals},
        },
        tui::{privacy::AddressMasking, style::ScreenStyle},
    };

    fn app() -> App {
        let mut pool = PoolRow::new(Half::Dmz, "*".into());
        (pool.target, pool.address, pool.last_error) =
            (8, Some("192.0.2.7:1443".into()), Some("refused".into()));
        let mut snapshot = Snapshot {
            halves: vec![Half::Dmz],
            phase: GatewayPhase::Running,
            uptime_seconds: 754.5,
            totals: TrafficTotals {
                sessions_open: 4,
                sessions_waiting: 0,
                sessions: 42,
                refused: 1,
                bytes_up: 1_200,
                bytes_down: 3_400_000,
            },
            pools: vec![pool],
            traffic: vec![TrafficSample { up: 5, down: 0 }, TrafficSample { up: 2, down: 700_000 }],
            ..Snapshot::new("edge\u{1b}[2J", Mode::Reverse)
        };
        judge_snapshot(&mut snapshot, SystemTime::UNIX_EPOCH);
        App::new(Arc::new(snapshot), ScreenStyle::FULL)
    }

    const SUMMARY_TEXT: &str = "\
portcullis edge[2J: DOWN, up 12:34
  sessions  4 open, 42 carried, 1 refused
  bytes     1.2 kB up, 3.4 MB down; at most 5 B/s up, 700 kB/s down in the last two minutes
  links     0 ready of 8 wanted
  trouble   192.0.2.7:1443: no link: refused
";

    #[test]
    fn the_summary_shows_the_totals_and_what_continues() {
        let mut app = app();
        assert_eq!(summary_text(ScreenEnd::Quit, &app), SUMMARY_TEXT);
        assert_eq!(
            summary_text(ScreenEnd::LeftHeadless, &app),
            format!("{SUMMARY_TEXT}The gateway keeps running headless.\n")
        );
        app.set_attachment(Attachment::Attached(AdminAccess::Full, GatewayContact::There));
        assert_eq!(
            summary_text(ScreenEnd::Left, &app),
            format!("{SUMMARY_TEXT}The gateway keeps running.\n")
        );
        app.set_attachment(Attachment::Attached(
            AdminAccess::Full,
            GatewayContact::Lost { why: "it closed".into() },
        ));
        let first = summary_text(ScreenEnd::Left, &app).lines().next().unwrap_or_default().to_owned();
        assert_eq!(first, "portcullis edge[2J: lost (it closed); before that DOWN, up 12:34");
    }

    #[test]
    fn a_stopped_gateway_has_no_alert() {
        let stopped = Snapshot { phase: GatewayPhase::Stopped, ..Snapshot::clone(app().latest()) };
        let reported =
            summary_text(ScreenEnd::GatewayStopped, &App::new(Arc::new(stopped), ScreenStyle::FULL));
        assert!(reported.starts_with("portcullis edge[2J: stopped, up 12:34\n"), "{reported}");
        assert!(!reported.contains("links") && !reported.contains("trouble"), "{reported}");
    }

    #[test]
    fn what_was_hidden_stays_hidden() {
        let mut app = app();
        app.press(crossterm::event::KeyCode::Char('P').into());
        assert_eq!(app.addresses(), AddressMasking::Hidden);
        assert!(!summary_text(ScreenEnd::Quit, &app).contains("192.0.2.7"));
    }
}
