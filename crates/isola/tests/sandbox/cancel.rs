//! Stopping of a guest by the host.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use isola::{Event, Handlers, Limits, Runtime, Value, args};
use test_macros::each_runtime;
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::fixture::{Script, loaded, started_with, wait_for};

const ENDLESS_LOOP: Script = Script {
    python: "def main():\n    while True: pass\n",
    javascript: "function main() { for (;;); }",
};

/// A script that calls `begin` of its host, which does not return, and then loops.
const BEGIN_AND_LOOP: Script = Script {
    python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    task = asyncio.create_task(hostcall('begin', None))
    await asyncio.sleep(0)
    while True: pass
",
    javascript: "function main() { hostcall('begin', null); for (;;); }",
};

/// A script that waits for `begin` of its host, which does not return.
const BEGIN_AND_WAIT: Script = Script {
    python: "
from sandbox.asyncio import hostcall
async def main():
    await hostcall('begin', None)
",
    javascript: "async function main() { await hostcall('begin', null) }",
};

/// Creates a host whose hostcall `begin` sends a message and never returns.
fn host() -> (Handlers, UnboundedReceiver<()>) {
    let (sender, begun) = unbounded_channel();
    let host = Handlers::new().hostcall("begin", move |_| {
        sender.send(()).unwrap();
        std::future::pending()
    });
    (host, begun)
}

#[each_runtime(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_stops_the_guest_and_closes_the_sandbox(runtime: Runtime) {
    for script in [BEGIN_AND_LOOP, BEGIN_AND_WAIT] {
        let (host, mut begun) = host();
        let sandbox = started_with(runtime, Limits::default(), host).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let call = async { sandbox.run("main", args![]).await };
        // The call is dropped when the guest has begun.
        tokio::select! {
            outcome = call => panic!("the call has ended: {outcome:?}"),
            message = wait_for("the hostcall", begun.recv()) => assert_eq!(message, Some(())),
        }
        assert!(sandbox.is_closed());
        let after = sandbox.run("main", args![]).await.unwrap_err();
        assert_eq!(after.to_string(), "sandbox is closed: a call was cancelled half-way");
    }
}

#[each_runtime(flavor = "multi_thread", worker_threads = 2)]
async fn close_interrupts_a_running_call(runtime: Runtime) {
    let looping = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    yield 'started'
    task = asyncio.create_task(hostcall('begin', None))
    await asyncio.sleep(0)
    while True: pass
",
        javascript: "function* main() { yield 'started'; hostcall('begin', null); for (;;); }",
    };
    let waiting = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    yield 'started'
    await hostcall('begin', None)
",
        javascript: "async function* main() { yield 'started'; await hostcall('begin', null) }",
    };
    for script in [looping, waiting] {
        let (host, mut begun) = host();
        let sandbox = started_with(runtime, Limits::default(), host).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let mut stream = sandbox.run_stream("main", args![]).unwrap();
        assert!(matches!(stream.next().await, Some(Event::Result(_))));
        let last = tokio::spawn(async move { stream.next().await });
        // After its hostcall the guest is in its loop, or in its wait.
        assert_eq!(wait_for("the hostcall", begun.recv()).await, Some(()));
        let start = Instant::now();
        sandbox.close();
        match last.await.unwrap() {
            Some(Event::Error(error)) => assert_eq!(error.code(), "closed", "{error}"),
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

#[each_runtime(flavor = "multi_thread", worker_threads = 2)]
async fn second_call_is_refused_and_the_first_continues(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    return await hostcall('slow', 1)
",
        javascript: "async function main() { return await hostcall('slow', 1) }",
    };
    let (started, mut starts) = unbounded_channel();
    let resume = Arc::new(Notify::new());
    let waits = Arc::clone(&resume);
    let host = Handlers::new().hostcall("slow", move |payload| {
        started.send(()).unwrap();
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            Ok(payload)
        }
    });
    let sandbox = Arc::new(started_with(runtime, Limits::default(), host).await);
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let first = tokio::spawn({
        let sandbox = Arc::clone(&sandbox);
        async move { sandbox.run("main", args![]).await }
    });
    starts.recv().await.unwrap();
    for error in [
        sandbox.run("main", args![]).await.unwrap_err(),
        sandbox.load_script("").await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "sandbox is busy");
    }
    resume.notify_one();
    assert_eq!(first.await.unwrap().unwrap().as_str(), "1");
    resume.notify_one();
    assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "1");
}

#[tokio::test]
async fn call_that_is_not_awaited_does_nothing() {
    let sandbox = loaded(Runtime::Python, ENDLESS_LOOP).await;
    drop(sandbox.run("main", args![]));
    assert!(!sandbox.is_closed());
    sandbox.load_script("").await.unwrap();
}

#[each_runtime]
async fn spinning_guest_does_not_starve_others_on_its_thread(runtime: Runtime) {
    let spinning = loaded(runtime, ENDLESS_LOOP).await;
    let spin = async { spinning.run("main", args![]).await };
    let other = async {
        let sandbox = loaded(
            runtime,
            Script {
                python: "def main():\n    return 1\n",
                javascript: "function main() { return 1 }",
            },
        )
        .await;
        for _ in 0..10 {
            sandbox.run("main", args![]).await.unwrap();
        }
    };
    tokio::select! {
        _ = spin => panic!("the endless loop has ended"),
        () = other => {}
    }
}

#[each_runtime(flavor = "multi_thread", worker_threads = 2)]
async fn hostcall_handler_ends_with_its_call(runtime: Runtime) {
    let abandon = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    try:
        async with asyncio.timeout(0.05):
            await hostcall('begin', None)
    except TimeoutError:
        await asyncio.sleep(60)
",
        javascript: "
async function main() {
    hostcall('begin', null);
    await new Promise(resolve => setTimeout(resolve, 50));
}
",
    };
    for (how, script) in [
        ("drop", BEGIN_AND_WAIT),
        ("close", BEGIN_AND_WAIT),
        ("limit", BEGIN_AND_WAIT),
        ("abandon", abandon),
    ] {
        let (begin, mut begun) = unbounded_channel();
        let (sender, mut dropped) = unbounded_channel();
        let host = Handlers::new().hostcall("begin", move |_| {
            begin.send(()).unwrap();
            let guard = DropNotifier(sender.clone());
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(Value::null())
            }
        });
        let sandbox = Arc::new(started_with(runtime, Limits::default(), host).await);
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let limit = Duration::from_millis(if how == "limit" { 100 } else { 60_000 });
        let running = tokio::spawn({
            let sandbox = Arc::clone(&sandbox);
            async move { sandbox.run("main", args![]).timeout(limit).await }
        });
        assert_eq!(wait_for("the hostcall", begun.recv()).await, Some(()), "{how}");
        match how {
            "drop" => running.abort(),
            "close" => sandbox.close(),
            _ => {}
        }
        assert_eq!(wait_for(how, dropped.recv()).await, Some(()), "{how}");
    }
}

/// A guard that sends a message when the future that holds it is dropped.
struct DropNotifier(UnboundedSender<()>);

impl Drop for DropNotifier {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
