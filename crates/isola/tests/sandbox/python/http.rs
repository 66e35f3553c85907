//! `sandbox.http`, against real servers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use isola::{Handlers, Limits, Runtime, Sandbox, Value, args};
use serde_json::json;
use tokio::sync::{Barrier, Mutex, mpsc};

use crate::{
    fixture::{events, results, started, started_with},
    server::{Request, Response, Server, complete_response, streamed_response},
};

pub(super) async fn loaded(host: Handlers, script: &str) -> Sandbox {
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox.load_script(script).await.unwrap();
    sandbox
}

/// Returns the received request: method, path and query, fields, body.
pub(super) async fn mirror(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let fields: Vec<_> = head
        .headers
        .iter()
        .filter(|(name, _)| *name != "host" && *name != "accept")
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let seen =
        json!([head.method.as_str(), head.uri.to_string(), fields, String::from_utf8_lossy(&body)]);
    complete_response(seen.to_string())
}

#[tokio::test]
async fn request_is_sent_as_described() {
    let server = Server::http(mirror).await;
    let script = "
from sandbox.http import fetch
def pieces():
    yield b'one '
    yield bytearray(b'two ')
    yield b''
    yield memoryview(b'three')
def main(expression, url):
    with eval('fetch' + expression, globals(), {'url': url}) as response:
        return response.json()
async def amain(expression, url):
    async with eval('fetch' + expression, globals(), {'url': url}) as response:
        return await response.ajson()
";
    let sandbox = loaded(server.host(), script).await;
    for (expression, expected) in [
        ("('GET', url)", json!(["GET", "/a?b=1", [], ""])),
        ("('get', url + '#fragment')", json!(["GET", "/a?b=1", [], ""])),
        ("('HEAD', url, timeout=60)", json!(null)),
        (
            "('GET', url, params={'q': 'hello wörld', 'n': [1, 2], 'e': ''})",
            json!(["GET", "/a?b=1&q=hello+w%C3%B6rld&n=1&n=2&e=", [], ""]),
        ),
        (
            "('GET', url, headers={'X-One': 'a', 'x-two': ['b', 'c'], 'x-latin': 'é'})",
            json!([
                "GET",
                "/a?b=1",
                [["x-one", "a"], ["x-two", "b"], ["x-two", "c"], ["x-latin", "\u{fffd}"]],
                ""
            ]),
        ),
        (
            "('GET', url, headers=[('x-one', 'a'), ('x-one', 'b')])",
            json!(["GET", "/a?b=1", [["x-one", "a"], ["x-one", "b"]], ""]),
        ),
        ("('PUT', url, body=b'raw')", json!(["PUT", "/a?b=1", [["content-length", "3"]], "raw"])),
        ("('PUT', url, body=b'')", json!(["PUT", "/a?b=1", [["content-length", "0"]], ""])),
        (
            "('POST', url, body={'a': [1, None]})",
            json!([
                "POST",
                "/a?b=1",
                [["content-type", "application/json"], ["content-length", "16"]],
                "{\"a\": [1, null]}"
            ]),
        ),
        (
            "('POST', url, body='text', headers={'Content-Type': 'application/x-mine'})",
            json!([
                "POST",
                "/a?b=1",
                [["content-type", "application/x-mine"], ["content-length", "6"]],
                "\"text\""
            ]),
        ),
        (
            "('POST', url, body=pieces())",
            json!(["POST", "/a?b=1", [["transfer-encoding", "chunked"]], "one two three"]),
        ),
        (
            "('POST', url, body=pieces(), headers={'content-length': '13'})",
            json!(["POST", "/a?b=1", [["content-length", "13"]], "one two three"]),
        ),
        (
            "('POST', url, body=__import__('io').BytesIO(b'a file'))",
            json!(["POST", "/a?b=1", [["content-length", "6"]], "a file"]),
        ),
    ] {
        for function in ["main", "amain"] {
            let seen = sandbox.run(function, args![expression, server.url("/a?b=1")]).await;
            if expected.is_null() {
                // The response to a HEAD has no body to compare.
                let error = seen.unwrap_err().to_string();
                assert!(error.starts_with("JSONDecodeError"), "{function} {expression}: {error}");
                continue;
            }
            assert_eq!(seen.unwrap(), expected, "{function} {expression}");
        }
    }
}

