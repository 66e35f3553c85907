//! Turns of the tests of one process. Tests run at the same time, except one that uses all
//! CPUs on purpose, which would delay the others beyond their time limits.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::new(());

/// Waits until no test runs alone. Then none begins before the result is dropped.
#[must_use = "the turn ends when it is dropped"]
pub fn shared() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no other test runs. Then none begins before the result is dropped.
#[must_use = "the turn ends when it is dropped"]
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::TryLockError;

    use super::*;

    #[test]
    fn one_that_is_alone_excludes_all_others() {
        let (first, second) = (shared(), shared());
        assert!(matches!(TURNS.try_write(), Err(TryLockError::WouldBlock)));
        drop((first, second));
        let turn = alone();
        assert!(matches!(TURNS.try_read(), Err(TryLockError::WouldBlock)));
        drop(turn);
        // A test that fails while it is alone lets the others run.
        std::thread::spawn(|| {
            let _turn = alone();
            panic!("expected by this test");
        })
        .join()
        .unwrap_err();
        drop(shared());
    }
}
