//! Special files in a mount, and file operations with unusual arguments.

#![cfg(unix)]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use isola::{Mount, Permission, Runtime, args};

use crate::fixture::{create_fifo, loaded_with_data, template};

/// The time after which a call counts as hanging. A call normally takes less than a
/// hundredth of it.
const HANG_TIMEOUT: Duration = Duration::from_secs(60);

/// A script with each way to open a path, and each operation that opens it
/// internally.
const OPENINGS: &str = "
import os
def attempt(open):
    try:
        got = open()
    except OSError as error:
        return error.strerror
    if isinstance(got, int):
        os.close(got)
    elif got is not None:
        got.close()
    return None
def openings(path):
    flags = [
        os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND,
        os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT,
    ]
    ways = [lambda mode=mode: open(path, mode) for mode in ('r', 'rb', 'w', 'a', 'r+', 'a+', 'w+')]
    ways += [lambda flag=flag: os.open(path, flag) for flag in flags]
    ways += [lambda: os.truncate(path, 0)]
    return [attempt(way) for way in ways]
def harmless(path):
    info = os.lstat(path)
    os.stat(path)
    os.path.exists(path)
    return info.st_size
def touch(path):
    os.utime(path, (1000, 2000))
    return int(os.stat(path).st_mtime)
def many(path, times):
    return sum(attempt(lambda: open(path)) is not None for _ in range(times))
def rename(a, b):
    os.rename(a, b)
def remove(path):
    os.remove(path)
";

#[tokio::test]
async fn special_files_are_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    create_fifo(&at("pipe"));
    create_fifo(&at("sub/pipe"));
    symlink("pipe", at("link")).unwrap();
    symlink("link", at("link-to-link")).unwrap();
    symlink("sub", at("directory-link")).unwrap();
    fs::hard_link(at("pipe"), at("hard")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let sandbox = loaded_with_data(dir.path(), OPENINGS).await;
    for name in
        ["pipe", "sub/pipe", "link", "link-to-link", "directory-link/pipe", "hard", "socket"]
    {
        let path = format!("/data/{name}");
        let call = sandbox.run("openings", args![&path]).timeout(HANG_TIMEOUT);
        let refusals: Vec<Option<String>> = call.await.unwrap().to().unwrap();
        for (index, refusal) in refusals.iter().enumerate() {
            let refused = refusal.as_deref().is_some_and(|why| why.contains("ot supported"));
            assert!(refused, "{name}, {index}: {refusal:?}");
        }
        sandbox.run("harmless", args![&path]).timeout(HANG_TIMEOUT).await.unwrap();
        let time = sandbox.run("touch", args![&path]).timeout(HANG_TIMEOUT).await.unwrap();
        assert_eq!(time.as_str(), "2000", "{name}");
    }
    // More often than there are blocking threads.
    let refused =
        sandbox.run("many", args!["/data/pipe", 600]).timeout(HANG_TIMEOUT).await.unwrap();
    assert_eq!(refused.as_str(), "600");
    // They can be renamed and removed like other entries.
    sandbox
        .run("rename", args!["/data/pipe", "/data/sub/moved"])
        .timeout(HANG_TIMEOUT)
        .await
        .unwrap();
    sandbox.run("remove", args!["/data/sub/moved"]).timeout(HANG_TIMEOUT).await.unwrap();
    assert!(!at("sub/moved").exists() && at("hard").exists());
}

#[tokio::test]
async fn devices_are_not_opened() {
    let mount = Mount::new("/dev", "/data").file_perms(Permission::ReadWrite);
    let sandbox = template(Runtime::Python).await.sandbox().mount(mount).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(OPENINGS).await.unwrap();
    for name in ["null", "zero", "full", "random", "tty"] {
        let path = format!("/data/{name}");
        let call = sandbox.run("openings", args![&path]).timeout(HANG_TIMEOUT);
        let refusals: Vec<Option<String>> = call.await.unwrap().to().unwrap();
        assert!(refusals.iter().all(Option::is_some), "{name}: {refusals:?}");
        sandbox.run("harmless", args![&path]).timeout(HANG_TIMEOUT).await.unwrap();
    }
}

