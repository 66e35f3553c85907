//! Calls from the guest to its host.

use std::time::{Duration, Instant};

use isola::{Error, Handlers, HostError, Limits, Value, args};
use serde_json::json;

use crate::fixture::{BOTH, Script, started_with};

fn host() -> Handlers {
    Handlers::new()
        .hostcall("echo", |payload: Value| async move { Ok(payload) })
        .hostcall("slow", |payload: Value| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(payload)
        })
        .hostcall("fail", |_| async { Err(HostError::new("no such user")) })
        .hostcall("panic", |_| async { panic!("a bug of the host") })
        .hostcall("never", |_| std::future::pending())
        .hostcall("big", |_| async { Ok(Value::new(&"x".repeat(2 << 20)).unwrap()) })
}

async fn run(runtime: isola::Runtime, script: Script, limits: Limits) -> Result<Value, Error> {
    let sandbox = started_with(runtime, limits, host()).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    sandbox.run("main", args![]).await
}

#[tokio::test]
async fn payload_and_result_are_passed() {
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
    for runtime in BOTH {
        let value = run(runtime, script, Limits::default()).await.unwrap();
        assert_eq!(value, json!([{"n": 0, "s": "é"}, {"n": 1, "s": "é"}, {"n": 2, "s": "é"}]));
    }
}

#[tokio::test]
async fn hostcalls_run_concurrently() {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    return await asyncio.gather(*(hostcall('slow', i) for i in range(10)))
",
        javascript: "
async function main() {
    return await Promise.all(Array.from({length: 10}, (_, i) => hostcall('slow', i)));
}
",
    };
    for runtime in BOTH {
        let start = Instant::now();
        let value = run(runtime, script, Limits::default()).await.unwrap();
        assert_eq!(value, json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        // Sequential calls would take a second.
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn thousand_concurrent_hostcalls_complete() {
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
    for runtime in BOTH {
        assert_eq!(run(runtime, script, Limits::default()).await.unwrap(), json!(499_500));
    }
}

#[tokio::test]
async fn failures_can_be_caught() {
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
    for runtime in BOTH {
        let value = run(runtime, script, Limits::default()).await.unwrap();
        assert_eq!(
            value,
            json!([
                "no such user",
                "the host has no function \"missing\"",
                "the host function \"panic\" panicked"
            ]),
            "{runtime}"
        );
    }
}

#[tokio::test]
async fn uncaught_failure_is_a_hostcall_error() {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    await hostcall('fail', None)
",
        javascript: "async function main() { await hostcall('fail', null) }",
    };
    for runtime in BOTH {
        match run(runtime, script, Limits::default()).await {
            Err(Error::Hostcall(exception)) => assert_eq!(exception.message, "no such user"),
            other => panic!("{runtime}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn pending_hostcalls_are_limited() {
    let script = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    calls = [hostcall('slow', i) for i in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [r if isinstance(r, int) else str(r) for r in results]
",
        javascript: "
async function main() {
    const calls = [0, 1, 2, 3, 4].map(i => hostcall('slow', i));
    return (await Promise.allSettled(calls)).map(r => r.value ?? r.reason.message);
}
",
    };
    let limits = Limits { max_pending_hostcalls: 3, ..Limits::default() };
    for runtime in BOTH {
        let refused = "more than 3 hostcalls are under way";
        let value = run(runtime, script, limits.clone()).await.unwrap();
        assert_eq!(value, json!([0, 1, 2, refused, refused]), "{runtime}");
    }
}

#[tokio::test]
async fn memory_of_held_results_is_limited() {
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
    for runtime in BOTH {
        let arrived: usize = run(runtime, script, limits.clone()).await.unwrap().to().unwrap();
        assert!((1..5).contains(&arrived), "{runtime}: {arrived}");
    }
}

#[tokio::test]
async fn pending_hostcalls_are_abandoned_at_the_end_of_a_call() {
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
    for runtime in BOTH {
        let sandbox = started_with(runtime, Limits::default(), host()).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("done"));
        assert_eq!(sandbox.run("again", args![]).await.unwrap(), json!(2), "{runtime}");
    }
}

#[tokio::test]
async fn wait_that_can_never_end_is_an_error() {
    let script = Script {
        python: "
import asyncio
async def main():
    await asyncio.get_running_loop().create_future()
",
        javascript: "async function main() { await new Promise(() => {}) }",
    };
    for runtime in BOTH {
        let error = run(runtime, script, Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("can never"), "{runtime}: {error}");
    }
}
