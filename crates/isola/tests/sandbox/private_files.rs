//! The files that each sandbox has of its own: as the code in it sees them.

use std::time::Duration;

use isola::{Error, Limit, Limits, Runtime, Sandbox, Template, args};

use crate::fixture::{started, started_with, template, writable_mount};

/// Runs a script whose `main` returns a value, and compares it with `expected`.
async fn check(sandbox: &Sandbox, script: &str, expected: serde_json::Value) {
    sandbox.load_script(script).await.unwrap();
    let value = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(value, expected, "{script}");
}

fn storage(bytes: usize) -> Limits {
    Limits { max_storage: bytes, ..Limits::default() }
}

#[tokio::test]
async fn scripts_write_and_read_files() {
    let sandbox = started(Runtime::Python).await;
    check(
        &sandbox,
        "
import os, tempfile, shutil, pathlib
def main():
    here = os.getcwd()
    with open('out.txt', 'w') as file:
        file.write('hello\\n')
    with open('out.txt', 'a') as file:
        print('world', file=file)
    with open('out.txt') as file:
        text = file.read()
    with open('out.txt', 'r+b') as file:
        file.seek(3)
        file.write(b'XY')
        file.seek(0)
        changed = file.read()
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / 'a' / 'b.bin'
        path.parent.mkdir()
        path.write_bytes(bytes(range(256)) * 1000)
        size = path.stat().st_size
        shutil.copytree(directory, '/tmp/copy')
    gone = os.path.exists(directory)
    os.makedirs('data/sub')
    os.chdir('data/sub')
    pathlib.Path('x').touch()
    walked = sorted(path for path, _, _ in os.walk('/root'))
    return [here, text, changed.decode(), size, gone, os.listdir('/tmp/copy/a'),
            os.path.relpath(os.getcwd(), here), [os.path.relpath(path, here) for path in walked],
            os.path.expanduser('~'), sorted(os.listdir('/')), sorted(os.listdir('/dev'))]
",
        serde_json::json!([
            "/root",
            "hello\nworld\n",
            "helXY\nworld\n",
            256_000,
            false,
            ["b.bin"],
            "data/sub",
            [".", "data", "data/sub"],
            "/root",
            ["dev", "root", "tmp"],
            ["null", "random", "urandom", "zero"]
        ]),
    )
    .await;
}

