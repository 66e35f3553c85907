//! The interpreter and its library: compatibility with CPython on Linux.

use isola::{Limits, Runtime, args};

use crate::fixture::{echo_host, started, started_with};

const ATTEMPT: &str = "
import datetime, locale, zoneinfo
def attempt(expression):
    try:
        return repr(eval(expression))
    except Exception as error:
        return f'{type(error).__name__}: {error}'
def noon(zone):
    at = datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC)
    return at.astimezone(zoneinfo.ZoneInfo(zone)).isoformat()[11:]
def select(name):
    return locale.setlocale(locale.LC_ALL, name)
";

#[tokio::test]
async fn time_zones_and_locales_are_available() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(ATTEMPT).await.unwrap();
    for (expression, expected) in [
        ("noon('UTC')", "'12:00:00+00:00'"),
        ("noon('Etc/UTC')", "'12:00:00+00:00'"),
        ("noon('Europe/Zurich')", "'14:00:00+02:00'"),
        ("noon('America/Argentina/Buenos_Aires')", "'09:00:00-03:00'"),
        ("noon('Asia/Kolkata')", "'17:30:00+05:30'"),
        ("noon('Nowhere/City')", "ZoneInfoNotFoundError: "),
        ("len(zoneinfo.available_timezones()) > 500", "True"),
        ("select('C')", "'C'"),
        ("select('')", "'C"),
        ("select(None) == select(select(None))", "True"),
        ("select('de_DE.UTF-8')", "Error: unsupported locale setting"),
        ("select('xx')", "Error: unsupported locale setting"),
        ("select(('en_US', 'UTF-8'))", "Error: unsupported locale setting"),
        ("locale.setlocale(locale.LC_TIME, 'fr_FR')", "Error: unsupported locale setting"),
        ("locale.setlocale(locale.LC_NUMERIC, 'nonsense')", "Error: unsupported locale setting"),
    ] {
        let seen: String = sandbox.run("attempt", args![expression]).await.unwrap().to().unwrap();
        assert!(seen.starts_with(expected), "{expression}: {seen}");
    }
}

#[tokio::test]
async fn replaced_builtins_behave_like_builtins() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(ATTEMPT).await.unwrap();
    let script = "
import copy, inspect, io, os, pickle, posix, shlex, sys, sysconfig, time, warnings
class Own:
    open = open
    sleep = time.sleep
    clock = time.process_time
    chdir = os.chdir
REPLACED = (open, time.sleep, time.process_time, os.chdir)
def warned():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        import sre_parse
    return caught[0].filename
";
    sandbox.load_script_as("stand_ins.py", script).await.unwrap();
    for (expression, expected) in [
        // As an attribute of a class a builtin is not a method.
        ("Own().open('/dev/null').read()", "''"),
        ("Own().sleep(0)", "None"),
        ("type(Own().clock())", "<class 'float'>"),
        ("Own().chdir('/')", "None"),
        ("[each.__name__ for each in REPLACED]", "['open', 'sleep', 'process_time', 'chdir']"),
        ("[each.__module__ for each in REPLACED]", "['_io', 'time', 'time', 'posix']"),
        ("all(pickle.loads(pickle.dumps(each)) is each for each in REPLACED)", "True"),
        ("all(copy.deepcopy(each) is each for each in REPLACED)", "True"),
        ("str(inspect.signature(open))", r#""(file, mode='r', buffering=-1, encoding=None"#),
        ("open", "<built-in function open>"),
        ("open.__self__ is io.open.__self__ is sys.modules['_io']", "True"),
        ("[sys.stdin.name, sys.stdout.name, sys.stderr.name]", "['<stdin>', '<stdout>', '<std"),
        ("[sys.stdin.mode, sys.stdout.mode, sys.stderr.mode]", "['r', 'w', 'w']"),
        ("[sys.stdin.fileno(), sys.stdin.read(), sys.stdin.buffer.read()]", "[0, '', b'']"),
        ("input()", "EOFError: "),
        ("shlex.split(sysconfig.get_config_var('CONFIG_ARGS'))[0]", "'-C'"),
        // A warning about an import has the line of the import.
        ("warned()", "'stand_ins.py'"),
    ] {
        let seen: String = sandbox.run("attempt", args![expression]).await.unwrap().to().unwrap();
        assert!(seen.starts_with(expected), "{expression}: {seen}");
    }
}

