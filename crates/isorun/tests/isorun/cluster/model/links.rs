//! TCP relays between the parts of a cluster, which fail as a test wants.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// The time by which a slow link delays each piece of a stream.
const DELAY: Duration = Duration::from_millis(200);

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It passes everything on.
    Whole,
    /// Its connections are reset, and so are new ones.
    Reset,
    /// It accepts connections, and passes nothing on.
    Silent,
    /// It delays each piece.
    Slow,
}

/// A relay to a port of this machine. It ends when this is dropped.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: JoinHandle<()>,
}

impl Link {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(LinkState::Whole);
        let task = tokio::spawn(accept(listener, target, states));
        Self { address, state, task }
    }

    /// Returns the port that is relayed.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: u16, states: watch::Receiver<LinkState>) {
    while let Ok((client, _)) = listener.accept().await {
        let states = states.clone();
        tokio::spawn(async move {
            let is_reset = *states.borrow() == LinkState::Reset;
            match TcpStream::connect(("127.0.0.1", target)).await {
                Ok(server) if !is_reset => relay(client, server, states).await,
                _ => drop(client.set_zero_linger()),
            }
        });
    }
}

/// Relays both directions until they end, or the link is reset.
async fn relay(mut client: TcpStream, mut server: TcpStream, states: watch::Receiver<LinkState>) {
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let mut changes = states.clone();
    let was_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = changes.wait_for(|state| *state == LinkState::Reset) => true,
            _ = async {
                tokio::join!(
                    copy(from_client, to_server, states.clone()),
                    copy(from_server, to_client, states.clone()),
                )
            } => false,
        }
    };
    if was_reset {
        for stream in [&client, &server] {
            let _ = stream.set_zero_linger();
        }
    }
}

async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut states: watch::Receiver<LinkState>,
) {
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut piece).await.unwrap_or(0);
        let Ok(state) = states.wait_for(|state| *state != LinkState::Silent).await.map(|it| *it)
        else {
            return;
        };
        if state == LinkState::Slow {
            tokio::time::sleep(DELAY).await;
        }
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
