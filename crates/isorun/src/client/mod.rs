//! The client's side of the HTTP surface.

pub mod config;
mod shell;
mod socket;

pub use shell::{Conversation, Told};
pub use socket::{Attached, Said};

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{
        Deleted, DestroyStats, Entries, ErrorBody, ExecRequest, FILE_MODE, ForkRequest, Forks,
        History, Network, NetworkChange, NewRun, RestoreRequest, Run, RunList, RunStats,
        SnapshotList, Taken, Usage, Written,
    },
    id::RunId,
};
use config::Target;

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server says what is wrong.
    #[error("{}", .body.error)]
    Refused { status: StatusCode, body: Box<ErrorBody> },
    /// Something answered that is no isorun server, or not this one's version.
    #[error("{url} answers {status}, and not as an isorun server: {text}")]
    Foreign { url: String, status: StatusCode, text: String },
    /// Nobody answered.
    #[error("no isorun server answers at {url}: {cause}")]
    Away { url: String, cause: String },
    /// An answer began, and broke off.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    /// The local side of a transfer.
    #[error("{0}")]
    Local(#[from] std::io::Error),
    /// What the client was told makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// Whether the server gave this code.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Self::Refused { body, .. } if body.code == code)
    }

    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Away { .. } => Some("start one with `isorun serve`, or name one with --api-url"),
            Self::Refused { status: StatusCode::UNAUTHORIZED, .. } => Some(
                "`isorun keys create NAME` on the server's machine makes a key; hand it over in \
                 ISORUN_API_KEY",
            ),
            _ => None,
        }
    }
}

