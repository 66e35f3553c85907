//! The answers to DNS queries of a sandbox, and which queries are forwarded upstream.

use std::time::{Duration, Instant};

use isorun_egress::policy::DefaultAction;
use isorun_engine::Engine;
use isorun_engine::conformance::{Sandbox, argv};
use serde_json::json;
use test_macros::timed_test;
use test_support::resolver::Entry;

use crate::support::network::{Fixture, TestNetwork, plan, probe};

/// A program that queries the resolver, and prints the response code and the number of
/// answers of each query. A query is a name and a type, and perhaps a class and a transport.
const DNS_CLIENT: &str = r"
import json, socket, struct, sys
def message(name, kind, cls):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.') if l)
    return struct.pack('!6H', 7, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('!2H', kind, cls)
def ask(name, kind, cls=1, how='udp'):
    packet = name.encode('latin-1') if how == 'raw' else message(name, kind, cls)
    if how == 'tcp':
        s = socket.create_connection(('1.1.1.1', 53), 8)
        s.sendall(struct.pack('!H', len(packet)) + packet)
        f = s.makefile('rb'); data = f.read(struct.unpack('!H', f.read(2))[0])
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8)
        s.sendto(packet, ('1.1.1.1', 53))
        try: data = s.recv(4096)
        except TimeoutError: return 'silent'
    return [data[3] & 15, struct.unpack('!H', data[6:8])[0]]
print(json.dumps([ask(*question) for question in json.loads(sys.argv[1])]))
";

/// Runs [`DNS_CLIENT`] with these queries.
async fn query(sandbox: &Sandbox<'_>, questions: &serde_json::Value) -> Vec<serde_json::Value> {
    let words = ["python3", "-c", DNS_CLIENT, &questions.to_string()];
    let output = sandbox.exec(argv(&words)).await.unwrap().output(100_000).await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

const A: u16 = 1;
const NS: u16 = 2;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const HTTPS: u16 = 65;
const AXFR: u16 = 252;
const ANY: u16 = 255;

#[timed_test]
async fn names_are_resolved_only_if_a_rule_could_allow_them() {
    let net = TestNetwork(11);
    let fixture = Fixture::open(net).await;
    let address = net.host(1).to_string();
    for name in ["good.test", "x.good.test", "other.test", "secret-data.evil.test"] {
        fixture.resolver.set(name, &[Entry::Address(net.host(1))]);
    }
    let names = ["good.test", "x.good.test", "other.test", "secret-data.evil.test"];
    let kinds = [A, AAAA, TXT, MX, SRV, NS, HTTPS, ANY, PTR];
    let sandbox = fixture.sandbox().await;
    // default action, allow, deny, the names that are queried upstream, and whether they
    // are queried for all types
    type Row<'a> = (DefaultAction, &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
    let rows: &[Row<'_>] = &[
        (DefaultAction::Deny, &[], &[], &[], false),
        (DefaultAction::Deny, &[&address], &[], &[], false),
        (DefaultAction::Deny, &["198.51.100.0/24", "10.0.0.0/8"], &[], &[], false),
        (DefaultAction::Deny, &[&address], &["good.test"], &[], false),
        (DefaultAction::Deny, &[&address, "good.test"], &[], &["good.test"], false),
        (DefaultAction::Deny, &["*.good.test"], &[], &["x.good.test"], false),
        (DefaultAction::Deny, &["tcp://good.test:22"], &[], &["good.test"], false),
        (DefaultAction::Deny, &["*.test"], &["*.evil.test"], &names[..3], false),
        (DefaultAction::Deny, &["0.0.0.0/0"], &[], &names, true),
        (DefaultAction::AllowWeb, &[], &[], &names, true),
        (DefaultAction::Allow, &[], &["other.test"], &["good.test", "x.good.test", names[3]], true),
    ];
    for row in rows {
        let (default_action, allow, deny, expected, all) = row;
        fixture.scratch.set_network(&sandbox.id, plan(*default_action, allow, deny)).await.unwrap();
        fixture.resolver.queried.lock().unwrap().clear();
        fixture.resolver.types.lock().unwrap().clear();
        let questions: Vec<_> = names
            .iter()
            .flat_map(|name| kinds.map(|kind| json!([name, kind])))
            .chain([json!(["1.0.0.10.in-addr.arpa", PTR])])
            .collect();
        let answers = query(&sandbox, &json!(questions)).await;
        // No query is an error; each name has an address, possibly a sinkhole.
        for (question, answer) in questions.iter().zip(&answers) {
            let count = u8::from(question[1] == A);
            assert_eq!(*answer, json!([0, count]), "{row:?} {question}");
        }
        let mut queried = fixture.resolver.queried.lock().unwrap().clone();
        queried.sort();
        queried.dedup();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        // Answers may still be cached from the last row.
        assert!(
            queried.iter().all(|name| expected.contains(&name.as_str())),
            "{row:?} {queried:?}"
        );
        let types = fixture.resolver.types.lock().unwrap().clone();
        let may_be = |kind: &u16| *kind == A || *all && [TXT, MX, SRV].contains(kind);
        assert!(types.iter().all(may_be), "{row:?} {types:?}");
    }
}

#[timed_test(seconds = 60)]
async fn dns_responses_match_a_resolver() {
    let net = TestNetwork(12);
    let fixture = Fixture::open(net).await;
    net.server(1, 80).await;
    for name in ["my_host.test", "_service._tcp.test", "a.b_c.test", "good.test"] {
        fixture.resolver.set(name, &[Entry::Address(net.host(1))]);
    }
    // A name without an address, and an alias of it.
    fixture.resolver.set("mail.test", &[]);
    fixture.resolver.set("dangling.test", &[Entry::Alias("mail.test")]);
    let long = format!("{0}.{0}.{0}.{1}.test", "a".repeat(63), "b".repeat(56));
    let sandbox = fixture.sandbox().await;
    let allow = plan(DefaultAction::Deny, &["*.test", "my_host.test"], &[]);
    fixture.scratch.set_network(&sandbox.id, allow).await.unwrap();
    // The query, the response code and the number of records in the response.
    let head = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00";
    let name = "\x04good\x04test\x00\x00\x01\x00\x01";
    let opt = |version: &str| {
        format!("{head}\x01{name}\x00\x00\x29\x10\x00\x00{version}\x00\x00\x00\x00")
    };
    for (question, code, count) in [
        (json!(["my_host.test", A]), 0, 1),
        (json!(["MY_HOST.Test", A]), 0, 1),
        (json!(["_service._tcp.test", A]), 0, 1),
        (json!(["a.b_c.test", A]), 0, 1),
        (json!(["my_host.test", AAAA]), 0, 0),
        // No records of that type, and no such name.
        (json!(["mail.test", A]), 0, 0),
        (json!(["dangling.test", A]), 0, 0),
        (json!(["mail.test", TXT]), 0, 0),
        (json!(["no-such.test", A]), 3, 0),
        (json!([long, A]), 3, 0),
        (json!(["good.test", A, 1, "tcp"]), 0, 1),
        (json!(["no-such.test", A, 1, "tcp"]), 3, 0),
        (json!(["localhost", A]), 0, 1),
        (json!([".", NS]), 0, 0),
        (json!(["-bad.test", A]), 3, 0),
        // Other classes, zone transfers, versions of EDNS, and malformed queries.
        (json!(["version.bind", TXT, 3]), 5, 0),
        (json!(["good.test", AXFR, 1, "tcp"]), 5, 0),
        (json!(["good.test", ANY]), 0, 0),
        (json!([opt("\x00"), 0, 0, "raw"]), 0, 1),
        (json!([opt("\x01"), 0, 0, "raw"]), 0, 0),
        (json!([format!("{head}\x00"), 0, 0, "raw"]), 1, 0),
        (
            json!([
                format!("{head}\x00{name}").replacen("\x01\x00\x00\x01", "\x28\x00\x00\x01", 1),
                0,
                0,
                "raw"
            ]),
            4,
            0,
        ),
    ] {
        let answers = query(&sandbox, &json!([question])).await;
        assert_eq!(answers, [json!([code, count])], "{question}");
    }
    // Names with an underscore match rules, and connect to the right server.
    let found = probe(&sandbox, "http", "my_host.test", 80, "my_host.test").await;
    assert!(found.starts_with("ok server 1"), "{found}");
    // The C library interprets the responses correctly.
    let text = sandbox
        .text(
            "python3 -c \"
import socket
for name in ['mail.test', 'no-such.test', 'my_host.test']:
    try: print(name, len(socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)))
    except socket.gaierror as e: print(name, e.errno in (socket.EAI_NONAME, socket.EAI_NODATA))\"",
        )
        .await;
    assert_eq!(text.trim(), "mail.test True\nno-such.test True\nmy_host.test 1");
}

