//! The front end without a screen: the log, with a summary line from time to time.

use std::time::Duration;

use crate::gateway::handle::GatewayHandle;

const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// Logs a summary until the gateway ends.
pub async fn log_summaries(handle: GatewayHandle) {
    let mut last = None;
    loop {
        tokio::time::sleep(SUMMARY_INTERVAL).await;
        let snapshot = handle.latest();
        let ready: usize = snapshot.pools.iter().map(|pool| pool.ready).sum();
        let target: usize = snapshot.pools.iter().map(|pool| pool.target).sum();
        let facts = (snapshot.totals, ready, target);
        // Nothing is logged while nothing changes.
        if last == Some(facts) {
            continue;
        }
        last = Some(facts);
        tracing::info!(
            event = "summary",
            open = snapshot.totals.sessions_open,
            waiting = snapshot.totals.sessions_waiting,
            sessions = snapshot.totals.sessions,
            refused = snapshot.totals.refused,
            up = snapshot.totals.bytes_up,
            down = snapshot.totals.bytes_down,
            ready,
            target,
            "summary"
        );
    }
}
