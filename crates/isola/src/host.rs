//! The interface through which a guest reaches its host.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;

use crate::{
    error::HostError,
    http::{Request, Response, head::quoted},
    value::Value,
};

/// The host's side of a sandbox: the functions that a guest can call outside of
/// itself.
///
/// The default implementation denies everything. Most embedders do not implement
/// this trait and use [`Handlers`].
///
/// The methods run as tasks of the tokio runtime. Dropping the call, or
/// closing the sandbox, aborts them. A panic fails only the hostcall.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Answers a hostcall. The guest receives the error's message.
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        let _ = payload;
        Err(HostError::new(format!("the host has no function {}", quoted(name))))
    }

    /// Answers an HTTP request. The bodies of both request and response may be
    /// streams.
    async fn http(&self, request: Request) -> Result<Response, HostError> {
        let _ = request;
        Err(HostError::http_disabled())
    }
}

/// A host that denies everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Host for DenyAll {}

/// A [`Host`] whose methods are closures.
///
/// ```
/// use isola::{Handlers, HostError, Value};
///
/// let host = Handlers::new().hostcall("double", |payload: Value| async move {
///     let number: i64 = payload.to().map_err(|error| HostError::new(error.to_string()))?;
///     Ok(Value::from(serde_json::json!(number * 2)))
/// });
/// ```
#[derive(Clone, Default)]
pub struct Handlers {
    hostcalls: HashMap<String, HostcallHandler>,
    http: Option<HttpHandler>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, HostError>> + Send>>;
type HostcallHandler = Arc<dyn Fn(Value) -> BoxFuture<Value> + Send + Sync>;
type HttpHandler = Arc<dyn Fn(Request) -> BoxFuture<Response> + Send + Sync>;

impl Handlers {
    /// Creates a host without functions and without HTTP.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers the hostcall `name` with `handler`.
    #[must_use]
    pub fn hostcall<F, R>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Value) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, HostError>> + Send + 'static,
    {
        self.hostcalls.insert(name.into(), Arc::new(move |payload| Box::pin(handler(payload))));
        self
    }

    /// Answers HTTP requests with `handler`.
    #[must_use]
    pub fn http<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, HostError>> + Send + 'static,
    {
        self.http = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }
}

#[async_trait]
impl Host for Handlers {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        match self.hostcalls.get(name) {
            Some(handler) => handler(payload).await,
            None => DenyAll.hostcall(name, payload).await,
        }
    }

    async fn http(&self, request: Request) -> Result<Response, HostError> {
        match &self.http {
            Some(handler) => handler(request).await,
            None => DenyAll.http(request).await,
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("hostcalls", &self.hostcalls.keys())
            .field("http", &self.http.is_some())
            .finish()
    }
}
