//! Roots of Debian: made by debootstrap, kept for repeated use, and entered in namespaces of
//! their own, so that nothing stays mounted and no process stays behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::digest::Inputs;
use crate::{debian, process, stamp, workspace};

/// The release of Debian in the image, and in which the files of a release are tried.
pub const SUITE: &str = "trixie";

/// The oldest release of Debian in which the package of isorun is tried.
pub const OLDEST_SUITE: &str = "bookworm";

/// The packages that apt has downloaded, but not installed, in [`fresh`]: what the package
/// of isorun recommends, and what the samples need.
const DOWNLOADED: [&str; 5] =
    ["nftables", "ca-certificates", "man-db", "python3-venv", "python3-httpx"];

/// Returns a minimal root of a release of Debian, in which apt can install what the package of
/// isorun recommends without a network.
pub fn fresh(suite: &str) -> Result<PathBuf> {
    require_root()?;
    let dir = workspace::tools().join("debian-root").join(suite);
    let digest = Inputs::default().text(suite, &DOWNLOADED.join(" ")).text("layout", "1").finish();
    let label = format!("a root of Debian {suite} by debootstrap (a minute)");
    stamp::install(&label, &dir, &digest, || {
        debian::bootstrap_tools()?;
        let release = debian::release().context("roots are made on Debian, and this is not it")?;
        let tools = dir.join("tools");
        fs::create_dir_all(&tools)?;
        let debootstrap = debian::unpack(&["debootstrap"], &release, &tools)?;
        let root = dir.join("root");
        let mut command = Command::new(debootstrap.join("usr/sbin/debootstrap"));
        command.env("DEBOOTSTRAP_DIR", debootstrap.join("usr/share/debootstrap"));
        command.args(["--variant=minbase", suite]).arg(&root).arg(debian::mirror()?);
        process::run_quiet(command)?;
        // The machine may verify downloads, or reach the mirror, in a way of its own.
        copy_apt_configuration(&root)?;
        let script = format!(
            "apt-get update -q && apt-get install -qy --download-only {}",
            DOWNLOADED.join(" ")
        );
        Root { dir: root }.run(&script, Network::Machine)
    })?;
    Ok(dir.join("root"))
}

fn copy_apt_configuration(root: &Path) -> Result<()> {
    let target = root.join("etc/apt/apt.conf.d");
    for entry in fs::read_dir("/etc/apt/apt.conf.d")? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("Acquire::") && !text.contains("Post-Invoke") {
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The network that programs in a root have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// That of the machine.
    Machine,
    /// Only a loopback interface.
    Loopback,
}

/// A copy of a root, which is removed when it is dropped.
pub struct RootCopy(Root);

/// A directory with the files of a Debian.
pub struct Root {
    pub dir: PathBuf,
}

impl RootCopy {
    /// Copies a root.
    pub fn of(base: &Path, dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir.parent().unwrap_or(&dir))?;
        let mut cp = Command::new("cp");
        cp.args(["--archive", "--reflink=auto"]).arg(base).arg(&dir);
        process::run_quiet(cp)?;
        Ok(Self(Root { dir }))
    }
}

impl std::ops::Deref for RootCopy {
    type Target = Root;

    fn deref(&self) -> &Root {
        &self.0
    }
}

impl Drop for RootCopy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Enters a root: bind mounts what the kernel provides, makes the directory the root of the
/// mount namespace and starts a shell. A plain chroot would not do: there the kernel refuses
/// user namespaces. The first argument is the directory, the second the script.
const ENTER: &str = r#"
cd "$1"
mount --bind . .
cd "$1"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs mnt
mkdir mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
umount /mnt
exec /usr/bin/env -i HOME="$3" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /bin/sh -euc "$2"
"#;

impl Root {
    /// Creates the command that runs a shell script in the root. All processes that the script
    /// leaves end with it. The directory for temporary files of the script is `/tmp`.
    pub fn command(&self, script: &str, network: Network) -> Command {
        let mut command = Command::new("timeout");
        // The end of `unshare` ends everything in the namespace.
        command.args(["--foreground", "--signal=KILL", SCRIPT_TIMEOUT_SECONDS, "unshare"]);
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]);
        let enter = match network {
            Network::Machine => ENTER.to_owned(),
            Network::Loopback => {
                command.arg("--net");
                format!("ip link set lo up\n{ENTER}")
            }
        };
        command.args(["--propagation", "private", "sh", "-euc", &enter, "sh"]);
        // The home that login(1) would set for root.
        command.arg(&self.dir).arg(script).arg(HOME);
        command
    }

    /// Runs a script in the root, and shows its output only if it fails.
    pub fn run(&self, script: &str, network: Network) -> Result<()> {
        self.output(script, network).map(|_| ())
    }

    /// Runs a script in the root, and returns what it prints on both streams.
    pub fn output(&self, script: &str, network: Network) -> Result<String> {
        let captured = process::capture(self.command(script, network))?;
        if !captured.status.success() {
            bail!(
                "in a root of Debian, `{script}` failed ({}):\n{}",
                captured.status,
                process::tail(&captured.text, 40)
            );
        }
        Ok(captured.text)
    }
}

/// The time after which a script in a root is killed, in seconds.
const SCRIPT_TIMEOUT_SECONDS: &str = "600";

/// The home directory of root.
pub const HOME: &str = "/root";

fn require_root() -> Result<()> {
    if process::stdout_of("id", &["-u"]).as_deref() != Some("0") {
        bail!("this needs root: it makes and enters a root of Debian");
    }
    Ok(())
}
