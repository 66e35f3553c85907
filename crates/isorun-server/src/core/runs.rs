//! All runs that were not destroyed, and the number that each tenant may have.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use isorun_api::RunId;

use super::{
    error::{Error, ErrorKind},
    live_run::LiveRun,
};
use crate::config::{Limits, share_of};

/// All runs that were not destroyed.
pub struct Runs {
    map: RwLock<HashMap<RunId, Arc<LiveRun>>>,
    /// The number of runs of each tenant, including those that are being created.
    slots: Mutex<HashMap<String, usize>>,
    /// The runs that are being created, which are not in the map yet.
    in_creation: Mutex<HashSet<RunId>>,
    /// The largest number of runs of all tenants.
    max_total: usize,
    /// The largest number of runs of a tenant.
    max_per_tenant: usize,
    /// True if this is a node of a cluster, of which another may have room for the tenant.
    in_cluster: bool,
}

impl Runs {
    /// Creates an empty set. `in_cluster`: the limit of a tenant's runs holds for all nodes
    /// together, which the database checks; here, a tenant has a share of this node.
    pub fn new(limits: &Limits, in_cluster: bool) -> Self {
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let share = share_of(limits.server.sandboxes, limits.server.tenant_share);
        Self {
            map: RwLock::default(),
            slots: Mutex::default(),
            in_creation: Mutex::default(),
            max_total: number(limits.server.sandboxes),
            max_per_tenant: if in_cluster { number(share) } else { limits.runs.min(number(share)) },
            in_cluster,
        }
    }

    pub fn get(&self, id: &RunId) -> Option<Arc<LiveRun>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn insert(&self, run: Arc<LiveRun>) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(run.id.clone(), run);
    }

    /// Marks a run as being created, until the result is dropped.
    pub fn begin_creation(&self, id: &RunId) -> InCreation<'_> {
        self.in_creation().insert(id.clone());
        InCreation { runs: self, id: id.clone() }
    }

    /// Reports whether a run is being created.
    pub fn is_in_creation(&self, id: &RunId) -> bool {
        self.in_creation().contains(id)
    }

    fn in_creation(&self) -> MutexGuard<'_, HashSet<RunId>> {
        self.in_creation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn remove(&self, id: &RunId) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Returns the runs of one tenant, or of all, the oldest first.
    pub fn list(&self, tenant: Option<&str>) -> Vec<Arc<LiveRun>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |run: &&Arc<LiveRun>| tenant.is_none_or(|tenant| run.tenant == tenant);
        let mut runs: Vec<_> = map.values().filter(wanted).cloned().collect();
        runs.sort_by(|a, b| (a.row.created_at, &a.id).cmp(&(b.row.created_at, &b.id)));
        runs
    }

    /// Reports whether an operation is in progress in any run.
    pub fn are_in_use(&self) -> bool {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().any(|run| run.activity.is_in_use())
    }

    /// Reserves slots for new runs of a tenant, within its limit and that of the server.
    pub fn reserve(&self, tenant: &str, count: usize) -> Result<Reservation<'_>, Error> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = slots.values().sum();
        let taken = slots.get(tenant).copied().unwrap_or_default();
        let max = self.max_per_tenant;
        if taken.saturating_add(count) > max {
            if self.in_cluster {
                let message = format!(
                    "this server has as many of the tenant's runs as are allowed there ({max} of \
                     its --max-sandboxes): try again later, or destroy one"
                );
                return Err(
                    Error::new(ErrorKind::Unavailable, message).after(Duration::from_secs(1))
                );
            }
            let message = match count {
                1 => format!("too many runs: at most {max} are allowed; destroy one first"),
                _ => format!("cannot create {count} more runs: the limit is {max} runs at once"),
            };
            return Err(Error::new(ErrorKind::TooManyRuns, message).after(Duration::from_secs(1)));
        }
        if all.saturating_add(count) > self.max_total {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the server has too many runs: at most {} are allowed for all tenants \
                     (--max-sandboxes); try again later",
                    self.max_total
                ),
            )
            .after(Duration::from_secs(5)));
        }
        slots.insert(tenant.to_owned(), taken + count);
        drop(slots);
        let count = AtomicUsize::new(count);
        Ok(Reservation { runs: self, tenant: tenant.to_owned(), count })
    }

    /// Takes a slot for an existing run, regardless of the limits.
    pub fn occupy_slot(&self, tenant: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        *slots.entry(tenant.to_owned()).or_default() += 1;
    }

    /// Releases a slot of a tenant.
    pub fn release_slot(&self, tenant: &str) {
        self.release_slots(tenant, 1);
    }

    fn release_slots(&self, tenant: &str, count: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = slots.get_mut(tenant) {
            *taken = taken.saturating_sub(count);
            if *taken == 0 {
                slots.remove(tenant);
            }
        }
    }
}

/// A run that is being created.
pub struct InCreation<'runs> {
    runs: &'runs Runs,
    id: RunId,
}

impl Drop for InCreation<'_> {
    fn drop(&mut self) {
        self.runs.in_creation().remove(&self.id);
    }
}

/// Reserved slots for new runs, released on drop unless runs have taken them.
pub struct Reservation<'runs> {
    runs: &'runs Runs,
    tenant: String,
    count: AtomicUsize,
}

impl Reservation<'_> {
    /// Hands a slot over to a run, which releases it when it is destroyed.
    pub fn hand_over(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.runs.release_slots(&self.tenant, self.count.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn slots_are_limited_and_released() {
        let mut limits = Config::embedded(std::path::PathBuf::from("/")).limits;
        limits.runs = 3;
        limits.server.sandboxes = 64;
        limits.server.tenant_share = 50;
        let runs = Runs::new(&limits, false);
        let two = runs.reserve("a", 2).unwrap();
        let refused = |error: Option<Error>| error.map(|error| error.kind);
        assert_eq!(refused(runs.reserve("a", 2).err()), Some(ErrorKind::TooManyRuns));
        drop(runs.reserve("a", 1).unwrap());
        two.hand_over();
        drop(two);
        // The slot that a run has taken stays, and the other one is free again.
        drop(runs.reserve("a", 2).unwrap());
        assert_eq!(refused(runs.reserve("a", 3).err()), Some(ErrorKind::TooManyRuns));
        runs.release_slot("a");
        drop(runs.reserve("a", 3).unwrap());
        assert!(runs.slots.lock().unwrap().is_empty());
        // Existing runs count, whatever the limits are.
        (0..64).for_each(|_| runs.occupy_slot("b"));
        assert_eq!(refused(runs.reserve("a", 1).err()), Some(ErrorKind::Unavailable));
    }
}