#[tokio::test]
async fn invalid_requests_are_refused_with_the_reason() {
    let server = Server::http(mirror).await;
    let script = "
from sandbox.http import fetch
async def later():
    yield b''
def main(expression, url):
    with eval('fetch' + expression, globals(), {'url': url}):
        pass
";
    let sandbox = loaded(server.host(), script).await;
    for (expression, why) in [
        ("(5, url)", "TypeError: the method must be a str, not int"),
        ("('G T', url)", "RequestError: \"G T\" is not an HTTP method"),
        ("('GET', 'ftp://a.test/')", "RequestError: \"ftp://a.test/\" is not an absolute http"),
        ("('GET', url, timeout=0)", "ValueError: timeout must be positive, not 0"),
        ("('GET', url, timeout=float('nan'))", "ValueError: timeout must be positive, not nan"),
        ("('GET', url, headers={'a b': 'c'})", "RequestError: \"a b\" is not the name of a header"),
        ("('GET', url, headers={'a': 'b\\nc'})", "RequestError: the value of the header field a"),
        ("('GET', url, headers={'a': '\\u20ac'})", "RequestError: the value of the header field a"),
        (
            "('GET', url, headers={'a': None})",
            "TypeError: the header field a must be a str, not None",
        ),
        (
            "('GET', url, headers={1: 'b'})",
            "TypeError: the name of a header field must be a str, not",
        ),
        (
            "('GET', url, headers={'Host': 'b'})",
            "RequestError: the header field host can be set only by the host",
        ),
        ("('PUT', url, body=float('nan'))", "ValueError: the body cannot be sent as JSON: "),
        ("('PUT', url, body={1, 2})", "TypeError: the body cannot be sent as JSON: "),
        (
            "('PUT', url, body=iter(['text']))",
            "TypeError: the chunks of a body must be bytes, not str",
        ),
        ("('PUT', url, body=later())", "TypeError: an asynchronous body requires"),
        ("('PUT', url, body=b'', files={})", "ValueError: a request has either files or a body"),
        ("('PUT', url, files={'a': 5})", "TypeError: the file 'a' must be bytes, a file object or"),
        (
            "('PUT', url, files={'a': ('b', b'')})",
            "TypeError: the file 'a' must be (filename, file",
        ),
        (
            "('PUT', url, files={'a': ('b', b'', 'c\\r\\nd')})",
            "ValueError: the content type of 'a' contains a line break",
        ),
        (
            "('PUT', url, body=iter([b'abc']), headers={'content-length': '2'})",
            "RequestError: the request's body is longer than its announced length",
        ),
        (
            "('PUT', url, body=iter([b'abc']), headers={'content-length': '4'})",
            "RequestError: the request's body ended 1 bytes before its announced length",
        ),
        (
            "('PUT', url, body=iter([b'abc']), headers={'content-length': '-1'})",
            "ValueError: content-length must be one number of bytes below 2**63",
        ),
        (
            "('PUT', url, body=b'abc', headers={'content-length': str(2**64)})",
            "ValueError: content-length must be one number of bytes below 2**63",
        ),
        (
            "('PUT', url, body=b'abc', headers={'content-length': ['3', '4']})",
            "ValueError: content-length must be one number of bytes below 2**63",
        ),
        ("('GET', url).text()", "AttributeError: the request has no attribute text: send it with"),
        ("('GET', url).nope", "AttributeError: the request has no attribute nope"),
    ] {
        let error = sandbox.run("main", args![expression, server.url("/")]).await.unwrap_err();
        assert!(error.to_string().starts_with(why), "{expression}: {error}");
    }
}

#[tokio::test]
async fn request_can_be_sent_only_once() {
    let server = Server::http(mirror).await;
    let script = "
from sandbox.http import fetch
def main(url):
    request = fetch('GET', url)
    with request as response:
        first = response.status
    try:
        with request:
            pass
    except RuntimeError as error:
        return [first, str(error)]
";
    let sandbox = loaded(server.host(), script).await;
    let seen = sandbox.run("main", args![server.url("/")]).await.unwrap();
    assert_eq!(seen, json!([200, "a request is sent once; call fetch again"]));
}