/// A connection to a server.
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
            ClientError::Invalid(format!("{:?} is no http or https URL", target.url))
        })?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            // The key goes to the chosen server and to nobody else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("isorun/", env!("CARGO_PKG_VERSION")))
            // WebSockets are upgrades of it.
            .http1_only()
            .build()
            .map_err(|error| ClientError::Invalid(deepest(&error)))?;
        Ok(Self { http, url, key: target.key.clone() })
    }

    /// Whether a server answers there.
    pub async fn is_there(&self) -> bool {
        let answer = self.request(Method::GET, "healthz").timeout(Duration::from_secs(2)).send();
        answer.await.is_ok_and(|answer| answer.status().is_success())
    }

    pub async fn create(&self, new: &NewRun) -> Result<Run, ClientError> {
        self.ask(self.json(Method::POST, "v1/runs", new)?).await
    }

    pub async fn list(&self) -> Result<RunList, ClientError> {
        self.ask(self.request(Method::GET, "v1/runs")).await
    }

    pub async fn run(&self, id: &RunId) -> Result<Run, ClientError> {
        self.ask(self.request(Method::GET, &format!("v1/runs/{id}"))).await
    }

    pub async fn network(&self, id: &RunId) -> Result<Network, ClientError> {
        self.ask(self.request(Method::GET, &format!("v1/runs/{id}/network"))).await
    }

    pub async fn set_network(
        &self,
        id: &RunId,
        change: &NetworkChange,
    ) -> Result<Network, ClientError> {
        self.ask(self.json(Method::PUT, &format!("v1/runs/{id}/network"), change)?).await
    }

    /// What the server says is a path on it, as a URL.
    pub fn url_of(&self, path: &str) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.url.as_str().trim_end_matches('/'))
        } else {
            path.to_owned()
        }
    }

    pub async fn destroy(&self, id: &RunId) -> Result<DestroyStats, ClientError> {
        self.ask(self.request(Method::DELETE, &format!("v1/runs/{id}"))).await
    }

    pub async fn stats(&self, id: &RunId) -> Result<RunStats, ClientError> {
        self.ask(self.request(Method::GET, &format!("v1/runs/{id}/stats"))).await
    }

    pub async fn usage(&self) -> Result<Usage, ClientError> {
        self.ask(self.request(Method::GET, "v1/usage")).await
    }

    pub async fn history(&self) -> Result<History, ClientError> {
        self.ask(self.request(Method::GET, "v1/runs/history")).await
    }

    pub async fn entries(&self, id: &RunId, path: &str) -> Result<Entries, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/files"));
        self.ask(request.query(&[("path", path)])).await
    }

    /// Writes a file from a stream.
    pub async fn upload(
        &self,
        id: &RunId,
        path: &str,
        mode: Option<u32>,
        body: Body,
    ) -> Result<Written, ClientError> {
        let request = self.request(Method::POST, &format!("v1/runs/{id}/files/upload"));
        let mode = mode.map(|mode| ("mode", format!("{mode:o}")));
        self.ask(request.query(&[("path", path)]).query(&mode.as_slice()).body(body)).await
    }

    /// Reads a file as a stream. Gives its permissions, too, if the server tells.
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
        Ok((mode, pieces(response)))
    }

    /// A run's audit log, as a stream of its bytes.
    pub async fn audit(
        &self,
        id: &RunId,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/audit"));
        Ok(pieces(self.send(request).await?))
    }

    /// Runs a command with live input.
    pub async fn attach(&self, id: &RunId, exec: &ExecRequest) -> Result<Attached, ClientError> {
        let request = self.request(Method::GET, &format!("v1/runs/{id}/exec/attach"));
        let mut attached = Attached::open(self, request).await?;
        let text =
            serde_json::to_string(exec).map_err(|error| ClientError::Invalid(error.to_string()))?;
        attached.order(text).await?;
        Ok(attached)
    }

    pub async fn fork(&self, id: &RunId, count: u32) -> Result<Forks, ClientError> {
        let request = ForkRequest { count: Some(count.into()) };
        self.ask(self.json(Method::POST, &format!("v1/runs/{id}/fork"), &request)?).await
    }

    pub async fn hibernate(&self, id: &RunId) -> Result<Run, ClientError> {
        self.ask(self.request(Method::POST, &format!("v1/runs/{id}/hibernate"))).await
    }

    pub async fn resume(&self, id: &RunId) -> Result<Run, ClientError> {
        self.ask(self.request(Method::POST, &format!("v1/runs/{id}/resume"))).await
    }

    pub async fn snapshot(&self, id: &RunId) -> Result<Taken, ClientError> {
        self.ask(self.request(Method::POST, &format!("v1/runs/{id}/snapshot"))).await
    }

    pub async fn restore(&self, snapshot: &str) -> Result<Run, ClientError> {
        let request = RestoreRequest { snapshot_id: snapshot.to_owned() };
        self.ask(self.json(Method::POST, "v1/runs/restore", &request)?).await
    }

    pub async fn snapshots(&self) -> Result<SnapshotList, ClientError> {
        self.ask(self.request(Method::GET, "v1/snapshots")).await
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<Deleted, ClientError> {
        // What is no id must not become another path.
        let plain = snapshot.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if snapshot.is_empty() || !plain {
            return Err(ClientError::Invalid(format!("{snapshot:?} is no id of a snapshot")));
        }
        self.ask(self.request(Method::DELETE, &format!("v1/snapshots/{snapshot}"))).await
    }

    /// Opens a shell, or goes on with a session.
    pub async fn shell(
        &self,
        id: &RunId,
        session: Option<&str>,
    ) -> Result<Conversation, ClientError> {
        let request = self
            .request(Method::GET, &format!("v1/runs/{id}/shell"))
            .query(&session.map(|session| ("session", session)).as_slice());
        Conversation::begin(socket::upgrade(self, request).await?).await
    }

    /// Opens a terminal.
    pub async fn terminal(
        &self,
        id: &RunId,
        (cols, rows): (u16, u16),
        command: Option<&str>,
    ) -> Result<Attached, ClientError> {
        let request = self
            .request(Method::GET, &format!("v1/runs/{id}/terminal"))
            .query(&[("cols", cols), ("rows", rows)])
            .query(&command.map(|command| ("command", command)).as_slice());
        Attached::open(self, request).await
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

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| ClientError::Broken(deepest(&error)))?;
        serde_json::from_slice(&bytes).map_err(|_| self.foreign(status, &bytes))
    }

    /// Sends it, and makes an error of a refusal.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.away(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(|error| ClientError::Broken(deepest(&error)))?;
        match serde_json::from_slice(&bytes) {
            Ok(body) => Err(ClientError::Refused { status, body: Box::new(body) }),
            Err(_) => Err(self.foreign(status, &bytes)),
        }
    }

    fn away(&self, error: &reqwest::Error) -> ClientError {
        if error.is_connect() || error.is_timeout() {
            ClientError::Away { url: self.url.to_string(), cause: deepest(error) }
        } else {
            ClientError::Broken(deepest(error))
        }
    }

    fn foreign(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let text = String::from_utf8_lossy(bytes).chars().take(200).collect();
        ClientError::Foreign { url: self.url.to_string(), status, text }
    }
}

fn pieces(response: Response) -> impl Stream<Item = Result<Bytes, ClientError>> {
    response.bytes_stream().map_err(|error| ClientError::Broken(deepest(&error)))
}

/// The cause behind an error's wrappings, which say little.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
