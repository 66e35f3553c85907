//! What the tests share.

use std::ops::Deref;
use std::sync::Arc;

use isorun_engine::Engine;
use isorun_engine::gvisor::{Config, Gvisor};
use tempfile::TempDir;

/// An engine in a folder of its own, which goes with it.
pub struct Scratch {
    engine: Gvisor,
    pub folder: TempDir,
}

impl Scratch {
    pub async fn open(warm: usize) -> Self {
        Self::with(|config| config.warm = warm).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { warm: 0, ..Config::new(folder.path()) };
        change(&mut config);
        Self { engine: Gvisor::open(config).await.unwrap(), folder }
    }

    /// Another handle of the engine.
    pub fn shared(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.clone())
    }
}

impl Deref for Scratch {
    type Target = Gvisor;

    fn deref(&self) -> &Gvisor {
        &self.engine
    }
}
