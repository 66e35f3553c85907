//! The event stream of a call.

use futures_util::{Stream, StreamExt as _};
use isola::Event;
use napi::bindgen_prelude::spawn;
use napi_derive::napi;
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::AbortHandle,
};

use crate::failure::Failure;

/// The number of events buffered here, beyond those that the sandbox itself
/// buffers. When the buffer is full, the guest waits.
const MAX_BUFFERED_EVENTS: usize = 16;

/// A running call. Dropping it stops the guest.
#[napi]
pub struct EventStream {
    events: Mutex<mpsc::Receiver<EventRecord>>,
    task: AbortHandle,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

/// An event. `data` is text, or JSON for the events that carry a value.
#[napi(object, object_from_js = false)]
pub struct EventRecord {
    #[napi(js_name = "type")]
    pub kind: &'static str,
    pub data: Option<String>,
    pub level: Option<&'static str>,
    pub failure: Option<Failure>,
}

impl EventStream {
    pub fn start<E>(events: impl Stream<Item = E> + Unpin + Send + 'static) -> Self
    where
        E: Into<EventRecord> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(MAX_BUFFERED_EVENTS);
        let (running, ended) = watch::channel(());
        let task = spawn(async move {
            // Dropped after the events, whose drop stops the guest.
            let _running = running;
            let mut events = events;
            while let Some(event) = events.next().await {
                if sender.send(event.into()).await.is_err() {
                    break;
                }
            }
        });
        Self { events: Mutex::new(receiver), task: task.abort_handle(), ended }
    }
}

#[napi]
impl EventStream {
    /// Returns the available events, waiting for the next one if there is none.
    /// An empty list means that the call has ended or was stopped.
    #[napi]
    pub async fn next(&self) -> Vec<EventRecord> {
        let mut taken = Vec::new();
        self.events.lock().await.recv_many(&mut taken, MAX_BUFFERED_EVENTS).await;
        taken
    }

    /// Stops the guest at whatever point it is. Events that it has sent already can
    /// still be read.
    #[napi]
    pub fn cancel(&self) {
        self.task.abort();
    }

    /// Resolves when the guest has stopped.
    #[napi]
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl From<Event> for EventRecord {
    fn from(event: Event) -> Self {
        let (kind, data, level) = match event {
            Event::Result(value) => ("result", value.to_string(), None),
            Event::End(value) => ("end", value.to_string(), None),
            Event::Stdout(text) => ("stdout", text, None),
            Event::Stderr(text) => ("stderr", text, None),
            Event::Log(record) => ("log", record.message, Some(record.level.as_str())),
            Event::Error(error) => {
                let failure = Some(Failure::from(error));
                return Self { kind: "error", data: None, level: None, failure };
            }
            // An event of a kind that this package does not know.
            other => ("log", format!("{other:?}"), Some("debug")),
        };
        Self { kind, data: Some(data), level, failure: None }
    }
}
