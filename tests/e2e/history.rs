//! What a gateway keeps of its last hours, as it is asked for.

use std::time::{Duration, Instant};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::history::{HistoryReport, HistoryRequest},
};

use crate::support::{
    gateway::{Gateway, PATIENCE},
    peers::{hear, say},
    ways::{MODES, Plan},
};

async fn history(gateway: &Gateway, step_seconds: u64, steps: u64) -> HistoryReport {
    match gateway.handle.ask(Command::History(HistoryRequest { step_seconds, steps })).await {
        CommandAnswer::History(report) => *report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_sessions_move_is_kept_by_the_second_and_told_at_every_grain() {
    for mode in MODES {
        let way = Plan::new(mode, "echo://").start().await;
        let mut client = way.client().await;
        let began = Instant::now();
        let fine = loop {
            say(&mut client, b"there?").await;
            hear(&mut client, b"there?").await;
            let fine = history(&way.dmz, 1, 600).await;
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
            "{mode:?}: told at {}, newest {newest}",
            fine.now
        );
        let day = history(&way.dmz, 60, 1440).await;
        assert_eq!(day.step_seconds, 60);
        assert!((1..=2).contains(&day.samples.len()), "{mode:?}: {:?}", day.samples);
        assert!(day.samples.iter().any(|sample| sample.up_max > 0 && sample.open == 1), "{mode:?}");
        drop(client);
    }
}
