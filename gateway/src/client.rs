//! Whose request it is as far as the network tells: the client's address, and whether it used TLS.
//!
//! The peer of the connection is the client, unless the settings name it as a proxy: then the client
//! is who the proxy says, in `X-Forwarded-For` and `X-Forwarded-Proto`. Anybody can send these headers,
//! so they count only as far as trusted proxies wrote them: from the right, up to the first address
//! that is no proxy of ours.

use std::net::{IpAddr, Ipv6Addr};

use hyper::{HeaderMap, Request};
use ipnet::IpNet;

/// The header in which proxies list where a request came from, each adding its peer at the end.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The header in which a proxy says by which scheme the client came.
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// The headers that proxies add, trusted or not.
const PROXY_HEADERS: [&str; 3] = [FORWARDED_FOR, "forwarded", "via"];

/// How many bits of an IPv6 address tell customers apart: each has such a network to itself.
const CUSTOMER_BITS: u32 = 64;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address.
    pub address: ClientAddress,
    /// How the client reached us or our proxy.
    pub transport: Transport,
    /// How the request got here.
    pub way: Way,
}

/// The address of a client, in its one canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddress(IpAddr);

/// What counts as one client where clients are counted: an IPv4 address, or the first 64 bits of an
/// IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientNetwork(IpAddr);

/// Whether what a client sends can be read on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// It can, as far as we know.
    Plain,
    /// A trusted proxy says that the client used TLS.
    Tls,
}

/// How a request got here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client itself, as far as one can see.
    Direct,
    /// Through a proxy that is trusted.
    TrustedProxy,
    /// Through a proxy that is not: the client is somebody else than the address says.
    UnknownProxy,
}

impl Client {
    /// The client behind a request with `headers` that came from `peer`.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        if !is_in(peer, trusted_proxies) {
            let is_forwarded = PROXY_HEADERS
                .into_iter()
                .any(|name| headers.contains_key(name));
            return Self {
                address: ClientAddress(peer),
                transport: Transport::Plain,
                way: if is_forwarded {
                    Way::UnknownProxy
                } else {
                    Way::Direct
                },
            };
        }
        let by_tls = headers
            .get_all(FORWARDED_PROTO)
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok()?.rsplit(',').next())
            .is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"));
        Self {
            address: ClientAddress(forwarded(peer, headers, trusted_proxies)),
            transport: if by_tls {
                Transport::Tls
            } else {
                Transport::Plain
            },
            way: Way::TrustedProxy,
        }
    }
}

impl ClientAddress {
    /// The address at the other end of a connection.
    pub const fn of_peer(peer: IpAddr) -> Self {
        Self(peer.to_canonical())
    }

    /// The address itself.
    pub const fn get(self) -> IpAddr {
        self.0
    }

    /// Whose request it is. Every request that the server serves knows that; one made by hand comes
    /// from nowhere.
    pub fn of<B>(request: &Request<B>) -> Self {
        let client = request.extensions().get::<Client>();
        client.map_or(Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), |client| {
            client.address
        })
    }

    /// Whether it lies in one of `networks`.
    pub fn is_in(self, networks: &[IpNet]) -> bool {
        is_in(self.0, networks)
    }

    /// What it counts as.
    pub fn network(self) -> ClientNetwork {
        match self.0 {
            IpAddr::V4(_) => ClientNetwork(self.0),
            IpAddr::V6(address) => {
                let mask = u128::MAX << (u128::BITS - CUSTOMER_BITS);
                ClientNetwork(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)))
            }
        }
    }
}

impl std::fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn is_in(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The last address on the way that is no trusted proxy. Where the header ends or makes no sense
/// before, it is the last proxy.
fn forwarded(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let mut client = peer;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for line in lines {
        let Ok(line) = line.to_str() else {
            return client;
        };
        for item in line.rsplit(',') {
            let Some(address) = address(item.trim()) else {
                return client;
            };
            client = address;
            if !is_in(client, trusted_proxies) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(text.parse::<std::net::SocketAddr>().ok()?.ip());
    bare.or_else(in_brackets)
        .or_else(with_port)
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let proxies = ["10.0.0.0/8", "::1/128"].map(|network| network.parse().unwrap());
        Client::of(peer.parse().unwrap(), &headers, &proxies)
    }

    #[test]
    fn a_client_is_who_trusted_proxies_say() {
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let lines: Vec<_> = lines.iter().map(|line| (FORWARDED_FOR, *line)).collect();
            let found = client(peer, &lines).address;
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        };
        check("192.0.2.1", &[], "192.0.2.1");
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7, 10.2.3.4"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        check("::1", &["[2001:db8::7]:4711"], "2001:db8::7");
        check("::1", &["[2001:db8::7]"], "2001:db8::7");
        check("::ffff:10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["10.9.9.9"], "10.9.9.9");
        check("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.7,"], "10.0.0.1");
        check(
            "10.0.0.1",
            &["198.51.100.7, nonsense, 10.2.3.4"],
            "10.2.3.4",
        );
    }

    #[test]
    fn tls_and_the_way_are_told_by_whom_one_trusts() {
        let check = |peer: &str, lines: &[(&'static str, &str)], transport, way| {
            let found = client(peer, lines);
            assert_eq!((found.transport, found.way), (transport, way), "{lines:?}");
        };
        let https = (FORWARDED_PROTO, "https");
        let through = (FORWARDED_FOR, "198.51.100.7");
        check("10.0.0.1", &[https], Transport::Tls, Way::TrustedProxy);
        let rewritten = (FORWARDED_PROTO, "https, http");
        check(
            "10.0.0.1",
            &[rewritten],
            Transport::Plain,
            Way::TrustedProxy,
        );
        check("10.0.0.1", &[], Transport::Plain, Way::TrustedProxy);
        check("192.0.2.1", &[https], Transport::Plain, Way::Direct);
        check("192.0.2.1", &[through], Transport::Plain, Way::UnknownProxy);
    }

    #[test]
    fn clients_are_counted_by_address_or_network() {
        let check = |one: &str, other: &str, is_same: bool| {
            let network = |text: &str| ClientAddress::of_peer(text.parse().unwrap()).network();
            assert_eq!(network(one) == network(other), is_same, "{one} {other}");
        };
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("2001:db8::1", "2001:db8::ffff:2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
    }
}
