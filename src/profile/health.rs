//! `health`: the port at which monitors ask how this gateway is. It reveals names of services and gateways, so
//! it stays on this machine unless the operator says otherwise. The internal half, which listens nowhere in
//! reverse mode, has none.

use super::{
    Half, HealthPort, HostPort, Mode,
    fields::{Located, ReadValue, ValueReader},
    keys,
    problem::{Problem, ValueProblem},
    raw::{self, RawProfile},
};

/// An address, or a map with `address` and `insecure`.
pub(super) fn read(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Located<HostPort>> {
    let (at, options) =
        raw::address(field, &keys::HEALTH_ADDRESS, &keys::HEALTH_ADDRESS_KEY, HostPort::parse, problems)?;
    let is_allowed = options.is_some_and(|options| keys::HEALTH_INSECURE.read(&options, problems));
    if is_allowed || at.value.is_loopback() {
        return Some(at);
    }
    let fault = ValueProblem::new(
        "this port can be reached from other machines, and asks nobody who they are",
        "use a loopback address, or write `{ address: HOST:PORT, insecure: true }`",
    );
    problems.push(fault.at(at.location));
    None
}

/// Refuses it where the internal half would have to listen in reverse mode.
pub(super) fn check(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    let ReadValue::Good(health) = &raw.health else { return };
    if mode == Mode::Reverse && raw.dmz.is_absent() {
        let fault = ValueProblem::new(
            "in mode `reverse` the internal gateway listens nowhere",
            "remove it: `status --ready` and `metrics` tell the same through the admin socket",
        );
        problems.push(fault.at(health.location.clone()));
    }
}

/// What happens to it in a gateway that runs only `half`.
pub(super) fn resolve(raw: &RawProfile, half: Option<Half>) -> HealthPort {
    match (&raw.health, half) {
        (ReadValue::Absent | ReadValue::Bad, _) => HealthPort::Closed,
        (ReadValue::Good(_), Some(Half::Internal)) => HealthPort::LeftOut,
        (ReadValue::Good(health), Some(Half::Dmz) | None) => HealthPort::Open(health.value.clone()),
    }
}
