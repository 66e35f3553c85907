//! The phases of the simulation, and what is measured in them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use isorun_server::{
    simulation::{MAX_CREATE_ATTEMPTS, SimulatedRun},
    store::{ClusterLimit, StoreError},
};
use tokio::task::JoinSet;

use crate::{
    NODES, Random,
    machine::Use,
    simulation::{OBSERVER, OpenRun, Simulation, TENANTS, percentile, tenant_name},
};

/// The creates that are in progress at the same time.
const CLIENTS: usize = 32;
/// The limit of the memory of each sandbox.
const MEM_MIB: u64 = 1024;
/// The mean number of creates that come one after the other at the same node.
const MEAN_BURST: f64 = 8.0;
/// The time between two samples of the use of the nodes.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// The longest time until all losses are recorded.
const LOSS_TIMEOUT: Duration = Duration::from_secs(60);

/// A phase of the simulation.
pub struct Phase {
    pub name: &'static str,
    creates: usize,
    /// Creates with another choice than that of the server.
    compared_creates: usize,
    /// The part of the limits of all nodes together from which on a run ends for each that is
    /// created.
    used_percent: u64,
    pub kills_nodes: bool,
    pub is_charted: bool,
}

pub const PHASES: [Phase; 3] = [
    Phase {
        name: "steady",
        creates: 12_000,
        compared_creates: 6000,
        used_percent: 60,
        kills_nodes: false,
        is_charted: true,
    },
    Phase {
        name: "full",
        creates: 5000,
        compared_creates: 4000,
        used_percent: 97,
        kills_nodes: false,
        is_charted: false,
    },
    Phase {
        name: "deaths",
        creates: 3000,
        compared_creates: 0,
        used_percent: 70,
        kills_nodes: true,
        is_charted: false,
    },
];

/// The figures of a phase.
#[derive(Default)]
pub struct Figures {
    pub creates: usize,
    pub duration: Duration,
    pub spread: Spread,
    /// The nodes at the end, as parts of their limits.
    pub last_use: Vec<f64>,
    pub nodes_beyond_limit: usize,
    /// The creates that succeeded, by the number of tries.
    pub tries: [usize; MAX_CREATE_ATTEMPTS],
    pub local: usize,
    pub refused: usize,
    /// Refused ones while more than a hundredth of the cluster was free.
    pub refused_with_room: usize,
    /// Nodes that refused since their memory was short.
    pub short_of_memory: usize,
    pub failed: usize,
    pub p50: f64,
    pub p99: f64,
    pub lost: u64,
    pub losses_recorded_after: Option<Duration>,
}

/// The use of the nodes in percent of their limits, as means of the samples.
#[derive(Clone, Copy, Default)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    /// The standard deviation as a part of the mean.
    pub variation: f64,
}

/// A run to create.
struct Create {
    entry: u64,
    tenant: usize,
    used: Use,
    /// The seed of the choice.
    seed: u64,
}

#[derive(Default)]
struct Outcomes {
    figures: Figures,
    times: Vec<f64>,
}

/// Runs a phase to the end of its creates, and returns its figures.
pub async fn run(
    simulation: &Arc<Simulation>,
    phase: &Phase,
    is_placement: bool,
    percent: usize,
) -> Figures {
    let creates = if is_placement { phase.creates } else { phase.compared_creates };
    let creates = creates * percent / 100;
    let killed = if phase.kills_nodes { kill_nodes(simulation) } else { 0 };
    simulation.forget_dead();
    let (limit, _) = simulation.slots();
    let most = (limit * phase.used_percent / 100) as usize;
    let started = Instant::now();
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let samples = Arc::new(Mutex::new(Vec::new()));
    let mut sampler = JoinSet::new();
    sampler.spawn(sample(Arc::clone(simulation), Arc::clone(&samples), Arc::clone(&outcomes)));
    let waiting = load(simulation.seed ^ phase.creates as u64, creates);
    let waiting = Arc::new(Mutex::new(waiting.into_iter()));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS as u64 {
        let (simulation, outcomes) = (Arc::clone(simulation), Arc::clone(&outcomes));
        let (waiting, mut random) = (Arc::clone(&waiting), Random::new(simulation.seed ^ number));
        clients.spawn(async move {
            loop {
                let Some(create) = waiting.lock().unwrap().next() else { return };
                create_run(&simulation, create, &outcomes).await;
                simulation.end_beyond(most, &mut random).await;
            }
        });
    }
    clients.join_all().await;
    let duration = started.elapsed();
    sampler.shutdown().await;
    let recorded = if killed > 0 { Some(wait_for_losses(simulation, started).await) } else { None };
    let mut outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    let mut samples = std::mem::take(&mut *samples.lock().unwrap());
    // In the first half connections are opened, and statements prepared.
    let mut times = outcomes.times.split_off(outcomes.times.len() / 2);
    Figures {
        creates,
        duration,
        last_use: samples.pop().unwrap_or_default(),
        spread: spread(&samples[samples.len() / 2..]),
        p50: percentile(&mut times, 0.5),
        p99: percentile(&mut times, 0.99),
        lost: simulation.lost.lock().unwrap().0,
        losses_recorded_after: recorded,
        ..outcomes.figures
    }
}

