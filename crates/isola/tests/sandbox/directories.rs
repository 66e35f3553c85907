//! The root directory of a Python guest without files of its own: the directories above
//! its mounts, and the working directory.

use std::fs;

use isola::{Limits, Mount, Runtime, Sandbox, args};

use crate::fixture::{started_with, template, writable_mount};

const ATTEMPT: &str = "
import os, pathlib, tempfile
from pathlib import Path
def at(directory, expression):
    os.chdir('/')
    if directory is not None:
        os.chdir(directory)
    try:
        return repr(eval(expression))
    except Exception as error:
        return f'{type(error).__name__}: {error}'
def listed(path):
    return sorted(os.listdir(path))
def read(path):
    with open(path) as file:
        return file.read()
def write(path):
    with open(path, 'w') as file:
        file.write('written')
def entered(path):
    os.chdir(path)
    return os.getcwd()
def by_descriptor(path, name):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.stat(name, dir_fd=descriptor).st_size
    finally:
        os.close(descriptor)
";

/// Returns limits without files of the sandbox's own: its root leads to its mounts only.
fn no_storage() -> Limits {
    Limits { max_storage: 0, ..Limits::default() }
}

/// Creates a sandbox with a readable directory at `/data/in`, and a writable one at
/// `/out`.
async fn sandbox(base: &tempfile::TempDir) -> Sandbox {
    for name in ["in/sub", "out"] {
        fs::create_dir_all(base.path().join(name)).unwrap();
    }
    fs::write(base.path().join("in/a.txt"), "alpha").unwrap();
    let sandbox = template(Runtime::Python)
        .await
        .sandbox()
        .mount(Mount::new(base.path().join("in"), "/data/in"))
        .mount(writable_mount(base.path().join("out"), "/out/"))
        .limits(no_storage())
        .create()
        .await
        .unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(ATTEMPT).await.unwrap();
    sandbox
}

async fn check(sandbox: &Sandbox, rows: &[(Option<&str>, &str, &str)]) {
    for &(directory, expression, expected) in rows {
        let arguments = args![directory, expression];
        let seen: String = sandbox.run("at", arguments).await.unwrap().to().unwrap();
        assert!(seen.starts_with(expected), "{expression} in {directory:?}: {seen}");
    }
}

#[tokio::test]
async fn directories_above_mounts_can_be_listed_and_entered() {
    let base = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&base).await;
    check(
        &sandbox,
        &[
            (None, "listed('/')", "['data', 'out']"),
            (None, "listed('/data')", "['in']"),
            (None, "listed('/data/')", "['in']"),
            (None, "listed('/data/in')", "['a.txt', 'sub']"),
            (None, "listed('/out')", "[]"),
            (
                None,
                "[os.path.isdir(path) for path in ('/', '/data', '/out')]",
                "[True, True, True]",
            ),
            (None, "[os.path.exists(path) for path in ('/nope', '/data/nope')]", "[False, False]"),
            (None, "oct(os.stat('/').st_mode)", "'0o40755'"),
            (None, "sorted(entry.name for entry in os.scandir('/') if entry.is_dir())", "['data'"),
            (None, "[path for path, _, _ in os.walk('/')][:3]", "['/', '/data', '/data/in']"),
            (None, "sorted(map(str, Path('/').glob('**/*.txt')))", "['/data/in/a.txt']"),
            (None, "by_descriptor('/', 'data/in/a.txt')", "5"),
            (None, "by_descriptor('/data/in', '../in/a.txt')", "5"),
            (None, "os.path.samefile('/', '/data/..')", "True"),
            (None, "os.path.samefile('/', '/data')", "False"),
            (None, "read('/out/../data/in/a.txt')", "'alpha'"),
            (None, "Path('/out/../data/in/a.txt').resolve(strict=True)", "PosixPath('/data/in/a"),
        ],
    )
    .await;
}

