//! Outgoing HTTP, through the host's handler.

use std::sync::Arc;

use isola::{Error, Handlers, HostError, Limits, Runtime, args, http::Body};
use serde_json::json;
use test_macros::each_runtime;
use tokio::sync::Notify;

use crate::{
    fixture::{Script, events, results, started, started_with, wait_for},
    server::{Server, complete_response},
};

const GET: Script = Script {
    python: "
from sandbox.http import fetch
def main(url):
    with fetch('GET', url, headers={'x-test': 'a'}) as response:
        return [response.status, response.headers['x-answer'], response.text()]
",
    javascript: "
async function main(url) {
    const response = await fetch(url, {headers: {'x-test': 'a'}});
    return [response.status, response.headers.get('x-answer'), await response.text()];
}
",
};

#[each_runtime]
async fn handler_answers_requests(runtime: Runtime) {
    let host = Handlers::new().http(|request| async move {
        let seen = format!(
            "{} {} {}",
            request.method(),
            request.uri(),
            request.headers()["x-test"].to_str().unwrap()
        );
        Ok(::http::Response::builder()
            .status(201)
            .header("x-answer", "b")
            .body(Body::from(seen))
            .unwrap())
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(GET.of(runtime)).await.unwrap();
    let value = sandbox.run("main", args!["http://example.test/a?b=c"]).await.unwrap();
    assert_eq!(value, json!([201, "b", "GET http://example.test/a?b=c a"]));
}

#[each_runtime]
async fn json_body_is_sent_and_received(runtime: Runtime) {
    let host = Handlers::new().http(|request| async move {
        assert_eq!(request.headers()["content-type"], "application/json");
        let body = request.into_body().collect(1 << 20).await?;
        Ok(::http::Response::new(Body::from(body)))
    });
    let script = Script {
        python: "
from sandbox.http import fetch
async def main():
    async with fetch('POST', 'https://example.test/', body={'hello': ['world', 1]}) as response:
        return await response.ajson()
",
        javascript: "
async function main() {
    const response = await fetch('https://example.test/', {method: 'POST', body: {hello: ['world', 1]}});
    return await response.json();
}
",
    };
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let value = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(value, json!({"hello": ["world", 1]}));
}

#[each_runtime]
async fn http_is_disabled_by_default(runtime: Runtime) {
    let sandbox = started(runtime).await;
    sandbox.load_script(GET.of(runtime)).await.unwrap();
    let error = sandbox.run("main", args!["http://example.test/"]).await.unwrap_err();
    assert!(matches!(error, Error::Guest(_)), "{error}");
    if runtime == Runtime::Python {
        assert!(error.to_string().contains("HTTP is disabled for this sandbox"), "{error}");
    }
}

#[tokio::test]
async fn refusal_by_the_host_is_an_error_in_the_guest() {
    let host =
        Handlers::new().http(|_| async { Err(HostError::new("example.test is not allowed")) });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox.load_script(GET.python).await.unwrap();
    let error = sandbox.run("main", args!["http://example.test/"]).await.unwrap_err();
    assert!(error.to_string().contains("example.test is not allowed"), "{error}");
}

#[each_runtime]
async fn response_body_is_streamed(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
from sandbox.http import fetch
async def main():
    async with fetch('GET', 'http://example.test/') as response:
        async for piece in response.aiter_bytes():
            yield piece.decode()
            await hostcall('more', None)
",
        javascript: "
async function* main() {
    const response = await fetch('http://example.test/');
    const reader = response.body.getReader();
    for (let piece; !(piece = await reader.read()).done; ) {
        yield new TextDecoder().decode(piece.value);
        await hostcall('more', null);
    }
}
",
    };
    // The second piece is sent when the guest has reported the first.
    let (more, wait) = tokio::sync::mpsc::channel::<()>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    let host = Handlers::new()
        .hostcall("more", move |_| {
            let _ = more.try_send(());
            async { Ok(isola::Value::null()) }
        })
        .http(move |_| {
            let wait = Arc::clone(&wait);
            async move {
                let pieces = futures_util::stream::unfold(0, move |sent| {
                    let wait = Arc::clone(&wait);
                    async move {
                        if sent > 0 {
                            wait.lock().await.recv().await;
                        }
                        let piece = bytes::Bytes::from(format!("piece {sent}"));
                        (sent < 3).then_some((Ok(piece), sent + 1))
                    }
                });
                Ok(::http::Response::new(Body::from_stream(pieces)))
            }
        });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let stream = sandbox.run_stream("main", args![]).unwrap();
    let events = events(stream).await;
    let (pieces, end) = results(&events);
    assert_eq!(pieces, ["\"piece 0\"", "\"piece 1\"", "\"piece 2\""], "{events:?}");
    assert_eq!(end.as_deref(), Some("null"));
}

/// Creates a host that answers with these pieces.
fn pieces(pieces: &'static [&'static [u8]]) -> Handlers {
    Handlers::new().http(move |_| async move {
        let pieces = pieces.iter().map(|piece| Ok(bytes::Bytes::from_static(piece)));
        Ok(::http::Response::new(Body::from_stream(futures_util::stream::iter(pieces))))
    })
}

