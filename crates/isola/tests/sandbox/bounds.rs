//! Extreme sizes, numbers and values: each causes an error that the guest can
//! catch, the host continues, and its memory use is bounded.

use bytes::Bytes;
use isola::{
    Handlers, HostError, Limits, Runtime, args,
    http::{Body, HeaderMap, HeaderName, HeaderValue, MAX_HEADER_FIELDS},
};
use serde_json::json;
use test_macros::each_runtime;

use crate::{
    fixture::{Script, started, started_with},
    server::Server,
};

/// A script that sends a request with `count` header fields with values of a length,
/// and returns the outcome.
const MANY_FIELDS: Script = Script {
    python: "
from sandbox.http import fetch
def main(count, length, same):
    value = 'v' * length
    headers = [('x' if same else f'x{i}', value) for i in range(count)]
    try:
        with fetch('GET', 'http://a.test/', headers=headers) as response:
            return [response.status]
    except Exception as error:
        return [type(error).__name__, str(error)]
",
    javascript: "
async function main(count, length, same) {
    const headers = new Headers();
    const value = 'v'.repeat(length);
    for (let i = 0; i < count; i++) headers.append(same ? 'x' : `x${i}`, value);
    try {
        return [(await fetch('http://a.test/', { headers })).status];
    } catch (error) {
        return [error.name, String(error.message)];
    }
}
",
};

fn host_with_field_count() -> Handlers {
    Handlers::new().http(|request| async move {
        let count = request.headers().len();
        Ok(::http::Response::builder().header("x-count", count).body(Body::empty()).unwrap())
    })
}

#[each_runtime]
async fn header_fields_of_a_request_are_limited(runtime: Runtime) {
    // Also with HTTP disabled: the request is checked first.
    for enabled in [false, true] {
        let sandbox = if enabled {
            started_with(runtime, Limits::default(), host_with_field_count()).await
        } else {
            started(runtime).await
        };
        sandbox.load_script(MANY_FIELDS.of(runtime)).await.unwrap();
        for (count, length, same) in [
            (MAX_HEADER_FIELDS + 50, 1, false),
            (24_577, 1, false),
            (30_000, 1, false),
            (33_000, 0, false),
            (300, 1_000, false),
            (1, 300 << 10, false),
            // Repeated fields are joined to one in JavaScript.
            (300, 1_000, true),
        ] {
            if runtime == Runtime::JavaScript && count > 5_000 {
                // Each `append` to its `Headers` takes linear time.
                continue;
            }
            let outcome = sandbox.run("main", args![count, length, same]).await;
            let outcome: Vec<serde_json::Value> = outcome.unwrap().to().unwrap();
            assert_eq!(outcome.len(), 2, "{count} {length}: {outcome:?}");
            if runtime == Runtime::Python {
                let why = outcome[1].as_str().unwrap();
                assert!(
                    why.contains("header fields") || why.contains("headers exceed"),
                    "{count} {length}: {why}"
                );
            }
        }
        let outcome = sandbox.run("main", args![900, 1, false]).await.unwrap();
        assert_eq!(outcome == json!([200]), enabled, "{outcome}");
    }
}

const STATUS_OR_ERROR: Script = Script {
    python: "
from sandbox.http import fetch
def main(url):
    try:
        with fetch('GET', url) as response:
            return response.status
    except Exception as error:
        return str(error)
",
    javascript: "
const main = (url) => fetch(url).then((response) => response.status, (error) => error.message);
",
};

