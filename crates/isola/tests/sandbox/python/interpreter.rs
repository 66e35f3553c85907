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

#[tokio::test]
async fn versions_of_the_interpreter_and_its_library_are_stated() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import csv, platform, sys, time
def versions():
    return [sys.version, platform.python_version(), list(sys.version_info[:3])]
def guess():
    # A quadratic search in older libraries: minutes.
    start = time.process_time()
    try:
        csv.Sniffer().sniff('\"a\\n' * 20_000)
    except csv.Error:
        pass
    return time.process_time() - start < 20
",
        )
        .await
        .unwrap();
    let value = sandbox.run("versions", args![]).await.unwrap();
    let (version, number, parts): (String, String, Vec<u32>) = value.to().unwrap();
    assert_eq!((number.as_str(), parts.as_slice()), ("3.14.0", &[3, 14, 0][..]));
    assert!(version.starts_with("3.14.0 (main, "), "{version}");
    let (_, library) = version.split_once("], standard library 3.14.").unwrap();
    assert!(library.parse::<u32>().unwrap() >= 2, "{version}");
    assert!(sandbox.run("guess", args![]).await.unwrap().to::<bool>().unwrap());
}

#[tokio::test]
async fn small_objects_keep_their_content_in_any_order_of_allocation() {
    let limits = Limits { max_memory: 128 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    sandbox
        .load_script(
            "
import random
def churn(rounds):
    order = random.Random(7)
    kept = {}
    for number in range(rounds):
        size = order.choice((0, 1, 15, 16, 17, 100, 495, 496, 497, 512, 513, 4096, 70_000))
        kept[number % 4_999] = (size, bytes([number % 256]) * size, bytearray(size))
        if number % 3 == 0:
            kept.pop(order.randrange(4_999), None)
        if number % 7 == 0 and kept:
            key = next(iter(kept))
            size, content, grown = kept.pop(key)
            grown.extend(content)
            assert len(grown) == 2 * size
    for size, content, grown in kept.values():
        assert len(content) == size == len(grown) and len(set(content)) <= 1
        assert not any(grown)
    return len(kept)
def peak():
    # Memory of objects of one size is used for those of others, and for large ones.
    for size in range(8, 500, 16):
        objects = [bytes(size) for _ in range(16_000_000 // (size + 40))]
        del objects
    return len(bytearray(24_000_000))
",
        )
        .await
        .unwrap();
    assert!(sandbox.run("churn", args![60_000]).await.unwrap().to::<u32>().unwrap() > 1_000);
    assert_eq!(sandbox.run("peak", args![]).await.unwrap().to::<u32>().unwrap(), 24_000_000);
}

#[tokio::test]
async fn debugging_tools_see_each_allocation() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import tracemalloc
def traced():
    before = [object() for _ in range(1000)]
    tracemalloc.start()
    objects = [bytes(100 + n % 7) for n in range(1000)]
    size, _ = tracemalloc.get_traced_memory()
    del objects, before
    less, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size > 100_000 and less < size - 100_000
",
        )
        .await
        .unwrap();
    assert!(sandbox.run("traced", args![]).await.unwrap().to::<bool>().unwrap());
}

#[tokio::test]
async fn cycles_of_every_callable_object_are_collected() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import functools, gc, operator, weakref
class Node: pass
def collect():
    gc.collect()
    gone = []
    for make in (
        lambda node: operator.methodcaller('name', node),
        lambda node: operator.itemgetter(node),
        lambda node: functools.partial(print, node),
        lambda node: functools.lru_cache(functools.partial(print, node)),
        lambda node: map(print, [node]),
        lambda node: weakref.proxy(node, lambda _, node=node: None),
    ):
        node = Node()
        node.callable = make(node)
        gone.append(weakref.ref(node))
    del node
    gc.collect()
    return [node() is None for node in gone]
",
        )
        .await
        .unwrap();
    let gone: Vec<bool> = sandbox.run("collect", args![]).await.unwrap().to().unwrap();
    assert_eq!(gone, [true; 6]);
}
