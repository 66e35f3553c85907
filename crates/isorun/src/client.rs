//! The client of the HTTP API.

mod code;
pub mod config;
mod shell;
mod socket;

pub use shell::{ShellEvent, ShellSession};
pub use socket::{AttachEvent, Attachment};

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};

use config::Target;
use isorun_api::RunId;
use isorun_api::{
    Deleted, DestroyStats, Entries, ErrorBody, ExecRequest, FILE_MODE, ForkRequest, Forks, History,
    Network, NetworkChange, NewRun, RestoreRequest, Run, RunList, RunStats, SnapshotList, Taken,
    Usage, Written,
};

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server returned an error response.
    #[error("{}", .body.error)]
    Refused { status: StatusCode, body: Box<ErrorBody> },
    /// The response was not sent by an isorun server, or by one of another version.
    #[error("{url} returned {status} with a body that is not from an isorun server: {text}")]
    UnexpectedResponse { url: String, status: StatusCode, text: String },
    /// The server could not be reached.
    #[error("no isorun server answers at {url}: {cause}")]
    Unreachable { url: String, cause: String },
    /// The connection was lost, or the server violated the protocol.
    #[error("the connection to the server failed: {0}")]
    Connection(String),
    /// An I/O error on the local side of a transfer.
    #[error("{0}")]
    Local(#[from] std::io::Error),
    /// An invalid argument.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// Reports whether the server returned this error code.
    pub fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Refused { body, .. } if body.code == code)
    }

    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => {
                Some("start a server with `isorun serve`, or specify one with --api-url")
            }
            Self::Refused { status: StatusCode::UNAUTHORIZED, .. } => Some(
                "create a key with `isorun keys create NAME` on the server's machine, and set \
                 ISORUN_API_KEY",
            ),
            _ => None,
        }
    }
}

/// An HTTP client of one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    key: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.url)
    }
}

