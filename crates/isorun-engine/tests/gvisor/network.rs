//! The network policy with real connections.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use isorun_egress::Plan;
use isorun_egress::policy::DefaultAction;
use isorun_engine::Engine;
use isorun_engine::conformance::{Sandbox, argv, spec};
use test_macros::timed_test;
use test_support::resolver::Entry;

use crate::support::network::{Fixture, TestNetwork, plan, probe};

#[timed_test(seconds = 180)]
async fn policy_is_enforced_for_real_connections() {
    let net = TestNetwork(1);
    let fixture = Fixture::open(net).await;
    for (number, port) in [(1, 80), (1, 443), (1, 9000), (2, 80), (2, 443)] {
        net.server(number, port).await;
    }
    net.greeter(1, 22).await;
    let (one, two) = (net.host(1), net.host(2));
    fixture.resolver.set("good.test", &[Entry::Address(one)]);
    fixture.resolver.set("a.good.test", &[Entry::Address(one)]);
    fixture.resolver.set("shared.test", &[Entry::Address(one)]);
    fixture.resolver.set("evil.test", &[Entry::Address(two)]);
    fixture.resolver.set("alias.test", &[Entry::Alias("evil.test"), Entry::Address(two)]);
    fixture.resolver.set("rebound.test", &[Entry::Address(Ipv4Addr::new(127, 0, 0, 1))]);
    fixture.resolver.set("metadata.test", &[Entry::Address(Ipv4Addr::new(169, 254, 169, 254))]);
    let sandbox = fixture.sandbox().await;
    assert_eq!(
        (one.to_string().as_str(), two.to_string().as_str()),
        ("198.51.100.17", "198.51.100.18")
    );
    let (one, two) = ("198.51.100.17", "198.51.100.18");
    let named = |name: &str| Some(name.to_owned());
    let (ok, ok9000) = ("ok server 1 port 80", "ok server 1 port 9000");
    // allow, deny, protocol, host, port, claimed name, result, report
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
        // No rule by name allows a protocol without a name.
        (
            &["good.test"],
            &[],
            ("raw", "good.test", 9000, ""),
            "reset",
            Some(("protocol", named("good.test"))),
        ),
        (
            &["good.test"],
            &[],
            ("first", "good.test", 22, ""),
            "reset",
            Some(("protocol", named("good.test"))),
        ),
        (&["good.test", "198.51.100.17"], &[], ("raw", "good.test", 9000, ""), ok9000, None),
        (&["tcp://good.test:9000"], &[], ("raw", "good.test", 9000, ""), ok9000, None),
        (&["tcp://good.test:22"], &[], ("first", "good.test", 22, ""), "ok hello first", None),
        (&["tcp://*.good.test:9000"], &[], ("raw", "a.good.test", 9000, ""), ok9000, None),
        (
            &["tcp://good.test:9000"],
            &[],
            ("raw", "good.test", 80, ""),
            "reset",
            Some(("private", named("good.test"))),
        ),
        (&["good.test"], &[], ("tls", "good.test", 443, "good.test"), "ok tls", None),
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
        // The right address without a query; with the right name, and without one.
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
        // Without SNI the resolved name counts.
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
        // Deny takes precedence over allow; an alias of a denied name.
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
    for row in rows {
        let (allow, deny, (how, host, port, name), expected, report) = row.clone();
        fixture
            .scratch
            .set_network(&sandbox.id, plan(DefaultAction::Deny, allow, deny))
            .await
            .unwrap();
        fixture.seen.take();
        let found = probe(&sandbox, how, host, port, name).await;
        let seen = fixture.seen.take();
        assert!(found.starts_with(expected), "{row:?}: {found} {seen:?}");
        assert!(!found.contains("slow"), "{row:?}: {found}");
        let report: Vec<_> =
            report.into_iter().map(|(reason, name)| (reason.to_owned(), name)).collect();
        assert_eq!(seen, report, "{row:?}");
    }
    // A name that is not allowed is not queried.
    let queried = fixture.resolver.queried.lock().unwrap().clone();
    assert!(!queried.iter().any(|name| name == "no-such.good.test"), "{queried:?}");
}

#[timed_test(seconds = 60)]
async fn dns_rebinding_is_blocked() {
    let net = TestNetwork(2);
    let fixture = Fixture::open(net).await;
    net.server(1, 80).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    fixture
        .scratch
        .set_network(&sandbox.id, plan(DefaultAction::Deny, &["good.test"], &[]))
        .await
        .unwrap();
    assert!(probe(&sandbox, "http", "good.test", 80, "good.test").await.starts_with("ok"));
    fixture.resolver.set("good.test", &[Entry::Address(Ipv4Addr::new(127, 0, 0, 1))]);
    let text = sandbox.text("getent ahostsv4 good.test | head -1").await;
    assert!(text.starts_with("198.18."), "{text}");
    assert_eq!(probe(&sandbox, "http", "good.test", 80, "good.test").await, "reset");
    assert_eq!(fixture.seen.take(), [("private".to_owned(), Some("good.test".to_owned()))]);
}

#[timed_test(seconds = 60)]
async fn later_requests_of_a_connection_are_checked() {
    let net = TestNetwork(3);
    let fixture = Fixture::open(net).await;
    net.server(1, 80).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    fixture
        .scratch
        .set_network(&sandbox.id, plan(DefaultAction::Deny, &["good.test"], &[]))
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
    assert_eq!(fixture.seen.take(), [("private".to_owned(), Some("evil.test".to_owned()))]);
}

