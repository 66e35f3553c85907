//! The simulated cluster: its nodes, their machines, and the runs that are open.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use isorun_server::{
    simulation::{RENEWALS_PER_LEASE, SimulatedNode, SimulatedRun, number_of},
    store::{ClusterLimit, StoreError},
};
use tokio::task::JoinSet;

use crate::{
    CONNECTIONS_PER_NODE, NODES, Random,
    database::Statements,
    machine::{Machine, Use},
};

pub const TENANTS: usize = 50;
/// The node from which the cluster is observed. It does not die.
pub const OBSERVER: usize = 0;
/// The lease time of a server.
const LEASE: Duration = Duration::from_secs(15);
/// The times between two measurements of stored data, and two searches for uploads, of a server.
const STORED_INTERVAL: Duration = Duration::from_secs(5);
const UPLOADS_INTERVAL: Duration = Duration::from_secs(2);
/// The clients of `saturate`, the nodes that they use, and the times for which it prepares
/// connections and measures.
const SATURATING_CLIENTS: usize = 32;
const SATURATED_NODES: usize = 20;
pub const WARM_UP_TIME: Duration = Duration::from_secs(2);
pub const SATURATION_TIME: Duration = Duration::from_secs(4);
pub struct Simulation {
    pub nodes: Vec<SimulatedNode>,
    pub machines: Vec<Machine>,
    pub candidates: usize,
    pub seed: u64,
    open: Mutex<Vec<OpenRun>>,
    /// Losses that were recorded, and the time of the last.
    pub lost: Mutex<(u64, Option<Instant>)>,
    /// Errors of living nodes.
    pub failures: AtomicU64,
}

/// A run without a sandbox, and what its sandbox would use.
pub struct OpenRun {
    pub node: usize,
    pub run: SimulatedRun,
    pub used: Use,
}

/// What `saturate` has measured.
pub struct Saturation {
    pub per_second: f64,
    pub creates: usize,
    pub duration: Duration,
    pub p50: f64,
    pub p99: f64,
}

impl Simulation {
    pub async fn join(statements: &Statements, candidates: usize, seed: u64) -> Arc<Self> {
        let mut random = Random::new(seed);
        let machines: Vec<Machine> = (0..NODES).map(|_| Machine::random(&mut random)).collect();
        let url = statements.url.parse().unwrap();
        let joining =
            machines.iter().enumerate().map(|(number, machine)| {
                let report = machine.report(number);
                let url = &url;
                async move {
                    SimulatedNode::join(url, number, &report, LEASE, CONNECTIONS_PER_NODE).await
                }
            });
        let joining: Vec<_> = joining.collect();
        let nodes: Vec<SimulatedNode> =
            stream::iter(joining).buffered(16).try_collect().await.unwrap();
        for tenant in 0..TENANTS {
            nodes[OBSERVER].add_key(&tenant_name(tenant)).await.unwrap();
        }
        Arc::new(Self {
            nodes,
            machines,
            candidates,
            seed,
            open: Mutex::default(),
            lost: Mutex::default(),
            failures: AtomicU64::new(0),
        })
    }

    /// Starts what nodes do periodically, until the result is dropped.
    pub async fn start_background(self: &Arc<Self>) -> JoinSet<()> {
        // Leases may have expired while nodes joined.
        let renewing = (0..NODES).map(|number| self.act(number, Periodic::Renewal));
        join_all(renewing).await;
        // A server, too, reads the nodes when it has joined.
        let surveying = (0..NODES).map(|number| self.act(number, Periodic::Survey));
        join_all(surveying).await;
        let mut tasks = JoinSet::new();
        let mut random = Random::new(self.seed ^ 1);
        for number in 0..NODES {
            let renewal = LEASE / RENEWALS_PER_LEASE;
            for (kind, period) in [
                (Periodic::Renewal, renewal),
                (Periodic::Survey, renewal),
                (Periodic::Stored, STORED_INTERVAL),
                (Periodic::Uploads, UPLOADS_INTERVAL),
            ] {
                let (simulation, offset) = (Arc::clone(self), random.fraction());
                tasks.spawn(async move {
                    tokio::time::sleep(period.mul_f64(offset)).await;
                    while !simulation.machines[number].is_dead() {
                        simulation.act(number, kind).await;
                        tokio::time::sleep(period).await;
                    }
                });
            }
        }
        tasks
    }

