//! What a gateway keeps of its last hours, as it is asked for.

use std::{
    fs,
    time::{Duration, Instant},
};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::{
        history::{HistoryReport, HistoryRequest},
        history_rows::{MinuteRow, RowSubject},
    },
};

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder, client_port_in},
    mode_pair::{MODES, Plan},
    peers::{dial, expect_bytes, send},
    program::Program,
};

async fn history(gateway: &Gateway, step_seconds: u64, steps: u64) -> HistoryReport {
    match gateway
        .handle
        .send_and_wait(Command::History(HistoryRequest { step_seconds, steps, rows_at: None }))
        .await
    {
        CommandAnswer::History(report) => *report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn traffic_is_kept_per_second_and_reported_at_every_step() {
    for mode in MODES {
        let pair = Plan::new(mode, "echo://").start().await;
        let mut client = pair.client().await;
        let began = Instant::now();
        let fine = loop {
            send(&mut client, b"there?").await;
            expect_bytes(&mut client, b"there?").await;
            let fine = history(&pair.dmz, 1, 600).await;
            if fine.samples.iter().any(|sample| sample.up > 0 && sample.down > 0 && sample.open == 1) {
                break fine;
            }
            assert!(began.elapsed() < PATIENCE, "{mode:?}: {:?}", fine.samples);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(fine.samples.is_sorted_by(|a, b| a.at < b.at), "{mode:?}");
        let newest = fine.samples.last().map_or(0, |sample| sample.at);
        assert!(
            fine.now >= newest && fine.now - newest < 60,
            "{mode:?}: reported at {}, newest {newest}",
            fine.now
        );
        let day = history(&pair.dmz, 60, 1440).await;
        assert_eq!(day.step_seconds, 60);
        assert!((1..=2).contains(&day.samples.len()), "{mode:?}: {:?}", day.samples);
        assert!(day.samples.iter().any(|sample| sample.up_max > 0 && sample.open == 1), "{mode:?}");
        drop(client);
    }
}

/// The first minute begins with the gateway, so its rows are there at once.
#[tokio::test]
async fn services_and_links_have_a_row_for_each_minute() {
    for mode in MODES {
        let pair = Plan::new(mode, "echo://").start().await;
        let _client = pair.client().await;
        let began = Instant::now();
        let rows = loop {
            let now = history(&pair.dmz, 1, 1).await.now;
            let asked = HistoryRequest { step_seconds: 60, steps: 1, rows_at: Some(now) };
            let answer = pair.dmz.handle.send_and_wait(Command::History(asked)).await;
            let CommandAnswer::History(report) = answer else { panic!("{answer:?}") };
            let of_service = |row: &MinuteRow| row.subject == RowSubject::Service && &*row.name == "orders";
            let rows = report.rows.unwrap_or_default().rows;
            if rows.iter().any(of_service) {
                break rows;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "{mode:?}: {rows:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let peers = rows.iter().filter(|row| row.subject == RowSubject::Peer).count();
        assert_eq!(peers > 0, mode != Mode::Direct, "{mode:?}: {rows:?}");
    }
}

const EDGE: &str =
    "mode: direct\ndmz: { services: { echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } } }\n";
const KEPT: &str = "state/edge-dmz.history";

async fn kept_history(program: &Program) -> HistoryReport {
    match program
        .answer(Command::History(HistoryRequest { step_seconds: 1, steps: 600, rows_at: None }))
        .await
    {
        Ok(CommandAnswer::History(report)) => *report,
        other => panic!("{other:?}"),
    }
}

/// Waits until a second is kept in which a client has sent something.
async fn until_moved(program: &Program) -> HistoryReport {
    let mut client = dial(client_port_in(&*program.now().await, "echo")).await;
    let began = Instant::now();
    loop {
        send(&mut client, b"there?").await;
        expect_bytes(&mut client, b"there?").await;
        let report = kept_history(program).await;
        if report.samples.iter().any(|sample| sample.up > 0) {
            return report;
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", report.samples);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the program has logged that has ended, all of it.
fn log(folder: &TestFolder) -> String {
    fs::read_to_string(folder.path("edge.err")).expect("it is there")
}

#[tokio::test]
async fn the_last_hour_survives_a_restart_and_a_damaged_file_is_reported_once() {
    let folder = TestFolder::new();
    let program = Program::start(&folder, "edge", EDGE, 256).await;
    let before = until_moved(&program).await;
    let moved = before.samples.iter().find(|sample| sample.up > 0).expect("it was seen").at;
    program.stop().await;

    let program = Program::start(&folder, "edge", EDGE, 256).await;
    let after = kept_history(&program).await;
    let again = after.samples.iter().find(|sample| sample.at == moved);
    assert!(again.is_some_and(|sample| sample.up > 0), "{moved}: {:?}", after.samples);
    program.stop().await;
    assert!(!log(&folder).contains("hour before"), "{}", log(&folder));

    let whole = fs::read(folder.path(KEPT)).expect("it is kept");
    fs::write(folder.path(KEPT), &whole[..whole.len() / 2]).expect("it is damaged");
    let program = Program::start(&folder, "edge", EDGE, 256).await;
    let known = kept_history(&program).await.samples;
    assert!(known.iter().all(|sample| sample.at > moved), "{known:?}");
    // It is whole again after the next stop.
    until_moved(&program).await;
    program.stop().await;
    let log = log(&folder);
    assert_eq!(log.matches("nothing is known of the hour before the start").count(), 1, "{log}");
    let program = Program::start(&folder, "edge", EDGE, 256).await;
    assert!(kept_history(&program).await.samples.iter().any(|sample| sample.up > 0));
    assert!(!program.log().contains("hour before"), "{}", program.log());
}
