//! A client for pulls by the OCI distribution protocol.
//!
//! The types of documents, references and challenges are those of `oci-spec` and
//! `http-auth`; `reqwest` implements HTTP. This module implements the sequence of
//! requests, and treats registries as untrusted: responses are bounded in size and
//! time, and of an error response only the codes of the protocol are used.
//! `oci-client` is not used, because it reads manifests, tokens and error pages of
//! any size, and falls back to anonymous requests when authentication fails.

mod auth;
mod settings;

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url, redirect};
use tokio::sync::Mutex;

use self::settings::Endpoint;
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Progress, ProgressEvent};
use super::reference::Reference;

pub use self::settings::{Registries, RegistryCredentials};

/// The largest body of an error response that is parsed, in bytes.
const MAX_ERROR_BODY_BYTES: u64 = 64 << 10;

/// A client for one repository of a registry.
pub(crate) struct Repository {
    http: reqwest::Client,
    endpoint: Endpoint,
    reference: Reference,
    limits: Limits,
    progress: Progress,
    /// The `Authorization` header of the next request.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Repository {
    /// Creates the client. The registry must be allowed.
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
            .redirect(redirect::Policy::custom(check_redirect))
            .referer(false)
            .build()
            .map_err(|error| Error::Io {
                what: "create an HTTP client".to_owned(),
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

    /// Fetches the bytes of a manifest or an index, by tag or by digest.
    pub(crate) async fn manifest(&self, what: &str, name: &str) -> Result<Vec<u8>> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(super::document::MANIFEST_MEDIA_TYPES));
        self.fetch_document(what, &format!("manifests/{name}"), headers).await
    }

    /// Fetches the bytes of a configuration.
    pub(crate) async fn config(&self, what: &str, digest: &str) -> Result<Vec<u8>> {
        self.fetch_document(what, &format!("blobs/{digest}"), HeaderMap::new()).await
    }

