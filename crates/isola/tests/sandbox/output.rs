//! Standard output, standard error and logs: streamed, and in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use isola::{Event, Handlers, Language, Level, Limits, Runtime, Value, args};
use test_macros::each_runtime;
use tokio::sync::Notify;

use crate::fixture::{
    Script, events, loaded, log_records, started, started_with, stdout, wait_for,
};

#[each_runtime]
async fn output_arrives_before_the_call_ends(runtime: Runtime) {
    let script = Script {
        python: "
import sys
from sandbox.asyncio import hostcall
async def main():
    print('one')
    print('two', file=sys.stderr)
    await hostcall('wait', None)
    print('three')
",
        javascript: "
async function main() {
    console.log('one');
    console.error('two');
    await hostcall('wait', null);
    console.log('three');
}
",
    };
    // The host answers only after the test has received the output.
    let received = Arc::new(Notify::new());
    let waits = Arc::clone(&received);
    let host = Handlers::new().hostcall("wait", move |_| {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            Ok(Value::null())
        }
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let mut stream = sandbox.run_stream("main", args![]).unwrap();
    let mut next = async || wait_for("the next event", stream.next()).await.unwrap();
    let text = |event: Event| match event {
        Event::Stdout(text) | Event::Stderr(text) => text.trim_end().to_owned(),
        Event::Log(record) => record.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(next().await), "one");
    assert_eq!(text(next().await), "two");
    received.notify_one();
    assert_eq!(text(next().await), "three");
    assert!(matches!(next().await, Event::End(_)));
}

#[each_runtime]
async fn output_of_a_busy_guest_arrives_while_it_is_busy(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    print('start')\n    while True: pass\n",
        javascript: "function main() { console.log('start'); for (;;); }",
    };
    let sandbox = loaded(runtime, script).await;
    let mut stream = sandbox.run_stream("main", args![]).unwrap();
    let first = wait_for("the first event", stream.next()).await;
    assert!(matches!(first, Some(Event::Stdout(_) | Event::Log(_))), "{first:?}");
    drop(stream);
    assert!(sandbox.is_closed());
}

