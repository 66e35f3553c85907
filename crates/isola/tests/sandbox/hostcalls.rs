//! Calls from the guest to its host.

use std::sync::Arc;

use isola::{Error, Handlers, HostError, Limits, Runtime, Value, args};
use serde_json::json;
use test_macros::each_runtime;
use tokio::sync::Barrier;

use crate::fixture::{Script, started_with, wait_for};

fn host() -> Handlers {
    Handlers::new()
        .hostcall("echo", |payload: Value| async move { Ok(payload) })
        .hostcall("fail", |_| async { Err(HostError::new("no such user")) })
        .hostcall("panic", |_| async { panic!("a bug of the host") })
        .hostcall("never", |_| std::future::pending())
        .hostcall("big", |_| async { Ok(Value::new(&"x".repeat(2 << 20)).unwrap()) })
}

async fn run(runtime: Runtime, script: Script, limits: Limits) -> Result<Value, Error> {
    let sandbox = started_with(runtime, limits, host()).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    sandbox.run("main", args![]).await
}

/// Runs `main` with a host whose hostcall `meet` returns when this number of them are
/// pending.
async fn run_with_meetings(
    runtime: Runtime,
    script: Script,
    limits: Limits,
    count: usize,
) -> Result<Value, Error> {
    let pending = Arc::new(Barrier::new(count));
    let host = Handlers::new().hostcall("meet", move |payload: Value| {
        let pending = Arc::clone(&pending);
        async move {
            pending.wait().await;
            Ok(payload)
        }
    });
    let sandbox = started_with(runtime, limits, host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    wait_for("the meeting", sandbox.run("main", args![])).await
}

#[each_runtime]
async fn payload_and_result_are_passed(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    return [await hostcall('echo', {'n': i, 's': 'é'}) for i in range(3)]
",
        javascript: "
async function main() {
    const list = [];
    for (let i = 0; i < 3; i++) list.push(await hostcall('echo', {n: i, s: 'é'}));
    return list;
}
",
    };
    let value = run(runtime, script, Limits::default()).await.unwrap();
    assert_eq!(value, json!([{"n": 0, "s": "é"}, {"n": 1, "s": "é"}, {"n": 2, "s": "é"}]));
}

#[each_runtime]
async fn hostcalls_run_concurrently(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    return await asyncio.gather(*(hostcall('meet', i) for i in range(10)))
",
        javascript: "
async function main() {
    return await Promise.all(Array.from({length: 10}, (_, i) => hostcall('meet', i)));
}
",
    };
    // Sequential hostcalls would never return.
    let value = run_with_meetings(runtime, script, Limits::default(), 10).await.unwrap();
    assert_eq!(value, json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
}

#[each_runtime]
async fn thousand_concurrent_hostcalls_complete(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    return sum(await asyncio.gather(*(hostcall('echo', i) for i in range(1000))))
",
        javascript: "
async function main() {
    const all = await Promise.all(Array.from({length: 1000}, (_, i) => hostcall('echo', i)));
    return all.reduce((a, b) => a + b);
}
",
    };
    assert_eq!(run(runtime, script, Limits::default()).await.unwrap(), json!(499_500));
}

#[each_runtime]
async fn failures_can_be_caught(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    caught = []
    for name in ('fail', 'missing', 'panic'):
        try:
            await hostcall(name, None)
        except RuntimeError as error:
            caught.append(str(error))
    return caught
",
        javascript: "
async function main() {
    const caught = [];
    for (const name of ['fail', 'missing', 'panic']) {
        try { await hostcall(name, null) } catch (error) {
            if (!(error instanceof Error)) throw new TypeError('not an Error');
            caught.push(error.message);
        }
    }
    return caught;
}
",
    };
    let value = run(runtime, script, Limits::default()).await.unwrap();
    assert_eq!(
        value,
        json!([
            "no such user",
            "the host has no function \"missing\"",
            "the host function \"panic\" panicked"
        ]),
    );
}

#[each_runtime]
async fn uncaught_failure_is_a_hostcall_error(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    await hostcall('fail', None)
",
        javascript: "async function main() { await hostcall('fail', null) }",
    };
    match run(runtime, script, Limits::default()).await {
        Err(Error::Hostcall(exception)) => assert_eq!(exception.message, "no such user"),
        other => panic!("{other:?}"),
    }
}

#[each_runtime]
async fn pending_hostcalls_are_limited(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    calls = [hostcall('meet', i) for i in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [r if isinstance(r, int) else str(r) for r in results]
",
        javascript: "
async function main() {
    const calls = [0, 1, 2, 3, 4].map(i => hostcall('meet', i));
    return (await Promise.allSettled(calls)).map(r => r.value ?? r.reason.message);
}
",
    };
    let limits = Limits { max_pending_hostcalls: 3, ..Limits::default() };
    let refused = "more than 3 hostcalls are under way";
    let value = run_with_meetings(runtime, script, limits, 3).await.unwrap();
    assert_eq!(value, json!([0, 1, 2, refused, refused]));
}

#[each_runtime]
async fn memory_of_held_results_is_limited(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    calls = [hostcall('big', None) for i in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(r, str) for r in results)
",
        javascript: "
async function main() {
    const calls = [0, 1, 2, 3, 4].map(i => hostcall('big', null));
    return (await Promise.allSettled(calls)).filter(r => r.status === 'fulfilled').length;
}
",
    };
    // Two results of 2 MiB fit, if all arrive before the guest takes one.
    let limits = Limits { max_held_memory: 5 << 20, ..Limits::default() };
    let arrived: usize = run(runtime, script, limits).await.unwrap().to().unwrap();
    assert!((1..5).contains(&arrived), "{arrived}");
}

#[each_runtime]
async fn pending_hostcalls_are_abandoned_at_the_end_of_a_call(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
tasks = []
async def main():
    tasks.append(asyncio.create_task(hostcall('never', 1)))
    await asyncio.sleep(0)
    return 'done'
async def again():
    return await hostcall('echo', 2)
",
        javascript: "
async function main() { hostcall('never', 1); return 'done' }
async function again() { return await hostcall('echo', 2) }
",
    };
    let sandbox = started_with(runtime, Limits::default(), host()).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("done"));
    assert_eq!(sandbox.run("again", args![]).await.unwrap(), json!(2));
}

#[each_runtime]
async fn wait_that_can_never_end_is_an_error(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
async def main():
    await asyncio.get_running_loop().create_future()
",
        javascript: "async function main() { await new Promise(() => {}) }",
    };
    let error = run(runtime, script, Limits::default()).await.unwrap_err();
    assert!(error.to_string().contains("can never"), "{error}");
}
