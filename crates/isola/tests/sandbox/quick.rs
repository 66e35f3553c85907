//! Calls that start on the thread of their caller.

use futures_util::FutureExt as _;
use isola::{Handlers, Limits, PollOutcome, Runtime, Sandbox, args};
use test_macros::each_runtime;

use crate::fixture::{Script, started_with};

const SCRIPT: Script = Script {
    python: "
from sandbox.asyncio import hostcall
def quick(): return 1
def long():
    while True: pass
async def waiting(): return await hostcall('answer', 42)
def failing(): raise ValueError('no')
",
    javascript: "
function quick() { return 1; }
function long() { for (;;); }
async function waiting() { return await hostcall('answer', 42); }
function failing() { throw new TypeError('no'); }
",
};

/// Repeats quick calls until one completes inline. Their duration depends on the
/// machine, so several may be needed.
async fn until_quick(sandbox: &Sandbox) {
    for _ in 0..1_000 {
        match sandbox.run("quick", args![]).start_inline() {
            PollOutcome::Ready(outcome) => {
                assert_eq!(outcome.unwrap().as_str(), "1");
                // Classified as quick again, unless this one took long.
                match sandbox.run("quick", args![]).start_inline() {
                    PollOutcome::Ready(outcome) => {
                        assert_eq!(outcome.unwrap().as_str(), "1");
                        return;
                    }
                    PollOutcome::Pending(answer) => drop(answer.await.unwrap()),
                }
            }
            PollOutcome::Pending(answer) => assert_eq!(answer.await.unwrap().as_str(), "1"),
        }
    }
    panic!("no call was quick");
}

#[each_runtime]
async fn only_quick_calls_complete_inline(runtime: Runtime) {
    let host = Handlers::new().hostcall("answer", |payload| async move {
        // Not before another task ran.
        tokio::task::yield_now().await;
        Ok(payload)
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(SCRIPT.of(runtime)).await.unwrap();

    // The duration of the first call is unknown.
    let first = sandbox.run("quick", args![]).start_inline();
    assert!(matches!(first, PollOutcome::Pending(_)));
    drop(first);

    until_quick(&sandbox).await;
    match sandbox.run("waiting", args![]).start_inline() {
        PollOutcome::Pending(answer) => assert_eq!(answer.await.unwrap().as_str(), "42"),
        PollOutcome::Ready(outcome) => panic!("{outcome:?}"),
    }

    until_quick(&sandbox).await;
    match sandbox.run("failing", args![]).start_inline() {
        PollOutcome::Ready(outcome) => {
            assert_eq!(outcome.unwrap_err().code(), "guest_exception")
        }
        PollOutcome::Pending(answer) => {
            assert_eq!(answer.await.unwrap_err().code(), "guest_exception");
        }
    }

    until_quick(&sandbox).await;
    let PollOutcome::Pending(mut answer) = sandbox.run("long", args![]).start_inline() else {
        panic!("an endless loop is over");
    };
    // If the last quick call took long, this one has not started yet.
    assert!((&mut answer).now_or_never().is_none());
    drop(answer);
    assert!(sandbox.is_closed());
}
