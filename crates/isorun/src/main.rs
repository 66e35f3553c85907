//! The `isorun` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    isorun::main()
}
