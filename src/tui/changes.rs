//! How much has changed since a frozen snapshot. The footer of a frozen screen shows it, so that nobody takes an old
//! state for the present one.

use std::collections::HashSet;

use crate::telemetry::snapshot::Snapshot;

/// Sessions that came or went, pools with another state, and new notices.
pub fn count_changes(held: &Snapshot, latest: &Snapshot) -> usize {
    let ids = |snapshot: &'_ Snapshot| -> HashSet<_> {
        snapshot.sessions.iter().map(|row| (row.gateway.clone(), row.half, row.id.clone())).collect()
    };
    let sessions = ids(held).symmetric_difference(&ids(latest)).count();
    // Sessions that came and went in between: two changes each, and in neither snapshot.
    let over = |snapshot: &Snapshot| snapshot.totals.sessions.saturating_add(snapshot.totals.refused);
    let passed = over(latest).saturating_sub(over(held));
    let pools = latest.pools.iter().filter(|pool| {
        let before = held.pools.iter().find(|row| {
            (&row.gateway, row.half, &row.service, &row.peer, &row.address, &row.instance)
                == (&pool.gateway, pool.half, &pool.service, &pool.peer, &pool.address, &pool.instance)
        });
        before
            .is_none_or(|row| (row.shown_state(), &row.last_error) != (pool.shown_state(), &pool.last_error))
    });
    let newest = held.notices.last().map(|notice| notice.time.as_str());
    let notices = latest.notices.iter().filter(|notice| Some(notice.time.as_str()) > newest);
    let sessions = sessions.max(usize::try_from(passed).unwrap_or(usize::MAX));
    sessions.saturating_add(pools.count()).saturating_add(notices.count())
}
