//! Downloads of runtimes.
//!
//! ```text
//! <runtimes>/<version>/<runtime>/   a runtime, installed by one rename
//! <runtimes>/.download/
//!     <runtime>-<version>.lock      held while one process downloads
//!     <digest>.part                 the bytes received so far
//!     <random>/                     the archive while it is unpacked
//! ```
//!
//! A partial file is named by the expected digest, so that no attempt continues
//! with another file's bytes. It is kept if the connection breaks, and removed if
//! the archive is refused.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, Url, header};
use sha2::{Digest as _, Sha256};

use super::{ProgressCallback, Runtime, archive, release_dirs};
use crate::{error::Error, regular, trust};

/// The maximum size of an archive in bytes.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;
/// The number of consecutive attempts without progress after which a download fails.
const MAX_FAILED_ATTEMPTS: u32 = 4;
/// The delay before the second attempt. It doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum time between two pieces of a response.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Download<'a> {
    pub(super) runtime: Runtime,
    pub(super) version: &'a str,
    pub(super) runtimes_dir: &'a Path,
    pub(super) base_url: &'a str,
    pub(super) sha256: Option<&'a str>,
    pub(super) progress: Option<&'a ProgressCallback>,
}

/// The error of an attempt.
enum AttemptError {
    /// Another attempt may succeed.
    Retryable(String),
    Fatal(Error),
}

