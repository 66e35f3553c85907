//! Downloads of runtimes.
//!
//! ```text
//! <runtimes>/<version>/<runtime>/   a runtime, put there by one rename
//! <runtimes>/.download/
//!     <runtime>-<version>.lock      held while one process downloads
//!     <digest>.part                 what has arrived; the next attempt goes on
//!     <random>/                     what is being unpacked
//! ```
//!
//! A part belongs to a digest, so that no attempt goes on with another file's
//! bytes. It stays when a connection breaks, and goes when it is refused.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, Url, header};
use sha2::{Digest as _, Sha256};

use super::{Runtime, archive, release_folders, source::Progress};
use crate::{error::Error, regular, trust};

/// An archive may be this long.
const MAX_ARCHIVE: u64 = 1 << 30;
/// So often in a row nothing may arrive before the download fails.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pieces.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Download<'a> {
    pub(super) runtime: Runtime,
    pub(super) version: &'a str,
    pub(super) folder: &'a Path,
    pub(super) base_url: &'a str,
    pub(super) sha256: Option<&'a str>,
    pub(super) progress: Option<&'a Progress>,
}

/// Why an attempt ended.
enum Trouble {
    /// The next one may do better.
    Passing(String),
    Final(Error),
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
        trust::private_dir(self.folder)?;
        let work = self.folder.join(".download");
        trust::private_dir(&work)?;
        let _lock = self.lock(&work).await?;
        let places = release_folders(self.folder, self.runtime, self.version);
        // Whoever held the lock may just have done it.
        if let Some(component) = self.runtime.find_in(&places) {
            return Ok(component);
        }
        let digest = self.digest(&client, &url).await?;
        let part = work.join(format!("{digest}.part"));
        self.fetch(&client, &url, &part).await?;
        let [place, _] = places;
        let runtime = self.runtime;
        blocking(move || install(runtime, &url, &digest, &part, &work, &place)).await
    }

    /// The archive's place. Plain HTTP is only as good as the digest.
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
            "http" => Err(invalid("use https, or give the digest that the archive must have")),
            _ => Err(invalid("use https")),
        }
    }

    async fn lock(&self, work: &Path) -> Result<File, Error> {
        let path = work.join(format!("{}-{}.lock", self.runtime, self.version));
        blocking(move || {
            let file = File::create(path)
                .map_err(|error| Error::internal("cannot write to the runtimes folder", error))?;
            file.lock()
                .map_err(|error| Error::internal("cannot lock the runtimes folder", error))?;
            Ok(file)
        })
        .await
    }

    /// The digest that the archive must have, in lower case.
    async fn digest(&self, client: &Client, url: &Url) -> Result<String, Error> {
        if let Some(pinned) = self.sha256 {
            return as_digest(pinned).ok_or_else(|| {
                Error::InvalidArgument(format!("{pinned:?} is not a SHA-256 digest"))
            });
        }
        let url = format!("{url}.sha256");
        let read = async || {
            let mut response = answered(client.get(&url).send().await, &url)?;
            let mut text = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|error| broken(&url, &error))? {
                text.extend_from_slice(&piece);
                if text.len() > 4096 {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            // As `sha256sum` writes it: the digest, and then the file's name.
            let first = text.split_whitespace().next().unwrap_or_default();
            as_digest(first).ok_or_else(|| {
                Trouble::Final(Error::DownloadRefused(format!("{url} holds no SHA-256 digest")))
            })
        };
        let mut pauses = Pauses::default();
        loop {
            match read().await {
                Ok(digest) => return Ok(digest),
                Err(trouble) => pauses.after(trouble).await?,
            }
        }
    }

    /// Fetches what is missing of the archive, in as many attempts as get on.
    async fn fetch(&self, client: &Client, url: &Url, part: &Path) -> Result<(), Error> {
        let mut pauses = Pauses::default();
        let mut before = None;
        loop {
            let Err(trouble) = self.attempt(client, url, part).await else { return Ok(()) };
            let length = fs::metadata(part).map_or(0, |metadata| metadata.len());
            if before.replace(length).is_some_and(|before| length > before) {
                pauses = Pauses::default();
            }
            pauses.after(trouble).await?;
        }
    }

    async fn attempt(&self, client: &Client, url: &Url, part: &Path) -> Result<(), Trouble> {
        let disk = |error| Trouble::Final(Error::internal("cannot write a download", error));
        let mut file = File::options().append(true).create(true).open(part).map_err(disk)?;
        let mut length = file.metadata().map_err(disk)?.len();
        let mut request = client.get(url.clone());
        if length > 0 {
            request = request.header(header::RANGE, format!("bytes={length}-"));
        }
        let sent = request.send().await;
        if let Ok(response) = &sent {
            match response.status() {
                // All of it was there already; its digest will tell.
                StatusCode::RANGE_NOT_SATISFIABLE if whole(response) == Some(length) => {
                    return Ok(());
                }
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    file.set_len(0).map_err(disk)?;
                    return Err(Trouble::Passing(format!("{url}: the file has become shorter")));
                }
                StatusCode::PARTIAL_CONTENT if !goes_on(response, length) => {
                    file.set_len(0).map_err(disk)?;
                    return Err(Trouble::Passing(format!(
                        "{url}: another range than was asked for"
                    )));
                }
                StatusCode::PARTIAL_CONTENT => {}
                // The server knows no ranges.
                _ if length > 0 && response.status().is_success() => {
                    file.set_len(0).map_err(disk)?;
                    length = 0;
                }
                _ => {}
            }
        }
        let mut response = answered(sent, url.as_str())?;
        let total = response.content_length().map(|more| length.saturating_add(more));
        self.tell(length, total);
        loop {
            let Some(piece) =
                response.chunk().await.map_err(|error| broken(url.as_str(), &error))?
            else {
                return Ok(());
            };
            length = length.saturating_add(piece.len() as u64);
            if length > MAX_ARCHIVE {
                drop(file);
                let _ = fs::remove_file(part);
                return Err(Trouble::Final(Error::DownloadRefused(format!(
                    "{url} is longer than {MAX_ARCHIVE} bytes"
                ))));
            }
            file.write_all(&piece).map_err(disk)?;
            self.tell(length, total);
        }
    }

    fn tell(&self, received: u64, total: Option<u64>) {
        if let Some(progress) = self.progress {
            progress(received, total);
        }
    }
}

