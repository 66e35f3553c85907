//! The event loop of the Python guest: compatibility with asyncio.

use isola::{Event, Level, args};

use super::asyncio::{IMPORTS, check, sandbox};
use crate::fixture::{events, log_records};

/// Returns the log records of one call of `main`.
async fn records(script: &str) -> Vec<(Level, String)> {
    let sandbox = sandbox(&format!("{IMPORTS}{script}")).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert!(matches!(all.last(), Some(Event::End(_))), "{all:?}");
    let records = log_records(&all).into_iter();
    records.map(|(level, message)| (level, message.to_owned())).collect()
}

#[tokio::test]
async fn gather_wait_and_timeouts_work() {
    check(&[
        (
            "gather keeps the order",
            "
async def main():
    return await asyncio.gather(hostcall('gate', 1), hostcall('open', 2), asyncio.sleep(0, 3))
",
            "[1,2,3]",
        ),
        (
            "gather with a failure",
            "
async def main():
    results = await asyncio.gather(hostcall('fail'), hostcall('echo', 1), return_exceptions=True)
    try:
        await asyncio.gather(hostcall('fail'), hostcall('echo', 1))
    except HostcallError as error:
        return [text(results[0]), results[1], str(error)]
",
            r#"["HostcallError: no such user",1,"no such user"]"#,
        ),
        (
            "a task group",
            "
async def main():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hostcall('echo', i)) for i in range(3)]
    return [task.result() for task in tasks]
",
            "[0,1,2]",
        ),
        (
            "a failure in a task group cancels the others",
            "
async def main():
    async def other():
        try:
            await hostcall('never')
        except asyncio.CancelledError:
            said.append('cancelled')
            raise
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(other())
            group.create_task(hostcall('fail'))
    except* HostcallError as errors:
        said.append(str(errors.exceptions[0]))
    return said
",
            r#"["cancelled","no such user"]"#,
        ),
        (
            "wait for the first",
            "
async def main():
    gate = asyncio.create_task(hostcall('gate', 'gate'))
    echo = asyncio.create_task(hostcall('echo', 'echo'))
    done, rest = await asyncio.wait([gate, echo], return_when=asyncio.FIRST_COMPLETED)
    assert rest == {gate}
    await hostcall('open')
    return [[task.result() for task in done], await gate]
",
            r#"[["echo"],"gate"]"#,
        ),
        (
            "wait for the first failure, and with a timeout",
            "
async def main():
    never = asyncio.create_task(hostcall('never'))
    fail = asyncio.create_task(hostcall('fail'))
    done, rest = await asyncio.wait([never, fail], return_when=asyncio.FIRST_EXCEPTION)
    assert done == {fail} and text(fail.exception()) == 'HostcallError: no such user'
    done, rest = await asyncio.wait([never], timeout=0.001)
    return [len(done), len(rest)]
",
            "[0,1]",
        ),
        (
            "as they are completed, both forms",
            "
async def main():
    def calls():
        return [hostcall('gate', 'second'), hostcall('echo', 'first')]
    for each in asyncio.as_completed(calls()):
        said.append(await each)
        if len(said) == 1: await hostcall('open')
    async for each in asyncio.as_completed(calls()):
        said.append(await each)
        if len(said) == 3: await hostcall('open')
    return said
",
            r#"["first","second","first","second"]"#,
        ),
        (
            "timeouts",
            "
async def main():
    try:
        async with asyncio.timeout(0.001):
            await hostcall('never')
    except TimeoutError:
        said.append('timeout')
    try:
        await asyncio.wait_for(hostcall('never'), 0.001)
    except TimeoutError:
        said.append('wait_for')
    async with asyncio.timeout(60):
        said.append(await hostcall('echo', 'in time'))
    return said
",
            r#"["timeout","wait_for","in time"]"#,
        ),
        (
            "a shield",
            "
async def main():
    inner = asyncio.create_task(hostcall('gate', 'safe'))
    outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(inner), 0.001))
    try:
        await outer
    except TimeoutError:
        await hostcall('open')
        return await inner
