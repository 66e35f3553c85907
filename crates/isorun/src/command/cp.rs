//! `isorun cp`: copies one file into or out of a sandbox.

use std::{os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use anyhow::Context;
use futures_util::{StreamExt, pin_mut};
use reqwest::Body;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct CpArgs {
    /// A file, RUN:/PATH for one in a sandbox, or - for standard input
    from: String,

    /// A file, RUN:/PATH for one in a sandbox, or - for standard output
    to: String,
}

pub const NOTES: &str = "\
Permissions are copied; out of a sandbox, less those of the umask. If a path in
a sandbox ends in /, or is that of a directory, the file is copied into that
directory and keeps its name.

To copy directories, use tar:
  tar c directory | isorun exec RUN -- tar x -C /job
  isorun exec RUN -- tar c -C /job directory | tar x

Examples:
  isorun cp data.csv run0123456789abcdef:/job/
  isorun cp run0123456789abcdef:/job/plot.png plot.png
  echo hello | isorun cp - run0123456789abcdef:/tmp/hello";

/// The source or the destination of a copy.
enum Endpoint {
    Local(String),
    InSandbox(RunId, String),
}

fn endpoint(text: &str) -> Endpoint {
    // A local file with such a name can be specified as ./run...
    if let Some((id, path)) = text.split_once(':')
        && let Ok(id) = id.parse()
    {
        return Endpoint::InSandbox(id, path.to_owned());
    }
    Endpoint::Local(text.to_owned())
}

pub async fn run(args: CpArgs, client: Client) -> Result<ExitCode, Failure> {
    match (endpoint(&args.from), endpoint(&args.to)) {
        (Endpoint::Local(from), Endpoint::InSandbox(id, to)) => {
            upload(&client, &from, &id, to).await
        }
        (Endpoint::InSandbox(id, from), Endpoint::Local(to)) => {
            download(&client, &id, &from, &to).await
        }
        _ => Err(Failure::usage(
            "exactly one of the two paths must be in a sandbox: specify it as RUN:/PATH",
        )),
    }
}

async fn upload(
    client: &Client,
    from: &str,
    id: &RunId,
    mut to: String,
) -> Result<ExitCode, Failure> {
    if from == "-" {
        if to.ends_with('/') {
            return Err(Failure::usage(
                "standard input has no file name: specify one in the sandbox",
            ));
        }
        let body = Body::wrap_stream(ReaderStream::new(tokio::io::stdin()));
        client.upload(id, &to, None, body).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = Path::new(from).file_name().and_then(|name| name.to_str());
    let invalid_name = || Failure::usage(format!("the file name of {from} is not valid UTF-8"));
    if to.ends_with('/') {
        to += name.ok_or_else(invalid_name)?;
    } else if client.entries(id, &to).await.is_ok() {
        // It is a directory.
        to = format!("{to}/{}", name.ok_or_else(invalid_name)?);
    }
    let opened = async {
        let file = tokio::fs::File::open(from).await?;
        let metadata = file.metadata().await?;
        Ok::<_, std::io::Error>((file, metadata))
    };
    let (file, metadata) =
        opened.await.map_err(|error| Failure::usage(format!("cannot read {from}: {error}")))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{from} is a directory"))
            .hint("copy directories with tar: see `isorun cp --help`"));
    }
    let body = Body::wrap_stream(ReaderStream::with_capacity(file, 128 << 10));
    client.upload(id, &to, Some(metadata.permissions().mode() & 0o777), body).await?;
    Ok(ExitCode::SUCCESS)
}

async fn download(client: &Client, id: &RunId, from: &str, to: &str) -> Result<ExitCode, Failure> {
    let (mode, pieces) = client.download(id, from).await?;
    pin_mut!(pieces);
    if to == "-" {
        let mut stdout = tokio::io::stdout();
        while let Some(piece) = pieces.next().await {
            write(&mut stdout, &piece?).await?;
        }
        stdout.flush().await.map_err(Failure::output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut to = Path::new(to).to_owned();
    if to.is_dir() {
        to.push(Path::new(from).file_name().unwrap_or_default());
    }
    let directory = match to.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    // The file is renamed when it is complete.
    let temporary = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("cannot write to {}", directory.display()))?;
    let (file, path) = temporary.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    while let Some(piece) = pieces.next().await {
        file.write_all(&piece?).await.with_context(|| format!("cannot write {}", to.display()))?;
    }
    file.flush().await.with_context(|| format!("cannot write {}", to.display()))?;
    file.set_permissions(std::fs::Permissions::from_mode(mode.unwrap_or(0o644) & 0o777 & !umask()))
        .await
        .with_context(|| format!("cannot write {}", to.display()))?;
    path.persist(&to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(ExitCode::SUCCESS)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes).await.map_err(Failure::output)
}

/// Returns the umask, which cannot be read without setting it.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}
