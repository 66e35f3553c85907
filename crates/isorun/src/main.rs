//! The `isorun` command.

use std::process::ExitCode;

/// Returns memory to the system soon after it was freed. The C library's allocator
/// keeps the memory of large responses for as long as the server runs.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    isorun::main()
}
