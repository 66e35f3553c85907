//! Modules and functions that exist without what they stand for: packages that only
//! mention them work, and a use is refused with the reason.

use std::collections::BTreeMap;

use isola::{Mount, Permission, Runtime, Sandbox, Template, args};

use crate::fixture::started;

const ATTEMPT: &str = "
def attempt(expression):
    try:
        return repr(eval(expression))
    except Exception as error:
        return f'{type(error).__name__}: {error}'
";

/// Starts a sandbox, runs a script and checks that each expression has a value, or
/// raises an error, that starts with the expected text.
async fn check(script: &str, rows: &[(&str, &str)]) {
    let sandbox = started(Runtime::Python).await;
    check_in(&sandbox, script, rows).await;
}

async fn check_in(sandbox: &Sandbox, script: &str, rows: &[(&str, &str)]) {
    sandbox.load_script(ATTEMPT).await.unwrap();
    sandbox.load_script(script).await.unwrap();
    for (expression, expected) in rows {
        let seen: String = sandbox.run("attempt", args![expression]).await.unwrap().to().unwrap();
        assert!(seen.starts_with(expected), "{expression}: {seen}");
    }
}

#[tokio::test]
async fn contexts_of_tls_are_configured_and_connections_are_refused() {
    let script = "
import asyncio.sslproto, http.client, io, ssl, urllib.request
context = ssl.create_default_context()
bio = ssl.MemoryBIO()
";
    let refused = "SSLError: TLS is not available in this guest: use sandbox.http, urllib.request, \
                   requests or httpx for HTTPS";
    check(
        script,
        &[
            (
                "context.check_hostname, context.verify_mode",
                "(True, <VerifyMode.CERT_REQUIRED: 2>)",
            ),
            ("setattr(context, 'minimum_version', ssl.TLSVersion.TLSv1_2)", "None"),
            ("context.minimum_version", "<TLSVersion.TLSv1_2: 771>"),
            (
                "setattr(context, 'verify_mode', ssl.CERT_NONE)",
                "ValueError: Cannot set verify_mode",
            ),
            ("ssl.OP_NO_SSLv3 in context.options", "True"),
            ("context.set_alpn_protocols(['h2'])", "None"),
            ("context.load_verify_locations('/nothing.pem')", "FileNotFoundError: "),
            ("context.wrap_bio(bio, ssl.MemoryBIO(), server_hostname='a')", refused),
            ("isinstance(ssl.SSLError(1, 'x'), OSError), str(ssl.SSLError(1, 'x'))", "(True, 'x')"),
            ("bio.write(b'abc'), bio.read(2), bio.pending, bio.eof", "(3, b'ab', 1, False)"),
            ("len(ssl.RAND_bytes(5)), ssl.HAS_TLSv1_3", "(5, False)"),
            (
                "ssl.OPENSSL_VERSION.startswith('OpenSSL 3'), ssl.OPENSSL_VERSION_INFO[0]",
                "(True, 3)",
            ),
            ("ssl.Purpose.SERVER_AUTH.oid", "'1.3.6.1.5.5.7.3.1'"),
            (
                "urllib.request.urlopen('https://localhost/')",
                "URLError: <urlopen error HTTP is disabled for this sandbox>",
            ),
            (
                "http.client.HTTPSConnection('localhost').request('GET', '/')",
                "ConnectionError: HTTP is",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn sockets_are_refused_with_the_reason() {
    let refused = "a sandbox has no sockets: use sandbox.http, urllib.request, requests or httpx";
    check(
        "import email.utils, socket",
        &[
            ("socket.socket()", &format!("PermissionError: [Errno 2] {refused}")),
            (
                "socket.create_connection(('localhost', 80))",
                &format!("gaierror: [Errno -4] {refused}"),
            ),
            ("socket.gethostbyname('localhost')", &format!("gaierror: [Errno -4] {refused}")),
            ("socket.inet_aton('127.0.0.1')", "b'\\x7f\\x00\\x00\\x01'"),
            ("socket.gethostname(), socket.getfqdn()", "('localhost', 'localhost')"),
            ("email.utils.make_msgid().endswith('@localhost>')", "True"),
        ],
    )
    .await;
}

#[tokio::test]
async fn user_owns_the_files() {
    check(
        "
import getpass, grp, os, pathlib, pickle, pwd, shutil
status = os.stat('/')
",
        &[
            ("os.getuid() == os.geteuid() == status.st_uid == 0", "True"),
            ("os.getgid() == os.getegid() == status.st_gid == os.getgroups()[0]", "True"),
            ("os.getresuid(), os.getresgid()", "((0, 0, 0), (0, 0, 0))"),
            (
                "pwd.getpwuid(os.getuid()).pw_name, os.getlogin(), getpass.getuser()",
                "('root', 'root', 'root')",
            ),
            ("pwd.getpwall() == [pwd.getpwnam('root')]", "True"),
            ("grp.getgrgid(0).gr_name, grp.getgrnam('root').gr_mem", "('root', [])"),
            ("pwd.getpwuid(1000)", "KeyError: 'getpwuid(): uid not found: 1000'"),
            ("pickle.loads(pickle.dumps(pwd.getpwuid(0)))", "pwd.struct_passwd(pw_name='root', "),
            ("pathlib.Path('/').owner(), pathlib.Path.home()", "('root', PosixPath('/root'))"),
            (
                "os.path.basename(os.path.expanduser('~/x')), os.path.expanduser('~unknown')",
                "('x', '~unknown')",
            ),
            ("shutil.chown('/', 'root')", "None"),
            ("os.chown('/', -1, -1), os.chown('/', 0, 0)", "(None, None)"),
            ("os.chown('/', 1000, -1), os.stat('/').st_uid", "(None, 0)"),
            ("os.chown('/nothing', 0, 0)", "FileNotFoundError: "),
        ],
    )
    .await;
}

#[tokio::test]
async fn functions_of_os_have_one_answer() {
    check(
        "
import inspect, os, pickle, platform, shutil, signal, sysconfig
class Own:
    getuid = os.getuid
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append('term'))
",
        &[
            ("os.umask(0o77), os.umask(0o22)", "(18, 63)"),
            ("os.getppid(), os.getpgrp() == os.getpid() == os.getsid(0)", "(0, True)"),
            ("os.getpgid(1)", "ProcessLookupError: "),
            ("os.get_terminal_size()", "OSError: [Errno 59] "),
            ("tuple(shutil.get_terminal_size())", "(80, 24)"),
            ("os.kill(os.getpid(), 0)", "None"),
            ("os.kill(1, 0)", "ProcessLookupError: "),
            ("os.kill(os.getpid(), signal.SIGTERM), seen", "(None, ['term'])"),
            ("os.sysconf('SC_PAGE_SIZE'), os.sysconf('SC_NPROCESSORS_ONLN')", "(65536, 1)"),
            ("os.uname().nodename, platform.node()", "('localhost', 'localhost')"),
            // They behave like builtin functions.
            ("Own().getuid(), os.getuid", "(0, <built-in function getuid>)"),
            ("pickle.loads(pickle.dumps(os.umask)) is os.umask", "True"),
            ("str(inspect.signature(os.kill))", "'(pid, signal, /)'"),
            // What the library asks for with `hasattr` remains absent.
            (
                "[name for name in ('fork', 'pipe', 'system', 'waitpid', 'getloadavg', 'setuid')
                  if hasattr(os, name)]",
                "[]",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn processes_are_refused_with_the_reason() {
    let no_processes = "OSError: [Errno 58] a sandbox has no processes";
    check(
        "
import concurrent.futures, multiprocessing, multiprocessing.shared_memory, subprocess
from concurrent.futures import ProcessPoolExecutor
",
        &[
            ("multiprocessing.Process(target=print).start()", no_processes),
            ("multiprocessing.get_context('spawn').Process(target=print).start()", no_processes),
            (
                "multiprocessing.Pool(2)",
                "OSError: [Errno 58] a sandbox has no pipes and no processes",
            ),
            (
                "multiprocessing.Pipe()",
                "OSError: [Errno 58] a sandbox has no pipes and no processes",
            ),
            ("multiprocessing.Manager()", "OSError: [Errno 58] a sandbox has no p"),
            // The errors by which packages find out that there are no semaphores.
            (
                "multiprocessing.Lock()",
                "ImportError: a sandbox has no processes, and no semaphores",
            ),
            ("ProcessPoolExecutor()", "NotImplementedError: "),
            (
                "multiprocessing.shared_memory.SharedMemory('x', create=True, size=1)",
                "OSError: [Errno 58] a sandbox has no shared memory",
            ),
            (
                "multiprocessing.cpu_count(), multiprocessing.current_process().name",
                "(1, 'MainProcess')",
            ),
            ("subprocess.run(['ls'])", "OSError: [Errno 58] wasi does not support processes"),
        ],
    )
    .await;
}

#[tokio::test]
async fn resources_are_those_of_the_host() {
    check(
        "
import resource, time
def used():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    sum(range(300_000))
    return before < resource.getrusage(resource.RUSAGE_SELF).ru_utime <= time.process_time()
",
        &[
            ("used()", "True"),
            ("resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime", "0.0"),
            ("resource.getrusage(5)", "ValueError: invalid who parameter"),
            ("resource.getrlimit(resource.RLIMIT_AS)", "(-1, -1)"),
            ("resource.getrlimit(resource.RLIMIT_NOFILE)", "(256, 256)"),
            ("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "None"),
            (
                "resource.setrlimit(resource.RLIMIT_AS, (5, 5))",
                "ValueError: not allowed: the limits",
            ),
            ("resource.getpagesize()", "65536"),
        ],
    )
    .await;
}

#[tokio::test]
async fn native_libraries_are_refused() {
    check(
        "
import ctypes, ctypes.util, ctypes.wintypes
from ctypes import POINTER, Structure, byref, c_int, cast, pointer, sizeof
",
        &[
            (
                "ctypes.CDLL('libc.so.6')",
                "OSError: libc.so.6: a sandbox cannot load native libraries",
            ),
            ("ctypes.cdll.LoadLibrary('x')", "OSError: x: a sandbox cannot load native libraries"),
            (
                "ctypes.CDLL(None).printf",
                "AttributeError: function 'printf' not found: a sandbox has no",
            ),
            ("ctypes.pythonapi", "AttributeError: module 'ctypes' has no attribute 'pythonapi'"),
            ("ctypes.util.find_library('c')", "None"),
            (
                "ctypes.string_at(12345)",
                "ValueError: invalid address 0x3039: it is in no object of",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn c_data_can_be_described_and_converted() {
    check(
        "
import ctypes, pickle
from ctypes import *
class Point(Structure):
    _fields_ = [('x', c_int), ('y', c_short), ('z', c_double)]
class Bits(Structure):
    _fields_ = [('a', c_uint, 3), ('b', c_int, 5), ('c', c_uint8)]
class Either(Union):
    _fields_ = [('number', c_uint32), ('bytes', c_uint8 * 4)]
class Packet(BigEndianStructure):
    _anonymous_ = ['body']
    _fields_ = [('size', c_uint16), ('name', c_char * 4), ('body', Either)]
class Node(Structure):
    pass
Node._fields_ = [('value', c_int), ('next', POINTER(Node))]
point = Point(1, -2, z=3.5)
last = Node(1)
first = Node(2, pointer(last))
buffer = create_string_buffer(b'hello')
numbers = (c_int * 3)(1, 2, 3)
added = CFUNCTYPE(c_int, c_int, c_int)(lambda a, b: a + b)
",
        &[
            (
                "c_int32(2 ** 31).value, c_uint8(-1).value, c_int(5)",
                "(-2147483648, 255, c_long(5))",
            ),
            ("sizeof(c_void_p), sizeof(Point), alignment(Point), Point.y.offset", "(4, 16, 8, 4)"),
            ("bytes(point)[:6], point.y, point.z", "(b'\\x01\\x00\\x00\\x00\\xfe\\xff', -2, 3.5)"),
            (
                "Point.from_buffer_copy(bytes(point)).z, pickle.loads(pickle.dumps(point)).x",
                "(3.5, 1)",
            ),
            ("bytes(Bits(1, -2, 7)), Bits(1, -2).b", "(b'\\xf1\\x07\\x00\\x00', -2)"),
            ("Either(0x01020304).bytes[:]", "[4, 3, 2, 1]"),
            ("first.next.contents.value, bool(last.next)", "(1, False)"),
            ("last.next.contents", "ValueError: NULL pointer access"),
            ("buffer.value, buffer.raw, len(buffer)", "(b'hello', b'hello\\x00', 6)"),
            ("numbers[:], numbers[-1], memoryview(numbers).tolist()", "([1, 2, 3], 3, [1, 2, 3])"),
            ("cast(numbers, POINTER(c_int))[1], string_at(addressof(buffer), 2)", "(2, b'he')"),
            (
                "memmove(buffer, b'HE', 2) > 0, memset(buffer, 65, 1) > 0, buffer.value",
                "(True, True, b'AEllo')",
            ),
            ("added(1, 2), c_char_p(b'abc').value, c_wchar_p('x').value", "(3, b'abc', 'x')"),
            ("c_int('a')", "TypeError: "),
            ("Point(1, 2, 3, 4)", "TypeError: too many initializers"),
        ],
    )
    .await;
}

#[tokio::test]
async fn files_are_mapped() {
    let directory = tempfile::tempdir().unwrap();
    let template = Template::builder(Runtime::Python)
        .mount(
            Mount::new(directory.path(), "/data")
                .dir_perms(Permission::ReadWrite)
                .file_perms(Permission::ReadWrite),
        )
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    std::fs::write(directory.path().join("file"), "hello world\n".repeat(3)).unwrap();
    check_in(
        &sandbox,
        "
import mmap, re
file = open('/data/file', 'r+b')
shared = mmap.mmap(file.fileno(), 0)
reading = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
memory = mmap.mmap(-1, 10)
",
        &[
            (
                "len(shared), shared.readline(), shared.find(b'wor'), shared[-1:]",
                "(36, b'hello world\\n', 18, b'\\n')",
            ),
            ("re.search(b'w.r', shared).span()", "(6, 9)"),
            ("shared.__setitem__(slice(0, 5), b'HELLO'), shared.flush()", "(None, None)"),
            ("open('/data/file', 'rb').read(5)", "b'HELLO'"),
            ("reading.__setitem__(0, 1)", "TypeError: mmap can't modify a readonly memory map"),
            ("private.write(b'123'), private.close()", "(3, None)"),
            ("shared.write_byte(65), file.close(), shared.close()", "(None, None, None)"),
            ("open('/data/file', 'rb').read(16)", "b'HELLO world\\nAell"),
            ("shared.closed, shared.read()", "ValueError: mmap closed or invalid"),
            ("memory.write(b'abc'), memory.resize(5), memory[:]", "(3, None, b'abc\\x00\\x00')"),
        ],
    )
    .await;
}

#[tokio::test]
async fn absent_modules_remain_absent() {
    // Packages try to import these, and work without them: a module that only refused
    // would lead them into the wrong branch.
    let sandbox = started(Runtime::Python).await;
    let script = "
import importlib
def main(names):
    found = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            found[name] = str(error)
    return found
";
    sandbox.load_script(script).await.unwrap();
    let names = ["fcntl", "termios", "readline", "curses", "msvcrt", "syslog"];
    let found: BTreeMap<String, String> =
        sandbox.run("main", args![names]).await.unwrap().to().unwrap();
    assert_eq!(found.len(), names.len(), "{found:?}");
}

#[tokio::test]
async fn null_device_is_opened_by_the_library_in_python() {
    check(
        "import _pyio",
        &[
            ("_pyio.open('/dev/null', 'rb', buffering=0).read()", "b''"),
            (
                "type(_pyio.open('/dev/null')), _pyio.open('/dev/null', 'w').write('x')",
                "(<class '_pyio.TextIOWrapper'>, 1)",
            ),
            ("_pyio.open('/nothing')", "FileNotFoundError: "),
        ],
    )
    .await;
}
