//! An address, as far as one peer can be told from its neighbours: what limits and counts go by.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or the /64 of an IPv6 address: a host there chooses the lower half as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block(IpAddr);

impl Block {
    /// The one of this address. An IPv4 address in IPv6's clothes is one of IPv4.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 => v4,
        })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, if self.0.is_ipv6() { "/64" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_whatever_its_lower_half() {
        let blocks = ["2001:db8::1", "2001:db8::ffff:2", "::ffff:192.0.2.1", "192.0.2.1"]
            .map(|text| Block::of(text.parse().unwrap()).to_string());
        assert_eq!(blocks, ["2001:db8::/64", "2001:db8::/64", "192.0.2.1", "192.0.2.1"]);
        assert_ne!(Block::of("2001:db8:0:1::1".parse().unwrap()), Block::of("2001:db8::1".parse().unwrap()));
    }
}
