//! The costs of a sandbox's network: of rules, secrets and URLs, each compared with the same
//! traffic without them in the same run. `ISORUN_BENCH_NGINX` is the path of nginx.
//!
//! It has its own harness instead of criterion, because each sample is some seconds of traffic
//! through a real server and real sandboxes.
// A panic is how a benchmark fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod load;
mod machine;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isorun_egress::context::{ProxyContext, ProxyOptions};
use isorun_egress::credentials::Credential;
use isorun_egress::egress::Sockets;
use isorun_egress::intercept::GATEWAY;
use isorun_egress::policy::DefaultAction;
use isorun_egress::proxy::EgressProxy;
use isorun_egress::{Authority, Credentials, Plan, Policy};
use isorun_engine::SandboxId;
use machine::{Nginx, PlainRunsc, Server};
use serde_json::json;
use test_support::certificates::server_config;
use test_support::{LoopbackAddress, Resolver};
use tokio::net::{TcpListener, UdpSocket};

/// The address of the external services, on the loopback interface.
const EXTERNAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 242);
/// A hostname of the external services.
const EXTERNAL_NAME: &str = "api.bench.test";
/// The port of the server without a protocol.
const RAW_PORT: u16 = 9000;
/// The size of a bulk transfer, in bytes.
const BULK_BYTES: u64 = 512 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match words.split_first() {
        Some((&"--load", words)) => runtime.block_on(load::run(words)),
        _ => {
            // Cargo adds options; the first other word selects a group of rows.
            let group = words.iter().find(|word| !word.starts_with('-')).copied();
            runtime.block_on(measure(group.unwrap_or_default()));
        }
    }
}

async fn measure(group: &str) {
    let _address = LoopbackAddress::add(EXTERNAL_ADDRESS);
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    let resolver = start_services(&roots).await;
    let (resolver_text, permit) = (resolver.to_string(), format!("{EXTERNAL_ADDRESS}/32"));
    let (warm, file) = (["--warm", "0"], roots.to_str().unwrap());
    let network = ["--resolver", &resolver_text, "--permit-private", &permit];
    let credentials = ["--credential-roots", file];
    let arguments = [&warm[..], &network, &credentials].concat();
    if "traffic".contains(group) {
        traffic(&Server::start(&arguments, None)).await;
    }
    if "credentials".contains(group) {
        secrets(&Server::start(&arguments, None), resolver, &roots).await;
    }
    if "urls".contains(group) {
        urls(&Server::start(&arguments, None)).await;
    }
    if "create".contains(group) {
        create().await;
    }
}

/// Starts the external services: a raw server, HTTP servers with and without TLS, and a
/// resolver. Returns the address of the resolver.
async fn start_services(roots: &Path) -> SocketAddr {
    let (tls, authority) = server_config(&[EXTERNAL_NAME]);
    std::fs::write(roots, authority).unwrap();
    let raw = TcpListener::bind((Ipv4Addr::UNSPECIFIED, RAW_PORT)).await.unwrap();
    tokio::spawn(load::serve_raw(raw));
    let plain = TcpListener::bind((EXTERNAL_ADDRESS, 80)).await.unwrap();
    tokio::spawn(load::serve_http(plain, None));
    let secure = TcpListener::bind((EXTERNAL_ADDRESS, 443)).await.unwrap();
    tokio::spawn(load::serve_http(secure, Some(tls.into())));
    Resolver::of_any_name(EXTERNAL_ADDRESS).serve().await
}