const LINES_AND_EVENTS: &str = "
from dataclasses import astuple
from sandbox.http import fetch
URL = 'http://example.test/'
def lines():
    with fetch('GET', URL) as response:
        yield from response.iter_lines()
async def alines():
    async with fetch('GET', URL) as response:
        async for line in response.aiter_lines():
            yield line
def events():
    with fetch('GET', URL) as response:
        for event in response.iter_sse():
            yield [event.id, event.event, event.data]
async def aevents():
    async with fetch('GET', URL) as response:
        async for event in response.aiter_sse():
            yield [event.id, event.event, event.data]
";

async fn streamed(body: &'static [&'static [u8]], function: &str) -> Vec<serde_json::Value> {
    let sandbox = started_with(Runtime::Python, Limits::default(), pieces(body)).await;
    sandbox.load_script(LINES_AND_EVENTS).await.unwrap();
    let all = events(sandbox.run_stream(function, args![]).unwrap()).await;
    let (items, end) = results(&all);
    assert_eq!(end.as_deref(), Some("null"), "{all:?}");
    items.iter().map(|item| serde_json::from_str(item).unwrap()).collect()
}

#[tokio::test]
async fn python_reads_lines() {
    let rows: [(&'static [&'static [u8]], serde_json::Value); 5] = [
        (&[b"one\ntwo\n", b"three"], json!(["one", "two", "three"])),
        (&[b"a\r", b"\nb\r\nc\rd"], json!(["a", "b", "c", "d"])),
        (&[b"\xc3", b"\xa9\n\n", b"x\n"], json!(["\u{e9}", "", "x"])),
        (&[b"\xff\n"], json!(["\u{fffd}"])),
        (&[], json!([])),
    ];
    for (body, expected) in rows {
        for function in ["lines", "alines"] {
            assert_eq!(json!(streamed(body, function).await), expected, "{function} {body:?}");
        }
    }
}

#[tokio::test]
async fn python_reads_server_sent_events() {
    let rows: [(&'static [&'static [u8]], serde_json::Value); 6] = [
        (&[b"data: a\n\n"], json!([["", "message", "a"]])),
        (
            &[b"\xef\xbb\xbfid: 1\nevent: add\ndata: a\ndata: b\n\ndata: c\n\n"],
            json!([["1", "add", "a\nb"], ["1", "message", "c"]]),
        ),
        (&[b": comment\ndata:x\ndata:  y\n", b"\n"], json!([["", "message", "x\n y"]])),
        (&[b"event: none\n\ndata\n\n"], json!([["", "message", ""]])),
        (
            &[b"id: a\0b\ndata: 1\r\r", b"\ndata: 2\r\n\r\n"],
            json!([["", "message", "1"], ["", "message", "2"]]),
        ),
        (&[b"data: complete\n\ndata: not\n"], json!([["", "message", "complete"]])),
    ];
    for (body, expected) in rows {
        for function in ["events", "aevents"] {
            assert_eq!(json!(streamed(body, function).await), expected, "{function} {body:?}");
        }
    }
}

