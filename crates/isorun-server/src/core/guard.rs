//! Keeps enough of the machine's disk, memory and processes free for the server
//! and for its other tenants.
//!
//! The limits of all sandboxes together may exceed the resources of the machine,
//! since most use little of theirs. So the actual use is measured. The largest sandbox
//! of a tenant that uses more than its share is terminated; and when the machine itself
//! runs short, the largest sandbox of the tenant that uses most, before others are
//! affected.
//!
//! ```text
//!  every 100 ms: free resources ─── less than the reserve ──▶ the largest sandbox of
//!  every second: use per tenant ─── more than its share ────▶ that tenant is terminated
//! ```
//!
//! `guard_thread` measures, and terminates what is chosen here.

use std::{
    collections::HashMap,
    path::Path,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use isorun_engine::Stats;
use tokio::sync::watch;

use super::error::{Error, ErrorKind};
use crate::config::{DescriptorBudget, ServerLimits, machine_pids, share_of};

/// The `Retry-After` of a refused caller.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A guarded resource of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Disk,
    Memory,
    Processes,
}

const RESOURCES: [Resource; 3] = [Resource::Disk, Resource::Memory, Resource::Processes];

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Processes => "processes",
        }
    }

    /// The option that sets the reserve.
    fn option(self) -> &'static str {
        match self {
            Self::Disk => "--disk-reserve-mib",
            Self::Memory => "--mem-reserve-mib",
            Self::Processes => "--pids-reserve",
        }
    }

    /// The least use of a sandbox that is worth terminating.
    fn min_victim_usage(self) -> u64 {
        match self {
            Self::Disk | Self::Memory => 64 << 20,
            Self::Processes => 64,
        }
    }

    /// Formats an amount for messages.
    fn format(self, amount: u64) -> String {
        match self {
            Self::Disk | Self::Memory => format!("{} MiB", amount >> 20),
            Self::Processes => format!("{amount} processes and threads"),
        }
    }
}

/// An amount of each resource: bytes, bytes, and processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub disk: u64,
    pub memory: u64,
    pub processes: u64,
}

impl Amounts {
    fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Disk => self.disk,
            Resource::Memory => self.memory,
            Resource::Processes => self.processes,
        }
    }

    pub fn add(&mut self, other: Self) {
        self.disk = self.disk.saturating_add(other.disk);
        self.memory = self.memory.saturating_add(other.memory);
        self.processes = self.processes.saturating_add(other.processes);
    }

    /// Measures the free resources of this machine.
    pub fn free(data_dir: &Path) -> Self {
        let disk = rustix::fs::statvfs(data_dir)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let memory = read_or_empty("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse::<u64>().ok())
            .map_or(u64::MAX, |kib| kib << 10);
        // Such as `0.20 0.18 0.12 1/80 11206`: there are 80 processes and threads.
        let used = read_or_empty("/proc/loadavg")
            .split([' ', '/'])
            .nth(4)
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or_default();
        Self { disk, memory, processes: machine_pids().saturating_sub(used) }
    }

    fn reserve(limits: &ServerLimits) -> Self {
        Self {
            disk: limits.disk_reserve,
            memory: limits.mem_reserve,
            processes: limits.pids_reserve,
        }
    }
}

impl From<Stats> for Amounts {
    fn from(stats: Stats) -> Self {
        Self { disk: stats.disk_used_bytes, memory: stats.mem_bytes, processes: stats.pids }
    }
}

