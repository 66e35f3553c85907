//! What a sandbox's questions to the resolver are answered, and which of them leave.

use std::time::{Duration, Instant};

use isorun_engine::Engine;
use isorun_engine::conformance::{LIMIT, Sandbox, argv, clean_up};
use isorun_engine::network::policy::Rest;
use serde_json::json;

use crate::world::{Bench, Entry, World, plan, probe};

/// Asks the resolver; prints the code, the number of answers and the last four bytes
/// of each. A question is a name and a type, and perhaps a class and a way.
const ASKER: &str = r"
import json, socket, struct, sys
def message(name, kind, cls):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.') if l)
    return struct.pack('!6H', 7, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('!2H', kind, cls)
def ask(name, kind, cls=1, how='udp'):
    asked = name.encode('latin-1') if how == 'raw' else message(name, kind, cls)
    if how == 'tcp':
        s = socket.create_connection(('1.1.1.1', 53), 8)
        s.sendall(struct.pack('!H', len(asked)) + asked)
        f = s.makefile('rb'); data = f.read(struct.unpack('!H', f.read(2))[0])
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8)
        s.sendto(asked, ('1.1.1.1', 53))
        try: data = s.recv(4096)
        except TimeoutError: return 'silent'
    return [data[3] & 15, struct.unpack('!H', data[6:8])[0]]
print(json.dumps([ask(*question) for question in json.loads(sys.argv[1])]))
";

async fn ask(sandbox: &Sandbox<'_>, questions: &serde_json::Value) -> Vec<serde_json::Value> {
    let words = ["python3", "-c", ASKER, &questions.to_string()];
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_asked_outside_only_if_a_rule_could_allow_them() {
    let world = World(11);
    let bench = Bench::open(world).await;
    let address = world.host(1).to_string();
    for name in ["good.test", "x.good.test", "other.test", "secret-data.evil.test"] {
        bench.zone.set(name, &[Entry::Address(world.host(1))]);
    }
    let names = ["good.test", "x.good.test", "other.test", "secret-data.evil.test"];
    let kinds = [A, AAAA, TXT, MX, SRV, NS, HTTPS, ANY, PTR];
    let test = async {
        let sandbox = bench.sandbox().await;
        // rest, allow, deny, the names that are asked outside, for all of their types
        type Row<'a> = (Rest, &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
        let rows: &[Row<'_>] = &[
            (Rest::Closed, &[], &[], &[], false),
            (Rest::Closed, &[&address], &[], &[], false),
            (Rest::Closed, &["198.51.100.0/24", "10.0.0.0/8"], &[], &[], false),
            (Rest::Closed, &[&address], &["good.test"], &[], false),
            (Rest::Closed, &[&address, "good.test"], &[], &["good.test"], false),
            (Rest::Closed, &["*.good.test"], &[], &["x.good.test"], false),
            (Rest::Closed, &["tcp://good.test:22"], &[], &["good.test"], false),
            (Rest::Closed, &["*.test"], &["*.evil.test"], &names[..3], false),
            (Rest::Closed, &["0.0.0.0/0"], &[], &names, true),
            (Rest::Web, &[], &[], &names, true),
            (Rest::Open, &[], &["other.test"], &["good.test", "x.good.test", names[3]], true),
        ];
        for row in rows {
            let (rest, allow, deny, expected, all) = row;
            bench.scratch.set_network(&sandbox.id, plan(*rest, allow, deny)).await.unwrap();
            bench.zone.asked.lock().unwrap().clear();
            bench.zone.types.lock().unwrap().clear();
            let questions: Vec<_> = names
                .iter()
                .flat_map(|name| kinds.map(|kind| json!([name, kind])))
                .chain([json!(["1.0.0.10.in-addr.arpa", PTR])])
                .collect();
            let said = ask(&sandbox, &json!(questions)).await;
            // None is an error, and an address comes for each name, if only a sink.
            for (question, said) in questions.iter().zip(&said) {
                let count = u8::from(question[1] == A);
                assert_eq!(*said, json!([0, count]), "{row:?} {question}");
            }
            let mut asked = bench.zone.asked.lock().unwrap().clone();
            asked.sort();
            asked.dedup();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            // The answers of the last row may still be known.
            assert!(
                asked.iter().all(|name| expected.contains(&name.as_str())),
                "{row:?} {asked:?}"
            );
            let types = bench.zone.types.lock().unwrap().clone();
            let may_be = |kind: &u16| *kind == A || *all && [TXT, MX, SRV].contains(kind);
            assert!(types.iter().all(may_be), "{row:?} {types:?}");
        }
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_what_a_resolver_says() {
    let world = World(12);
    let bench = Bench::open(world).await;
    world.server(1, 80).await;
    for name in ["my_host.test", "_service._tcp.test", "a.b_c.test", "good.test"] {
        bench.zone.set(name, &[Entry::Address(world.host(1))]);
    }
    // One without an address, one that is an alias of nothing.
    bench.zone.set("mail.test", &[]);
    bench.zone.set("dangling.test", &[Entry::Alias("mail.test")]);
    let long = format!("{0}.{0}.{0}.{1}.test", "a".repeat(63), "b".repeat(56));
    let test = async {
        let sandbox = bench.sandbox().await;
        let allow = plan(Rest::Closed, &["*.test", "my_host.test"], &[]);
        bench.scratch.set_network(&sandbox.id, allow).await.unwrap();
        // A question, the code of the answer and the number of records in it.
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
            // Nothing of that kind, and no such name.
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
            // Other classes, transfers, versions of EDNS, and what is broken.
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
            let said = ask(&sandbox, &json!([question])).await;
            assert_eq!(said, [json!([code, count])], "{question}");
        }
        // Names with an underscore match rules, and lead where they should.
        let found = probe(&sandbox, "http", "my_host.test", 80, "my_host.test").await;
        assert!(found.starts_with("ok server 1"), "{found}");
        // Libraries take it as it is meant.
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
    };
    tokio::time::timeout(LIMIT, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_is_cut() {
    let world = World(13);
    let bench = Bench::open(world).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let (sandbox, other) = (bench.sandbox().await, bench.sandbox().await);
        for id in [&sandbox.id, &other.id] {
            let allow = plan(Rest::Closed, &["good.test", "*.good.test"], &[]);
            bench.scratch.set_network(id, allow).await.unwrap();
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
        let most = 500 + took.as_secs() * 100 + 200;
        assert!(answered >= 400 && answered <= most && silent < 10, "{text} {took:?}");
        assert_eq!(answered + refused + silent, 3000);
        let asked =
            bench.zone.asked.lock().unwrap().iter().filter(|n| n.starts_with("data")).count();
        assert!(asked as u64 <= answered + silent, "{asked} {text}");
        // Others are not in its way, and it can ask again in a moment.
        assert_eq!(ask(&other, &json!([["good.test", A]])).await, [json!([0, 1])]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ask(&sandbox, &json!([["good.test", A]])).await, [json!([0, 1])]);
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}
