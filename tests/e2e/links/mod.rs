//! The protocol of our own, against peers that speak it by hand: session after session on a link.

mod agreement;
mod captured;
mod carries;
mod closed_at_once;
mod dialled;
mod each;
mod generations;
mod half_frames;
pub mod halves;
mod hostile;
mod hostile_inside;
mod hours;
mod liveness;
mod lockdown;
mod misused;
mod moving;
mod opening;
mod per_peer;
mod retried;
mod serving;
mod shared;
mod shared_ports;
mod shares;
mod srv;
mod states;
mod via;
mod websocket;
