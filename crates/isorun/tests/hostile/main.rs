//! Random and hostile input for every route of a server with little memory and few
//! descriptors: the server stays healthy, and serves its other tenants.
//!
//! `ISORUN_HOSTILE_SECONDS` sets the duration (default: 20). The random seed is printed;
//! `ISORUN_HOSTILE_SEED` sets it.
//!
//! It is a separate program because it measures latencies, so no other test may run at the same
//! time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[allow(dead_code, reason = "the other tests use more of it")]
#[path = "../isorun/support/server.rs"]
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::server::{Server, Tenant, answer};

/// The number of tasks that attack at the same time.
const ATTACKER_TASKS: u64 = 6;
/// The time between two attacks of a task. It keeps CPU time free, which clients and server
/// share on this machine, and which is not what is tested.
const ATTACK_INTERVAL: Duration = Duration::from_millis(20);
/// The time that an attacker waits for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);
/// The maximum number of connections that an attacker leaves open without sending more.
const MAX_OPEN_CONNECTIONS: usize = 40;
/// The number of requests for one median.
const SAMPLES_PER_MEDIAN: usize = 20;
/// The tolerance for latencies beyond twice the reference: the noise of the scheduler.
const LATENCY_TOLERANCE: Duration = Duration::from_millis(15);

/// Limits the file descriptors of the server. A limit of the address space would also apply to
/// its sandboxes, which reserve terabytes.
const ULIMIT_COMMANDS: &str = "ulimit -Sn 512 && ulimit -Hn 1024";
/// The maximum resident memory of the server, in MiB.
const MAX_MEMORY_MIB: u64 = 400;

/// The state of one attacking task.
struct Attacker {
    tenant: Tenant,
    /// The ids of its own sandbox, of its neighbour's, and of one that never existed.
    runs: [String; 3],
    paths: Arc<Vec<(Method, String)>>,
    random: u64,
    open_connections: Vec<TcpStream>,
    count: Arc<AtomicU64>,
}

impl Attacker {
    fn draw(&mut self, bound: usize) -> usize {
        // Xorshift is random enough for this purpose.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % bound.max(1) as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.draw(of.len())].clone()
    }

    fn bytes(&mut self, bound: usize) -> Vec<u8> {
        let count = self.draw(bound);
        (0..count).map(|_| u8::try_from(self.draw(256)).unwrap()).collect()
    }

    /// Returns a path of the server with random parameters.
    fn path(&mut self) -> (Method, String) {
        let (method, template) = {
            let at = self.draw(self.paths.len());
            self.paths[at].clone()
        };
        let run = self.pick(&self.runs.clone());
        let junk = self.pick(&["..", "%00", "%2e%2e%2f", "-1", "x y", "\u{1f600}", "99999999999"]);
        let id = if self.draw(8) == 0 { junk.to_owned() } else { run };
        let port = self.pick(&["8000", "1", "0", "65536", "22"]);
        let mut path = template.replace("{id}", &id).replace("{port}", port);
        path = path.replace("{*path}", "a/b").replace("{*place}", &format!("{id}/p/{port}/x"));
        let long = format!("?path=/{}", "a/".repeat(self.draw(5000)));
        path += &self.pick(&[
            String::new(),
            "?limit=99999999999999999999&before=x".to_owned(),
            "?path=/etc/passwd&mode=9999".to_owned(),
            "?path=/proc/self/mem".to_owned(),
            "?cols=0&rows=0&timeout=-5&command=%00".to_owned(),
            "?session=x&cwd=..".to_owned(),
            long,
        ]);
        (method, path)
    }

