//! Tests of stored trees on a real S3 server in this process, and in a directory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod cache;
mod check;
mod faults;
mod fixture;
mod garbage;
mod integrity;
mod moto;
mod secrecy;
mod server;
mod trees;
