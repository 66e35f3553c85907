//! What fails during a round, chosen by its seed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    links::LinkState,
    nodes::{Fleet, LEASE, NODES},
    operations::Trace,
    random::Random,
    store::StoreState,
};

/// The number of kinds of faults, of which [`Fault::of_kind`] makes one.
const KINDS: usize = 9;
/// The number of those of one node, which come first.
const KINDS_OF_A_NODE: usize = 6;

/// The time for which connections to the database are refused after a reset.
const BREAK: Duration = Duration::from_millis(40);

/// Something that fails for a while.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A node is killed, and started again.
    Kill {
        node: usize,
        down: Duration,
    },
    Suspend {
        node: usize,
        time: Duration,
    },
    CutDatabase {
        node: usize,
        how: LinkState,
        time: Duration,
    },
    /// Other nodes do not reach a node.
    CutPeers {
        node: usize,
        how: LinkState,
        time: Duration,
    },
    CutStore {
        node: usize,
        how: LinkState,
        time: Duration,
    },
    /// The connections of a node to the database are reset again and again, so that many changes
    /// are recorded without an answer.
    BreakDatabase {
        node: usize,
        times: usize,
    },
    RestartDatabase {
        away: Duration,
    },
    FailStore {
        how: StoreState,
        time: Duration,
    },
    FillDisk {
        time: Duration,
    },
}

impl Fault {
    /// Makes a fault of one of [`KINDS`] kinds.
    fn of_kind(kind: usize, node: usize, random: &mut Random) -> Self {
        let links = [LinkState::Reset, LinkState::Silent, LinkState::Slow];
        let how = random.pick(&links);
        // Shorter than a lease, and longer than a lease with the time until a node is
        // declared dead.
        let time = match random.below(2) {
            0 => random.millis(300, 2500),
            _ => LEASE * 2 + random.millis(0, 3000),
        };
        match kind {
            0 => Self::Kill { node, down: time },
            1 => Self::Suspend { node, time },
            2 => Self::CutDatabase { node, how, time },
            3 => Self::CutPeers { node, how, time },
            4 => Self::CutStore { node, how, time },
            5 => Self::BreakDatabase { node, times: 5 + random.below(15) },
            6 => Self::RestartDatabase { away: random.millis(0, 2500) },
            7 => {
                let states = [StoreState::Failing, StoreState::Slow, StoreState::Truncating];
                Self::FailStore { how: random.pick(&states), time }
            }
            _ => Self::FillDisk { time },
        }
    }

    /// Returns the node that may lose its running sandboxes by this fault.
    fn victim(&self) -> Option<usize> {
        match self {
            Self::Kill { node, .. } => Some(*node),
            Self::Suspend { node, time } | Self::CutDatabase { node, time, .. }
                if *time > LEASE =>
            {
                Some(*node)
            }
            // A slow link may delay a renewal beyond the lease at any time.
            Self::CutDatabase { node, how: LinkState::Slow, .. } => Some(*node),
            _ => None,
        }
    }

    async fn happen(&self, fleet: &Fleet) {
        let cut = async |link: &super::links::Link, how: LinkState, time: Duration| {
            link.set(how);
            sleep(time).await;
            link.set(LinkState::Whole);
        };
        match *self {
            Self::Kill { node, down } => {
                fleet.kill(node).await;
                sleep(down).await;
                fleet.revive(node).await;
            }
            Self::Suspend { node, time } => {
                fleet.nodes[node].signal(Signal::STOP);
                sleep(time).await;
                fleet.nodes[node].signal(Signal::CONT);
            }
            Self::CutDatabase { node, how, time } => {
                cut(&fleet.nodes[node].database, how, time).await;
            }
            Self::BreakDatabase { node, times } => {
                for _ in 0..times {
                    cut(&fleet.nodes[node].database, LinkState::Reset, BREAK).await;
                    sleep(BREAK * 8).await;
                }
            }
            Self::CutPeers { node, how, time } => cut(&fleet.nodes[node].peers, how, time).await,
            Self::CutStore { node, how, time } => cut(&fleet.nodes[node].store, how, time).await,
            Self::RestartDatabase { away } => fleet.restart_database(away).await,
            Self::FailStore { how, time } => {
                fleet.store.set(how);
                sleep(time).await;
                fleet.store.set(StoreState::Whole);
            }
            Self::FillDisk { time } => {
                let ballast = fleet.disk.path().join("ballast");
                let path = ballast.clone();
                tokio::task::spawn_blocking(move || fill(&path)).await.unwrap();
                sleep(time).await;
                std::fs::remove_file(ballast).unwrap();
            }
        }
    }
}

/// Writes a file until the disk is full.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// The faults of a round, each with the time at which it begins.
pub struct Plan(Vec<(Duration, Fault)>);

impl Plan {
    /// Chooses one to three faults. The first one is of a different kind in each of
    /// [`KINDS`] successive rounds.
    pub fn choose(round: usize, random: &mut Random) -> Self {
        let mut nodes: Vec<usize> = (0..NODES).collect();
        for at in (1..NODES).rev() {
            nodes.swap(at, random.below(at + 1));
        }
        let mut faults: Vec<(Duration, Fault)> = Vec::new();
        let mut kinds = BTreeSet::new();
        for node in nodes.into_iter().take(1 + random.below(NODES)) {
            let kind = if faults.is_empty() { round % KINDS } else { random.below(KINDS) };
            // Node by node, so that those of one node do not end each other's; and one of
            // each kind that concerns all nodes.
            if kinds.insert(kind) || kind < KINDS_OF_A_NODE {
                faults.push((random.millis(500, 6000), Fault::of_kind(kind, node, random)));
            }
        }
        Self(faults)
    }

    /// Returns the nodes that may lose their running sandboxes.
    pub fn victims(&self) -> BTreeSet<usize> {
        self.0.iter().filter_map(|(_, fault)| fault.victim()).collect()
    }

    /// Makes all faults happen, and waits until they are over.
    pub async fn happen(&self, fleet: &Arc<Fleet>, trace: &Arc<Trace>) {
        let happening = self.0.iter().map(|(at, fault)| async move {
            sleep(*at).await;
            trace.add(&format!("FAULT {fault:?}"));
            fault.happen(fleet).await;
            trace.add(&format!("END {fault:?}"));
        });
        futures_util::future::join_all(happening).await;
    }
}
