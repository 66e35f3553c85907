//! A test network: servers on documentation addresses (RFC 5737) of the loopback interface,
//! and an upstream DNS resolver.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use isorun_egress::context::ProxyOptions;
use isorun_egress::policy::DefaultAction;
use isorun_egress::{Blocked, Observer, Plan, Policy};
use isorun_engine::conformance::{Sandbox, argv};
use isorun_engine::{Engine, SandboxId};
use test_support::{LoopbackAddress, Resolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Scratch;

/// The number of a test, which has sixteen addresses of its own.
#[derive(Clone, Copy)]
pub struct TestNetwork(pub u8);

impl TestNetwork {
    pub fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.0 * 16 + number)
    }

    /// Starts a server that sends its number and port after each read.
    pub async fn server(self, number: u8, port: u16) {
        let listener = TcpListener::bind((self.host(number), port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let count = stream.read(&mut head).await.unwrap_or(0);
                    let body = format!("server {number} port {port}");
                    let head = String::from_utf8_lossy(&head[..count]).into_owned();
                    let answer = if head.starts_with("GET") {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    } else {
                        body
                    };
                    let _ = stream.write_all(answer.as_bytes()).await;
                    // A second request on the same connection.
                    let mut more = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut more).await {
                        let _ = count;
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
    }

    /// Starts an HTTP server that records all bytes that it receives.
    pub async fn recorder(self, number: u8, port: u16) -> Arc<Mutex<Vec<u8>>> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind((self.host(number), port)).await.unwrap();
        let all = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let received = Arc::clone(&all);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        received.lock().unwrap().extend_from_slice(&buffer[..count]);
                        let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntold";
                        let _ = stream.write_all(head.as_bytes()).await;
                    }
                });
            }
        });
        received
    }

    /// Starts a server that sends first, as those of SMTP and SSH do, and then echoes once.
    pub async fn greeter(self, number: u8, port: u16) {
        let listener = TcpListener::bind((self.host(number), port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(b"hello first\n").await;
                    let mut buffer = vec![0; 1000];
                    let count = stream.read(&mut buffer).await.unwrap_or(0);
                    let _ = stream.write_all(&buffer[..count]).await;
                });
            }
        });
    }
}

/// A recorder of blocked connections.
#[derive(Clone, Default)]
pub struct BlockedLog(Arc<Mutex<Vec<Blocked>>>);

impl Observer for BlockedLog {
    fn blocked(&self, _: &SandboxId, blocked: Blocked) {
        self.0.lock().unwrap().push(blocked);
    }
}

impl BlockedLog {
    /// Returns the reasons and names since the last call.
    pub fn take(&self) -> Vec<(String, Option<String>)> {
        let seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.into_iter().map(|one| (one.reason.name().to_owned(), one.name)).collect()
    }
}

/// A program that connects, sends a request, and prints `ok TEXT` or the error.
const PROBE: &str = r#"
import socket, ssl, sys, time
how, host, port, name = sys.argv[1:5]
started = time.monotonic()
try:
    s = socket.create_connection((host, int(port)), 8)
    if how == "tls":
        c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
        try: s = c.wrap_socket(s, server_hostname=name or None)
        except ssl.SSLError as e: print("ok tls", "server" in str(e) or e.reason); sys.exit()
    elif how == "http":
        s.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    elif how == "raw": s.sendall(b"\x00\x01raw")
    elif how == "first": pass
    data = s.recv(4096)
    print("ok", data.decode().splitlines()[-1] if data else "empty")
except (ConnectionResetError, ConnectionRefusedError, BrokenPipeError) as e: print("reset")
except socket.gaierror as e: print("unknown")
except TimeoutError: print("timeout")
if time.monotonic() - started > 3: print("slow")
"#;

/// An engine with a test network.
pub struct Fixture {
    pub scratch: Scratch,
    pub seen: BlockedLog,
    pub resolver: Resolver,
    _addresses: [LoopbackAddress; 2],
}

impl Fixture {
    pub async fn open(net: TestNetwork) -> Self {
        Self::with(net, |_| {}).await
    }

    pub async fn with(net: TestNetwork, change: impl FnOnce(&mut ProxyOptions)) -> Self {
        let addresses = [1, 2].map(|number| LoopbackAddress::add(net.host(number)));
        let (seen, resolver) = (BlockedLog::default(), Resolver::default());
        let upstream = resolver.serve().await;
        let scratch = Scratch::with(|config| {
            config.network.resolvers = vec![upstream];
            config.network.permitted = vec![format!("{}/28", net.host(0)).parse().unwrap()];
            config.network.observer = Some(Arc::new(seen.clone()));
            change(&mut config.network);
        })
        .await;
        Self { scratch, seen, resolver, _addresses: addresses }
    }

    pub async fn sandbox(&self) -> Sandbox<'_> {
        let engine: &dyn Engine = &*self.scratch;
        Sandbox::new(engine).await
    }
}

/// Runs [`PROBE`] in a sandbox; returns its output.
pub async fn probe(sandbox: &Sandbox<'_>, how: &str, host: &str, port: u16, name: &str) -> String {
    let port = port.to_string();
    let words = ["python3", "-c", PROBE, how, host, &port, name];
    let output = sandbox.exec(argv(&words)).await.unwrap().output(100_000).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(!text.is_empty(), "{output:?}");
    text
}

/// Creates a network configuration.
pub fn plan(default_action: DefaultAction, allow: &[&str], deny: &[&str]) -> Plan {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Plan {
        policy: Policy::new(default_action, &list(allow), &list(deny)).unwrap(),
        ..Plan::default()
    }
}
