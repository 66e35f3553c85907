//! The resources of the process that file operations of guests use: CPU time, memory,
//! file descriptors, and the size of files.
//!
//! They are a separate test binary, because they measure the process and change its
//! limits.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{fs, path::Path, time::Duration};

use isola::{Limit, Mount, Permission, Runtime, Sandbox, Template, args};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::process::{descriptors, process_cpu_time, resident_bytes};

#[path = "sandbox/process.rs"]
mod process;

/// Runs the tests one after another, because all measure the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_operations_use_limited_resources() {
    let template = Template::builder(Runtime::Python).build().await.unwrap();
    directories_are_not_read_as_a_whole(&template).await;
    file_operations_count_as_cpu_time(&template).await;
    one_guest_does_not_take_all_descriptors(&template).await;
    file_beyond_the_size_limit_does_not_end_the_process(&template).await;
}

async fn sandbox(template: &Template, host: &Path, script: &str) -> Sandbox {
    let mount = Mount::new(host, "/data")
        .dir_perms(Permission::ReadWrite)
        .file_perms(Permission::ReadWrite);
    let sandbox = template.sandbox().mount(mount).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    sandbox
}

fn resident_mebibytes() -> u64 {
    resident_bytes() >> 20
}

/// A limit of the process, which is restored when this is dropped.
struct ChangedLimit {
    resource: Resource,
    old: Rlimit,
}

impl ChangedLimit {
    fn new(resource: Resource, current: u64) -> Self {
        let old = getrlimit(resource);
        setrlimit(resource, Rlimit { current: Some(current), maximum: old.maximum }).unwrap();
        Self { resource, old }
    }
}

impl Drop for ChangedLimit {
    fn drop(&mut self) {
        let restored = setrlimit(self.resource, self.old);
        assert!(restored.is_ok() || std::thread::panicking(), "{restored:?}");
    }
}

const ENTRIES: usize = 50_000;

async fn directories_are_not_read_as_a_whole(template: &Template) {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..ENTRIES {
        fs::write(dir.path().join(format!("an-entry-with-a-long-name-{number:08}")), "").unwrap();
    }
    let sandbox = sandbox(
        template,
        dir.path(),
        "
import os
open_now = []
def hold():
    try:
        for _ in range(500):
            directory = os.scandir('/data')
            next(directory)
            open_now.append(directory)
    except OSError:
        pass
    return len(open_now)
def release():
    open_now.clear()
    return len(os.listdir('/data'))
",
    )
    .await;
    let before = (resident_mebibytes(), descriptors());
    for _ in 0..3 {
        let held: usize = sandbox.run("hold", args![]).await.unwrap().to().unwrap();
        assert!(held >= 32, "{held}");
        let grown = resident_mebibytes().saturating_sub(before.0);
        assert!(grown < 160, "{held} directories: {grown} MiB");
        // Each entry is listed exactly once.
        let listed: usize = sandbox.run("release", args![]).await.unwrap().to().unwrap();
        assert_eq!(listed, ENTRIES);
    }
    drop(sandbox);
    assert!(descriptors() < before.1, "{} {}", descriptors(), before.1);
}

async fn file_operations_count_as_cpu_time(template: &Template) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("many")).unwrap();
    for number in 0..5_000 {
        fs::write(at("many").join(number.to_string()), "").unwrap();
    }
    fs::create_dir_all(at(&["deep"; 100].join("/"))).unwrap();
    fs::write(at("large"), vec![1; 8 << 20]).unwrap();
    let rows = [
        ("listing", "os.listdir('/data/many')"),
        ("looking", "os.stat('/data/' + 'deep/' * 100)"),
        ("opening", "os.close(os.open('/data/large', os.O_RDONLY))"),
        ("reading", "open('/data/large', 'rb').read()"),
        ("writing", "open('/data/out', 'wb').write(b'x' * (4 << 20))"),
        ("cutting", "os.truncate('/data/out', 1 << 20); os.truncate('/data/out', 0)"),
        ("renaming", "os.rename('/data/out', '/data/b'); os.rename('/data/b', '/data/out')"),
        ("linking", "os.link('/data/out', '/data/c'); os.remove('/data/c')"),
        ("making", "os.mkdir('/data/d'); os.rmdir('/data/d')"),
        ("times", "os.utime('/data/out', (1, 1))"),
    ];
    for (what, operation) in rows {
        // The previous row may have been stopped at any point.
        for name in ["out", "b", "c"] {
            fs::write(at(name), "").unwrap();
        }
        fs::remove_file(at("c")).unwrap();
        let script = format!("import os\ndef main():\n    while True:\n        {operation}\n");
        let sandbox = sandbox(template, dir.path(), &script).await;
        let limit = Duration::from_millis(500);
        let before = process_cpu_time();
        let call = sandbox.run("main", args![]).cpu_timeout(limit).timeout(limit * 60);
        let error = call.await.unwrap_err();
        let took = process_cpu_time() - before;
        assert_eq!(error.limit(), Some(Limit::CpuTime), "{what}: {error}");
        println!("{what}: {took:?}");
        // Passing an operation to another thread takes CPU time that is not charged.
        assert!(took < limit * 5 / 2, "{what}: {took:?}");
    }
}

