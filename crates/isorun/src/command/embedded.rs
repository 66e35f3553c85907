//! A server within the process of a command, for the lifetime of the command.

use anyhow::Result;
use tokio::task::JoinHandle;

use super::{ServerArgs, keys};
use crate::{
    client::{Client, config::Target},
    data,
    failure::Failure,
    server::{App, Config, Listening, Server, engine},
};

/// A server on a port of the loopback interface.
pub struct Embedded {
    app: App,
    serving: JoinHandle<Result<()>>,
    key: String,
}

/// Returns a client of the specified server, or else of the one that runs at the default URL.
/// If there is neither, starts an embedded server.
pub async fn connect_or_start(server: ServerArgs) -> Result<(Client, Option<Embedded>), Failure> {
    let target = Target::find(server.api_url, server.api_key)?;
    let client = Client::new(&target)?;
    if target.explicit || client.is_reachable().await {
        return Ok((client, None));
    }
    let (client, embedded) = Embedded::start().await?;
    Ok((client, Some(embedded)))
}

impl Embedded {
    async fn start() -> Result<(Client, Self), Failure> {
        let config = Config::embedded(data::default_dir()?);
        data::restrict_umask();
        data::prepare(&config.data_dir)?;
        let lock = data::lock(&config.data_dir)?;
        let listening = Listening::bind(&config).await?;
        let engine = engine::start(&config).await?;
        let app = Server::open(config, engine, lock).await?;
        let key = keys::create(&app.store, &app.secret, "local", "embedded", None, false).await?;
        let target = Target { url: listening.url(), key: Some(key.clone()), explicit: true };
        let serving = tokio::spawn({
            let app = app.clone();
            async move { listening.serve(&app).await }
        });
        Ok((Client::new(&target)?, Self { app, serving, key }))
    }

    /// Revokes the key, stops the server and destroys its sandboxes.
    pub async fn stop(self) -> Result<(), Failure> {
        if let Some(id) = self.app.secret.verify_key(&self.key) {
            self.app.store.revoke_key(&id).await.map_err(anyhow::Error::from)?;
        }
        self.app.stopping.cancel();
        let served = self.serving.await.map_err(anyhow::Error::from)?;
        self.app.close().await;
        Ok(served?)
    }
}
