//! A TCP proxy in front of a node, which counts connections and can stop forwarding.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What a proxy has seen and does.
#[derive(Clone, Copy, Default)]
pub struct ProxyState {
    /// The number of connections so far, and of those that are open.
    pub accepted: usize,
    pub open: usize,
    /// Whether all bytes are dropped, and connections stay open.
    pub is_frozen: bool,
}

pub struct Proxy {
    pub address: SocketAddr,
    pub state: Arc<watch::Sender<ProxyState>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(ProxyState::default()));
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    state.send_modify(|state| {
                        state.accepted += 1;
                        state.open += 1;
                    });
                    tokio::spawn(forward(client, target, Arc::clone(&state)));
                }
            }
        });
        Self { address, state, task }
    }

    pub fn accepted(&self) -> usize {
        self.state.borrow().accepted
    }

    /// Stops forwarding. Connections stay open.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.is_frozen = true);
    }

    /// Waits until a number of connections is open.
    pub async fn until_open(&self, count: usize) {
        self.state.subscribe().wait_for(|state| state.open == count).await.unwrap();
    }
}

async fn forward(client: TcpStream, target: SocketAddr, state: Arc<watch::Sender<ProxyState>>) {
    if let Ok(server) = TcpStream::connect(target).await {
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            copy(client_read, server_write, state.subscribe()),
            copy(server_read, client_write, state.subscribe()),
        );
    }
    state.send_modify(|state| state.open -= 1);
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<ProxyState>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if state.borrow_and_update().is_frozen {
            // Not even the end of the stream is forwarded.
            state.wait_for(|state| !state.is_frozen).await.unwrap();
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