#[tokio::test]
async fn directories_above_mounts_cannot_be_changed() {
    let base = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&base).await;
    check(
        &sandbox,
        &[
            (None, "write('/new')", "PermissionError: "),
            (None, "write('/data/new')", "PermissionError: "),
            (None, "write('/data')", "IsADirectoryError: "),
            (None, "read('/data')", "IsADirectoryError: "),
            (None, "read('/new')", "FileNotFoundError: "),
            (None, "write('/new/x')", "FileNotFoundError: "),
            (None, "os.mkdir('/new')", "PermissionError: "),
            (None, "os.mkdir('/data')", "FileExistsError: "),
            (None, "os.mkdir('/out')", "FileExistsError: "),
            (None, "os.makedirs('/out/a/b', exist_ok=True)", "None"),
            (None, "os.rmdir('/data')", "PermissionError: "),
            (None, "os.rename('/data', '/out/data')", "PermissionError: "),
            (None, "os.rename('/out/a', '/data/a')", "PermissionError: "),
            (None, "os.symlink('x', '/link')", "PermissionError: "),
            (None, "os.readlink('/data')", "OSError: "),
            (None, "os.utime('/data')", "PermissionError: "),
            (None, "os.unlink('/nope')", "FileNotFoundError: "),
            // The rights are those of the mount in which the path ends.
            (None, "write('/out/../data/in/a.txt')", "PermissionError: "),
            (None, "write('/data/in/../../out/b.txt')", "None"),
            (None, "os.rename('/out/b.txt', '/out/../data/in/b.txt')", "PermissionError: "),
        ],
    )
    .await;
    assert_eq!(fs::read_to_string(base.path().join("in/a.txt")).unwrap(), "alpha");
    assert_eq!(fs::read_to_string(base.path().join("out/b.txt")).unwrap(), "written");
}

#[tokio::test]
async fn existence_is_checked_before_permission() {
    let base = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&base).await;
    check(
        &sandbox,
        &[
            (None, "os.unlink('/data/in/nope')", "FileNotFoundError: "),
            (None, "Path('/data/in/nope').unlink(missing_ok=True)", "None"),
            (None, "os.rmdir('/data/in/nope')", "FileNotFoundError: "),
            (None, "os.rename('/data/in/nope', '/data/in/x')", "FileNotFoundError: "),
            (None, "Path('/data/in/sub').mkdir(exist_ok=True)", "None"),
            (None, "os.mkdir('/data/in/a.txt')", "FileExistsError: "),
            (None, "os.symlink('x', '/data/in/a.txt')", "FileExistsError: "),
            (None, "os.unlink('/data/in/a.txt')", "PermissionError: "),
            (None, "os.mkdir('/data/in/new')", "PermissionError: "),
            (None, "os.mkdir('/data/in/nope/new')", "PermissionError: "),
        ],
    )
    .await;
}

#[tokio::test]
async fn relative_paths_start_in_the_working_directory() {
    let base = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&base).await;
    check(
        &sandbox,
        &[
            (None, "os.getcwd()", "'/'"),
            (None, "listed('.')", "['data', 'out']"),
            (None, "read('data/in/a.txt')", "'alpha'"),
            (Some("/data/in"), "os.getcwd()", "'/data/in'"),
            (Some("/data/in"), "read('a.txt')", "'alpha'"),
            (Some("/data/in"), "listed('..')", "['in']"),
            (Some("/data/in"), "listed('../..')", "['data', 'out']"),
            (Some("/data/in"), "read('../in/a.txt')", "'alpha'"),
            (Some("/data/in"), "entered('..')", "'/data'"),
            (Some("/data/in"), "entered('sub/..')", "'/data/in'"),
            (Some("/data/in/sub/../.."), "entered('./in//sub/')", "'/data/in/sub'"),
            (Some("/data"), "listed('in')", "['a.txt', 'sub']"),
            (Some("/data/in"), "Path.cwd()", "PosixPath('/data/in')"),
            (Some("/data/in"), "Path('a.txt').absolute()", "PosixPath('/data/in/a.txt')"),
            (None, "entered('nope')", "FileNotFoundError: "),
            (None, "entered('data/in/a.txt')", "NotADirectoryError: "),
            // `tempfile` uses the working directory if it is writable.
            (Some("/out"), "tempfile.gettempdir()", "'/out'"),
        ],
    )
    .await;
}

#[tokio::test]
async fn root_is_empty_without_mounts() {
    let sandbox = started_with(Runtime::Python, no_storage(), isola::DenyAll).await;
    sandbox.load_script(ATTEMPT).await.unwrap();
    check(
        &sandbox,
        &[
            (None, "listed('/')", "[]"),
            (None, "os.getcwd()", "'/'"),
            (None, "os.path.isdir('/')", "True"),
            (None, "write('x')", "PermissionError: "),
            (None, "os.path.exists('/tmp')", "False"),
            (None, "tempfile.mkdtemp()", "FileNotFoundError: [Errno 44] No usable temporary"),
        ],
    )
    .await;
    // The script has no descriptor of the root: the interpreter can be copied.
    sandbox.fork(1).await.unwrap();
}
