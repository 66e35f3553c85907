//! Implements `isola::Host` with handlers in JavaScript.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use isola::{DenyAll, Host, HostError, Value, http};
use napi::{
    Status,
    bindgen_prelude::FnArgs,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use tokio::sync::oneshot;

use crate::exchange::{Exchange, HttpArgs};

/// `(name, payload, reply)`
pub type HostcallArgs = FnArgs<(String, String, Reply)>;

/// A weak callback that takes no error argument.
pub type Callback<Args> = ThreadsafeFunction<Args, (), Args, Status, false, true>;

/// A host that passes hostcalls and HTTP requests to JavaScript.
pub struct JsHost {
    pub names: HashSet<String>,
    pub hostcall: Option<Callback<HostcallArgs>>,
    pub http: Option<Callback<HttpArgs>>,
}

#[async_trait]
impl Host for JsHost {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        let Some(callback) = self.hostcall.as_ref().filter(|_| self.names.contains(name)) else {
            return DenyAll.hostcall(name, payload).await;
        };
        let (reply, answer) = Reply::new();
        call(callback, (name.to_owned(), payload.to_string(), reply).into())?;
        let text = answer.await.map_err(|_| {
            HostError::new(format!("the handler of {name:?} was dropped before it replied"))
        })??;
        Value::from_json(text).map_err(|error| HostError::new(error.to_string()))
    }

    async fn http(&self, request: http::Request) -> Result<http::Response, HostError> {
        let Some(callback) = &self.http else {
            return DenyAll.http(request).await;
        };
        let (args, answer) = Exchange::start(request);
        call(callback, args)?;
        answer.response().await
    }
}

fn call<Args>(callback: &Callback<Args>, args: Args) -> Result<(), HostError>
where
    Args: 'static + napi::bindgen_prelude::JsValuesTupleIntoVec,
{
    match callback.call(args, ThreadsafeFunctionCallMode::NonBlocking) {
        Status::Ok => Ok(()),
        status => {
            Err(HostError::new(format!("the JavaScript callback cannot be called: {status}")))
        }
    }
}

/// The handle by which a handler replies to a hostcall. Dropping it without a
/// reply fails the hostcall.
#[napi]
pub struct Reply(Mutex<Option<oneshot::Sender<Result<String, HostError>>>>);

#[napi]
impl Reply {
    /// Completes the hostcall with a result, as JSON.
    #[napi]
    pub fn answer(&self, json: String) {
        self.send(Ok(json));
    }

    /// Fails the hostcall with a message for the guest.
    #[napi]
    pub fn fail(&self, message: String) {
        self.send(Err(HostError::new(message)));
    }
}

impl Reply {
    fn new() -> (Self, oneshot::Receiver<Result<String, HostError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Mutex::new(Some(sender))), receiver)
    }

    fn send(&self, answer: Result<String, HostError>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The send fails if the guest no longer waits for the reply.
            let _ = sender.send(answer);
        }
    }
}