#[tokio::test]
async fn links_and_renaming_are_those_of_linux() {
    let sandbox = started(Runtime::Python).await;
    check(
        &sandbox,
        "
import os
def attempt(function, *args):
    try:
        return function(*args)
    except OSError as error:
        return type(error).__name__ + ' ' + os.strerror(error.errno)
def write(path, text):
    with open(path, 'w') as file:
        file.write(text)
def read(path):
    with open(path) as file:
        return file.read()
def main():
    write('a', 'one')
    os.link('a', 'b')
    os.symlink('a', 'c')
    os.symlink(os.path.abspath('d'), 'e')
    write('e', 'through a link')
    os.mkdir('dir')
    os.mkdir('full')
    write('full/x', '')
    os.symlink('.', 'loop')
    os.symlink('self', 'self')
    found = [
        os.stat('a').st_nlink, os.path.samefile('a', 'b'), os.path.samefile('a', 'c'),
        os.readlink('c'), read('d'), os.lstat('c').st_size,
        attempt(os.rename, 'dir', 'full'), attempt(os.rename, 'a', 'dir'),
        attempt(os.rename, 'dir', 'a'), attempt(os.rename, 'full', 'full/y'),
        attempt(os.rmdir, 'full'), attempt(os.unlink, 'dir'), attempt(os.rmdir, 'a'),
        attempt(os.mkdir, 'a'), attempt(open, 'self'), attempt(open, 'dir'),
        attempt(open, 'a/x'), attempt(open, 'nope'), attempt(open, 'nope/x', 'w'),
        attempt(os.link, 'dir', 'y'), attempt(os.open, 'a', os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        attempt(os.mkdir, 'n' * 256), read('loop/loop/a'), attempt(os.rmdir, '.'),
        attempt(os.rename, 'a', 'nope/a'), attempt(os.stat, 'a/'), attempt(os.mkdir, 'new/'),
    ]
    os.rename('a', 'b')   # The same file: both remain.
    both = sorted(os.listdir())
    os.replace('e', 'a')
    found += [both, os.path.islink('a'), read('a'), os.stat('b').st_nlink]
    os.rename('dir', 'full/dir')
    os.rename('full', 'moved')
    return found + [os.listdir('moved'), os.stat('moved').st_nlink, os.path.relpath(os.path.realpath('loop/moved'))]
",
        serde_json::json!([
            2,
            true,
            true,
            "a",
            "through a link",
            1,
            "OSError Directory not empty",
            "IsADirectoryError Is a directory",
            "NotADirectoryError Not a directory",
            "OSError Invalid argument",
            "OSError Directory not empty",
            "IsADirectoryError Is a directory",
            "NotADirectoryError Not a directory",
            "FileExistsError File exists",
            "OSError Symbolic link loop",
            "IsADirectoryError Is a directory",
            "NotADirectoryError Not a directory",
            "FileNotFoundError No such file or directory",
            "FileNotFoundError No such file or directory",
            "PermissionError Operation not permitted",
            "FileExistsError File exists",
            "OSError Filename too long",
            "one",
            "OSError Directory not empty",
            "FileNotFoundError No such file or directory",
            "NotADirectoryError Not a directory",
            null,
            ["a", "b", "c", "d", "dir", "e", "full", "loop", "new", "self"],
            true,
            "through a link",
            1,
            ["dir", "x"],
            3,
            "moved"
        ]),
    )
    .await;
}

#[tokio::test]
async fn modes_and_times_are_kept() {
    let sandbox = started(Runtime::Python).await;
    check(
        &sandbox,
        "
import os, shutil, stat, tarfile, tempfile, time
def main():
    open('a', 'w').close()
    mode = lambda path: oct(os.stat(path).st_mode)
    found = [mode('a'), mode('.'), mode('/tmp'), mode('/dev/null')]
    os.chmod('a', 0o751)
    os.mkdir('private', 0o700)
    fd, path = tempfile.mkstemp()
    found += [mode('a'), os.stat('a').st_nlink, mode('private'), mode(path)]
    os.fchmod(fd, 0o400)
    found.append(oct(os.fstat(fd).st_mode))
    os.close(fd)
    last = os.umask(0o077)
    open('b', 'w').close()
    os.umask(last)
    os.utime('a', (1.5, -2.25))
    shutil.copy2('a', 'c')
    found += [oct(last), mode('b'), os.stat('c').st_mtime, mode('c')]
    os.symlink('a', 'link')
    os.utime('link', (7, 8), follow_symlinks=False)
    found += [os.stat('a').st_mtime, os.lstat('link').st_mtime, os.access('a', os.R_OK | os.W_OK)]
    before = time.time()
    with open('a', 'a') as file:
        file.write('x')
    found.append(before - 1 < os.stat('a').st_mtime < time.time() + 1)
    with tarfile.open('all.tar', 'w') as tar:
        tar.add('a')
    os.mkdir('unpacked')
    with tarfile.open('all.tar') as tar:
        tar.extractall('unpacked', filter='tar')
    return found + [mode('unpacked/a')]
",
        serde_json::json!([
            "0o100644", "0o40755", "0o41777", "0o20666", "0o100751", 1, "0o40700", "0o100600",
            "0o100400", "0o22", "0o100600", -2.25, "0o100751", -2.25, 8.0, true, true, "0o100751"
        ]),
    )
    .await;
}

#[tokio::test]
async fn removed_file_lives_as_long_as_it_is_open() {
    let sandbox = started_with(Runtime::Python, storage(1 << 20), isola::DenyAll).await;
    check(
        &sandbox,
        "
import os
def main():
    found = []
    for round in range(10):
        file = open('x', 'w+b')
        os.unlink('x')
        file.write(b'a' * 500_000)
        file.seek(0)
        found.append((len(file.read()), os.fstat(file.fileno()).st_nlink))
        file.close()
    os.mkdir('d')
    fd = os.open('d', os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir('d')
    try:
        os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    except FileNotFoundError:
        found.append(os.listdir(fd) if os.listdir in os.supports_fd else [])
    os.close(fd)
    return [set(found[:-1]) == {(500_000, 0)}, found[-1]]
",
        serde_json::json!([true, []]),
    )
    .await;
}

#[tokio::test]
async fn storage_is_limited() {
    let sandbox = started_with(Runtime::Python, storage(1 << 20), isola::DenyAll).await;
    check(
        &sandbox,
        "
import os
def full(function):
    try:
        function()
    except OSError as error:
        return os.strerror(error.errno)
def fill():
    with open('big', 'wb', buffering=0) as file:
        while True:
            file.write(b'x' * 10_000)
def many():
    for i in range(1_000_000):
        open(f'f{i}', 'w').close()
def links():
    for i in range(1_000_000):
        os.symlink('t' * 4_000, f'l{i}')
def directories():
    for i in range(1_000_000):
        os.mkdir('d' * 100)
        os.chdir('d' * 100)
def hole():
    with open('hole', 'wb') as file:
        file.truncate(1 << 62)
    return os.stat('hole').st_size
def main():
    found = [full(fill), 900_000 < os.path.getsize('big') <= 1 << 20]
    with open('big', 'r+b') as file:
        file.write(b'y' * 100)
    os.truncate('big', 0)
    found += [full(many), len(os.listdir()) > 1_000]
    for name in os.listdir():
        os.unlink(name)
    found += [full(links), len(os.listdir()) > 100]
    for name in os.listdir():
        os.unlink(name)
    found += [full(directories), os.getcwd().count('/') > 10]
    os.chdir('/')
    found += [hole() == 1 << 62]
    return found
",
        serde_json::json!([
            "No space left on device",
            true,
            "No space left on device",
            true,
            "No space left on device",
            true,
            "Filename too long",
            true,
            true
        ]),
    )
    .await;
    // The host can remove all of it.
    for entry in sandbox.files().list(".").unwrap() {
        sandbox.files().remove(&entry.name).unwrap();
    }
    sandbox.files().write("x", &vec![1; 900_000]).unwrap();
}

#[tokio::test]
async fn open_files_are_limited() {
    let sandbox = started(Runtime::Python).await;
    check(
        &sandbox,
        "
import errno
def main():
    opened = []
    try:
        while True:
            opened.append(open('x', 'w'))
    except OSError as error:
        return [error.errno == errno.EMFILE, len(opened)]
",
        serde_json::json!([true, 256]),
    )
    .await;
}

#[tokio::test]
async fn names_that_are_not_text_are_an_error() {
    let sandbox = started(Runtime::Python).await;
    check(
        &sandbox,
        "
import os
def attempt(function, *args):
    try:
        return str(function(*args))
    except Exception as error:
        return type(error).__name__
def main():
    bad = b'a\\xff'
    return [attempt(open, bad, 'w'), attempt(os.mkdir, os.fsdecode(bad)), attempt(os.stat, bad),
            attempt(os.path.exists, bad), attempt(os.listdir, bad), attempt(os.rename, bad, 'x'),
            attempt(os.symlink, bad, 'x'), attempt(os.listdir)]
",
        serde_json::json!([
            "OSError", "OSError", "OSError", "False", "OSError", "OSError", "OSError", "[]"
        ]),
    )
    .await;
}

#[tokio::test]
async fn copies_have_files_of_their_own() {
    let sandbox = started(Runtime::Python).await;
    let script = "
def write(text):
    with open('x', 'w') as file:
        file.write(text)
def read():
    with open('x') as file:
        return file.read()
";
    sandbox.load_script(script).await.unwrap();
    sandbox.run("write", args!["parent"]).await.unwrap();
    let children = sandbox.fork(2).await.unwrap();
    let snapshot = sandbox.snapshot().await.unwrap();
    sandbox.run("write", args!["later"]).await.unwrap();
    children[0].run("write", args!["child"]).await.unwrap();
    let restored = snapshot.create_sandbox().await.unwrap();
    for (sandbox, expected) in [
        (&sandbox, "later"),
        (&children[0], "child"),
        (&children[1], "parent"),
        (&restored, "parent"),
    ] {
        assert_eq!(sandbox.run("read", args![]).await.unwrap(), serde_json::json!(expected));
        assert_eq!(sandbox.files().read("x").unwrap(), expected.as_bytes());
    }
    // Others see nothing of it.
    assert!(!started(Runtime::Python).await.files().exists("x"));
}

#[tokio::test]
async fn snapshot_on_disk_contains_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let template = template(Runtime::Python).await;
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import os
def state():
    found = []
    for path, directories, names in os.walk('/root'):
        for name in sorted(directories + names):
            stat = os.lstat(f'{path}/{name}')
            found.append([path, name, oct(stat.st_mode), stat.st_size, stat.st_mtime, stat.st_nlink])
    return found
os.umask(0o027)
os.makedirs('a/b')
with open('a/big', 'wb') as file:
    file.write(bytes(range(256)) * 1_000)
    file.truncate(10_000_000)
os.link('a/big', 'a/b/same')
os.symlink('../a', 'a/b/link')
os.chmod('a/b', 0o700)
os.utime('a/big', (1, -5.5))
",
        )
        .await
        .unwrap();
    let before = sandbox.run("state", args![]).await.unwrap();
    let path = dir.path().join("s.snapshot");
    sandbox.snapshot().await.unwrap().save(&path).await.unwrap();
    let restored = template.load_snapshot(&path).await.unwrap().create_sandbox().await.unwrap();
    assert_eq!(restored.run("state", args![]).await.unwrap(), before);
    let mut expected: Vec<u8> = (0..=255).cycle().take(256_000).collect();
    expected.resize(10_000_000, 0);
    assert!(restored.files().read("a/b/same").unwrap() == expected);
    // The same file under another name, also after the restore.
    restored.load_script("open('a/big', 'r+b').write(b'new'); open('n', 'w')").await.unwrap();
    assert!(restored.files().read("a/b/same").unwrap().starts_with(b"new"));
    assert_eq!(restored.files().stat("n").unwrap().mode, 0o640);
    // A template that allows less refuses it.
    let small = Template::builder(Runtime::Python).limits(storage(100_000)).build().await.unwrap();
    let error = small.load_snapshot(&path).await.unwrap_err();
    assert!(error.to_string().contains("max_storage of 100000"), "{error}");
}