fn read_or_empty(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// The results of one measurement.
#[derive(Clone, Debug, Default)]
struct Measurements {
    free: Amounts,
    short_of: Vec<Resource>,
    is_short_of_descriptors: bool,
    /// The use of each tenant: its sandboxes and its stored data.
    tenants: HashMap<String, Amounts>,
    /// The use of all tenants together.
    used: Amounts,
}

/// The guard of the machine's resources, with the latest measurements.
pub struct Guard {
    limits: ServerLimits,
    pub budget: DescriptorBudget,
    latest: RwLock<Measurements>,
    low_disk: watch::Sender<bool>,
}

/// A sandbox that may be chosen for termination.
#[derive(Clone, Debug)]
pub struct Candidate<T> {
    pub sandbox: T,
    pub tenant: String,
    pub uses: Amounts,
    /// CPU time since its creation, in milliseconds.
    pub cpu_ms: u64,
}

impl Guard {
    pub fn new(limits: &ServerLimits, budget: DescriptorBudget) -> Self {
        Self {
            limits: limits.clone(),
            budget,
            latest: RwLock::default(),
            low_disk: watch::Sender::new(false),
        }
    }

    /// Returns the name of a resource that the server is short of, if any.
    pub fn shortage(&self) -> Option<&'static str> {
        let latest = self.latest();
        if latest.is_short_of_descriptors {
            return Some("file descriptors");
        }
        latest.short_of.first().map(|resource| resource.name())
    }

    /// Fails if a tenant may not create another sandbox or store anything.
    pub fn admit(&self, tenant: &str) -> Result<(), Error> {
        let latest = self.latest();
        let refused = |message| Err(Error::new(ErrorKind::Unavailable, message).after(RETRY_AFTER));
        if let Some(resource) = latest.short_of.first() {
            let reserve = Amounts::reserve(&self.limits).of(*resource);
            return refused(format!(
                "the server is short of {}: {} are kept free ({}); try again later",
                resource.name(),
                resource.format(reserve),
                resource.option()
            ));
        }
        if latest.is_short_of_descriptors {
            return refused(
                "the server is short of file descriptors (its limit of open files); try again \
                 later"
                    .to_owned(),
            );
        }
        RESOURCES.into_iter().try_for_each(|resource| self.check_share(&latest, tenant, resource))
    }

    /// Fails if a tenant may not write to its audit logs.
    pub fn admit_command(&self, tenant: &str) -> Result<(), Error> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        self.check_share(&latest, tenant, Resource::Disk)
    }

    fn check_share(
        &self,
        latest: &Measurements,
        tenant: &str,
        resource: Resource,
    ) -> Result<(), Error> {
        let uses = latest.tenants.get(tenant).map_or(0, |uses| uses.of(resource));
        let share = self.share(latest, resource);
        // If others use everything, the share is zero; tenants that use little are admitted.
        if uses < share || uses < resource.min_victim_usage() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooManyRequests,
            format!(
                "your sandboxes, snapshots, images and audit logs use {} of the server's {}: a \
                 tenant may use {} (--tenant-share); destroy or delete some first",
                resource.format(uses),
                resource.name(),
                resource.format(share)
            ),
        )
        .after(RETRY_AFTER))
    }

    /// Waits until the disk is nearly full.
    pub async fn wait_for_low_disk(&self) {
        let mut low = self.low_disk.subscribe();
        // `self` has the sender, so the channel is not closed.
        let _ = low.wait_for(|low| *low).await;
    }

    /// Returns the share of a resource that one tenant may use.
    fn share(&self, latest: &Measurements, resource: Resource) -> u64 {
        // The use of other programs on this machine is neither free nor a tenant's.
        let capacity = latest.free.of(resource).saturating_add(latest.used.of(resource));
        let reserve = Amounts::reserve(&self.limits).of(resource);
        share_of(capacity.saturating_sub(reserve), self.limits.tenant_share)
    }

    fn latest(&self) -> Measurements {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_free(&self, free: Amounts, is_short_of_descriptors: Option<bool>) -> Vec<Resource> {
        let reserve = Amounts::reserve(&self.limits);
        let is_short = |resource: &Resource| free.of(*resource) < reserve.of(*resource);
        let short_of: Vec<Resource> = RESOURCES.into_iter().filter(is_short).collect();
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        if latest.short_of != short_of {
            let names: Vec<_> = short_of.iter().map(|resource| resource.name()).collect();
            tracing::warn!(?names, ?free, "the shortages of the machine have changed");
        }
        latest.free = free;
        latest.short_of.clone_from(&short_of);
        if let Some(short) = is_short_of_descriptors {
            latest.is_short_of_descriptors = short;
        }
        drop(latest);
        let low = short_of.contains(&Resource::Disk);
        self.low_disk.send_if_modified(|before| std::mem::replace(before, low) != low);
        short_of
    }

    pub fn set_used(&self, tenants: HashMap<String, Amounts>) {
        let mut used = Amounts::default();
        tenants.values().for_each(|amounts| used.add(*amounts));
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        latest.tenants = tenants;
        latest.used = used;
    }
}

/// Returns the largest sandbox of the tenant that uses most of a resource.
fn largest_of_top_tenant<T: Clone>(
    resource: Resource,
    sandboxes: &[Candidate<T>],
    tenants: &HashMap<String, Amounts>,
) -> Option<Candidate<T>> {
    let usage_of_tenant =
        |tenant: &str| tenants.get(tenant).map_or(0, |amounts| amounts.of(resource));
    sandboxes
        .iter()
        .filter(|sandbox| sandbox.uses.of(resource) >= resource.min_victim_usage())
        .max_by_key(|sandbox| (usage_of_tenant(&sandbox.tenant), sandbox.uses.of(resource)))
        .cloned()
}

/// Returns the largest sandbox of a tenant.
fn largest_of_tenant<T: Clone>(
    resource: Resource,
    sandboxes: &[Candidate<T>],
    tenant: &str,
) -> Option<Candidate<T>> {
    sandboxes
        .iter()
        .filter(|sandbox| sandbox.tenant == tenant)
        .filter(|sandbox| sandbox.uses.of(resource) >= resource.min_victim_usage())
        .max_by_key(|sandbox| sandbox.uses.of(resource))
        .cloned()
}

