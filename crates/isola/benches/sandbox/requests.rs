//! A small HTTP request to a server on loopback, by a guest and by its host.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isola::{
    Handlers, HttpClient, Runtime, args,
    http::{Body, Request},
};

use crate::{
    table::{Column, Table},
    template,
};

const FETCH: &str = "small fetch from a server on loopback";
const RATIO: &str = "small fetch, as a multiple of the host's own";

/// The number of rounds. Guest and host alternate, so that both are measured under the
/// same load.
const ROUNDS: usize = 15;
/// The number of requests in each round.
const REQUESTS: u32 = 100;

const PYTHON: &str = "
from sandbox.http import fetch
async def main(url, count):
    for _ in range(count):
        async with fetch('GET', url) as response:
            assert await response.aread() == b'fine'
";
const JAVASCRIPT: &str = "
async function main(url, count) {
    for (let i = 0; i < count; i++) {
        const response = await fetch(url);
        if (await response.text() !== 'fine') throw new Error();
    }
}
";

pub(crate) fn measure(table: &mut Table) {
    if !table.wants(FETCH) && !table.wants(RATIO) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (column, guest, script) in [
        (Column::Python, Runtime::Python, PYTHON),
        (Column::JavaScript, Runtime::JavaScript, JAVASCRIPT),
    ] {
        let (guest, host) = runtime.block_on(compare(guest, script));
        table.duration(FETCH, column, guest, None);
        let ratio = guest.as_secs_f64() / host.as_secs_f64();
        table.ratio(RATIO, column, ratio, Some(2.0));
    }
}

/// Returns the median durations of a request by the guest, and by the host.
async fn compare(guest: Runtime, script: &str) -> (Duration, Duration) {
    let url = format!("http://{}/", serve());
    let client = HttpClient::allow_all().unwrap();
    let host = {
        let client = client.clone();
        Handlers::new().http(move |request| {
            let client = client.clone();
            async move { client.send(request).await }
        })
    };
    let sandbox = template(guest).await.sandbox().host(host).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    sandbox.run("main", args![url, 1]).await.unwrap();
    let (mut by_guest, mut by_host) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        sandbox.run("main", args![url, REQUESTS]).await.unwrap();
        by_guest.push(start.elapsed() / REQUESTS);
        let start = Instant::now();
        for _ in 0..REQUESTS {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = url.parse().unwrap();
            let response = client.send(request).await.unwrap();
            assert_eq!(response.into_body().collect(4).await.unwrap(), "fine");
        }
        by_host.push(start.elapsed() / REQUESTS);
    }
    by_guest.sort();
    by_host.sort();
    (by_guest[ROUNDS / 2], by_host[ROUNDS / 2])
}

/// Starts a server in a thread of its own.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|_| async {
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from("fine"))))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    address
}
