//! How often a sandbox may ask outside. No I/O.

use std::time::Instant;

/// Questions in a second, for long.
const PER_SECOND: f64 = 100.0;
/// Questions at once, after a while without any.
const BURST: f64 = 500.0;

/// A bucket of tokens, one for each question.
#[derive(Debug)]
pub struct Rate {
    tokens: f64,
    since: Option<Instant>,
}

impl Default for Rate {
    fn default() -> Self {
        Self { tokens: BURST, since: None }
    }
}

impl Rate {
    /// Takes one, if there is any.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = self.since.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(since).as_secs_f64();
        self.tokens = passed.mul_add(PER_SECOND, self.tokens).min(BURST);
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let (mut rate, begun) = (Rate::default(), Instant::now());
        let mut at = |milliseconds| rate.take(begun + Duration::from_millis(milliseconds));
        assert_eq!((0..1000).filter(|_| at(0)).count(), 500);
        assert_eq!((0..10_000).filter(|number| at(*number)).count(), 999);
        assert_eq!((0..1000).filter(|_| at(60_000)).count(), 500);
        // A clock that goes back is none that gives.
        assert!(!at(0));
    }
}
