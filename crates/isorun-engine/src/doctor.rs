//! What a machine has of what engines need, and how to get the rest.

use std::path::Path;

use serde::Serialize;

use crate::engine::Result;
use crate::gvisor::{self, Config, Tools};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Such as `runsc`.
    pub what: &'static str,
    /// Whether it is as it has to be.
    pub good: bool,
    /// What was found; if it is not good, what to do.
    pub detail: String,
}

/// Looks at everything that the gVisor engine needs. Changes nothing.
#[must_use]
pub fn gvisor(config: &Config) -> Vec<Finding> {
    let tools = Tools::find(config.runsc.as_deref(), config.agent.as_deref());
    vec![
        finding(
            "linux",
            cfg!(target_os = "linux"),
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "sandboxes need a Linux kernel: run the server on a Linux machine",
        ),
        finding(
            "root",
            rustix::process::geteuid().is_root(),
            "this user may make networks, mounts and control groups",
            "networks, mounts and control groups take root: run the server as root",
        ),
        from("runsc and agent", tools, |tools| {
            format!("runsc {}, {}", tools.version, tools.agent.display())
        }),
        from("control groups", gvisor::cgroup_version(), |version| format!("version {version}")),
        finding(
            "nft",
            ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft"]
                .iter()
                .any(|path| Path::new(path).exists()),
            "hands connections of sandboxes to the proxy that decides about them",
            "there is no `nft`, and sandboxes have no network without it: install the package \
             nftables",
        ),
        finding(
            "namespaces",
            ["net", "mnt", "user", "pid"]
                .iter()
                .all(|kind| Path::new("/proc/self/ns").join(kind).exists()),
            "networks, mounts, users and processes of their own",
            "the kernel was built without namespaces: use a distribution's kernel",
        ),
    ]
}

fn finding(what: &'static str, good: bool, found: &str, remedy: &str) -> Finding {
    Finding { what, good, detail: if good { found } else { remedy }.to_owned() }
}

fn from<T>(what: &'static str, found: Result<T>, show: impl FnOnce(T) -> String) -> Finding {
    match found {
        Ok(found) => Finding { what, good: true, detail: show(found) },
        Err(error) => Finding { what, good: false, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let mut config = Config::new("/nonexistent");
        config.runsc = Some("/no/such/runsc".into());
        let findings = gvisor(&config);
        let tools = findings.iter().find(|finding| finding.what == "runsc and agent").unwrap();
        assert!(!tools.good && tools.detail.contains("/no/such/runsc"), "{tools:?}");
        assert!(!Path::new("/nonexistent").exists());
    }
}
