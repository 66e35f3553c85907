//! Limits: exceeding one ends the call with the limit's own error.

use std::time::{Duration, Instant};

use isola::{Error, Handlers, Language, Limit, Limits, Runtime, Value, args};
use test_macros::each_runtime;

use crate::{
    fixture::{RUNTIMES, Script, events, started, started_with, template},
    process::{resident_bytes, thread_cpu_time},
};

async fn fail(runtime: Runtime, script: Script, limits: Limits) -> Error {
    let sandbox = started_with(runtime, limits, isola::DenyAll).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    sandbox.run("main", args![]).await.unwrap_err()
}

#[each_runtime(flavor = "multi_thread", worker_threads = 2)]
async fn endless_loops_are_stopped_at_the_cpu_time_limit(runtime: Runtime) {
    let rows = [
        (
            "a loop",
            Script {
                python: "def main():\n    while True: pass\n",
                javascript: "function main() { for (;;); }",
            },
        ),
        (
            "a regular expression",
            Script {
                python: "import re\ndef main():\n    re.match(r'(a+)+$', 'a' * 40 + 'b')\n",
                javascript: "function main() { /^(a+)+$/.test('a'.repeat(40) + 'b') }",
            },
        ),
        (
            "a sort callback",
            Script {
                python: "
def forever(x):
    while True: pass
def main():
    sorted([3, 1, 2], key=forever)
",
                javascript: "function main() { [3, 1, 2].sort(() => { for (;;); }) }",
            },
        ),
        (
            "a finally that loops",
            Script {
                python: "
def main():
    while True:
        try:
            while True: pass
        finally:
            continue
",
                javascript: "function main() { for (;;) { try { for (;;); } finally { continue } } }",
            },
        ),
        (
            "an except that catches everything",
            Script {
                python: "
def main():
    while True:
        try:
            while True: pass
        except BaseException:
            pass
",
                javascript: "function main() { for (;;) { try { for (;;); } catch { } } }",
            },
        ),
        (
            "one long operation of the interpreter",
            Script {
                python: "def main():\n    return 3 ** (3 ** 20)\n",
                javascript: "
function main() { return Array.from({length: 5_000_000}, (_, i) => -i).sort().length }
",
            },
        ),
        (
            "an async loop that never waits",
            Script {
                python: "
import asyncio
async def main():
    while True:
        await asyncio.sleep(0)
",
                javascript: "async function main() { for (;;) await null }",
            },
        ),
    ];
    let limit = Duration::from_millis(500);
    let limits = Limits { cpu_timeout: Some(limit), ..Limits::default() };
    for (what, script) in rows {
        let sandbox = started_with(runtime, limits.clone(), isola::DenyAll).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let cpu = thread_cpu_time();
        let error = sandbox.run("main", args![]).await.unwrap_err();
        // The call ran only on this thread. The limit counts CPU time, so other load
        // on the machine has no effect.
        let took = thread_cpu_time().saturating_sub(cpu);
        assert_eq!(error.limit(), Some(Limit::CpuTime), "{what}: {error}");
        assert!(took < limit * 12 / 10, "{what}: {took:?}");
        let after = sandbox.run("main", args![]).await.unwrap_err();
        assert!(after.to_string().contains("CPU time"), "{after}");
    }
}

const ENDLESS_TOP_LEVEL: Script = Script { python: "while True: pass", javascript: "for (;;);" };

#[each_runtime]
async fn endless_top_level_is_stopped(runtime: Runtime) {
    let limits = Limits { cpu_timeout: Some(Duration::from_millis(200)), ..Limits::default() };
    let sandbox = started_with(runtime, limits, isola::DenyAll).await;
    let error = sandbox.load_script(ENDLESS_TOP_LEVEL.of(runtime)).await.unwrap_err();
    assert_eq!(error.code(), "cpu_time_limit");
}

#[each_runtime]
async fn waiting_does_not_count_as_cpu_time(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    return await hostcall('slow', 1)
",
        javascript: "async function main() { return await hostcall('slow', 1) }",
    };
    let limits = Limits { cpu_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let host = Handlers::new().hostcall("slow", |payload: Value| async move {
        // Longer than the limit.
        tokio::time::sleep(Duration::from_millis(600)).await;
        Ok(payload)
    });
    let sandbox = started_with(runtime, limits, host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "1");
}

