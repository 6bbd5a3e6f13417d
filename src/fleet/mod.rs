//! Many gateways on one screen: each is called by a task of its own ([`members`]), and their snapshots are
//! combined into one ([`merge`]). So a screen, a recording and an export need no special handling.
//!
//! ```text
//! socket ─► attached ─┐
//! ssh ────► attached ─┼─► merger, once a second ─► one snapshot ─► screen, recorder
//! exec ───► attached ─┘
//! commands ◄──────────── by the gateway's name ◄── screen
//! ```
//!
//! A gateway that hangs, dies or sends nonsense affects its own row only: nobody waits for it. [`target`]s on
//! the command line, or a fleet file ([`mod@file`]), say which gateways there are.
//!
//! The files here use each other: merging needs the clock and the reach of each gateway, in the types of the
//! merger.

mod clocks;
pub mod file;
pub mod members;
pub mod merge;
mod reach;
mod shares;
pub mod target;
