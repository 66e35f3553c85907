//! The server and its command as their users meet them: real processes, real
//! sandboxes, real sockets.
//!
//! What sandboxes need has to be there (`cargo xtask setup`): without it these
//! tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod audit;
mod bad_input;
mod command;
mod credentials;
mod exec;
mod files;
mod fixture;
mod graceful;
mod image;
mod keys;
mod lasting;
mod long;
mod network;
mod openapi;
mod operation;
mod ports;
mod private;
mod runs;
mod serve;
mod shell;
mod soak;
mod sockets;
mod state;
mod tenants;
mod terminal;
mod unknown;
mod urls;
mod world;
