//! The engine that a server uses.

use std::sync::Arc;

use anyhow::Result;
use isorun_engine::Engine;

use super::Config;

pub async fn start(_config: &Config) -> Result<Arc<dyn Engine>> {
    anyhow::bail!("the engine is not merged yet")
}
