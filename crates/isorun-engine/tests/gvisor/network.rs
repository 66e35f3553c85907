//! What a sandbox reaches, with real sockets: servers on addresses that are for
//! documentation (RFC 5737), on the loopback interface, stand for the world; a
//! resolver of the tests for all names.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata};
use isorun_engine::conformance::{LIMIT, Sandbox, argv, clean_up, spec};
use isorun_engine::network::policy::Rest;
use isorun_engine::network::{Blocked, Observer, Plan, Policy};
use isorun_engine::{Engine, SandboxId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::Scratch;

/// Each test has sixteen addresses of its own.
#[derive(Clone, Copy)]
struct World(u8);

/// Addresses of the loopback interface, as long as this lives.
struct Addresses(Vec<Ipv4Addr>);

impl Addresses {
    fn run(&self, what: &str) {
        for address in &self.0 {
            let words = ["addr", what, &format!("{address}/32"), "dev", "lo"];
            let _ = std::process::Command::new("ip")
                .args(words)
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
        }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.run("del");
    }
}

impl World {
    fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.0 * 16 + number)
    }

    /// A server that says who it is, then repeats the first bytes it is told.
    async fn server(self, number: u8, port: u16) {
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

    /// A server that speaks first, as those of mail and ssh do.
    async fn greeter(self, number: u8, port: u16) {
        let listener = TcpListener::bind((self.host(number), port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(b"hello first\n").await;
                    let mut said = vec![0; 1000];
                    let count = stream.read(&mut said).await.unwrap_or(0);
                    let _ = stream.write_all(&said[..count]).await;
                });
            }
        });
    }
}

/// A resolver with these names; each can be told to answer otherwise.
#[derive(Clone, Default)]
struct Zone {
    names: Arc<Mutex<HashMap<String, Vec<Entry>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Entry {
    Address(Ipv4Addr),
    Alias(&'static str),
}

impl Zone {
    fn set(&self, name: &str, entries: &[Entry]) {
        self.names.lock().unwrap().insert(name.to_owned(), entries.to_vec());
    }

    async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = self.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..count]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
                answer.add_query(query.clone());
                let name = query.name.to_ascii().trim_end_matches('.').to_lowercase();
                zone.asked.lock().unwrap().push(name.clone());
                match zone.names.lock().unwrap().get(&name) {
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                    Some(entries) if query.query_type == RecordType::A => {
                        let mut owner = query.name.clone();
                        for entry in entries {
                            let data = match entry {
                                Entry::Address(address) => RData::A(rdata::A(*address)),
                                Entry::Alias(to) => {
                                    let to = Name::from_ascii(format!("{to}.")).unwrap();
                                    RData::CNAME(rdata::CNAME(to))
                                }
                            };
                            answer.add_answer(Record::from_rdata(owner.clone(), 0, data.clone()));
                            if let RData::CNAME(alias) = data {
                                owner = alias.0;
                            }
                        }
                    }
                    Some(_) => {}
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }
}

/// Remembers what was blocked.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Blocked>>>);

impl Observer for Seen {
    fn blocked(&self, _: &SandboxId, blocked: Blocked) {
        self.0.lock().unwrap().push(blocked);
    }
}

impl Seen {
    /// The reasons and names since the last time.
    fn take(&self) -> Vec<(String, Option<String>)> {
        let seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.into_iter().map(|one| (one.reason.name().to_owned(), one.name)).collect()
    }
}

/// Connects, says something, and prints what came: `ok TEXT`, or the error.
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

struct Bench {
    scratch: Scratch,
    seen: Seen,
    zone: Zone,
    _addresses: Addresses,
}

impl Bench {
    async fn open(world: World) -> Self {
        let addresses = Addresses(vec![world.host(1), world.host(2)]);
        addresses.run("add");
        let (seen, zone) = (Seen::default(), Zone::default());
        let resolver = zone.serve().await;
        let scratch = Scratch::with(|config| {
            config.network.resolvers = vec![resolver];
            config.network.permitted = vec![format!("{}/28", world.host(0)).parse().unwrap()];
            config.network.observer = Some(Arc::new(seen.clone()));
        })
        .await;
        Self { scratch, seen, zone, _addresses: addresses }
    }

