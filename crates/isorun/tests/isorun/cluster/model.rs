//! A cluster with faults, compared with a model of what its answers have promised.
//!
//! Clients do operations at three nodes while nodes are killed and suspended, links are cut, the
//! database is restarted, the object store fails and a disk is full. Then everything is healed,
//! and the cluster has to be what the model says.
//!
//! ```text
//!  operations ── each answer ──▶ ledger ──┐
//!      │                                  ├──▶ check
//!      ▼                                  │
//!  nodes ◀── faults ── plan ◀── seed      │
//!      └── links, store ── rows, files, processes, audit logs
//! ```
//!
//! An operation that was answered with success has happened. One that was not may have happened,
//! or may happen later, once. A sandbox that was running may be lost with its node. Nothing else
//! may be lost.
//!
//! With the variable `ISORUN_FAULT_SEED` the test has this seed only, and as many rounds as
//! `ISORUN_FAULT_ROUNDS` says.

mod check;
mod faults;
mod ledger;
mod links;
mod nodes;
mod operations;
mod random;
mod store;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use test_support::turns;
use tokio::runtime::Builder;

use self::{
    faults::Plan,
    nodes::{Fleet, NODES},
    operations::{Client, Trace},
    random::Random,
};

/// The seeds of the test without variables. Each has one round.
const SEEDS: [u64; 2] = [1, 2];
/// The number of clients, each with a tenant of its own.
const CLIENTS: usize = 3;
/// The shortest time of a round.
const MIN_ROUND: Duration = Duration::from_secs(8);
/// The time that operations go on after the faults of a round.
const AFTERMATH: Duration = Duration::from_secs(2);

#[test]
fn faults_lose_nothing_that_was_promised() -> Result<(), String> {
    // A node that gets too little time of the CPUs looks like a dead one.
    let _turn = turns::alone();
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    // What is wrong is an error and no panic, since its text is then the last of a long output.
    runtime.block_on(try_seeds())
}

async fn try_seeds() -> Result<(), String> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("ISORUN_FAULT_ROUNDS").unwrap_or(1);
    let seeds = number("ISORUN_FAULT_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed]);
    for seed in seeds {
        Trial::start(seed).await.run(rounds).await?;
    }
    Ok(())
}

/// A cluster and its clients, with everything that a seed chooses.
struct Trial {
    seed: u64,
    random: Random,
    fleet: Arc<Fleet>,
    clients: Vec<Client>,
    trace: Arc<Trace>,
}

impl Trial {
    async fn start(seed: u64) -> Self {
        eprintln!("ISORUN_FAULT_SEED={seed}");
        let fleet = Arc::new(Fleet::start().await);
        let (trace, mut random) = (Trace::start(), Random::new(seed));
        let mut clients = Vec::new();
        for name in ["a", "b", "c"].into_iter().take(CLIENTS) {
            let (tenant, random) = (fleet.tenant().await, random.fork());
            clients.push(Client::new(name.to_owned(), tenant, &fleet, &trace, random));
        }
        Self { seed, random, fleet, clients, trace }
    }

    async fn run(mut self, rounds: u64) -> Result<(), String> {
        for round in 0..rounds {
            let first = usize::try_from(self.seed + round).unwrap();
            let plan = Plan::choose(first, &mut self.random);
            self.trace.add(&format!("ROUND {round}"));
            self.operate(&plan).await;
            let stopped = self.stopped_nodes(&plan.victims());
            self.fleet.heal().await;
            self.compare(&format!("round {round}"), &plan.victims(), stopped).await?;
            eprintln!("round {round} of seed {} passed", self.seed);
        }
        self.leave_one_node().await?;
        self.remove_everything().await?;
        eprintln!("seed {} passed:\n{}", self.seed, self.trace.summary());
        Ok(())
    }

    /// Does operations while the faults of a round happen.
    async fn operate(&mut self, plan: &Plan) {
        let stop = AtomicBool::new(false);
        let working = self.clients.iter_mut().map(|client| client.work(&stop));
        let failing = async {
            tokio::join!(plan.happen(&self.fleet, &self.trace), tokio::time::sleep(MIN_ROUND));
            tokio::time::sleep(AFTERMATH).await;
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(futures_util::future::join_all(working), failing);
    }

    /// Returns the nodes that have stopped without a fault that explains it.
    fn stopped_nodes(&self, victims: &BTreeSet<usize>) -> Vec<String> {
        let has_stopped =
            |at: &usize| !victims.contains(at) && !self.fleet.nodes[*at].notice_exit();
        let stopped = (0..NODES).filter(has_stopped);
        stopped.map(|at| format!("node {at} has stopped by itself")).collect()
    }

    /// Compares the cluster with the model. Fails with what is wrong.
    async fn compare(
        &mut self,
        when: &str,
        victims: &BTreeSet<usize>,
        mut wrong: Vec<String>,
    ) -> Result<(), String> {
        self.trace.add(&format!("CHECK {when}"));
        wrong.extend(check::wait_until_quiet(&self.fleet, &self.clients).await);
        wrong.extend(check::compare(&self.fleet, &mut self.clients, victims).await);
        self.fleet.run(&["audit", "verify"]).await;
        if wrong.is_empty() {
            return Ok(());
        }
        self.trace.print();
        eprintln!("{}", self.trace.summary());
        Err(format!("{when} of ISORUN_FAULT_SEED={}: {}", self.seed, wrong.join("; ")))
    }

    /// Collects the garbage of the object store, and kills all nodes but one, which has to have
    /// everything that was hibernated or in a snapshot.
    async fn leave_one_node(&mut self) -> Result<(), String> {
        self.trace.add("LEAVE ONE NODE");
        for client in &mut self.clients {
            client.hibernate_all().await;
        }
        let quiet = check::wait_until_quiet(&self.fleet, &self.clients).await;
        self.fleet.collect_garbage().await;
        let left = self.random.below(NODES);
        let others: Vec<usize> = (0..NODES).filter(|at| *at != left).collect();
        for at in &others {
            self.fleet.kill(*at).await;
        }
        self.fleet.wait_until_dead(&others).await;
        let mut wrong = quiet;
        for client in &mut self.clients {
            client.only_node = Some(left);
            wrong.extend(check::read_all(client).await);
            client.only_node = None;
        }
        self.fleet.heal().await;
        self.compare("with one node", &BTreeSet::new(), wrong).await
    }

    /// Destroys and deletes everything, of which nothing may be left.
    async fn remove_everything(&mut self) -> Result<(), String> {
        for client in &mut self.clients {
            while !client.ledger.runs.is_empty() {
                assert!(client.destroy(0).await, "{:?}", client.ledger.runs[0]);
            }
            while !client.ledger.snapshots.is_empty() {
                assert!(client.delete_snapshot_at(0).await);
            }
        }
        self.compare("the end", &BTreeSet::new(), Vec::new()).await?;
        let garbage = self.fleet.store.objects().len();
        assert!(garbage > 0, "everything was hibernated, so that the store has its data");
        self.fleet.collect_garbage().await;
        let left = self.fleet.store.objects();
        eprintln!("of {garbage} objects in the store {} are left", left.len());
        if left.is_empty() {
            return Ok(());
        }
        Err(format!("the store still has {left:?} at the end of ISORUN_FAULT_SEED={}", self.seed))
    }
}
