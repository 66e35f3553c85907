//! Tests of exit codes, limits and interrupts.

use std::time::Duration;

use crate::fixture::{Running, TestDir};

const PYTHON: &str = "
import itertools, time
def spin():
    while True: pass
def wait():
    time.sleep(60)
def count():
    yield from itertools.count()
def hoard():
    kept = []
    while True: kept.append('x' * 1000000)
def dive():
    dive()
def flood():
    while True: print('x' * 1000)
def fail():
    raise ValueError('no such user')
def call_host():
    import asyncio
    from sandbox.asyncio import hostcall
    return asyncio.run(hostcall('anything', 1))
def unfit():
    return {'deep': [float('nan')]}
";

const JAVASCRIPT: &str = "
function spin() { for (;;) {} }
async function wait() { await new Promise((done) => setTimeout(done, 60000)); }
function hoard() { const kept = []; for (;;) kept.push(new Uint8Array(1 << 20).fill(1)); }
function dive() { return 1 + dive(); }
function fail() {
    throw new TypeError('no such user');
}
";

#[test]
fn each_outcome_has_its_exit_code() {
    let dir = TestDir::with("s.py", PYTHON).file("s.js", JAVASCRIPT);
    for (args, code, message) in [
        (&["s.py", "-f", "fail"][..], 1, "error: ValueError: no such user\nTraceback"),
        (&["s.py", "-f", "dive"], 1, "error: calls nest deeper than the limit"),
        (&["s.py", "-f", "flood"], 1, "error: the call's output is larger than the limit"),
        (&["s.py", "-f", "call_host"], 1, "the host has no function \"anything\""),
        (&["s.py", "-f", "unfit"], 1, "$.deep[0]"),
        (&["s.py", "-f", "spin", "--cpu-timeout", "200ms"], 124, "hint: allow more with --cpu"),
        (&["s.py", "-f", "spin", "--timeout", "200ms"], 124, "hint: allow more with --timeout"),
        (&["s.py", "-f", "wait", "--timeout", "200ms"], 124, "its limit of 200ms"),
        (&["s.py", "-f", "hoard", "--max-memory", "96M"], 137, "limit of 96 MiB"),
        (&["s.js", "-f", "fail"], 1, "error: TypeError: no such user\n    at fail (s.js:"),
        (&["s.js", "-f", "dive"], 1, "error: calls nest deeper than the limit"),
        (&["s.js", "-f", "spin", "--cpu-timeout", "200ms"], 124, "CPU time"),
        (&["s.js", "-f", "wait", "--timeout", "200ms"], 124, "its limit of 200ms"),
        (&["s.js", "-f", "hoard", "--max-memory", "96M"], 137, "hint: allow more with --max-mem"),
    ] {
        let ran = dir.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{args:?}: {}", ran.stderr);
    }
}

/// The message of `sys.exit` is printed without `error:`, as by `python3`.
#[test]
fn message_of_sys_exit_has_no_error_prefix() {
    let dir = TestDir::with(
        "s.py",
        "import sys\ndef end(how): sys.exit({'words': 'no such user', 'none': None}.get(how, 3))\n",
    );
    for (how, code, stderr) in [("number", 3, ""), ("none", 0, ""), ("words", 1, "no such user\n")]
    {
        let ran = dir.run(&["s.py", "-f", "end", "--arg", &format!("\"{how}\"")]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), stderr), "{how}: {ran:?}");
    }
}

#[test]
fn traceback_contains_lines_but_no_directory() {
    let dir = TestDir::with("s.py", "\n\ndef main():\n    raise KeyError('k')\n");
    let path = dir.path().join("s.py");
    let stderr = dir.run(&[path.to_str().unwrap()]).failed(1);
    assert!(stderr.contains("File \"s.py\", line 4, in main"), "{stderr}");
    assert!(!stderr.contains(dir.path().to_str().unwrap()), "{stderr}");
}

#[test]
fn timeout_covers_the_top_level_and_endless_output() {
    let dir = TestDir::with("top.py", "while True: pass").file("s.py", PYTHON);
    for args in [&["top.py"][..], &["s.py", "-f", "count"]] {
        let args: Vec<_> = args.iter().copied().chain(["--timeout", "300ms"]).collect();
        let stderr = dir.run(&args).failed(124);
        assert!(stderr.contains("the run took more time than its limit of 300ms"), "{stderr}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_guest() {
    let script = "
import itertools, time
def spin():
    yield 'begins'
    while True: pass
def wait():
    yield 'begins'
    time.sleep(60)
";
    let dir = TestDir::with("s.py", script);
    for function in ["spin", "wait"] {
        let mut running = dir.start(&["s.py", "-f", function]);
        assert_eq!(running.line(), "\"begins\"\n");
        running.interrupt();
        let (code, stderr, took) = running.end();
        assert_eq!((code, stderr.as_str()), (Some(130), ""), "{function}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    let mut running = dir.start(&["s.py", "-f", "spin", "--events"]);
    running.line();
    running.interrupt();
    let event = running.line();
    assert_eq!(event, "{\"type\":\"error\",\"data\":\"interrupted\",\"code\":\"interrupted\"}\n");
    assert_eq!(running.end().0, Some(130));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_compiler() {
    let cache = TestDir::new();
    let dir = TestDir::with("s.py", "");
    let mut command = dir.command(&["run", "s.py"]);
    command.env("XDG_CACHE_HOME", cache.path());
    let mut running = Running::of(command);
    assert!(running.first_stderr().starts_with("compiling"));
    running.interrupt();
    let (code, stderr, took) = running.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// The pipe is not read, so the command is blocked in a write.
#[cfg(unix)]
#[test]
fn blocked_output_does_not_delay_ctrl_c_or_timeout() {
    let dir = TestDir::with("s.py", PYTHON);
    let running = dir.start(&["s.py", "-f", "count", "--timeout", "500ms"]);
    let (code, _, took) = running.end();
    assert_eq!(code, Some(124));
    assert!(took < Duration::from_secs(10), "{took:?}");

    let running = dir.start(&["s.py", "-f", "count"]);
    running.fill_stdout();
    running.interrupt();
    let (code, _, took) = running.end();
    assert_eq!(code, Some(130));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
