//! The program `isorun-agent`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

/// The tests build the program like any other, without the flag.
#[test]
fn build_that_waits_by_epoll_refuses_to_start() {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_isorun-agent"));
    let output = agent.args(["127.0.0.1:1", "127.0.0.1"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(message.contains("waits by epoll"), "{message}");
}
