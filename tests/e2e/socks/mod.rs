//! The link on the wire (RFC 1928 as the contract narrows it), against raw peers.

mod at_dmz;
mod at_internal;
mod dials_forward;
mod dials_reverse;
