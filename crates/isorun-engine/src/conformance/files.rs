//! Reading, writing and listing files.

use isorun_agent::client::{self, ClientError};
use isorun_agent::protocol::{Exec, FailureKind, FileKind, Name, Status, WriteFile};
use tokio::io::AsyncReadExt;

use super::Sandbox;
use crate::engine::Engine;

/// Files are stored unchanged, with the permissions and the owner of the request.
pub async fn files_are_stored_unchanged(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let mut bytes: Vec<u8> =
        (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for content in [&[][..], &b"text\n"[..], &bytes] {
        write(&sandbox, "/data/deep/down/file", content).await.unwrap();
        assert_eq!(read(&sandbox, "/data/deep/down/file").await.unwrap(), content);
    }
    bytes.truncate(10);
    assert_eq!(
        sandbox.text("stat -c %a:%U /data/deep/down/file; stat -c %a /data/deep").await,
        "644:root\n755\n"
    );

    let request = WriteFile { mode: Some(0o751), owner: Some("nobody".into()), ..to("/n/x/y") };
    client::write_file(sandbox.connect().await, request, &bytes[..]).await.unwrap();
    let shown = sandbox.text("stat -c %a:%u:%g /n/x/y; stat -c %u /n /n/x").await;
    assert_eq!(shown, "751:65534:65534\n65534\n65534\n");
    // A file that is replaced keeps its mode and owner; a symbolic link is followed.
    sandbox.text("ln -s /n/x/y /link").await;
    write(&sandbox, "/link", b"new").await.unwrap();
    assert_eq!(
        sandbox
            .text("stat -c %a:%u:%F:%s /n/x/y; cat /link; readlink /link; stat -c %s /n/x/y")
            .await,
        "751:65534:regular file:3\nnew/n/x/y\n3\n"
    );
    // A name that is not UTF-8.
    let name = Name::from(&b"/odd/\xff\n"[..]);
    let request = WriteFile { path: name.clone(), ..WriteFile::default() };
    client::write_file(sandbox.connect().await, request, &b"odd"[..]).await.unwrap();
    assert_eq!(sandbox.text("cat /odd/*").await, "odd");
    let reader = client::read_file(sandbox.connect().await, name).await.unwrap();
    assert_eq!(reader.metadata().size, 3);
    assert_eq!(reader.read_to_end(3).await.unwrap(), b"odd");
    // A file that is larger than the limit of the caller.
    let reader = client::read_file(sandbox.connect().await, "/odd/../n/x/y".into()).await.unwrap();
    assert!(matches!(reader.read_to_end(2).await, Err(ClientError::Local(_))));
}

/// Directories are created, listed and removed.
pub async fn directories_are_created_listed_and_removed(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    client::make_dir(sandbox.connect().await, "/a/b/c".into(), Some(0o700), None).await.unwrap();
    client::make_dir(sandbox.connect().await, "/a/b/c".into(), None, None).await.unwrap();
    sandbox.text("cd /a && seq 2500 | xargs touch && ln -s nowhere link && mkfifo pipe").await;
    let entries = client::list(sandbox.connect().await, "/a".into()).await.unwrap();
    assert_eq!(entries.len(), 2503);
    let kind =
        |name: &str| entries.iter().find(|entry| entry.name == name.into()).unwrap().metadata.kind;
    assert_eq!(
        [kind("b"), kind("1"), kind("link"), kind("pipe")],
        [FileKind::Dir, FileKind::File, FileKind::Link, FileKind::Other]
    );
    assert!(entries.is_sorted_by(|a, b| a.name < b.name));
    let stat = client::stat(sandbox.connect().await, "/a/b/c".into()).await.unwrap();
    assert_eq!((stat.kind, stat.mode), (FileKind::Dir, 0o700));
    client::remove(sandbox.connect().await, "/a".into()).await.unwrap();
    let gone = client::stat(sandbox.connect().await, "/a".into()).await;
    assert_eq!(kind_of(gone), FailureKind::NotFound);
}

/// Invalid requests are refused with the matching kind of failure.
pub async fn invalid_requests_are_refused(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    sandbox.text("mkdir /d; mkfifo /pipe; touch /file").await;
    let long = format!("/{}", "x".repeat(5000));
    for (path, reading, writing) in [
        ("/none", FailureKind::NotFound, None),
        ("/d", FailureKind::IsADirectory, Some(FailureKind::IsADirectory)),
        ("/", FailureKind::IsADirectory, Some(FailureKind::IsADirectory)),
        ("/pipe", FailureKind::NotAFile, Some(FailureKind::NotAFile)),
        ("/dev/zero", FailureKind::NotAFile, Some(FailureKind::NotAFile)),
        ("/file/x", FailureKind::NotADirectory, Some(FailureKind::NotADirectory)),
        ("relative", FailureKind::Invalid, Some(FailureKind::Invalid)),
        ("", FailureKind::Invalid, Some(FailureKind::Invalid)),
        ("/nul\0", FailureKind::Invalid, Some(FailureKind::Invalid)),
        ("/new/", FailureKind::NotFound, Some(FailureKind::IsADirectory)),
        (&long, FailureKind::Invalid, Some(FailureKind::Invalid)),
    ] {
        assert_eq!(kind_of(read(&sandbox, path).await), reading, "read {path:?}");
        if let Some(kind) = writing {
            assert_eq!(kind_of(write(&sandbox, path, b"x").await), kind, "write {path:?}");
        }
    }
    assert_eq!(
        kind_of(write(&sandbox, "/proc/x", b"x").await),
        kind_of(write(&sandbox, "/proc/y", b"x").await)
    );
}

/// An upload that is not complete leaves no new file.
pub async fn incomplete_upload_leaves_no_file(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    write(&sandbox, "/up/file", b"before").await.unwrap();
    let (mut feed, source) = tokio::io::duplex(1 << 20);
    let upload = client::write_file(sandbox.connect().await, to("/up/file"), source);
    let feeding = async {
        use tokio::io::AsyncWriteExt;
        feed.write_all(&[b'x'; 300_000]).await.unwrap();
        sandbox.until("[ $(ls -A /up | wc -l) = 2 ]").await;
    };
    tokio::select! {
        _ = upload => panic!("the source has not ended"),
        () = feeding => {}
    }
    sandbox.until("[ $(ls -A /up | wc -l) = 1 ]").await;
    assert_eq!(read(&sandbox, "/up/file").await.unwrap(), b"before");
    // A source that fails.
    let source = failing_source();
    let failed = client::write_file(sandbox.connect().await, to("/up/file"), source).await;
    assert!(matches!(failed, Err(ClientError::Local(_))), "{failed:?}");
    sandbox.until("[ $(ls -A /up | wc -l) = 1 ]").await;
}

/// Pipes, devices and links in the place of files that the agent opens delay neither that
/// request nor any other.
pub async fn special_files_do_not_block_the_agent(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    // The names of temporary files in earlier versions, and many more.
    sandbox
        .text(
            "mkdir /up && cd /up && for n in $(seq 0 300); do mkfifo .isorun-$n.part; done; \
             mkfifo .isorun.part file.part .file; mkfifo /etc/.resolv.conf.part; \
             ln -s /up/.isorun-0.part link; mkfifo /pipe; mkdir /d",
        )
        .await;
    for n in 0..20 {
        write(&sandbox, &format!("/up/file{n}"), b"content").await.unwrap();
        assert_eq!(read(&sandbox, &format!("/up/file{n}")).await.unwrap(), b"content");
    }
    assert_eq!(kind_of(write(&sandbox, "/up/link", b"x").await), FailureKind::NotAFile);
    for path in ["/pipe", "/up/link", "/dev/tty", "/dev/ptmx", "/dev/zero", "/dev/full"] {
        assert_eq!(kind_of(read(&sandbox, path).await), FailureKind::NotAFile, "{path}");
        assert_eq!(kind_of(write(&sandbox, path, b"x").await), FailureKind::NotAFile, "{path}");
    }
    // The files that starting a program needs: an empty input, a directory, a user.
    sandbox.text("rm /dev/null && mkfifo /dev/null").await;
    assert_eq!(sandbox.text("wc -c").await, "0\n");
    for (passwd, group) in [("/pipe", "/pipe"), ("/dev/zero", "/dev/zero"), ("/d", "/none")] {
        let exec = |user: &str| Exec {
            user: Some(user.to_owned()),
            ..super::argv(&["/usr/bin/id", "-u"])
        };
        let links = format!("ln -sf {passwd} /etc/passwd; ln -sf {group} /etc/group");
        sandbox.text(&links).await;
        let ran = sandbox.exec(exec("1000:1000")).await.unwrap().output(1 << 20).await.unwrap();
        assert_eq!(ran.stdout, b"1000\n", "{passwd}");
        assert!(sandbox.exec(exec("ada")).await.is_err(), "{passwd}");
    }
    for cwd in ["/pipe", "/dev/zero"] {
        let exec = Exec { cwd: Some(cwd.to_owned()), ..super::argv(&["/bin/true"]) };
        assert!(sandbox.exec(exec).await.is_err(), "{cwd}");
    }
    assert_eq!(sandbox.text("echo well").await, "well\n");
}

/// A program that replaces a directory with a symbolic link while the agent creates files
/// in it does not get ownership of other files.
pub async fn link_race_does_not_change_ownership(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    sandbox.text("mkdir -m 777 /home/u && mkdir /secret && echo key > /secret/key").await;
    let racing = "while :; do for n in $(seq 0 40); do \
                  rmdir /home/u/d$n 2>/dev/null && ln -s /secret /home/u/d$n; done; done";
    let exec = Exec { user: Some("nobody".to_owned()), ..super::shell(racing) };
    let racer = sandbox.exec(exec).await.unwrap();
    for n in 0..40 {
        let (path, owner) = (format!("/home/u/d{n}"), Some("nobody".to_owned()));
        let mode = Some(0o777);
        let _ = client::make_dir(sandbox.connect().await, (&*path).into(), mode, owner).await;
        let request = WriteFile { owner: Some("nobody".into()), ..to(&format!("{path}/sub/f")) };
        let _ = client::write_file(sandbox.connect().await, request, &b"x"[..]).await;
    }
    drop(racer);
    assert_eq!(sandbox.text("stat -c %U:%a /secret /secret/key").await, "root:755\nroot:644\n");
}

/// A tree is removed even if it is deeper than recursion or file descriptors allow.
pub async fn deep_trees_are_removed(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let deep = "import os\nos.mkdir('/deep'); os.chdir('/deep')\n\
                for n in range(9000): os.mkdir('d'); os.chdir('d')\nopen('bottom', 'w')";
    let made = sandbox.exec(super::argv(&["/usr/bin/python3", "-c", deep])).await.unwrap();
    let made = made.output(1 << 20).await.unwrap();
    assert_eq!(made.status, Status::Code(0), "{made:?}");
    sandbox.text("mkdir /outside; touch /outside/stays; ln -s /outside /deep/link").await;
    client::remove(sandbox.connect().await, "/deep".into()).await.unwrap();
    let gone = client::remove(sandbox.connect().await, "/deep".into()).await;
    assert_eq!(kind_of(gone), FailureKind::NotFound);
    assert_eq!(
        kind_of(client::remove(sandbox.connect().await, "/".into()).await),
        FailureKind::Invalid
    );
    assert_eq!(sandbox.text("ls /outside; ls -d /deep* | wc -l").await, "stays\n0\n");
}

fn failing_source() -> impl tokio::io::AsyncRead {
    struct Fails;
    impl tokio::io::AsyncRead for Fails {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
        }
    }
    (&b"some"[..]).chain(Fails)
}

fn to(path: &str) -> WriteFile {
    WriteFile { path: path.into(), ..WriteFile::default() }
}

async fn write(sandbox: &Sandbox<'_>, path: &str, bytes: &[u8]) -> Result<u64, ClientError> {
    let written = client::write_file(sandbox.connect().await, to(path), bytes).await?;
    assert_eq!(written, bytes.len() as u64);
    Ok(written)
}

async fn read(sandbox: &Sandbox<'_>, path: &str) -> Result<Vec<u8>, ClientError> {
    client::read_file(sandbox.connect().await, path.into()).await?.read_to_end(64 << 20).await
}

fn kind_of<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> FailureKind {
    match outcome {
        Err(ClientError::Failed(failure)) => failure.kind,
        other => panic!("{other:?}"),
    }
}
