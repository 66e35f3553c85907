//! The state that all connections share.

use std::cell::Cell;

use isorun_agent::protocol::{Failure, FailureKind};

use super::cgroups::{Cgroup, Cgroups};
use super::freezer::Freezer;
use super::reaper::Reaper;

/// The state that all connections share.
pub struct Agent {
    pub cgroups: Cgroups,
    pub reaper: Reaper,
    pub freezer: Freezer,
    /// The number of programs and shells that run for a client.
    pub execs: Cell<u32>,
    /// The number of times that this sandbox was restored from a checkpoint.
    pub restores: Cell<u64>,
}

impl Agent {
    /// Creates the state of an agent that has no connections yet.
    pub fn new(cgroups: Cgroups) -> Self {
        Self {
            cgroups,
            reaper: Reaper::default(),
            freezer: Freezer::default(),
            execs: Cell::default(),
            restores: Cell::default(),
        }
    }

    /// Creates a cgroup for one more program, if the limit of processes allows one.
    pub fn create_cgroup(&self) -> Result<Cgroup, Failure> {
        if !self.cgroups.has_room() {
            return Err(Failure {
                kind: FailureKind::NoResources,
                message: "the sandbox has reached its limit of processes".to_owned(),
            });
        }
        self.cgroups.create().map_err(|error| Failure {
            kind: FailureKind::NoResources,
            message: format!("cannot create a control group for the program: {error}"),
        })
    }
}
