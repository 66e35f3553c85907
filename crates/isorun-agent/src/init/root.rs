//! The sandbox's root file system.
//!
//! The engine gives an empty folder with three things in it: `image`, which is
//! read-only; `disk`, a file system of limited size; and mount points. What
//! programs see is the one laid over the other. After [`enter`] they have no path
//! to anything else, neither to the agent nor to the disk.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount, mount_bind_recursive};
use rustix::process::{chdir, pivot_root};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

const NEW: &str = "/new";
const OLD: &str = "/dev/.isorun";

/// Lays the disk over the image and makes it the root.
pub fn enter() -> io::Result<()> {
    fs::create_dir("/disk/upper")?;
    fs::create_dir("/disk/work")?;
    let options = c"lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";
    mount("none", NEW, "overlay", MountFlags::empty(), Some(options))?;
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let target = mount_point(name)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("none", &*target, kind, flags, None)?;
    }
    mount_bind_recursive("/dev", &*mount_point("dev")?)?;
    // Part of every image, almost.
    for name in ["tmp", "root", "run"] {
        mount_point(name)?;
    }
    fs::set_permissions(format!("{NEW}/tmp"), Permissions::from_mode(0o1777))?;
    // gVisor ends a container whose first root is unmounted. So it stays, under
    // a lid that takes a privilege to lift which only the agent has.
    fs::create_dir(format!("{NEW}{OLD}"))?;
    pivot_root(NEW, &*format!("{NEW}{OLD}"))?;
    chdir("/")?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", OLD, "tmpfs", flags, Some(c"size=4k,mode=0"))?;
    Ok(())
}

/// Leaves this process without input and output.
pub fn silence() -> io::Result<()> {
    let null = open("/dev/null", OFlags::RDWR, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// A file that has nothing in it and keeps nothing. Programs may have put
/// something else in the place of `/dev/null`, such as a pipe, which nobody
/// could open without waiting; this is the one that [`silence`] opened.
pub fn null() -> io::Result<OwnedFd> {
    rustix::stdio::stdin().try_clone_to_owned()
}

/// A folder of the new root, made if the image does not have it.
fn mount_point(name: &str) -> io::Result<String> {
    let path = format!("{NEW}/{name}");
    if !Path::new(&path).is_dir() {
        // A hostile image may have a link here; what it leads to is inside too.
        fs::create_dir(&path)?;
    }
    Ok(path)
}