#[tokio::test]
async fn snapshot_of_a_full_sandbox_is_within_its_own_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limits = storage(1 << 20);
    let template = Template::builder(Runtime::Python).limits(limits).build().await.unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    let source = "
number = 0
try:
    while True:
        open(f'f{number}', 'w').close()
        number += 1
except OSError:
    pass
";
    sandbox.load_script(source).await.unwrap();
    let path = dir.path().join("full.snapshot");
    sandbox.snapshot().await.unwrap().save(&path).await.unwrap();
    let restored = template.load_snapshot(&path).await.unwrap().create_sandbox().await.unwrap();
    let (before, after) = (sandbox.files().list(".").unwrap(), restored.files().list(".").unwrap());
    assert!(before.len() > 1_000 && before == after);
    assert!(restored.load_script("open('more', 'w')").await.is_err());
}

#[tokio::test]
async fn prelude_leaves_its_files_to_each_sandbox() {
    let template = Template::builder(Runtime::Python)
        .prelude("open('/tmp/shared', 'w').write('by the prelude')")
        .build()
        .await
        .unwrap();
    for _ in 0..2 {
        let sandbox = template.sandbox().create().await.unwrap();
        sandbox.start().await.unwrap();
        assert_eq!(sandbox.files().read("/tmp/shared").unwrap(), b"by the prelude");
        sandbox.files().write("/tmp/shared", b"changed").unwrap();
    }
}

