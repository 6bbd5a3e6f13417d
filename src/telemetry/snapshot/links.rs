//! The links of a pool, as data. Which of them there are is kept by `link::link_table`.

use serde::{Deserialize, Serialize};

/// A link of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Its number in this process.
    #[serde(default)]
    pub id: u64,
    pub age_seconds: f64,
    pub state: LinkState,
    /// Sessions it has carried.
    pub sessions: u64,
    /// Sessions on it now.
    #[serde(default)]
    pub sessions_open: usize,
    /// The address of its other end.
    pub address: Option<String>,
    /// `TLS 1.3`; `None` if the link is plain.
    pub tls: Option<String>,
    /// The group of the key exchange.
    pub group: Option<String>,
    /// Segments that this end of the connection has sent, and how many of them were sent again.
    #[serde(default)]
    pub segments_sent: u32,
    #[serde(default)]
    pub segments_resent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// It takes a session, whether it carries others or not.
    Ready,
    /// It takes no more now. Readers of `status` know it as `carrying`, like the count of such links.
    #[serde(rename = "carrying")]
    Full,
    /// It is left to heavy sessions, and takes others only where no other link does.
    Bulk,
    /// It never will again.
    Leaving,
}
