//! Blocking waits: they last as long as requested, and those that cannot end fail.

use isola::{Runtime, args};

use crate::fixture::started;

const WAITS: &str = "
import concurrent.futures, queue, select, selectors, threading, time
taken = threading.Lock()
taken.acquire()
full = queue.Queue(1)
full.put(1)
def condition(timeout=None):
    condition = threading.Condition()
    with condition:
        return condition.wait(timeout)
def nested():
    with taken:
        pass
def attempt(expression):
    wall, cpu = time.monotonic(), time.process_time()
    try:
        result = repr(eval(expression))
    except Exception as error:
        result = type(error).__name__
    return [result, time.monotonic() - wall, time.process_time() - cpu]
";

#[tokio::test]
async fn timed_wait_takes_its_time_and_no_cpu_time() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(WAITS).await.unwrap();
    for (expression, expected) in [
        ("threading.Event().wait(0.2)", "False"),
        ("taken.acquire(timeout=0.2)", "False"),
        ("taken.acquire(True, 0.2)", "False"),
        ("condition(0.2)", "False"),
        ("threading.Semaphore(0).acquire(timeout=0.2)", "False"),
        ("threading.Barrier(2).wait(0.2)", "BrokenBarrierError"),
        ("queue.Queue().get(timeout=0.2)", "Empty"),
        ("queue.SimpleQueue().get(timeout=0.2)", "Empty"),
        ("queue.LifoQueue().get(True, 0.2)", "Empty"),
        ("full.put(2, timeout=0.2)", "Full"),
        ("concurrent.futures.Future().result(0.2)", "TimeoutError"),
        ("select.select([], [], [], 0.2)", "([], [], [])"),
        ("selectors.DefaultSelector().select(0.2)", "[]"),
        ("time.sleep(0.2)", "None"),
    ] {
        let seen = sandbox.run("attempt", args![expression]).await.unwrap();
        let (result, wall, cpu): (String, f64, f64) = seen.to().unwrap();
        assert_eq!(result, expected, "{expression}");
        assert!(wall >= 0.19, "{expression} took {wall} s");
        assert!(cpu < 0.1, "{expression} took {cpu} s of CPU time");
    }
}

#[tokio::test]
async fn wait_that_can_never_end_is_an_error() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(WAITS).await.unwrap();
    for expression in [
        "taken.acquire()",
        "nested()",
        "threading.Event().wait()",
        "condition()",
        "threading.Semaphore(0).acquire()",
        "threading.BoundedSemaphore(0).acquire()",
        "threading.Barrier(2).wait()",
        "queue.Queue().get()",
        "queue.SimpleQueue().get()",
        "queue.LifoQueue().get()",
        "queue.PriorityQueue().get()",
        "full.put(2)",
        "full.join()",
        "concurrent.futures.Future().result()",
        "select.select([], [], [])",
        "selectors.DefaultSelector().select()",
    ] {
        let seen = sandbox.run("attempt", args![expression]).await.unwrap();
        let (result, ..): (String, f64, f64) = seen.to().unwrap();
        assert_eq!(result, "DeadlockError", "{expression}");
    }
}

#[tokio::test]
async fn locks_behave_as_in_cpython() {
    let sandbox = started(Runtime::Python).await;
    let script = "
import _thread, pickle, queue, threading, time
def attempt(call):
    try:
        return repr(call())
    except Exception as error:
        return f'{type(error).__name__}: {error}'
def main():
    lock = threading.Lock()
    out = [lock.acquire(), lock.acquire(False), lock.acquire(blocking=False), lock.locked()]
    out.append(attempt(lambda: lock.acquire(False, 1)))
    out.append(attempt(lambda: lock.acquire(True, -2)))
    lock.release()
    out.append(attempt(lock.release))
    out.append(attempt(lambda: pickle.dumps(lock)))
    out.append(type(lock) is threading.Lock is _thread.LockType)
    again = threading.RLock()
    out.append([again.acquire(), again.acquire(), again.release(), again.release()])
    q = queue.SimpleQueue()
    q.put(1)
    out.append([q.get(), q.empty(), attempt(q.get_nowait)])
    start = time.process_time()
    sum(range(2_000_000))
    out.append(time.process_time() > start)
    return out
";
    sandbox.load_script(script).await.unwrap();
    let expected = serde_json::json!([
        true,
        false,
        false,
        true,
        "ValueError: can't specify a timeout for a non-blocking call",
        "ValueError: timeout value must be a non-negative number",
        "RuntimeError: release unlocked lock",
        "TypeError: cannot pickle '_thread.lock' object",
        true,
        [true, true, null, null],
        [1, true, "Empty: "],
        true
    ]);
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), expected);
}
