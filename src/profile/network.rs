//! Networks: an address and how many of its bits count.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::problem::{ValueProblem, quote_for_problem};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub(super) fn parse(text: &str) -> Result<Self, ValueProblem> {
        let fault = || {
            let what = format!("`{}` is not a network", quote_for_problem(text));
            ValueProblem::new(what, "write an address, or one with its bits: `10.0.0.0/8`")
        };
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| fault())?
            }
            Some(_) => return Err(fault()),
        };
        if bits > most {
            return Err(fault());
        }
        Ok(Self { address, bits })
    }

    /// Reads a network whose bits beyond the prefix are zero: otherwise another one was probably meant.
    pub(super) fn parse_whole(text: &str) -> Result<Self, ValueProblem> {
        let network = Self::parse(text)?;
        let network = match network.address.to_canonical() {
            // An IPv4-mapped address is meant for clients of either family.
            IpAddr::V4(address) if network.bits >= 96 && network.address.is_ipv6() => {
                Self { address: address.into(), bits: network.bits - 96 }
            }
            _ => network,
        };
        match Self::of(network.address, network.bits) {
            Some(whole) if whole != network => {
                let what = format!("`{}` has bits set that do not count", quote_for_problem(text));
                Err(ValueProblem::new(what, format!("write `{whole}`, or `{}`", network.address)))
            }
            _ => Ok(network),
        }
    }

    /// The network of this many bits that an address is in; an IPv4-mapped address counts as IPv4.
    pub(super) fn of(address: IpAddr, bits: u8) -> Option<Self> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) if bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::from((address.to_bits() & mask).to_be_bytes())
            }
            IpAddr::V6(address) if bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::from((address.to_bits() & mask).to_be_bytes())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, bits })
    }

    pub(super) fn bits(&self) -> u8 {
        self.bits
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let start = |bits: u128, width: u8| bits.checked_shr(u32::from(width - self.bits)).unwrap_or(0);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                start(own.to_bits().into(), 32) == start(other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => start(own.to_bits(), 128) == start(other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.bits)
    }
}

/// The error for a text that is neither an address nor an address with its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a network; write an address, or one with its bits: 10.0.0.0/8")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).map_err(|_| NotANetwork)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_bits_count() {
        let table = [
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
        ];
        for (network, address, expected) in table {
            let network = Network::parse(network).expect("a network");
            assert_eq!(
                network.contains(address.parse().expect("an address")),
                expected,
                "{network} {address}"
            );
        }
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "host", "::/129"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
