//! A TLS proxy in front of the server: from whom plain connections are taken, and whose word counts on who is behind it.

use hyper::HeaderMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The header in which a proxy appends the address that connected to it.
const FORWARDED: &str = "x-forwarded-for";

/// Where the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// On this host.
    Here,
    /// At this address.
    At(IpAddr),
}

impl Proxy {
    /// Whether a connection from there is taken: the proxy's, and this host's own.
    pub fn admits(self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.speaks(ip)
    }

    /// Whether this is the proxy.
    fn speaks(self, ip: IpAddr) -> bool {
        match self {
            Self::Here => ip.is_loopback(),
            Self::At(address) => ip == address.to_canonical(),
        }
    }

    /// Who is behind a request of `peer`: what the proxy appended last. Anybody else's word, and what a client sent
    /// before it, says nothing.
    pub fn behind(self, peer: Peer, headers: &HeaderMap) -> Peer {
        if !self.speaks(peer.ip) {
            return peer;
        }
        let last = headers.get_all(FORWARDED).iter().next_back().and_then(|value| value.to_str().ok());
        let last = last.and_then(|value| value.rsplit(',').next()).map(str::trim);
        last.and_then(Peer::parse).unwrap_or(peer)
    }
}

/// The other end of a connection, for limits, log and audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    ip: IpAddr,
    /// None: the proxy did not say.
    port: Option<u16>,
}

impl Peer {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(address.into());
        }
        let ip: IpAddr = text.trim_matches(['[', ']']).parse().ok()?;
        Some(Self { ip: ip.to_canonical(), port: None })
    }

    /// Its address; an IPv4 address in IPv6's clothes is one of IPv4.
    pub fn ip(self) -> IpAddr {
        self.ip
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip().to_canonical(), port: Some(address.port()) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(proxy: Proxy, peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED, value.parse().unwrap());
        }
        proxy.behind(peer.parse::<SocketAddr>().unwrap().into(), &headers).to_string()
    }

    #[test]
    fn only_the_proxys_last_word_counts() {
        let named = Proxy::At("192.0.2.1".parse().unwrap());
        for (proxy, peer, forwarded, is) in [
            (Proxy::Here, "127.0.0.1:7", &["203.0.113.5"][..], "203.0.113.5"),
            (Proxy::Here, "127.0.0.1:7", &["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
            (Proxy::Here, "127.0.0.1:7", &["203.0.113.5", "2001:db8::1"], "2001:db8::1"),
            (Proxy::Here, "[::1]:7", &["[2001:db8::1]:99"], "[2001:db8::1]:99"),
            (Proxy::Here, "127.0.0.1:7", &[], "127.0.0.1:7"),
            (Proxy::Here, "127.0.0.1:7", &["unknown"], "127.0.0.1:7"),
            (named, "[::ffff:192.0.2.1]:7", &["203.0.113.5"], "203.0.113.5"),
            (named, "127.0.0.1:7", &["203.0.113.5"], "127.0.0.1:7"),
        ] {
            assert_eq!(behind(proxy, peer, forwarded), is, "{proxy:?} {peer} {forwarded:?}");
        }
        assert!(named.admits("192.0.2.1".parse().unwrap()) && named.admits("127.0.0.1".parse().unwrap()));
        assert!(!named.admits("192.0.2.2".parse().unwrap()) && !Proxy::Here.admits("192.0.2.1".parse().unwrap()));
    }
}
