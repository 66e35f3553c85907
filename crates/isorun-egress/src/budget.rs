//! Limits on the resources that the networks of all sandboxes use: file descriptors of
//! connections, and pending DNS queries to upstream resolvers. The server keeps enough for
//! itself, and one sandbox leaves enough for the others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The default limit on file descriptors of one sandbox: 1,024 connections with one
/// socket to the guest and one upstream each.
pub const MAX_DESCRIPTORS_PER_SANDBOX: usize = 2048;
/// File descriptors that a sandbox can have when others have taken most of them.
const RESERVED_DESCRIPTORS: usize = 64;
/// Pending queries to upstream resolvers: of all sandboxes, of one, and of one when
/// others have taken most of them.
const MAX_PENDING_QUERIES: usize = 512;
const MAX_PENDING_QUERIES_PER_SANDBOX: usize = 64;
const RESERVED_QUERIES: usize = 8;

/// A limit that all sandboxes share.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    total: usize,
    per_sandbox: usize,
    /// The count up to which a sandbox gets permits of the last quarter.
    reserved: usize,
}

impl Budget {
    /// Creates a budget of `total` for all sandboxes, and of `per_sandbox` for each,
    /// which is at most half of it. A sandbox that has more than `reserved` gets
    /// nothing of the last quarter.
    #[must_use]
    pub fn new(total: usize, per_sandbox: usize, reserved: usize) -> Arc<Self> {
        let total = total.min(Semaphore::MAX_PERMITS);
        let per_sandbox = per_sandbox.min(total / 2);
        Arc::new(Self { all: Arc::new(Semaphore::new(total)), total, per_sandbox, reserved })
    }

    /// Creates the budget of file descriptors of connections: `total` for all sandboxes,
    /// or half of the limit of this process (`RLIMIT_NOFILE`).
    #[must_use]
    pub fn descriptors(total: Option<usize>, per_sandbox: usize) -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = || limit.and_then(|limit| usize::try_from(limit / 2).ok());
        let total = total.or_else(half).unwrap_or(Semaphore::MAX_PERMITS);
        Self::new(total, per_sandbox, RESERVED_DESCRIPTORS)
    }

    /// Creates the budget of pending queries to upstream resolvers.
    #[must_use]
    pub fn queries() -> Arc<Self> {
        Self::new(MAX_PENDING_QUERIES, MAX_PENDING_QUERIES_PER_SANDBOX, RESERVED_QUERIES)
    }

    /// Creates the share of one more sandbox.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> BudgetShare {
        BudgetShare { own: Arc::new(Semaphore::new(self.per_sandbox)), budget: Arc::clone(self) }
    }
}

/// The part of a [`Budget`] that one sandbox can use.
#[derive(Clone, Debug)]
pub struct BudgetShare {
    budget: Arc<Budget>,
    own: Arc<Semaphore>,
}

/// Resources of a [`Budget`] in use, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl BudgetShare {
    /// Acquires `count` without waiting, if that many are available. The last quarter of
    /// the budget is for sandboxes that have few.
    #[must_use]
    pub fn try_acquire(&self, count: u32) -> Option<Permit> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(count).ok()?;
        let has = self.budget.per_sandbox.saturating_sub(self.own.available_permits());
        let available = self.budget.all.available_permits();
        if has > self.budget.reserved && available < self.budget.total / 4 {
            return None;
        }
        let all = Arc::clone(&self.budget.all).try_acquire_many_owned(count).ok()?;
        Some(Permit { _own: own, _all: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sandbox_leaves_descriptors_for_others() {
        let budget = Budget::new(1000, 400, 64);
        let (one, two, three) = (budget.share(), budget.share(), budget.share());
        let fill = |share: &BudgetShare| {
            let mut permits = Vec::new();
            while let Some(more) = share.try_acquire(2) {
                permits.push(more);
            }
            permits
        };
        let of_one = fill(&one);
        assert_eq!(of_one.len() * 2, 400);
        // The last quarter is for shares that have few.
        let of_two = fill(&two);
        assert_eq!(of_two.len() * 2, 352);
        let of_three = fill(&three);
        assert_eq!(of_three.len() * 2, 64);
        assert!(one.try_acquire(1).is_none() && two.try_acquire(1).is_none());
        // Released permits can be acquired again.
        drop((of_one, of_two, of_three));
        assert_eq!(fill(&three).len() * 2, 400);
    }

    #[test]
    fn one_sandbox_has_at_most_half() {
        let budget = Budget::new(100, MAX_DESCRIPTORS_PER_SANDBOX, 64);
        assert!(budget.share().try_acquire(50).is_some());
        assert!(budget.share().try_acquire(51).is_none());
        assert!(Budget::new(usize::MAX, usize::MAX, 64).share().try_acquire(u32::MAX).is_some());
        assert!(Budget::descriptors(None, 2).share().try_acquire(2).is_some());
        assert!(Budget::descriptors(Some(2), 2).share().try_acquire(2).is_none());
        assert!(Budget::new(0, 1, 1).share().try_acquire(1).is_none());
    }
}
