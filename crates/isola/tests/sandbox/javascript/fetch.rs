//! Requests of the JavaScript guest, to a real server through `HttpClient`.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use isola::{Limits, Runtime, Sandbox, Value, args};
use serde_json::json;

use crate::{
    fixture::{events, results, started, started_with},
    server::{self, Request, Response, Server},
};

/// Returns the received request as JSON.
pub(super) async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers: serde_json::Map<_, _> = head
        .headers
        .keys()
        .map(|name| {
            let values = head.headers.get_all(name).iter();
            let text: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            (name.to_string(), json!(text.join(" | ")))
        })
        .collect();
    let received = json!({
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = server::complete_response(received.to_string());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

async fn loaded(server: &Server, source: &str) -> Sandbox {
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), server.host()).await;
    sandbox.load_script(source).await.unwrap();
    sandbox
}

async fn run(server: &Server, source: &str) -> Value {
    loaded(server, source).await.run("main", args![server.url("")]).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_body_is_sent() {
    let server = Server::http(echo).await;
    let sent = run(
        &server,
        "async function main(url) {
            const form = new FormData();
            form.append('a', 'b');
            const bodies = {
                string: 'grüße',
                ArrayBuffer: new Uint8Array([104, 105]).buffer,
                TypedArray: new Uint16Array([0x6968]),
                URLSearchParams: new URLSearchParams({ a: '1', b: 'two' }),
                object: { hello: 'world' },
                array: [1, 'two'],
                Blob: new Blob(['blob'], { type: 'text/x' }),
                nothing: undefined,
            };
            const sent = {};
            for (const kind in bodies) {
                const response = await fetch(url + '/' + kind, { method: 'POST', body: bodies[kind] });
                const { body, headers, path } = await response.json();
                sent[kind] = [path, body, headers['content-type'] ?? null, headers['content-length'] ?? null];
            }
            const { body, headers } = await (await fetch(url, { method: 'PUT', body: form })).json();
            const boundary = headers['content-type'].split('boundary=')[1];
            sent.FormData = body.replaceAll(boundary, 'BOUNDARY');
            return sent;
        }",
    )
    .await;
    assert_eq!(
        sent,
        json!({
            "string": ["/string", "grüße", "text/plain;charset=UTF-8", "7"],
            "ArrayBuffer": ["/ArrayBuffer", "hi", null, "2"],
            "TypedArray": ["/TypedArray", "hi", null, "2"],
            "URLSearchParams": ["/URLSearchParams", "a=1&b=two", "application/x-www-form-urlencoded;charset=UTF-8", "9"],
            "object": ["/object", "{\"hello\":\"world\"}", "application/json", "17"],
            "array": ["/array", "[1,\"two\"]", "application/json", "9"],
            "Blob": ["/Blob", "blob", "text/x", "4"],
            "nothing": ["/nothing", "", null, "0"],
            "FormData": "--BOUNDARY\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--BOUNDARY--\r\n",
        })
    );
}

#[tokio::test]
async fn response_has_status_headers_and_body() {
    let server = Server::raw(
        b"HTTP/1.1 418 Short and stout\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
    )
    .await;
    let seen = run(
        &server,
        "async function main(url) {
            const response = await fetch(url + '/pot');
            const copy = response.clone();
            return [
                response.status, response.ok, response.url === url + '/pot', response.redirected, response.type,
                response.headers.get('x-a'), response.headers.getSetCookie(), response.bodyUsed,
                await response.json(), response.bodyUsed, await copy.text(), copy.status, copy.url === response.url,
                await response.text().catch((error) => error.name),
            ];
        }",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            418, false, true, false, "basic", "1, 2", ["a=1; Path=/", "b=2"], false, {"a": 1}, true,
            "{\"a\":1}", 418, true, "TypeError"
        ])
    );
}

#[tokio::test]
async fn status_text_is_the_reason_phrase() {
    let server = Server::http(|request| async move {
        let mut response = server::complete_response("");
        *response.status_mut() = request.uri().path()[1..].parse().unwrap();
        response
    })
    .await;
    let seen = run(
        &server,
        "async function main(url) {
            const seen = [];
            for (const status of [200, 201, 204, 404, 503, 599]) {
                const { statusText, ok, body } = await fetch(`${url}/${status}`);
                seen.push([statusText, ok, body === null]);
            }
            return seen;
        }",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            ["OK", true, false],
            ["Created", true, false],
            ["No Content", true, true],
            ["Not Found", false, false],
            ["Service Unavailable", false, false],
            ["", false, false]
        ])
    );
}

#[tokio::test]
async fn repeated_headers_are_sent() {
    let server = Server::http(echo).await;
    let seen = run(
        &server,
        "async function main(url) {
            const headers = new Headers([['x-many', 'a'], ['x-many', 'b'], ['x-one', '1']]);
            headers.append('x-one', '2');
            const told = await (await fetch(url, { headers })).json();
            return [told.headers['x-many'], told.headers['x-one']];
        }",
    )
    .await;
    assert_eq!(seen, json!(["a, b", "1, 2"]));
}

