//! Progress events of a pull or an import.

use std::fmt;
use std::sync::Arc;

/// A progress event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The manifest was read.
    Found {
        /// The number of layers.
        layers: usize,
        /// The bytes of all compressed layers.
        bytes: u64,
    },
    /// A layer is being fetched; `done` bytes of it were fetched before.
    Fetching {
        /// The digest of the layer.
        layer: String,
        /// The size of the layer, in bytes.
        bytes: u64,
        /// The bytes that are already stored.
        done: u64,
    },
    /// A part of a layer was received.
    Fetched {
        /// The digest of the layer.
        layer: String,
        /// The number of bytes received.
        bytes: u64,
    },
    /// A layer is stored and verified.
    Complete {
        /// The digest of the layer.
        layer: String,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// The digest of the layer.
        layer: String,
    },
    /// A layer is unpacked.
    Unpacked {
        /// The digest of the layer.
        layer: String,
    },
    /// A transient failure; the request is retried.
    Retry {
        /// The object of the request.
        what: String,
        /// The reason of the failure.
        reason: String,
    },
}

/// A receiver of progress events. It may be called from any thread, and should
/// return soon.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(ProgressEvent) + Send + Sync>);

impl Progress {
    /// Creates a receiver that calls a function.
    pub fn new(callback: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(callback))
    }

    /// Creates a receiver that discards all events.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn report(&self, event: ProgressEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