#[each_runtime]
async fn events_keep_their_order(runtime: Runtime) {
    let script = Script {
        python: "
import sys
from sandbox.logging import info
def main():
    print('a', end='')
    yield 1
    print('b', file=sys.stderr)
    info('c')
    yield 2
    print('d')
",
        javascript: "
function* main() {
    console.debug('a');
    yield 1;
    console.error('b');
    console.info('c');
    yield 2;
    console.warn('d');
}
",
    };
    let sandbox = loaded(runtime, script).await;
    let shown: Vec<_> = events(sandbox.run_stream("main", args![]).unwrap())
        .await
        .into_iter()
        .map(|event| match event {
            Event::Stdout(text) => format!("out {}", text.trim_end()),
            Event::Stderr(text) => format!("err {}", text.trim_end()),
            Event::Log(record) => format!("{} {}", record.level, record.message),
            Event::Result(value) => value.to_string(),
            Event::End(_) => "end".to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = match runtime.language() {
        Language::Python => ["out a", "1", "err b", "info c", "2", "out d", "end"],
        Language::JavaScript => ["debug a", "1", "error b", "info c", "2", "warning d", "end"],
    };
    assert_eq!(shown, expected);
}

#[each_runtime]
async fn log_records_have_levels(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.logging import debug, error, info, warning
def main():
    debug('a %s', 1)
    info('b', user='x')
    warning('c')
    error('d')
",
        javascript: "
function main() {
    console.debug('a %s', 1);
    console.info('b', {user: 'x'});
    console.warn('c');
    console.error('d');
}
",
    };
    let sandbox = loaded(runtime, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    let second = match runtime.language() {
        Language::Python => "b user='x'",
        Language::JavaScript => "b { user: 'x' }",
    };
    assert_eq!(
        log_records(&all),
        [(Level::Debug, "a 1"), (Level::Info, second), (Level::Warning, "c"), (Level::Error, "d")]
    );
}

#[tokio::test]
async fn output_of_a_loading_script_is_streamed() {
    let sandbox = started(Runtime::Python).await;
    let all = events(sandbox.load_script("print('loading')").stream().unwrap()).await;
    assert!(matches!(&all[0], Event::Stdout(text) if text == "loading\n"), "{all:?}");
    assert!(matches!(&all[1], Event::End(value) if value.is_null()), "{all:?}");
}

#[tokio::test]
async fn python_standard_streams_are_complete_files() {
    let script = Script {
        python: r"
import os, sys
def main():
    sys.stdout.buffer.write('é'.encode()[:1])
    sys.stdout.buffer.write('é'.encode()[1:])
    sys.stdout.write('\ud800 \x00\n')
    sys.stdout.flush()
    os.write(1, b'raw \xff\n')
    assert sys.stdin.read() == ''
    try:
        input()
    except EOFError:
        return 'no input'
",
        javascript: "",
    };
    let sandbox = loaded(Runtime::Python, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert_eq!(stdout(&all), "é\\ud800 \0\nraw \u{fffd}\n");
    assert!(matches!(all.last(), Some(Event::End(value)) if value.as_str() == "\"no input\""));
}

#[each_runtime]
async fn slow_listener_slows_the_guest(runtime: Runtime) {
    let script = Script {
        python: "
from sandbox.asyncio import hostcall
async def main():
    for i in range(1000):
        yield i
        await hostcall('count', None)
",
        javascript: "
async function* main() {
    for (let i = 0; i < 1000; i++) { yield i; await hostcall('count', null) }
}
",
    };
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let host = Handlers::new().hostcall("count", move |_| {
        counter.fetch_add(1, Relaxed);
        async { Ok(Value::null()) }
    });
    let sandbox = started_with(runtime, Limits::default(), host).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let mut stream = sandbox.run_stream("main", args![]).unwrap();
    for _ in 0..10 {
        assert!(matches!(stream.next().await, Some(Event::Result(_))));
    }
    // The time in which a guest that does not wait would run ahead.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ahead = count.load(Relaxed);
    assert!(ahead < 200, "{ahead} items ahead");
    let rest = events(stream).await;
    assert_eq!(rest.len(), 1000 - 10 + 1);
}

#[each_runtime]
async fn single_large_write_exceeds_the_output_limit(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    print('x' * (40 << 20))\n",
        javascript: "function main() { console.log('x'.repeat(17 << 20)) }",
    };
    let error = loaded(runtime, script).await.run("main", args![]).await.unwrap_err();
    assert_eq!(error.limit(), Some(isola::Limit::Output), "{error}");
}

#[tokio::test]
async fn python_logging_reaches_the_host() {
    let script = Script {
        python: "
import logging
log = logging.getLogger('shop')
def main():
    log.debug('a %s', 1)
    log.info('b')
    log.warning('c')
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception('d')
def own():
    logging.basicConfig(level=logging.INFO, format='%(levelname)s %(message)s', force=True)
    log.debug('hidden')
    log.info('shown')
",
        javascript: "",
    };
    let sandbox = loaded(Runtime::Python, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    let records = log_records(&all);
    assert_eq!(records[..3], [(Level::Debug, "a 1"), (Level::Info, "b"), (Level::Warning, "c")]);
    assert_eq!(records[3].0, Level::Error);
    assert!(records[3].1.starts_with("d\nTraceback"), "{}", records[3].1);
    assert!(records[3].1.ends_with("ZeroDivisionError: division by zero"), "{}", records[3].1);
    // A script can configure logging itself.
    let all = events(sandbox.run_stream("own", args![]).unwrap()).await;
    assert!(matches!(&all[0], Event::Log(record) if record.message == "INFO shown"), "{all:?}");
}
