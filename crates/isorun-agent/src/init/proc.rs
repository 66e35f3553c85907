//! Reads process information from `/proc`.

use std::fs;

use rustix::process::Pid;

/// Returns the command line of a process, empty if it has exited.
pub fn command_line(pid: Pid) -> Vec<u8> {
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default()
}

/// Returns the state letter of a process: `S` if it sleeps in the kernel, `T` if it
/// is stopped.
pub fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // Its name, in parentheses, may contain any characters.
    stat.rsplit(") ").next()?.chars().next()
}
