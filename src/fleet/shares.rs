//! Which sessions of a large fleet are listed: each gateway has a share of the rows, for those that wait or
//! move most.

use std::{cmp::Reverse, collections::HashSet};

use crate::{
    profile::Half,
    telemetry::snapshot::{SessionPhase, SessionRow, Snapshot},
};

/// Divides `space` among this many rows each; what one does not need goes to the others.
fn share_out(counts: &[usize], space: usize) -> Vec<usize> {
    let mut indexes: Vec<_> = (0..counts.len()).collect();
    indexes.sort_by_key(|&index| counts[index]);
    let (mut shares, mut left) = (vec![0; counts.len()], space);
    for (number, index) in indexes.into_iter().enumerate() {
        shares[index] = counts[index].min(left / (counts.len() - number));
        left -= shares[index];
    }
    shares
}

/// The sessions that are listed of each of these gateways. What the DMZ gateways list, the internal ones list first:
/// their snapshots are of other moments, so the busiest sessions of both are not the same ones.
pub fn list_sessions<'a>(snapshots: &[Option<&'a Snapshot>], space: usize) -> Vec<Vec<&'a SessionRow>> {
    let rows_of = |index: usize| snapshots[index].map_or(&[][..], |snapshot| snapshot.sessions.as_slice());
    let counts: Vec<_> = (0..snapshots.len()).map(|index| rows_of(index).len()).collect();
    let shares = share_out(&counts, space);
    let is_outer =
        |index: usize| snapshots[index].is_some_and(|snapshot| snapshot.halves.contains(&Half::Dmz));
    let mut indexes: Vec<_> = (0..snapshots.len()).collect();
    indexes.sort_by_key(|&index| !is_outer(index));
    let (mut listed, mut outer_ids) = (vec![Vec::new(); snapshots.len()], HashSet::new());
    for index in indexes {
        listed[index] = most_active(rows_of(index), shares[index], &outer_ids);
        if is_outer(index) && shares != counts {
            outer_ids.extend(listed[index].iter().map(|row| row.id.as_str()));
        }
    }
    listed
}

/// At most this many of the rows, in their order: those that wait first, then those with these ids, then the
/// busiest, by the id if nothing moves.
fn most_active<'a>(rows: &'a [SessionRow], space: usize, first_ids: &HashSet<&str>) -> Vec<&'a SessionRow> {
    let mut rows: Vec<_> = rows.iter().enumerate().collect();
    if rows.len() > space {
        rows.select_nth_unstable_by(space, |(_, a), (_, b)| {
            let key = |row: &SessionRow| {
                let waits = row.phase == SessionPhase::Waiting;
                let is_first = first_ids.contains(row.id.as_str());
                Reverse((waits, is_first, row.rate_up.saturating_add(row.rate_down)))
            };
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
        });
        rows.truncate(space);
        rows.sort_unstable_by_key(|(index, _)| *index);
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{
        super::merge::{
            FleetMerge,
            tests::{member, snapshot},
        },
        *,
    };

    /// This many open sessions of one half, none of which moves a byte.
    fn rows(half: Half, count: usize) -> Vec<SessionRow> {
        let one = json!({
            "id": "", "role": half, "service": "orders", "client": "192.0.2.7:50000", "peer": null,
            "phase": "relaying", "age_seconds": 1.0, "idle_seconds": 1.0, "bytes_up": 0, "bytes_down": 0,
            "rate_up": 0, "rate_down": 0,
        });
        let one: SessionRow = serde_json::from_value(one).expect("it has every field that has no default");
        (0..count).map(|number| SessionRow { id: format!("{number:06x}"), ..one.clone() }).collect()
    }

    fn ids(rows: &[SessionRow], space: usize, first_ids: &[&str]) -> Vec<String> {
        let first_ids = first_ids.iter().copied().collect();
        most_active(rows, space, &first_ids).into_iter().map(|row| row.id.clone()).collect()
    }

    #[test]
    fn what_waits_or_moves_now_is_listed_before_what_is_idle() {
        let mut rows = rows(Half::Dmz, 100);
        rows[70].rate_down = 5;
        rows[80].phase = SessionPhase::Waiting;
        (rows[90].rate_up, rows[90].rate_down) = (u64::MAX, u64::MAX);
        assert_eq!(ids(&rows, 3, &[]), ["000046", "000050", "00005a"], "in their order");
        assert_eq!(ids(&rows, 1, &[]), ["000050"]);
        assert_eq!(ids(&rows, 0, &[]).len(), 0);
        assert_eq!(ids(&rows, 1000, &[]).len(), 100);
        assert_eq!(ids(&rows, 2, &["000001"]), ["000001", "000050"], "what the other half lists");
    }

    #[test]
    fn of_a_hundred_thousand_sessions_the_share_is_listed_and_the_rest_is_counted() {
        // Each half has measured its rates at a moment of its own.
        let crowded = |half, moment: usize| {
            let mut sessions = rows(half, 100_000);
            for (number, row) in sessions.iter_mut().enumerate() {
                row.rate_up = (number * 7 % 90 * 10 + (number + moment) % 100) as u64;
            }
            Snapshot { sessions, ..snapshot(half, "a", 0) }
        };
        let few = Snapshot { sessions: rows(Half::Dmz, 10), ..snapshot(Half::Dmz, "b", 0) };
        let members = vec![
            member("inside", Some(crowded(Half::Internal, 50))),
            member("edge", Some(crowded(Half::Dmz, 0))),
            member("quiet", Some(few)),
        ];
        let merged = FleetMerge::default().next(members, 1.0);
        let of = |name: &str| {
            let rows = merged.sessions.iter().filter(|row| row.gateway.as_deref() == Some(name));
            rows.map(|row| row.id.as_str()).collect::<BTreeSet<_>>()
        };
        assert_eq!(of("quiet").len(), 10);
        assert_eq!(of("edge").len(), 19_995);
        assert_eq!(of("edge"), of("inside"), "both parts of a session are listed, or none");
        assert_eq!(merged.sessions.len() + merged.sessions_left_out, 200_010);
    }

    #[test]
    fn what_one_gateway_does_not_need_is_for_the_others() {
        for (counts, space, expected) in [
            (&[30_000, 10, 10][..], 40_000, &[30_000, 10, 10][..]),
            (&[90_000, 10, 10], 40_000, &[39_980, 10, 10]),
            (&[90_000, 5_000, 90_000], 40_000, &[17_500, 5_000, 17_500]),
            (&[7, 7, 7], 4, &[1, 1, 2]),
            (&[], 4, &[]),
            (&[usize::MAX, 0], 4, &[4, 0]),
        ] {
            assert_eq!(share_out(counts, space), expected, "{counts:?}");
        }
    }
}
