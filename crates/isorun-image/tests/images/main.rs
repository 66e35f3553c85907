//! Tests of images, with real registries and with malicious ones.
//!
//! They must run as root, with the programs that `cargo xtask setup` installs;
//! without those they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bundle;
mod garbage;
mod hostile;
mod import;
mod properties;
mod pull;
mod registry;
mod server;
mod shared;
mod transfer;
mod unpack;
