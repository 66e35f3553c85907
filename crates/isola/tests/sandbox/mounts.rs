//! Host directories in the guest, with their permissions.

use std::fs;

use isola::{Mount, Permission, Runtime, Sandbox, args};

use crate::fixture::{template, writable_mount};

const FILES: &str = "
import os
def read(path):
    with open(path) as file:
        return file.read()
def write(path, text):
    with open(path, 'w') as file:
        file.write(text)
def append(path, text):
    with open(path, 'a') as file:
        file.write(text)
def ls(path):
    return sorted(os.listdir(path))
def mkdir(path):
    os.mkdir(path)
def remove(path):
    os.remove(path)
def rename(a, b):
    os.rename(a, b)
def stat(path):
    return os.stat(path).st_size
def link(a, b):
    os.symlink(a, b)
";

async fn sandbox(mounts: Vec<Mount>) -> Sandbox {
    let mut builder = template(Runtime::Python).await.sandbox();
    for mount in mounts {
        builder = builder.mount(mount);
    }
    let sandbox = builder.create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(FILES).await.unwrap();
    sandbox
}

/// Creates a directory with two files.
fn sample_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "alpha").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/b.txt"), "beta").unwrap();
    dir
}

#[tokio::test]
async fn permissions_are_enforced() {
    use Permission::{Read, ReadWrite, Write};
    // Directory permission, file permission, then what succeeds: list, read,
    // overwrite, create, mkdir, rename, remove.
    let rows = [
        (Read, Read, [true, true, false, false, false, false, false]),
        (Read, ReadWrite, [true, true, true, false, false, false, false]),
        (Read, Write, [true, false, true, false, false, false, false]),
        (ReadWrite, Read, [true, true, false, false, true, true, true]),
        (ReadWrite, ReadWrite, [true, true, true, true, true, true, true]),
        (Write, ReadWrite, [false, true, true, true, true, true, true]),
        (Write, Write, [false, false, true, true, true, true, true]),
    ];
    for (dirs, files, expected) in rows {
        let dir = sample_dir();
        let mount = Mount::new(dir.path(), "/data").dir_perms(dirs).file_perms(files);
        let sandbox = sandbox(vec![mount]).await;
        let outcomes = [
            sandbox.run("ls", args!["/data"]).await,
            sandbox.run("read", args!["/data/sub/b.txt"]).await,
            sandbox.run("write", args!["/data/a.txt", "changed"]).await,
            sandbox.run("write", args!["/data/new.txt", "new"]).await,
            sandbox.run("mkdir", args!["/data/newdir"]).await,
            sandbox.run("rename", args!["/data/sub/b.txt", "/data/sub/c.txt"]).await,
            sandbox.run("remove", args!["/data/a.txt"]).await,
        ];
        let succeeded = outcomes.each_ref().map(Result::is_ok);
        assert_eq!(succeeded, expected, "dirs {dirs:?}, files {files:?}: {outcomes:#?}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(error.to_string().starts_with("PermissionError: "), "{error}");
        }
        let changed = dir.path().join("new.txt").exists();
        assert_eq!(changed, expected[3]);
    }
}

#[tokio::test]
async fn guest_and_host_see_each_others_writes() {
    let dir = sample_dir();
    let sandbox = sandbox(vec![writable_mount(&dir, "/data")]).await;
    sandbox.run("write", args!["/data/out.txt", "grüße"]).await.unwrap();
    sandbox.run("append", args!["/data/out.txt", "!"]).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("out.txt")).unwrap(), "grüße!");
    fs::write(dir.path().join("in.txt"), "from the host").unwrap();
    let read: String = sandbox.run("read", args!["/data/in.txt"]).await.unwrap().to().unwrap();
    assert_eq!(read, "from the host");
}

