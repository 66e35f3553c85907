//! Simulation of placement: nodes without sandboxes on a PostgreSQL server of its own. They
//! renew their leases, choose nodes for new runs and record them with the code of the server.
//!
//! ```text
//!  steady      bursts of creates at random nodes; from 60 % of all limits together on, a run
//!              ends for each that is created
//!  full        the same from 97 % on
//!  deaths      a tenth of the nodes stops; creates continue
//! ```
//!
//! 32 clients create runs as fast as the database permits; leases and reports are on the schedule
//! of a server.
//! The same creates are repeated for other choices of a node. It prints figures, and with
//! `--chart FILE` writes how the nodes were used as an SVG image. `--seed NUMBER` sets the
//! random numbers of the load and the choices; the times at which tasks run differ. `--percent`
//! sets how many of the creates are made.
// A failure ends the benchmark.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod chart;
mod database;
mod machine;
mod random;
mod scenario;
mod simulation;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use isorun_server::simulation::CANDIDATES;
use test_support::PostgresServer;

use self::{
    chart::Curve,
    database::Statements,
    random::Random,
    scenario::{Figures, PHASES},
    simulation::Simulation,
};

/// The number of nodes.
const NODES: usize = 200;
/// The largest number of connections of a node to the database, beside that for its lease.
const CONNECTIONS_PER_NODE: usize = 4;
/// The settings of PostgreSQL that are not its defaults.
const SETTINGS: [&str; 4] = [
    "max_connections=1100",
    "fsync=on",
    "shared_buffers=512MB",
    "shared_preload_libraries=pg_stat_statements",
];
const DEFAULT_SEED: u64 = 23;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value_of = |name: &str| {
        arguments.iter().position(|word| word == name).map(|at| arguments[at + 1].clone())
    };
    let seed = value_of("--seed").map_or(DEFAULT_SEED, |text| text.parse().unwrap());
    let percent = value_of("--percent").map_or(100, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(seed, percent, value_of("--chart")));
}

async fn run(seed: u64, percent: usize, chart: Option<String>) {
    let started = Instant::now();
    let server = Arc::new(PostgresServer::start_with(&SETTINGS));
    row("seed", &seed.to_string());
    row("nodes", &NODES.to_string());
    let choices = [("best of three", CANDIDATES), ("best of all", usize::MAX), ("random", 1)];
    let mut curves = Vec::new();
    for (name, candidates) in choices {
        println!("\n## {name}");
        let is_placement = candidates == CANDIDATES;
        let statements = Statements::of_new_database(&server);
        let simulation = Simulation::join(&statements, candidates, seed).await;
        if is_placement {
            database_alone(&simulation, &statements).await;
        }
        let background = simulation.start_background().await;
        for phase in &PHASES {
            if phase.kills_nodes && !is_placement {
                continue;
            }
            statements.reset();
            let figures = scenario::run(&simulation, phase, is_placement, percent).await;
            print(phase.name, &figures);
            if is_placement {
                statements.print(figures.duration, figures.creates);
            }
            if phase.is_charted {
                curves.push(Curve { name, parts: figures.last_use });
            }
        }
        drop(background);
        simulation.check_counters(&statements).await;
        row("errors of nodes", &simulation.failures.load(Ordering::Relaxed).to_string());
    }
    if let Some(path) = chart {
        std::fs::write(path, chart::svg(&curves)).unwrap();
    }
    row("time of the benchmark", &format!("{:.0} s", started.elapsed().as_secs_f64()));
}

/// Measures the database without placement and renewals: creates at all nodes, each followed by
/// its end.
async fn database_alone(simulation: &Arc<Simulation>, statements: &Statements) {
    for (name, tenants) in [("50 tenants", simulation::TENANTS), ("1 tenant", 1)] {
        simulation.saturate(tenants, simulation::WARM_UP_TIME).await;
        statements.reset();
        let alone = simulation.saturate(tenants, simulation::SATURATION_TIME).await;
        row(
            &format!("database alone, {name}: creates and ends"),
            &format!("{:.0} each second", alone.per_second),
        );
        row("  create p50, p99", &format!("{}, {}", millis(alone.p50), millis(alone.p99)));
        statements.print(alone.duration, alone.creates);
    }
}

fn print(phase: &str, figures: &Figures) {
    let Figures { spread, tries, .. } = figures;
    println!("\n### {phase}");
    row("creates", &format!("{} in {:.1} s", figures.creates, figures.duration.as_secs_f64()));
    row(
        "use of the nodes: min, median, max",
        &format!("{:.0} %, {:.0} %, {:.0} %", spread.min, spread.median, spread.max),
    );
    row("  coefficient of variation", &format!("{:.3}", spread.variation));
    row("  nodes beyond their limit", &figures.nodes_beyond_limit.to_string());
    let share = |count: usize| 100.0 * count as f64 / figures.creates.max(1) as f64;
    row(
        "created at the first, second, third node",
        &format!("{:.2} %, {:.2} %, {:.2} %", share(tries[0]), share(tries[1]), share(tries[2])),
    );
    row("created where the request came", &format!("{:.1} %", share(figures.local)));
    row(
        "refused; while more than 1 % was free",
        &format!("{}; {}", figures.refused, figures.refused_with_room),
    );
    row("refused for memory by a node", &figures.short_of_memory.to_string());
    row("failed", &figures.failed.to_string());
    row("create p50, p99", &format!("{}, {}", millis(figures.p50), millis(figures.p99)));
    if let Some(recorded) = figures.losses_recorded_after {
        let seconds = recorded.as_secs_f64();
        row("lost runs, all recorded after", &format!("{}, {seconds:.1} s", figures.lost));
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1000.0)
}

fn row(name: &str, value: &str) {
    println!("{name:<48} {value}");
}
