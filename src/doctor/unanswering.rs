//! Peers whose links are up, and whose sessions stay unanswered.

use super::{DoctorFinding, FindingSeverity::Must};
use crate::telemetry::{format, snapshot::PoolRow};

/// One process of a peer; another one of its name may answer all. `object` names the peer.
pub fn find_unanswering(pool: &PoolRow, object: String) -> Option<DoctorFinding> {
    if !pool.leaves_unanswered() {
        return None;
    }
    let about = match &pool.instance {
        Some(instance) => format!("{object} (instance {instance})"),
        None => object,
    };
    let figure = format!("{} up", format::count(pool.ready.saturating_add(pool.carrying) as u64, "link"));
    let reason =
        "the last sessions that were opened there had no answer; it is tried last, and who tries it waits";
    let advice = "look at the log of that gateway, and restart it";
    Some(DoctorFinding::new("sessions-unanswered", Must, figure, reason, advice).about(about))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile::Half, telemetry::snapshot::PoolState};

    #[test]
    fn only_a_process_that_is_up_and_answers_nothing_is_found() {
        let up = PoolRow { state: PoolState::Healthy, ready: 4, ..PoolRow::new(Half::Dmz, "*".into()) };
        let named = PoolRow { instance: Some("0a1b".into()), ..up.clone() };
        let found = |row: PoolRow| find_unanswering(&row, "any service".into());
        assert!(found(up.clone().with_silence(false)).is_none());
        let finding = found(named.with_silence(true)).expect("it is silent");
        assert_eq!((finding.id.as_ref(), finding.figure.as_str()), ("sessions-unanswered", "4 links up"));
        assert_eq!(finding.object.as_deref(), Some("any service (instance 0a1b)"));
        let down = PoolRow { state: PoolState::Down, ready: 0, ..up };
        assert!(found(down.with_silence(true)).is_none(), "that it is down is found by itself");
    }
}
