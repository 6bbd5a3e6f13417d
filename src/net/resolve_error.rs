//! Why a name, or an address with a zone, leads to no address that can be used.
//!
//! One answer is given to all who ask for a name, so an error can be cloned. What a name server says is the cause of
//! [`ResolveError::Dns`]; what follows for a dial or a port is not here.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;

use super::dns::DnsError;

#[derive(Debug, Clone, Error)]
pub enum ResolveError {
    /// What the system's resolver says.
    #[error("{0}")]
    System(Arc<io::Error>),
    /// What the name servers say that this process asks itself.
    #[error("{0}")]
    Dns(Arc<DnsError>),
    #[error("it has no address")]
    NoAddress,
    #[error("there is no interface `{0}`")]
    NoInterface(String),
    #[error("none of its addresses can be dialled from {0}")]
    OtherFamily(IpAddr),
    #[error("no answer within {}s", .0.as_secs_f32())]
    Late(Duration),
    #[error("too many names are looked up at once")]
    TooMany,
    #[error("its name is being looked up")]
    Pending,
    #[error("its name is no longer followed: the profile does not ask for it any more")]
    NotFollowed,
    #[error("it was not looked up")]
    NotAsked,
}

impl From<io::Error> for ResolveError {
    fn from(error: io::Error) -> Self {
        Self::System(Arc::new(error))
    }
}
