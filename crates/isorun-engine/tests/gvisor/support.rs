//! What the tests share: an engine, and a network for it.

pub mod network;

use std::ops::Deref;
use std::sync::Arc;

use isorun_engine::Engine;
use isorun_engine::conformance::CleanUpOnDrop;
use isorun_engine::gvisor::{Gvisor, GvisorConfig};
use tempfile::TempDir;

/// An engine with a temporary state directory. It is cleaned up when this is dropped.
pub struct Scratch {
    engine: CleanUpOnDrop<Gvisor>,
    pub dir: TempDir,
}

impl Scratch {
    pub async fn open(warm: usize) -> Self {
        Self::with(|config| config.warm = warm).await
    }

    pub async fn with(change: impl FnOnce(&mut GvisorConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = GvisorConfig { warm: 0, ..GvisorConfig::new(dir.path()) };
        change(&mut config);
        Self { engine: CleanUpOnDrop(Gvisor::open(config).await.unwrap()), dir }
    }

    /// Returns another handle of the engine.
    pub fn shared(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.0.clone())
    }
}

impl Deref for Scratch {
    type Target = Gvisor;

    fn deref(&self) -> &Gvisor {
        &self.engine
    }
}
