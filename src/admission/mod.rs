//! Who may come in: how much one use may hold at once, and who gives way when there is too much. Opening and
//! serving what is counted here happens elsewhere.

pub mod arrivals;
pub mod clients;
pub mod handshakes;
pub mod pace;
pub mod quota;
pub mod source_network;
pub mod token_bucket;
pub mod usage_table;
