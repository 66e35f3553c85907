//! Unhandled promise rejections, and promises that are never settled.

use isola::{Error, Handlers, Limits, Runtime, Value, args};
use serde_json::json;

use crate::fixture::{started, started_with};

#[tokio::test]
async fn unhandled_rejection_fails_the_call() {
    let host =
        Handlers::new().hostcall("never", |_: Value| std::future::pending::<Result<Value, _>>());
    for (source, expected) in [
        ("async function main() { Promise.reject(new RangeError('lost')); return 1 }", "RangeError: lost"),
        ("function main() { Promise.reject(new RangeError('lost')); return 1 }", "RangeError: lost"),
        ("async function main() { Promise.reject('a text'); return 1 }", "a text"),
        ("async function main() { Promise.reject({ code: 7 }); return 1 }", "{ code: 7 }"),
        ("async function main() { Promise.reject(); return 1 }", "undefined"),
        (
            "async function main() {
                (async () => { await null; throw new TypeError('in the background') })();
                await hostcall('never');
            }",
            "TypeError: in the background",
        ),
        (
            "async function main() {
                setTimeout(async () => { for (let i = 0; i < 50; i++) await null; throw new Error('deep') }, 1);
                await new Promise((resolve) => setTimeout(resolve, 1e9));
            }",
            "Error: deep",
        ),
        (
            "async function* main() { yield 1; Promise.reject(new Error('while streaming')); yield 2 }",
            "Error: while streaming",
        ),
        (
            "async function main() {
                const late = Promise.reject(new Error('caught too late'));
                await new Promise((resolve) => setTimeout(resolve, 5));
                late.catch(() => {});
            }",
            "Error: caught too late",
        ),
        (
            "async function main() { hostcall('missing').then(() => 1); await hostcall('never') }",
            "HostcallError",
        ),
        (
            "async function main() { Promise.all([Promise.reject(new Error('all'))]); await null }",
            "Error: all",
        ),
        (
            "async function main() { Promise.reject(new Error('first')); Promise.reject(new Error('second')) }",
            "Error: first",
        ),
    ] {
        let sandbox = started_with(Runtime::JavaScript, Limits::default(), host.clone()).await;
        sandbox.load_script(source).await.unwrap();
        let error = sandbox.run("main", args![]).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{source}: {error}");
        assert!(!sandbox.is_closed(), "{source}");
        // The next call is not affected.
        sandbox.load_script("function next() { return 'fine' }").await.unwrap();
        assert_eq!(sandbox.run("next", args![]).await.unwrap(), json!("fine"), "{source}");
    }
}

#[tokio::test]
async fn unhandled_rejection_has_a_stack() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script_as("lost.js", "async function main() {\n  later();\n}\nasync function later() {\n  await null;\n  throw new Error('here');\n}")
        .await
        .unwrap();
    let error = sandbox.run("main", args![]).await;
    // The call may end before the microtask, which is then dropped.
    if let Err(error) = error {
        assert!(error.to_string().contains("lost.js:6"), "{error}");
    }
    sandbox.load_script_as("lost2.js", "async function waits() {\n  later();\n  await new Promise((r) => setTimeout(r, 20));\n}").await.unwrap();
    let error = sandbox.run("waits", args![]).await.unwrap_err();
    let Error::Guest(exception) = &error else { panic!("{error}") };
    assert_eq!(exception.name, "Error");
    assert!(exception.traceback.contains("lost.js:6:9"), "{}", exception.traceback);
}

#[tokio::test]
async fn handled_rejection_does_not_fail_the_call() {
    for source in [
        "async function main() { Promise.reject(1).catch(() => {}); return 'fine' }",
        "async function main() { const p = Promise.reject(1); try { await p } catch {} return 'fine' }",
        "async function main() { const p = Promise.reject(1); await null; p.catch(() => {}); return 'fine' }",
        "async function main() { const p = Promise.reject(1); queueMicrotask(() => p.catch(() => {})); return 'fine' }",
        "async function main() { await Promise.allSettled([Promise.reject(1), Promise.reject(2)]); return 'fine' }",
        "async function main() { await Promise.race([Promise.reject(1), Promise.resolve()]).catch(() => {}); return 'fine' }",
        "async function main() { const c = new AbortController(); c.abort(); await fetch('http://a/', {signal: c.signal}).catch(() => {}); return 'fine' }",
        "function main() { Promise.reject(1).then(() => {}, () => {}); return 'fine' }",
    ] {
        let sandbox = started(Runtime::JavaScript).await;
        sandbox.load_script(source).await.unwrap();
        let value = sandbox.run("main", args![]).await;
        assert_eq!(value.unwrap_or_else(|error| panic!("{source}: {error}")), json!("fine"));
    }
}

#[tokio::test]
async fn unhandled_rejection_fails_the_top_level() {
    let sandbox = started(Runtime::JavaScript).await;
    let error = sandbox
        .load_script_as("top.js", "\nPromise.reject(new Error('at the top'))")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("at the top"), "{error}");
    assert!(!sandbox.is_closed());
}

#[tokio::test]
async fn promise_that_can_never_settle_is_an_error() {
    for source in [
        "async function main() { await new Promise(() => {}) }",
        "function main() { return new Promise(() => {}) }",
        "async function* main() { yield 1; await new Promise(() => {}) }",
        "async function main() { const id = setTimeout(() => {}, 5); clearTimeout(id); await new Promise(() => {}) }",
        "async function main() { await new Promise((resolve) => setTimeout(() => {}, 1)) }",
        "const main = () => ({ then() {} })",
        "async function main() { await new ReadableStream().getReader().read() }",
    ] {
        let sandbox = started(Runtime::JavaScript).await;
        sandbox.load_script(source).await.unwrap();
        let error = sandbox.run("main", args![]).await.unwrap_err().to_string();
        assert!(error.contains("the promise can never settle"), "{source}: {error}");
        assert!(!sandbox.is_closed());
    }
}

#[tokio::test]
async fn patched_builtins_do_not_hide_rejections() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "for (const name of Object.getOwnPropertyNames(Set.prototype)) {
                if (name !== 'constructor' && name !== 'size') Set.prototype[name] = () => { throw 1 };
            }
            Object.defineProperty(Set.prototype, 'size', { get: () => 0 });
            Promise.prototype.then = () => { throw 2 };
            Promise.prototype.catch = () => { throw 3 };
            function main() { Promise.reject(new Error('still seen')) }",
        )
        .await
        .unwrap();
    let error = sandbox.run("main", args![]).await.unwrap_err().to_string();
    assert!(error.contains("still seen"), "{error}");
}