#[timed_test(seconds = 60)]
async fn udp_and_ipv6_are_refused_immediately() {
    let net = TestNetwork(4);
    let fixture = Fixture::open(net).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    fixture
        .scratch
        .set_network(&sandbox.id, plan(DefaultAction::Allow, &["good.test"], &[]))
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
}

#[timed_test]
async fn checkpoint_succeeds_with_open_connections() {
    let net = TestNetwork(5);
    let fixture = Fixture::open(net).await;
    net.server(1, 9000).await;
    let address = net.host(1).to_string();
    let sandbox = fixture.sandbox().await;
    let open = plan(DefaultAction::Deny, &[address.as_str()], &[]);
    fixture.scratch.set_network(&sandbox.id, open.clone()).await.unwrap();
    let holder = format!(
        "import socket, time\ns = socket.create_connection(('{address}', 9000)); s.sendall(b'x')\n\
         print(s.recv(100)); open('/srv/ready', 'w')\ntime.sleep(1000)"
    );
    let _running = sandbox.exec(argv(&["python3", "-c", &holder])).await.unwrap();
    sandbox.until("test -e /srv/ready").await;
    let dir = tempfile::tempdir().unwrap();
    // A program that was started for a client is part of the checkpoint, too.
    drop(_running);
    fixture.scratch.checkpoint(&sandbox.id, dir.path(), true).await.unwrap();
    assert_eq!(probe(&sandbox, "raw", &address, 9000, "").await, "ok server 1 port 9000");
    let copy = isorun_engine::SandboxSpec { network: open, ..spec() };
    let id = copy.id.clone();
    fixture.scratch.restore(copy, dir.path()).await.unwrap();
    let copy = Sandbox { engine: &*fixture.scratch, id };
    assert_eq!(probe(&copy, "raw", &address, 9000, "").await, "ok server 1 port 9000");
    // The original and the copy have rules of their own.
    fixture.scratch.set_network(&copy.id, Plan::default()).await.unwrap();
    assert_eq!(probe(&copy, "raw", &address, 9000, "").await, "reset");
    assert_eq!(probe(&sandbox, "raw", &address, 9000, "").await, "ok server 1 port 9000");
}

#[timed_test]
async fn default_connection_limit_is_enforced() {
    let net = TestNetwork(14);
    let fixture = Fixture::open(net).await;
    net.server(1, 9000).await;
    let address = net.host(1).to_string();
    let sandbox = fixture.sandbox().await;
    let open = plan(DefaultAction::Deny, &[address.as_str()], &[]);
    fixture.scratch.set_network(&sandbox.id, open).await.unwrap();
    let script = format!(
        "
import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def open_until_refused(limit):
    held = []
    for _ in range(limit):
        try:
            s = socket.create_connection(('{address}', 9000), 30)
            s.sendall(b'x'); s.recv(1)
        except OSError: return held, True
        held.append(s)
    return held, False
held, refused = open_until_refused(1100)
print(len(held), refused)
for s in held[:10]: s.close()
# The proxy notices a moment later that they are closed.
again = []
while len(again) < 5:
    again += open_until_refused(5 - len(again))[0]
    time.sleep(0.05)
print(len(again))
"
    );
    let output = sandbox.exec(argv(&["python3", "-c", &script])).await.unwrap();
    let output = output.output(10_000).await.unwrap();
    assert_eq!(output.stdout, b"1024 True\n5\n", "{output:?}");
    let seen = fixture.seen.take();
    assert!(seen.iter().any(|(reason, _)| reason == "too_many"), "{seen:?}");
}

#[timed_test]
async fn excess_and_slow_connections_are_reset() {
    let net = TestNetwork(6);
    // Few enough that all are open before the first one times out.
    let fixture = Fixture::with(net, |network| network.max_descriptors_per_sandbox = 128).await;
    net.server(1, 80).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    fixture
        .scratch
        .set_network(&sandbox.id, plan(DefaultAction::Deny, &["good.test"], &[]))
        .await
        .unwrap();
    let script = "
import socket, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
many, reset = [], 0
for _ in range(80):
    try: s = socket.create_connection(('good.test', 80), 8); s.setblocking(False); many.append(s)
    except OSError: reset += 1
until = time.monotonic() + 20
while reset < 15 and time.monotonic() < until:
    time.sleep(0.1)
    for s in many[:]:
        try: s.recv(1)
        except BlockingIOError: pass
        except ConnectionResetError: reset += 1; many.remove(s)
print(reset)
for s in many: s.close()
# New connections are possible as soon as those are closed.
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
    assert!(reset.parse::<u32>().unwrap() >= 16 - 1, "{text}");
    assert_eq!(rest, "cut off\n", "{output:?}");
    assert!(started.elapsed() > Duration::from_secs(9));
    let seen = fixture.seen.take();
    assert!(seen.iter().any(|(reason, _)| reason == "too_many"), "{seen:?}");
    assert_eq!(seen.last().unwrap().0, "malformed");
    assert!(probe(&sandbox, "http", "good.test", 80, "good.test").await.starts_with("ok"));
}
