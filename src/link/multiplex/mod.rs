//! A link that many sessions share: one task owns its socket and a row for each of its sessions.
//!
//! ```text
//! session ─► LinkHandle::open ─┐                              ┌─► OwnerEvent::Opened ─► IncomingSession::attach
//!                              ▼                              │
//!   local stream ◄──► row ◄──► MultiplexedLink ◄── frames ──► MultiplexedLink ◄──► row ◄──► local stream
//! ```
//!
//! In reading order: [`credit`] and [`turns`] are the rules, [`table`] the sessions by their numbers, all
//! three without sockets and clocks. [`row`] is a session's local stream, [`held`] what that
//! has yet to take, [`ready`] tells which of them has
//! something to do. [`task`] is the link itself: `receiving` is what it reads, `sending` what it writes,
//! `timing` what it does when a time is up, `closing` how it ends. [`handle`] is what others hold of it.
//!
//! How a link comes to stand, who opens sessions and what becomes of them is not here.

mod closing;
pub mod credit;
pub mod handle;
pub mod held;
pub mod ready;
pub mod receiving;
mod row;
mod sending;
pub mod table;
pub mod task;
pub mod timing;
pub mod turns;

#[cfg(test)]
mod tests;
