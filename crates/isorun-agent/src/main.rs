//! `isorun-agent`: the first process of a sandbox. It starts, monitors and reaps
//! every other process, for clients that connect from outside the sandbox.

mod init;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

const USAGE: &str = "usage: isorun-agent LISTEN PEER
  LISTEN  the address and port to listen on
  PEER    the only address that may connect

The first process of an isorun sandbox. It runs nowhere else.";

/// Whether this build waits by `poll` instead of `epoll`, which does not survive a checkpoint.
#[allow(unexpected_cfgs, reason = "a flag of mio, set by `cargo xtask setup --linux`")]
const WAITS_BY_POLL: bool = cfg!(mio_unsupported_force_poll_poll);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, peer): (SocketAddr, IpAddr) = match arguments.as_slice() {
        [flag] if flag == "--version" => {
            println!("isorun-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        [listen, peer] => match (listen.parse(), peer.parse()) {
            (Ok(listen), Ok(peer)) => (listen, peer),
            _ => return fail(USAGE),
        },
        _ => return fail(USAGE),
    };
    if !WAITS_BY_POLL {
        return fail(
            "isorun-agent: this build waits by epoll, with which it fails after a restore: build \
             it by `cargo xtask setup --linux`",
        );
    }
    if std::process::id() != 1 {
        return fail("isorun-agent: this is not the first process of a sandbox");
    }
    match init::run(listen, peer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("isorun-agent: {error}")),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