#[tokio::test]
async fn response_to_head_has_no_body() {
    let server = Server::http(|_| async { server::complete_response("not sent") }).await;
    let seen = run(
        &server,
        "async function main(url) {
            const response = await fetch(url, { method: 'HEAD' });
            return [response.status, response.headers.get('content-length'), response.body, await response.text()];
        }",
    )
    .await;
    assert_eq!(seen, json!([200, "8", null, ""]));
}

#[tokio::test]
async fn response_body_is_streamed() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let server = Server::http(move |_| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        async move { server::streamed_response(receiver) }
    })
    .await;
    // Each piece is sent after the guest has reported the previous one.
    let sender = std::sync::Mutex::new(Some(sender));
    let host = server.host().hostcall("more", move |number: Value| {
        let mut guard = sender.lock().unwrap();
        let number: u32 = number.to().unwrap();
        if number == 3 {
            *guard = None;
        } else {
            guard.as_ref().unwrap().try_send(Bytes::from(format!("piece {number}"))).unwrap();
        }
        async { Ok(Value::null()) }
    });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    sandbox
        .load_script(
            "async function* main(url) {
                let number = 0;
                await hostcall('more', number++);
                const response = await fetch(url);
                const decoder = new TextDecoder();
                for await (const piece of response.body) {
                    yield decoder.decode(piece);
                    await hostcall('more', number++);
                }
                yield [response.bodyUsed, response.body.locked];
            }",
        )
        .await
        .unwrap();
    let all = events(sandbox.run_stream("main", args![server.url("/")]).unwrap()).await;
    let (pieces, end) = results(&all);
    assert_eq!(pieces, ["\"piece 0\"", "\"piece 1\"", "\"piece 2\"", "[true,false]"], "{all:?}");
    assert_eq!(end.as_deref(), Some("null"));
}

#[tokio::test]
async fn request_body_can_be_a_stream() {
    let server = Server::http(echo).await;
    let seen = run(
        &server,
        "async function main(url) {
            const encoder = new TextEncoder();
            async function* pieces() {
                for (const text of ['one ', '', 'two ', 'three']) {
                    await new Promise((resolve) => setTimeout(resolve, 1));
                    yield encoder.encode(text);
                }
            }
            const post = (body) => fetch(url, { method: 'POST', duplex: 'half', body }).then((r) => r.json());
            const first = await post(ReadableStream.from(pieces()));
            // The body of one response is the body of the next request.
            const response = await fetch(url, { method: 'POST', body: 'relayed' });
            const second = await post(response.body);
            const failing = await post(ReadableStream.from((async function* () {
                yield encoder.encode('half');
                throw new RangeError('no more');
            })())).catch((error) => `${error.name}: ${error.message}`);
            const wrong = await post(ReadableStream.from(['text'])).catch((error) => `${error.name}: ${error.message}`);
            return [first.body, first.headers['transfer-encoding'], JSON.parse(second.body).body, failing, wrong];
        }",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            "one two three",
            "chunked",
            "relayed",
            "RangeError: no more",
            "TypeError: the chunks of a body stream must be of type Uint8Array"
        ])
    );
}

#[tokio::test]
async fn response_before_the_end_of_the_request_is_accepted() {
    let server =
        Server::raw(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\ntoo").await;
    let seen = run(
        &server,
        "async function main(url) {
            let pieces = 0;
            const endless = new ReadableStream({
                async pull(controller) {
                    pieces++;
                    await new Promise((resolve) => setTimeout(resolve, 1));
                    controller.enqueue(new Uint8Array(1000));
                },
            });
            try {
                const response = await fetch(url, { method: 'POST', duplex: 'half', body: endless });
                return [response.status, await response.text()];
            } catch (error) {
                return [413, error.name === 'TypeError' ? 'too' : error.name];
            }
        }",
    )
    .await;
    assert_eq!(seen, json!([413, "too"]));
}

fn redirects(request: Request) -> Response {
    let (status, location) = match request.uri().path() {
        "/301" => (301, Some("/end?301")),
        "/303" => (303, Some("end?303")),
        "/307" => (307, Some("/end?307")),
        "/chain" => (302, Some("/301")),
        "/loop" => (302, Some("/loop")),
        "/nowhere" => (302, None),
        "/elsewhere" => (302, Some("http://elsewhere.test/")),
        "/wrong" => (302, Some("http://[")),
        _ => (200, None),
    };
    let mut response = server::complete_response(String::new());
    *response.status_mut() = ::http::StatusCode::from_u16(status).unwrap();
    if let Some(location) = location {
        response.headers_mut().insert("location", location.parse().unwrap());
    }
    response
}

