//! Standard output, standard error and logs: streamed, and in order.

use std::time::Duration;

use futures_util::StreamExt as _;
use isola::{Event, Handlers, Level, Limits, Runtime, Value, args};
use tokio::sync::mpsc;

use crate::fixture::{BOTH, Script, events, loaded, started_with};

#[tokio::test]
async fn output_arrives_before_the_call_ends() {
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
    for runtime in BOTH {
        // The host answers only after the test has received the output.
        let (seen, waits) = mpsc::channel::<()>(1);
        let waits = std::sync::Arc::new(tokio::sync::Mutex::new(waits));
        let host = Handlers::new().hostcall("wait", move |_| {
            let waits = std::sync::Arc::clone(&waits);
            async move {
                waits.lock().await.recv().await;
                Ok(Value::null())
            }
        });
        let sandbox = started_with(runtime, Limits::default(), host).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let mut stream = sandbox.run_stream("main", args![]).unwrap();
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap()
        };
        let text = |event: Event| match event {
            Event::Stdout(text) | Event::Stderr(text) => text.trim_end().to_owned(),
            Event::Log(record) => record.message,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(next().await), "one");
        assert_eq!(text(next().await), "two");
        seen.send(()).await.unwrap();
        assert_eq!(text(next().await), "three");
        assert!(matches!(next().await, Event::End(_)));
    }
}

#[tokio::test]
async fn output_of_a_busy_guest_arrives_while_it_is_busy() {
    let script = Script {
        python: "def main():\n    print('start')\n    while True: pass\n",
        javascript: "function main() { console.log('start'); for (;;); }",
    };
    for runtime in BOTH {
        let sandbox = loaded(runtime, script).await;
        let mut stream = sandbox.run_stream("main", args![]).unwrap();
        let first = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap();
        assert!(matches!(first, Some(Event::Stdout(_) | Event::Log(_))), "{first:?}");
        drop(stream);
        assert!(sandbox.is_closed());
    }
}

#[tokio::test]
async fn events_keep_their_order() {
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
    for runtime in BOTH {
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
        let expected = match runtime {
            Runtime::Python => ["out a", "1", "err b", "info c", "2", "out d", "end"],
            Runtime::JavaScript => ["debug a", "1", "error b", "info c", "2", "warning d", "end"],
        };
        assert_eq!(shown, expected);
    }
}

#[tokio::test]
async fn log_records_have_levels() {
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
    for runtime in BOTH {
        let sandbox = loaded(runtime, script).await;
        let levels: Vec<_> = events(sandbox.run_stream("main", args![]).unwrap())
            .await
            .into_iter()
            .filter_map(|event| match event {
                Event::Log(record) => Some((record.level, record.message)),
                _ => None,
            })
            .collect();
        let second = match runtime {
            Runtime::Python => "b user='x'",
            Runtime::JavaScript => "b { user: 'x' }",
        };
        assert_eq!(
            levels,
            [
                (Level::Debug, "a 1".to_owned()),
                (Level::Info, second.to_owned()),
                (Level::Warning, "c".to_owned()),
                (Level::Error, "d".to_owned())
            ]
        );
    }
}

#[tokio::test]
async fn output_of_a_loading_script_is_streamed() {
    let sandbox = crate::fixture::started(Runtime::Python).await;
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
    let text: String = all
        .iter()
        .filter_map(|event| match event {
            Event::Stdout(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "é\\ud800 \0\nraw \u{fffd}\n");
    assert!(matches!(all.last(), Some(Event::End(value)) if value.as_str() == "\"no input\""));
}

#[tokio::test]
async fn slow_listener_slows_the_guest() {
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
    for runtime in BOTH {
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&count);
        let host = Handlers::new().hostcall("count", move |_| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async { Ok(Value::null()) }
        });
        let sandbox = started_with(runtime, Limits::default(), host).await;
        sandbox.load_script(script.of(runtime)).await.unwrap();
        let mut stream = sandbox.run_stream("main", args![]).unwrap();
        for _ in 0..10 {
            assert!(matches!(stream.next().await, Some(Event::Result(_))));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ahead = count.load(std::sync::atomic::Ordering::Relaxed);
        assert!(ahead < 200, "{runtime}: {ahead} items ahead");
        let rest = events(stream).await;
        assert_eq!(rest.len(), 1000 - 10 + 1, "{runtime}");
    }
}

#[tokio::test]
async fn single_large_write_exceeds_the_output_limit() {
    let script = Script {
        python: "def main():\n    print('x' * (40 << 20))\n",
        javascript: "function main() { console.log('x'.repeat(17 << 20)) }",
    };
    for runtime in BOTH {
        let error = loaded(runtime, script).await.run("main", args![]).await.unwrap_err();
        assert_eq!(error.limit(), Some(isola::Limit::Output), "{runtime}: {error}");
    }
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
    let records: Vec<_> = all
        .into_iter()
        .filter_map(|event| match event {
            Event::Log(record) => Some((record.level, record.message)),
            _ => None,
        })
        .collect();
    assert_eq!(
        records[..3],
        [
            (Level::Debug, "a 1".to_owned()),
            (Level::Info, "b".to_owned()),
            (Level::Warning, "c".to_owned())
        ]
    );
    assert_eq!(records[3].0, Level::Error);
    assert!(records[3].1.starts_with("d\nTraceback"), "{}", records[3].1);
    assert!(records[3].1.ends_with("ZeroDivisionError: division by zero"), "{}", records[3].1);
    // A script can configure logging itself.
    let all = events(sandbox.run_stream("own", args![]).unwrap()).await;
    assert!(matches!(&all[0], Event::Log(record) if record.message == "INFO shown"), "{all:?}");
}
