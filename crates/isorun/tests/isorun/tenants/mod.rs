//! What one tenant, or a stranger, can take from the others: a share, and never
//! what they need.

mod connections;
mod machine;
mod requests;

use std::time::Duration;

use reqwest::Method;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::fixture::{Server, Tenant, answer};

/// How long a neighbour waits for what it is to get at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// `/healthz` and `/readyz` answer, and so does the server to another tenant.
async fn others_are_served(server: &Server, neighbour: &Tenant) {
    let served = async {
        for probe in ["/healthz", "/readyz"] {
            let (status, body) = answer(server.http.get(format!("{}{probe}", server.url))).await;
            assert_eq!(status, 200, "{probe}: {body}");
        }
        assert_eq!(server.get("/v1/usage").await.0, 200);
        let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(metrics.status(), 200);
        neighbour.is_served().await;
    };
    timeout(AT_ONCE, served).await.expect("others wait");
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

/// What a socket says until it is closed.
async fn to_the_end(mut socket: TcpStream, limit: Duration) -> String {
    let mut said = Vec::new();
    let read = timeout(limit, socket.read_to_end(&mut said)).await;
    // A reset is an end as well.
    assert!(read.is_ok(), "it is still open: {}", String::from_utf8_lossy(&said));
    String::from_utf8_lossy(&said).into_owned()
}
