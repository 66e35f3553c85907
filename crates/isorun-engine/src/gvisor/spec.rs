//! The OCI configuration of a container for `runsc`.
//!
//! The root of the container is a directory with nothing but mount points. The
//! agent mounts an overlay of `disk` over `image` and makes that the root of
//! everything else, so files that a sandbox writes have a size limit and are part
//! of a checkpoint.

use std::path::Path;

use serde_json::{Value, json};

use super::cgroup::{CPU_PERIOD_US, CPU_SHARES};
use super::link::{INSIDE_ADDRESS, OUTSIDE_ADDRESS};
use crate::engine::{Root, SandboxSpec};

/// The memory that the processes of runsc may use on top of the guest's memory, in
/// MiB.
pub const OVERHEAD_MIB: u64 = 64;

/// The mount points in the root of the container.
pub const SKELETON_DIRS: [&str; 8] =
    ["agent", "dev", "disk", "groups", "image", "new", "proc", "sys"];

/// The properties of a container that do not depend on the sandbox that uses it.
/// Containers of the same shape are interchangeable before they are used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub root: Root,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub pids: u32,
    /// The version of the machine's hidden files: see `hiding.rs`.
    pub view: u64,
}

impl Shape {
    pub fn of(spec: &SandboxSpec) -> Self {
        Self {
            root: spec.root.clone(),
            vcpus: spec.vcpus,
            mem_mib: spec.mem_mib,
            disk_mib: spec.disk_mib,
            pids: spec.pids,
            view: 0,
        }
    }

    /// Returns the memory limit of the control group, in bytes.
    pub fn memory(&self) -> u64 {
        (self.mem_mib + OVERHEAD_MIB) << 20
    }

    /// Returns the limit of the threads that the processes of runsc may have on the
    /// machine. The guest's own limit is enforced inside, where a fork beyond it fails;
    /// this one limits a guest that escapes that.
    pub fn host_pids(&self) -> u64 {
        u64::from(self.pids) * 64 + 4096
    }
}

/// The paths on the machine that the configuration refers to.
pub struct BundlePaths<'a> {
    pub skeleton: &'a Path,
    /// The directory that has the agent in it.
    pub agent: &'a Path,
    pub image: &'a Path,
    pub disk: &'a Path,
    pub cgroup: &'a str,
    /// The file of its network namespace.
    pub network: &'a str,
}

/// Returns the `config.json` of a container.
pub fn config(shape: &Shape, paths: &BundlePaths<'_>) -> Value {
    const CAPABILITIES: [&str; 14] = [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
        // Only the agent has these. It removes them from the bounding set of its
        // children.
        "CAP_SETPCAP",
        "CAP_SYS_ADMIN",
    ];
    let mount = |destination: &str, kind: &str, source: &Path, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let size = format!("size={}m", shape.disk_mib);
    let hint = "dev.gvisor.spec.mount.disk";
    json!({
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": { "path": paths.skeleton, "readonly": true },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": [
                "/agent/isorun-agent",
                format!("{INSIDE_ADDRESS}:{}", isorun_agent::protocol::AGENT_PORT),
                OUTSIDE_ADDRESS.to_string(),
            ],
            "env": [],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": false,
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 65536, "hard": 65536 }],
        },
        "mounts": [
            mount("/proc", "proc", Path::new("proc"), &[]),
            mount("/sys", "sysfs", Path::new("sysfs"), &["ro"]),
            mount("/dev", "tmpfs", Path::new("tmpfs"), &[]),
            mount("/agent", "bind", paths.agent, &["ro", "bind"]),
            mount("/image", "bind", paths.image, &["ro", "rbind"]),
            mount("/disk", "bind", paths.disk, &["rw", &size]),
        ],
        // Makes `disk` a file system of this size in the sandbox's own memory file,
        // which is in that directory: reads and writes do not leave the sandbox.
        "annotations": {
            format!("{hint}.source"): paths.disk,
            format!("{hint}.type"): "tmpfs",
            format!("{hint}.share"): "container",
            format!("{hint}.options"): format!("rw,{size}"),
        },
        "linux": {
            "cgroupsPath": paths.cgroup,
            "namespaces": [
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "network", "path": paths.network },
            ],
            "resources": {
                "memory": { "limit": shape.memory() },
                "cpu": {
                    "quota": u64::from(shape.vcpus) * CPU_PERIOD_US,
                    "period": CPU_PERIOD_US,
                    "shares": CPU_SHARES,
                },
                "pids": { "limit": shape.host_pids() },
            },
        },
    })
}