/// Checks, unpacks and puts into place what has arrived.
fn install(
    runtime: Runtime,
    url: &Url,
    digest: &str,
    part: &Path,
    work: &Path,
    place: &Path,
) -> Result<PathBuf, Error> {
    let disk = |error| Error::internal("cannot write to the runtimes folder", error);
    let refuse = |why: String| {
        // What was refused once is not gone on with.
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
    if let Some(release) = place.parent() {
        trust::private_dir(release)?;
    }
    if place.exists() {
        // Nothing in it was found, so it is of no use.
        fs::remove_dir_all(place).map_err(disk)?;
    }
    fs::rename(unpacked.keep(), place).map_err(disk)?;
    let _ = fs::remove_file(part);
    Ok(place.join(name))
}

/// Waits between attempts, and gives up after some.
#[derive(Default)]
struct Pauses(u32);

impl Pauses {
    async fn after(&mut self, trouble: Trouble) -> Result<(), Error> {
        let why = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing(why) => why,
        };
        self.0 += 1;
        if self.0 >= ATTEMPTS {
            return Err(Error::DownloadFailed(format!("the download failed: {why}")));
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.0 - 1)).await;
        Ok(())
    }
}

/// A response with a body to read, or what to make of another.
fn answered(sent: reqwest::Result<Response>, url: &str) -> Result<Response, Trouble> {
    let response = sent.map_err(|error| broken(url, &error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let why = format!("{url}: the server answered {status}");
    if status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
    {
        return Err(Trouble::Passing(why));
    }
    Err(Trouble::Final(Error::DownloadFailed(format!("the download failed: {why}"))))
}

fn broken(url: &str, error: &reqwest::Error) -> Trouble {
    let mut why = format!("{url}: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        why = format!("{why}: {deeper}");
        cause = deeper.source();
    }
    Trouble::Passing(why)
}

/// Whether a partial response begins where the file ends.
fn goes_on(response: &Response, length: u64) -> bool {
    range(response).is_some_and(|range| range.starts_with(&format!("{length}-")))
}

/// How long the file of a response about a range is.
fn whole(response: &Response) -> Option<u64> {
    range(response)?.rsplit('/').next()?.parse().ok()
}

fn range(response: &Response) -> Option<&str> {
    let range = response.headers().get(header::CONTENT_RANGE)?;
    range.to_str().ok()?.strip_prefix("bytes ")
}

fn as_digest(text: &str) -> Option<String> {
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