#[tokio::test]
async fn mounts_lie_over_the_files() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("host.txt"), "host").unwrap();
    let sandbox = template(Runtime::Python)
        .await
        .sandbox()
        .mount(writable_mount(base.path(), "/srv/data"))
        .create()
        .await
        .unwrap();
    sandbox.start().await.unwrap();
    check(
        &sandbox,
        "
import os, shutil
def attempt(function, *args):
    try:
        return function(*args)
    except OSError as error:
        return os.strerror(error.errno)
def read(path):
    with open(path) as file:
        return file.read()
def main():
    with open('/srv/own', 'w') as file:
        file.write('own')
    os.symlink('/srv/data/host.txt', 'link')
    os.symlink('/srv/data', '/tmp/dir')
    found = [
        sorted(os.listdir('/srv')), read('/srv/data/host.txt'), read('link'),
        read('/tmp/dir/host.txt'), read('/srv/data/../own'), read('/tmp/dir/../own'),
        attempt(os.rename, '/srv/own', '/srv/data/own'), attempt(os.rmdir, '/srv'),
        attempt(os.link, '/srv/data/host.txt', '/srv/host'), attempt(os.rename, '/srv', '/moved'),
    ]
    shutil.move('/moved/own', '/moved/data/own')
    return found + [sorted(os.listdir('/moved/data')), os.path.exists('/srv')]
",
        serde_json::json!([
            ["data", "own"],
            "host",
            "host",
            "host",
            "own",
            "own",
            "Cross-device link",
            "Directory not empty",
            "Cross-device link",
            null,
            ["host.txt", "own"],
            false
        ]),
    )
    .await;
    assert_eq!(std::fs::read_to_string(base.path().join("own")).unwrap(), "own");
    let error = sandbox.files().read("/moved/data/own").unwrap_err().to_string();
    assert!(error.contains("mounted directory"), "{error}");
    assert!(sandbox.files().remove("/moved").is_err());
    assert!(base.path().join("own").exists());
}

