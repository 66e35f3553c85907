//! Control groups that a program cannot leave.
//!
//! Each program that a client runs gets a control group of its own. All processes
//! that it starts are in it too, even a daemon in another session, so all of them
//! can be found and killed. The group above has the sandbox's limit of processes.
//!
//! That is version 2 of control groups, which gVisor has since 2026. Of version 1, which
//! it has before, a limit does not apply to the groups below, and nothing kills a group as
//! a whole. So there one group in another hierarchy has the limit for all programs; gVisor
//! checks a fork in one hierarchy of the process at random, so that most of those beyond
//! the limit succeed.
//!
//! The cgroup file system is mounted, opened and unmounted again before any other
//! program runs. There is no path to it inside the sandbox, and mounting it
//! requires a privilege that only the agent had.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

const MOUNT_POINT: &str = "/groups";
const CGROUP_NAME: &str = "isorun";
/// The number of processes from which on a group is stopped before it is killed:
/// its processes may fork faster than they are killed.
const MIN_MEMBERS_TO_STOP: usize = 16;
/// The number of rounds of killing after which a group of any size is stopped
/// first.
const MAX_PLAIN_ROUNDS: u32 = 4;
/// The number of rounds of stopping after which a group is killed although it still
/// grows.
const MAX_STOP_ROUNDS: u32 = 64;
/// The number of processes whose process group is looked up if the program itself has
/// exited.
const MAX_PROCESS_GROUP_CHECKS: usize = 8;
/// The maximum number of empty groups that are kept for the next programs.
const MAX_SPARES: usize = 16;

/// All control groups of the sandbox.
pub struct Cgroups {
    /// `pids.current` and `pids.max` of the group that has the limit. Files are kept open
    /// where that saves system calls when a program starts, which are expensive under
    /// gVisor.
    current: OwnedFd,
    max: OwnedFd,
    /// Under version 1 its `cgroup.procs`: a program has to join it as well.
    procs: Option<OwnedFd>,
    limit: Cell<Option<u32>>,
    /// The directory that has one group for each program.
    each: OwnedFd,
    next: Cell<u64>,
    /// The empty groups.
    spares: RefCell<Vec<Cgroup>>,
    /// The groups whose program has exited and left other processes running.
    lingering: RefCell<Vec<Cgroup>>,
}

/// The control group of one program.
pub struct Cgroup {
    name: String,
    /// Its `cgroup.procs`. Writing to it joins the group, reading it lists the
    /// processes.
    procs: OwnedFd,
    /// Under version 2 its `cgroup.kill`. Writing to it kills the processes in it, and those
    /// that they fork meanwhile.
    kill: Option<OwnedFd>,
}

impl Cgroups {
    /// Mounts the file systems, opens them and removes their paths.
    pub fn mount() -> io::Result<Self> {
        Self::version_2().or_else(|_| Self::version_1())
    }

    fn version_2() -> io::Result<Self> {
        let root = mount_hierarchy(c"cgroup2", None)?;
        write_at(&root, "cgroup.subtree_control", "+pids")?;
        let all = make_group(&root)?;
        // An incomplete implementation is not used.
        open_at(&all, "cgroup.kill", OFlags::WRONLY)?;
        Self::new(&all, None, all.try_clone()?)
    }

    fn version_1() -> io::Result<Self> {
        let hierarchy = |controller| make_group(&mount_hierarchy(c"cgroup", Some(controller))?);
        let all = hierarchy(c"pids")?;
        let procs = open_at(&all, "cgroup.procs", OFlags::RDWR)?;
        Self::new(&all, Some(procs), hierarchy(c"cpuacct")?)
    }