",
            r#""safe""#,
        ),
        (
            "a cancellation that is caught, counted and taken back",
            "
async def main():
    async def stubborn():
        try:
            await hostcall('never')
        except asyncio.CancelledError:
            return [asyncio.current_task().cancelling(), asyncio.current_task().uncancel()]
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task.cancel('why')
    return await task
",
            "[1,0]",
        ),
    ])
    .await;
}

#[tokio::test]
async fn queues_locks_and_events_work() {
    check(&[
        (
            "queues",
            "
async def main():
    queue = asyncio.Queue(1)
    async def producer():
        for i in range(3): await queue.put(await hostcall('echo', i))
        queue.shutdown()
    task = asyncio.create_task(producer())
    try:
        while True: said.append(await queue.get())
    except asyncio.QueueShutDown:
        await task
    urgent = asyncio.PriorityQueue()
    for i in (3, 1, 2): urgent.put_nowait(i)
    return [said, [urgent.get_nowait() for _ in range(3)], attempt(urgent.get_nowait)]
",
            r#"[[0,1,2],[1,2,3],"QueueEmpty: "]"#,
        ),
        (
            "a lock, a semaphore and a condition",
            "
async def main():
    lock, slots, changed = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition()
    inside, most = 0, 0
    async def work(i):
        nonlocal inside, most
        async with slots:
            inside += 1
            most = max(most, inside)
            async with lock:
                said.append(await hostcall('echo', i))
            inside -= 1
        async with changed:
            changed.notify_all()
    tasks = [asyncio.create_task(work(i)) for i in range(4)]
    async with changed:
        await changed.wait_for(lambda: len(said) == 4)
    await asyncio.gather(*tasks)
    return [said, most, attempt(lock.release)]
",
            r#"[[0,1,2,3],2,"RuntimeError: Lock is not acquired."]"#,
        ),
        (
            "an event and a barrier",
            "
async def main():
    event, barrier = asyncio.Event(), asyncio.Barrier(3)
    async def side(i):
        await event.wait()
        await barrier.wait()
        said.append(i)
    tasks = [asyncio.create_task(side(i)) for i in range(2)]
    await hostcall('echo')
    assert not said
    event.set()
    await barrier.wait()
    await asyncio.gather(*tasks)
    return sorted(said)
",
            "[0,1]",
        ),
        (
            "eager tasks and context variables",
            "
var = contextvars.ContextVar('var', default='unset')
async def main():
    async def work(value):
        said.append(var.get())
        var.set(value)
        await asyncio.sleep(0)
        said.append(var.get())
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    try:
        tasks = [asyncio.create_task(work(i)) for i in 'ab']
        begun = list(said)
        await asyncio.gather(*tasks)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    return [begun, said, var.get()]
",
            r#"[["unset","unset"],["unset","unset","a","b"],"unset"]"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn timers_runners_and_executors_work() {
    check(&[
        (
            "timers run in the order of their time, and can be cancelled",
            "
async def main():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    begin = loop.time()
    loop.call_at(begin + 0.03, done.set_result, 'end')
    loop.call_at(begin + 0.02, said.append, 'second')
    loop.call_at(begin + 0.01, said.append, 'first')
    loop.call_later(0.001, said.append, 'cancelled').cancel()
    loop.call_soon_threadsafe(said.append, 'soon')
    said.append(await done)
    return [said, loop.time() - begin >= 0.03]
",
            r#"[["soon","first","second","end"],true]"#,
        ),
        (
            "asyncio.run, a runner and loops of one's own",
            "
async def answer(): return await hostcall('echo', 42)
def main():
    with asyncio.Runner() as runner:
        said.extend([runner.run(answer()), runner.run(answer())])
    said.append(asyncio.run(answer()))
    said.append(asyncio.run(answer(), debug=True, loop_factory=asyncio.EventLoop))
    loop = asyncio.new_event_loop()
    said.append(loop.run_until_complete(answer()))
    loop.close()
    return [said, attempt(loop.call_soon, print)]
",
            r#"[[42,42,42,42,42],"RuntimeError: Event loop is closed"]"#,
        ),
        (
            "the current loop outside of a coroutine is the guest's, and stays open",
            "
async def answer(): return await hostcall('echo', 42)
async def close_it(): asyncio.get_event_loop().close()
def main():
    loop = asyncio.get_event_loop()
    assert attempt(asyncio.get_running_loop) == 'RuntimeError: no running event loop'
    said.append(loop.run_until_complete(answer()))
    loop.close()
    said.append(attempt(run, close_it()))
    said.append(asyncio.get_event_loop().run_until_complete(asyncio.ensure_future(answer())))
    return said
",
            r#"[42,"RuntimeError: Cannot close a running event loop",42]"#,
        ),
        (
            "there are no threads",
            "
async def main():
    from concurrent.futures import ThreadPoolExecutor
    loop = asyncio.get_running_loop()
    for start in (
        lambda: asyncio.to_thread(print),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.run_in_executor(ThreadPoolExecutor(), print),
    ):
        try:
            await start()
        except RuntimeError as error:
            said.append(str(error))
    return said
",
            r#"["a sandbox has no threads: call the function itself","a sandbox has no threads: call the function itself","can't start new thread"]"#,
        ),
        (
            "an executor that needs no thread",
            "
from concurrent.futures import Executor, Future
class Inline(Executor):
    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future
async def main():
    return await asyncio.get_running_loop().run_in_executor(Inline(), lambda: 42)
",
            "42",
        ),
    ])
    .await;
}

#[tokio::test]
async fn deadlocks_are_detected() {
    let script = "
async def inner():
    await asyncio.Event().wait()
async def main():
    await inner()
def caught():
    for _ in range(2):
        try:
            run(main())
        except DeadlockError as error:
            said.append(type(error).__module__)
    return [said, run(hostcall('echo', 'goes on'))]
async def items():
    yield 1
    await inner()
";
    let sandbox = sandbox(&format!("{IMPORTS}{script}")).await;
    for function in ["main", "items"] {
        match sandbox.run(function, args![]).await.unwrap_err() {
            isola::Error::Guest(exception) => {
                assert_eq!(exception.name, "DeadlockError");
                assert_eq!(
                    exception.message,
                    "the awaited result can never arrive: no hostcall, request, timer or pollable \
                     is pending, and no task is left that could set it"
                );
                assert!(
                    exception.traceback.contains("waits at script.py, line 15, in inner"),
                    "{exception:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let value = sandbox.run("caught", args![]).await.unwrap();
    assert_eq!(value.as_str(), r#"[["sandbox.asyncio","sandbox.asyncio"],"goes on"]"#);
}

#[tokio::test]
async fn pending_tasks_and_generators_end_with_the_call() {
    let script = "
async def slow(name):
    try:
        await hostcall('never')
    finally:
        said.append(await hostcall('echo', name))
async def items(name):
    try:
        yield name
    finally:
        said.append(await hostcall('echo', name))
kept = []
async def tasks():
    kept.extend(asyncio.create_task(slow(i)) for i in range(20))
    await asyncio.sleep(0)
async def generators():
    for name in 'abcdefgh':
        kept.append(items(name))
        await anext(kept[-1])
async def dropped():
    async for _ in items('dropped'):
        break
def dropped_later():
    async def begin():
        generator = items('later')
        await anext(generator)
        return generator
    run(begin())
async def restarts():
    async def again(n):
        try:
            await hostcall('never')
        finally:
            said.append(n)
            if n: kept.append(asyncio.create_task(again(n - 1)))
    asyncio.create_task(again(3))
    await asyncio.sleep(0)
def callbacks():
    loop = asyncio.get_event_loop()
    loop.call_soon(said.append, 'soon')
    loop.call_later(60, said.append, 'later')
def own_loop():
    loop = asyncio.new_event_loop()
    kept.append(loop)
    loop.create_task(slow('mine'))
    loop.run_until_complete(asyncio.sleep(0))
def by_hand():
    kept.append(hostcall('never'))
    async def begin():
        # Without other tasks it would wait here.
        asyncio.get_running_loop().call_soon(int)
        kept[-1].send(None)
    run(begin())
def closed_too_early():
    loop = asyncio.new_event_loop()
    kept.append(loop.create_task(hostcall('gate')))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return run(hostcall('open', 'closed'))
def take():
    taken = list(said)
    said.clear()
    return taken
";
    let sandbox = sandbox(&format!("{IMPORTS}{script}")).await;
    let numbers: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for (function, left) in [
        ("tasks", format!("[{}]", numbers.join(","))),
        // The most recent first, as with nested contexts.
        ("generators", r#"["h","g","f","e","d","c","b","a"]"#.to_owned()),
        ("dropped", r#"["dropped"]"#.to_owned()),
        ("dropped_later", r#"["later"]"#.to_owned()),
        ("restarts", "[3,2,1,0]".to_owned()),
        ("callbacks", r#"["soon"]"#.to_owned()),
        ("own_loop", r#"["mine"]"#.to_owned()),
        ("by_hand", "[]".to_owned()),
        ("closed_too_early", "[]".to_owned()),
    ] {
        sandbox.run(function, args![]).await.unwrap();
        let found = sandbox.run("take", args![]).await.unwrap();
        assert_eq!(found.as_str(), left, "{function}");
    }
    // The script's own loop can be used again, and no hostcall is pending.
    sandbox
        .load_script(
            "
loop = next(each for each in kept if isinstance(each, asyncio.AbstractEventLoop))
assert loop.run_until_complete(hostcall('echo', 1)) == 1
assert attempt(run, asyncio.Event().wait()).startswith('DeadlockError')
",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn failures_of_background_tasks_are_reported() {
    let bad = "
async def bad(n):
    raise ValueError(f'bad {n}')
";
    let rows = [
        (
            "left behind and kept",
            "
async def main():
    said.append(asyncio.create_task(bad(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
",
            vec!["Task exception was never retrieved"],
        ),
        (
            "dropped",
            "
async def main():
    asyncio.create_task(bad(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
",
            vec!["Task exception was never retrieved"],
        ),
        (
            "began only at the end",
            "
async def main():
    async def late():
        try:
            await hostcall('never')
        finally:
            await bad(1)
    asyncio.create_task(late())
    await asyncio.sleep(0)
",
            vec!["Task exception was never retrieved"],
        ),
        (
            "within run, by name",
            "
async def inner():
    said.append(asyncio.create_task(bad(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
async def main():
    run(inner())
",
            vec!["Task exception was never retrieved"],
        ),
        (
            "among many that need no report",
            "
async def nothing(): pass
async def main():
    said.append(asyncio.create_task(bad(1)))
    for _ in range(3):
        await asyncio.gather(*(nothing() for _ in range(1000)))
",
            vec!["Task exception was never retrieved"],
        ),
        (
            "asked for",
            "
async def main():
    said.append(asyncio.create_task(bad(1)))
    try:
        await said[0]
    except ValueError:
        said.append(asyncio.create_task(bad(2)))
        await asyncio.wait([said[1]])
        said[1].exception()
",
            vec![],
        ),
        (
            "a callback",
            "
async def main():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
",
            vec!["Exception in callback"],
        ),
        (
            "the closing of an async generator",
            "
async def items():
    try:
        yield 1
    finally:
        await bad(1)
async def main():
    said.append(items())
    await anext(said[0])
",
            vec!["an error occurred during closing of asynchronous generator"],
        ),
        (
            "a task that will not end",
            "
async def main():
    async def stubborn():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    said.append(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)
",
            vec!["A task cannot be ended: it waits for a result that can never arrive"],
        ),
        (
            "sys.exit, which ends what ran the loop",
            "
async def main():
    async def leave():
        said.append(asyncio.create_task(exits()))
        await hostcall('never')
    async def exits(): raise SystemExit(3)
    try:
        run(leave())
    except SystemExit:
        pass
",
            vec![],
        ),
        (
            "a handler of user code",
            "
from sandbox.logging import error
async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: error('mine: %s', context['exception']))
    said.append(asyncio.create_task(bad(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
",
            vec!["mine: bad 1"],
        ),
    ];
    for (what, script, expected) in rows {
        let records = records(&format!("{bad}{script}")).await;
        assert_eq!(records.len(), expected.len(), "{what}: {records:?}");
        for ((level, message), begin) in records.iter().zip(expected) {
            assert_eq!(*level, Level::Error, "{what}");
            assert!(message.starts_with(begin), "{what}: {message}");
            if begin.starts_with("Task exception") {
                assert!(message.ends_with("ValueError: bad 1"), "{what}: {message}");
                assert!(!message.contains("isola_guest"), "{what}: {message}");
            }
        }
    }
}