#[tokio::test]
async fn byte_order_mark_is_ignored() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script("\u{feff}first = 1\n").await.unwrap();
    sandbox
        .load_script_as("other.py", "\u{feff}# -*- coding: utf-8 -*-\nsecond = 2\n")
        .await
        .unwrap();
    assert_eq!(sandbox.evaluate("\u{feff}first + second").await.unwrap(), serde_json::json!(3));
    let error = sandbox.load_script("first = \u{feff}1\n").await.unwrap_err();
    assert_eq!(error.exception().unwrap().name, "SyntaxError");
}

#[tokio::test]
async fn garbage_is_collected_before_memory_is_refused() {
    let limits = Limits { max_memory: 128 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    let script = "
import array, io
SIZE = 20 * 1024 * 1024
class Cycle:
    def __init__(self, make):
        self.me = self
        self.content = make()
def closure():
    content = bytearray(SIZE)
    def inner():
        return content, inner
    return inner
def appended():
    content = bytearray()
    for _ in range(20):
        content += bytes(1 << 20)
    return content
makers = {
    'bytearray': lambda: Cycle(lambda: bytearray(SIZE)),
    'bytes': lambda: Cycle(lambda: bytes(SIZE)),
    'str': lambda: Cycle(lambda: 'x' * SIZE),
    'list': lambda: Cycle(lambda: [None] * (SIZE // 4)),
    'array': lambda: Cycle(lambda: array.array('d', [0]) * (SIZE // 8)),
    'stream': lambda: Cycle(lambda: io.BytesIO(bytes(SIZE))),
    'appended': lambda: Cycle(appended),
    'closure': closure,
}
def one_at_a_time(kind):
    for _ in range(20):
        makers[kind]()
def too_much():
    try:
        kept = [bytearray(SIZE) for _ in range(20)]
    except MemoryError:
        return 'refused'
";
    sandbox.load_script(script).await.unwrap();
    let kinds = ["bytearray", "bytes", "str", "list", "array", "stream", "appended", "closure"];
    for kind in kinds {
        sandbox.run("one_at_a_time", args![kind]).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
    let end = sandbox.run("too_much", args![]).await.unwrap();
    assert_eq!(end, serde_json::json!("refused"));
    sandbox.run("one_at_a_time", args!["bytes"]).await.unwrap();
}

#[tokio::test]
async fn compressed_bodies_are_decoded() {
    let sandbox = started_with(Runtime::Python, Limits::default(), echo_host()).await;
    let script = "
import asyncio, gzip, zlib
from sandbox.http import fetch
BODY = b'hello world ' * 5000
def raw(data):
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()
BODIES = {
    'gzip': gzip.compress(BODY), 'GZIP': gzip.compress(BODY), 'x-gzip': gzip.compress(BODY),
    'deflate': zlib.compress(BODY), ' deflate ': raw(BODY),
    'deflate, gzip': gzip.compress(zlib.compress(BODY)), 'gzip,identity': gzip.compress(BODY),
    'gzip, gzip': gzip.compress(gzip.compress(BODY)), 'identity': BODY, 'br': BODY,
    'br, gzip': BODY, 'Gzip': gzip.compress(BODY[:100]) + gzip.compress(BODY[100:]),
}
def request(encoding, body):
    return fetch('POST', 'http://host/', headers={'x-encoding': encoding}, body=body)
async def later(encoding, body):
    async with request(encoding, body) as response:
        return await response.aread()
def main():
    wrong = []
    for encoding, body in BODIES.items():
        with request(encoding, body) as response:
            whole = response.read()
        with request(encoding, body) as response:
            pieces = b''.join(response.iter_bytes())
        small = b''
        with request(encoding, body) as response:
            while data := response.read(1000):
                small += data
        if not whole == pieces == small == asyncio.run(later(encoding, body)) == BODY:
            wrong.append(encoding)
    return wrong
def broken(encoding, body):
    body = gzip.compress(BODY)[:-20] if body == 'cut' else body.encode()
    try:
        with request(encoding, body) as response:
            return response.text()
    except OSError as error:
        return f'{type(error).__name__}: {error}'
";
    sandbox.load_script(script).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), serde_json::json!([]));
    for (encoding, body, expected) in [
        ("gzip", "not gzip", "RequestError: the body is not valid gzip data"),
        ("deflate", "\u{7}not deflate", "RequestError: the body is not valid deflate data"),
        ("gzip", "cut", "RequestError: the body ends within its gzip data"),
    ] {
        let seen: String =
            sandbox.run("broken", args![encoding, body]).await.unwrap().to().unwrap();
        assert!(seen.starts_with(expected), "{encoding}: {seen}");
    }
}
