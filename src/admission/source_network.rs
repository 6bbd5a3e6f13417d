//! Which client an address belongs to, where clients are distinguished by address.

use std::net::{IpAddr, Ipv6Addr};

/// The network that stands for an address: in IPv6 a host may have as many addresses as it likes (RFC 4291,
/// section 2.5.1).
pub fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}
