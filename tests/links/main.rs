//! The protocol `portcullis/2` under stress: two ends that play many sessions against each other, real links whose
//! conversation is cut at every byte, and bytes that nobody meant.
//!
//! What is random prints its `SEED=...`; the same in the environment repeats the run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod changes;
mod corpus;
mod count;
mod cuts;
#[path = "../../fuzz/driver.rs"]
mod driver;
mod model;
mod mutations;
mod tally;

/// The seed of a run, printed, so that a failure can be repeated.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("SEED={seed}");
    seed
}
