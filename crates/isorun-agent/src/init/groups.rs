//! Groups of processes that a program cannot leave.
//!
//! Each program that a client runs gets a control group of its own; whatever it
//! starts is in it too, also a daemon in another session. So all of it can be
//! found and killed. In another hierarchy there is one group for all of them,
//! which has the sandbox's limit of processes: under gVisor a limit does not hold
//! for the groups below.
//!
//! The file system of the groups is mounted, opened and taken off the tree
//! again before any other program runs: inside the sandbox there is no path to
//! it, and mounting it takes a privilege that only the agent had.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

const MOUNT_POINT: &str = "/groups";
const NAME: &str = "isorun";
/// Rounds of killing after which a group seems to outrun it.
const HOPELESS: u32 = 8;

/// All groups of the sandbox.
pub struct Groups {
    /// The one with the limit.
    all: OwnedFd,
    limit: Cell<Option<u32>>,
    /// The folder that has one group for each program.
    each: OwnedFd,
    next: Cell<u64>,
    /// Groups whose program has ended and left others running.
    lingering: RefCell<Vec<Group>>,
}

/// The processes of one program.
pub struct Group {
    name: String,
    dir: OwnedFd,
}

impl Groups {
    /// Makes the file systems and forgets their path.
    pub fn mount() -> io::Result<Self> {
        Ok(Self {
            all: hierarchy(c"pids")?,
            limit: Cell::new(None),
            each: hierarchy(c"cpuacct")?,
            next: Cell::new(0),
            lingering: RefCell::default(),
        })
    }

    /// Limits the processes and threads of all groups together.
    pub fn limit(&self, pids: u32) -> io::Result<()> {
        write_at(&self.all, "pids.max", &pids.to_string())?;
        self.limit.set(Some(pids));
        Ok(())
    }

    /// Whether one more program may start. Joining a group that is full is
    /// allowed, as on Linux; only forking in it is not.
    pub fn have_room(&self) -> bool {
        let Some(limit) = self.limit.get() else { return true };
        let current = read_at(&self.all, "pids.current").unwrap_or_default();
        current.trim().parse::<u32>().is_ok_and(|current| current < limit)
    }

    /// The files to which a process writes `0` in order to be in a group.
    pub fn doors(&self, group: &Group) -> io::Result<[OwnedFd; 2]> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let open = |dir: &OwnedFd| openat(dir, "cgroup.procs", flags, Mode::empty());
        Ok([open(&self.all)?, open(&group.dir)?])
    }

    /// Kills everything in a group, and returns when nothing is left.
    pub async fn kill(&self, group: &Group) {
        let mut pause = Duration::from_micros(100);
        for round in 0.. {
            let members = group.members();
            if members.is_empty() {
                break;
            }
            if round == HOPELESS {
                // It multiplies faster than it is killed. For this moment nobody
                // in the sandbox starts anything.
                let _ = write_at(&self.all, "pids.max", "1");
            }
            // A process group is killed at once, so that nothing in it forks
            // meanwhile. All of it is in this group, since it cannot be larger
            // than a session.
            let process_groups: HashSet<_> = members
                .iter()
                .filter_map(|pid| getpgid(Some(*pid)).ok())
                .filter(|leader| *leader != Pid::INIT)
                .collect();
            for leader in process_groups {
                let _ = kill_process_group(leader, Signal::KILL);
            }
            for pid in members {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
            // Their ends come through the reaper, which is another task.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        if let Some(pids) = self.limit.get() {
            let _ = write_at(&self.all, "pids.max", &pids.to_string());
        }
    }

    /// A new group.
    pub fn make(&self) -> io::Result<Group> {
        let number = self.next.get();
        self.next.set(number + 1);
        let name = format!("e{number}");
        mkdirat(&self.each, &*name, Mode::RWXU)?;
        let dir = openat(&self.each, &*name, DIRECTORY, Mode::empty())?;
        Ok(Group { name, dir })
    }

    /// Takes back a group whose program has ended.
    pub fn release(&self, group: Group) {
        if self.remove(&group).is_err() {
            self.lingering.borrow_mut().push(group);
        }
    }

    /// Removes the released groups in which nothing is left.
    pub fn sweep(&self) {
        if !self.lingering.borrow().is_empty() {
            self.lingering.borrow_mut().retain(|group| self.remove(group).is_err());
        }
    }

    fn remove(&self, group: &Group) -> io::Result<()> {
        Ok(unlinkat(&self.each, &*group.name, AtFlags::REMOVEDIR)?)
    }
}

impl Group {
    /// The processes in it now.
    pub fn members(&self) -> Vec<Pid> {
        let Ok(text) = read_at(&self.dir, "cgroup.procs") else { return Vec::new() };
        text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
    }
}

/// A group in a hierarchy of its own, which has no path any more.
fn hierarchy(controller: &std::ffi::CStr) -> io::Result<OwnedFd> {
    mount("none", MOUNT_POINT, "cgroup", MountFlags::empty(), Some(controller))?;
    let root = open(MOUNT_POINT, DIRECTORY, Mode::empty())?;
    unmount(MOUNT_POINT, UnmountFlags::DETACH)?;
    mkdirat(&root, NAME, Mode::RWXU)?;
    Ok(openat(&root, NAME, DIRECTORY, Mode::empty())?)
}

/// Gives up, for the agent's children, what only the agent needs.
pub fn drop_privileges() -> io::Result<()> {
    remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
    // Last: it takes this one to remove any.
    Ok(remove_capability_from_bounding_set(CapabilitySet::SETPCAP)?)
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

fn write_at(dir: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    let file = openat(dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes())?;
    Ok(())
}

fn read_at(dir: impl AsFd, name: &str) -> io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(std::fs::File::from(file))
}
