//! The rate limit of a sandbox on queries to upstream resolvers. No I/O.

use std::time::Instant;

/// Sustained rate, in queries per second.
const QUERIES_PER_SECOND: f64 = 100.0;
/// Maximum burst, in queries.
const MAX_BURST_QUERIES: f64 = 500.0;

/// A token bucket; each query takes one token.
#[derive(Debug)]
pub struct RateLimiter {
    tokens: f64,
    last: Option<Instant>,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { tokens: MAX_BURST_QUERIES, last: None }
    }
}

impl RateLimiter {
    /// Takes a token. Returns false if there is none.
    pub fn try_take(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now).unwrap_or(now);
        let elapsed = now.saturating_duration_since(last).as_secs_f64();
        self.tokens = elapsed.mul_add(QUERIES_PER_SECOND, self.tokens).min(MAX_BURST_QUERIES);
        let is_available = self.tokens >= 1.0;
        if is_available {
            self.tokens -= 1.0;
        }
        is_available
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rate_applies_after_a_burst() {
        let (mut rate, start) = (RateLimiter::default(), Instant::now());
        let mut at = |milliseconds| rate.try_take(start + Duration::from_millis(milliseconds));
        assert_eq!((0..1000).filter(|_| at(0)).count(), 500);
        assert_eq!((0..10_000).filter(|number| at(*number)).count(), 999);
        assert_eq!((0..1000).filter(|_| at(60_000)).count(), 500);
        // A clock that goes backwards adds no tokens.
        assert!(!at(0));
    }
}
