//! Exceptions of user code: type, message, and the lines of the user's code.

use isola::{Error, GuestException, Language, Runtime, args};
use test_macros::each_runtime;

use crate::fixture::{Script, loaded, started};

async fn exception(runtime: Runtime, source: &str) -> GuestException {
    let sandbox = started(runtime).await;
    sandbox.load_script_as("user.code", source).await.unwrap();
    match sandbox.run("main", args![]).await {
        Err(Error::Guest(exception)) => exception,
        other => panic!("{runtime}: {other:?}"),
    }
}

#[tokio::test]
async fn exception_has_type_message_and_lines() {
    let python = exception(
        Runtime::Python,
        "\
def inner(n):
    # line 2
    raise ValueError(f'bad {n}')

def main():
    inner(7)
",
    )
    .await;
    assert_eq!((python.name.as_str(), python.message.as_str()), ("ValueError", "bad 7"));
    let trace = &python.traceback;
    assert!(trace.starts_with("Traceback (most recent call last):\n"), "{trace}");
    assert!(trace.contains("File \"user.code\", line 6, in main\n    inner(7)"), "{trace}");
    assert!(trace.contains("line 3, in inner\n    raise ValueError(f'bad {n}')"), "{trace}");
    assert_eq!(trace.matches("  File ").count(), 2, "{trace}");

    let javascript = exception(
        Runtime::JavaScript,
        "\
function inner(n) {
    // line 2
    throw new RangeError(`bad ${n}`);
}
function main() {
    inner(7);
}
",
    )
    .await;
    assert_eq!((javascript.name.as_str(), javascript.message.as_str()), ("RangeError", "bad 7"));
    let trace = &javascript.traceback;
    assert!(trace.contains("inner") && trace.contains("user.code:3:"), "{trace}");
    assert!(trace.contains("main") && trace.contains("user.code:6:"), "{trace}");
    assert_eq!(trace.matches("user.code").count(), 2, "{trace}");
    assert!(!trace.contains("runner") && !trace.contains("entry.js"), "{trace}");
}

#[tokio::test]
async fn async_exception_has_lines() {
    let python = exception(
        Runtime::Python,
        "\
import asyncio
async def inner():
    await asyncio.sleep(0)
    raise KeyError('k')
async def main():
    await asyncio.gather(inner())
",
    )
    .await;
    assert!(python.traceback.contains("line 4, in inner"), "{}", python.traceback);
    assert!(python.traceback.contains("line 6, in main"), "{}", python.traceback);
    assert!(!python.traceback.contains("base_events"), "{}", python.traceback);

    let javascript = exception(
        Runtime::JavaScript,
        "\
async function inner() {
    await null;
    throw new TypeError('k');
}
async function main() {
    await inner();
}
",
    )
    .await;
    assert!(javascript.traceback.contains("user.code:3:"), "{}", javascript.traceback);
}

#[tokio::test]
async fn traceback_contains_the_cause() {
    let python = exception(
        Runtime::Python,
        "\
def main():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise RuntimeError('outer') from error
",
    )
    .await;
    assert!(python.traceback.contains("ZeroDivisionError: division by zero"));
    assert!(python.traceback.contains("direct cause"));

    let javascript = exception(
        Runtime::JavaScript,
        "function main() { throw new Error('outer', {cause: new RangeError('inner cause')}) }",
    )
    .await;
    assert!(javascript.traceback.contains("inner cause"), "{}", javascript.traceback);
}

#[each_runtime]
async fn top_level_error_has_its_line(runtime: Runtime) {
    let rows = match runtime.language() {
        Language::Python => [
            ("x = 1\ny = x +\n", "SyntaxError: invalid syntax", "line 2"),
            ("x = 1\nundefined_name\n", "NameError: ", "line 2"),
        ],
        Language::JavaScript => [
            ("const x = 1;\nconst y = ;\n", "SyntaxError: ", ":2"),
            ("const x = 1;\nundefinedName;\n", "ReferenceError: ", ":2"),
        ],
    };
    for (source, start, line) in rows {
        let sandbox = started(runtime).await;
        let error = sandbox.load_script_as("user.code", source).await.unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
        assert!(error.contains("user.code") && error.contains(line), "{error}");
        // A failed script does not end the sandbox.
        sandbox.load_script("").await.unwrap();
    }
}

