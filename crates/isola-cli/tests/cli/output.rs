//! Tests of the output streams, and of the time at which output is written.

use std::time::Duration;

use isola::{Language, Runtime};
use serde_json::json;
use test_macros::each_runtime;

use crate::fixture::TestDir;

#[each_runtime]
fn output_is_written_while_the_call_runs(runtime: Runtime) {
    let (file, source) = match runtime.language() {
        Language::Python => (
            "s.py",
            "import time\nprint('loaded')\ndef main():\n    print('called')\n    yield 1\n    \
             time.sleep(60)",
        ),
        Language::JavaScript => (
            "s.js",
            "async function* main() { yield 'loaded'; yield 'called'; yield 1; \
             await new Promise((done) => setTimeout(done, 60000)); }",
        ),
    };
    let dir = TestDir::with(file, source);
    let mut running = dir.start(&[file]);
    let lines: Vec<_> = (0..3).map(|_| running.line().replace('"', "")).collect();
    assert_eq!(lines, ["loaded\n", "called\n", "1\n"]);
    assert!(running.is_running());
}

#[test]
fn output_is_written_while_the_top_level_runs() {
    let dir = TestDir::with("s.py", "import time\nprint('first')\ntime.sleep(60)");
    let mut running = dir.start(&["s.py"]);
    assert_eq!(running.line(), "first\n");
    assert!(running.is_running());
}

#[test]
fn stderr_and_logs_go_to_stderr() {
    let source = "
import sys
from sandbox import logging
def main():
    print('out')
    print('err', file=sys.stderr)
    logging.debug('d')
    logging.warning('careful: %s', 'wet')
    print('open', end='', file=sys.stderr)
    logging.error('broken')
    return 1
";
    let dir = TestDir::with("s.py", source)
        .file("s.js", "function main() { console.info('i'); console.error('e'); return 1; }");
    let ran = dir.run(&["s.py"]);
    assert_eq!(ran.stdout, "out\n1\n");
    // A log record is a separate line.
    let stderr = ran.failed(0);
    assert_eq!(stderr, "err\ndebug: d\nwarning: careful: wet\nopen\nerror: broken\n");
    let ran = dir.run(&["s.js"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("1\n", "info: i\nerror: e\n"));
}

#[test]
fn each_result_is_a_separate_line() {
    let dir = TestDir::with(
        "s.py",
        "def main():\n    print('a', end='')\n    yield 1\n    print('b')\n    yield 2\n    \
         print('c', end='')\n",
    );
    assert_eq!(dir.run(&["s.py"]).succeeded(), "a\n1\nb\n2\nc");
}

#[test]
fn events_are_complete_and_in_order() {
    let dir = TestDir::with(
        "s.py",
        "
import sys
from sandbox import logging
print('loading')
def main(x):
    logging.info('begins')
    yield x
    print('é\\n', end='')
    print('err', file=sys.stderr)
    yield [1.50, 100000000000000000000000000000]
",
    );
    let ran = dir.run(&["s.py", "--arg", "1e2", "--events"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    // The numbers are compared as text.
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"type":"stdout","data":"loading\n"}"#,
            r#"{"type":"log","data":"begins","level":"info"}"#,
            r#"{"type":"result","data":100.0}"#,
            r#"{"type":"stdout","data":"é\n"}"#,
            r#"{"type":"stderr","data":"err\n"}"#,
            r#"{"type":"result","data":[1.5,100000000000000000000000000000]}"#,
            r#"{"type":"end","data":null}"#,
        ]
    );
}

#[test]
fn failures_are_events() {
    let dir = TestDir::with(
        "s.py",
        "def main():\n    print('a')\n    raise ValueError('no')\ndef spin():\n    \
         while True: pass\n",
    )
    .file("broken.py", "def main(:");
    for (args, exit_code, code, prefix) in [
        (&["s.py"][..], 1, "guest_exception", "ValueError: no"),
        (&["broken.py"], 1, "guest_exception", "SyntaxError: "),
        (&["s.py", "-f", "missing"], 1, "guest_exception", "NameError: name 'missing' is"),
        (&["s.py", "-f", "spin", "--cpu-timeout", "200ms"], 124, "cpu_time_limit", "the call"),
        (&["s.py", "-f", "spin", "--timeout", "200ms"], 124, "wall_time_limit", "the run"),
    ] {
        let args: Vec<_> = args.iter().copied().chain(["--events"]).collect();
        let ran = dir.run(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(exit_code), ""), "{ran:?}");
        let events = ran.events();
        let last = events.last().unwrap();
        assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!(code)), "{last}");
        assert!(last["data"].as_str().unwrap().starts_with(prefix), "{last}");
        let ends = events.iter().filter(|event| event["type"] == "end" || event["type"] == "error");
        assert_eq!(ends.count(), 1, "{events:?}");
    }
}

#[test]
fn usage_errors_are_not_events() {
    let dir = TestDir::with("s.py", "");
    for args in [&["s.py", "--arg", "x", "--events"], &["s.py", "--max-memory", "1M", "--events"]] {
        let ran = dir.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }
}

#[test]
fn broken_pipe_ends_the_run_silently() {
    let dir = TestDir::with(
        "s.py",
        "import itertools\ndef main():\n    yield from itertools.count()\ndef talk():\n    \
         while True: print('x')\n",
    );
    for args in [&["s.py"][..], &["s.py", "--events"], &["s.py", "-f", "talk"]] {
        let mut running = dir.start(args);
        assert!(!running.line().is_empty());
        running.stop_reading();
        let (code, stderr, took) = running.end();
        assert_eq!((code, stderr.as_str()), (Some(141), ""), "{args:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
