//! Tests that take the whole of a gateway.

mod deadlines;
mod refused_switch;
