//! Whom an address stands for, where clients are told apart by their addresses.

use std::net::{IpAddr, Ipv6Addr};

/// Whom an address stands for: its network in IPv6, where a host may have as many addresses as it likes (RFC 4291,
/// 2.5.1).
pub fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}