#[tokio::test]
async fn files_can_be_turned_off() {
    let sandbox = started_with(Runtime::Python, storage(0), isola::DenyAll).await;
    check(
        &sandbox,
        "
import os
def attempt(function, *args):
    try:
        return function(*args)
    except OSError as error:
        return type(error).__name__
def main():
    return [os.getcwd(), os.listdir('/'), attempt(open, 'x', 'w'), attempt(os.mkdir, 'x'),
            attempt(os.utime, '/')]
",
        serde_json::json!(["/", [], "PermissionError", "PermissionError", "PermissionError"]),
    )
    .await;
    let error = sandbox.files().write("x", b"").unwrap_err().to_string();
    assert!(error.contains("max_storage is 0"), "{error}");
}

#[tokio::test]
async fn host_reads_files_after_a_limit_has_closed_the_sandbox() {
    let sandbox = started(Runtime::Python).await;
    let source = "
open('partial', 'w').write('what was done')
while True: pass
";
    let call = sandbox.load_script(source).timeout(Duration::from_millis(300));
    assert_eq!(call.await.unwrap_err().limit(), Some(Limit::WallTime));
    // The file was not closed, but it was written to the sandbox when its object was freed.
    assert_eq!(sandbox.files().read("partial").unwrap(), b"what was done");
    sandbox.close();
    assert!(!sandbox.files().exists("partial"));
    // A guest that is still about to stop cannot add files, either.
    assert!(sandbox.files().write("x", b"y").is_err());
}

#[tokio::test]
async fn host_operations_report_what_is_wrong() {
    let sandbox = started(Runtime::Python).await;
    let files = sandbox.files();
    files.write("a/b/c.txt", b"content").unwrap();
    files.make_dir("a/d/e").unwrap();
    files.make_dir("a/d/e").unwrap();
    files.rename("a/b/c.txt", "moved/x/c").unwrap();
    assert_eq!(files.read("/tmp/../root/moved/./x/c").unwrap(), b"content");
    let names = |path: &str| {
        let entries = files.list(path).unwrap().into_iter();
        entries.map(|entry| (entry.name, entry.stat.kind.name())).collect::<Vec<_>>()
    };
    assert_eq!(names("a"), [("b".to_owned(), "directory"), ("d".to_owned(), "directory")]);
    let failure = |error: Error| match error {
        Error::File(error) => error.failure.errno(),
        other => panic!("{other}"),
    };
    assert_eq!(failure(files.read("nope").unwrap_err()), "ENOENT");
    assert_eq!(failure(files.read("").unwrap_err()), "ENOENT");
    assert_eq!(failure(files.read("a").unwrap_err()), "EISDIR");
    assert_eq!(failure(files.write("a", b"").unwrap_err()), "EISDIR");
    assert_eq!(failure(files.write("moved/x/c/d", b"").unwrap_err()), "ENOTDIR");
    assert_eq!(failure(files.make_dir("moved/x/c").unwrap_err()), "EEXIST");
    assert_eq!(failure(files.list("moved/x/c").unwrap_err()), "ENOTDIR");
    assert_eq!(failure(files.read("/dev/zero").unwrap_err()), "EINVAL");
    assert_eq!(failure(files.remove("/").unwrap_err()), "EINVAL");
    assert_eq!(failure(files.write(&"n".repeat(256), b"").unwrap_err()), "ENAMETOOLONG");
    let big = vec![0; 65 << 20];
    assert_eq!(failure(files.write("moved/x/c", &big).unwrap_err()), "ENOSPC");
    assert_eq!(files.read("moved/x/c").unwrap(), b"content", "the old content is kept");
    files.remove("moved").unwrap();
    assert!(!files.exists("moved"));
}

