//! The protocol of our own, against peers that speak it by hand: session after session on a link.

mod agreement;
mod alive;
mod beside;
mod captured;
mod carries;
mod dialled;
mod each;
mod epochs;
pub mod halves;
mod hostile;
mod hostile_inside;
mod hours;
mod let_go;
mod lockdown;
mod misused;
mod opening;
mod per_peer;
mod retried;
mod serving;
mod shared;
mod shares;
mod srv;
mod states;
mod via;
mod websocket;