#[tokio::test]
async fn response_is_read_by_every_method() {
    let server = Server::http(|_| async {
        let mut response = complete_response("{\"text\": \"h\u{e9}\"}\nlast");
        let headers = response.headers_mut();
        headers.append("set-cookie", "a=1, x".parse().unwrap());
        headers.append("set-cookie", "b=2".parse().unwrap());
        headers.append("X-Other", "c".parse().unwrap());
        headers.remove("date");
        response
    })
    .await;
    let script = "
from sandbox.http import fetch
BODY = '{\"text\": \"h\\u00e9\"}\\nlast'
def main(url):
    def get():
        return fetch('GET', url)
    with get() as r:
        assert r.status == 200
        assert r.headers['x-other'] == r.headers['X-Other'] == 'c'
        assert 'X-OTHER' in r.headers and 'nope' not in r.headers
        assert r.headers.get('Nope') is None and r.headers.get('nope', 1) == 1
        assert r.headers['set-cookie'] == 'a=1, x, b=2'
        assert r.headers.get_all('Set-Cookie') == ['a=1, x', 'b=2']
        assert ('set-cookie', 'b=2') in r.headers.multi_items()
        assert r.text() == BODY
        assert r.text() == '' and r.read() == b''
    with get() as r:
        assert r.read(3) == b'{\"t'
        assert r.read(0) == b''
        assert b''.join(r.iter_bytes()) == BODY.encode()[3:]
        assert r.read(5) == b''
    with get() as r:
        assert list(r.iter_lines()) == BODY.split('\\n')
    with get() as r:
        assert list(r.iter_sse()) == []
    with get() as r:
        try:
            r.json()
        except ValueError as error:
            assert 'Extra data' in str(error)
    with get() as r:
        r.close()
        r.close()
        assert r.read() == b''
    return 'fine'
async def amain(url):
    def get():
        return fetch('GET', url)
    async with get() as r:
        assert r.status == 200
        assert r.headers.get_all('Set-Cookie') == ['a=1, x', 'b=2']
        assert await r.atext() == BODY
        assert await r.aread() == b''
    async with get() as r:
        assert await r.aread(3) == b'{\"t'
        assert b''.join([piece async for piece in r.aiter_bytes()]) == BODY.encode()[3:]
    async with get() as r:
        assert [line async for line in r.aiter_lines()] == BODY.split('\\n')
    async with get() as r:
        assert [event async for event in r.aiter_sse()] == []
    async with get() as r:
        try:
            await r.ajson()
        except ValueError as error:
            assert 'Extra data' in str(error)
    async with get() as r:
        r.close()
        assert await r.aread() == b''
    return 'fine'
";
    let sandbox = loaded(server.host(), script).await;
    for function in ["main", "amain"] {
        let seen = sandbox.run(function, args![server.url("/")]).await.unwrap();
        assert_eq!(seen, json!("fine"), "{function}");
    }
}

/// Adds a hostcall that returns the next value sent to `next`.
pub(super) fn turns(host: Handlers, name: &str, next: mpsc::Receiver<Value>) -> Handlers {
    let next = Arc::new(Mutex::new(next));
    host.hostcall(name, move |_| {
        let next = Arc::clone(&next);
        async move {
            let turn = next.lock().await.recv().await;
            turn.ok_or_else(|| isola::HostError::new("the channel is closed"))
        }
    })
}

#[tokio::test]
async fn response_is_read_while_the_server_sends() {
    let script = "
from sandbox.asyncio import hostcall, run
from sandbox.http import fetch
def read_pieces(response):
    while piece := response.read(9):
        yield piece
def main(url, method):
    with fetch('GET', url) as response:
        for item in read_pieces(response) if method == 'read' else getattr(response, method)():
            yield str(getattr(item, 'data', item))
            run(hostcall('seen'))
async def amain(url, method):
    async with fetch('GET', url) as response:
        async for item in getattr(response, method)():
            yield str(getattr(item, 'data', item))
            await hostcall('seen')
";
    for (function, method, expected) in [
        ("main", "read", ["b'data: 0\\n\\n'", "b'data: 1\\n\\n'", "b'data: 2\\n\\n'"]),
        ("main", "iter_bytes", ["b'data: 0\\n\\n'", "b'data: 1\\n\\n'", "b'data: 2\\n\\n'"]),
        ("main", "iter_sse", ["0", "1", "2"]),
        ("amain", "aiter_bytes", ["b'data: 0\\n\\n'", "b'data: 1\\n\\n'", "b'data: 2\\n\\n'"]),
        ("amain", "aiter_sse", ["0", "1", "2"]),
    ] {
        let items = seen_one_by_one(script, function, method, "data: {}\n\n").await;
        assert_eq!(items, expected, "{method}");
    }
    for (function, method) in [("main", "iter_lines"), ("amain", "aiter_lines")] {
        let items = seen_one_by_one(script, function, method, "line {}\n").await;
        assert_eq!(items, ["line 0", "line 1", "line 2"], "{method}");
    }
}

