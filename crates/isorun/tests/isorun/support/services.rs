//! Services outside of sandboxes, on an address of the loopback interface: a resolver that
//! returns it for every name, and a TLS service that requires a key, like the APIs of language
//! models.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State, WebSocketUpgrade, ws},
    http::{HeaderMap, Method},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{LoopbackAddress, Resolver, certificates::server_config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::server::Server;

/// The secret, which is never in a sandbox.
pub const SECRET: &str = "sk-the-real-one";
pub const PLACEHOLDER: &str = "sk-isorun-proxy-managed";

/// The services. They run in tasks of the test's runtime, and end with it.
pub struct ExternalServices {
    address: Ipv4Addr,
    resolver: SocketAddr,
    roots: PathBuf,
    /// The requests that the service has received.
    requests: RequestLog,
    _directory: TempDir,
    _loopback: LoopbackAddress,
}

/// The method and path of each request, and true if it contained the secret.
type RequestLog = Arc<Mutex<Vec<(String, bool)>>>;

impl ExternalServices {
    /// Starts the services. Tests that run at the same time need different numbers. The
    /// service's certificate is for these names.
    pub async fn start(number: u8, names: &[&str]) -> Self {
        let address = Ipv4Addr::new(198, 51, 100, 224 + number);
        let loopback = LoopbackAddress::add(address);
        let requests = RequestLog::default();
        let listener = TcpListener::bind((address, 443)).await.unwrap();
        let (tls, authority) = server_config(names);
        tokio::spawn(serve(listener, tls.into(), service(Arc::clone(&requests))));
        // A host whose certificate is not trusted.
        let listener = TcpListener::bind((address, 8443)).await.unwrap();
        let (untrusted, _) = server_config(names);
        tokio::spawn(serve(listener, untrusted.into(), service(Arc::clone(&requests))));
        // A host that accepts connections and sends nothing.
        let silent = TcpListener::bind((address, 9443)).await.unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = silent.accept().await {
                kept.push(stream);
            }
        });
        let resolver = Resolver::of_any_name(address).serve().await;
        let directory = tempfile::tempdir().unwrap();
        let roots = directory.path().join("roots.pem");
        std::fs::write(&roots, authority).unwrap();
        Self { address, resolver, roots, requests, _directory: directory, _loopback: loopback }
    }

    /// Returns the server options for these services.
    pub fn arguments(&self) -> Vec<String> {
        vec![
            "--resolver".into(),
            self.resolver.to_string(),
            "--permit-private".into(),
            format!("{}/32", self.address),
            "--credential-roots".into(),
            self.roots.to_str().unwrap().into(),
        ]
    }

    /// Starts a server that uses these services.
    pub fn server(&self, more: &[&str]) -> Server {
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Server::start_with(&[&arguments, more].concat())
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns the requests since the last call.
    pub fn take_requests(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, service: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), TowerToHyperService::new(service.clone()));
        tokio::spawn(async move {
            let mut stream = tls.accept(stream).await.ok()?;
            // A response that no server library would send.
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.ok()?;
            head.truncate(count);
            if head.starts_with(b"GET /split ") {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
                              content-length: 8\r\n\r\nsmuggled";
                stream.write_all(answer.as_bytes()).await.ok()?;
                return stream.read(&mut head).await.ok();
            }
            let (reader, writer) = tokio::io::split(stream);
            let stream = tokio::io::join(std::io::Cursor::new(head).chain(reader), writer);
            let builder = auto::Builder::new(TokioExecutor::new());
            let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            serving.await.ok().map(|()| 0)
        });
    }
}

/// Returns the service, which requires the key for every request.
fn service(requests: RequestLog) -> Router {
    Router::new()
        .route("/v1/chat/completions", any(completion))
        .route("/echo", any(echo))
        .route("/never", any(async || std::future::pending::<Infallible>().await.into_response()))
        .route("/ws", any(websocket))
        .fallback(async || Json(json!({ "real": true, "object": "list", "data": [] })))
        .layer(from_fn_with_state(requests, require_key))
}

async fn require_key(State(requests): State<RequestLog>, request: Request, next: Next) -> Response {
    let real = request.headers().get("authorization");
    let real = real.is_some_and(|value| value.as_bytes() == format!("Bearer {SECRET}").as_bytes());
    let what = format!("{} {}", request.method(), request.uri());
    requests.lock().unwrap().push((what, real));
    if !real {
        let error = json!({ "error": { "message": "no such key", "type": "invalid_api_key" } });
        return (axum::http::StatusCode::UNAUTHORIZED, Json(error)).into_response();
    }
    let mut answer = next.run(request).await;
    answer.headers_mut().insert("x-echo", SECRET.parse().unwrap());
    answer
}

/// Responds like a language model, with one body or with events.
async fn completion(Json(parameters): Json<Value>) -> Response {
    let words = ["The", " answer", " is", " 42."];
    let part = |delta: Value, finish: Option<&str>| {
        json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": parameters["model"], "choices": [
                { "index": 0, "delta": delta, "finish_reason": finish } ] })
    };
    if parameters["stream"] != true {
        return Json(json!({ "id": "chatcmpl-1", "object": "chat.completion", "created": 1,
            "model": parameters["model"],
            "choices": [{ "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": words.concat() } }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5 } }))
        .into_response();
    }
    let mut events: Vec<String> =
        words.map(|word| part(json!({ "content": word }), None).to_string()).to_vec();
    events.push(part(json!({}), Some("stop")).to_string());
    events.push("[DONE]".to_owned());
    // The time between the events is what clients measure, to see that they are not held back.
    let events = stream::iter(events).then(async |event| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, Infallible>(Bytes::from(format!("data: {event}\n\n")))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

/// Echoes the method and the header fields: in one piece, or byte by byte without a length if
/// the query is `pieces`.
async fn echo(method: Method, headers: HeaderMap, request: Request) -> Response {
    let pieces = request.uri().query() == Some("pieces");
    let mut text = format!("{method}\n");
    for (name, value) in &headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    if !pieces {
        return text.into_response();
    }
    let bytes: Vec<_> =
        text.bytes().map(|byte| Ok::<_, Infallible>(Bytes::from(vec![byte]))).collect();
    let bytes = stream::iter(bytes).then(async |byte| {
        tokio::task::yield_now().await;
        byte
    });
    Body::from_stream(bytes).into_response()
}

/// Echoes each text twice.
async fn websocket(socket: WebSocketUpgrade) -> Response {
    socket.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if let ws::Message::Text(text) = message {
                let twice = text.repeat(2);
                if socket.send(ws::Message::Text(twice.into())).await.is_err() {
                    return;
                }
            }
        }
    })
}