    /// Requests a blob from `offset` on. If the registry ignores the range, the
    /// response has the status 200 and starts at 0.
    pub(crate) async fn blob(&self, what: &str, digest: &str, offset: u64) -> Result<Response> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        self.get(what, &format!("blobs/{digest}"), &headers).await
    }

    /// Returns the host of the registry, for messages.
    pub(crate) fn registry(&self) -> &str {
        &self.endpoint.name
    }

    /// Fetches a document, with retries of the request and of reading the body.
    async fn fetch_document(&self, what: &str, path: &str, headers: HeaderMap) -> Result<Vec<u8>> {
        let mut retries = Retries::new(self, what);
        loop {
            let response = self.get(what, path, &headers).await?;
            match self.read_document(what, response).await {
                Err(error) if is_transient(&error) => retries.wait_or_fail(error, None).await?,
                other => return other,
            }
        }
    }

    async fn read_document(&self, what: &str, response: Response) -> Result<Vec<u8>> {
        let read = read_bounded(response, self.limits.document);
        let bytes = match tokio::time::timeout(self.limits.request, read).await {
            Ok(read) => read.map_err(|error| self.transport_error(what, &error))?,
            Err(_) => return Err(self.timeout_error(what)),
        };
        bytes.ok_or_else(|| Error::TooLarge {
            what: what.to_owned(),
            limit: format!("{} bytes", self.limits.document),
        })
    }

    /// Sends a request, repeating it once after authentication, and several times
    /// after transient failures.
    async fn get(&self, what: &str, path: &str, headers: &HeaderMap) -> Result<Response> {
        let url = self.endpoint.url(&format!("{}/{path}", self.endpoint.repository))?;
        let mut retries = Retries::new(self, what);
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
                    retries.wait_or_fail(self.transport_error(what, &error), None).await?;
                    continue;
                }
                Err(_) => {
                    retries.wait_or_fail(self.timeout_error(what), None).await?;
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
            let retry_after = retry_after(response.headers());
            let is_image = path.starts_with("manifests/");
            retries
                .wait_or_fail(self.response_error(what, is_image, response).await, retry_after)
                .await?;
        }
    }

    /// Returns the error that an unsuccessful response stands for.
    async fn response_error(&self, what: &str, is_image: bool, response: Response) -> Error {
        let status = response.status();
        let body =
            tokio::time::timeout(self.limits.request, read_bounded(response, MAX_ERROR_BODY_BYTES))
                .await;
        let codes = match body {
            Ok(Ok(Some(body))) => error_codes(&body),
            _ => String::new(),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.auth_error(&if codes.is_empty() {
                    "it requires other credentials, or the image does not exist".to_owned()
                } else {
                    format!("it requires other credentials, or the image does not exist ({codes})")
                })
            }
            StatusCode::NOT_FOUND if is_image => Error::NotFound {
                reference: self.reference.to_string(),
                location: self.endpoint.name.clone(),
            },
            _ => Error::Registry {
                registry: self.endpoint.name.clone(),
                status: status.as_u16(),
                what: what.to_owned(),
                message: if codes.is_empty() { codes } else { format!(": {codes}") },
            },
        }
    }

    fn auth_error(&self, reason: &str) -> Error {
        Error::Auth {
            registry: self.endpoint.name.clone(),
            repository: self.endpoint.repository.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Converts an error of the HTTP client.
    pub(crate) fn transport_error(&self, what: &str, error: &reqwest::Error) -> Error {
        if error.is_timeout() {
            return Error::Timeout {
                what: format!("a response of {} to a request for {what}", self.endpoint.name),
                limit: if error.is_connect() { self.limits.connect } else { self.limits.idle },
            };
        }
        let reason = if error.is_redirect() {
            "it redirects in a loop, or from https to http".to_owned()
        } else {
            // The innermost cause is specific; the outer ones repeat the URL.
            let mut cause: &dyn std::error::Error = error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        };
        Error::Unreachable { registry: self.endpoint.name.clone(), what: what.to_owned(), reason }
    }

    fn timeout_error(&self, what: &str) -> Error {
        Error::Timeout {
            what: format!("a response of {} to a request for {what}", self.endpoint.name),
            limit: self.limits.request,
        }
    }
}

/// A counter of the attempts of an operation, with exponential backoff between them.
pub(crate) struct Retries<'a> {
    repository: &'a Repository,
    what: &'a str,
    attempts: u32,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(repository: &'a Repository, what: &'a str) -> Self {
        Self { repository, what, attempts: 0 }
    }

    /// Waits before the next attempt. Returns the error if it is permanent, or if
    /// there are no attempts left.
    pub(crate) async fn wait_or_fail(
        &mut self,
        error: Error,
        retry_after: Option<Duration>,
    ) -> Result<()> {
        self.attempts += 1;
        if !is_transient(&error) || self.attempts >= self.repository.limits.tries {
            return Err(error);
        }
        let backoff = Duration::from_millis(200 << (self.attempts - 1).min(6));
        self.repository
            .progress
            .report(ProgressEvent::Retry { what: self.what.to_owned(), reason: error.to_string() });
        tokio::time::sleep(retry_after.unwrap_or(backoff).min(Duration::from_secs(20))).await;
        Ok(())
    }
}

/// Reports whether a failure may be transient.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error {
        Error::Unreachable { reason, .. } => !reason.starts_with("it redirects"),
        Error::Timeout { .. } => true,
        Error::Registry { status, .. } => matches!(status, 408 | 429 | 500..=599),
        _ => false,
    }
}

/// Reads the body of a response. Returns `None` if it exceeds `max_bytes`.
async fn read_bounded(mut response: Response, max_bytes: u64) -> reqwest::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// Extracts the error codes from the body of an error response. Its messages are
/// not used: the host may be another kind of server, whose messages may be
/// confidential.
fn error_codes(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        errors: Vec<ErrorEntry>,
    }
    #[derive(serde::Deserialize)]
    struct ErrorEntry {
        code: String,
    }
    let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else { return String::new() };
    body.errors
        .into_iter()
        .map(|entry| entry.code)
        .filter(|code| {
            code.len() <= 40 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        })
        .take(5)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Parses the `Retry-After` header.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Follows redirects, which registries use for their blob storage. `reqwest` drops
/// credentials when the host changes.
fn check_redirect(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > 5 {
        return attempt.error("too many redirects");
    }
    if from_https && attempt.url().scheme() != "https" {
        return attempt.error("a redirect from https to http");
    }
    attempt.follow()
}

/// Reports whether the host of a URL is a loopback address.
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
