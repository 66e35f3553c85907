//! Both guests, driven through the public API.
//!
//! One binary: the templates are built once for all tests.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod bounds;
mod cache;
mod cancel;
mod contract;
mod directories;
mod entry_points;
mod evaluate;
mod failures;
mod files;
mod fixture;
mod hostcalls;
mod http;
mod isolation;
mod javascript;
mod limits;
mod mounts;
mod output;
mod python;
mod quick;
mod scripts;
mod server;
mod snapshot_files;
mod snapshots;
mod stdlib;
mod values;
