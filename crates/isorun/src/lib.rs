//! The `isorun` command: subcommands, and the HTTP client that most of them use. The
//! server is the crate `isorun-server`. This is a library only for its own binary.
//!
//! | to change | start in |
//! |---|---|
//! | a tool of `isorun mcp` | `mcp.rs` |
//! | a subcommand | `command.rs` (their list), then `command/NAME.rs` |
//! | the options of `isorun serve` | `command/serve.rs`, `command/server_limits.rs` |
//! | a request to the server | `client.rs`; over WebSockets `client/socket.rs`, `client/shell.rs` |
//! | the choice of URL and key | `client/config.rs`, and `_config.py` of `sdk/python` |
//! | an exit code, an error message, a hint | `failure.rs` |
//! | tables and text on a terminal | `command/table.rs`, `visible.rs` |
//!
//! What must stay true:
//!
//! - Clients speak HTTP, on the server's machine too. Only `serve`, `keys`, `image`,
//!   `audit verify` and `doctor` access the server's data or machine; `run` may start a
//!   server of its own. (review)
//! - The key that `serve` wrote is sent to this machine only, and a configuration that
//!   others can write to is refused. (unit tests of `client/config.rs`)
//! - Exit codes are part of the interface: `docs/isorun/command.md`. (tests `command`)
//! - Tables and messages show text of a server or a sandbox without control characters.
//!   (unit tests of `visible.rs`)
//!
//! The tests in `tests/` are those of the server, too. They start real sandboxes, as root.

mod client;
mod command;
mod failure;
mod mcp;
mod visible;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command with the arguments of this process.
#[doc(hidden)]
#[must_use]
pub fn main() -> ExitCode {
    command::run(command::Cli::parse()).unwrap_or_else(|failure| {
        failure.report();
        failure.exit_code().into()
    })
}
