//! Changes of the network rules of a run.

use isorun_api::{Network, NetworkChange};

use super::{
    Core,
    error::Error,
    live_run::LiveRun,
    network::{check_change, describe},
};
use crate::store::Event;

/// Checks and applies a change of a run's network.
pub async fn apply(core: &Core, run: &LiveRun, change: NetworkChange) -> Result<Network, Error> {
    // One change at a time, so that the stored settings are those in effect.
    let _change = run.begin_change().await?;
    let now = run.network();
    let settings = now.with(check_change(&change, &describe(&now))?);
    core.store.set_run_network(&run.id, settings.store(&core.secret)?).await?;
    // A hibernated run gets the settings when it is resumed.
    if !run.is_suspended() {
        let changed = core.engines.set_network(&run.sandbox, settings.plan()).await;
        changed.map_err(|error| Error::engine("cannot change the network", error))?;
    }
    let network = describe(&settings);
    run.set_network(settings);
    let details = serde_json::json!({
        "profile": network.profile, "allow": network.allow, "deny": network.deny,
    });
    run.log.append(Event::NetworkChanged, details).await?;
    Ok(network)
}
