//! The sandbox's root file system.
//!
//! The engine provides an empty directory with `image`, which is read-only; `disk`,
//! a file system of limited size; and mount points. Programs see an overlay of the
//! disk over the image. After [`enter`] there is no path to anything else, neither
//! to the agent nor to the disk.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount, mount_bind_recursive};
use rustix::process::{chdir, pivot_root};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

const NEW_ROOT: &str = "/new";
const OLD_ROOT: &str = "/dev/.isorun";

/// Mounts an overlay of the disk over the image and makes it the root.
pub fn enter() -> io::Result<()> {
    fs::create_dir("/disk/upper")?;
    fs::create_dir("/disk/work")?;
    let options = c"lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";
    mount("none", NEW_ROOT, "overlay", MountFlags::empty(), Some(options))?;
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let target = mount_point(name)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("none", &*target, kind, flags, None)?;
    }
    mount_bind_recursive("/dev", &*mount_point("dev")?)?;
    // Almost every image has them.
    for name in ["tmp", "root", "run"] {
        mount_point(name)?;
    }
    fs::set_permissions(format!("{NEW_ROOT}/tmp"), Permissions::from_mode(0o1777))?;
    // gVisor ends a container whose first root is unmounted. So it stays mounted,
    // over-mounted with an inaccessible tmpfs. Unmounting that requires a privilege
    // that only the agent has.
    fs::create_dir(format!("{NEW_ROOT}{OLD_ROOT}"))?;
    pivot_root(NEW_ROOT, &*format!("{NEW_ROOT}{OLD_ROOT}"))?;
    chdir("/")?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", OLD_ROOT, "tmpfs", flags, Some(c"size=4k,mode=0"))?;
    Ok(())
}

/// Redirects standard input, output and error to `/dev/null`.
pub fn redirect_stdio() -> io::Result<()> {
    let null = open("/dev/null", OFlags::RDWR, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Returns a descriptor of `/dev/null`. Programs may have replaced the file, for
/// example with a pipe that blocks when it is opened; this one was opened by
/// [`redirect_stdio`].
pub fn null() -> io::Result<OwnedFd> {
    rustix::stdio::stdin().try_clone_to_owned()
}

/// Returns the path of a directory of the new root, and creates it if the image
/// does not have it.
fn mount_point(name: &str) -> io::Result<String> {
    let path = format!("{NEW_ROOT}/{name}");
    if !Path::new(&path).is_dir() {
        // A hostile image may have a link here; its target is inside the sandbox, too.
        fs::create_dir(&path)?;
    }
    Ok(path)
}
