//! `sandbox.asyncio`: hostcalls, `run` and pollables.

use std::sync::Arc;

use isola::{Handlers, HostError, Limits, Runtime, Sandbox, Value, args};
use tokio::sync::Notify;

use crate::fixture::{events, results, started_with};

/// Creates a host whose hostcall `gate` returns after `open` was called, which orders
/// events without delays.
fn host() -> Handlers {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    Handlers::new()
        .hostcall("lookup_user", |payload: Value| async move { Ok(payload) })
        .hostcall("echo", |payload: Value| async move { Ok(payload) })
        .hostcall("fail", |_| async { Err(HostError::new("no such user")) })
        .hostcall("never", |_| std::future::pending())
        .hostcall("gate", move |payload: Value| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok(payload)
            }
        })
        .hostcall("open", move |payload: Value| {
            opened.notify_one();
            async move { Ok(payload) }
        })
}

/// The common start of the scripts.
pub(super) const IMPORTS: &str = "
import asyncio, contextlib, contextvars, gc, time
from sandbox.asyncio import DeadlockError, HostcallError, hostcall, run, subscribe
from wit_world.imports import monotonic_clock
said = []
def text(error):
    return f'{type(error).__name__}: {error}'
def attempt(function, *args):
    try:
        return function(*args)
    except BaseException as error:
        return text(error)
";

pub(super) async fn sandbox(script: &str) -> Sandbox {
    let sandbox = started_with(Runtime::Python, Limits::default(), host()).await;
    sandbox.load_script(script).await.unwrap();
    sandbox
}

