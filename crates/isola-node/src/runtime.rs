//! Finds and downloads the runtimes of templates.

use std::sync::Arc;

use isola::{Runtime, RuntimeSource};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use crate::{host::Callback, options::SourceOptions};

/// A progress report of a build.
#[napi(object, object_from_js = false)]
pub struct Progress {
    /// `download` or `compile`.
    pub phase: &'static str,
    /// The number of bytes downloaded so far.
    pub received: Option<f64>,
    pub total: Option<f64>,
}

/// Returns the source of a runtime with these options.
pub fn source(
    runtime: Runtime,
    options: SourceOptions,
    progress: Option<Arc<Callback<Progress>>>,
) -> RuntimeSource {
    let mut source = RuntimeSource::new(runtime);
    if let Some(path) = options.path {
        source = source.path(path);
    }
    if let Some(dir) = options.library {
        source = source.library(dir);
    }
    for dir in options.shipped {
        source = source.shipped(dir);
    }
    if let Some(version) = options.version {
        source = source.version(version);
    }
    if let Some(dir) = options.runtimes_dir {
        source = source.runtimes_dir(dir);
    }
    if let Some(url) = options.base_url {
        source = source.base_url(url);
    }
    if let Some(digest) = options.sha256 {
        source = source.sha256(digest);
    }
    if let Some(progress) = progress {
        source = source.on_progress(move |received, total| {
            let received = Some(received as f64);
            let total = total.map(|total| total as f64);
            let arrived = Progress { phase: "download", received, total };
            progress.call(arrived, ThreadsafeFunctionCallMode::NonBlocking);
        });
    }
    source
}
