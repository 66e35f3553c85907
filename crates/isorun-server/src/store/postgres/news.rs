//! News of the cluster: what the database tells its nodes at once, instead of when they ask. It
//! may be lost, so nodes also ask.

use std::{future::poll_fn, pin::pin};

use serde::{Deserialize, Serialize};
use tokio_postgres::{
    AsyncMessage, Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use super::{StoreError, error_of, params};

/// The largest payload of a notification, in bytes: PostgreSQL permits less than 8,000.
const MAX_PAYLOAD_BYTES: usize = 7_900;

/// What a node hears of the others.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// A node joins, leaves, is drained or is declared dead; or a run of this node becomes
    /// another's.
    Change,
    /// The numbers of requests that another node got, by key.
    Requests(Vec<(String, u32)>),
}

/// The requests that a node got, as it tells them.
#[derive(Serialize, Deserialize)]
struct NodeRequests {
    node: String,
    requests: Vec<(String, u32)>,
}

impl super::Postgres {
    /// Calls `heard` with the news for this node. Returns when the connection breaks.
    pub async fn listen(&self, heard: impl Fn(News)) -> Result<(), StoreError> {
        let (node, _) = self.node()?;
        let config = self.connector.config();
        match self.connector.tls()? {
            Some(tls) => listen(config, tls, &node, heard).await,
            None => listen(config, NoTls, &node, heard).await,
        }
    }

    /// Tells the other nodes how many requests of each key this one got. If there are too
    /// many keys, the last ones are left out.
    pub async fn tell_requests(&self, mut requests: Vec<(String, u32)>) -> Result<(), StoreError> {
        let (node, _) = self.node()?;
        let payload = loop {
            let told = NodeRequests { node: node.clone(), requests };
            let payload = serde_json::to_string(&told)
                .map_err(|error| StoreError::Postgres(error.to_string()))?;
            if payload.len() <= MAX_PAYLOAD_BYTES {
                break payload;
            }
            requests = told.requests;
            requests.truncate(requests.len() * MAX_PAYLOAD_BYTES / payload.len());
        };
        self.query("SELECT pg_notify('isorun_requests', $1)", params![payload]).await.map(drop)
    }
}

async fn listen<T>(
    config: &Config,
    tls: T,
    node: &str,
    heard: impl Fn(News),
) -> Result<(), StoreError>
where
    T: MakeTlsConnect<Socket>,
    T::TlsConnect: TlsConnect<Socket>,
{
    let (client, mut connection) = config.connect(tls).await.map_err(error_of)?;
    let mut listening = pin!(client.batch_execute("LISTEN isorun; LISTEN isorun_requests"));
    let mut listens = false;
    loop {
        tokio::select! {
            begun = &mut listening, if !listens => {
                begun.map_err(error_of)?;
                listens = true;
                // Of what has happened before.
                heard(News::Change);
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(message))) => {
                    if let Some(news) = news_of(message.channel(), message.payload(), node) {
                        heard(news);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error_of(error)),
                None => return Ok(()),
            }
        }
    }
}

/// Returns what a notification says to a node.
fn news_of(channel: &str, payload: &str, node: &str) -> Option<News> {
    match channel {
        // What concerns one node has its name.
        "isorun" => (payload.is_empty() || payload == node).then_some(News::Change),
        _ => {
            let told: NodeRequests = serde_json::from_str(payload).ok()?;
            (told.node != node).then_some(News::Requests(told.requests))
        }
    }
}