/// Returns creates in bursts.
fn load(seed: u64, count: usize) -> Vec<Create> {
    let mut random = Random::new(seed);
    let mut creates = Vec::new();
    while creates.len() < count {
        let entry = random.next();
        let burst = 1 + (random.exponential() * (MEAN_BURST - 1.0)).round() as usize;
        for _ in 0..burst.min(count - creates.len()) {
            // A fifth of the runs are of one tenant.
            let tenant = if random.below(5) == 0 { 0 } else { random.below(TENANTS) };
            creates.push(Create {
                entry,
                tenant,
                used: Use {
                    mem_mib: 64 + (random.exponential() * 350.0).min(960.0) as u64,
                    cpu_permille: (random.exponential() * 250.0).min(1000.0) as u64,
                },
                seed: random.next(),
            });
        }
    }
    creates
}

/// Creates a run, as a node does for a request.
async fn create_run(simulation: &Simulation, create: Create, outcomes: &Mutex<Outcomes>) {
    let living: Vec<usize> =
        (0..NODES).filter(|number| !simulation.machines[*number].is_dead()).collect();
    let entry = living[(create.entry % living.len() as u64) as usize];
    let mut random = Random::new(create.seed);
    let tenant = tenant_name(create.tenant);
    let started = Instant::now();
    let mut excluded = Vec::new();
    let mut short_of_memory = 0;
    for attempt in 0..MAX_CREATE_ATTEMPTS {
        let chosen = simulation.nodes[entry]
            .choose(simulation.candidates, 1024, &excluded, |below| random.below(below))
            .await;
        let Some(node) = chosen else { break };
        let machine = &simulation.machines[node];
        if machine.is_dead() {
            excluded.push(node);
            continue;
        }
        if machine.is_short_of_memory() {
            short_of_memory += 1;
            excluded.push(node);
            simulation.nodes[entry].reread_nodes().await;
            continue;
        }
        match record(simulation, entry, node, &tenant, attempt).await {
            Ok(run) => {
                machine.add(create.used);
                let open = OpenRun { node, run, used: create.used };
                simulation.keep(open);
                let mut outcomes = outcomes.lock().unwrap();
                outcomes.figures.tries[attempt] += 1;
                outcomes.figures.local += usize::from(node == entry);
                outcomes.figures.short_of_memory += short_of_memory;
                outcomes.times.push(started.elapsed().as_secs_f64());
                return;
            }
            Err(StoreError::Limit(ClusterLimit::NodeRuns)) => {
                excluded.push(node);
                simulation.nodes[entry].reread_nodes().await;
            }
            Err(error) => {
                simulation.report_failure("cannot create a run", node, &error);
                outcomes.lock().unwrap().figures.failed += 1;
                return;
            }
        }
    }
    let (limit, runs) = simulation.slots();
    let mut outcomes = outcomes.lock().unwrap();
    outcomes.figures.refused += 1;
    outcomes.figures.short_of_memory += short_of_memory;
    outcomes.figures.refused_with_room += usize::from(runs * 100 < limit * 99);
}

/// Checks the key at the nodes that handle a request, and records the run.
async fn record(
    simulation: &Simulation,
    entry: usize,
    node: usize,
    tenant: &str,
    attempt: usize,
) -> Result<SimulatedRun, StoreError> {
    if attempt == 0 {
        simulation.nodes[entry].check_key(tenant).await?;
    }
    if node != entry {
        simulation.nodes[node].check_key(tenant).await?;
    }
    simulation.nodes[node].create(tenant, MEM_MIB).await
}

/// Samples the use of the nodes, until the task is ended.
async fn sample(
    simulation: Arc<Simulation>,
    samples: Arc<Mutex<Vec<Vec<f64>>>>,
    outcomes: Arc<Mutex<Outcomes>>,
) {
    loop {
        if let Ok((parts, beyond)) = simulation.use_of_nodes().await {
            samples.lock().unwrap().push(parts);
            let figures = &mut outcomes.lock().unwrap().figures;
            figures.nodes_beyond_limit = figures.nodes_beyond_limit.max(beyond);
        }
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}

fn spread(samples: &[Vec<f64>]) -> Spread {
    let mut sum = Spread::default();
    for sample in samples {
        let mut parts = sample.clone();
        let count = parts.len() as f64;
        let mean = parts.iter().sum::<f64>() / count;
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / count;
        sum.median += percentile(&mut parts, 0.5) * 100.0;
        sum.min += parts[0] * 100.0;
        sum.max += parts[parts.len() - 1] * 100.0;
        sum.variation += variance.sqrt() / mean;
    }
    let count = samples.len().max(1) as f64;
    Spread {
        min: sum.min / count,
        median: sum.median / count,
        max: sum.max / count,
        variation: sum.variation / count,
    }
}

/// Stops a tenth of the nodes. Returns the number of their runs.
fn kill_nodes(simulation: &Simulation) -> u64 {
    let mut random = Random::new(simulation.seed ^ 2);
    let mut killed = Vec::new();
    while killed.len() < NODES / 10 {
        let node = random.below(NODES);
        if node != OBSERVER && !killed.contains(&node) {
            killed.push(node);
        }
    }
    killed.into_iter().map(|node| simulation.machines[node].kill()).sum()
}

/// Waits until no run of a dead node is open. Returns the time since the nodes died.
async fn wait_for_losses(simulation: &Simulation, died: Instant) -> Duration {
    loop {
        let nodes = simulation.nodes[OBSERVER].nodes().await.unwrap_or_default();
        let open: u64 = nodes.iter().filter(|node| !node.is_alive).map(|node| node.runs).sum();
        let last = simulation.lost.lock().unwrap().1;
        if let (0, Some(last)) = (open, last)
            && nodes.iter().filter(|node| !node.is_alive).count() >= NODES / 10
        {
            return last.duration_since(died);
        }
        assert!(died.elapsed() < LOSS_TIMEOUT, "{open} lost runs are not recorded");
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}