impl Download<'_> {
    pub(super) async fn run(self) -> Result<PathBuf, Error> {
        let url = self.url()?;
        let client = Client::builder()
            .user_agent(concat!("isola/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|error| Error::internal("setting up the HTTP client", error))?;
        trust::private_dir(self.runtimes_dir)?;
        let work = self.runtimes_dir.join(".download");
        trust::private_dir(&work)?;
        let _lock = self.lock(&work).await?;
        let installed = release_dirs(self.runtimes_dir, self.runtime, self.version);
        // Another process may have installed it while it held the lock.
        if let Some(component) = self.runtime.find_in(&installed) {
            return Ok(component);
        }
        let digest = self.digest(&client, &url).await?;
        let part = work.join(format!("{digest}.part"));
        self.fetch(&client, &url, &part).await?;
        let [target, _] = installed;
        let runtime = self.runtime;
        blocking(move || install(runtime, &url, &digest, &part, &work, &target)).await
    }

    /// Returns the URL of the archive. Plain HTTP is accepted only from loopback or
    /// with a pinned digest.
    fn url(&self) -> Result<Url, Error> {
        let text = format!(
            "{}/v{}/isola-{}.tar.gz",
            self.base_url.trim_end_matches('/'),
            self.version,
            self.runtime
        );
        let invalid = |why: &str| {
            Error::InvalidArgument(format!("the download URL {:?}: {why}", self.base_url))
        };
        let url = Url::parse(&text).map_err(|error| invalid(&error.to_string()))?;
        let host = url.host_str().unwrap_or_default();
        let is_loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_loopback || self.sha256.is_some() => Ok(url),
            "http" => Err(invalid("use https, or give the SHA-256 digest of the archive")),
            _ => Err(invalid("use https")),
        }
    }

    async fn lock(&self, work: &Path) -> Result<File, Error> {
        let path = work.join(format!("{}-{}.lock", self.runtime, self.version));
        blocking(move || {
            let file = File::create(path).map_err(|error| {
                Error::internal("cannot write to the runtimes directory", error)
            })?;
            file.lock()
                .map_err(|error| Error::internal("cannot lock the runtimes directory", error))?;
            Ok(file)
        })
        .await
    }

    /// Returns the expected digest of the archive, in lower case.
    async fn digest(&self, client: &Client, url: &Url) -> Result<String, Error> {
        if let Some(pinned) = self.sha256 {
            return parse_digest(pinned).ok_or_else(|| {
                Error::InvalidArgument(format!("{pinned:?} is not a SHA-256 digest"))
            });
        }
        let url = format!("{url}.sha256");
        let read = async || {
            let mut response = check_response(client.get(&url).send().await, &url)?;
            let mut text = Vec::new();
            while let Some(piece) =
                response.chunk().await.map_err(|error| transport_error(&url, &error))?
            {
                text.extend_from_slice(&piece);
                if text.len() > 4096 {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            // The format of `sha256sum`: the digest, followed by the file's name.
            let first = text.split_whitespace().next().unwrap_or_default();
            parse_digest(first).ok_or_else(|| {
                AttemptError::Fatal(Error::DownloadRefused(format!(
                    "{url} holds no SHA-256 digest"
                )))
            })
        };
        let mut backoff = Backoff::default();
        loop {
            match read().await {
                Ok(digest) => return Ok(digest),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// Downloads the missing part of the archive, in as many attempts as make
    /// progress.
    async fn fetch(&self, client: &Client, url: &Url, part: &Path) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        let mut before = None;
        loop {
            let Err(error) = self.attempt(client, url, part).await else { return Ok(()) };
            let length = fs::metadata(part).map_or(0, |metadata| metadata.len());
            if before.replace(length).is_some_and(|before| length > before) {
                backoff = Backoff::default();
            }
            backoff.after(error).await?;
        }
    }

    async fn attempt(&self, client: &Client, url: &Url, part: &Path) -> Result<(), AttemptError> {
        let disk = |error| AttemptError::Fatal(Error::internal("cannot write a download", error));
        let mut file = File::options().append(true).create(true).open(part).map_err(disk)?;
        let mut length = file.metadata().map_err(disk)?.len();
        let mut request = client.get(url.clone());
        if length > 0 {
            request = request.header(header::RANGE, format!("bytes={length}-"));
        }
        let sent = request.send().await;
        if let Ok(response) = &sent {
            match response.status() {
                // The file is complete; the digest is checked later.
                StatusCode::RANGE_NOT_SATISFIABLE if total_length(response) == Some(length) => {
                    return Ok(());
                }
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    file.set_len(0).map_err(disk)?;
                    return Err(AttemptError::Retryable(format!(
                        "{url}: the file is shorter than the part that was downloaded before"
                    )));
                }
                StatusCode::PARTIAL_CONTENT if !continues_at(response, length) => {
                    file.set_len(0).map_err(disk)?;
                    return Err(AttemptError::Retryable(format!(
                        "{url}: the server sent another range than the one requested"
                    )));
                }
                StatusCode::PARTIAL_CONTENT => {}
                // The server does not support ranges.
                _ if length > 0 && response.status().is_success() => {
                    file.set_len(0).map_err(disk)?;
                    length = 0;
                }
                _ => {}
            }
        }
        let mut response = check_response(sent, url.as_str())?;
        let total = response.content_length().map(|more| length.saturating_add(more));
        self.report_progress(length, total);
        loop {
            let Some(piece) =
                response.chunk().await.map_err(|error| transport_error(url.as_str(), &error))?
            else {
                return Ok(());
            };
            length = length.saturating_add(piece.len() as u64);
            if length > MAX_ARCHIVE_BYTES {
                drop(file);
                let _ = fs::remove_file(part);
                return Err(AttemptError::Fatal(Error::DownloadRefused(format!(
                    "{url} is longer than {MAX_ARCHIVE_BYTES} bytes"
                ))));
            }
            file.write_all(&piece).map_err(disk)?;
            self.report_progress(length, total);
        }
    }

    fn report_progress(&self, received: u64, total: Option<u64>) {
        if let Some(progress) = self.progress {
            progress(received, total);
        }
    }
}

/// Checks, unpacks and installs a downloaded archive.
fn install(
    runtime: Runtime,
    url: &Url,
    digest: &str,
    part: &Path,
    work: &Path,
    target: &Path,
) -> Result<PathBuf, Error> {
    let disk = |error| Error::internal("cannot write to the runtimes directory", error);
    let refuse = |why: String| {
        // The next attempt must not continue with a refused file.
        let _ = fs::remove_file(part);
        Error::DownloadRefused(format!("{url} was refused: {why}"))
    };
    let found = digest_of(part).map_err(disk)?;
    if found != digest {
        return Err(refuse(format!("its SHA-256 digest is {found}, and not {digest}")));
    }
    let unpacked = tempfile::TempDir::new_in(work).map_err(disk)?;
    let (file, _) = regular::open(part).map_err(disk)?;
    archive::unpack(file, unpacked.path()).map_err(&refuse)?;
    let name = runtime.file_name();
    if !unpacked.path().join(name).is_file() {
        return Err(refuse(format!("there is no {name} in it")));
    }
    if let Some(release) = target.parent() {
        trust::private_dir(release)?;
    }
    if target.exists() {
        // The runtime was not found in it, so it is replaced.
        fs::remove_dir_all(target).map_err(disk)?;
    }
    fs::rename(unpacked.keep(), target).map_err(disk)?;
    let _ = fs::remove_file(part);
    Ok(target.join(name))
}

/// The delays between attempts, by the number of consecutive failed ones.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    /// Waits after a failed attempt. Returns the error if there is to be no other.
    async fn after(&mut self, error: AttemptError) -> Result<(), Error> {
        let why = match error {
            AttemptError::Fatal(error) => return Err(error),
            AttemptError::Retryable(why) => why,
        };
        self.0 += 1;
        if self.0 >= MAX_FAILED_ATTEMPTS {
            return Err(Error::DownloadFailed(format!("the download failed: {why}")));
        }
        tokio::time::sleep(INITIAL_BACKOFF * 2_u32.pow(self.0 - 1)).await;
        Ok(())
    }
}

/// Returns a successful response, or the error for any other outcome.
fn check_response(sent: reqwest::Result<Response>, url: &str) -> Result<Response, AttemptError> {
    let response = sent.map_err(|error| transport_error(url, &error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let why = format!("{url}: the server answered {status}");
    if status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
    {
        return Err(AttemptError::Retryable(why));
    }
    Err(AttemptError::Fatal(Error::DownloadFailed(format!("the download failed: {why}"))))
}

fn transport_error(url: &str, error: &reqwest::Error) -> AttemptError {
    let mut why = format!("{url}: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        why = format!("{why}: {deeper}");
        cause = deeper.source();
    }
    AttemptError::Retryable(why)
}

/// Reports whether a partial response starts at the end of the file.
fn continues_at(response: &Response, length: u64) -> bool {
    range(response).is_some_and(|range| range.starts_with(&format!("{length}-")))
}

/// Returns the length of the complete file from the response to a range request.
fn total_length(response: &Response) -> Option<u64> {
    range(response)?.rsplit('/').next()?.parse().ok()
}

fn range(response: &Response) -> Option<&str> {
    let range = response.headers().get(header::CONTENT_RANGE)?;
    range.to_str().ok()?.strip_prefix("bytes ")
}

fn parse_digest(text: &str) -> Option<String> {
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase())
}

fn digest_of(path: &Path) -> io::Result<String> {
    let (mut file, _) = regular::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        digest.update(piece.get(..length).unwrap_or_default());
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("downloading a runtime", error))?
}