    async fn act(&self, number: usize, kind: Periodic) {
        let node = &self.nodes[number];
        let done = match kind {
            Periodic::Renewal => node.renew(&self.machines[number].report(number)).await,
            Periodic::Survey => node.survey().await.map(|recorded| {
                if recorded > 0 {
                    let mut lost = self.lost.lock().unwrap();
                    *lost = (lost.0 + recorded, Some(Instant::now()));
                }
            }),
            Periodic::Stored => node.measure_stored().await,
            Periodic::Uploads => node.look_for_uploads().await,
        };
        if let Err(error) = done {
            self.report_failure("cannot renew its lease, or read", number, &error);
        }
    }

    /// Counts an error of a node that lives.
    pub fn report_failure(&self, what: &str, node: usize, error: &StoreError) {
        if !self.machines[node].is_dead() && self.failures.fetch_add(1, Ordering::Relaxed) < 10 {
            eprintln!("node {node}: {what}: {error}");
        }
    }

    /// Keeps a run open.
    pub fn keep(&self, run: OpenRun) {
        self.open.lock().unwrap().push(run);
    }

    /// Ends a run at random if more than `most` are open.
    pub async fn end_beyond(&self, most: usize, random: &mut Random) {
        let run = {
            let mut open = self.open.lock().unwrap();
            if open.len() <= most {
                return;
            }
            let at = random.below(open.len());
            open.swap_remove(at)
        };
        match self.nodes[run.node].end(&run.run).await {
            Ok(()) => self.machines[run.node].remove(run.used),
            Err(error) => {
                self.report_failure("cannot end a run", run.node, &error);
                self.keep(run);
            }
        }
    }

    /// Forgets the runs of nodes that have died.
    pub fn forget_dead(&self) {
        self.open.lock().unwrap().retain(|run| !self.machines[run.node].is_dead());
    }

    /// Returns the limits of the living nodes together, and the runs there.
    pub fn slots(&self) -> (u64, u64) {
        let living = || self.machines.iter().filter(|machine| !machine.is_dead());
        (living().map(Machine::max_runs).sum(), living().map(Machine::runs).sum())
    }

    /// Creates and ends runs at some nodes with many clients.
    pub async fn saturate(self: &Arc<Self>, tenants: usize, time: Duration) -> Saturation {
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..SATURATING_CLIENTS {
            let simulation = Arc::clone(self);
            let mut random = Random::new(self.seed ^ (number as u64) << 32);
            clients.spawn(async move {
                let mut times = Vec::new();
                while started.elapsed() < time {
                    let node = &simulation.nodes[random.below(SATURATED_NODES)];
                    let tenant = tenant_name(random.below(tenants));
                    let begun = Instant::now();
                    let run = match node.create(&tenant, 512).await {
                        Ok(run) => run,
                        // Several clients may have chosen the same small node.
                        Err(StoreError::Limit(ClusterLimit::NodeRuns)) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    times.push(begun.elapsed().as_secs_f64());
                    node.end(&run).await.unwrap();
                }
                times
            });
        }
        let mut times: Vec<f64> = clients.join_all().await.into_iter().flatten().collect();
        let duration = started.elapsed();
        let creates = times.len();
        Saturation {
            per_second: creates as f64 / duration.as_secs_f64(),
            creates,
            duration,
            p50: percentile(&mut times, 0.5),
            p99: percentile(&mut times, 0.99),
        }
    }

    /// Returns the runs of the nodes that live, as parts of their limits, and the number of nodes
    /// that are beyond it.
    pub async fn use_of_nodes(&self) -> Result<(Vec<f64>, usize), StoreError> {
        let nodes = self.nodes[OBSERVER].nodes().await?;
        let living = nodes.iter().filter(|node| {
            number_of(&node.id).is_some_and(|number| !self.machines[number].is_dead())
        });
        let parts: Vec<f64> =
            living.map(|node| node.runs as f64 / node.report.max_sandboxes as f64).collect();
        let beyond = nodes.iter().filter(|node| node.runs > node.report.max_sandboxes).count();
        Ok((parts, beyond))
    }

    /// Checks the numbers of open runs that the database keeps.
    pub async fn check_counters(&self, statements: &Statements) {
        let wrong = statements.query(
            "SELECT COUNT(*) FROM isorun.node_runs WHERE open <> (SELECT COUNT(*) FROM isorun.runs
             WHERE runs.node = node_runs.node AND destroyed_at IS NULL)",
        );
        assert_eq!(wrong, "0", "numbers of open runs are wrong");
    }
}

#[derive(Clone, Copy, Debug)]
enum Periodic {
    Renewal,
    Survey,
    Stored,
    Uploads,
}

pub fn tenant_name(number: usize) -> String {
    format!("tenant{number}")
}

/// Returns the value below which a part of the values are; 0 without values.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part) as usize).copied().unwrap_or_default()
}
