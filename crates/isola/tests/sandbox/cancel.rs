//! Stopping of a guest by the host.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use isola::{Event, Handlers, Limits, Runtime, args};

use crate::fixture::{BOTH, Script, loaded, started_with};

const ENDLESS_LOOP: Script = Script {
    python: "def main():\n    while True: pass\n",
    javascript: "function main() { for (;;); }",
};

const WAITING: Script = Script {
    python: "
from sandbox.asyncio import hostcall
async def main():
    await hostcall('never', None)
",
    javascript: "async function main() { await hostcall('never', null) }",
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_stops_the_guest_and_closes_the_sandbox() {
    for runtime in BOTH {
        for script in [ENDLESS_LOOP, WAITING] {
            let host = Handlers::new().hostcall("never", |_| std::future::pending());
            let sandbox = started_with(runtime, Limits::default(), host).await;
            sandbox.load_script(script.of(runtime)).await.unwrap();
            let call = async { sandbox.run("main", args![]).await };
            let cut = tokio::time::timeout(Duration::from_millis(100), call).await;
            assert!(cut.is_err());
            assert!(sandbox.is_closed());
            let after = sandbox.run("main", args![]).await.unwrap_err();
            assert_eq!(after.to_string(), "sandbox is closed: a call was cancelled half-way");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_interrupts_a_running_call() {
    use futures_util::StreamExt as _;

    let looping = Script {
        python: "def main():\n    yield 'started'\n    while True: pass\n",
        javascript: "function* main() { yield 'started'; for (;;); }",
    };
    let waiting = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    yield 'started'
    await hostcall('never', None)
",
        javascript: "async function* main() { yield 'started'; await hostcall('never', null) }",
    };
    for runtime in BOTH {
        for script in [looping, waiting] {
            let host = Handlers::new().hostcall("never", |_| std::future::pending());
            let sandbox = started_with(runtime, Limits::default(), host).await;
            sandbox.load_script(script.of(runtime)).await.unwrap();
            let mut stream = sandbox.run_stream("main", args![]).unwrap();
            assert!(matches!(stream.next().await, Some(Event::Result(_))), "{runtime}");
            let last = tokio::spawn(async move { stream.next().await });
            // Wait until the guest is in its loop, or in its wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let start = Instant::now();
            sandbox.close();
            match last.await.unwrap() {
                Some(Event::Error(error)) => assert_eq!(error.code(), "closed", "{error}"),
                other => panic!("{runtime}: {other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_call_is_refused_and_the_first_continues() {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    return await hostcall('slow', 1)
",
        javascript: "async function main() { return await hostcall('slow', 1) }",
    };
    for runtime in BOTH {
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let resume = Arc::new(tokio::sync::Notify::new());
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
}

#[tokio::test]
async fn call_that_is_not_awaited_does_nothing() {
    let sandbox = loaded(Runtime::Python, ENDLESS_LOOP).await;
    drop(sandbox.run("main", args![]));
    assert!(!sandbox.is_closed());
    sandbox.load_script("").await.unwrap();
}

#[tokio::test]
async fn spinning_guest_does_not_starve_others_on_its_thread() {
    for runtime in BOTH {
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
            _ = spin => panic!("it cannot end"),
            () = other => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostcall_handler_ends_with_its_call() {
    /// A guard that sends a message when the future that holds it is dropped.
    struct DropNotifier(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for DropNotifier {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    let abandon = Script {
        python: "
import asyncio
from sandbox.asyncio import hostcall
async def main():
    try:
        async with asyncio.timeout(0.05):
            await hostcall('never', None)
    except TimeoutError:
        await asyncio.sleep(60)
",
        javascript: "
async function main() {
    hostcall('never', null);
    await new Promise(resolve => setTimeout(resolve, 50));
}
",
    };
    for runtime in BOTH {
        for (how, script) in
            [("drop", WAITING), ("close", WAITING), ("limit", WAITING), ("abandon", abandon)]
        {
            let (sender, mut dropped) = tokio::sync::mpsc::unbounded_channel();
            let host = Handlers::new().hostcall("never", move |_| {
                let guard = DropNotifier(sender.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(guard);
                    Ok(isola::Value::null())
                }
            });
            let sandbox = Arc::new(started_with(runtime, Limits::default(), host).await);
            sandbox.load_script(script.of(runtime)).await.unwrap();
            let limit = Duration::from_millis(if how == "limit" { 100 } else { 60_000 });
            let running = tokio::spawn({
                let sandbox = Arc::clone(&sandbox);
                async move { sandbox.run("main", args![]).timeout(limit).await }
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
            match how {
                "drop" => running.abort(),
                "close" => sandbox.close(),
                _ => {}
            }
            let notified = tokio::time::timeout(Duration::from_secs(10), dropped.recv()).await;
            assert!(matches!(notified, Ok(Some(()))), "{runtime}: {how}");
        }
    }
}