/// Chooses the sandbox to terminate now, if any, and gives the reason.
pub fn choose_victim<T: Clone>(
    guard: &Guard,
    short_of: &[Resource],
    sandboxes: &[Candidate<T>],
    tenants: &HashMap<String, Amounts>,
) -> Option<(T, String)> {
    let latest = guard.latest();
    for resource in short_of {
        if let Some(victim) = largest_of_top_tenant(*resource, sandboxes, tenants) {
            let why = format!(
                "the server was short of {}, and it used {}, as the largest sandbox of the \
                 tenant that uses most ({})",
                resource.name(),
                resource.format(victim.uses.of(*resource)),
                resource.option()
            );
            return Some((victim.sandbox, why));
        }
    }
    for resource in RESOURCES {
        let share = guard.share(&latest, resource);
        let over = tenants.iter().filter(|(_, uses)| uses.of(resource) > share);
        for (tenant, uses) in over {
            if let Some(victim) = largest_of_tenant(resource, sandboxes, tenant) {
                let why = format!(
                    "its tenant used {} of the server's {}, of which {} is a tenant's share \
                     (--tenant-share), and it was the largest sandbox",
                    resource.format(uses.of(resource)),
                    resource.name(),
                    resource.format(share)
                );
                return Some((victim.sandbox, why));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn guard(percent: u8) -> Guard {
        let limits = ServerLimits {
            tenant_share: percent,
            disk_reserve: 10 * GIB,
            mem_reserve: GIB,
            pids_reserve: 1000,
            ..ServerLimits::default()
        };
        Guard::new(&limits, DescriptorBudget::new(1024))
    }

    fn free(disk: u64, memory: u64, processes: u64) -> Amounts {
        Amounts { disk: disk * GIB, memory: memory * GIB, processes }
    }

    fn sandbox(name: &'static str, uses: Amounts) -> Candidate<&'static str> {
        Candidate { sandbox: name, tenant: name[..1].to_owned(), uses, cpu_ms: 0 }
    }

    fn tenants(sandboxes: &[Candidate<&'static str>]) -> HashMap<String, Amounts> {
        let mut tenants: HashMap<String, Amounts> = HashMap::new();
        for sandbox in sandboxes {
            tenants.entry(sandbox.tenant.clone()).or_default().add(sandbox.uses);
        }
        tenants
    }

    #[test]
    fn a_shortage_terminates_the_largest_sandbox_of_the_heaviest_tenant() {
        let guard = guard(100);
        let sandboxes = [
            sandbox("a1", free(20, 1, 70)),
            sandbox("b1", free(15, 3, 80)),
            sandbox("b2", free(16, 2, 5000)),
            sandbox("c1", free(0, 0, 5)),
        ];
        let tenants = tenants(&sandboxes);
        guard.set_used(tenants.clone());
        for (now, victim) in [
            (free(11, 2, 1001), None),
            (free(9, 2, 1001), Some("b2")),
            (free(11, 0, 1001), Some("b1")),
            (free(11, 2, 999), Some("b2")),
        ] {
            let short_of = guard.set_free(now, None);
            let chosen = choose_victim(&guard, &short_of, &sandboxes, &tenants);
            assert_eq!(chosen.as_ref().map(|(sandbox, _)| *sandbox), victim, "{now:?}");
            assert_eq!(guard.admit("c").is_ok(), victim.is_none(), "{now:?}");
            assert_eq!(guard.shortage().is_none(), victim.is_none(), "{now:?}");
            if let Some((_, why)) = chosen {
                assert!(why.contains("short of") && why.contains("--"), "{why}");
            }
        }
    }

    #[test]
    fn a_shortage_caused_by_other_programs_terminates_no_small_sandbox() {
        let guard = guard(50);
        let small = [sandbox("a1", Amounts { disk: 1 << 20, memory: 1 << 20, processes: 9 })];
        let short_of = guard.set_free(free(0, 0, 0), Some(true));
        assert_eq!(short_of.len(), 3);
        assert!(choose_victim(&guard, &short_of, &small, &tenants(&small)).is_none());
        assert_eq!(guard.admit("a").unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn a_tenant_over_its_share_loses_its_largest_sandbox() {
        let guard = guard(50);
        // The capacity is 100 GiB, of which 10 are reserved: a share is 45 GiB.
        let sandboxes = [
            sandbox("a1", free(24, 0, 1)),
            sandbox("a2", free(25, 0, 1)),
            sandbox("b1", free(30, 0, 1)),
        ];
        let tenants = tenants(&sandboxes);
        guard.set_free(free(21, 20, 30_000), None);
        guard.set_used(tenants.clone());
        let (victim, why) = choose_victim(&guard, &[], &sandboxes, &tenants).unwrap();
        assert_eq!(victim, "a2", "{why}");
        assert!(why.contains("50176 MiB") && why.contains("46080 MiB"), "{why}");
        let refused = guard.admit("a").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooManyRequests);
        assert!(refused.message.contains("46080 MiB (--tenant-share)"), "{}", refused.message);
        guard.admit("b").unwrap();
        guard.admit("another tenant").unwrap();
    }

    #[test]
    fn free_resources_of_the_machine_are_measured() {
        let free = Amounts::free(Path::new("/"));
        assert!(free.disk > 0 && free.disk < u64::MAX, "{free:?}");
        assert!(free.memory > 1 << 20 && free.memory < 1 << 60, "{free:?}");
        let all = machine_pids();
        assert!(free.processes > 0 && free.processes < all, "{free:?} of {all}");
    }
}
