//! Control groups, versions 1 and 2: sets limits, reads usage figures and finds
//! every process of a sandbox.
//!
//! `runsc` creates the control group of a sandbox and moves the sandbox's processes
//! into it. This module removes what `runsc` leaves behind. Under version 1 a
//! control group is a directory in each hierarchy.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::{CpuWeight, Error, Result, Stats};

/// Returns the version of control groups that can limit sandboxes on this machine.
pub fn version() -> Result<u32> {
    Ok(if Hierarchies::find()?.unified { 2 } else { 1 })
}

/// The CPU shares of a new group: more than the kernel's default of 1,024, so that small parts
/// of it differ. `runsc` converts it to [`CPU_WEIGHT`] under version 2.
///
/// Much larger ones stop the machine. With the kernel's maximum of 262,144 in busy sandboxes,
/// Linux 6.18 did not run other processes for seconds, and its own threads for minutes.
pub const CPU_SHARES: u32 = 4096;
/// The same in the unit of version 2.
const CPU_WEIGHT: u32 = 157;

/// The period of the CPU quota, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// The mount points of the control group hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// The mount point of each controller, by the controller's name. With version 2 all
    /// of them are the same.
    controllers: BTreeMap<String, PathBuf>,
    /// Every directory below which a control group may have a directory.
    roots: Vec<PathBuf>,
    unified: bool,
}

/// The control group of one sandbox.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// The path below the hierarchy's root, such as `isorun-1f2e/c0a8`.
    name: String,
}

