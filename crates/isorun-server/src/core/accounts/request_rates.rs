//! The rates of requests of all keys. In a cluster they hold for all nodes together,
//! approximately: nodes tell each other once a second how many requests they got, and each admits
//! its share of the rate.
//!
//! ```text
//!  request ──▶ takes from the bucket of the key ──▶ admitted, or refused
//!     │           1, or as many as the cluster got
//!     ▼           for each one here
//!  counted              ▲
//!     │                 └── heard from the others
//!     └── each second, if it is a considerable part ──▶ told to the others
//! ```

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DefaultKeyedStateStore,
};

use crate::core::error::{Error, ErrorKind};

/// How often a node tells the others of the requests that it got.
pub const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which keys without recent requests are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// The part of the rate, divided by the nodes, from which on a node tells of a key. So all nodes
/// together exceed the rate by less than this part of it.
const TOLD_PART: u32 = 10;

type Limiter<C> =
    RateLimiter<String, DefaultKeyedStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The rates of requests of all keys.
pub struct RequestRates<C: Clock = DefaultClock> {
    limiter: Limiter<C>,
    per_second: NonZeroU32,
    burst: NonZeroU32,
    clock: C,
    /// The uses of keys; `None` on a server of one machine, which has no others.
    uses: Option<Mutex<HashMap<String, KeyUse>>>,
}

/// The recent use of a key.
#[derive(Default)]
struct KeyUse {
    /// The requests here, and those at other nodes that this one has heard of, since the last
    /// second began.
    current: Requests,
    /// The same of earlier seconds: the average, in which each second weighs as much as all before
    /// it.
    average: Requests,
    /// What is left of a cell of the bucket.
    rest: f64,
}

#[derive(Default)]
struct Requests {
    here: f64,
    elsewhere: f64,
}

impl KeyUse {
    /// Returns how much of the bucket a request takes. If the cluster gets more than the rate,
    /// each node admits the part of it that it gets of the requests.
    fn cost(&self, per_second: f64, burst: f64) -> f64 {
        let all = self.average.here + self.average.elsewhere;
        if self.average.elsewhere == 0.0 || all <= per_second {
            return 1.0;
        }
        (all / self.average.here.max(1.0)).min(burst)
    }

    /// Begins the next second.
    fn advance(&mut self) {
        let current = std::mem::take(&mut self.current);
        self.average.here = f64::midpoint(self.average.here, current.here);
        self.average.elsewhere = f64::midpoint(self.average.elsewhere, current.elsewhere);
        if self.average.elsewhere < 0.5 {
            self.average.elsewhere = 0.0;
        }
    }

    fn is_idle(&self) -> bool {
        self.average.here < 0.5 && self.average.elsewhere == 0.0
    }
}

impl RequestRates {
    /// Allows the given number of requests per second, and bursts of twice as many.
    pub fn new(per_second: u32, in_cluster: bool) -> Self {
        Self::with_clock(per_second, in_cluster, DefaultClock::default())
    }

    /// Periodically removes keys without recent requests. Never returns.
    pub async fn forget_idle(&self) {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            self.limiter.retain_recent();
        }
    }
}

impl<C: Clock + Clone> RequestRates<C> {
    fn with_clock(per_second: u32, in_cluster: bool, clock: C) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        let uses = in_cluster.then(Mutex::default);
        Self { limiter, per_second, burst, clock, uses }
    }

    fn uses(&self) -> Option<MutexGuard<'_, HashMap<String, KeyUse>>> {
        Some(self.uses.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Admits a request with a key.
    pub fn check(&self, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        let Some(mut uses) = self.uses() else {
            return self.take(&key, NonZeroU32::MIN);
        };
        let used = uses.entry(key.clone()).or_default();
        used.current.here += 1.0;
        let [per_second, burst] = [self.per_second, self.burst].map(|rate| f64::from(rate.get()));
        let cost = (used.cost(per_second, burst) + used.rest).min(burst);
        let cells = NonZeroU32::new(cost as u32).unwrap_or(NonZeroU32::MIN);
        self.take(&key, cells)?;
        used.rest = cost - f64::from(cells.get());
        Ok(())
    }

    /// Takes cells from the bucket of a key.
    fn take(&self, key: &String, cells: NonZeroU32) -> Result<(), Error> {
        match self.limiter.check_key_n(key, cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(refusal(not_until.wait_time_from(self.clock.now()))),
            // The bucket is smaller.
            Err(_) => Err(refusal(Duration::from_secs(1))),
        }
    }

    /// Begins the next second. Returns how many requests with each busy key came in the last one,
    /// the busiest key first. `nodes` is the number of nodes of the cluster.
    pub fn advance(&self, nodes: usize) -> Vec<(String, u32)> {
        let Some(mut uses) = self.uses() else { return Vec::new() };
        let nodes = u32::try_from(nodes.max(1)).unwrap_or(u32::MAX);
        let least = (self.per_second.get() / TOLD_PART.saturating_mul(nodes)).max(1);
        let mut busy = Vec::new();
        uses.retain(|key, used| {
            let requests = used.current.here as u32;
            if requests >= least {
                busy.push((key.clone(), requests));
            }
            used.advance();
            !used.is_idle()
        });
        busy.sort_by_key(|(_, requests)| std::cmp::Reverse(*requests));
        busy
    }

    /// Counts the requests that another node got.
    pub fn hear(&self, requests: &[(String, u32)]) {
        let Some(mut uses) = self.uses() else { return };
        for (key, requests) in requests {
            uses.entry(key.clone()).or_default().current.elsewhere += f64::from(*requests);
        }
    }
}

