//! Programs that isorun and its tests run, from Debian's own packages.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, progress};

/// A registry, and what fills it and makes images: the tests of images, and the
/// benchmark that compares with them.
pub fn image_tools() -> Result<()> {
    programs(&[("docker-registry", "docker-registry"), ("skopeo", "skopeo"), ("umoci", "umoci")])
}

/// What sets up the networks of sandboxes, and those that their tests are in.
pub fn network_tools() -> Result<()> {
    programs(&[("ip", "iproute2"), ("nft", "nftables")])
}

/// Installs what is missing, as root on Debian; elsewhere the error says what is
/// wanted. Each program comes with the name of its package.
fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !is_on(&path, program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !Path::new("/etc/debian_version").exists()
        || process::answer("id", &["-u"]).as_deref() != Some("0")
    {
        bail!("wanted for isorun: {names}; Debian has packages of these names");
    }
    progress::step(&format!("apt-get install {names}"), || {
        let mut update = Command::new("apt-get");
        update.args(["update", "-q"]);
        process::quiet(update)?;
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["install", "-qy", "--no-install-recommends"]).args(&missing);
        process::quiet(install)
    })
}

fn is_on(path: &OsStr, program: &str) -> bool {
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}
