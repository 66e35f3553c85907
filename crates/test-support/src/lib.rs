//! What several tests and benchmarks of Linux sandboxes need: addresses, a resolver and
//! certificates of a network without the Internet; a PostgreSQL server; ports; processes and
//! mounts that end with their test; waiting for events; and turns of tests that use all CPUs.
//!
//! Nothing here depends on another crate of the workspace.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure fails the test")]

pub mod certificates;
pub mod loopback;
pub mod mounts;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod remains;
pub mod resolver;
pub mod turns;
pub mod wait;

pub use loopback::LoopbackAddress;
pub use mounts::Tmpfs;
pub use postgres::PostgresServer;
pub use process::KillOnDrop;
pub use resolver::Resolver;
