//! Ports for servers that are stopped and started again on the same port.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The ports that are tried: below those that systems give to outgoing connections, one of which
/// could otherwise have the port when the server is started again.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 20_000;

/// The number of ports that this process has tried.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// Returns a port of the loopback address on which nothing listens, and which this process gets
/// once.
pub fn reserved() -> u16 {
    // Other test processes begin elsewhere.
    let begin = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(PORTS)).unwrap();
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        assert!(tried < PORTS, "no port is free");
        let port = FIRST_PORT + (begin + tried) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
