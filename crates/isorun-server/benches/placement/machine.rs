//! The model of a machine: what its sandboxes use of it, and what it reports.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use isorun_server::store::NodeReport;

use crate::random::Random;

/// CPUs of the machines, and their percentages. The rest follows from them.
const SIZES: [(u64, usize); 4] = [(4, 40), (8, 30), (16, 20), (32, 10)];
const MIB_PER_CPU: u64 = 2048;
/// The limit of runs for two CPUs.
const RUNS_PER_TWO_CPUS: u64 = 5;
/// The time constant of the load average, in seconds.
const LOAD_AVERAGE_SECS: f64 = 60.0;

/// What a sandbox uses.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub mem_mib: u64,
    pub cpu_permille: u64,
}

pub struct Machine {
    pub cpus: u64,
    is_dead: AtomicBool,
    state: Mutex<State>,
}

struct State {
    runs: u64,
    mem_mib: u64,
    cpu_permille: u64,
    load_permille: f64,
    changed: Instant,
}

impl Machine {
    pub fn random(random: &mut Random) -> Self {
        let mut percent = random.below(100);
        let cpus = SIZES.iter().find(|(_, share)| {
            let is_found = percent < *share;
            percent = percent.saturating_sub(*share);
            is_found
        });
        let state = State {
            runs: 0,
            mem_mib: 0,
            cpu_permille: 0,
            load_permille: 0.0,
            changed: Instant::now(),
        };
        Self {
            cpus: cpus.map_or(SIZES[0].0, |(cpus, _)| *cpus),
            is_dead: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    pub fn max_runs(&self) -> u64 {
        self.cpus * RUNS_PER_TWO_CPUS / 2
    }

    fn mem_mib(&self) -> u64 {
        self.cpus * MIB_PER_CPU
    }

    /// Returns the memory that stays free, as the server computes it by default.
    fn reserve_mib(&self) -> u64 {
        (self.mem_mib() / 20).clamp(128, 2048)
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Stops the machine, and returns the number of its runs.
    pub fn kill(&self) -> u64 {
        self.is_dead.store(true, Ordering::Relaxed);
        self.state.lock().unwrap().runs
    }

    pub fn runs(&self) -> u64 {
        self.state.lock().unwrap().runs
    }

    /// Reports whether a server would refuse a run since memory is short.
    pub fn is_short_of_memory(&self) -> bool {
        self.state.lock().unwrap().mem_mib + self.reserve_mib() >= self.mem_mib()
    }

    pub fn add(&self, used: Use) {
        let mut state = self.state.lock().unwrap();
        state.pass_time();
        state.runs += 1;
        state.mem_mib += used.mem_mib;
        state.cpu_permille += used.cpu_permille;
    }

    pub fn remove(&self, used: Use) {
        let mut state = self.state.lock().unwrap();
        state.pass_time();
        state.runs -= 1;
        state.mem_mib -= used.mem_mib;
        state.cpu_permille -= used.cpu_permille;
    }

    /// Returns what the node of the machine reports.
    pub fn report(&self, number: usize) -> NodeReport {
        let mut state = self.state.lock().unwrap();
        state.pass_time();
        let free_mib = self.mem_mib().saturating_sub(state.mem_mib + self.reserve_mib());
        NodeReport {
            url: format!("https://10.0.{}.{}:8444", number / 250, number % 250),
            version: "0.1.0".to_owned(),
            has_linux: true,
            interpreters: vec!["isola:python".to_owned(), "isola:js".to_owned()],
            cpus: self.cpus,
            busy_cpus_permille: state.load_permille as u64,
            mem_bytes: self.mem_mib() << 20,
            mem_free_bytes: free_mib << 20,
            disk_free_bytes: 1 << 40,
            pooled: 2,
            max_sandboxes: self.max_runs(),
            max_tenant_runs: 100_000,
            max_tenant_snapshots: 1000,
        }
    }
}

impl State {
    fn pass_time(&mut self) {
        let now = Instant::now();
        let passed = now.duration_since(self.changed).as_secs_f64();
        let part = 1.0 - (-passed / LOAD_AVERAGE_SECS).exp();
        self.load_permille += (self.cpu_permille as f64 - self.load_permille) * part;
        self.changed = now;
    }
}