impl Client {
    pub fn new(target: &Target) -> Result<Self, ClientError> {
        let url =
            Url::parse(&target.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            ClientError::Invalid(format!("not an http or https URL: {:?}", target.url))
        })?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            // The key is sent to the chosen server only.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("isorun/", env!("CARGO_PKG_VERSION")))
            // WebSockets are upgrades of HTTP/1.1.
            .http1_only()
            .build()
            .map_err(|error| ClientError::Invalid(root_cause(&error)))?;
        Ok(Self { http, url, key: target.key.clone() })
    }

    /// Returns a client of the same server that sends another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { http: self.http.clone(), url: self.url.clone(), key: Some(key.to_owned()) }
    }

    /// Reports whether a server responds at the URL.
    pub async fn is_reachable(&self) -> bool {
        let response = self.request(Method::GET, "healthz").timeout(Duration::from_secs(2)).send();
        response.await.is_ok_and(|response| response.status().is_success())
    }

    pub async fn create(&self, new: &NewRun) -> Result<Run, ClientError> {
        self.call(self.json(Method::POST, "v1/runs", new)?).await
    }

    pub async fn list(&self) -> Result<RunList, ClientError> {
        self.call(self.request(Method::GET, "v1/runs")).await
    }

    pub async fn run(&self, id: &RunId) -> Result<Run, ClientError> {
        self.call(self.request(Method::GET, &format!("v1/runs/{id}"))).await
    }

    pub async fn network(&self, id: &RunId) -> Result<Network, ClientError> {
        self.call(self.request(Method::GET, &format!("v1/runs/{id}/network"))).await
    }

    pub async fn set_network(
        &self,
        id: &RunId,
        change: &NetworkChange,
    ) -> Result<Network, ClientError> {
        self.call(self.json(Method::PUT, &format!("v1/runs/{id}/network"), change)?).await
    }

    /// Returns the absolute URL of a path of the server. An absolute URL is returned unchanged.
    pub fn url_of(&self, path: &str) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.url.as_str().trim_end_matches('/'))
        } else {
            path.to_owned()
        }
    }

    pub async fn destroy(&self, id: &RunId) -> Result<DestroyStats, ClientError> {
        self.call(self.request(Method::DELETE, &format!("v1/runs/{id}"))).await
    }

    pub async fn stats(&self, id: &RunId) -> Result<RunStats, ClientError> {
        self.call(self.request(Method::GET, &format!("v1/runs/{id}/stats"))).await
    }

    pub async fn usage(&self) -> Result<Usage, ClientError> {
        self.call(self.request(Method::GET, "v1/usage")).await
    }

    pub async fn history(&self) -> Result<History, ClientError> {
        self.call(self.request(Method::GET, "v1/runs/history")).await
    }

    pub async fn entries(&self, id: &RunId, path: &str) -> Result<Entries, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/files"));
        self.call(request.query(&[("path", path)])).await
    }

    /// Writes a file of a sandbox from a stream.
    pub async fn upload(
        &self,
        id: &RunId,
        path: &str,
        mode: Option<u32>,
        body: Body,
    ) -> Result<Written, ClientError> {
        let request = self.request(Method::POST, &format!("v1/runs/{id}/files/upload"));
        let mode = mode.map(|mode| ("mode", format!("{mode:o}")));
        self.call(request.query(&[("path", path)]).query(&mode.as_slice()).body(body)).await
    }

    /// Reads a file of a sandbox as a stream. Also returns its permissions, if the server sends
    /// them.
    pub async fn download(
        &self,
        id: &RunId,
        path: &str,
    ) -> Result<(Option<u32>, impl Stream<Item = Result<Bytes, ClientError>> + use<>), ClientError>
    {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/files/download"));
        let response = self.send(request.query(&[("path", path)])).await?;
        let mode = response.headers().get(FILE_MODE);
        let mode = mode.and_then(|mode| u32::from_str_radix(mode.to_str().ok()?, 8).ok());
        Ok((mode, byte_stream(response)))
    }

    /// Reads the audit log of a sandbox as a stream of bytes.
    pub async fn audit(
        &self,
        id: &RunId,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/audit"));
        Ok(byte_stream(self.send(request).await?))
    }

    /// Runs a command with live input.
    pub async fn attach(&self, id: &RunId, exec: &ExecRequest) -> Result<Attachment, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/exec/attach"));
        let mut attachment = Attachment::open(self, request).await?;
        let text =
            serde_json::to_string(exec).map_err(|error| ClientError::Invalid(error.to_string()))?;
        attachment.send_text(text).await?;
        Ok(attachment)
    }

    pub async fn fork(&self, id: &RunId, count: u32) -> Result<Forks, ClientError> {
        let request = ForkRequest { count: Some(count.into()) };
        self.call(self.json(Method::POST, &format!("v1/runs/{id}/fork"), &request)?).await
    }

    pub async fn hibernate(&self, id: &RunId) -> Result<Run, ClientError> {
        self.call(self.request(Method::POST, &format!("v1/runs/{id}/hibernate"))).await
    }

    pub async fn resume(&self, id: &RunId) -> Result<Run, ClientError> {
        self.call(self.request(Method::POST, &format!("v1/runs/{id}/resume"))).await
    }

    pub async fn snapshot(&self, id: &RunId) -> Result<Taken, ClientError> {
        self.call(self.request(Method::POST, &format!("v1/runs/{id}/snapshot"))).await
    }

    pub async fn restore(&self, snapshot: &str) -> Result<Run, ClientError> {
        let request = RestoreRequest { snapshot_id: snapshot.to_owned() };
        self.call(self.json(Method::POST, "v1/runs/restore", &request)?).await
    }

    pub async fn snapshots(&self) -> Result<SnapshotList, ClientError> {
        self.call(self.request(Method::GET, "v1/snapshots")).await
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<Deleted, ClientError> {
        // An invalid id must not change the path of the request.
        let alphanumeric = snapshot.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if snapshot.is_empty() || !alphanumeric {
            return Err(ClientError::Invalid(format!(
                "not a valid snapshot id: {snapshot:?}: specify letters and digits"
            )));
        }
        self.call(self.request(Method::DELETE, &format!("v1/snapshots/{snapshot}"))).await
    }

    /// Opens a shell, or reattaches to a session.
    pub async fn shell(
        &self,
        id: &RunId,
        session: Option<&str>,
    ) -> Result<ShellSession, ClientError> {
        let request = self
            .request(Method::GET, &format!("v1/runs/{id}/shell"))
            .query(&session.map(|session| ("session", session)).as_slice());
        ShellSession::open(socket::upgrade(self, request).await?).await
    }

    /// Opens a terminal.
    pub async fn terminal(
        &self,
        id: &RunId,
        (cols, rows): (u16, u16),
        command: Option<&str>,
    ) -> Result<Attachment, ClientError> {
        let request = self
            .request(Method::GET, &format!("v1/runs/{id}/terminal"))
            .query(&[("cols", cols), ("rows", rows)])
            .query(&command.map(|command| ("command", command)).as_slice());
        Attachment::open(self, request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.url.clone();
        let base = url.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{path}"));
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    fn json(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<RequestBuilder, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::Invalid(error.to_string()))?;
        Ok(self.request(method, path).header("content-type", "application/json").body(body))
    }

    /// Sends a request, and parses the JSON of a successful response.
    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let status = response.status();
        let bytes =
            response.bytes().await.map_err(|error| ClientError::Connection(root_cause(&error)))?;
        serde_json::from_slice(&bytes).map_err(|_| self.unexpected_response(status, &bytes))
    }

    /// Sends a request, and converts an error response to an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.send_error(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes =
            response.bytes().await.map_err(|error| ClientError::Connection(root_cause(&error)))?;
        match serde_json::from_slice(&bytes) {
            Ok(body) => Err(ClientError::Refused { status, body: Box::new(body) }),
            Err(_) => Err(self.unexpected_response(status, &bytes)),
        }
    }

    fn send_error(&self, error: &reqwest::Error) -> ClientError {
        if error.is_connect() || error.is_timeout() {
            ClientError::Unreachable { url: self.url.to_string(), cause: root_cause(error) }
        } else {
            ClientError::Connection(root_cause(error))
        }
    }

    fn unexpected_response(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let text = String::from_utf8_lossy(bytes).chars().take(200).collect();
        ClientError::UnexpectedResponse { url: self.url.to_string(), status, text }
    }
}

fn byte_stream(response: Response) -> impl Stream<Item = Result<Bytes, ClientError>> {
    response.bytes_stream().map_err(|error| ClientError::Connection(root_cause(&error)))
}

/// Returns the message of the innermost source of an error. The outer ones contain little
/// information.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
