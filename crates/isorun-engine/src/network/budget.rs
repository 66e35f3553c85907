//! Counts what the networks of all sandboxes take of the server, so that it keeps
//! enough for itself, and one sandbox leaves enough for the others: the file
//! descriptors of connections, the questions to resolvers outside.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors of one sandbox, unless another limit is given: 1,024 connections
/// with an end inside and an end outside each.
pub const MAX_DESCRIPTORS_PER_SANDBOX: usize = 2048;
/// Descriptors that a sandbox can have when others have taken most of them.
const RESERVED_DESCRIPTORS: usize = 64;
/// Questions to resolvers outside that are under way: of all sandboxes, of one, and
/// of one when others have most.
const MAX_QUESTIONS: usize = 512;
const MAX_QUESTIONS_PER_SANDBOX: usize = 64;
const RESERVED_QUESTIONS: usize = 8;

/// What all sandboxes together can take.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    total: usize,
    per_sandbox: usize,
    /// What each sandbox can have of the last quarter.
    reserved: usize,
}

impl Budget {
    /// Counts up to `total` for all sandboxes, and up to `per_sandbox` for each,
    /// which is at most half of it. A sandbox that has more than `reserved` gets
    /// nothing of the last quarter.
    #[must_use]
    pub fn new(total: usize, per_sandbox: usize, reserved: usize) -> Arc<Self> {
        let total = total.min(Semaphore::MAX_PERMITS);
        let per_sandbox = per_sandbox.min(total / 2);
        Arc::new(Self { all: Arc::new(Semaphore::new(total)), total, per_sandbox, reserved })
    }

    /// Counts file descriptors of connections: up to `total` for all sandboxes, or
    /// half of what this process may have open.
    #[must_use]
    pub fn descriptors(total: Option<usize>, per_sandbox: usize) -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = || limit.and_then(|limit| usize::try_from(limit / 2).ok());
        let total = total.or_else(half).unwrap_or(Semaphore::MAX_PERMITS);
        Self::new(total, per_sandbox, RESERVED_DESCRIPTORS)
    }

    /// Counts questions to resolvers outside.
    #[must_use]
    pub fn questions() -> Arc<Self> {
        Self::new(MAX_QUESTIONS, MAX_QUESTIONS_PER_SANDBOX, RESERVED_QUESTIONS)
    }

    /// The part of one more sandbox.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share { own: Arc::new(Semaphore::new(self.per_sandbox)), budget: Arc::clone(self) }
    }
}

/// What one sandbox can take of a [`Budget`].
#[derive(Clone, Debug)]
pub struct Share {
    budget: Arc<Budget>,
    own: Arc<Semaphore>,
}

/// What is taken, until this is dropped.
#[derive(Debug)]
pub struct Taken {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Share {
    /// Takes some at once, if there are any. The last quarter of all is for
    /// sandboxes that have few.
    #[must_use]
    pub fn take(&self, count: u32) -> Option<Taken> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(count).ok()?;
        let has = self.budget.per_sandbox.saturating_sub(self.own.available_permits());
        let left = self.budget.all.available_permits();
        if has > self.budget.reserved && left < self.budget.total / 4 {
            return None;
        }
        let all = Arc::clone(&self.budget.all).try_acquire_many_owned(count).ok()?;
        Some(Taken { _own: own, _all: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sandbox_leaves_enough_for_others() {
        let budget = Budget::new(1000, 400, 64);
        let (one, two, three) = (budget.share(), budget.share(), budget.share());
        let fill = |share: &Share| {
            let mut taken = Vec::new();
            while let Some(more) = share.take(2) {
                taken.push(more);
            }
            taken
        };
        let of_one = fill(&one);
        assert_eq!(of_one.len() * 2, 400);
        // The last quarter is for those who have few.
        let of_two = fill(&two);
        assert_eq!(of_two.len() * 2, 352);
        let of_three = fill(&three);
        assert_eq!(of_three.len() * 2, 64);
        assert!(one.take(1).is_none() && two.take(1).is_none());
        // What is given back can be taken again.
        drop((of_one, of_two, of_three));
        assert_eq!(fill(&three).len() * 2, 400);
    }

    #[test]
    fn nobody_has_more_than_half() {
        let budget = Budget::new(100, MAX_DESCRIPTORS_PER_SANDBOX, 64);
        assert!(budget.share().take(50).is_some());
        assert!(budget.share().take(51).is_none());
        assert!(Budget::new(usize::MAX, usize::MAX, 64).share().take(u32::MAX).is_some());
        assert!(Budget::descriptors(None, 2).share().take(2).is_some());
        assert!(Budget::descriptors(Some(2), 2).share().take(2).is_none());
        assert!(Budget::new(0, 1, 1).share().take(1).is_none());
    }
}