/// Measures throughput and round trips through rules, compared with an open network.
async fn traffic(server: &Server) {
    let run = server.create_with_program(json!({ "network": { "allow": [EXTERNAL_NAME] } })).await;
    let plain = PlainRunsc::start();
    let (ours, open) =
        (format!("{EXTERNAL_NAME}:{RAW_PORT}"), format!("{}:{RAW_PORT}", PlainRunsc::HOST_ADDRESS));
    for (program, direction) in [("pull", "from the world"), ("push", "to the world")] {
        let (mut through, mut beside) = (Vec::new(), Vec::new());
        let cpu = server.cpu();
        for _ in 0..5 {
            through.push(server.load(&run, &format!("{program} {ours} {BULK_BYTES}")).await);
            beside.push(plain.load(&format!("{program} {open} {BULK_BYTES}")));
        }
        let (through, beside) = (median(through), median(beside));
        row(&format!("bytes {direction}, open network of plain runsc"), &rate(beside));
        row(&format!("bytes {direction}, through rules"), &rate(through));
        row("  as a part of that", &percentage(through, beside));
        let cpu = (server.cpu() - cpu) / (5.0 * BULK_BYTES as f64);
        row("  CPU time of the server for a gigabyte", &micros(cpu * 1e15));
    }
    let mut fetched = Vec::new();
    for _ in 0..5 {
        fetched.push(
            server.load(&run, &format!("fetch http://{EXTERNAL_NAME}/large/{BULK_BYTES}")).await,
        );
    }
    row("bytes from the world, one large answer of HTTP", &rate(median(fetched)));
    let (mut through, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        through.push(server.load(&run, &format!("echo {ours} 3000")).await);
        beside.push(plain.load(&format!("echo {open} 3000")));
    }
    let (through, beside) = (median(through), median(beside));
    row("there and back, open network of plain runsc", &micros(beside));
    row("there and back, through rules", &micros(through));
    row("  added", &micros(through - beside));
    server.destroy(&run).await;
}

/// Measures small requests with a secret.
async fn secrets(server: &Server, resolver: SocketAddr, roots: &Path) {
    // Over the base URL, with a client outside of sandboxes, to measure the proxy alone.
    let _gateway = LoopbackAddress::add(*GATEWAY.ip());
    let secret = "sk-the-secret-of-the-bench".to_owned().into();
    let mut credential = Credential::known("OPENAI_API_KEY", secret).unwrap();
    EXTERNAL_NAME.clone_into(&mut credential.host);
    let authority = Arc::new(Authority::new().unwrap());
    let options = ProxyOptions {
        resolvers: vec![resolver],
        permitted: vec![format!("{EXTERNAL_ADDRESS}/32").parse().unwrap()],
        extra_roots: Some(roots.to_owned()),
        ..ProxyOptions::default()
    };
    let plan = Plan {
        // The addresses of the benchmark are not public, so they need a rule.
        policy: Policy::new(DefaultAction::Deny, &[EXTERNAL_NAME.to_owned()], &[]).unwrap(),
        credentials: Arc::new(Credentials::new(vec![credential], authority)),
    };
    let id: SandboxId = "bench".parse().unwrap();
    let proxy = EgressProxy::new(id, ProxyContext::new(&options).unwrap(), plan);
    let sockets = Sockets {
        connections: TcpListener::bind(GATEWAY).await.unwrap(),
        questions: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    };
    let serving = tokio::spawn(proxy.serve(sockets));
    let url = format!("http://{GATEWAY}/{EXTERNAL_NAME}/v1/models");
    let figure = load_on_machine(&format!("requests {url} 32 5"));
    row("requests with a secret, by the base URL, no sandbox", &per_second(figure));
    serving.abort();
    let direct = load_on_machine(&format!("requests http://{EXTERNAL_ADDRESS}/ 32 5"));
    row("  the same requests without TLS, to the server itself", &per_second(direct));

    let credential = json!({ "value": "sk-the-secret-of-the-bench", "host": EXTERNAL_NAME });
    let parameters = json!({
        "credentials": { "BENCH_KEY": credential }, "network": { "allow": [EXTERNAL_NAME] },
    });
    let run = server.create_with_program(parameters).await;
    for (what, url) in [("HTTPS", format!("https://{EXTERNAL_NAME}")), ("the base URL", gateway())]
    {
        let figure = server.load(&run, &format!("requests {url}/v1/models 32 5")).await;
        row(&format!("requests with a secret, over {what}, in a sandbox"), &per_second(figure));
    }
    server.destroy(&run).await;
    // Without secrets and names, to measure the sandbox itself.
    let run = server
        .create_with_program(json!({ "network": { "allow": [EXTERNAL_ADDRESS.to_string()] } }))
        .await;
    let figure = server.load(&run, &format!("requests http://{EXTERNAL_ADDRESS}/ 32 5")).await;
    row("  requests without a secret or names, in a sandbox", &per_second(figure));
    server.destroy(&run).await;
}

