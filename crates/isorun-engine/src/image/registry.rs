//! The pulling half of the OCI distribution protocol.
//!
//! The types of its documents, names and challenges are those of `oci-spec` and
//! `http-auth`, HTTP is `reqwest`'s. What is here is the order of requests, and
//! the distrust: a registry's answers are bounded in size and time, and tell
//! nothing but what the protocol has for it. `oci-client` reads manifests,
//! tokens and error pages whole, whatever their size, and asks anonymously when
//! authentication has failed; so it is not used.

mod auth;
mod settings;

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url, redirect};
use tokio::sync::Mutex;

use self::settings::Endpoint;
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Event, Progress};
use super::reference::Reference;

pub use self::settings::{Credentials, Registries};

/// Bytes of an error page that are looked at.
const ERROR_PAGE: u64 = 64 << 10;

/// One repository of a registry.
pub(crate) struct Repository {
    http: reqwest::Client,
    endpoint: Endpoint,
    reference: Reference,
    limits: Limits,
    progress: Progress,
    /// What the next request carries.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Repository {
    pub(crate) fn new(
        reference: &Reference,
        registries: &Registries,
        limits: &Limits,
        progress: &Progress,
    ) -> Result<Self> {
        let endpoint = registries.endpoint(reference)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("isorun/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            .build()
            .map_err(|error| Error::Io {
                what: "set up HTTP".to_owned(),
                path: None,
                source: std::io::Error::other(error),
            })?;
        let authorization = Mutex::new(endpoint.bearer()?);
        Ok(Self {
            http,
            endpoint,
            reference: reference.clone(),
            limits: limits.clone(),
            progress: progress.clone(),
            authorization,
        })
    }

    /// A manifest or an index, by tag or by digest: its bytes.
    pub(crate) async fn manifest(&self, what: &str, name: &str) -> Result<Vec<u8>> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(super::document::ACCEPTED));
        self.document(what, &format!("manifests/{name}"), headers).await
    }

    /// A small blob.
    pub(crate) async fn config(&self, what: &str, digest: &str) -> Result<Vec<u8>> {
        self.document(what, &format!("blobs/{digest}"), HeaderMap::new()).await
    }

    /// A blob from `offset` on. If the registry ignores that, the answer's
    /// status is 200, and it begins at 0.
    pub(crate) async fn blob(&self, what: &str, digest: &str, offset: u64) -> Result<Response> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        self.get(what, &format!("blobs/{digest}"), &headers).await
    }

    /// For messages.
    pub(crate) fn registry(&self) -> &str {
        &self.endpoint.name
    }

    async fn document(&self, what: &str, path: &str, headers: HeaderMap) -> Result<Vec<u8>> {
        let mut tries = Tries::new(self, what);
        loop {
            let response = self.get(what, path, &headers).await?;
            match self.read(what, response).await {
                Err(error) if passes(&error) => tries.again(error, None).await?,
                other => return other,
            }
        }
    }

    async fn read(&self, what: &str, response: Response) -> Result<Vec<u8>> {
        let read = bounded(response, self.limits.document);
        let bytes = match tokio::time::timeout(self.limits.request, read).await {
            Ok(read) => read.map_err(|error| self.unreachable(what, &error))?,
            Err(_) => return Err(self.timeout(what)),
        };
        bytes.ok_or_else(|| Error::TooLarge {
            what: what.to_owned(),
            limit: format!("{} bytes", self.limits.document),
        })
    }

    /// A request with all that may have to be repeated: once for
    /// authentication, and some times for what may pass.
    async fn get(&self, what: &str, path: &str, headers: &HeaderMap) -> Result<Response> {
        let url = self.endpoint.url(&format!("{}/{path}", self.endpoint.repository))?;
        let mut tries = Tries::new(self, what);
        let mut authenticated = false;
        loop {
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            if let Some(authorization) = self.authorization.lock().await.clone() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let sent = tokio::time::timeout(self.limits.request, request.send()).await;
            let response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    tries.again(self.unreachable(what, &error), None).await?;
                    continue;
                }
                Err(_) => {
                    tries.again(self.timeout(what), None).await?;
                    continue;
                }
            };
            let status = response.status();
            if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !authenticated {
                authenticated = true;
                let challenges = response.headers().clone();
                drop(response);
                let authorization = self.authenticate(&challenges).await?;
                *self.authorization.lock().await = Some(authorization);
                continue;
            }
            let pause = retry_after(response.headers());
            let is_image = path.starts_with("manifests/");
            tries.again(self.refused(what, is_image, response).await, pause).await?;
        }
    }

    /// What an answer that is no success means.
    async fn refused(&self, what: &str, is_image: bool, response: Response) -> Error {
        let status = response.status();
        let page = tokio::time::timeout(self.limits.request, bounded(response, ERROR_PAGE)).await;
        let codes = match page {
            Ok(Ok(Some(page))) => codes(&page),
            _ => String::new(),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.no_access(&if codes.is_empty() {
                    "it wants other credentials, or there is no such image".to_owned()
                } else {
                    format!("it wants other credentials, or there is no such image ({codes})")
                })
            }
            StatusCode::NOT_FOUND if is_image => Error::NotFound {
                reference: self.reference.to_string(),
                place: self.endpoint.name.clone(),
            },
            _ => Error::Registry {
                registry: self.endpoint.name.clone(),
                status: status.as_u16(),
                what: what.to_owned(),
                message: if codes.is_empty() { codes } else { format!(": {codes}") },
            },
        }
    }

    fn no_access(&self, reason: &str) -> Error {
        Error::Auth {
            registry: self.endpoint.name.clone(),
            repository: self.endpoint.repository.clone(),
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn unreachable(&self, what: &str, error: &reqwest::Error) -> Error {
        if error.is_timeout() {
            return Error::Timeout {
                what: format!("an answer of {} about {what}", self.endpoint.name),
                limit: if error.is_connect() { self.limits.connect } else { self.limits.idle },
            };
        }
        let reason = if error.is_redirect() {
            "it redirects in circles, or from https to http".to_owned()
        } else {
            // The innermost cause says it; the ones around it repeat the URL.
            let mut cause: &dyn std::error::Error = error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        };
        Error::Unreachable { registry: self.endpoint.name.clone(), what: what.to_owned(), reason }
    }

    fn timeout(&self, what: &str) -> Error {
        Error::Timeout {
            what: format!("an answer of {} about {what}", self.endpoint.name),
            limit: self.limits.request,
        }
    }
}

/// Counts the tries of something, and pauses longer and longer between them.
pub(crate) struct Tries<'a> {
    repository: &'a Repository,
    what: &'a str,
    tried: u32,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(repository: &'a Repository, what: &'a str) -> Self {
        Self { repository, what, tried: 0 }
    }

    /// Waits before the next try, or gives the error back: one that will not
    /// pass, or one too many.
    pub(crate) async fn again(&mut self, error: Error, pause: Option<Duration>) -> Result<()> {
        self.tried += 1;
        if !passes(&error) || self.tried >= self.repository.limits.tries {
            return Err(error);
        }
        let backoff = Duration::from_millis(200 << (self.tried - 1).min(6));
        self.repository
            .progress
            .tell(Event::Retry { what: self.what.to_owned(), reason: error.to_string() });
        tokio::time::sleep(pause.unwrap_or(backoff).min(Duration::from_secs(20))).await;
        Ok(())
    }
}

/// Whether a failure may pass by itself.
pub(crate) fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { reason, .. } => !reason.starts_with("it redirects"),
        Error::Timeout { .. } => true,
        Error::Registry { status, .. } => matches!(status, 408 | 429 | 500..=599),
        _ => false,
    }
}

/// The body of an answer, or `None` if it is longer than allowed.
async fn bounded(mut response: Response, most: u64) -> reqwest::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// The codes of an error page. Its texts are not taken: the host that was asked
/// may be no registry, and what it says is not for everybody.
fn codes(page: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Page {
        errors: Vec<Problem>,
    }
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    let Ok(page) = serde_json::from_slice::<Page>(page) else { return String::new() };
    page.errors
        .into_iter()
        .map(|problem| problem.code)
        .filter(|code| {
            code.len() <= 40 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        })
        .take(5)
        .collect::<Vec<_>>()
        .join(", ")
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Redirects lead to where a registry keeps its blobs. `reqwest` leaves
/// credentials out when the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > 5 {
        return attempt.error("too many redirects");
    }
    if from_https && attempt.url().scheme() != "https" {
        return attempt.error("a redirect from https to http");
    }
    attempt.follow()
}

/// Whether a host is this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}
