//! HTTP clients of the library and of popular packages use the host's HTTP, with their
//! own redirects, encodings and exceptions. `clients.py` runs in the sandbox.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use isola::{Handlers, HostError, Mount, Runtime, Sandbox, Template, Value, args};
use serde_json::json;
use tokio::sync::{Barrier, Mutex, mpsc};

use super::{
    http::{mirror, turns},
    packages::site_packages,
};
use crate::{
    fixture::{events, results},
    server::{Request, Response, Server, complete_response, streamed_response},
};

const CLIENTS: [&str; 6] = ["urllib", "http.client", "urllib3", "requests", "httpx", "httpx async"];

/// `zipped`, compressed by gzip.
const ZIPPED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0xab, 0xca, 0x2c, 0x28, 0x48, 0x4d,
    0x01, 0x00, 0x57, 0x68, 0xc2, 0xe2, 0x06, 0x00, 0x00, 0x00,
];

async fn answer(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let secured = request.headers().contains_key("authorization");
    let mut response = match path.as_str() {
        "/gzip" => complete_response(ZIPPED),
        "/chunked" => {
            let (send, pieces) = mpsc::channel(3);
            for _ in 0..3 {
                send.try_send(Bytes::from_static(b"piece")).unwrap();
            }
            streamed_response(pieces)
        }
        "/large" => complete_response(vec![0_u8; 1 << 20]),
        "/never" => std::future::pending().await,
        // The body never ends.
        "/stalled" => {
            let (send, pieces) = mpsc::channel(1);
            send.try_send(Bytes::from_static(b"piece")).unwrap();
            tokio::spawn(async move {
                send.closed().await;
            });
            streamed_response(pieces)
        }
        "/mirror" => mirror(request).await,
        _ => complete_response(""),
    };
    let (status, fields): (u16, &[(&str, &str)]) = match path.as_str() {
        "/mirror" => (200, &[("set-cookie", "a=1"), ("set-cookie", "b=2")]),
        "/gzip" => (200, &[("content-encoding", "gzip")]),
        "/empty" => (204, &[]),
        "/missing" => (404, &[]),
        "/redirect" => (302, &[("location", "/mirror")]),
        "/away" => (302, &[("location", "http://elsewhere.test/")]),
        "/secured" if !secured => (401, &[("www-authenticate", "Basic realm=\"x\"")]),
        _ => (200, &[]),
    };
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

async fn loaded(host: Handlers) -> Sandbox {
    let template = Template::builder(Runtime::Python)
        .mount(Mount::new(site_packages(), "/packages"))
        .env("PYTHONPATH", "/packages")
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().host(host).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(include_str!("clients.py")).await.unwrap();
    sandbox
}

#[tokio::test]
async fn clients_send_and_receive() {
    let server = Server::http(answer).await;
    let sandbox = loaded(server.host()).await;
    for client in CLIENTS {
        let checks = sandbox.run("main", args![client, server.url("")]).await;
        assert_eq!(
            checks.unwrap_or_else(|error| panic!("{client}: {error}")),
            json!(6),
            "{client}"
        );
    }
    let seen = sandbox.run("cookies", args![server.url("")]).await.unwrap();
    let both = "a=1; b=2";
    assert_eq!(seen, json!([both, both, both, [200, 200, 200, 401]]));
    let seen = sandbox.run("forms", args![server.url("")]).await.unwrap();
    assert_eq!(seen, json!([true, true]));
    // More than can be open at once.
    let seen = sandbox.run("unread", args![server.url(""), 100]).await.unwrap();
    assert_eq!(seen, json!(200));
}

/// Checks the type and text of the errors of all clients, in the order of `CLIENTS`.
async fn check_failures(
    sandbox: &Sandbox,
    url: &str,
    timeout: Option<f64>,
    expected: [(&str, &str); 6],
) {
    for (client, (kind, text)) in CLIENTS.into_iter().zip(expected) {
        let seen = sandbox.run("failure", args![client, url, timeout]).await.unwrap();
        let (kinds, message): (Vec<String>, String) = seen.to().unwrap();
        assert!(kinds.iter().any(|known| known == kind), "{client} {url}: {kinds:?} {message}");
        assert!(message.contains(text), "{client} {url}: {message}");
    }
}

#[tokio::test]
async fn refusals_have_the_exceptions_of_each_client() {
    let server = Server::http(answer).await;
    let sandbox = loaded(server.host()).await;
    let refused = |why| {
        [
            ("urllib.error.URLError", why),
            ("builtins.ConnectionError", why),
            ("urllib3.exceptions.HTTPError", why),
            ("requests.exceptions.ConnectionError", why),
            ("httpx.ConnectError", why),
            ("httpx.ConnectError", why),
        ]
    };
    let why = refused("requests to elsewhere.test are not allowed");
    check_failures(&sandbox, "http://elsewhere.test/", None, why).await;
    check_failures(&sandbox, "https://elsewhere.test/", None, why).await;
    // Each hop of a redirect is checked.
    check_failures(&sandbox, &server.url("/away"), None, why).await;
    let sandbox = loaded(Handlers::new()).await;
    let why = refused("HTTP is disabled for this sandbox");
    check_failures(&sandbox, "https://a.test/", None, why).await;
    // A host that decides later.
    let host = Handlers::new().http(|_| async { Err(HostError::new("not today")) });
    let sandbox = loaded(host).await;
    check_failures(&sandbox, "http://a.test/", None, refused("not today")).await;
}

#[tokio::test]
async fn time_limits_have_the_exceptions_of_each_client() {
    let server = Server::http(answer).await;
    let sandbox = loaded(server.host()).await;
    let expected = [
        ("builtins.TimeoutError", "timed out"),
        ("builtins.TimeoutError", "timed out"),
        ("urllib3.exceptions.HTTPError", "timed out"),
        ("requests.exceptions.ReadTimeout", "timed out"),
        ("httpx.ReadTimeout", ""),
        ("httpx.ReadTimeout", ""),
    ];
    check_failures(&sandbox, &server.url("/never"), Some(0.05), expected).await;
    let mut expected = expected;
    // As of requests elsewhere, for a body that stops.
    expected[3].0 = "requests.exceptions.ConnectionError";
    check_failures(&sandbox, &server.url("/stalled"), Some(0.05), expected).await;
    assert_eq!(sandbox.run("cancelled", args![server.url("")]).await.unwrap(), json!(200));
}

#[tokio::test]
async fn incomplete_bodies_are_errors() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort").await;
    let sandbox = loaded(server.host()).await;
    let why = "the body is incomplete";
    let expected = [
        ("builtins.ConnectionError", why),
        ("builtins.ConnectionError", why),
        ("urllib3.exceptions.HTTPError", why),
        ("requests.exceptions.ChunkedEncodingError", why),
        ("httpx.ReadError", why),
        ("httpx.ReadError", why),
    ];
    check_failures(&sandbox, &server.url("/"), None, expected).await;
}

