//! Files.

use isorun_agent::client::{self, ClientError};
use isorun_agent::protocol::{FailureKind, FileKind, Name, WriteFile};
use tokio::io::AsyncReadExt;

use super::Sandbox;
use crate::engine::Engine;

/// Bytes come back as they went in, with the permissions and owner asked for.
pub async fn files_go_in_and_out(engine: &dyn Engine) {
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
    // A file that is replaced keeps what it was; a link is followed.
    sandbox.text("ln -s /n/x/y /link").await;
    write(&sandbox, "/link", b"new").await.unwrap();
    assert_eq!(
        sandbox
            .text("stat -c %a:%u:%F:%s /n/x/y; cat /link; readlink /link; stat -c %s /n/x/y")
            .await,
        "751:65534:regular file:3\nnew/n/x/y\n3\n"
    );
    // A name that is no text.
    let name = Name::from(&b"/odd/\xff\n"[..]);
    let request = WriteFile { path: name.clone(), ..WriteFile::default() };
    client::write_file(sandbox.connect().await, request, &b"odd"[..]).await.unwrap();
    assert_eq!(sandbox.text("cat /odd/*").await, "odd");
    let reader = client::read_file(sandbox.connect().await, name).await.unwrap();
    assert_eq!(reader.metadata().size, 3);
    assert_eq!(reader.read_to_end(3).await.unwrap(), b"odd");
    // Too much for the caller.
    let reader = client::read_file(sandbox.connect().await, "/odd/../n/x/y".into()).await.unwrap();
    assert!(matches!(reader.read_to_end(2).await, Err(ClientError::Local(_))));
}

/// Folders are made, listed and removed.
pub async fn folders(engine: &dyn Engine) {
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

/// What makes no sense is refused, with the kind of it.
pub async fn what_cannot_be_is_refused(engine: &dyn Engine) {
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

/// Until all has arrived there is no new file.
pub async fn a_broken_upload_leaves_nothing(engine: &dyn Engine) {
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
    let source = tokio_test_error();
    let failed = client::write_file(sandbox.connect().await, to("/up/file"), source).await;
    assert!(matches!(failed, Err(ClientError::Local(_))), "{failed:?}");
    sandbox.until("[ $(ls -A /up | wc -l) = 1 ]").await;
}

fn tokio_test_error() -> impl tokio::io::AsyncRead {
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
