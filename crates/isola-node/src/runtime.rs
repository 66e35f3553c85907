//! Finds and downloads the runtimes of templates.

use std::sync::Arc;

use isola::{Error, Runtime, RuntimeSource};
use napi::{bindgen_prelude::Either, threadsafe_function::ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::{failure::Failure, host::Callback, options::SourceOptions};

/// A progress report of a build.
#[napi(object, object_from_js = false)]
pub struct Progress {
    /// `download` or `compile`.
    pub phase: &'static str,
    /// The number of bytes downloaded so far.
    pub received: Option<f64>,
    pub total: Option<f64>,
}

/// Finds the component of a runtime, downloads it if necessary, and returns its path.
#[napi]
pub async fn resolve_runtime(
    runtime: String,
    sources: SourceOptions,
    progress: Option<Callback<Progress>>,
) -> Either<String, Failure> {
    match resolve(&runtime, sources, progress).await {
        Ok(path) => Either::A(path),
        Err(error) => Either::B(error.into()),
    }
}

async fn resolve(
    runtime: &str,
    sources: SourceOptions,
    progress: Option<Callback<Progress>>,
) -> Result<String, Error> {
    let path = source(runtime.parse()?, sources, progress.map(Arc::new)).find().await?;
    path.into_os_string().into_string().map_err(|path| {
        let path = path.display();
        Error::InvalidArgument(format!(
            "the path of the runtime, {path}, is not UTF-8: use a directory whose path is"
        ))
    })
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
