//! A server within the process of a command, for the lifetime of the command.

use anyhow::Result;
use isorun_server::{Listening, Server, config::Config, data_dir};
use tokio::task::JoinHandle;

use super::{ServerArgs, keys};
use crate::{
    client::{Client, config::Target},
    failure::Failure,
};

/// A server on a port of the loopback interface.
pub struct Embedded {
    server: Server,
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
        let config = Config::embedded(data_dir::default_dir()?);
        data_dir::restrict_umask();
        data_dir::prepare(&config.data_dir)?;
        let lock = data_dir::lock(&config.data_dir)?;
        let listening = Listening::bind(&config).await?;
        let server = Server::open(config, lock).await?;
        let key =
            keys::create(server.store(), server.secret(), "local", "embedded", None, false).await?;
        let target = Target { url: listening.url(), key: Some(key.clone()), explicit: true };
        let serving = tokio::spawn({
            let server = server.clone();
            async move { listening.serve(&server).await }
        });
        Ok((Client::new(&target)?, Self { server, serving, key }))
    }

    /// Revokes the key, stops the server and destroys its sandboxes.
    pub async fn stop(self) -> Result<(), Failure> {
        if let Some(id) = self.server.secret().verify_key(&self.key) {
            self.server.store().revoke_key(&id).await.map_err(anyhow::Error::from)?;
        }
        self.server.stopping().cancel();
        let served = self.serving.await.map_err(anyhow::Error::from)?;
        self.server.close().await;
        Ok(served?)
    }
}
