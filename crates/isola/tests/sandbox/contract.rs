//! Guests that call the contract's functions directly, with invalid arguments.

use std::sync::Arc;

use isola::{Error, Handlers, Limits, Runtime, args};
use test_macros::each_runtime;
use tokio::sync::Barrier;

use crate::fixture::{Script, loaded, started_with, wait_for};

const PRELUDE: &str = "
from wit_world.imports import host
def fetch(method, url, body=host.RequestBody_None_()):
    host.fetch(1, host.Request(method, url, [], body, None))
def pieces(length=None):
    fetch('PUT', 'http://a.test/', host.RequestBody_Pieces(length))
";

/// Returns the outcome of a call whose body is `what`. The call may end its sandbox,
/// but does not affect the host.
async fn outcome(what: &str) -> Result<isola::Value, Error> {
    let host = Handlers::new()
        .hostcall("echo", |payload| async move { Ok(payload) })
        // Never reads the request's body.
        .http(|request| async move {
            std::future::pending::<()>().await;
            drop(request);
            Err(isola::HostError::new("unreachable"))
        });
    let limits = Limits {
        cpu_timeout: Some(std::time::Duration::from_secs(2)),
        max_value_size: 1 << 20,
        ..Limits::default()
    };
    let sandbox = started_with(Runtime::Python, limits, host).await;
    let source = format!("{PRELUDE}def main():\n    {what}\n    return 'fine'\n");
    sandbox.load_script(source).await.unwrap();
    sandbox.run("main", args![]).await
}

#[tokio::test]
async fn invalid_arguments_fail_only_the_call() {
    for (what, code) in [
        ("host.emit('{')", "crash"),
        ("host.emit('1 2')", "crash"),
        ("host.emit('')", "crash"),
        ("host.emit('NaN')", "crash"),
        ("host.emit('\"' + 'x' * (2 << 20) + '\"')", "value_size_limit"),
        ("host.hostcall(1, 'echo', 'not json')", "crash"),
        ("host.hostcall(1, 'echo', '1' * (2 << 20))", "value_size_limit"),
        ("host.stdout('x' * (20 << 20))", "output_limit"),
        ("host.stdout('x' * (80 << 20))", "value_size_limit"),
        ("host.read(99)", "guest_exception"),
        ("host.write(99, b'x')", "guest_exception"),
        ("host.finish(99)", "guest_exception"),
        ("fetch('G T', 'http://a.test/')", "guest_exception"),
        ("fetch('GET', 'file:///etc/passwd')", "guest_exception"),
        ("host.fetch(1, host.Request('GET', 'http://a.test/', [], None, None))", "crash"),
        ("fetch('PUT', 'http://a.test/'); host.write(1, b'x')", "guest_exception"),
        (
            "pieces(); host.write(1, b'x'); host.write(1, b'y'); host.write(1, b'z')",
            "guest_exception",
        ),
        ("pieces(); host.write(1, b'x'); host.finish(1); host.finish(1)", "guest_exception"),
        ("pieces(); host.write(1, b'x' * (64 << 20) + b'y')", "guest_exception"),
        ("pieces(); host.write(1, b'x' * (80 << 20))", "value_size_limit"),
        ("__import__('os')._exit(3)", "crash"),
        ("__import__('os').abort()", "crash"),
    ] {
        let error = outcome(what).await.unwrap_err();
        assert_eq!(error.code(), code, "{what}: {error}");
    }
}

#[tokio::test]
async fn unusual_arguments_are_accepted() {
    for what in [
        "host.emit('[1, 2]')",
        "host.stdout('')",
        "host.log(host.Level.DEBUG, '\\0')",
        "host.abandon(99)",
        "host.wait(None)",
        "host.wait(1)",
        "host.completions()",
        "host.wake_next_timer(); host.wake_next_timer()",
        "host.abandon(1); host.abandon(1)",
        "host.hostcall(2**64 - 1, '', '1'); host.abandon(2**64 - 1)",
        "pieces(); host.write(1, b''); host.write(1, b''); host.abandon(1)",
        "pieces(2**64 - 1); host.write(1, b'x'); host.finish(1); host.abandon(1)",
        "pieces(); host.finish(1); host.read(1)",
        "[host.hostcall(i, 'echo', '1') for i in range(9)]; host.wait(None); host.wait(1000)",
    ] {
        let value = outcome(what).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(value.as_str(), "\"fine\"", "{what}");
    }
}

#[tokio::test]
async fn hostcall_number_in_use_is_refused() {
    let twice = "host.hostcall(1, 'echo', '1'); host.hostcall(1, 'echo', '1')";
    let error = outcome(twice).await.unwrap_err();
    assert_eq!(error.code(), "guest_exception", "{error}");
    assert_eq!(outcome("host.hostcall(1, 'echo', '1')").await.unwrap().as_str(), "\"fine\"");
}

#[each_runtime]
async fn lone_surrogates_are_passed_as_escapes(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    return ['\\ud800', '\\ude00x']\n",
        javascript: "function main() { return ['\\ud800', '\\ude00x'] }",
    };
    let value = loaded(runtime, script).await.run("main", args![]).await.unwrap();
    assert_eq!(value.as_str().to_lowercase(), r#"["\ud800","\ude00x"]"#);
    // A Rust string cannot represent it: an error.
    assert!(value.to::<Vec<String>>().is_err());
}

#[each_runtime]
async fn concurrent_requests_are_limited(runtime: Runtime) {
    // Requests are answered when as many are pending as the limit permits.
    let pending = Arc::new(Barrier::new(3));
    let host = Handlers::new().http(move |_| {
        let pending = Arc::clone(&pending);
        async move {
            pending.wait().await;
            Ok(::http::Response::new(isola::http::Body::from("answer")))
        }
    });
    let script = Script {
        python: "
import asyncio
from sandbox.http import fetch
async def get():
    async with fetch('GET', 'http://example.test/') as response:
        return await response.atext()
async def main():
    all = await asyncio.gather(*(get() for _ in range(5)), return_exceptions=True)
    return [str(one) for one in all]
",
        javascript: "
async function main() {
    const all = await Promise.allSettled([1, 2, 3, 4, 5].map(async () => {
        return (await fetch('http://example.test/')).text();
    }));
    return all.map(one => one.value ?? one.reason.message.replace('fetch failed: ', ''));
}
",
    };
    let limits = Limits { max_requests: 3, ..Limits::default() };
    let sandbox = started_with(runtime, limits, host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let outcomes = async || -> Vec<String> {
        let call = sandbox.run("main", args![]);
        wait_for("three answers", call).await.unwrap().to().unwrap()
    };
    let mut all = outcomes().await;
    all.sort();
    let refused = "more than 3 requests are under way";
    assert_eq!(all, ["answer", "answer", "answer", refused, refused]);
    // The ended requests no longer count.
    let again = outcomes().await;
    assert_eq!(again.iter().filter(|one| *one == "answer").count(), 3);
}
