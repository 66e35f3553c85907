//! Snapshots of sandboxes.
//!
//! The method of a sandbox that returns a snapshot is here too, so that its module
//! does not depend on this one.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use crate::{
    exchange::HttpArgs,
    failure::Failure,
    host::{Callback, HostcallArgs},
    options::SandboxOptions,
    sandbox::Sandbox,
};

/// A snapshot of an interpreter's state.
#[napi]
pub struct Snapshot {
    inner: isola::Snapshot,
}

impl Snapshot {
    pub fn new(inner: isola::Snapshot) -> Self {
        Self { inner }
    }
}

#[napi]
impl Snapshot {
    /// Creates a sandbox that continues from the snapshot.
    #[napi]
    pub async fn create(
        &self,
        options: SandboxOptions,
        hostcall: Option<Callback<HostcallArgs>>,
        http: Option<Callback<HttpArgs>>,
    ) -> Either<Sandbox, Failure> {
        let limits = self.inner.limits().clone();
        match options.apply(self.inner.sandbox(), limits, hostcall, http) {
            Ok(builder) => match builder.create().await {
                Ok(sandbox) => Either::A(Sandbox::new(sandbox)),
                Err(error) => Either::B(error.into()),
            },
            Err(error) => Either::B(error.into()),
        }
    }

    /// Writes the snapshot to a file and returns the file's size in bytes.
    #[napi]
    pub async fn save(&self, path: String) -> Either<f64, Failure> {
        match self.inner.save(path).await {
            Ok(size) => Either::A(size as f64),
            Err(error) => Either::B(error.into()),
        }
    }

    #[napi(getter)]
    pub fn runtime(&self) -> &'static str {
        self.inner.runtime().name()
    }

    #[napi(getter)]
    pub fn memory_size(&self) -> f64 {
        self.inner.memory_size() as f64
    }

    #[napi(getter)]
    pub fn resident_size(&self) -> f64 {
        self.inner.resident_size() as f64
    }
}

#[napi]
impl Sandbox {
    /// Takes a snapshot of the interpreter.
    #[napi]
    pub async fn snapshot(&self) -> Either<Snapshot, Failure> {
        let snapshot = match self.inner() {
            Ok(sandbox) => sandbox.snapshot().await,
            Err(error) => Err(error),
        };
        snapshot.map_or_else(|error| Either::B(error.into()), |it| Either::A(Snapshot::new(it)))
    }
}
