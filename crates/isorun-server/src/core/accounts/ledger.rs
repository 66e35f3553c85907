//! Accounts of countable resources: a total for the server, and a share for each
//! tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    config::share_of,
    core::error::{Error, ErrorKind},
};

/// The `Retry-After` of a refused caller.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The account of one resource.
#[derive(Debug)]
pub struct Ledger {
    /// The name of the counted units in error messages, such as `requests in flight`.
    units: &'static str,
    /// The option of `isorun serve` that sets the total.
    option: &'static str,
    total: u64,
    share: u64,
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    used: u64,
    by_owner: HashMap<Arc<str>, u64>,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The tenant's share.
    Share,
    /// The server's total, of all tenants together.
    Total,
}

impl Ledger {
    /// Creates an account. A tenant's share is `percent` of the total.
    pub fn new(units: &'static str, option: &'static str, total: u64, percent: u8) -> Arc<Self> {
        let share = share_of(total, percent);
        Arc::new(Self { units, option, total, share, state: Mutex::default() })
    }

    /// Takes an amount for an owner, until the result is dropped.
    pub fn take(self: &Arc<Self>, owner: &str, amount: u64) -> Result<Hold, Exhausted> {
        self.take_within(owner, amount, self.share)
    }

    /// Takes an amount for an owner with a share other than the usual one.
    pub fn take_within(
        self: &Arc<Self>,
        owner: &str,
        amount: u64,
        share: u64,
    ) -> Result<Hold, Exhausted> {
        let mut state = self.state();
        let owner = match state.by_owner.get_key_value(owner) {
            Some((owner, _)) => Arc::clone(owner),
            None => Arc::from(owner),
        };
        self.add(&mut state, &owner, amount, share)?;
        drop(state);
        Ok(Hold { ledger: Arc::clone(self), owner, amount })
    }

    /// Returns the amount in use.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// Returns the error for the caller: 429 for its share, 503 for the server's total.
    pub fn refusal(&self, exhausted: Exhausted) -> Error {
        let Self { units, option, total, share, .. } = self;
        match exhausted {
            Exhausted::Share => Error::new(
                ErrorKind::TooManyRequests,
                format!(
                    "too many {units}: a tenant may have {share} of the server's {total} \
                     ({option}, --tenant-share); wait until some of yours have ended"
                ),
            ),
            Exhausted::Total => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the server has too many {units}: {total} is the limit ({option}); try again"
                ),
            ),
        }
        .after(RETRY_AFTER)
    }

    fn add(
        &self,
        state: &mut LedgerState,
        owner: &Arc<str>,
        amount: u64,
        share: u64,
    ) -> Result<(), Exhausted> {
        let held = state.by_owner.get(owner).copied().unwrap_or_default();
        if held.saturating_add(amount) > share {
            return Err(Exhausted::Share);
        }
        if state.used.saturating_add(amount) > self.total {
            return Err(Exhausted::Total);
        }
        state.used += amount;
        *state.by_owner.entry(Arc::clone(owner)).or_default() += amount;
        Ok(())
    }

    fn release(state: &mut LedgerState, owner: &Arc<str>, amount: u64) {
        state.used = state.used.saturating_sub(amount);
        if let Some(held) = state.by_owner.get_mut(owner) {
            *held = held.saturating_sub(amount);
            if *held == 0 {
                // Owners that hold nothing are removed: there may be any number of them.
                state.by_owner.remove(owner);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An amount that an owner holds, released on drop.
#[derive(Debug)]
pub struct Hold {
    ledger: Arc<Ledger>,
    owner: Arc<str>,
    amount: u64,
}

impl Hold {
    /// Takes more for the same owner.
    pub fn grow(&mut self, more: u64) -> Result<(), Exhausted> {
        let mut state = self.ledger.state();
        self.ledger.add(&mut state, &self.owner, more, self.ledger.share)?;
        drop(state);
        self.amount += more;
        Ok(())
    }

    /// Releases a part of the amount.
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.amount);
        Ledger::release(&mut self.ledger.state(), &self.owner, less);
        self.amount -= less;
    }

    /// Transfers the amount to another owner, within that owner's share. On failure
    /// nothing is changed.
    pub fn transfer(&mut self, owner: &str) -> Result<(), Exhausted> {
        if *self.owner == *owner {
            return Ok(());
        }
        let mut state = self.ledger.state();
        let owner: Arc<str> = match state.by_owner.get_key_value(owner) {
            Some((owner, _)) => Arc::clone(owner),
            None => Arc::from(owner),
        };
        Ledger::release(&mut state, &self.owner, self.amount);
        let taken = self.ledger.add(&mut state, &owner, self.amount, self.ledger.share);
        match taken {
            Ok(()) => {
                drop(state);
                self.owner = owner;
            }
            Err(_) => {
                state.used += self.amount;
                *state.by_owner.entry(Arc::clone(&self.owner)).or_default() += self.amount;
            }
        }
        taken
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        Ledger::release(&mut self.ledger.state(), &self.owner, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_limited_to_their_share_and_to_the_total() {
        let ledger = Ledger::new("things", "--things", 100, 50);
        let held: Vec<_> = (0..50).map(|_| ledger.take("a", 1).unwrap()).collect();
        assert_eq!(ledger.take("a", 1).unwrap_err(), Exhausted::Share);
        let others = ledger.take("b", 40).unwrap();
        assert_eq!(ledger.take("c", 11).unwrap_err(), Exhausted::Total);
        ledger.take("c", 10).unwrap();
        assert_eq!(ledger.used(), 90, "the dropped amount is released");
        drop((held, others));
        assert_eq!((ledger.used(), ledger.state().by_owner.len()), (0, 0));
    }

    #[test]
    fn growth_and_transfer_respect_the_limits() {
        let ledger = Ledger::new("things", "--things", 100, 50);
        let mut unknown = ledger.take("", 30).unwrap();
        let other = ledger.take("a", 30).unwrap();
        assert_eq!(unknown.transfer("a"), Err(Exhausted::Share));
        assert_eq!(ledger.state().by_owner[""], 30, "nothing changed");
        unknown.transfer("b").unwrap();
        assert_eq!(ledger.state().by_owner.get(""), None);
        assert_eq!(ledger.state().by_owner["b"], 30);
        assert_eq!(unknown.grow(21), Err(Exhausted::Share));
        unknown.grow(20).unwrap();
        assert_eq!(ledger.used(), 80);
        drop((unknown, other));
        assert_eq!((ledger.used(), ledger.state().by_owner.len()), (0, 0));
    }

    #[test]
    fn refusals_name_the_limit_and_its_option() {
        let ledger = Ledger::new("things in flight", "--things", 100, 50);
        let share = ledger.refusal(Exhausted::Share);
        assert_eq!(share.kind, ErrorKind::TooManyRequests);
        assert!(share.message.contains("50 of the server's 100 (--things"), "{}", share.message);
        let total = ledger.refusal(Exhausted::Total);
        assert_eq!(total.kind, ErrorKind::Unavailable);
        assert!(total.message.contains("100 is the limit (--things)"), "{}", total.message);
        assert!(share.retry_after.is_some() && total.retry_after.is_some());
    }
}