#[each_runtime]
async fn wall_time_includes_waiting(runtime: Runtime) {
    let script = Script {
        python: "import time\ndef main():\n    time.sleep(60)\n",
        javascript: "async function main() { await new Promise(r => setTimeout(r, 60000)) }",
    };
    let sandbox = started_with(runtime, Limits::default(), isola::DenyAll).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let start = Instant::now();
    let call = sandbox.run("main", args![]).timeout(Duration::from_millis(200));
    let error = call.await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::WallTime), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(sandbox.is_closed());
}

#[each_runtime]
async fn cpu_time_limit_can_be_set_for_one_call(runtime: Runtime) {
    let script = Script {
        python: "def main(n):\n    for _ in range(n): pass\n",
        javascript: "function main(n) { for (let i = 0; i < n; i++); }",
    };
    let sandbox = started_with(runtime, Limits::default(), isola::DenyAll).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    sandbox.run("main", args![10]).cpu_timeout(Duration::from_secs(5)).await.unwrap();
    let call = sandbox.run("main", args![1_000_000_000_000_i64]);
    let error = call.cpu_timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.code(), "cpu_time_limit");
    assert!(error.to_string().contains("100ms"), "{error}");
}

#[each_runtime]
async fn memory_limit_is_enforced(runtime: Runtime) {
    let rows = [
        Script {
            python: "def main():\n    x = []\n    while True: x.append(bytearray(1 << 20))\n",
            javascript: "
function main() { const x = []; for (;;) x.push(new Uint8Array(1 << 20).fill(1)) }
",
        },
        Script {
            python: "def main():\n    return len('x' * (1 << 30))\n",
            javascript: "function main() { return new Uint8Array(1 << 30).length }",
        },
        Script {
            python: "def main():\n    x = {}\n    while True: x[len(x)] = str(len(x))\n",
            javascript: "
function main() { const x = new Map(); for (let i = 0;; i++) x.set(i, {text: 'v' + i}) }
",
        },
    ];
    for script in rows {
        let limits = Limits { max_memory: 96 << 20, ..Limits::default() };
        let error = fail(runtime, script, limits).await;
        assert_eq!(error.limit(), Some(Limit::Memory), "{error}");
        assert!(error.to_string().contains("96 MiB"), "{error}");
    }
}

#[tokio::test]
async fn python_continues_after_a_memory_error() {
    let script = Script {
        python: "
def main():
    try:
        bytearray(1 << 30)
    except MemoryError:
        return 'caught'
def bomb():
    bytearray(1 << 30)
",
        javascript: "",
    };
    let limits = Limits { max_memory: 96 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    sandbox.load_script(script.python).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "\"caught\"");
    let error = sandbox.run("bomb", args![]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::Memory));
    assert_eq!(error.exception().unwrap().name, "MemoryError");
    assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "\"caught\"");
}

#[tokio::test]
async fn memory_limit_below_the_interpreter_is_refused() {
    let template = template(Runtime::Python).await;
    let error = template.sandbox().max_memory(1 << 20).create().await.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    assert!(error.to_string().contains("less than the interpreter itself needs"), "{error}");
}

#[each_runtime]
async fn output_limit_is_enforced(runtime: Runtime) {
    let rows = [
        Script {
            python: "def main():\n    while True: print('x' * 1000)\n",
            javascript: "function main() { for (;;) console.log('x'.repeat(1000)) }",
        },
        Script {
            python: "def main():\n    while True: yield 'x' * 1000\n",
            javascript: "function* main() { for (;;) yield 'x'.repeat(1000) }",
        },
        Script {
            python: "def main():\n    while True: print()\n",
            javascript: "function main() { for (;;) console.log() }",
        },
    ];
    let limits = Limits { max_output_size: 64 << 10, ..Limits::default() };
    for script in rows {
        let error = fail(runtime, script, limits.clone()).await;
        assert_eq!(error.limit(), Some(Limit::Output), "{error}");

        // A listener receives the output up to the limit.
        let sandbox = started_with(runtime, limits.clone(), isola::DenyAll).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
        assert!(all.len() > 1);
        assert!(
            matches!(all.last(), Some(isola::Event::Error(e)) if e.limit() == Some(Limit::Output))
        );
    }
}

