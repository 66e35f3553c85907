//! Additional addresses of the loopback interface, on which the servers of a test listen.

use std::net::Ipv4Addr;
use std::process::Command;

/// An address of the loopback interface, which is removed when this is dropped.
///
/// Tests use documentation addresses (RFC 5737). Tests that run at the same time need
/// different ones.
pub struct LoopbackAddress(Ipv4Addr);

impl LoopbackAddress {
    /// Adds an address. One that a killed test has left is taken over.
    pub fn add(address: Ipv4Addr) -> Self {
        let added = Self(address);
        assert!(added.ip("replace"), "cannot add {address} to the interface lo: are you root?");
        added
    }

    fn ip(&self, operation: &str) -> bool {
        let address = format!("{}/32", self.0);
        let output = Command::new("ip").args(["addr", operation, &address, "dev", "lo"]).output();
        output.expect("ip must be installed").status.success()
    }
}

impl Drop for LoopbackAddress {
    fn drop(&mut self) {
        self.ip("del");
    }
}