#[each_runtime]
async fn header_fields_of_a_response_are_limited(runtime: Runtime) {
    let host = Handlers::new().http(|request| async move {
        let mut headers = HeaderMap::new();
        let count: usize = request.uri().path().trim_start_matches(['/', 's']).parse().unwrap();
        for number in 0..count {
            let name = if request.uri().path().starts_with("/s") { 0 } else { number };
            let name: HeaderName = format!("x{name}").parse().unwrap();
            headers.append(name, HeaderValue::from_static("v"));
        }
        let mut response = ::http::Response::new(Body::empty());
        *response.headers_mut() = headers;
        Ok(response)
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(STATUS_OR_ERROR.of(runtime)).await.unwrap();
    let fetch = async |path: &str| {
        let url = format!("http://a.test/{path}");
        sandbox.run("main", args![url]).await.unwrap().to::<serde_json::Value>().unwrap()
    };
    assert_eq!(fetch("1000").await, 200);
    for path in ["1001", "20000", "s1001", "s70000"] {
        let outcome = fetch(path).await;
        assert!(outcome.as_str().unwrap().contains("header fields"), "{outcome}");
    }
}

/// The server sends more fields than a map can hold.
#[tokio::test]
async fn header_fields_of_a_server_are_limited() {
    let mut answer = String::from("HTTP/1.1 200 OK\r\n");
    for number in 0..40_000 {
        answer += &format!("x{number}: v\r\n");
    }
    answer += "content-length: 0\r\n\r\n";
    let server = Server::raw(answer.leak().as_bytes()).await;
    let sandbox = started_with(Runtime::Python, Limits::default(), server.host()).await;
    sandbox.load_script(STATUS_OR_ERROR.python).await.unwrap();
    let outcome = sandbox.run("main", args![server.url("/")]).await.unwrap();
    assert!(outcome.as_str().contains("failed"), "{outcome}");
}

#[tokio::test]
async fn header_fields_from_pairs_are_limited() {
    let many = |count: usize| (0..count).map(|number| (format!("x{number}"), "v".to_owned()));
    assert_eq!(isola::http::header_map(many(1_000)).unwrap().len(), 1_000);
    for count in [1_001, 32_768, 100_000] {
        let error = isola::http::header_map(many(count)).unwrap_err();
        assert!(error.message().contains("more than 1000 header fields"), "{error}");
    }
}

/// A script that calls the host's functions directly, without the package, and in
/// any number.
const DIRECT_CALLS: &str = "
from componentize_py_types import Err
from wit_world.imports import host

def start(body):
    host.fetch(1, host.Request('PUT', 'http://a.test/', [], body, None))

def writes(count):
    '''Writes after the end of the request. Returns how many were accepted, and how
    many completions the host held for them.'''
    start(host.RequestBody_Pieces(None))
    accepted = 0
    for _ in range(count):
        try:
            host.write(1, b'x')
            accepted += 1
        except Err:
            pass
    held = len(host.completions())
    host.abandon(1)
    return [accepted, held]

def reads(count):
    '''Starts more reads of a response than it takes. Returns how many completions
    the host held, and the last outcome.'''
    start(host.RequestBody_None_())
    while not (head := host.wait(None)):
        pass
    for _ in range(count):
        host.read(1)
    held = host.completions()
    host.abandon(1)
    return [len(held), type(held[-1].outcome).__name__]

def finishes(count):
    start(host.RequestBody_Pieces(None))
    for _ in range(count):
        try:
            host.finish(1)
        except Err:
            pass
    held = len(host.completions())
    host.abandon(1)
    return held

def unknown_ids(count):
    '''Calls for requests that were never started or have ended.'''
    refused = 0
    for number in range(count):
        for call in (host.read, host.finish, lambda id: host.write(id, b'')):
            try:
                call(number + 10)
            except Err:
                refused += 1
        host.abandon(number + 10)
    return [refused, len(host.completions())]
";

#[tokio::test]
async fn commands_after_the_end_of_a_request_are_not_queued() {
    // The handler takes no body and fails at once; the guest receives the error later.
    let host = Handlers::new().http(|request| async move {
        drop(request);
        Err(HostError::new("no"))
    });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox.load_script(DIRECT_CALLS).await.unwrap();
    let outcome: (usize, usize) =
        sandbox.run("writes", args![200_000]).await.unwrap().to().unwrap();
    // The pieces that were not taken, and the failure itself.
    assert!(outcome.0 <= 16 && outcome.1 <= 17, "{outcome:?}");
    let held: usize = sandbox.run("finishes", args![200_000]).await.unwrap().to().unwrap();
    assert!(held <= 2, "{held}");
    let unknown_ids = sandbox.run("unknown_ids", args![20_000]).await.unwrap();
    assert_eq!(unknown_ids, json!([60_000, 0]));
}

#[tokio::test]
async fn chunks_that_are_not_taken_are_limited() {
    let host = Handlers::new().http(|_| async {
        let pieces = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(b"x")));
        Ok(::http::Response::new(Body::from_stream(pieces)))
    });
    let limits = Limits { max_held_memory: 64 << 10, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, host).await;
    sandbox.load_script(DIRECT_CALLS).await.unwrap();
    let (held, last): (usize, String) =
        sandbox.run("reads", args![300_000]).await.unwrap().to().unwrap();
    assert!(held <= 600, "{held} {last}");
}

#[each_runtime]
async fn errors_truncate_long_values(runtime: Runtime) {
    let script = Script {
        python: "
from componentize_py_types import Err
from sandbox.asyncio import hostcall
from wit_world.imports import host
async def main():
    odd = '\\x01' * 1_000_000
    errors = []
    try:
        await hostcall(odd, None)
    except Exception as error:
        errors.append(len(str(error)))
    for method, url in ((odd, 'http://a.test/'), ('GET', odd), ('GET', 'http://a.test/' + odd)):
        try:
            host.fetch(1, host.Request(method, url, [], host.RequestBody_None_(), None))
        except Err as refusal:
            errors.append(len(refusal.value))
    return errors
",
        javascript: "
async function main() {
    const odd = '\\x01'.repeat(1_000_000);
    try { await hostcall(odd, null); } catch (error) { return [String(error.message).length]; }
}
",
    };
    let sandbox = started(runtime).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let lengths: Vec<usize> = sandbox.run("main", args![]).await.unwrap().to().unwrap();
    let expected = if runtime == Runtime::Python { 4 } else { 1 };
    assert_eq!(lengths.len(), expected, "{lengths:?}");
    assert!(lengths.iter().all(|length| *length < 10_000), "{lengths:?}");
}

#[tokio::test]
async fn timeouts_of_any_length_are_accepted() {
    let host = Handlers::new()
        .hostcall("answer", |_| async { Ok(isola::Value::from(json!(1))) })
        .http(|_| async { Ok(::http::Response::new(Body::empty())) });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox
        .load_script(
            "
import asyncio
from sandbox.asyncio import hostcall
from sandbox.http import fetch
from wit_world.imports import host
async def main():
    done = []
    for seconds in (0, 1e-9, 1e9, 1e15, 1e300):
        try:
            async with asyncio.timeout(seconds or None):
                done.append(await hostcall('answer', None))
        except Exception as error:
            done.append(type(error).__name__)
        try:
            async with fetch('GET', 'http://a.test/', timeout=seconds or None) as response:
                done.append(response.status)
        except Exception as error:
            done.append(type(error).__name__)
    for nanos in (0, 1, 2**63, 2**64 - 1):
        body = host.RequestBody_None_()
        host.fetch(1, host.Request('GET', 'http://a.test/', [], body, nanos))
        # Until a completion arrives, or the time is over.
        done.append(len(host.wait(nanos)))
        host.abandon(1)
    return len(done)
",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(14));
}
