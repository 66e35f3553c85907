//! Tests of both guests through the public API.
//!
//! They are one binary, so that the templates are built once.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod bounds;
mod cache;
mod cancel;
mod code;
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
mod private_files;
mod process;
mod python;
mod python_data;
mod quick;
mod scripts;
mod server;
mod snapshot_files;
mod snapshots;
mod stdlib;
mod values;