    fn body(&mut self) -> Vec<u8> {
        let number = self.pick(&["0", "-1", "1e999", "18446744073709551616", "0.5", "null", "[]"]);
        match self.draw(12) {
            0 => self.bytes(10_000),
            1 => "[".repeat(self.draw(100_000)).into_bytes(),
            2 => format!("{{\"a\":{}", "{\"a\":".repeat(self.draw(20_000))).into_bytes(),
            3 => format!("{{\"image\":\"host\",\"disk_mib\":{number},\"mem_mib\":{number}}}")
                .into_bytes(),
            4 => format!("{{\"command\":\"true\",\"timeout\":{number}}}").into_bytes(),
            5 => format!("{{\"command\":{:?}}}", "x".repeat(self.draw(1_200_000))).into_bytes(),
            6 => format!("{{\"count\":{number},\"snapshot_id\":\"{number}\"}}").into_bytes(),
            7 => {
                format!("{{\"network\":{{\"allow\":[{number},\"*.\",\"a b\"],\"deny\":{number}}}}}")
                    .into_bytes()
            }
            8 => {
                let env: Vec<String> =
                    (0..self.draw(20_000)).map(|at| format!("\"{at}\":\"\"")).collect();
                format!("{{\"image\":\"host\",\"env\":{{{}}}}}", env.join(",")).into_bytes()
            }
            9 => b"{\"command\":\"head -c 300000 /dev/zero | tr '\\\\0' '\\\\1'\"}".to_vec(),
            10 => b"{\"timeout\":300}".to_vec(),
            _ => b"{}".to_vec(),
        }
    }