#[tokio::test]
async fn javascript_uses_the_same_files() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox.files().write("in.txt", "hé".as_bytes()).unwrap();
    sandbox
        .load_script(
            "
function attempt(operation) {
    try { return operation(); } catch (error) { return `${error.name} ${error.code}`; }
}
function main() {
    files.write('out/deep/a.txt', 'one\\n');
    files.write('out/deep/a.txt', new Uint8Array([116, 119, 111]), {append: true});
    const entries = files.list('out/deep');
    files.write('gone', '');
    files.remove('gone');
    return [files.read('in.txt', 'utf8'), files.read('in.txt').length,
        files.read('/tmp/../root/out/deep/a.txt', 'utf8'),
        entries.map(({name, kind, size, modified}) =>
            [name, kind, size, Math.abs(modified - Date.now()) < 60000]),
        files.list().map(({name}) => name),
        attempt(() => files.read('nope')), attempt(() => files.write('out', '')),
        attempt(() => files.remove('out')), attempt(() => files.list('in.txt')),
        attempt(() => files.read(1)), attempt(() => files.read('/dev/zero')), scriptArgs];
}
",
        )
        .await
        .unwrap();
    let expected = serde_json::json!([
        "hé",
        3,
        "one\ntwo",
        [["a.txt", "file", 7, true]],
        ["in.txt", "out"],
        "FileError ENOENT",
        "FileError EISDIR",
        "FileError ENOTEMPTY",
        "FileError ENOTDIR",
        "TypeError undefined",
        "FileError EFBIG",
        []
    ]);
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), expected);
    assert_eq!(sandbox.files().read("out/deep/a.txt").unwrap(), b"one\ntwo");
    // An idle guest holds no handle.
    sandbox.fork(1).await.unwrap();
}

#[tokio::test]
async fn javascript_obeys_the_permissions_of_mounts() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("a"), "host").unwrap();
    let builder = template(Runtime::JavaScript).await.sandbox();
    let sandbox = builder.mount(isola::Mount::new(base.path(), "/data")).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox
        .load_script(
            "
function main() {
    const denied = (operation) => {
        try { operation(); return 'done'; } catch ({code}) { return code; }
    };
    return [files.read('/data/a', 'utf8'), files.list('/data').map(({name}) => name),
        denied(() => files.write('/data/a', 'x')), denied(() => files.write('/data/b/c', 'x')),
        denied(() => files.remove('/data/a'))];
}
",
        )
        .await
        .unwrap();
    let expected = serde_json::json!(["host", ["a"], "EPERM", "EPERM", "EPERM"]);
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), expected);
    assert_eq!(std::fs::read_to_string(base.path().join("a")).unwrap(), "host");
}

#[tokio::test]
async fn program_gets_its_arguments() {
    for (runtime, script) in [
        (Runtime::Python, "import sys\ndef main(): return sys.argv[1:]"),
        (Runtime::JavaScript, "function main() { return scriptArgs }"),
    ] {
        let builder = template(runtime).await.sandbox().arguments(["--count", "3"]);
        let sandbox = builder.create().await.unwrap();
        sandbox.start().await.unwrap();
        sandbox.load_script(script).await.unwrap();
        let given = sandbox.run("main", args![]).await.unwrap();
        assert_eq!(given, serde_json::json!(["--count", "3"]));
    }
}
