//! The ports at which this process takes the clients of its services. A backend that leads back to those of its own
//! service is not even dialled: each session would open the next one, until no place is left.
//!
//! That is all that one process can know. A way round through another process or another host is not noticed.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};

use super::listen::ListenerAddresses;
use crate::profile::ServiceName;

/// The ports of each service at which nobody comes in but its own clients.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts(Arc<ArcSwap<HashMap<ServiceName, Vec<ListenerAddresses>>>>);

impl OwnPorts {
    pub fn set(&self, places: HashMap<ServiceName, Vec<ListenerAddresses>>) {
        self.0.store(Arc::new(places));
    }

    /// Where clients of the service come in at the moment.
    pub fn of(&self, service: &ServiceName) -> Vec<SocketAddr> {
        let places = self.0.load();
        places.get(service).into_iter().flatten().flat_map(ListenerAddresses::listens_at).collect()
    }
}

/// Whether a connection to `to` comes in at `own`.
pub(super) fn is_reached_at(to: SocketAddr, own: SocketAddr) -> bool {
    let (ip, own_ip) = (to.ip().to_canonical(), own.ip());
    to.port() == own.port()
        && ip.is_ipv4() == own_ip.is_ipv4()
        && (ip == own_ip
            // The kernel takes this for a loopback address.
            || ip.is_unspecified() && own_ip.is_loopback()
            || own_ip.is_unspecified() && is_of_this_machine(ip))
}

fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || dialled_from(ip).is_ok_and(|from| from == ip)
}

/// The address from which the kernel would dial: for one of this machine's own, the same. Nothing is sent.
fn dialled_from(ip: IpAddr) -> io::Result<IpAddr> {
    let to = SocketAddr::new(ip, 9);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.connect(&to.into())?;
    let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(from.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_at_an_own_port_is_recognised_whatever_address_is_dialled() {
        let other = "192.0.2.1:80";
        for (to, own, comes_in) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("127.0.0.2:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            (other, "0.0.0.0:80", false),
            (other, other, true),
        ] {
            let read = |text: &str| text.parse().expect("an address");
            assert_eq!(is_reached_at(read(to), read(own)), comes_in, "{to} at {own}");
        }
    }
}
