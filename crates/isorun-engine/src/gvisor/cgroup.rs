//! Control groups, versions 1 and 2: limits, figures, and finding every process
//! of a sandbox.
//!
//! `runsc` makes the group of a sandbox and puts its processes there; what it
//! leaves behind is removed here. Under version 1 a group is a folder in each
//! hierarchy.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::{CpuWeight, Error, Result, Stats};

/// The version of control groups that can limit sandboxes here.
pub fn version() -> Result<u32> {
    Ok(if Hierarchies::find()?.unified { 2 } else { 1 })
}

/// The CPU shares of a new group: the maximum of the kernel, so that small parts of
/// it differ. `runsc` converts it to [`CPU_WEIGHT`] under version 2.
pub const CPU_SHARES: u32 = 262_144;
/// The same in the unit of version 2.
const CPU_WEIGHT: u32 = 10_000;

/// Where the control groups of this machine are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// By the name of a controller; all of them the same with version 2.
    controllers: BTreeMap<String, PathBuf>,
    /// Every folder in which a group may have a part.
    all: Vec<PathBuf>,
    unified: bool,
}

/// The group of one sandbox.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// Such as `isorun-1f2e/c0a8`.
    name: String,
}

impl Hierarchies {
    /// Looks for them.
    pub fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(Error::io("cannot read the list of mounts"))?;
        let unified_controllers = |folder: &Path| {
            fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default()
        };
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
        let mut found = Self { controllers: BTreeMap::new(), all: Vec::new(), unified: false };
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
                    found.all.push(point);
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
            found.all.push(point);
        }
        found
    }

    /// The group of that name.
    pub fn group(&self, name: impl Into<String>) -> Cgroup {
        Cgroup { hierarchies: self.clone(), name: name.into() }
    }

    /// The names of the groups in a group.
    pub fn children(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .all
            .iter()
            .filter_map(|folder| fs::read_dir(folder.join(name)).ok())
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
    /// As `runsc` wants it in the configuration of a container.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Whether the limits are there that were asked for: a limit that is silently
    /// missing is worse than an error.
    pub fn check(&self, memory: u64, pids: u64) -> Result<()> {
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
        let (file, full) = if self.hierarchies.unified {
            ("cpu.weight", CPU_WEIGHT)
        } else {
            ("cpu.shares", CPU_SHARES)
        };
        let value = full / CpuWeight::FULL.thousandths() * weight.thousandths();
        let directory = self.hierarchies.controllers.get("cpu");
        let directory = directory.ok_or_else(|| Error::Setup("no cpu controller".to_owned()))?;
        fs::write(directory.join(&self.name).join(file), value.to_string())
            .map_err(Error::io("cannot set the CPU weight of a control group"))
    }

    /// What the processes in it have used.
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

    /// Whether one of its processes was killed for using too much memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let file = if self.hierarchies.unified { "memory.events" } else { "memory.oom_control" };
        field(&self.read("memory", file), "oom_kill") > 0
    }

    /// The processes in it.
    pub fn members(&self) -> Vec<Pid> {
        self.read("memory", "cgroup.procs")
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .collect()
    }

    /// Kills every process in it, and returns when there is none.
    pub async fn kill(&self) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(30);
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            let members = self.members();
            if members.is_empty() {
                return Ok(());
            }
            for pid in members {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
            if started.elapsed() > LONGEST {
                return Err(Error::Timeout("killing the processes".to_owned(), LONGEST));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes it, and the groups in it. All processes must have ended.
    pub async fn remove(&self) -> Result<()> {
        for folder in &self.hierarchies.all {
            let folder = folder.join(&self.name);
            let mut tries = 0;
            while let Err(error) = remove_tree(&folder) {
                tries += 1;
                // A process that was just killed keeps its group for a moment.
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
            .and_then(|folder| fs::read_to_string(folder.join(&self.name).join(file)).ok())
            .unwrap_or_default()
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The number after a word at the start of a line.
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
    fn both_versions_are_found() {
        let v1 = Hierarchies::parse(V1, |_| String::new());
        assert!(!v1.unified);
        assert_eq!(v1.controllers["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(v1.controllers["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1.all.len(), 4);
        let v2 = Hierarchies::parse(V2, |_| "cpuset cpu io memory pids\n".to_owned());
        assert!(v2.unified);
        assert_eq!(v2.controllers["memory"], Path::new("/sys/fs/cgroup"));
        let none = Hierarchies::parse(V2, |_| String::new());
        assert!(none.controllers.is_empty());
    }

    #[test]
    fn fields_are_whole_words() {
        let text = "oom 7\noom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), 2);
        assert_eq!(field(text, "nothing"), 0);
    }
}