#[tokio::test]
async fn python_sends_forms() {
    let host = Handlers::new().http(|request| async move {
        let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap().to_owned();
        let body = request.into_body().collect(1 << 20).await?;
        let text = String::from_utf8(body.to_vec()).unwrap();
        Ok(::http::Response::new(Body::from(text.replace(&boundary, "BOUNDARY"))))
    });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox
        .load_script(
            "
import io
from sandbox.http import fetch
def main():
    files = {
        'raw': b'1',
        'file': io.BytesIO(b'2'),
        'full': ('na\"me.txt', io.BytesIO(b'3'), 'text/plain'),
    }
    with fetch('POST', 'http://example.test/', files=files) as response:
        return response.text()
def both():
    fetch('POST', 'http://example.test/', files={}, body=b'')
def wrong():
    fetch('POST', 'http://example.test/', files={'a': 1})
",
        )
        .await
        .unwrap();
    let part = |name, file, kind, content| {
        format!(
            "--BOUNDARY\r\nContent-Disposition: form-data; name=\"{name}\"; \
             filename=\"{file}\"\r\nContent-Type: {kind}\r\n\r\n{content}\r\n"
        )
    };
    let expected = [
        part("raw", "raw", "application/octet-stream", "1"),
        part("file", "file", "application/octet-stream", "2"),
        part("full", "na%22me.txt", "text/plain", "3"),
        "--BOUNDARY--\r\n".to_owned(),
    ]
    .concat();
    let sent: String = sandbox.run("main", args![]).await.unwrap().to().unwrap();
    assert_eq!(sent, expected);
    let error = sandbox.run("both", args![]).await.unwrap_err().to_string();
    assert!(error.starts_with("ValueError: a request has either files or a body"), "{error}");
    let error = sandbox.run("wrong", args![]).await.unwrap_err().to_string();
    assert!(error.starts_with("TypeError: the file 'a' must be bytes"), "{error}");
}

#[tokio::test]
async fn python_blocks_while_other_tasks_have_requests() {
    // The slow request is answered after the quick one.
    let answered = Arc::new(Notify::new());
    let host = Handlers::new().http(move |request| {
        let answered = Arc::clone(&answered);
        async move {
            match request.uri().path() {
                "/slow" => answered.notified().await,
                _ => answered.notify_one(),
            }
            Ok(::http::Response::new(Body::from(request.uri().path().to_owned())))
        }
    });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox
        .load_script(
            "
import asyncio
from sandbox.http import fetch
async def get(path):
    async with fetch('GET', 'http://example.test' + path) as response:
        return await response.atext()
async def main():
    task = asyncio.create_task(get('/quick'))
    await asyncio.sleep(0)
    # Synchronous code within a running loop: it waits here, and the completion for
    # the task is not lost.
    with fetch('GET', 'http://example.test/slow') as response:
        first = response.text()
    return [first, await task]
",
        )
        .await
        .unwrap();
    let call = sandbox.run("main", args![]);
    let answers = wait_for("the answers of both requests", call).await.unwrap();
    assert_eq!(answers, json!(["/slow", "/quick"]));
}