impl Hierarchies {
    /// Finds the hierarchies in the list of mounts.
    pub fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(Error::io("cannot read the list of mounts"))?;
        let unified_controllers =
            |dir: &Path| fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let found = Self::parse(&mounts, unified_controllers);
        let missing: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|name| !found.controllers.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Setup(format!(
                "no control group can limit {}: mount the cgroup file system with these \
                 controllers, or boot without disabling them",
                missing.join(", ")
            )));
        }
        Ok(found)
    }

    fn parse(mounts: &str, unified_controllers: impl Fn(&Path) -> String) -> Self {
        let mut found = Self { controllers: BTreeMap::new(), roots: Vec::new(), unified: false };
        let mut unified = None;
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
                continue;
            };
            let point = PathBuf::from(point);
            match right.next() {
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',') {
                        found.controllers.entry(option.to_owned()).or_insert_with(|| point.clone());
                    }
                    found.roots.push(point);
                }
                Some("cgroup2") if unified.is_none() => unified = Some(point),
                _ => {}
            }
        }
        if let Some(point) = unified {
            let names = unified_controllers(&point);
            if !found.controllers.contains_key("memory") && names.contains("memory") {
                found.unified = true;
                found.controllers =
                    names.split_whitespace().map(|name| (name.to_owned(), point.clone())).collect();
            }
            found.roots.push(point);
        }
        found
    }

    /// Returns the control group of that name, which need not exist.
    pub fn group(&self, name: impl Into<String>) -> Cgroup {
        Cgroup { hierarchies: self.clone(), name: name.into() }
    }

    /// Returns the names of the control groups directly below a control group.
    pub fn children(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .roots
            .iter()
            .filter_map(|dir| fs::read_dir(dir.join(name)).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Cgroup {
    /// Returns the path in the form that `runsc` expects in the configuration of a
    /// container.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Checks that the requested limits are in force. A limit that is missing without
    /// notice is worse than an error.
    pub fn check_limits(&self, memory: u64, pids: u64) -> Result<()> {
        let (memory_file, pids_file) = if self.hierarchies.unified {
            ("memory.max", "pids.max")
        } else {
            ("memory.limit_in_bytes", "pids.max")
        };
        for (controller, file, wanted) in
            [("memory", memory_file, memory), ("pids", pids_file, pids)]
        {
            let found = self.read(controller, file);
            if found.trim().parse::<u64>().map_or(true, |found| found > wanted) {
                return Err(Error::Setup(format!(
                    "the control group's {file} is {:?} instead of {wanted}",
                    found.trim()
                )));
            }
        }
        Ok(())
    }

    /// Sets its weight against its siblings.
    pub fn set_cpu_weight(&self, weight: CpuWeight) -> Result<()> {
        let (file, full, least) = if self.hierarchies.unified {
            ("cpu.weight", CPU_WEIGHT, 1)
        } else {
            ("cpu.shares", CPU_SHARES, 2)
        };
        let value = (full * weight.thousandths() / CpuWeight::FULL.thousandths()).max(least);
        self.write("cpu", file, &value.to_string(), "the CPU weight")
    }

    /// Limits it to the time of that number of CPUs, or does not limit it.
    pub fn set_cpu_quota(&self, cpus: Option<u32>) -> Result<()> {
        let quota = cpus.map(|cpus| (u64::from(cpus) * CPU_PERIOD_US).to_string());
        let (file, value) = if self.hierarchies.unified {
            ("cpu.max", format!("{} {CPU_PERIOD_US}", quota.as_deref().unwrap_or("max")))
        } else {
            ("cpu.cfs_quota_us", quota.unwrap_or_else(|| "-1".to_owned()))
        };
        self.write("cpu", file, &value, "the CPU quota")
    }

    fn write(&self, controller: &str, file: &str, value: &str, what: &str) -> Result<()> {
        let directory = self
            .hierarchies
            .controllers
            .get(controller)
            .ok_or_else(|| Error::Setup(format!("no {controller} controller")))?;
        fs::write(directory.join(&self.name).join(file), value)
            .map_err(Error::io(format!("cannot set {what} of a control group")))
    }

    /// Returns the resource usage of the processes in the control group.
    pub fn stats(&self) -> Stats {
        let number = |controller, file| {
            self.read(controller, file).trim().parse::<u64>().unwrap_or_default()
        };
        let mut stats = Stats::default();
        if self.hierarchies.unified {
            stats.cpu_ms = field(&self.read("cpu", "cpu.stat"), "usage_usec") / 1000;
            stats.mem_bytes = number("memory", "memory.current");
            stats.mem_peak_bytes = number("memory", "memory.peak");
        } else {
            stats.cpu_ms = number("cpuacct", "cpuacct.usage") / 1_000_000;
            stats.mem_bytes = number("memory", "memory.usage_in_bytes");
            stats.mem_peak_bytes = number("memory", "memory.max_usage_in_bytes");
        }
        stats
    }

    /// Reports whether the OOM killer has killed one of its processes.
    pub fn ran_out_of_memory(&self) -> bool {
        let file = if self.hierarchies.unified { "memory.events" } else { "memory.oom_control" };
        field(&self.read("memory", file), "oom_kill") > 0
    }

    /// Returns the processes in the control group.
    pub fn members(&self) -> Vec<Pid> {
        self.read("memory", "cgroup.procs")
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .collect()
    }

    /// Kills every process in the control group and returns when none is left.
    pub async fn kill(&self) -> Result<()> {
        const KILL_TIMEOUT: Duration = Duration::from_secs(30);
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            let members = self.members();
            if members.is_empty() {
                return Ok(());
            }
            for pid in members {
                // The process may have exited since.
                let _ = kill_process(pid, Signal::KILL);
            }
            if started.elapsed() > KILL_TIMEOUT {
                return Err(Error::Timeout("killing the processes".to_owned(), KILL_TIMEOUT));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the control group and those below it. All processes must have exited.
    pub async fn remove(&self) -> Result<()> {
        for dir in &self.hierarchies.roots {
            let dir = dir.join(&self.name);
            let mut tries = 0;
            while let Err(error) = remove_tree(&dir) {
                tries += 1;
                // A process that was just killed stays in its control group for a
                // moment.
                if error.kind() != ErrorKind::ResourceBusy || tries > 200 {
                    return Err(Error::Io {
                        what: format!("cannot remove the control group {}", self.name),
                        source: error,
                    });
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    fn read(&self, controller: &str, file: &str) -> String {
        self.hierarchies
            .controllers
            .get(controller)
            .and_then(|dir| fs::read_to_string(dir.join(&self.name).join(file)).ok())
            .unwrap_or_default()
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the number that follows a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
        30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        35 30 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    const V2: &str = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn both_cgroup_versions_are_found() {
        let v1 = Hierarchies::parse(V1, |_| String::new());
        assert!(!v1.unified);
        assert_eq!(v1.controllers["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(v1.controllers["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1.roots.len(), 4);
        let v2 = Hierarchies::parse(V2, |_| "cpuset cpu io memory pids\n".to_owned());
        assert!(v2.unified);
        assert_eq!(v2.controllers["memory"], Path::new("/sys/fs/cgroup"));
        let none = Hierarchies::parse(V2, |_| String::new());
        assert!(none.controllers.is_empty());
    }

    #[test]
    fn fields_match_whole_words() {
        let text = "oom 7\noom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), 2);
        assert_eq!(field(text, "nothing"), 0);
    }
}
