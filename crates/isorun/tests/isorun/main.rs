//! Integration tests of the server and its command, with real processes, sandboxes and sockets.
//!
//! They require the tools of `cargo xtask setup`, and fail without them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod audit;
mod bad_input;
mod cluster;
mod code;
mod command;
mod credentials;
mod exec;
mod files;
mod graceful;
mod image;
mod interpreters;
mod keys;
mod long;
mod mcp;
mod network;
mod openapi;
mod operation;
mod persistence;
mod ports;
mod private;
mod runs;
mod serve;
mod shell;
mod soak;
mod sockets;
mod state;
mod support;
mod tenants;
mod terminal;
mod unknown;
mod urls;