#[tokio::test]
async fn what_the_host_cannot_send_is_refused_with_the_reason() {
    let server = Server::http(answer).await;
    let sandbox = loaded(server.host()).await;
    for (name, value, why) in [
        ("host", "elsewhere.test", "the field Host is 'elsewhere.test', but the request goes to"),
        ("upgrade", "websocket", "a sandbox speaks only HTTP"),
    ] {
        for client in CLIENTS {
            let fields = json!([[name, value]]);
            let args = args![client, server.url("/"), None::<f64>, fields];
            let seen = sandbox.run("failure", args).await.unwrap();
            let (_, message): (Vec<String>, String) = seen.to().unwrap();
            assert!(message.contains(why), "{client}: {message}");
        }
    }
    // A new one: `urllib` reads the variables before its first request.
    let sandbox = loaded(server.host()).await;
    let script = format!(
        "
def proxied():
    import os
    os.environ['HTTP_PROXY'] = os.environ['http_proxy'] = 'http://proxy.test:3128'
    return [failure(client, '{}')[1] for client in ('urllib', 'requests')]
",
        server.url("/")
    );
    sandbox.load_script(script).await.unwrap();
    let seen: Vec<String> = sandbox.run("proxied", args![]).await.unwrap().to().unwrap();
    for message in seen {
        assert!(message.contains("a sandbox sends no requests to proxies"), "{message}");
    }
}

#[tokio::test]
async fn responses_are_read_while_the_server_sends() {
    for client in ["urllib", "requests", "httpx", "httpx async"] {
        let (send, body) = mpsc::channel(1);
        let body = Arc::new(Mutex::new(Some(body)));
        let server = Server::http(move |_| {
            let body = Arc::clone(&body);
            async move { streamed_response(body.lock().await.take().unwrap()) }
        })
        .await;
        let (turn, next) = mpsc::channel(1);
        let sandbox = loaded(turns(server.host(), "seen", next)).await;
        let script = "
from sandbox.asyncio import hostcall, run
def lines(client, url):
    if client == 'httpx async':
        return lines_async(url)
    return (line for line in pieces(client, url) if run(hostcall('seen')) is None)
async def lines_async(url):
    async for line in pieces_async(url):
        await hostcall('seen')
        yield line
";
        sandbox.load_script(script).await.unwrap();
        let call = sandbox.run_stream("lines", args![client, server.url("/")]).unwrap();
        // `requests` finds the end of a line only with the next one.
        send.send(Bytes::from_static(b"line 0\nline 1\n")).await.unwrap();
        let drive = async move {
            for number in 1..4 {
                turn.send(Value::null()).await.unwrap();
                turn.reserve().await.unwrap();
                if number < 3 {
                    let line = format!("line {}\n", number + 1);
                    send.send(Bytes::from(line)).await.unwrap();
                }
            }
            drop(send);
            turn.send(Value::null()).await.unwrap();
        };
        let both = async { tokio::join!(events(call), drive) };
        let (all, ()) = tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .unwrap_or_else(|_| panic!("{client}: no line arrives before the end"));
        let (items, _) = results(&all);
        assert_eq!(items.join(" "), r#""line 0" "line 1" "line 2" "line 3""#, "{client}: {all:?}");
    }
}

#[tokio::test]
async fn asynchronous_requests_run_concurrently() {
    let all = Arc::new(Barrier::new(20));
    let server = Server::http(move |request| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            complete_response(request.uri().path().to_owned())
        }
    })
    .await;
    let sandbox = loaded(server.host()).await;
    let seen = sandbox.run("concurrent", args![server.url(""), 20]).await.unwrap();
    let expected: Vec<_> = (0..20).map(|number| format!("/{number}")).collect();
    assert_eq!(seen, json!(expected));
}

#[tokio::test]
async fn https_is_the_hosts() {
    // The guest's request is one for HTTPS; certificates are a matter of the host.
    let host = Handlers::new().http(|request| async move {
        let url = request.uri().to_string();
        Ok(::http::Response::new(isola::http::Body::from(url)))
    });
    let sandbox = loaded(host).await;
    let script = "
def secure(client):
    return send(client, 'GET', 'https://a.test/b?c=d').body.decode()
";
    sandbox.load_script(script).await.unwrap();
    for client in CLIENTS {
        let seen = sandbox.run("secure", args![client]).await.unwrap();
        assert_eq!(seen, json!("https://a.test/b?c=d"), "{client}");
    }
}
