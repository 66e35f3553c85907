//! The names that one sandbox has resolved, by address, and its sinkhole addresses, which
//! represent names that it must not reach.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;

use super::policy::Reason;

/// Maximum number of names over all addresses, beyond which the oldest address is removed;
/// also the maximum number of sinkhole addresses.
const MAX_NAMES: usize = 8192;
/// Maximum number of names of one address.
const MAX_NAMES_PER_ADDRESS: usize = 32;
/// The first address of the sinkhole range, which is part of the range for benchmarks
/// (RFC 2544), to which no connection is allowed.
const SINKHOLE_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Number of addresses in the sinkhole range.
const SINKHOLE_ADDRESSES: u32 = 1 << 16;

/// The answers that one sandbox received from our resolver.
#[derive(Debug, Default)]
pub struct NameTable {
    names_by_address: HashMap<Ipv4Addr, Vec<String>>,
    insertion_order: VecDeque<Ipv4Addr>,
    name_count: usize,
    sinkholes: HashMap<Ipv4Addr, (String, Reason)>,
    sinkhole_by_name: HashMap<String, Ipv4Addr>,
    next_sinkhole: u32,
}

impl NameTable {
    /// Records that the sandbox resolved a name to an address.
    pub fn record(&mut self, address: Ipv4Addr, name: &str) {
        let names = self.names_by_address.entry(address).or_insert_with(|| {
            self.insertion_order.push_back(address);
            Vec::new()
        });
        if !names.iter().any(|recorded| recorded == name) {
            if names.len() >= MAX_NAMES_PER_ADDRESS {
                names.remove(0);
                self.name_count -= 1;
            }
            names.push(name.to_owned());
            self.name_count += 1;
        }
        while self.name_count > MAX_NAMES
            && let Some(oldest) = self.insertion_order.pop_front()
        {
            self.name_count -= self.names_by_address.remove(&oldest).map_or(0, |names| names.len());
        }
    }

    /// Returns the names that the sandbox resolved to an address.
    #[must_use]
    pub fn names_of(&self, address: Ipv4Addr) -> Vec<String> {
        self.names_by_address.get(&address).cloned().unwrap_or_default()
    }

    /// Returns a sinkhole address for a name that the sandbox must not reach. A connection
    /// to it is reset at once and reported with that name.
    pub fn sinkhole(&mut self, name: &str, reason: Reason) -> Ipv4Addr {
        if let Some(address) = self.sinkhole_by_name.get(name).copied() {
            self.sinkholes.insert(address, (name.to_owned(), reason));
            return address;
        }
        // The first one is the network address.
        self.next_sinkhole = self.next_sinkhole % (SINKHOLE_ADDRESSES - 1) + 1;
        let address = Ipv4Addr::from(u32::from(SINKHOLE_NETWORK) + self.next_sinkhole);
        if let Some((old, _)) = self.sinkholes.insert(address, (name.to_owned(), reason)) {
            self.sinkhole_by_name.remove(&old);
        }
        self.sinkhole_by_name.insert(name.to_owned(), address);
        if self.sinkhole_by_name.len() > MAX_NAMES {
            // Reports without a name are acceptable for a sandbox with so many queries.
            self.sinkhole_by_name.clear();
            self.sinkholes.clear();
        }
        address
    }

    /// Returns the name that a sinkhole address represents, and why it is blocked.
    #[must_use]
    pub fn sinkholed(&self, address: Ipv4Addr) -> Option<(String, Reason)> {
        self.sinkholes.get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_names_are_known_and_bounded() {
        let mut names = NameTable::default();
        let address = Ipv4Addr::new(1, 2, 3, 4);
        names.record(address, "a.com");
        names.record(address, "b.com");
        names.record(address, "a.com");
        assert_eq!(names.names_of(address), ["a.com", "b.com"]);
        for number in 0..20_000_u32 {
            names.record(Ipv4Addr::from(0x0500_0000 + number), "c.com");
        }
        assert!(names.names_of(address).is_empty() && names.names_by_address.len() <= MAX_NAMES);
        assert_eq!(names.names_of(Ipv4Addr::from(0x0500_0000 + 19_999)), ["c.com"]);
        for number in 0..100_000_u32 {
            names.record(Ipv4Addr::from(0x0600_0000 + number % 1000), &format!("{number}.com"));
        }
        let name_count: usize = names.names_by_address.values().map(Vec::len).sum();
        assert!(name_count <= MAX_NAMES && name_count == names.name_count, "{name_count}");
    }

    #[test]
    fn sinkhole_address_belongs_to_one_name() {
        let mut names = NameTable::default();
        let one = names.sinkhole("a.com", Reason::Unlisted);
        let two = names.sinkhole("b.com", Reason::Rule);
        assert_ne!(one, two);
        assert_eq!(names.sinkhole("a.com", Reason::Rule), one);
        assert_eq!(names.sinkholed(one), Some(("a.com".to_owned(), Reason::Rule)));
        assert!(!super::super::address::is_public(one));
        for number in 0..100_000 {
            names.sinkhole(&format!("{number}.com"), Reason::Unlisted);
        }
        assert!(names.sinkholes.len() <= MAX_NAMES + 1);
    }
}