#[timed_test]
async fn dns_query_rate_is_limited() {
    let net = TestNetwork(13);
    let fixture = Fixture::open(net).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let (sandbox, other) = (fixture.sandbox().await, fixture.sandbox().await);
    for id in [&sandbox.id, &other.id] {
        let allow = plan(DefaultAction::Deny, &["good.test", "*.good.test"], &[]);
        fixture.scratch.set_network(id, allow).await.unwrap();
    }
    let script = r"
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
codes = []
for number in range(3000):
    label = f'data{number}'.encode()
    s.sendto(struct.pack('!6H', number, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + b'\x04good\x04test\0\0\1\0\1', ('1.1.1.1', 53))
    try: codes.append(s.recv(4096)[3] & 15)
    except TimeoutError: codes.append(-1)
print(codes.count(3), codes.count(2), codes.count(-1))
";
    let started = Instant::now();
    let output = sandbox.exec(argv(&["python3", "-c", script])).await.unwrap();
    let output = output.output(10_000).await.unwrap();
    let took = started.elapsed();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [answered, refused, silent] = counts[..] else { panic!("{output:?}") };
    let max_answered = 500 + took.as_secs() * 100 + 200;
    assert!(answered >= 400 && answered <= max_answered && silent < 10, "{text} {took:?}");
    assert_eq!(answered + refused + silent, 3000);
    let queried =
        fixture.resolver.queried.lock().unwrap().iter().filter(|n| n.starts_with("data")).count();
    assert!(queried as u64 <= answered + silent, "{queried} {text}");
    // Other sandboxes are not affected, and this one can send queries again soon.
    assert_eq!(query(&other, &json!([["good.test", A]])).await, [json!([0, 1])]);
    // The time in which the number of allowed queries grows by a hundred.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(query(&sandbox, &json!([["good.test", A]])).await, [json!([0, 1])]);
}
