//! Classification of addresses as public or not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use ipnet::Ipv4Net;

/// Ranges that are not public, by the registry of special-purpose addresses
/// (RFC 6890 and its updates): this host, private networks, carrier-grade NAT,
/// loopback, link-local (where metadata services are), documentation,
/// benchmarks, multicast, reserved for future use.
const SPECIAL_PURPOSE_RANGES: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// Addresses of well-known metadata services outside those ranges.
const METADATA_ADDRESSES: [Ipv4Addr; 1] = [Ipv4Addr::new(168, 63, 129, 16)];

/// Reports whether an address is on the public internet and not one of this machine.
#[must_use]
pub fn is_public(address: Ipv4Addr) -> bool {
    let is_special = |&(network, length): &(Ipv4Addr, u8)| {
        let mask = u32::MAX << (32 - u32::from(length));
        u32::from(address) & mask == u32::from(network)
    };
    !SPECIAL_PURPOSE_RANGES.iter().any(is_special)
        && !METADATA_ADDRESSES.contains(&address)
        && !is_local(address)
}

/// Reports whether an address is one of this machine. The kernel uses such an address
/// as the source address of packets to it.
fn is_local(address: Ipv4Addr) -> bool {
    // If it cannot be determined, for example because there are no file descriptors
    // left, the address counts as local.
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return true };
    // Sends no packet. An address without a route is not one of this machine.
    if socket.connect(SocketAddr::from((address, 9))).is_err() {
        return false;
    }
    socket.local_addr().is_ok_and(|source| source.ip() == IpAddr::V4(address))
}

/// Reports whether one of the ranges contains the address.
#[must_use]
pub fn within(ranges: &[Ipv4Net], address: Ipv4Addr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_public_addresses_are_recognized() {
        for (text, public) in [
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("172.32.0.1", true),
            ("192.0.1.1", true),
            ("198.20.0.1", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("127.0.0.1", false),
            ("127.255.255.255", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.1", false),
            ("192.168.255.1", false),
            ("198.19.255.255", false),
            ("203.0.113.7", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("168.63.129.16", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }
}