async fn one_guest_does_not_take_all_descriptors(template: &Template) {
    const SOFT_LIMIT: u64 = 512;
    const SCRIPT: &str = "
import errno, os
held = []
def files():
    try:
        while True:
            held.append(open('/data/file'))
    except OSError as error:
        return [len(held), errno.errorcode[error.errno]]
def directories():
    try:
        while True:
            held.append(os.scandir('/data'))
    except OSError as error:
        return [len(held), errno.errorcode[error.errno]]
def release():
    held.clear()
    return open('/data/file').read()
";
    let _limit = ChangedLimit::new(Resource::Nofile, SOFT_LIMIT);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let before = descriptors();
    let mut sandboxes = Vec::new();
    for _ in 0..8 {
        sandboxes.push(sandbox(template, dir.path(), SCRIPT).await);
    }
    let mounted = descriptors() - before;
    for function in ["files", "directories"] {
        let mut shares = Vec::new();
        for sandbox in &sandboxes {
            let got = sandbox.run(function, args![]).await.unwrap();
            let (held, error): (usize, String) = got.to().unwrap();
            assert_eq!(error, "EMFILE");
            shares.push(held);
        }
        println!("{function}: {shares:?}");
        // A listing takes two descriptors: the directory, and the reader in it.
        let each = if function == "files" { 1 } else { 2 };
        assert!(shares[0] * each >= 64 && shares[0] * each <= 128, "{shares:?}");
        assert!(shares.iter().all(|share| share * each >= 16), "{shares:?}");
        assert!(shares.windows(2).all(|pair| pair[1] <= pair[0]), "{shares:?}");
        let taken = descriptors() - before - mounted;
        assert!(taken <= 256 + 8, "{taken}");
        // The embedder can still open files, and more guests can start.
        let own: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        sandbox(template, dir.path(), SCRIPT).await;
        drop(own);
        for sandbox in &sandboxes {
            let read: String = sandbox.run("release", args![]).await.unwrap().to().unwrap();
            assert_eq!(read, "content");
        }
        assert_eq!(descriptors(), before + mounted);
    }
    drop(sandboxes);
    assert_eq!(descriptors(), before);
}

/// The kernel would send `SIGXFSZ`, which terminates a process by default.
async fn file_beyond_the_size_limit_does_not_end_the_process(template: &Template) {
    const MAX_FILE_SIZE: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(
        template,
        dir.path(),
        "
import os
def grow(mode, size):
    try:
        with open('/data/file', mode, buffering=0) as file:
            while file.tell() < size:
                file.write(b'x' * 100_000)
    except OSError as error:
        return error.strerror
def cut(size):
    try:
        os.truncate('/data/file', size)
    except OSError as error:
        return error.strerror
",
    )
    .await;
    let _limit = ChangedLimit::new(Resource::Fsize, MAX_FILE_SIZE);
    for (function, args) in [
        ("grow", args!["wb", 2 * MAX_FILE_SIZE]),
        ("grow", args!["ab", 2 * MAX_FILE_SIZE]),
        ("grow", args!["rb+", 2 * MAX_FILE_SIZE]),
        ("cut", args![MAX_FILE_SIZE + 1]),
        ("cut", args![1_u64 << 60]),
    ] {
        let refused = sandbox.run(function, args).await.unwrap();
        assert_eq!(refused.as_str(), "\"File too large\"", "{function}");
    }
    assert_eq!(sandbox.run("cut", args![MAX_FILE_SIZE]).await.unwrap().as_str(), "null");
    assert_eq!(fs::metadata(dir.path().join("file")).unwrap().len(), MAX_FILE_SIZE);
}