#[each_runtime]
async fn recursion_limit_is_enforced(runtime: Runtime) {
    let rows = [
        (
            "a function",
            Script {
                python: "def main():\n    return main()\n",
                javascript: "function main() { return main() + 1 }",
            },
        ),
        (
            "through the interpreter's own code",
            Script {
                python: "
class A:
    def __repr__(self): return repr(A())
def main():
    return repr(A())
",
                javascript: "
function main() { const a = {toJSON() { return JSON.stringify(a) }}; return JSON.stringify(a) }
",
            },
        ),
        (
            "a deep value",
            Script {
                python: "
def main():
    x = []
    for _ in range(1000000): x = [x]
    return x
",
                javascript: "
function main() { let x = []; for (let i = 0; i < 100000; i++) x = [x]; return x }
",
            },
        ),
        (
            "source code",
            Script {
                python: "def main():\n    eval('(' * 100000 + ')' * 100000)\n    return main()\n",
                javascript: "
function main() { eval('('.repeat(1000000) + '1' + ')'.repeat(1000000)); return main() }
",
            },
        ),
    ];
    for (what, script) in rows {
        let error = fail(runtime, script, Limits::default()).await;
        // These two are refused before any recursion.
        let refused = match runtime.language() {
            Language::Python => what == "source code",
            Language::JavaScript => what == "a deep value",
        };
        let code = if refused { "guest_exception" } else { "recursion_limit" };
        assert_eq!(error.code(), code, "{what}: {error}");
    }
}

#[tokio::test]
async fn higher_recursion_limit_is_enforced() {
    let script = Script {
        python: "def main(n):\n    return 0 if n == 0 else 1 + main(n - 1)\n",
        javascript: "",
    };
    let limits = Limits { max_recursion: 10_000, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    sandbox.load_script(script.python).await.unwrap();
    assert_eq!(sandbox.run("main", args![9_000]).await.unwrap().as_str(), "9000");
    let error = sandbox.run("main", args![20_000]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::Recursion), "{error}");
    assert_eq!(sandbox.run("main", args![10]).await.unwrap().as_str(), "10");
}

#[tokio::test]
async fn handle_limit_is_enforced() {
    let script = Script {
        python: "
files = []
def main():
    while True:
        files.append(open('/data/file', 'rb'))
",
        javascript: "",
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let template = template(Runtime::Python).await;
    let limits = Limits { max_handles: 100, ..Limits::default() };
    let mount = isola::Mount::new(dir.path(), "/data");
    let sandbox = template.sandbox().limits(limits).mount(mount).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script.python).await.unwrap();
    let error = sandbox.run("main", args![]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::Handles), "{error}");
}

/// Tests one runtime after the other, because it measures the process.
#[tokio::test]
async fn memory_of_closed_sandboxes_is_freed() {
    let script = Script {
        python: "def main():\n    global x\n    x = bytearray(b'x') * (100 << 20)\n",
        javascript: "
let x; function main() { x = new Uint8Array(100 << 20).fill(1) }
",
    };
    for runtime in RUNTIMES {
        started(runtime).await;
        let before = resident_bytes();
        for _ in 0..5 {
            let sandbox = started_with(runtime, Limits::default(), isola::DenyAll).await;
            sandbox.load_script(script.of(runtime)).await.unwrap();
            sandbox.run("main", args![]).await.unwrap();
        }
        // Other tests run at the same time, but a leak of 500 MiB would be visible.
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 400 << 20, "{runtime}: {} MiB", grown >> 20);
    }
}

#[each_runtime]
async fn prelude_is_limited(runtime: Runtime) {
    let limits = Limits { cpu_timeout: Some(Duration::from_millis(200)), ..Limits::default() };
    // It does not block the build of the template, and fails in each sandbox.
    let builder = isola::Template::builder(runtime);
    let builder = builder.prelude(ENDLESS_TOP_LEVEL.of(runtime)).limits(limits);
    let template = builder.build().await.unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    let error = sandbox.start().await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::CpuTime), "{error}");
}

#[each_runtime]
async fn value_size_limit_is_enforced(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def send():
    await hostcall('echo', 'x' * (1 << 20))
async def receive():
    await hostcall('big', None)
",
        javascript: "
async function send() { await hostcall('echo', 'x'.repeat(1 << 20)) }
async function receive() { await hostcall('big', null) }
",
    };
    let host = Handlers::new()
        .hostcall("echo", |payload| async move { Ok(payload) })
        .hostcall("big", |_| async { Ok(Value::new(&"x".repeat(1 << 20)).unwrap()) });
    let limits = Limits { max_value_size: 1 << 20, ..Limits::default() };
    let sandbox = started_with(runtime, limits, host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let error = sandbox.run("send", args![]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::ValueSize), "{error}");
    let error = sandbox.run("receive", args![]).await.unwrap_err();
    assert!(error.to_string().contains("is larger than 1048576 bytes"), "{error}");
    let error = sandbox.load_script(" ".repeat((1 << 20) + 1)).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::ValueSize), "{error}");
    assert!(!sandbox.is_closed());
}