#[cfg(unix)]
#[tokio::test]
async fn paths_cannot_leave_a_mount() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let dir = sample_dir();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("absolute")).unwrap();
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    std::os::unix::fs::symlink(&up, dir.path().join("relative")).unwrap();
    let sandbox = sandbox(vec![writable_mount(&dir, "/data")]).await;
    for path in [
        "/data/absolute".to_owned(),
        "/data/relative".to_owned(),
        format!("/data/{up}"),
        format!("/data/sub/../../{up}"),
        outside.path().join("secret").to_str().unwrap().to_owned(),
        "/etc/passwd".to_owned(),
        "/proc/self/environ".to_owned(),
    ] {
        let read = sandbox.run("read", args![path]).await;
        assert!(read.is_err(), "{path}: {read:?}");
    }
    // A link that the guest creates does not lead out either.
    let linked = sandbox.run("link", args![outside.path().to_str().unwrap(), "/data/out"]).await;
    let read = sandbox.run("read", args!["/data/out/secret"]).await;
    assert!(read.is_err(), "{linked:?} {read:?}");
}

#[tokio::test]
async fn renames_and_links_across_mounts_are_refused() {
    let (first, second) = (sample_dir(), sample_dir());
    let rw = |dir: &tempfile::TempDir, at: &str, files| {
        Mount::new(dir.path(), at).dir_perms(Permission::ReadWrite).file_perms(files)
    };
    let sandbox = sandbox(vec![
        rw(&first, "/one", Permission::Read),
        rw(&second, "/two", Permission::ReadWrite),
    ])
    .await;
    sandbox.load_script("import os\ndef hard(a, b):\n    os.link(a, b)\n").await.unwrap();
    for function in ["rename", "hard"] {
        let error =
            sandbox.run(function, args!["/one/a.txt", "/two/moved"]).await.unwrap_err().to_string();
        assert!(error.starts_with("OSError: [Errno 75]"), "{function}: {error}");
    }
    sandbox.run("hard", args!["/two/a.txt", "/two/linked"]).await.unwrap();
    assert!(first.path().join("a.txt").exists() && !second.path().join("moved").exists());
    // Times and sizes belong to the content of files.
    sandbox
        .load_script("def times(p):\n    os.utime(p, (0, 0))\ndef cut(p):\n    os.truncate(p, 0)\n")
        .await
        .unwrap();
    for function in ["times", "cut"] {
        assert!(sandbox.run(function, args!["/one/a.txt"]).await.is_err(), "{function}");
        sandbox.run(function, args!["/two/a.txt"]).await.unwrap();
    }
    assert_eq!(fs::read_to_string(first.path().join("a.txt")).unwrap(), "alpha");
}

#[tokio::test]
async fn mount_of_a_sandbox_replaces_that_of_its_template() {
    let (first, second, third) = (sample_dir(), sample_dir(), sample_dir());
    fs::write(third.path().join("only-here"), "").unwrap();
    let template = isola::Template::builder(Runtime::Python)
        .mount(Mount::new(first.path(), "/one"))
        .mount(Mount::new(second.path(), "/two"))
        .build()
        .await
        .unwrap();
    let sandbox =
        template.sandbox().mount(Mount::new(third.path(), "/two")).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(FILES).await.unwrap();
    assert_eq!(sandbox.run("ls", args!["/one"]).await.unwrap().as_str(), r#"["a.txt","sub"]"#);
    assert_eq!(
        sandbox.run("ls", args!["/two"]).await.unwrap().as_str(),
        r#"["a.txt","only-here","sub"]"#
    );
}

#[tokio::test]
async fn python_imports_modules_from_a_mount() {
    let dir = sample_dir();
    fs::write(dir.path().join("helper.py"), "def answer():\n    return 42\n").unwrap();
    let sandbox = sandbox(vec![Mount::new(dir.path(), "/lib/user")]).await;
    sandbox.load_script("import sys\nsys.path.append('/lib/user')\nimport helper\n").await.unwrap();
    sandbox.load_script("def main():\n    return helper.answer()\n").await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "42");
}