    async fn attack(&mut self) {
        match self.draw(10) {
            0..=3 => self.request().await,
            4 | 5 => self.malformed_request().await,
            6 => self.incomplete_request().await,
            7 => self.websocket().await,
            8 => self.http2().await,
            _ => self.flood().await,
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a request that is valid HTTP.
    async fn request(&mut self) {
        let (method, path) = self.path();
        // Its sandboxes are needed until the end.
        let method = match (method, self.draw(4)) {
            (Method::DELETE, _) => Method::GET,
            (_, 0) => self.pick(&[
                Method::PUT,
                Method::PATCH,
                Method::HEAD,
                Method::OPTIONS,
                Method::TRACE,
            ]),
            (method, _) => method,
        };
        let mut request = self.tenant.request(method, &path);
        if self.draw(4) == 0 {
            request = request.header("authorization", "Bearer isorun_live_local_0_0");
        }
        if self.draw(2) == 0 {
            request = request.header("content-type", "application/json");
        }
        let body = self.body();
        let _ = timeout(RESPONSE_TIMEOUT, request.body(body).send()).await;
    }

    async fn connect(&self) -> Option<TcpStream> {
        let address = self.tenant.url.strip_prefix("http://").unwrap();
        timeout(RESPONSE_TIMEOUT, TcpStream::connect(address)).await.ok()?.ok()
    }

    async fn send_raw(&self, bytes: &[u8]) {
        let Some(mut socket) = self.connect().await else { return };
        let talk = async {
            let _ = socket.write_all(bytes).await;
            let mut answer = [0; 4096];
            while socket.read(&mut answer).await.is_ok_and(|count| count > 0) {}
        };
        let _ = timeout(RESPONSE_TIMEOUT, talk).await;
    }

    /// Sends a malformed request.
    async fn malformed_request(&mut self) {
        let (method, path) = self.path();
        let path: String = path.chars().take(3000).filter(|c| !c.is_whitespace()).collect();
        let key = self.tenant.key.clone();
        let many: String = (0..self.draw(300)).map(|at| format!("x{at}: y\r\n")).collect();
        let bytes = match self.draw(9) {
            0 => self.bytes(50_000),
            1 => format!("{}{} {path} HTTP/1.1\r\nhost: x\r\n\r\n", "M".repeat(self.draw(80_000)), self.random).into_bytes(),
            2 => format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(),
            3 => format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "h".repeat(self.draw(200_000))).into_bytes(),
            4 => format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n").into_bytes(),
            5 => format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n7fffffff\r\n{}", "z".repeat(self.draw(100_000))).into_bytes(),
            6 => format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n").repeat(self.draw(50)).into_bytes(),
            7 => format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nexpect: 100-continue\r\nrange: bytes=0-,5-2,-\r\ncookie: {}\r\n\r\n", "a.".repeat(self.draw(300)), ";".repeat(self.draw(3000))).into_bytes(),
            _ => format!("CONNECT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n").into_bytes(),
        };
        self.send_raw(&bytes).await;
    }

    /// Sends an incomplete request, and leaves the connection open.
    async fn incomplete_request(&mut self) {
        let (_, path) = self.path();
        let path: String = path.chars().take(3000).filter(|c| !c.is_whitespace()).collect();
        let key = self.tenant.key.clone();
        let bytes = match self.draw(5) {
            0 => String::new(),
            1 => "PRI * HTTP/2.0\r\n".to_owned(),
            2 => format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthoriz"),
            3 => format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\n\r\n{{"
            ),
            _ => format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"),
        };
        let Some(mut socket) = self.connect().await else { return };
        let _ = timeout(RESPONSE_TIMEOUT, socket.write_all(bytes.as_bytes())).await;
        if self.open_connections.len() >= MAX_OPEN_CONNECTIONS {
            let at = self.draw(MAX_OPEN_CONNECTIONS);
            self.open_connections.swap_remove(at);
        }
        self.open_connections.push(socket);
    }

    async fn websocket(&mut self) {
        let run = self.runs[0].clone();
        let name =
            self.pick(&["exec/attach", "terminal", "shell", "terminal?command=cat", "proxy/8000/"]);
        let address = self.tenant.url.strip_prefix("http://").unwrap().to_owned();
        let mut request =
            format!("ws://{address}/v1/runs/{run}/{name}").into_client_request().unwrap();
        let key = format!("Bearer {}", self.tenant.key);
        request.headers_mut().insert("authorization", key.parse().unwrap());
        let frames: Vec<Message> = (0..self.draw(20))
            .map(|_| match self.draw(6) {
                0 => Message::Binary(self.bytes(100_000).into()),
                1 => Message::Text("{\"command\":\"cat\"}".into()),
                2 => {
                    Message::Text("{\"type\":\"run\",\"command\":\"echo x\",\"timeout\":1}".into())
                }
                3 => Message::Text("{\"type\":\"resize\",\"cols\":65535,\"rows\":65535}".into()),
                4 => Message::Ping(self.bytes(125).into()),
                _ => Message::Text(String::from_utf8_lossy(&self.bytes(3000)).into_owned().into()),
            })
            .collect();
        let Some(stream) = self.connect().await else { return };
        let talk = async {
            let (mut socket, _) = client_async(request, stream).await.ok()?;
            for frame in frames {
                socket.send(frame).await.ok()?;
            }
            while socket.next().await?.is_ok() {}
            Some(())
        };
        let _ = timeout(RESPONSE_TIMEOUT, talk).await;
    }

    /// Sends HTTP/2 frames, most of which are invalid.
    async fn http2(&mut self) {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for _ in 0..self.draw(60) {
            let payload = self.bytes(300);
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            bytes.extend_from_slice(&length[1..]);
            bytes.push(u8::try_from(self.draw(12)).unwrap());
            bytes.push(u8::try_from(self.draw(256)).unwrap());
            let stream = u32::try_from(self.draw(9)).unwrap();
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(&payload);
        }
        self.send_raw(&bytes).await;
    }

    /// Sends many requests at the same time that take long, or hold resources.
    async fn flood(&mut self) {
        let run = &self.runs[0];
        let exec = format!("/v1/runs/{run}/exec");
        let body = self.pick(&[
            json!({ "command": "head -c 200000 /dev/zero | tr '\\0' '\\1'" }),
            json!({ "command": "sleep 5", "timeout": 1 }),
            json!({ "command": "python3 -c \"import socket,time; s=[socket.socket() for _ in range(300)]; [x.setblocking(0) or x.connect_ex(('1.1.1.1', 80)) for x in s]; time.sleep(1)\"" }),
            json!({ "command": "yes | head -c 300000" }),
        ]);
        let requests = (0..10).map(|_| {
            let request = self.tenant.request(Method::POST, &exec).json(&body);
            timeout(RESPONSE_TIMEOUT, request.send())
        });
        futures_util::future::join_all(requests).await;
    }
}

/// A tenant and the id of one of its sandboxes.
type TenantRun<'client> = (&'client Tenant, &'client str);

/// Measures the median latencies of three operations for two tenants, alternately.
async fn latencies(tenants: [TenantRun<'_>; 2]) -> [[Duration; 3]; 2] {
    let mut samples: [[Vec<Duration>; 3]; 2] = Default::default();
    for _ in 0..SAMPLES_PER_MEDIAN {
        for ((tenant, run), samples) in tenants.iter().zip(&mut samples) {
            for (at, samples) in samples.iter_mut().enumerate() {
                let started = Instant::now();
                let (status, body) = match at {
                    0 => tenant.get("/v1/runs").await,
                    1 => tenant.get(&format!("/v1/runs/{run}/stats")).await,
                    _ => {
                        let path = format!("/v1/runs/{run}/exec");
                        tenant.post(&path, json!({ "command": "true" })).await
                    }
                };
                samples.push(started.elapsed());
                assert_eq!(status, 200, "{body}");
            }
        }
        // The pace of the measurement.
        sleep(Duration::from_millis(5)).await;
    }
    samples.map(|samples| {
        samples.map(|mut samples| {
            samples.sort();
            samples[SAMPLES_PER_MEDIAN / 2]
        })
    })
}

async fn probes_answer(server: &Server) {
    for probe in ["/healthz", "/readyz"] {
        let request = answer(server.http.get(format!("{}{probe}", server.url)));
        let (status, body) = timeout(Duration::from_secs(5), request).await.expect(probe);
        assert_eq!(status, 200, "{probe}: {body}");
    }
}

/// Returns every route of the OpenAPI description, and those that it does not contain.
async fn routes(server: &Server) -> Vec<(Method, String)> {
    let described = answer(server.http.get(format!("{}/openapi.json", server.url))).await.1;
    let mut routes = Vec::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if let Ok(method) = method.to_uppercase().parse() {
                routes.push((method, path.clone()));
            }
        }
    }
    assert!(routes.len() > 25, "{routes:?}");
    for path in
        ["/v1/runs/{id}/proxy/{port}/{*path}", "/sb/{*place}", "/sb/p/{port}/", "/", "//", "/v1"]
    {
        routes.push((Method::GET, path.to_owned()));
    }
    routes
}

/// Returns the duration of the attacks, in seconds.
fn attack_seconds() -> u64 {
    std::env::var("ISORUN_HOSTILE_SECONDS").map_or(20, |text| text.parse().unwrap())
}

#[server_test(seconds = attack_seconds() + 180)]
async fn hostile_input_harms_neither_the_server_nor_other_tenants() {
    let seconds = attack_seconds();
    let seed = std::env::var("ISORUN_HOSTILE_SEED").map_or_else(
        |_| u64::from(std::process::id()) * 2_654_435_761,
        |text| text.parse().unwrap(),
    );
    println!("{seconds} s with seed {seed}");
    // A server without attackers shows the effect of the machine's load on latencies.
    let reference = Server::start();
    let server = Server::start_limited(
        ULIMIT_COMMANDS,
        &[
            "--max-held-memory-mib",
            "64",
            "--body-timeout",
            "2s",
            "--head-timeout",
            "2s",
            "--idle-timeout",
            "5s",
            "--max-runs",
            "4",
            "--max-snapshots",
            "4",
            "--max-upload",
            "10000000",
        ],
    );
    let neighbour = server.tenant().await;
    // The attacker has its own connections, so that the neighbour does not use broken ones.
    let attacker = Tenant { http: reqwest::Client::new(), ..server.tenant().await };
    hostile(&server, &reference, &attacker, &neighbour, seconds, seed).await;
}

async fn hostile(
    server: &Server,
    reference: &Server,
    attacker: &Tenant,
    neighbour: &Tenant,
    seconds: u64,
    seed: u64,
) {
    let theirs = neighbour.create_with(json!({ "mem_mib": 256 })).await;
    let own = attacker.create_with(json!({ "mem_mib": 512, "timeout": 0 })).await;
    let other = reference.tenant().await;
    let others = other.create_with(json!({ "mem_mib": 256 })).await;
    let runs: [TenantRun<'_>; 2] = [(neighbour, &theirs), (&other, &others)];
    // The first measurement only warms the servers up.
    latencies(runs).await;
    let baseline = latencies(runs).await;
    let paths = Arc::new(routes(server).await);
    let (count, before) = (Arc::new(AtomicU64::new(0)), server.descriptors());
    // They are aborted when this is dropped, also if the test fails.
    let mut attacks = JoinSet::new();
    for number in 0..ATTACKER_TASKS {
        let mut attacker = Attacker {
            tenant: attacker.clone(),
            runs: [own.clone(), theirs.clone(), "run0123456789abcdef".to_owned()],
            paths: Arc::clone(&paths),
            random: (seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
            open_connections: Vec::new(),
            count: Arc::clone(&count),
        };
        attacks.spawn(async move {
            loop {
                attacker.attack().await;
                sleep(ATTACK_INTERVAL).await;
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut under_attack = Vec::new();
    while Instant::now() < end {
        under_attack.push(latencies(runs).await);
        probes_answer(server).await;
        let memory = server.status_kib("VmHWM") / 1024;
        assert!(memory < MAX_MEMORY_MIB, "{memory} MiB");
        assert!(server.descriptors() < 1000, "{} descriptors", server.descriptors());
        assert!(attacks.try_join_next().is_none(), "an attacking task has panicked");
    }
    attacks.abort_all();
    let count = count.load(Ordering::Relaxed);
    assert!(count > seconds * 20, "only {count} attacks");
    wait_until("the requests in progress have ended", async || server.descriptors() <= before + 10)
        .await;
    let after = latencies(runs).await;
    println!("{count} attacks; baseline {baseline:?}, meanwhile {under_attack:?}, after {after:?}");
    for at in 0..3 {
        // The median of the measurements during the attacks.
        let mut meanwhile: Vec<_> =
            under_attack.iter().map(|[here, reference]| (here[at], reference[at])).collect();
        meanwhile.sort();
        let meanwhile = meanwhile[meanwhile.len() / 2];
        for (when, (here, reference)) in
            [("meanwhile", meanwhile), ("after", (after[0][at], after[1][at]))]
        {
            assert!(
                here < reference * 2 + LATENCY_TOLERANCE,
                "{at} {when}: {here:?}, and {reference:?} elsewhere"
            );
        }
    }
    let memory = server.memory_mib();
    assert!(memory < MAX_MEMORY_MIB, "{memory} MiB");
    // The neighbour's sandbox still runs, and both tenants are served.
    let found = neighbour.get(&format!("/v1/runs/{theirs}")).await.1;
    assert_eq!(found["status"], "running", "{found}");
    assert_eq!(neighbour.exec(&theirs, "echo well").await["stdout"], "well\n");
    for run in attacker.get("/v1/runs").await.1["runs"].as_array().unwrap() {
        attacker.destroy(run["id"].as_str().unwrap()).await;
    }
    attacker.assert_served().await;
    neighbour.assert_served().await;
    let runs: Value = neighbour.get("/v1/runs").await.1;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
}