/// Sends three pieces, each only after the guest has reported the previous one.
async fn seen_one_by_one(script: &str, function: &str, method: &str, piece: &str) -> Vec<String> {
    let (send, body) = mpsc::channel(1);
    let body = Arc::new(Mutex::new(Some(body)));
    let server = Server::http(move |_| {
        let body = Arc::clone(&body);
        async move { streamed_response(body.lock().await.take().unwrap()) }
    })
    .await;
    let (turn, next) = mpsc::channel(1);
    let sandbox = loaded(turns(server.host(), "seen", next), script).await;
    let call = sandbox.run_stream(function, args![server.url("/"), method]).unwrap();
    let piece = |number: usize| Bytes::from(piece.replace("{}", &number.to_string()));
    send.send(piece(0)).await.unwrap();
    let drive = async move {
        for number in 1..3 {
            // Received by the guest's hostcall, after it has received the piece.
            turn.send(Value::null()).await.unwrap();
            turn.reserve().await.unwrap();
            send.send(piece(number)).await.unwrap();
        }
        drop(send);
        turn.send(Value::null()).await.unwrap();
    };
    let (all, ()) = tokio::join!(events(call), drive);
    let (items, end) = results(&all);
    assert_eq!(end.as_deref(), Some("null"), "{all:?}");
    items.iter().map(|item| serde_json::from_str(item).unwrap()).collect()
}

#[tokio::test]
async fn ten_mebibytes_are_sent_and_received() {
    let server = Server::http(|request| async move {
        complete_response(request.into_body().collect().await.unwrap().to_bytes())
    })
    .await;
    let script = "
import hashlib
from sandbox.http import fetch
BLOCK = bytes(range(256)) * 4096
async def blocks():
    for _ in range(10):
        yield BLOCK
async def main(url, streamed):
    body = blocks() if streamed else BLOCK * 10
    async with fetch('PUT', url, body=body) as response:
        digest = hashlib.sha256()
        size = 0
        async for piece in response.aiter_bytes():
            digest.update(piece)
            size += len(piece)
    return [size, digest.hexdigest() == hashlib.sha256(BLOCK * 10).hexdigest()]
";
    let sandbox = loaded(server.host(), script).await;
    for streamed in [false, true] {
        let seen = sandbox.run("main", args![server.url("/"), streamed]).await.unwrap();
        assert_eq!(seen, json!([10 << 20, true]), "streamed: {streamed}");
    }
}

#[tokio::test]
async fn requests_run_concurrently() {
    // The server answers only after all requests have arrived.
    let all = Arc::new(Barrier::new(50));
    let server = Server::http(move |request| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            complete_response(request.uri().path().to_owned())
        }
    })
    .await;
    let script = "
import asyncio
from sandbox.http import fetch
async def get(url):
    async with fetch('GET', url) as response:
        return await response.atext()
async def main(url):
    return await asyncio.gather(*(get(f'{url}{number}') for number in range(50)))
";
    let sandbox = loaded(server.host(), script).await;
    let seen = sandbox.run("main", args![server.url("/")]).await.unwrap();
    let expected: Vec<_> = (0..50).map(|number| format!("/{number}")).collect();
    assert_eq!(seen, json!(expected));
}

#[tokio::test]
async fn response_that_is_left_early_is_closed() {
    let script = "
from sandbox.asyncio import hostcall, run
from sandbox.http import fetch
def main(url):
    with fetch('GET', url) as response:
        for piece in response.iter_bytes():
            break
    run(hostcall('closed'))
async def amain(url):
    async with fetch('GET', url) as response:
        async for piece in response.aiter_bytes():
            break
    await hostcall('closed')
def method(url):
    with fetch('GET', url) as response:
        response.read(1)
        response.close()
        run(hostcall('closed'))
def error(url):
    try:
        with fetch('GET', url) as response:
            raise KeyError
    except KeyError:
        run(hostcall('closed'))
";
    for function in ["main", "amain", "method", "error"] {
        let (closed, next) = mpsc::channel(1);
        let server = Server::http(move |_| {
            let closed = closed.clone();
            async move {
                let (send, body) = mpsc::channel(1);
                send.send(Bytes::from("first")).await.unwrap();
                tokio::spawn(async move {
                    // The body is dropped when the connection is closed.
                    send.closed().await;
                    closed.send(Value::null()).await.unwrap();
                });
                streamed_response(body)
            }
        })
        .await;
        let sandbox = loaded(turns(server.host(), "closed", next), script).await;
        sandbox.run(function, args![server.url("/")]).await.unwrap();
    }
}