/// A thread that replaces a file by a pipe and back, until this is dropped.
struct Swapping {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapping {
    fn start(name: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                create_fifo(&other);
                fs::rename(&other, &name).unwrap();
                fs::write(&other, "content").unwrap();
                fs::rename(&other, &name).unwrap();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_replaced_by_a_pipe_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("name"), "content").unwrap();
    let sandbox = loaded_with_data(
        dir.path(),
        "
def main():
    seen = set()
    for _ in range(2000):
        for mode in ('r', 'r+'):
            try:
                with open('/data/name', mode) as file:
                    seen.add(file.read())
            except OSError as error:
                seen.add(type(error).__name__)
    return sorted(seen)
",
    )
    .await;
    let swapping = Swapping::start(at("name"), at("other"));
    let seen = sandbox.run("main", args![]).timeout(HANG_TIMEOUT).await;
    drop(swapping);
    let seen: Vec<String> = seen.unwrap().to().unwrap();
    assert!(seen.contains(&"content".to_owned()), "{seen:?}");
    assert!(seen.iter().all(|what| what == "content" || what == "OSError"), "{seen:?}");
}

#[tokio::test]
async fn non_utf8_name_does_not_hide_other_entries() {
    let dir = tempfile::tempdir().unwrap();
    for directory in ["", "sub", "sub/deep"] {
        let directory = dir.path().join(directory);
        fs::create_dir_all(&directory).unwrap();
        for name in [&b"latin-\xe9"[..], b"\xff", b"a\x80z", b"\xed\xa0\x80"] {
            fs::write(directory.join(OsStr::from_bytes(name)), "").unwrap();
        }
        for name in ["a.py", "z.py", "grüße", "日本"] {
            fs::write(directory.join(name), "").unwrap();
        }
    }
    fs::create_dir(dir.path().join(OsStr::from_bytes(b"d\xe9"))).unwrap();
    let sandbox = loaded_with_data(
        dir.path(),
        "
import glob, os, pathlib
def main():
    walked = [(path, sorted(files)) for path, _, files in sorted(os.walk('/data'))]
    found = [
        len(glob.glob('/data/**/*.py', recursive=True)),
        len(list(pathlib.Path('/data').rglob('*.py'))),
        len(list(pathlib.Path('/data').iterdir())),
        len(os.listdir('/data/sub')),
        sum(1 for _ in os.scandir('/data/sub/deep')),
    ]
    return [walked, found]
",
    )
    .await;
    let files = r#"["a.py","grüße","z.py","日本"]"#;
    assert_eq!(
        sandbox.run("main", args![]).await.unwrap().as_str(),
        format!(
            r#"[[["/data",{files}],["/data/sub",{files}],["/data/sub/deep",{files}]],[6,6,5,5,4]]"#
        )
    );
}

#[tokio::test]
async fn trailing_slash_follows_a_link() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("directory", dir.path().join("link")).unwrap();
    symlink("file", dir.path().join("file-link")).unwrap();
    symlink("nothing", dir.path().join("dangling")).unwrap();
    let sandbox = loaded_with_data(
        dir.path(),
        "
import os, stat
def kind(path):
    try:
        return stat.filemode(os.lstat(path).st_mode)[0]
    except OSError as error:
        return type(error).__name__
",
    )
    .await;
    for (path, kind) in [
        ("link", "l"),
        ("link/", "d"),
        ("link//", "d"),
        ("link/.", "d"),
        ("directory/", "d"),
        ("directory", "d"),
        ("file", "-"),
        ("file/", "NotADirectoryError"),
        ("file-link", "l"),
        ("file-link/", "NotADirectoryError"),
        ("dangling", "l"),
        ("dangling/", "FileNotFoundError"),
        ("nothing/", "FileNotFoundError"),
    ] {
        let found = sandbox.run("kind", args![format!("/data/{path}")]).await.unwrap();
        assert_eq!(found.as_str(), format!("\"{kind}\""), "{path}");
    }
}

#[tokio::test]
async fn times_before_1970_are_supported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    let sandbox = loaded_with_data(
        dir.path(),
        "
import os
def read():
    return int(os.stat('/data/file').st_mtime_ns)
def write(ns):
    os.utime('/data/file', ns=(ns, ns))
    with open('/data/file') as file:
        return os.fstat(file.fileno()).st_mtime_ns
",
    )
    .await;
    for nanoseconds in [-1_i64, -1_000_000_000, -86_400_000_000_001, -1_500_000_000, 0, 1, 1 << 60]
    {
        let time = rustix::fs::Timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())
            .unwrap();
        let read: i64 = sandbox.run("read", args![]).await.unwrap().to().unwrap();
        assert_eq!(read, nanoseconds);
        let other = nanoseconds - 5;
        let written: i64 = sandbox.run("write", args![other]).await.unwrap().to().unwrap();
        assert_eq!(written, other);
        let found = rustix::fs::stat(&path).unwrap();
        assert_eq!(found.st_mtime * 1_000_000_000 + found.st_mtime_nsec as i64, other);
    }
}

