//! What a pull or an import tells while it runs.

use std::fmt;
use std::sync::Arc;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The image is known: so many layers, so many compressed bytes.
    Found {
        /// Layers.
        layers: usize,
        /// Bytes of all layers, compressed.
        bytes: u64,
    },
    /// A layer is being fetched; `done` bytes of it were there from before.
    Fetching {
        /// Its digest.
        layer: String,
        /// All of its bytes.
        bytes: u64,
        /// Those that are there.
        done: u64,
    },
    /// More of a layer has come.
    Fetched {
        /// Its digest.
        layer: String,
        /// How many bytes.
        bytes: u64,
    },
    /// A layer is there, verified.
    Complete {
        /// Its digest.
        layer: String,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Its digest.
        layer: String,
    },
    /// A layer is unpacked.
    Unpacked {
        /// Its digest.
        layer: String,
    },
    /// Something failed that may pass, and is tried again.
    Retry {
        /// What was tried.
        what: String,
        /// Why it failed.
        reason: String,
    },
}

/// Hears of progress. May be called from any thread, and should return soon.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl Progress {
    /// One that calls a function.
    pub fn new(hear: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// One that nobody hears.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
