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
        let folder = tempfile::tempdir().unwrap();
        let config = Config { warm, ..Config::new(folder.path()) };
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
