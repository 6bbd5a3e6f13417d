//! A link that many sessions share: one task owns its socket and a row for each of its sessions.
//!
//! ```text
//! session ─► LinkHandle::open ─┐                              ┌─► OwnerEvent::Opened ─► IncomingSession::attach
//!                              ▼                              │
//!   local stream ◄──► row ◄──► MultiplexedLink ◄── frames ──► MultiplexedLink ◄──► row ◄──► local stream
//! ```
//!
//! In reading order: [`credit`] and [`turns`] are the rules, and [`table`] has the sessions by their numbers;
//! none of the three has sockets or clocks. [`row`] is a session's local stream, [`held`] has the bytes it has
//! yet to take, and [`ready`] tells which sessions have something to do. [`task`] is the link itself:
//! `receiving` reads, `sending` writes, `serving` gives each session's stream what is held for it, `timing` acts when a
//! time is up, `closing` ends it. [`moving`] takes sessions from one link to another, [`heavy`] says which leave a link
//! that goes on, and [`parked`] has them in between. [`handle`] is what others hold.
//!
//! How a link is established, who opens sessions and what becomes of them is not here.
//!
//! The files here use each other: `task` is one state machine, and the others are parts of its `impl`.

mod closing;
pub mod credit;
pub mod frame_deadline;
pub mod handle;
pub mod heavy;
pub mod held;
pub mod local_party;
pub mod moving;
pub mod parked;
pub mod ready;
pub mod receiving;
mod row;
mod sending;
mod serving;
pub mod table;
pub mod task;
pub mod timing;
pub mod turns;

#[cfg(test)]
mod tests;
