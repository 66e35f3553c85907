//! `isorun cp`: one file in, or one file out.

use std::{os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use anyhow::Context;
use futures_util::{StreamExt, pin_mut};
use reqwest::Body;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::{client::Client, failure::Failure, id::RunId};

#[derive(clap::Args)]
pub struct Args {
    /// A file, RUN:/PATH for one in a sandbox, or - for standard input
    from: String,

    /// A file, RUN:/PATH for one in a sandbox, or - for standard output
    to: String,
}

pub const NOTES: &str = "\
Permissions go along, on the way out less those that the umask takes. A path in
a sandbox that ends in /, or at which there is a folder, is a folder, and the
file keeps its name there.

Folders go through tar:
  tar c folder | isorun exec RUN -- tar x -C /job
  isorun exec RUN -- tar c -C /job folder | tar x

Examples:
  isorun cp data.csv run0123456789abcdef:/job/
  isorun cp run0123456789abcdef:/job/plot.png plot.png
  echo hello | isorun cp - run0123456789abcdef:/tmp/hello";

/// One end of a copy.
enum Place {
    Local(String),
    Inside(RunId, String),
}

fn place(text: &str) -> Place {
    // A local file of such a name is reached as ./run...
    if let Some((id, path)) = text.split_once(':')
        && let Ok(id) = id.parse()
    {
        return Place::Inside(id, path.to_owned());
    }
    Place::Local(text.to_owned())
}

pub async fn run(args: Args, client: Client) -> Result<ExitCode, Failure> {
    match (place(&args.from), place(&args.to)) {
        (Place::Local(from), Place::Inside(id, to)) => upload(&client, &from, &id, to).await,
        (Place::Inside(id, from), Place::Local(to)) => download(&client, &id, &from, &to).await,
        _ => Err(Failure::usage("one of the two has to be in a sandbox, as RUN:/PATH")),
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
            return Err(Failure::usage("standard input has no name: name the file in the sandbox"));
        }
        let body = Body::wrap_stream(ReaderStream::new(tokio::io::stdin()));
        client.upload(id, &to, None, body).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = Path::new(from).file_name().and_then(|name| name.to_str());
    let nameless = || Failure::usage(format!("{from} has no name that is text"));
    if to.ends_with('/') {
        to += name.ok_or_else(nameless)?;
    } else if client.entries(id, &to).await.is_ok() {
        // There is a folder.
        to = format!("{to}/{}", name.ok_or_else(nameless)?);
    }
    let opened = async {
        let file = tokio::fs::File::open(from).await?;
        let metadata = file.metadata().await?;
        Ok::<_, std::io::Error>((file, metadata))
    };
    let (file, metadata) =
        opened.await.map_err(|error| Failure::usage(format!("cannot read {from}: {error}")))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{from} is a folder"))
            .hint("copy folders with tar: `isorun cp --help` says how"));
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
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Whole or not at all.
    let draft = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    let (file, path) = draft.into_parts();
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

/// What the user takes from new files. There is no way to ask without setting.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}
