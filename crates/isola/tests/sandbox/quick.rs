//! Calls that begin on the thread that makes them.

use futures_util::FutureExt as _;
use isola::{Begun, Handlers, Limits, Sandbox, args};

use crate::fixture::{BOTH, Script, started_with};

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

/// Makes quick calls until one was over at once. How long a call takes is up
/// to the machine, so it may take some.
async fn until_quick(sandbox: &Sandbox) {
    for _ in 0..1_000 {
        match sandbox.run("quick", args![]).begin_here() {
            Begun::Over(outcome) => {
                assert_eq!(outcome.unwrap().as_str(), "1");
                // Known to be quick again, unless this one took long.
                match sandbox.run("quick", args![]).begin_here() {
                    Begun::Over(outcome) => {
                        assert_eq!(outcome.unwrap().as_str(), "1");
                        return;
                    }
                    Begun::UnderWay(answer) => drop(answer.await.unwrap()),
                }
            }
            Begun::UnderWay(answer) => assert_eq!(answer.await.unwrap().as_str(), "1"),
        }
    }
    panic!("no call was quick");
}

#[tokio::test]
async fn what_is_not_over_at_once_goes_on_elsewhere() {
    for runtime in BOTH {
        let host = Handlers::new().hostcall("answer", |payload| async move {
            // Not before somebody else had a turn.
            tokio::task::yield_now().await;
            Ok(payload)
        });
        let sandbox = started_with(runtime, Limits::default(), host).await;
        sandbox.load_script(SCRIPT.of(runtime)).await.unwrap();

        // Nothing is known of the first call.
        let first = sandbox.run("quick", args![]).begin_here();
        assert!(matches!(first, Begun::UnderWay(_)));
        drop(first);

        until_quick(&sandbox).await;
        match sandbox.run("waiting", args![]).begin_here() {
            Begun::UnderWay(answer) => assert_eq!(answer.await.unwrap().as_str(), "42"),
            Begun::Over(outcome) => panic!("{runtime}: {outcome:?}"),
        }

        until_quick(&sandbox).await;
        match sandbox.run("failing", args![]).begin_here() {
            Begun::Over(outcome) => assert_eq!(outcome.unwrap_err().code(), "guest_exception"),
            Begun::UnderWay(answer) => {
                assert_eq!(answer.await.unwrap_err().code(), "guest_exception");
            }
        }

        until_quick(&sandbox).await;
        let Begun::UnderWay(mut answer) = sandbox.run("long", args![]).begin_here() else {
            panic!("{runtime}: an endless loop is over");
        };
        // Where the last quick call took long it has not begun yet.
        assert!((&mut answer).now_or_never().is_none(), "{runtime}");
        drop(answer);
        assert!(sandbox.is_closed(), "{runtime}");
    }
}
