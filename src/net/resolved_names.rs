//! Names that were looked up in advance, for callers that must not wait. The engine must not wait for a name server,
//! so its names are looked up before it binds or switches.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    resolve_error::ResolveError,
    resolver::{NameResolver, literal_address, with_port},
};
use crate::profile::HostPort;

/// Names that were looked up in advance, for callers that must not wait.
#[derive(Debug, Default)]
pub struct ResolvedNames(HashMap<String, Result<Vec<SocketAddr>, ResolveError>>);

impl ResolvedNames {
    /// Looks up the names among `wanted`, all at once, within the deadline.
    pub async fn look_up(names: &NameResolver, wanted: Vec<HostPort>, within: Duration) -> Self {
        let look_up = async |at: HostPort| {
            let found = timeout(within, names.resolve(&at)).await.unwrap_or(Err(ResolveError::Late(within)));
            (at.host, found)
        };
        let named = wanted.into_iter().filter(|at| !needs_no_look_up(at));
        Self(join_all(named.map(look_up)).await.into_iter().collect())
    }

    /// Whether everything wanted is already an address.
    pub fn needs_none(wanted: &[HostPort]) -> bool {
        wanted.iter().all(needs_no_look_up)
    }

    pub fn addresses(&self, at: &HostPort) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(literal) = literal_address(at) {
            return Ok(vec![literal?]);
        }
        match self.0.get(&at.host) {
            Some(Ok(addresses)) => Ok(with_port(addresses, at.port)),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ResolveError::NotAsked),
        }
    }
}

/// Whether it is an address, or a socket that was passed in and is already bound.
fn needs_no_look_up(at: &HostPort) -> bool {
    literal_address(at).is_some() || at.passed_name().is_some()
}
