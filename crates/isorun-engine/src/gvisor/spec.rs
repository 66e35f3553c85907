//! The configuration of a container, as `runsc` reads it.
//!
//! The container's own root is a folder with nothing but mount points. The agent
//! lays `disk` over `image` and makes that the root of everything else, so what a
//! sandbox writes has a size limit and is in a checkpoint.

use std::path::Path;

use serde_json::{Value, json};

use super::cgroup::CPU_SHARES;
use super::network::{INSIDE, OUTSIDE};
use crate::engine::{Root, SandboxSpec};

/// What runsc's own processes may use on top of the guest's memory.
pub const OVERHEAD_MIB: u64 = 64;

/// Mount points in the skeleton.
pub const SKELETON: [&str; 8] = ["agent", "dev", "disk", "groups", "image", "new", "proc", "sys"];

/// What a container is made from, apart from whose it is. Two sandboxes of the
/// same shape are the same before they are used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub root: Root,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub pids: u32,
    /// Which of the machine's files it does not see: see `hiding.rs`.
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

    /// The memory limit of the control group, in bytes.
    pub fn memory(&self) -> u64 {
        (self.mem_mib + OVERHEAD_MIB) << 20
    }

    /// Threads of the machine. The guest's own limit is enforced inside, where it
    /// fails one fork; this one is for what escapes that.
    pub fn host_pids(&self) -> u64 {
        u64::from(self.pids) * 64 + 4096
    }
}

/// Folders on the machine.
pub struct Places<'a> {
    pub skeleton: &'a Path,
    /// The folder that has the agent in it.
    pub agent: &'a Path,
    pub image: &'a Path,
    pub disk: &'a Path,
    pub cgroup: &'a str,
    /// A file of the network that it gets.
    pub network: &'a str,
}

/// The `config.json` of a container.
pub fn config(shape: &Shape, places: &Places<'_>) -> Value {
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
        // The agent's only: it gives them up for its children.
        "CAP_SETPCAP",
        "CAP_SYS_ADMIN",
    ];
    let mount = |destination: &str, kind: &str, source: &Path, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let size = format!("size={}m", shape.disk_mib);
    let hint = "dev.gvisor.spec.mount.disk";
    json!({
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": { "path": places.skeleton, "readonly": true },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": [
                "/agent/isorun-agent",
                format!("{INSIDE}:{}", isorun_agent::protocol::PORT),
                OUTSIDE.to_string(),
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
            mount("/agent", "bind", places.agent, &["ro", "bind"]),
            mount("/image", "bind", places.image, &["ro", "rbind"]),
            mount("/disk", "bind", places.disk, &["rw", &size]),
        ],
        // Makes `disk` a file system of this size in the sandbox's own memory
        // file, which lies in the folder: reads and writes never leave the sandbox.
        "annotations": {
            format!("{hint}.source"): places.disk,
            format!("{hint}.type"): "tmpfs",
            format!("{hint}.share"): "container",
            format!("{hint}.options"): format!("rw,{size}"),
        },
        "linux": {
            "cgroupsPath": places.cgroup,
            "namespaces": [
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "network", "path": places.network },
            ],
            "resources": {
                "memory": { "limit": shape.memory() },
                "cpu": {
                    "quota": u64::from(shape.vcpus) * 100_000,
                    "period": 100_000,
                    "shares": CPU_SHARES,
                },
                "pids": { "limit": shape.host_pids() },
            },
        },
    })
}
