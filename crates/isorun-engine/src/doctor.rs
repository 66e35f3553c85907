//! Checks whether a machine meets the requirements of the engines.

use std::path::Path;

use serde::Serialize;

use crate::engine::Result;
use crate::gvisor::{self, GvisorConfig, Tools};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, such as `runsc`.
    pub what: &'static str,
    /// True if the requirement is met.
    pub good: bool,
    /// Details of what was found, or what to do if the requirement is not met.
    pub detail: String,
}

/// Checks every requirement of the gVisor engine. Changes nothing.
#[must_use]
pub fn gvisor(config: &GvisorConfig) -> Vec<Finding> {
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
            "this user can create network namespaces, mounts and control groups",
            "creating network namespaces, mounts and control groups requires root: run the server \
             as root",
        ),
        from_result("runsc and agent", tools, |tools| {
            let found = format!("runsc {}, {}", tools.version, tools.agent.display());
            match tools.shortcoming() {
                Some(shortcoming) => format!("{found}; {shortcoming}"),
                None => found,
            }
        }),
        from_result("control groups", gvisor::cgroup_version(), |version| {
            format!("version {version}")
        }),
        finding(
            "nft",
            ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft"]
                .iter()
                .any(|path| Path::new(path).exists()),
            "redirects the connections of sandboxes to the proxy that enforces their policy",
            "`nft` was not found, and sandboxes cannot have a network without it: install the \
             package nftables",
        ),
        finding(
            "namespaces",
            ["net", "mnt", "user", "pid"]
                .iter()
                .all(|kind| Path::new("/proc/self/ns").join(kind).exists()),
            "network, mount, user and PID namespaces are available",
            "the kernel was built without namespaces: use a distribution's kernel",
        ),
    ]
}

fn finding(what: &'static str, good: bool, found: &str, remedy: &str) -> Finding {
    Finding { what, good, detail: if good { found } else { remedy }.to_owned() }
}

fn from_result<T>(what: &'static str, found: Result<T>, show: impl FnOnce(T) -> String) -> Finding {
    match found {
        Ok(found) => Finding { what, good: true, detail: show(found) },
        Err(error) => Finding { what, good: false, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_reported() {
        let mut config = GvisorConfig::new("/nonexistent");
        config.runsc = Some("/no/such/runsc".into());
        let findings = gvisor(&config);
        let tools = findings.iter().find(|finding| finding.what == "runsc and agent").unwrap();
        assert!(!tools.good && tools.detail.contains("/no/such/runsc"), "{tools:?}");
        assert!(!Path::new("/nonexistent").exists());
    }
}
