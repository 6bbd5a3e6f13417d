//! A pair of gateways under load for a while, in reverse and in forward mode: halves that stand still, that are killed
//! and come back, reloads, slow readers, half-closes and cuts, with every byte checked at its place.
//!
//! Ten seconds by default, longer by `PORTCULLIS_SOAK_SECONDS`; `SEED` draws the same dialogues again.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "soak/dialogue.rs"]
mod dialogue;
#[path = "process/ports.rs"]
mod ports;
mod process;
#[path = "soak/trial.rs"]
mod trial;

use std::time::Duration;

use trial::{Disturbance, Trial};

#[test]
fn no_byte_is_ever_wrong_and_sessions_end_early_only_with_a_half_that_is_killed() {
    let seconds = std::env::var("PORTCULLIS_SOAK_SECONDS").map_or(10, |text| text.parse().unwrap());
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("SEED={seed} for {seconds} s");
    let part = Duration::from_secs(seconds) / 4;
    for (number, mode) in ["reverse", "forward"].into_iter().enumerate() {
        let trial = Trial::start(mode, seed.wrapping_add(number as u64));
        // First nothing that may cost a session, so that all can be counted.
        trial.run(part, &[Disturbance::StandStill, Disturbance::Reload]);
        trial.assert_all_counted();
        trial.run(part, &[Disturbance::StandStill, Disturbance::Reload, Disturbance::Kill]);
        trial.assert_all_let_go();
    }
}