#[tokio::test]
async fn appending_behaves_as_on_linux() {
    let expected: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(include_str!("appending.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sandbox = loaded_with_data(dir.path(), include_str!("appending.py")).await;
    let found: serde_json::Map<String, serde_json::Value> =
        sandbox.run("main", args!["/data/file"]).await.unwrap().to().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, value)| found[*name] != **value)
        .map(|(name, value)| format!("{name}: {} instead of {value}", found[name]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn modes_are_those_of_umask_022() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    fs::write(dir.path().join("directory/file"), "content").unwrap();
    symlink("file", dir.path().join("directory/link")).unwrap();
    let sandbox = loaded_with_data(
        dir.path(),
        "
import io, os, pathlib, shutil, stat, tarfile, zipfile
def mode(info):
    return stat.filemode(info.st_mode)
def main():
    os.chdir('/data')
    with open('directory/file') as file:
        seen = [mode(os.fstat(file.fileno()))]
    seen += [mode(os.stat(path)) for path in ('directory', 'directory/file', 'directory/link')]
    seen += [mode(os.lstat('directory/link')), mode(pathlib.Path('directory/file').stat())]
    seen += sorted(mode(entry.stat(follow_symlinks=False)) for entry in os.scandir('directory'))
    shutil.copy('directory/file', 'copy')
    shutil.copy2('directory/file', 'copy2')
    shutil.copytree('directory', 'tree', symlinks=True)
    seen += [mode(os.stat(path)) for path in ('copy', 'copy2', 'tree', 'tree/file')]
    with tarfile.open('archive.tar', 'w') as archive:
        archive.add('directory')
    with tarfile.open('archive.tar') as archive:
        seen += [stat.filemode(member.mode) for member in archive]
        archive.extractall('from-tar', filter='data')
    with zipfile.ZipFile('archive.zip', 'w') as archive:
        archive.write('directory')
        archive.write('directory/file')
    with zipfile.ZipFile('archive.zip') as archive:
        seen += [stat.filemode(member.external_attr >> 16) for member in archive.infolist()]
        archive.extractall('from-zip')
    shutil.make_archive('made', 'gztar', root_dir='directory')
    with tarfile.open('made.tar.gz') as archive:
        seen.append(stat.filemode(archive.getmember('./file').mode))
    return seen
",
    )
    .await;
    let (file, directory, link) = ("-rw-r--r--", "drwxr-xr-x", "lrwxrwxrwx");
    let seen: Vec<String> = sandbox.run("main", args![]).await.unwrap().to().unwrap();
    let expected = [
        // Of the descriptor, and of the entries by path.
        file,
        directory,
        file,
        file,
        link,
        file, // Of directory entries.
        file,
        link, // Of copies.
        file,
        file,
        directory,
        file, // In the tar archive, without the type.
        "?rwxr-xr-x",
        "?rw-r--r--",
        "?rwxrwxrwx", // In the zip archive, with the type.
        directory,
        file,
        "?rw-r--r--",
    ];
    assert_eq!(seen, expected);
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["copy", "copy2", "tree/file", "from-tar/directory/file", "from-zip/directory/file"]
    {
        let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        // The embedder's umask determines the other bits.
        assert_eq!(mode & 0o700, 0o600, "{name}: {mode:o}");
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "content");
    }
}

const GROWING: &str = "
import os, sqlite3
def main():
    writer = os.open('/data/grows', os.O_RDWR | os.O_CREAT)
    reader = os.open('/data/grows', os.O_RDONLY)
    seen = [os.read(reader, 10)]
    os.write(writer, b'abc')
    seen += [os.read(reader, 10), os.read(reader, 10)]
    os.write(writer, b'def')
    seen += [os.read(reader, 2), os.read(reader, 10), os.read(reader, 10)]
    os.lseek(reader, 0, os.SEEK_SET)
    seen += [os.read(reader, 10)]
    text = open('/data/grows')
    seen += [text.read().encode(), text.read().encode()]
    os.write(writer, b'ghi')
    seen += [text.read().encode()]
    return [bytes.decode() for bytes in seen]
def two_connections():
    first, second = (sqlite3.connect('/data/db', autocommit=True) for _ in range(2))
    first.execute('create table numbers (value)')
    second.execute('insert into numbers values (1)')
    first.execute('insert into numbers values (2)')
    return [second.execute('select sum(value) from numbers').fetchone()[0]]
";

#[tokio::test]
async fn data_appended_after_end_of_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = loaded_with_data(dir.path(), GROWING).await;
    let seen: Vec<String> = sandbox.run("main", args![]).await.unwrap().to().unwrap();
    assert_eq!(seen, ["", "abc", "", "de", "f", "", "abcdef", "abcdef", "", "ghi"]);
    let sum = sandbox.run("two_connections", args![]).await.unwrap();
    assert_eq!(sum, serde_json::json!([3]));
}
