//! What our resolver told one sandbox: which addresses for which names, and the
//! addresses that stand for names which it may not reach.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;

use super::policy::Reason;

/// Names that are remembered of all addresses together, and sinks; beyond them the
/// oldest address is forgotten.
const MOST: usize = 8192;
/// Names of one address.
const MOST_NAMES: usize = 32;
/// Stands for names that are not resolved, from a range that is for benchmarks
/// (RFC 2544) and never reached.
const SINK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SINKS: u32 = 1 << 16;

/// The memory of one sandbox's resolver.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Ipv4Addr, Vec<String>>,
    order: VecDeque<Ipv4Addr>,
    count: usize,
    sinks: HashMap<Ipv4Addr, (String, Reason)>,
    of_sink: HashMap<String, Ipv4Addr>,
    next: u32,
}

impl Names {
    /// The sandbox was told that a name has this address.
    pub fn told(&mut self, address: Ipv4Addr, name: &str) {
        let names = self.known.entry(address).or_insert_with(|| {
            self.order.push_back(address);
            Vec::new()
        });
        if !names.iter().any(|known| known == name) {
            if names.len() >= MOST_NAMES {
                names.remove(0);
                self.count -= 1;
            }
            names.push(name.to_owned());
            self.count += 1;
        }
        while self.count > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.count -= self.known.remove(&oldest).map_or(0, |names| names.len());
        }
    }

    /// The names for which it was told this address.
    #[must_use]
    pub fn of(&self, address: Ipv4Addr) -> Vec<String> {
        self.known.get(&address).cloned().unwrap_or_default()
    }

    /// An address that stands for a name which it may not reach: a connection to
    /// it is reset at once, under that name.
    pub fn sink(&mut self, name: &str, reason: Reason) -> Ipv4Addr {
        if let Some(address) = self.of_sink.get(name).copied() {
            self.sinks.insert(address, (name.to_owned(), reason));
            return address;
        }
        // The first one is the network's own.
        self.next = self.next % (SINKS - 1) + 1;
        let address = Ipv4Addr::from(u32::from(SINK) + self.next);
        if let Some((old, _)) = self.sinks.insert(address, (name.to_owned(), reason)) {
            self.of_sink.remove(&old);
        }
        self.of_sink.insert(name.to_owned(), address);
        if self.of_sink.len() > MOST {
            // A sandbox that asks for so many is not one to explain things to.
            self.of_sink.clear();
            self.sinks.clear();
        }
        address
    }

    /// The name that an address stands for, and why it is not reached.
    #[must_use]
    pub fn sunk(&self, address: Ipv4Addr) -> Option<(String, Reason)> {
        self.sinks.get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_and_bounded() {
        let mut names = Names::default();
        let address = Ipv4Addr::new(1, 2, 3, 4);
        names.told(address, "a.com");
        names.told(address, "b.com");
        names.told(address, "a.com");
        assert_eq!(names.of(address), ["a.com", "b.com"]);
        for number in 0..20_000_u32 {
            names.told(Ipv4Addr::from(0x0500_0000 + number), "c.com");
        }
        assert!(names.of(address).is_empty() && names.known.len() <= MOST);
        assert_eq!(names.of(Ipv4Addr::from(0x0500_0000 + 19_999)), ["c.com"]);
        for number in 0..100_000_u32 {
            names.told(Ipv4Addr::from(0x0600_0000 + number % 1000), &format!("{number}.com"));
        }
        let count: usize = names.known.values().map(Vec::len).sum();
        assert!(count <= MOST && count == names.count, "{count}");
    }

    #[test]
    fn a_sink_stands_for_one_name() {
        let mut names = Names::default();
        let one = names.sink("a.com", Reason::Unlisted);
        let two = names.sink("b.com", Reason::Rule);
        assert_ne!(one, two);
        assert_eq!(names.sink("a.com", Reason::Rule), one);
        assert_eq!(names.sunk(one), Some(("a.com".to_owned(), Reason::Rule)));
        assert!(!super::super::address::is_public(one));
        for number in 0..100_000 {
            names.sink(&format!("{number}.com"), Reason::Unlisted);
        }
        assert!(names.sinks.len() <= MOST + 1);
    }
}
