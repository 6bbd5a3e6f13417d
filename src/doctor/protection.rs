//! Certificates that end, and a lock that is off.

use std::collections::BTreeMap;

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
};
use crate::{
    profile::{Half, Mode},
    telemetry::snapshot::Snapshot,
};

/// How long before the end it is worth mentioning.
const SOON_DAYS: i64 = 30;
/// The time that it may take to get another one.
const LATE_DAYS: i64 = 14;

pub fn find_certificates(snapshot: &Snapshot) -> Vec<DoctorFinding> {
    let own = snapshot.certificates.iter().map(|row| (row.object.clone(), row.days));
    let of_peers = snapshot.pools.iter().filter_map(|pool| {
        let peer = pool.peer.as_ref()?;
        Some((format!("the certificate of {peer}"), pool.certificate_days?))
    });
    // One file may be used twice, and one peer may have many rows.
    let mut first_end = BTreeMap::new();
    for (object, days) in own.chain(of_peers) {
        let known = first_end.entry(object).or_insert(days);
        *known = days.min(*known);
    }
    first_end.into_iter().filter_map(|(object, days)| find_certificate(object, days)).collect()
}

fn find_certificate(object: String, days: i64) -> Option<DoctorFinding> {
    let figure = match days {
        ..0 => "has expired".into(),
        0 => "expires within a day".into(),
        1 => "expires in 1 day".into(),
        2..=SOON_DAYS => format!("expires in {days} days"),
        _ => return None,
    };
    let severity = if days <= LATE_DAYS { Must } else { Should };
    let reason = match days {
        ..0 => "no new link or client that has to trust it is let through",
        _ => "from then on no link or client that has to trust it is let through",
    };
    let advice = "put a new certificate in its place, then `reload`; open links are kept";
    Some(DoctorFinding::new("certificate-ends", severity, figure, reason, advice).about(object))
}

/// A half that is alone in its process can be locked in reverse mode; otherwise the process has to listen and
/// to dial.
pub fn find_open_locks(snapshot: &Snapshot) -> Option<DoctorFinding> {
    let &[half] = snapshot.halves.as_slice() else { return None };
    if snapshot.mode != Mode::Reverse {
        return None;
    }
    let name = match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    };
    let (missing, advice) = match snapshot.confined.get(&half)? {
        None => (
            "no lock is on",
            "take `confine: off` out of the profile, if it is there, and start the gateway again; otherwise its log says why",
        ),
        Some(lock) if !lock.seccomp => (
            "seccomp is off",
            "the log says why the kernel rejected the filter; a container must let it make the system call `seccomp`",
        ),
        Some(lock) if lock.landlock.is_none() => (
            "Landlock is off",
            "the log says why; Landlock needs Linux 5.13, and is put on only where a process starts in reverse mode",
        ),
        Some(_) => return None,
    };
    let figure = missing.to_owned();
    let reason = "whoever takes over the process can do what the lock would have refused";
    Some(DoctorFinding::new("lock-off", Should, figure, reason, advice).about(name))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{certificate, found, healthy, pool},
        *,
    };
    use crate::telemetry::snapshot::{ConfinedRow, PoolRow};

    #[test]
    fn certificates_are_reported_from_thirty_days_on_and_must_be_renewed_from_fourteen_on() {
        let of = |days| Snapshot { certificates: vec![certificate(days)], ..healthy() };
        for days in [14, 7, 1, 0, -3] {
            assert_eq!(found(&of(days), "certificate-ends"), [Must], "{days}");
        }
        assert_eq!(found(&of(30), "certificate-ends"), [Should]);
        assert_eq!(found(&of(31), "certificate-ends"), []);
    }

    #[test]
    fn a_certificate_that_many_rows_show_is_reported_once() {
        let row = PoolRow { certificate_days: Some(6), ..pool() };
        let later = PoolRow { certificate_days: Some(20), ..pool() };
        let peers = Snapshot { pools: vec![later, row.clone(), row], ..healthy() };
        assert_eq!(found(&peers, "certificate-ends"), [Must]);
    }

    #[test]
    fn a_lock_that_is_off_is_reported_where_it_could_be_on() {
        let lock = |lock: Option<ConfinedRow>| Snapshot { confined: [(Half::Dmz, lock)].into(), ..healthy() };
        let row = ConfinedRow { seccomp: true, landlock: None, refuses: Vec::new(), unix: None };
        assert_eq!(found(&lock(None), "lock-off"), [Should]);
        assert_eq!(found(&lock(Some(row.clone())), "lock-off"), [Should]);
        assert_eq!(found(&lock(Some(ConfinedRow { landlock: Some(1), ..row })), "lock-off"), []);
        let forward = Snapshot { mode: Mode::Forward, ..lock(None) };
        assert_eq!(found(&forward, "lock-off"), []);
        let pair = Snapshot { halves: vec![Half::Dmz, Half::Internal], ..lock(None) };
        assert_eq!(found(&pair, "lock-off"), []);
    }
}
