//! Many gateways on one screen: each is called by a task of its own ([`members`]), and what they say becomes
//! one picture ([`merge`]), so that a screen, a recording and an export have nothing to learn.
//!
//! ```text
//! socket ─► attached ─┐
//! ssh ────► attached ─┼─► merger, once a second ─► one snapshot ─► screen, recorder
//! exec ───► attached ─┘
//! commands ◄──────────── by the gateway's name ◄── screen
//! ```
//!
//! One that hangs, dies or says rubbish costs its own row: nobody waits for it. Which gateways there are is said by
//! [`target`]s on the command line, or by a fleet file ([`file`]).

mod clocks;
pub mod file;
pub mod members;
mod merge;
mod reach;
mod shares;
pub mod target;