/// Runs `main` of each script and compares its result, a JSON text.
pub(super) async fn check(rows: &[(&str, &str, &str)]) {
    let mut wrong = Vec::new();
    for (what, script, expected) in rows {
        let sandbox = sandbox(&format!("{IMPORTS}{script}")).await;
        let found = match sandbox.run("main", args![]).await {
            Ok(value) => value.as_str().to_owned(),
            Err(error) => error.to_string().lines().next().unwrap().to_owned(),
        };
        if found != *expected {
            wrong.push(format!("{what}:\n   found {found}\nexpected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn run_works_while_a_script_loads() {
    let script = "
from sandbox.asyncio import hostcall, run


async def fetch_user(user_id):
    return await hostcall(\"lookup_user\", {\"user_id\": user_id})


USER = run(fetch_user(10))


def main():
    return USER
";
    let user = sandbox(script).await.run("main", args![]).await.unwrap();
    assert_eq!(user.as_str(), r#"{"user_id":10}"#);
}

#[tokio::test]
async fn hostcalls_return_fail_and_are_cancelled() {
    check(&[
        (
            "both parameters by name",
            "
async def main():
    return await hostcall(call_type='echo', payload=[1])
",
            "[1]",
        ),
        ("no payload", "async def main(): return await hostcall('echo')", "null"),
        (
            "a failure is an exception of its own type, and the script goes on",
            "
async def main():
    try:
        await hostcall('fail', 1)
    except HostcallError as error:
        assert isinstance(error, RuntimeError)
        return [str(error), await hostcall('echo', 2)]
",
            r#"["no such user",2]"#,
        ),
        (
            "a name that the host does not know",
            "
async def main():
    try:
        await hostcall('missing', 1)
    except HostcallError as error:
        return str(error)
",
            r#""the host has no function \"missing\"""#,
        ),
        (
            "a name that is no text",
            "async def main(): await hostcall(5)",
            "TypeError: a hostcall's name must be a str, not int",
        ),
        (
            "a payload that is not JSON",
            "async def main(): await hostcall('echo', {'a': [object()]})",
            "TypeError: cannot send $.a[0] to the host: object is not a JSON value",
        ),
        (
            "one that is cancelled is over, and so is one that is dropped",
            "
async def main():
    task = asyncio.create_task(hostcall('never'))
    dropped = hostcall('never')
    dropped.send(None)
    dropped.close()
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    # No hostcall is pending: otherwise this would hang.
    try:
        run(asyncio.Event().wait())
    except DeadlockError:
        return await hostcall('echo', 'over')
",
            r#""over""#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn run_works_in_synchronous_code() {
    check(&[
        ("a result", "async def f(): return 1\ndef main(): return run(f())", "1"),
        (
            "by name",
            "async def f(): return await hostcall('echo', 1)\ndef main(): return run(main=f())",
            "1",
        ),
        (
            "an exception",
            "async def f(): raise KeyError('k')\ndef main(): return run(f())",
            "KeyError: 'k'",
        ),
        (
            "a failed hostcall can be caught",
            "
def main():
    try:
        run(hostcall('fail'))
    except RuntimeError as error:
        return str(error)
",
            r#""no such user""#,
        ),
        (
            "tasks go on with the next one",
            "
async def begin():
    return asyncio.create_task(hostcall('echo', 1))
def main():
    return run(run(begin()))
",
            "1",
        ),
        (
            "another awaitable",
            "
class Later:
    def __await__(self):
        return (yield from asyncio.sleep(0, 'later').__await__())
def main(): return [run(Later()), run(asyncio.gather(hostcall('echo', 1), hostcall('echo', 2)))]
",
            r#"["later",[1,2]]"#,
        ),
        (
            "a function that was not called",
            "async def f(): pass\ndef main(): run(f)",
            "TypeError: run() takes a coroutine or an async generator, not function: call the function, as in run(main())",
        ),
        (
            "something else",
            "def main(): run([1])",
            "TypeError: run() takes a coroutine or an async generator, not list",
        ),
    ])
    .await;
}

#[tokio::test]
async fn run_streams_the_items_of_an_async_generator() {
    let script = "
async def items(n):
    for i in range(n):
        yield await hostcall('echo', i)
async def bad():
    yield 1
    raise ValueError('half')
def main():
    return [run(items(2)), 'done']
def fails():
    try:
        run(bad())
    except ValueError as error:
        return str(error)
async def within():
    return run(items(1))
";
    let sandbox = sandbox(&format!("{IMPORTS}{script}")).await;
    for (function, partial, end) in [
        ("main", vec!["0", "1"], r#"[null,"done"]"#),
        ("fails", vec!["1"], r#""half""#),
        ("within", vec!["0"], "null"),
    ] {
        let all = events(sandbox.run_stream(function, args![]).unwrap()).await;
        assert_eq!(
            results(&all),
            (partial.into_iter().map(str::to_owned).collect(), Some(end.to_owned())),
            "{function}"
        );
    }
    let loading = events(sandbox.load_script("run(items(1))").stream().unwrap()).await;
    assert_eq!(results(&loading), (vec!["0".to_owned()], Some("null".to_owned())));
}

#[tokio::test]
async fn run_works_within_a_running_loop() {
    check(&[
        (
            "a synchronous helper of an async function",
            "
def helper(i):
    return run(hostcall('echo', i))
async def main():
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    values = [helper(1), helper(2), await hostcall('echo', 3)]
    assert asyncio.current_task() is task and asyncio.get_running_loop() is loop
    return values
",
            "[1,2,3]",
        ),
        (
            "the outer loop's hostcalls go on",
            "
async def main():
    outer = asyncio.create_task(hostcall('gate', 'outer'))
    await asyncio.sleep(0)
    async def inner():
        await hostcall('open')
        return await asyncio.gather(*(hostcall('echo', i) for i in range(3)))
    values = run(inner())
    return [values, await outer]
",
            r#"[[0,1,2],"outer"]"#,
        ),
        (
            "one within another, and within asyncio.run",
            "
async def deep(n):
    return n and 1 + run(deep(n - 1))
def main():
    return [run(deep(5)), asyncio.run(deep(3))]
",
            "[5,3]",
        ),
        (
            "too deep",
            "
def deep(n):
    async def step():
        return deep(n + 1)
    try:
        return run(step())
    except RecursionError:
        return n
def main():
    assert deep(0) > 10
    return run(hostcall('echo', 'still here'))
",
            r#""still here""#,
        ),
        (
            "an exception, and then the outer goes on",
            "
async def bad():
    raise ValueError('inner')
async def main():
    try:
        run(bad())
    except ValueError as error:
        return await hostcall('echo', str(error))
",
            r#""inner""#,
        ),
        (
            "its tasks end with it",
            "
async def inner():
    async def forever():
        try:
            await hostcall('never')
        finally:
            said.append(await hostcall('echo', 'cleaned up'))
    asyncio.create_task(forever())
    await asyncio.sleep(0)
async def main():
    run(inner())
    return said
",
            r#"["cleaned up"]"#,
        ),
        (
            "what the outer tasks should do never comes",
            "
async def main():
    async def inner():
        said.append(asyncio.get_running_loop().create_future())
        await said[0]
    async def setter():
        said[0].set_result(None)
    task = asyncio.create_task(setter())
    try:
        run(inner())
    except DeadlockError as error:
        return error.__notes__[0]
",
            r#""The tasks of the outer loop are suspended until this run() returns.""#,
        ),
        (
            "context variables are seen, not changed",
            "
var = contextvars.ContextVar('var')
async def inner():
    before = var.get()
    var.set('inner')
    return before
async def main():
    var.set('outer')
    return [run(inner()), var.get()]
",
            r#"["outer","outer"]"#,
        ),
        (
            "asyncio.run says that it cannot",
            "
async def nothing(): pass
async def main():
    coroutine = nothing()
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()
",
            "RuntimeError: asyncio.run() cannot be called from a running event loop",
        ),
    ])
    .await;
}

#[tokio::test]
async fn pollables_can_be_awaited() {
    check(&[
        (
            "one",
            "
async def main():
    with monotonic_clock.subscribe_duration(1_000_000) as pollable:
        await subscribe(pollable)
        return pollable.ready()
",
            "true",
        ),
        (
            "several, a hostcall and a timer, in their order",
            "
async def main():
    async def after(name, what):
        await what
        said.append(name)
    with (monotonic_clock.subscribe_duration(60_000_000) as third,
          monotonic_clock.subscribe_duration(1_000_000) as second):
        async with asyncio.TaskGroup() as group:
            group.create_task(after('third', subscribe(third)))
            group.create_task(after('second', subscribe(pollable=second)))
            group.create_task(after('timer', asyncio.sleep(0.03)))
            group.create_task(after('hostcall', hostcall('echo')))
    return sorted(said[:2]) + said[2:]
",
            r#"["hostcall","second","timer","third"]"#,
        ),
        (
            "two wait for the same one",
            "
async def main():
    with monotonic_clock.subscribe_duration(1_000_000) as pollable:
        await asyncio.gather(subscribe(pollable), subscribe(pollable))
    return 'both'
",
            r#""both""#,
        ),
        (
            "beside a task that never rests",
            "
async def main():
    with monotonic_clock.subscribe_duration(1_000_000) as pollable:
        waiting = asyncio.create_task(subscribe(pollable))
        while not waiting.done():
            await asyncio.sleep(0)
    return 'ready'
",
            r#""ready""#,
        ),
        (
            "a cancelled wait lets go of it",
            "
async def main():
    loop = asyncio.get_running_loop()
    with monotonic_clock.subscribe_duration(60_000_000_000) as pollable:
        try:
            async with asyncio.timeout(0.001):
                await subscribe(pollable)
        except TimeoutError:
            return len(loop._selector.pollables)
",
            "0",
        ),
        (
            "from synchronous code",
            "
def main():
    with monotonic_clock.subscribe_duration(1_000_000) as pollable:
        return run(subscribe(pollable))
",
            "null",
        ),
        (
            "no pollable",
            "async def main(): await subscribe(5)",
            "TypeError: subscribe() takes a pollable of wasi:io/poll, not int",
        ),
    ])
    .await;
}