#[each_runtime]
async fn unusual_exceptions_are_reported(runtime: Runtime) {
    let rows = match runtime.language() {
        Language::Python => [
            ("def main():\n    raise SystemExit(3)\n", "SystemExit"),
            ("def main():\n    raise KeyboardInterrupt\n", "KeyboardInterrupt"),
            (
                "class Odd(Exception):\n    def __str__(self): raise Odd\ndef main():\n    raise Odd\n",
                "Odd",
            ),
            ("def main():\n    raise ValueError('\\ud800')\n", "ValueError"),
            (
                "def main():\n    raise ExceptionGroup('g', [ValueError(1), TypeError(2)])\n",
                "ExceptionGroup",
            ),
        ],
        Language::JavaScript => [
            ("function main() { throw null }", ""),
            ("function main() { throw 'text' }", ""),
            ("function main() { throw {toString() { throw 1 }} }", ""),
            ("async function main() { throw undefined }", ""),
            (
                "class Odd extends Error { get name() { throw 1 } }\nfunction main() { throw new Odd('m') }",
                "",
            ),
        ],
    };
    for (source, name) in rows {
        let exception = exception(runtime, source).await;
        if !name.is_empty() {
            assert_eq!(exception.name, name, "{source}");
        }
        assert!(!exception.to_string().is_empty());
    }
}

#[each_runtime]
async fn sandbox_is_usable_after_an_exception(runtime: Runtime) {
    let script = Script {
        python: "
def main(fail):
    if fail:
        raise ValueError
    return 'fine'
",
        javascript: "function main(fail) { if (fail) throw new Error(); return 'fine' }",
    };
    let sandbox = loaded(runtime, script).await;
    for _ in 0..3 {
        assert!(sandbox.run("main", args![true]).await.is_err());
        assert_eq!(sandbox.run("main", args![false]).await.unwrap().as_str(), "\"fine\"");
    }
}

#[tokio::test]
async fn python_without_builtins_raises_an_exception() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import builtins
def main():
    for name in list(vars(builtins)):
        setattr(builtins, name, None)
    return 1
",
        )
        .await
        .unwrap();
    for _ in 0..2 {
        let error = sandbox.run("main", args![]).await.unwrap_err();
        assert_eq!(error.code(), "guest_exception", "{error}");
    }
}

#[each_runtime]
async fn patched_builtins_do_not_break_the_runner(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio, json, random, sys, traceback
json.dumps = json.loads = json.JSONEncoder.encode = None
asyncio.BaseEventLoop.run_until_complete = traceback.TracebackException = random.seed = None
sys.stdout = sys.stderr = None
sys.modules.clear()
def main():
    return {'a': [1, 'é']}
",
        javascript: "
JSON.stringify = JSON.parse = null;
Map.prototype.get = Map.prototype.set = null;
Promise.prototype.then = Promise.resolve = null;
Array.prototype[Symbol.iterator] = Array.prototype.push = Array.prototype.map = null;
Object.keys = Object.entries = Object.getPrototypeOf = null;
Function.prototype.call = Function.prototype.apply = null;
globalThis.eval = null;
function main() { return {a: [1, 'é']} }
",
    };
    let value = loaded(runtime, script).await.run("main", args![]).await;
    assert_eq!(value.unwrap().as_str(), r#"{"a":[1,"é"]}"#);
}

#[each_runtime]
async fn long_messages_are_truncated(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    raise ValueError('x' * (60 << 20))\n",
        javascript: "function main() { throw new Error('x'.repeat(10 << 20)) }",
    };
    let exception = exception(runtime, script.of(runtime)).await;
    assert!(exception.message.len() < 100 << 10, "{}", exception.message.len());
    assert!(exception.message.contains("characters"), "{}", exception.message);
    assert!(exception.traceback.len() < 100 << 10, "{}", exception.traceback.len());
}