    fn new(all: &OwnedFd, procs: Option<OwnedFd>, each: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            current: open_at(all, "pids.current", OFlags::RDONLY)?,
            max: open_at(all, "pids.max", OFlags::WRONLY)?,
            procs,
            limit: Cell::new(None),
            each,
            next: Cell::new(0),
            spares: RefCell::default(),
            lingering: RefCell::default(),
        })
    }

    /// Limits the processes and threads of all groups together.
    pub fn limit(&self, pids: u32) -> io::Result<()> {
        rustix::io::pwrite(&self.max, pids.to_string().as_bytes(), 0)?;
        self.limit.set(Some(pids));
        Ok(())
    }

    /// Reports whether one more program may start. Joining a full group is allowed, as
    /// on Linux; only forking in it is not.
    pub fn has_room(&self) -> bool {
        let Some(limit) = self.limit.get() else { return true };
        self.count().is_some_and(|count| count < limit)
    }

    /// Counts the processes and threads of all groups together.
    pub fn count(&self) -> Option<u32> {
        read(&self.current).ok()?.trim().parse().ok()
    }

    /// Returns the files to which a process writes `0` to join a group.
    pub fn join_files<'a>(&'a self, cgroup: &'a Cgroup) -> [Option<BorrowedFd<'a>>; 2] {
        [self.procs.as_ref().map(AsFd::as_fd), Some(cgroup.procs.as_fd())]
    }

    /// Kills every process in a group, and returns when none is left. `program` is the
    /// program that was started in it, and leads a process group.
    pub async fn kill(&self, cgroup: &Cgroup, program: Pid) {
        let mut pause = Duration::from_micros(100);
        for round in 0.. {
            // First, since each system call may take long beside a hundred busy processes.
            let killed = cgroup.kill();
            let mut members = cgroup.members();
            if members.is_empty() {
                break;
            }
            if !killed {
                if members.len() >= MIN_MEMBERS_TO_STOP || round >= MAX_PLAIN_ROUNDS {
                    members = cgroup.stop(program);
                }
                for pid in members {
                    // It may have exited since.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            // The reaper collects their exits in another task.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Returns an empty group.
    pub fn create(&self) -> io::Result<Cgroup> {
        if let Some(spare) = self.spares.borrow_mut().pop() {
            return Ok(spare);
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let name = format!("e{number}");
        mkdirat(&self.each, &*name, Mode::RWXU)?;
        let procs = open_at(&self.each, &format!("{name}/cgroup.procs"), OFlags::RDWR)?;
        let kill = match self.procs {
            Some(_) => None,
            None => Some(open_at(&self.each, &format!("{name}/cgroup.kill"), OFlags::WRONLY)?),
        };
        Ok(Cgroup { name, procs, kill })
    }

    /// Takes back a group whose program has exited.
    pub fn release(&self, cgroup: Cgroup) {
        if let Some(cgroup) = self.keep(cgroup) {
            self.lingering.borrow_mut().push(cgroup);
        }
    }

    /// Takes back the released groups that are empty by now.
    pub fn sweep(&self) {
        if !self.lingering.borrow().is_empty() {
            let groups = self.lingering.take();
            let left = groups.into_iter().filter_map(|cgroup| self.keep(cgroup)).collect();
            self.lingering.replace(left);
        }
    }

    /// Keeps an empty group for another program, or removes it. Returns a group that is
    /// not empty.
    fn keep(&self, cgroup: Cgroup) -> Option<Cgroup> {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < MAX_SPARES {
            if !cgroup.members().is_empty() {
                return Some(cgroup);
            }
            spares.push(cgroup);
            return None;
        }
        unlinkat(&self.each, &*cgroup.name, AtFlags::REMOVEDIR).is_err().then_some(cgroup)
    }
}

impl Cgroup {
    /// Returns the processes in it now.
    pub fn members(&self) -> Vec<Pid> {
        let Ok(text) = read(&self.procs) else { return Vec::new() };
        text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
    }

    /// Kills every process in it at once, or returns false if the version of control groups
    /// cannot.
    fn kill(&self) -> bool {
        self.kill.as_ref().is_some_and(|kill| rustix::io::pwrite(kill, b"1", 0).is_ok())
    }

    /// Stops every process in it, and returns them.
    ///
    /// A large number of busy processes leaves the agent so little CPU time that
    /// killing them one by one takes minutes, and some of them fork meanwhile. Stopped
    /// processes do neither, and still count against the sandbox's limit of processes,
    /// so that no new processes replace them. Processes of other groups are not
    /// affected.
    ///
    /// The process group of the program is stopped by one system call. It has most of
    /// the processes of a fork bomb, which otherwise replace each other faster than
    /// they are listed.
    fn stop(&self, program: Pid) -> Vec<Pid> {
        let mut stopped = HashSet::new();
        for _ in 0..MAX_STOP_ROUNDS {
            let before = stopped.len();
            let mut members = self.members();
            if has_process_group(&members, program) {
                // It may have exited since, as may each of the others.
                let _ = kill_process_group(program, Signal::STOP);
                // What was forked before that is stopped, too, and has to be known.
                members = self.members();
            }
            for pid in members {
                if stopped.insert(pid) {
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

/// Reports whether the process group of a program still belongs to it: as long as one
/// of its processes is in the group, no other process gets its number.
fn has_process_group(members: &[Pid], program: Pid) -> bool {
    members.contains(&program)
        || members
            .iter()
            .take(MAX_PROCESS_GROUP_CHECKS)
            .any(|pid| getpgid(Some(*pid)) == Ok(program))
}

/// Mounts a hierarchy, and returns its root, which has no path any more.
fn mount_hierarchy(kind: &CStr, controller: Option<&CStr>) -> io::Result<OwnedFd> {
    mount("none", MOUNT_POINT, kind, MountFlags::empty(), controller)?;
    let root = open(MOUNT_POINT, DIRECTORY, Mode::empty())?;
    unmount(MOUNT_POINT, UnmountFlags::DETACH)?;
    Ok(root)
}

/// Creates the group above those of programs.
fn make_group(root: &OwnedFd) -> io::Result<OwnedFd> {
    mkdirat(root, CGROUP_NAME, Mode::RWXU)?;
    Ok(openat(root, CGROUP_NAME, DIRECTORY, Mode::empty())?)
}

/// Removes capabilities that only the agent needs from the bounding set of its
/// children.
pub fn drop_privileges() -> io::Result<()> {
    remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
    // Last, since removing any capability requires this one.
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

/// Reads the current content of a file from its start.
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
