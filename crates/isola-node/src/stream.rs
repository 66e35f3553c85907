//! The events of a call.

use futures_util::StreamExt as _;
use isola::Event;
use napi::bindgen_prelude::spawn;
use napi_derive::napi;
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::AbortHandle,
};

use crate::failure::Failure;

/// So many events wait to be taken, beyond those that the sandbox itself holds;
/// then the guest waits.
const AHEAD: usize = 16;

/// A running call. Dropping it stops the guest.
#[napi]
pub struct EventStream {
    events: Mutex<mpsc::Receiver<Event>>,
    task: AbortHandle,
    /// Closed when the task is gone.
    ended: watch::Receiver<()>,
}

/// An event. `data` is text, or JSON where a value is meant.
#[napi(object, object_from_js = false)]
pub struct EventRecord {
    #[napi(js_name = "type")]
    pub kind: &'static str,
    pub data: Option<String>,
    pub level: Option<&'static str>,
    pub failure: Option<Failure>,
}

impl EventStream {
    pub fn begin(events: isola::EventStream) -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (running, ended) = watch::channel(());
        let task = spawn(async move {
            // Dropped after the events, and with them the guest.
            let _running = running;
            let mut events = events;
            while let Some(event) = events.next().await {
                if sender.send(event).await.is_err() {
                    break;
                }
            }
        });
        Self { events: Mutex::new(receiver), task: task.abort_handle(), ended }
    }
}

#[napi]
impl EventStream {
    /// The events that are there, or else the next one. None at all: the call
    /// is over, or was stopped.
    #[napi]
    pub async fn next(&self) -> Vec<EventRecord> {
        let mut taken = Vec::new();
        self.events.lock().await.recv_many(&mut taken, AHEAD).await;
        taken.into_iter().map(EventRecord::from).collect()
    }

    /// Stops the guest, wherever it is. What it has told already can still be
    /// taken.
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
            // A kind of event that came later than this package.
            other => ("log", format!("{other:?}"), Some("debug")),
        };
        Self { kind, data: Some(data), level, failure: None }
    }
}
