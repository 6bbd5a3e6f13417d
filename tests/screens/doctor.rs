//! What limits the gateway, on the screen: the findings of the command, live, and of each gateway of a fleet.

use std::sync::Arc;

use portcullis::{
    doctor::{self, DoctorFinding, FindingSeverity, MachineFacts},
    gateway::handle::{AdminAccess, CommandAnswer},
    profile::Half,
    telemetry::{
        history::{HistoryReport, HistoryRequest, HistorySample},
        snapshot::{GatewayReach, Snapshot},
        verdict::CertificateRow,
    },
    tui::{app::App, source::Attachment, style::ScreenStyle},
};

use crate::{app, check, fleet, pictures, press, report, styled};

fn certificate(days: i64) -> CertificateRow {
    CertificateRow {
        half: Half::Internal,
        used: "link".into(),
        object: format!("pki/{days}.pem"),
        ends: String::new(),
        days,
    }
}

fn text(app: &App, (width, height): (u16, u16)) -> String {
    let buffer = styled::draw(app, width, height);
    (0..height).map(|y| styled::line(&buffer, y) + "\n").collect()
}

#[test]
fn the_screen_tells_what_the_command_finds_with_figure_reason_and_advice() {
    let snapshot = Snapshot { certificates: vec![certificate(20), certificate(3)], ..pictures::degraded() };
    let mut app = app(snapshot);
    press(&mut app, "0");
    let found = doctor::find_limits(app.snapshot(), &MachineFacts::default());
    assert!(found.len() > 3, "{found:?}");
    let shown = text(&app, (200, 60));
    let mut rest = shown.as_str();
    for DoctorFinding { id, figure, reason, advice, .. } in &found {
        for part in [figure, &format!("[{id}]"), reason, advice] {
            rest = rest
                .split_once(part.as_str())
                .unwrap_or_else(|| panic!("{part} is not reported in turn\n{shown}"))
                .1;
        }
    }
    assert_eq!(found[0].severity, FindingSeverity::Must);
}

#[test]
fn a_repaired_cause_is_no_finding_in_the_next_snapshot() {
    let ill = Snapshot { certificates: vec![certificate(3)], ..pictures::healthy() };
    let mut app = app(ill);
    press(&mut app, "0j\n");
    assert!(text(&app, (120, 36)).contains("certificate-ends"));
    let well =
        Snapshot { uptime_seconds: 999.0, certificates: vec![certificate(300)], ..pictures::healthy() };
    app.receive_snapshot(Arc::new(pictures::judged(well)));
    assert!(text(&app, (120, 36)).contains("it is gone"), "a detail outlives nothing");
    app.press(crossterm::event::KeyCode::Esc.into());
    assert!(!text(&app, (120, 36)).contains("certificate-ends"));
}

#[test]
fn the_selected_finding_is_in_sight_at_every_size_and_its_page_tells_all() {
    let certificates = (0..20).map(certificate).collect();
    let mut app = app(Snapshot { certificates, ..pictures::healthy() });
    press(&mut app, "0G");
    for size in [(120, 36), (80, 24), (60, 15), (40, 10)] {
        let shown = text(&app, size);
        assert!(shown.contains("pki/19.pem"), "{size:?}\n{shown}");
    }
    press(&mut app, "\n");
    let shown = text(&app, (80, 24));
    for about in ["must be done", "should be done"] {
        if shown.contains(about) {
            return;
        }
    }
    panic!("{shown}");
}

/// Each picture is looked at by itself: the certificates and descriptors of a fleet are in none of its sums.
#[test]
fn findings_of_a_fleet_name_their_gateway() {
    let finding = |gateway: &str, severity| DoctorFinding {
        gateway: Some(gateway.into()),
        id: "links-missing".into(),
        severity,
        object: Some("any service, from inside at 10.0.0.5".into()),
        figure: "0 of 8 links up".into(),
        reason: "without a link no client can be carried over this peer".into(),
        advice: "look at the log of the gateway at the other end".into(),
    };
    let findings = vec![finding("edge-2", FindingSeverity::Must), finding("edge-1", FindingSeverity::Should)];
    let mut app = App::new(Arc::new(Snapshot { findings, ..fleet::fleet() }), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, "0j");
    let mut wrong = vec![];
    for size in [(120, 36), (80, 24)] {
        check("fleet-findings", &app, size, &mut wrong);
    }
    report(&wrong);
    assert!(text(&app, (120, 36)).contains("must   edge-2: any service"));
    press(&mut app, ":only edge-1\n");
    let shown = text(&app, (120, 36));
    assert!(shown.contains("edge-1: any service") && !shown.contains("edge-2: any"), "{shown}");
}

/// A report of the last hour, of which no link took a session in three minutes.
fn hour_with_links_away(requested: HistoryRequest) -> CommandAnswer {
    assert_eq!(requested, doctor::LAST_HOUR);
    let sample = |links| HistorySample { links, links_wanted: 8, ..HistorySample::default() };
    let samples = [8, 0, 0, 0, 8].map(sample).to_vec();
    CommandAnswer::History(Box::new(HistoryReport { step_seconds: 60, samples, ..HistoryReport::default() }))
}

#[test]
fn problems_of_the_last_hour_are_listed_with_those_of_now() {
    let mut app = app(pictures::healthy());
    assert_eq!(app.history_requests(), [], "the overview needs none");
    press(&mut app, "0");
    assert_eq!(app.history_requests(), [(None, doctor::LAST_HOUR)]);
    app.take_history(None, doctor::LAST_HOUR, hour_with_links_away(doctor::LAST_HOUR));
    let shown = text(&app, (200, 60));
    let reported = "no link took a session in 3 minutes of the last hour  [links-were-away]";
    assert!(shown.contains(reported), "{shown}");
    let mut later = |seconds: f64| {
        let uptime_seconds = pictures::healthy().uptime_seconds + seconds;
        let snapshot = Snapshot { uptime_seconds, ..pictures::healthy() };
        app.receive_snapshot(Arc::new(pictures::judged(snapshot)));
        app.history_requests().len()
    };
    assert_eq!((later(59.0), later(61.0)), (0, 1), "once a minute");
    app.take_history(None, doctor::LAST_HOUR, CommandAnswer::Refused("it keeps none".into()));
    assert!(!text(&app, (200, 60)).contains("links-were-away"), "nothing is known of it any more");
}

#[test]
fn of_a_fleet_each_gateway_is_asked_for_its_last_hour() {
    let mut before = fleet::fleet();
    before.gateways.iter_mut().for_each(|row| row.reach = GatewayReach::Calling);
    let mut app = App::new(Arc::new(before), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, "0");
    assert_eq!(app.history_requests(), [], "none is reached yet");
    app.receive_snapshot(Arc::new(Snapshot { uptime_seconds: 62.5, ..fleet::fleet() }));
    let requested = app.history_requests();
    let names: Vec<_> = requested.iter().filter_map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, ["edge-2", "edge-1", "inside-1"], "those that are reached");
    for (name, requested) in requested.iter().filter(|(name, _)| name.as_deref() == Some("edge-2")) {
        app.take_history(name.clone(), *requested, hour_with_links_away(*requested));
    }
    let shown = text(&app, (120, 36));
    assert!(shown.contains("should edge-2: no link took a session in 3 minutes"), "{shown}");
    press(&mut app, ":only edge-1\n");
    assert!(!text(&app, (120, 36)).contains("no link took a session"), "it is of another gateway");
    let names: Vec<_> = app.history_requests().into_iter().filter_map(|(name, _)| name).collect();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["edge-1"], "at once");
}
