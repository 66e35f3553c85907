//! News of the cluster: what the database tells its nodes at once, instead of when they ask. It
//! may be lost, so nodes also ask.

use std::{future::poll_fn, pin::pin};

use tokio::sync::Notify;
use tokio_postgres::{
    AsyncMessage, Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use super::{StoreError, error_of};

impl super::Postgres {
    /// Wakes `heard` when a node joins, leaves, is drained or is declared dead, and when a run
    /// of this node becomes another's. Returns when the connection breaks.
    pub async fn listen(&self, heard: &Notify) -> Result<(), StoreError> {
        let (node, _) = self.node()?;
        let config = self.connector.config();
        match self.connector.tls()? {
            Some(tls) => listen(config, tls, &node, heard).await,
            None => listen(config, NoTls, &node, heard).await,
        }
    }
}

async fn listen<T>(config: &Config, tls: T, node: &str, heard: &Notify) -> Result<(), StoreError>
where
    T: MakeTlsConnect<Socket>,
    T::TlsConnect: TlsConnect<Socket>,
{
    let (client, mut connection) = config.connect(tls).await.map_err(error_of)?;
    let mut listening = pin!(client.batch_execute("LISTEN isorun"));
    let mut listens = false;
    loop {
        tokio::select! {
            begun = &mut listening, if !listens => {
                begun.map_err(error_of)?;
                listens = true;
                // Of what has happened before.
                heard.notify_one();
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                // What concerns one node has its name.
                Some(Ok(AsyncMessage::Notification(news))) => {
                    if news.payload().is_empty() || news.payload() == node {
                        heard.notify_one();
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error_of(error)),
                None => return Ok(()),
            }
        }
    }
}
