//! Limits on how much is in use for each of many keys, such as connections of each peer.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// A counter for each key. Keys without anything in use take no memory.
#[derive(Debug)]
pub(crate) struct KeyedLimit<K: Eq + Hash> {
    max: usize,
    used: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> KeyedLimit<K> {
    /// Creates counters with a maximum for each key.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, used: Arc::default() }
    }

    /// Counts one more for a key, until the result is dropped. Returns nothing if the
    /// maximum is reached.
    pub(crate) fn acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let count = used.get(&key).copied().unwrap_or_default();
        if count >= self.max {
            return None;
        }
        used.insert(key.clone(), count + 1);
        Some(KeyedPermit { key, used: Arc::clone(&self.used) })
    }
}

/// One use of a key, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyedPermit<K: Eq + Hash> {
    key: K,
    used: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(used.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_limit_and_takes_no_memory_afterwards() {
        let limit = KeyedLimit::new(2);
        let (first, second) = (limit.acquire("a"), limit.acquire("a"));
        assert!(first.is_some() && second.is_some());
        assert!(limit.acquire("a").is_none());
        let other = limit.acquire("b");
        assert!(other.is_some());
        drop(first);
        let third = limit.acquire("a");
        assert!(third.is_some() && limit.acquire("a").is_none());
        drop((second, third, other));
        assert!(limit.used.lock().unwrap().is_empty());
    }
}