fn gateway() -> String {
    format!("http://{}/{EXTERNAL_NAME}", GATEWAY.ip())
}

/// Measures requests to a server in a sandbox, compared with nginx.
async fn urls(server: &Server) {
    let run = server.create_with_program(json!({ "network_profile": "locked-down" })).await;
    server.serve(&run, 8000).await;
    let program =
        std::env::var("ISORUN_BENCH_NGINX").expect("set ISORUN_BENCH_NGINX to the path of nginx");
    let nginx = Nginx::start(Path::new(&program), server.sandbox_pid(), 8000);
    let ours = format!("{}/sb/{run}/p/8000/", server.url);
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        mine.push(load_on_machine(&format!("requests {ours} 32 4")));
        theirs.push(nginx.load(&format!("requests {} 32 4", Nginx::URL)));
    }
    let (mine, theirs) = (median(mine), median(theirs));
    row("requests to a port, by nginx", &per_second(theirs));
    row("requests to a port, by its URL", &per_second(mine));
    row("  as a part of that", &percentage(mine, theirs));
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        mine.push(load_on_machine(&format!("fetch {ours}large/{}", BULK_BYTES / 2)));
        theirs.push(nginx.load(&format!("fetch {}large/{}", Nginx::URL, BULK_BYTES / 2)));
    }
    let (mine, theirs) = (median(mine), median(theirs));
    row("bytes of one answer, by nginx", &rate(theirs));
    row("bytes of one answer, by its URL", &rate(mine));
    row("  as a part of that", &percentage(mine, theirs));
    drop(nginx);
    server.destroy(&run).await;
}

/// Measures creating from the pool, with the proxy and on a machine without nft.
async fn create() {
    let without = tempfile::tempdir().unwrap();
    let find = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|directory| directory.join(program))
            .find(|path| path.is_file())
            .unwrap()
    };
    for program in ["ip", "sh"] {
        std::os::unix::fs::symlink(find(program), without.path().join(program)).unwrap();
    }
    let with = Server::start(&["--warm", "2"], None);
    let without_nft = Server::start(&["--warm", "2"], Some(without.path().to_str().unwrap()));
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..15 {
        for (server, samples) in [&with, &without_nft].into_iter().zip(&mut samples) {
            // The pool is refilled in less time.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            let start = Instant::now();
            let run = server.create(json!({ "network_profile": "locked-down" })).await;
            samples.push(start.elapsed().as_secs_f64() * 1e6);
            server.destroy(&run).await;
        }
    }
    let [with, without] = samples.map(median);
    row("create from the pool, no network to be had", &micros(without));
    row("create from the pool", &micros(with));
    row("  added", &micros(with - without));
}

/// Runs a program of the benchmark on the machine, and returns its result.
fn load_on_machine(words: &str) -> f64 {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.arg("--load").args(words.split(' '));
    let output = command.stderr(std::process::Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{words}");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn rate(bytes: f64) -> String {
    format!("{:.0} MB/s", bytes / 1e6)
}

fn micros(time: f64) -> String {
    if time.abs() < 1000.0 { format!("{time:.0} µs") } else { format!("{:.2} ms", time / 1e3) }
}

fn per_second(count: f64) -> String {
    format!("{count:.0} /s")
}

fn percentage(ours: f64, theirs: f64) -> String {
    format!("{:.0} %", 100.0 * ours / theirs)
}

fn row(name: &str, value: &str) {
    println!("{name:<58} {value}");
}
