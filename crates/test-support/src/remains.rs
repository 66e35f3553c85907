//! What destroyed sandboxes must not leave.

use std::fs;
use std::path::Path;

use crate::process::command_lines_with;
use crate::wait::wait_until;

/// The empty network namespace that the file servers of all containers share. It belongs to the
/// state directory of `runsc`, from gVisor's versions of 2026 on.
const SHARED_NETWORK: &str = "null-netns";

/// Asserts that no container, mount, process or control group of a sandbox is left.
///
/// `directory` is the state directory of the engine, or one above it, whose path is in the
/// mounts and command lines of its sandboxes. `group` is the name of the engine's control
/// group.
pub async fn assert_none(directory: &Path, engine: &Path, group: &str) {
    for part in ["containers", "runsc"] {
        let left: Vec<_> = fs::read_dir(engine.join(part))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != SHARED_NETWORK)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let name = directory.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    // Killed processes may need a moment to exit.
    wait_until("the processes of the sandboxes have exited", async || {
        command_lines_with(name).is_empty()
    })
    .await;
    let groups = Path::new("/sys/fs/cgroup");
    for hierarchy in fs::read_dir(groups).unwrap().flatten() {
        assert!(!hierarchy.path().join(group).exists(), "{hierarchy:?}");
    }
    assert!(!groups.join(group).exists());
}
