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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

const MOUNT_POINT: &str = "/groups";
const NAME: &str = "isorun";
/// Processes of a group from which on it is stopped before it is killed: it may
/// multiply faster than it is killed.
const CROWD: usize = 16;
/// Rounds of killing after which a group of any size is stopped first.
const MAX_PLAIN_ROUNDS: u32 = 4;
/// Rounds of stopping after which a group is killed although it still grows.
const MAX_STOP_ROUNDS: u32 = 64;
/// Empty groups that are kept for the next programs.
const SPARES: usize = 16;

/// All groups of the sandbox.
pub struct Groups {
    /// The one with the limit.
    all: OwnedFd,
    /// Its processes, and how many they are. Files stay open where that spares a
    /// program's start some system calls: under gVisor they are not cheap.
    all_procs: OwnedFd,
    all_current: OwnedFd,
    limit: Cell<Option<u32>>,
    /// The folder that has one group for each program.
    each: OwnedFd,
    next: Cell<u64>,
    /// Groups in which nothing is left.
    spares: RefCell<Vec<Group>>,
    /// Groups whose program has ended and left others running.
    lingering: RefCell<Vec<Group>>,
}

/// The processes of one program.
pub struct Group {
    name: String,
    /// Its `cgroup.procs`: to be in the group, write; to see who is, read.
    procs: OwnedFd,
}

impl Groups {
    /// Makes the file systems and forgets their path.
    pub fn mount() -> io::Result<Self> {
        let all = hierarchy(c"pids")?;
        Ok(Self {
            all_procs: open_at(&all, "cgroup.procs", OFlags::RDWR)?,
            all_current: open_at(&all, "pids.current", OFlags::RDONLY)?,
            all,
            limit: Cell::new(None),
            each: hierarchy(c"cpuacct")?,
            next: Cell::new(0),
            spares: RefCell::default(),
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
        self.count().is_some_and(|count| count < limit)
    }

    /// Counts the processes and threads of all groups together.
    pub fn count(&self) -> Option<u32> {
        read(&self.all_current).ok()?.trim().parse().ok()
    }

    /// The files to which a process writes `0` in order to be in a group.
    pub fn doors<'a>(&'a self, group: &'a Group) -> [BorrowedFd<'a>; 2] {
        [self.all_procs.as_fd(), group.procs.as_fd()]
    }

    /// Kills everything in a group, and returns when nothing is left.
    pub async fn kill(&self, group: &Group) {
        let mut pause = Duration::from_micros(100);
        for round in 0.. {
            let mut members = group.members();
            if members.is_empty() {
                break;
            }
            if members.len() >= CROWD || round >= MAX_PLAIN_ROUNDS {
                members = group.stop();
            }
            for pid in members {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
            // Their ends come through the reaper, which is another task.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// A group with nothing in it.
    pub fn make(&self) -> io::Result<Group> {
        if let Some(spare) = self.spares.borrow_mut().pop() {
            return Ok(spare);
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let name = format!("e{number}");
        mkdirat(&self.each, &*name, Mode::RWXU)?;
        let procs = open_at(&self.each, &format!("{name}/cgroup.procs"), OFlags::RDWR)?;
        Ok(Group { name, procs })
    }

    /// Takes back a group whose program has ended.
    pub fn release(&self, group: Group) {
        if let Some(group) = self.keep(group) {
            self.lingering.borrow_mut().push(group);
        }
    }

    /// Takes back the released groups in which nothing is left by now.
    pub fn sweep(&self) {
        if !self.lingering.borrow().is_empty() {
            let groups = self.lingering.take();
            let left = groups.into_iter().filter_map(|group| self.keep(group)).collect();
            self.lingering.replace(left);
        }
    }

    /// Keeps a group for another program, or removes it. Gives back one that is
    /// not empty.
    fn keep(&self, group: Group) -> Option<Group> {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            if !group.members().is_empty() {
                return Some(group);
            }
            spares.push(group);
            return None;
        }
        unlinkat(&self.each, &*group.name, AtFlags::REMOVEDIR).is_err().then_some(group)
    }
}

impl Group {
    /// The processes in it now.
    pub fn members(&self) -> Vec<Pid> {
        let Ok(text) = read(&self.procs) else { return Vec::new() };
        text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
    }

    /// Stops every process in it, and returns them.
    ///
    /// A crowd of busy processes leaves the agent so little CPU time that it takes
    /// minutes to kill them one by one, and some of them multiply meanwhile. What is
    /// stopped does neither, and keeps its place below the sandbox's limit of
    /// processes, so that nothing new comes in its stead. Processes of other groups
    /// are not touched.
    fn stop(&self) -> Vec<Pid> {
        let mut stopped = HashSet::new();
        for _ in 0..MAX_STOP_ROUNDS {
            let before = stopped.len();
            for pid in self.members() {
                if stopped.insert(pid) {
                    // It may have ended since.
                    let _ = kill_process(pid, Signal::STOP);
                }
            }
            if stopped.len() == before {
                break;
            }
        }
        stopped.into_iter().collect()
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

fn open_at(dir: impl AsFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn write_at(dir: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    rustix::io::write(open_at(dir, name, OFlags::WRONLY)?, text.as_bytes())?;
    Ok(())
}

/// All of a file as it is now, however often it was read before.
fn read(file: impl AsFd) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match rustix::io::pread(&file, &mut part, bytes.len() as u64)? {
            0 => return String::from_utf8(bytes).map_err(io::Error::other),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}