    async fn sandbox(&self) -> Sandbox<'_> {
        let engine: &dyn Engine = &*self.scratch;
        Sandbox::new(engine).await
    }
}

async fn probe(sandbox: &Sandbox<'_>, how: &str, host: &str, port: u16, name: &str) -> String {
    let port = port.to_string();
    let words = ["python3", "-c", PROBE, how, host, &port, name];
    let output = sandbox.exec(argv(&words)).await.unwrap().output(100_000).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(!text.is_empty(), "{output:?}");
    text
}

fn plan(rest: Rest, allow: &[&str], deny: &[&str]) -> Plan {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Plan { policy: Policy::new(rest, &list(allow), &list(deny)).unwrap(), ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_holds_for_real_connections() {
    let world = World(1);
    let bench = Bench::open(world).await;
    for (number, port) in [(1, 80), (1, 443), (1, 9000), (2, 80), (2, 443)] {
        world.server(number, port).await;
    }
    world.greeter(1, 22).await;
    let (one, two) = (world.host(1), world.host(2));
    bench.zone.set("good.test", &[Entry::Address(one)]);
    bench.zone.set("a.good.test", &[Entry::Address(one)]);
    bench.zone.set("shared.test", &[Entry::Address(one)]);
    bench.zone.set("evil.test", &[Entry::Address(two)]);
    bench.zone.set("alias.test", &[Entry::Alias("evil.test"), Entry::Address(two)]);
    bench.zone.set("rebound.test", &[Entry::Address(Ipv4Addr::new(127, 0, 0, 1))]);
    bench.zone.set("metadata.test", &[Entry::Address(Ipv4Addr::new(169, 254, 169, 254))]);
    let sandbox = bench.sandbox().await;
    assert_eq!(
        (one.to_string().as_str(), two.to_string().as_str()),
        ("198.51.100.17", "198.51.100.18")
    );
    let (one, two) = ("198.51.100.17", "198.51.100.18");
    let named = |name: &str| Some(name.to_owned());
    let (ok, ok9000) = ("ok server 1 port 80", "ok server 1 port 9000");
    // allow, deny, how, host, port, name said, what comes, the record
    type Row<'a> = (
        &'a [&'a str],
        &'a [&'a str],
        (&'a str, &'a str, u16, &'a str),
        &'a str,
        Option<(&'a str, Option<String>)>,
    );
    let rows: Vec<Row<'_>> = vec![
        // Nothing is allowed.
        (&[], &[], ("http", one, 80, "good.test"), "reset", Some(("private", None))),
        (
            &[],
            &[],
            ("http", "good.test", 80, "good.test"),
            "reset",
            Some(("unlisted", named("good.test"))),
        ),
        // By address.
        (&["198.51.100.17"], &[], ("http", one, 80, one), ok, None),
        (&["198.51.100.17"], &[], ("raw", one, 9000, ""), ok9000, None),
        (&["198.51.100.17"], &[], ("http", two, 80, two), "reset", Some(("private", None))),
        (
            &["198.51.100.16/28"],
            &["198.51.100.18"],
            ("raw", two, 80, ""),
            "reset",
            Some(("rule", None)),
        ),
        // By name.
        (&["good.test"], &[], ("http", "good.test", 80, "good.test"), ok, None),
        (&["good.test"], &[], ("http", "good.test", 80, "good.test:80"), ok, None),
        (&["good.test"], &[], ("raw", "good.test", 9000, ""), ok9000, None),
        (&["good.test"], &[], ("tls", "good.test", 443, "good.test"), "ok tls", None),
        (&["good.test"], &[], ("first", "good.test", 22, ""), "ok hello first", None),
        (&["*.good.test"], &[], ("http", "a.good.test", 80, "a.good.test"), ok, None),
        (
            &["*.good.test"],
            &[],
            ("http", "good.test", 80, "good.test"),
            "reset",
            Some(("unlisted", named("good.test"))),
        ),
        (
            &["good.test"],
            &[],
            ("http", "evil.test", 80, "evil.test"),
            "reset",
            Some(("unlisted", named("evil.test"))),
        ),
        // The true address, by hand; with the right name, and without one.
        (&["good.test"], &[], ("http", one, 80, "good.test"), ok, None),
        (&["good.test"], &[], ("raw", one, 9000, ""), "reset", Some(("private", None))),
        // A forged name, in TLS and in HTTP.
        (
            &["good.test"],
            &[],
            ("tls", two, 443, "good.test"),
            "reset",
            Some(("private", named("good.test"))),
        ),
        (
            &["good.test"],
            &[],
            ("http", two, 80, "good.test"),
            "reset",
            Some(("private", named("good.test"))),
        ),
        // Another name at the same address.
        (
            &["good.test"],
            &[],
            ("http", "good.test", 80, "shared.test"),
            "reset",
            Some(("private", named("shared.test"))),
        ),
        (
            &["good.test"],
            &[],
            ("tls", "good.test", 443, "shared.test"),
            "reset",
            Some(("private", named("shared.test"))),
        ),
        // No SNI: what the resolver told counts.
        (&["good.test"], &[], ("tls", "good.test", 443, ""), "ok tls", None),
        // HTTP on the port of TLS.
        (
            &["good.test"],
            &[],
            ("http", "good.test", 443, "evil.test"),
            "reset",
            Some(("private", named("evil.test"))),
        ),
        (
            &["good.test"],
            &[],
            ("http", "good.test", 443, "good.test"),
            "ok server 1 port 443",
            None,
        ),
        // Denied goes before allowed; an alias of what is denied.
        (
            &["*.test"],
            &["evil.test"],
            ("http", "evil.test", 80, "evil.test"),
            "reset",
            Some(("unlisted", named("evil.test"))),
        ),
        (
            &["*.test"],
            &["evil.test"],
            ("http", "alias.test", 80, "alias.test"),
            "reset",
            Some(("rule", named("alias.test"))),
        ),
        // Names of addresses that are not public.
        (
            &["*.test"],
            &[],
            ("http", "rebound.test", 80, "rebound.test"),
            "reset",
            Some(("private", named("rebound.test"))),
        ),
        (
            &["*.test"],
            &[],
            ("http", "metadata.test", 80, "x"),
            "reset",
            Some(("private", named("metadata.test"))),
        ),
        (&["0.0.0.0/0"], &[], ("raw", "169.254.169.254", 80, ""), "reset", Some(("private", None))),
        (&["0.0.0.0/0"], &[], ("raw", "10.0.0.1", 80, ""), "reset", Some(("private", None))),
        (&["0.0.0.0/0"], &[], ("raw", "192.0.0.1", 81, ""), "reset", Some(("private", None))),
        (
            &["good.test"],
            &[],
            ("http", "no-such.good.test", 80, "x"),
            "reset",
            Some(("unlisted", named("no-such.good.test"))),
        ),
        (&["*.test"], &[], ("http", "no-such.test", 80, "x"), "unknown", None),
    ];
    let test = async {
        for row in rows {
            let (allow, deny, (how, host, port, name), expected, record) = row.clone();
            bench.scratch.set_network(&sandbox.id, plan(Rest::Closed, allow, deny)).await.unwrap();
            bench.seen.take();
            let found = probe(&sandbox, how, host, port, name).await;
            let seen = bench.seen.take();
            assert!(found.starts_with(expected), "{row:?}: {found} {seen:?}");
            assert!(!found.contains("slow"), "{row:?}: {found}");
            let record: Vec<_> =
                record.into_iter().map(|(reason, name)| (reason.to_owned(), name)).collect();
            assert_eq!(seen, record, "{row:?}");
        }
        // What may not be reached was not even asked for.
        let asked = bench.zone.asked.lock().unwrap().clone();
        assert!(!asked.iter().any(|name| name == "no-such.good.test"), "{asked:?}");
    };
    tokio::time::timeout(Duration::from_secs(180), test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_change_their_address_gain_nothing() {
    let world = World(2);
    let bench = Bench::open(world).await;
    world.server(1, 80).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        bench
            .scratch
            .set_network(&sandbox.id, plan(Rest::Closed, &["good.test"], &[]))
            .await
            .unwrap();
        assert!(probe(&sandbox, "http", "good.test", 80, "good.test").await.starts_with("ok"));
        bench.zone.set("good.test", &[Entry::Address(Ipv4Addr::new(127, 0, 0, 1))]);
        let text = sandbox.text("getent ahostsv4 good.test | head -1").await;
        assert!(text.starts_with("198.18."), "{text}");
        assert_eq!(probe(&sandbox, "http", "good.test", 80, "good.test").await, "reset");
        assert_eq!(bench.seen.take(), [("private".to_owned(), Some("good.test".to_owned()))]);
    };
    tokio::time::timeout(LIMIT, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_requests_of_a_connection_are_looked_at() {
    let world = World(3);
    let bench = Bench::open(world).await;
    world.server(1, 80).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        bench
            .scratch
            .set_network(&sandbox.id, plan(Rest::Closed, &["good.test"], &[]))
            .await
            .unwrap();
        let script = "
import socket
s = socket.create_connection(('good.test', 80), 8)
for name in ['good.test', 'good.test', 'evil.test']:
    s.sendall(f'GET / HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n'.encode())
    try: print(name, b'server 1' in s.recv(4096))
    except OSError as e: print(name, type(e).__name__)
";
        let output = sandbox.exec(argv(&["python3", "-c", script])).await.unwrap();
        let output = output.output(10_000).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = "good.test True\ngood.test True\nevil.test ConnectionResetError\n";
        assert_eq!(text, expected, "{output:?}");
        assert_eq!(bench.seen.take(), [("private".to_owned(), Some("evil.test".to_owned()))]);
    };
    tokio::time::timeout(LIMIT, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tcp_is_refused_at_once() {
    let world = World(4);
    let bench = Bench::open(world).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        bench
            .scratch
            .set_network(&sandbox.id, plan(Rest::Open, &["good.test"], &[]))
            .await
            .unwrap();
        let script = "
import socket
for host, port in [('1.1.1.1', 443), ('1.1.1.1', 123)]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect((host, port)); s.send(b'x' * 1200)
    try: print(s.recv(10))
    except OSError as e: print(type(e).__name__)
try: socket.create_connection(('2606:4700::1111', 443), 5); print('connected')
except OSError as e: print('no IPv6', type(e).__name__ != 'TimeoutError')
try: socket.create_connection(('::ffff:169.254.169.254', 80), 5).recv(1); print('connected')
except OSError as e: print('mapped', type(e).__name__)
print([i[4] for i in socket.getaddrinfo('good.test', 80, type=socket.SOCK_STREAM)])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(bytes.fromhex('123401000001000000000000') + b'\\x04good\\x04test\\x00\\x00\\x01\\x00\\x01', ('8.8.8.8', 53))
data, who = s.recvfrom(1000); print(who[0], data[-4:] == socket.inet_aton('198.51.100.65'))
";
        let output = sandbox.exec(argv(&["python3", "-c", script])).await.unwrap();
        let output = output.output(10_000).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = "ConnectionRefusedError\nConnectionRefusedError\nno IPv6 True\n\
                        mapped ConnectionResetError\n[('198.51.100.65', 80)]\n8.8.8.8 True\n";
        assert_eq!(text, expected, "{output:?}");
    };
    tokio::time::timeout(LIMIT, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_taken_while_connections_are_open() {
    let world = World(5);
    let bench = Bench::open(world).await;
    world.server(1, 9000).await;
    let address = world.host(1).to_string();
    let test = async {
        let sandbox = bench.sandbox().await;
        let open = plan(Rest::Closed, &[address.as_str()], &[]);
        bench.scratch.set_network(&sandbox.id, open.clone()).await.unwrap();
        let holder = format!(
            "import socket, time\ns = socket.create_connection(('{address}', 9000)); s.sendall(b'x')\n\
             print(s.recv(100)); open('/srv/ready', 'w')\ntime.sleep(1000)"
        );
        let _running = sandbox.exec(argv(&["python3", "-c", &holder])).await.unwrap();
        sandbox.until("test -e /srv/ready").await;
        let folder = tempfile::tempdir().unwrap();
        // What was started for a client crosses the border as well.
        drop(_running);
        bench.scratch.checkpoint(&sandbox.id, folder.path(), true).await.unwrap();
        assert_eq!(probe(&sandbox, "raw", &address, 9000, "").await, "ok server 1 port 9000");
        let copy = isorun_engine::SandboxSpec { network: open, ..spec() };
        let id = copy.id.clone();
        bench.scratch.restore(copy, folder.path()).await.unwrap();
        let copy = Sandbox { engine: &*bench.scratch, id };
        assert_eq!(probe(&copy, "raw", &address, 9000, "").await, "ok server 1 port 9000");
        // Each has rules of its own.
        bench.scratch.set_network(&copy.id, Plan::default()).await.unwrap();
        assert_eq!(probe(&copy, "raw", &address, 9000, "").await, "reset");
        assert_eq!(probe(&sandbox, "raw", &address, 9000, "").await, "ok server 1 port 9000");
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_and_too_slow_are_reset() {
    let world = World(6);
    let bench = Bench::open(world).await;
    world.server(1, 80).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        bench
            .scratch
            .set_network(&sandbox.id, plan(Rest::Closed, &["good.test"], &[]))
            .await
            .unwrap();
        let script = "
import socket, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
many, reset = [], 0
for _ in range(1200):
    try: s = socket.create_connection(('good.test', 80), 8); s.setblocking(False); many.append(s)
    except OSError: reset += 1
until = time.monotonic() + 20
while reset < 175 and time.monotonic() < until:
    time.sleep(0.1)
    for s in many[:]:
        try: s.recv(1)
        except BlockingIOError: pass
        except ConnectionResetError: reset += 1; many.remove(s)
print(reset)
for s in many: s.close()
# There is room again as soon as those are gone.
while time.monotonic() < until + 30:
    begun = time.monotonic()
    try:
        s = socket.create_connection(('good.test', 80), 8)
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: goo')
        s.settimeout(30)
        s.recv(1)
    except ConnectionResetError:
        if time.monotonic() - begun > 5: print('cut off'); break
    time.sleep(0.1)
";
        let started = Instant::now();
        let output = sandbox.exec(argv(&["python3", "-c", script])).await.unwrap();
        let output = output.output(10_000).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (reset, rest) = text.split_once('\n').unwrap_or_else(|| panic!("{output:?}"));
        assert!(reset.parse::<u32>().unwrap() >= 176 - 1, "{text}");
        assert_eq!(rest, "cut off\n", "{output:?}");
        assert!(started.elapsed() > Duration::from_secs(9));
        let seen = bench.seen.take();
        assert!(seen.iter().any(|(reason, _)| reason == "too_many"));
        assert_eq!(seen.last().unwrap().0, "malformed");
        assert!(probe(&sandbox, "http", "good.test", 80, "good.test").await.starts_with("ok"));
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}