#[tokio::test]
async fn invalid_response_is_a_request_error() {
    let script = "
from sandbox.http import RequestError, fetch
def main(url):
    assert issubclass(RequestError, OSError)
    try:
        with fetch('GET', url) as response:
            return [response.status, response.text()]
    except RequestError as error:
        return str(error)
async def amain(url):
    try:
        async with fetch('GET', url) as response:
            return [response.status, await response.atext()]
    except RequestError as error:
        return str(error)
";
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"[..], None),
        (b"", Some("failed")),
        (b"nonsense\r\n\r\n", Some("failed")),
        (b"HTTP/1.1 abc OK\r\n\r\n", Some("failed")),
        (b"HTTP/9.9 200 OK\r\n\r\n", Some("failed")),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Some("failed")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Some("failed")),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nearly end",
            Some("failed: the body is incomplete"),
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n",
            Some("failed: the body is incomplete"),
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nbad\r\n",
            Some("failed: the body is incomplete"),
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\nfine", None),
    ] {
        let server = Server::raw(answer).await;
        let sandbox = loaded(server.host(), script).await;
        for function in ["main", "amain"] {
            let seen = sandbox.run(function, args![server.url("/")]).await.unwrap();
            let expected = match expected {
                None => json!([200, "fine"]),
                Some(why) => json!(format!("the request to {} {why}", server.address)),
            };
            let answer = String::from_utf8_lossy(answer);
            assert_eq!(seen, expected, "{function} {answer:?}");
        }
    }
}

#[tokio::test]
async fn unreachable_or_silent_server_is_an_error() {
    let server = Server::http(|_| std::future::pending()).await;
    let script = "
from sandbox.http import fetch
def main(url, timeout=None):
    try:
        with fetch('GET', url, timeout=timeout):
            return 'answered'
    except OSError as error:
        return str(error)
async def amain(url, timeout=None):
    try:
        async with fetch('GET', url, timeout=timeout):
            return 'answered'
    except OSError as error:
        return str(error)
";
    let sandbox = loaded(server.host(), script).await;
    for function in ["main", "amain"] {
        let seen = sandbox.run(function, args![server.url("/"), 0.05]).await.unwrap();
        assert_eq!(seen, json!("the response did not begin within 50ms"), "{function}");
    }
    let (url, address) = (server.url("/"), server.address);
    let host = server.host();
    drop(server);
    let sandbox = loaded(host, script).await;
    let seen = sandbox.run("main", args![url]).await.unwrap();
    assert_eq!(seen, json!(format!("the request to {address} failed: cannot connect")));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Server::http(|request| async move {
        let mut response = complete_response(request.uri().path().to_owned());
        if request.uri().path() == "/old" {
            *response.status_mut() = hyper::StatusCode::FOUND;
            response.headers_mut().insert("location", "/new".parse().unwrap());
        }
        response
    })
    .await;
    let script = "
from urllib.parse import urljoin
from sandbox.http import fetch
def main(url):
    with fetch('GET', url) as response:
        if response.status == 302:
            return main(urljoin(url, response.headers['location']))
        return response.text()
";
    let sandbox = loaded(server.host(), script).await;
    assert_eq!(sandbox.run("main", args![server.url("/old")]).await.unwrap(), json!("/new"));
}

#[tokio::test]
async fn proxy_is_passed_to_the_host() {
    let host = Handlers::new().http(|request| async move {
        let proxy = request.headers()["x-isola-proxy"].to_str().unwrap().to_owned();
        Ok(::http::Response::new(isola::http::Body::from(proxy)))
    });
    let script = "
from sandbox.http import fetch
def main():
    with fetch('GET', 'http://a.test/', proxy='http://proxy.test:3128') as response:
        return response.text()
";
    let sandbox = loaded(host, script).await;
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("http://proxy.test:3128"));
    // `HttpClient` does not forward it.
    let server = Server::http(mirror).await;
    let sandbox = loaded(server.host(), script).await;
    sandbox
        .load_script(format!(
            "def main():\n    with fetch('GET', '{}', proxy='p') as response:\n        return response.json()",
            server.url("/")
        ))
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(["GET", "/", [], ""]));
}

#[tokio::test]
async fn disabled_http_is_a_request_error() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
from sandbox.http import RequestError, fetch
def main(upload):
    try:
        with fetch('PUT', 'http://a.test/', body=iter([b'a', b'b']) if upload else None):
            pass
    except RequestError as error:
        return str(error)
async def amain(upload):
    try:
        async with fetch('PUT', 'http://a.test/', body=iter([b'a']) if upload else None):
            pass
    except RequestError as error:
        return str(error)
",
        )
        .await
        .unwrap();
    for function in ["main", "amain"] {
        for upload in [false, true] {
            let seen = sandbox.run(function, args![upload]).await.unwrap();
            assert_eq!(seen, json!("HTTP is disabled for this sandbox"), "{function} {upload}");
        }
    }
}
