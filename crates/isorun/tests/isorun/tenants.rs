//! One tenant, or a client without a key, can use its share only, and never starves the others.

mod connections;
mod machine;
mod requests;

use std::{net::Ipv4Addr, time::Duration};

use reqwest::Method;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::support::{Server, Tenant, answer};

/// The time limit for responses that must not be delayed by other tenants.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a client that is not at the one of the others.
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Asserts that `/healthz`, `/readyz` and requests of another tenant succeed in time.
async fn assert_others_served(server: &Server, neighbour: &Tenant) {
    let served = async {
        for probe in ["/healthz", "/readyz"] {
            let (status, body) = answer(server.http.get(format!("{}{probe}", server.url))).await;
            assert_eq!(status, 200, "{probe}: {body}");
        }
        assert_eq!(server.get("/v1/usage").await.0, 200);
        let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(metrics.status(), 200);
        neighbour.assert_served().await;
    };
    timeout(RESPONSE_TIMEOUT, served).await.expect("the requests of others timed out");
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

/// Reads from a socket until it is closed.
async fn read_until_closed(mut socket: TcpStream, limit: Duration) -> String {
    let mut received = Vec::new();
    let read = timeout(limit, socket.read_to_end(&mut received)).await;
    // A reset also closes the connection.
    assert!(read.is_ok(), "it is still open: {}", String::from_utf8_lossy(&received));
    String::from_utf8_lossy(&received).into_owned()
}