#[tokio::test]
async fn redirects_are_followed_if_requested() {
    let server = Server::http(|request| async move {
        if request.uri().path() == "/end" { echo(request).await } else { redirects(request) }
    })
    .await;
    let seen = run(
        &server,
        "async function main(url) {
            const get = async (path, options) => {
                try {
                    const response = await fetch(url + path, options);
                    const seen = [response.status, response.redirected, response.url.replace(url, '')];
                    const text = await response.text();
                    if (text === '') return seen;
                    const { method, body, headers } = JSON.parse(text);
                    return [...seen, method, body, headers['content-type'] ?? null, headers.authorization ?? null];
                } catch (error) {
                    return `${error.name}: ${error.message}`.replaceAll(url, '');
                }
            };
            const post = { method: 'POST', body: 'text', headers: { authorization: 'secret' }, redirect: 'follow' };
            return [
                await get('/301'),
                await get('/301', { redirect: 'manual' }),
                await get('/301', { redirect: 'error' }),
                await get('/chain', { redirect: 'follow' }),
                await get('/301', post),
                await get('/303', post),
                await get('/307', post),
                await get('/loop', { redirect: 'follow' }),
                await get('/nowhere', { redirect: 'follow' }),
                await get('/elsewhere', { redirect: 'follow' }),
                await get('/wrong', { redirect: 'follow' }),
                await get('/307', { ...post, duplex: 'half', body: ReadableStream.from([new Uint8Array(1)]) }),
            ];
        }",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            [301, false, "/301"],
            [301, false, "/301"],
            "TypeError: fetch failed: the response is a redirect to /end?301",
            [200, true, "/end?301", "GET", "", null, null],
            [200, true, "/end?301", "GET", "", null, "secret"],
            [200, true, "/end?303", "GET", "", null, "secret"],
            [200, true, "/end?307", "POST", "text", "text/plain;charset=UTF-8", "secret"],
            "TypeError: fetch failed: more than 20 redirects",
            [302, false, "/nowhere"],
            "TypeError: fetch failed: requests to elsewhere.test are not allowed",
            "TypeError: fetch failed: the response redirects to http://[, which is not a URL",
            "TypeError: fetch failed: the response is a redirect, and a streamed body cannot be sent again",
        ])
    );
}

#[tokio::test]
async fn http_is_disabled_by_default() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox.load_script("const main = () => fetch('http://example.test/')").await.unwrap();
    let error = sandbox.run("main", args![]).await.unwrap_err().to_string();
    assert!(
        error.starts_with("TypeError: fetch failed: HTTP is disabled for this sandbox"),
        "{error}"
    );
}

#[tokio::test]
async fn failures_are_type_errors_with_the_reason() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").await;
    let seen = run(
        &server,
        "async function main(url) {
            const tell = (promise) => promise.then(() => 'no error', (error) => `${error.name}: ${error.message}`);
            const response = await fetch(url);
            return [
                (await tell(response.text())).split(':').slice(0, 2).join(':'),
                response.bodyUsed,
                await tell(fetch('http://elsewhere.test/')),
                await tell(fetch(url, { headers: { host: 'x' } })),
                await tell(fetch('nope')),
                await tell(fetch()),
                await tell(fetch(url, { body: 'x' })),
                await tell(fetch(url, { method: 'HEAD', body: { a: 1 } })),
            ];
        }",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            "TypeError: fetch failed",
            true,
            "TypeError: fetch failed: requests to elsewhere.test are not allowed",
            "TypeError: fetch failed: the header field host can be set only by the host",
            "TypeError: Request: nope is not an absolute URL",
            "TypeError: fetch: a URL or a Request is required",
            "TypeError: Request: a GET request cannot have a body",
            "TypeError: Request: a HEAD request cannot have a body",
        ])
    );
}

#[tokio::test]
async fn requests_work_with_patched_builtins() {
    let server = Server::http(echo).await;
    let sandbox = loaded(
        &server,
        "const { fetch: get } = globalThis;
        async function main(url) {
            const response = await get(url, { method: 'POST', body: { a: 1 }, redirect: 'follow' });
            return [response.status, (await response.text()).length > 0];
        }
        for (const Class of [Headers, Request, URL, URLSearchParams, AbortController, AbortSignal, EventTarget,
            ReadableStream, TextEncoder, TextDecoder, Blob, FormData, Promise, Array, String, RegExp, Map, Set, Uint8Array, ArrayBuffer]) {
            for (const name of Object.getOwnPropertyNames(Class.prototype)) {
                // A call awaits what its function returns, by `then`.
                if (name === 'constructor' || (Class === Promise && name === 'then')) continue;
                try { Object.defineProperty(Class.prototype, name, { get() { throw new Error(`patched ${name}`) } }) } catch {}
            }
        }
        for (const name of ['Headers', 'URL', 'AbortController', 'ReadableStream', 'TextEncoder', 'Promise']) delete globalThis[name];",
    )
    .await;
    let answer = sandbox.run("main", args![server.url("/")]).await;
    assert_eq!(answer.unwrap(), json!([200, true]));
}