fn refusal(wait: Duration) -> Error {
    let message = "too many requests with this key: wait, then try again";
    Error::new(ErrorKind::TooManyRequests, message).after(wait)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const RATE: u32 = 100;
    const STEP: Duration = Duration::from_millis(10);

    /// Simulates the nodes of a cluster, each of which gets a number of requests in each step.
    /// Returns what they admit together in each second.
    fn admitted_each_second(offered: &[u32], seconds: usize) -> Vec<u32> {
        let clock = FakeRelativeClock::default();
        let nodes: Vec<_> =
            offered.iter().map(|_| RequestRates::with_clock(RATE, true, clock.clone())).collect();
        let mut admitted = Vec::new();
        for _ in 0..seconds {
            let mut count = 0;
            for _ in 0..100 {
                for (node, offered) in nodes.iter().zip(offered) {
                    let checks = (0..*offered).filter(|_| node.check("key").is_ok());
                    count += u32::try_from(checks.count()).unwrap();
                }
                clock.advance(STEP);
            }
            for (at, node) in nodes.iter().enumerate() {
                let busy = node.advance(nodes.len());
                let others = nodes.iter().enumerate().filter(|(other, _)| *other != at);
                others.for_each(|(_, other)| other.hear(&busy));
            }
            admitted.push(count);
        }
        admitted
    }

    #[test]
    fn the_rate_holds_for_all_nodes_together() {
        for offered in [&[3_u32, 3, 3][..], &[9, 1, 0], &[0, 0, 9], &[2; 10]] {
            let admitted = admitted_each_second(offered, 30);
            // Each node has admitted a burst before it knows of the others.
            let later = &admitted[10..];
            let sum: u32 = later.iter().sum();
            let expected = RATE * u32::try_from(later.len()).unwrap();
            assert!(sum.abs_diff(expected) <= expected / 10, "{offered:?}: {admitted:?}");
        }
    }

    #[test]
    fn a_rate_below_the_limit_is_never_refused() {
        let admitted = admitted_each_second(&[1, 0, 0], 30);
        assert_eq!(admitted, vec![RATE; 30]);
    }

    #[test]
    fn little_use_is_not_told() {
        let clock = FakeRelativeClock::default();
        let node = RequestRates::with_clock(RATE, true, clock.clone());
        for _ in 0..9 {
            node.check("key").unwrap();
        }
        assert_eq!(node.advance(1), []);
        for _ in 0..5 {
            node.check("key").unwrap();
        }
        assert_eq!(node.advance(2), [("key".to_owned(), 5)]);
        (0..9).for_each(|_| drop(node.advance(1)));
        assert!(node.uses().unwrap().is_empty(), "it is forgotten");
    }

    #[test]
    fn a_node_with_few_requests_admits_few() {
        let clock = FakeRelativeClock::default();
        let node = RequestRates::with_clock(RATE, true, clock.clone());
        for _ in 0..9 {
            node.hear(&[("key".to_owned(), u32::MAX), ("busy".to_owned(), RATE / 2)]);
            node.advance(2);
        }
        node.check("key").unwrap();
        let refused = node.check("key").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooManyRequests);
        assert!(refused.retry_after.unwrap() <= Duration::from_secs(2), "{refused:?}");
        // Together they stay below the rate.
        (0..50).for_each(|_| node.check("busy").unwrap());
        node.check("other").unwrap();
    }

    #[test]
    fn a_server_of_one_machine_keeps_no_uses() {
        let clock = FakeRelativeClock::default();
        let node = RequestRates::with_clock(1, false, clock);
        node.check("key").unwrap();
        node.check("key").unwrap();
        assert!(node.check("key").is_err());
        node.hear(&[("other".to_owned(), 9)]);
        node.check("other").unwrap();
        assert_eq!(node.advance(3), []);
    }
}