#[each_runtime]
async fn handler_failure_is_an_error_in_the_guest(runtime: Runtime) {
    let host = Handlers::new().http(|request| async move {
        match request.uri().path() {
            "/panic" => panic!("a bug of the host"),
            "/half" => {
                let pieces =
                    [Ok(bytes::Bytes::from("half")), Err(HostError::new("the connection broke"))];
                Ok(::http::Response::builder()
                    .header("x-answer", "half")
                    .body(Body::from_stream(futures_util::stream::iter(pieces)))
                    .unwrap())
            }
            "/big-headers" => Ok(::http::Response::builder()
                .header("x-answer", "x".repeat(300 << 10))
                .body(Body::empty())
                .unwrap()),
            other => panic!("{other}"),
        }
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(GET.of(runtime)).await.unwrap();
    for (path, why) in [
        ("panic", "handler panicked"),
        ("half", "the connection broke"),
        ("big-headers", "headers exceed"),
    ] {
        let url = format!("http://example.test/{path}");
        let error = sandbox.run("main", args![url]).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[each_runtime]
async fn redirect_is_not_followed_by_the_host(runtime: Runtime) {
    let host = Handlers::new().http(|_| async {
        Ok(::http::Response::builder()
            .status(302)
            .header("location", "http://elsewhere.test/")
            .header("x-answer", "moved")
            .body(Body::empty())
            .unwrap())
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(GET.of(runtime)).await.unwrap();
    let moved = sandbox.run("main", args!["http://example.test/"]).await.unwrap();
    assert_eq!(moved, json!([302, "moved", ""]));
}

#[tokio::test]
async fn python_request_times_out() {
    let host = Handlers::new().http(|_| std::future::pending());
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox
        .load_script(
            "
from sandbox.http import fetch
def main():
    with fetch('GET', 'http://example.test/', timeout=0.05):
        pass
",
        )
        .await
        .unwrap();
    let error = sandbox.run("main", args![]).await.unwrap_err();
    assert!(error.to_string().contains("did not begin within 50ms"), "{error}");
}

#[tokio::test]
async fn aborted_fetch_drops_the_response_body() {
    let (sender, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let host = Handlers::new().http(move |_| {
        let sender = sender.clone();
        async move {
            let body = futures_util::stream::unfold((sender, true), |(sender, first)| async move {
                if !first {
                    sender.closed().await;
                }
                Some((Ok(bytes::Bytes::from("piece")), (sender, false)))
            });
            Ok(::http::Response::new(Body::from_stream(body)))
        }
    });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    sandbox
        .load_script(
            "
async function main() {
    const early = new AbortController();
    early.abort('stop');
    const names = [await fetch('http://a.test/', {signal: early.signal}).catch(e => e.name)];
    const late = new AbortController();
    const response = await fetch('http://a.test/', {signal: late.signal});
    setTimeout(() => late.abort(), 5);
    names.push(await response.text().catch(e => e.name));
    const slow = await fetch('http://a.test/', {signal: AbortSignal.timeout(5)});
    names.push(await slow.text().catch(e => e.name));
    return names;
}
",
        )
        .await
        .unwrap();
    let names = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(names, json!(["AbortError", "AbortError", "TimeoutError"]));
    // Every sender is dropped with its body.
    drop(sandbox);
    assert_eq!(wait_for("the end of all bodies", dropped.recv()).await, None::<()>);
}

#[cfg(feature = "client")]
#[each_runtime]
async fn http_client_reaches_a_real_server(runtime: Runtime) {
    let server = Server::http(|request| async move {
        let seen = format!("{} {}", request.method(), request.uri());
        let mut response = complete_response(seen);
        response.headers_mut().insert("x-answer", "real".parse().unwrap());
        response
    })
    .await;
    let sandbox = started_with(runtime, Limits::default(), server.host()).await;
    sandbox.load_script(GET.of(runtime)).await.unwrap();
    let value = sandbox.run("main", args![server.url("/path")]).await.unwrap();
    assert_eq!(value, json!([200, "real", "GET /path"]));
    let denied = sandbox.run("main", args!["http://127.0.0.1:1/"]).await.unwrap_err();
    if runtime == Runtime::Python {
        assert!(denied.to_string().contains("are not allowed"), "{denied}");
    }
}
