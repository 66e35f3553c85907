//! Templates.

use std::sync::Arc;

use isola::{Error, Limits, Runtime, RuntimeSource, SandboxBuilder};
use napi::{bindgen_prelude::Either, threadsafe_function::ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::{
    exchange::HttpArgs,
    failure::Failure,
    host::{Callback, HostcallArgs, JsHost},
    options::{SandboxOptions, SourceOptions, TemplateOptions},
    sandbox::Sandbox,
    snapshot::Snapshot,
};

/// A progress report of a build.
#[napi(object, object_from_js = false)]
pub struct Progress {
    /// `download` or `compile`.
    pub phase: &'static str,
    /// The number of bytes downloaded so far.
    pub received: Option<f64>,
    pub total: Option<f64>,
}

#[napi]
pub struct Template {
    inner: isola::Template,
    /// The default limits of a sandbox.
    limits: Limits,
}

/// Finds a runtime, compiles it if necessary, and loads it.
#[napi]
pub async fn build_template(
    options: TemplateOptions,
    progress: Option<Callback<Progress>>,
) -> Either<Template, Failure> {
    match build(options, progress).await {
        Ok(template) => Either::A(template),
        Err(error) => Either::B(error.into()),
    }
}

async fn build(
    options: TemplateOptions,
    progress: Option<Callback<Progress>>,
) -> Result<Template, Error> {
    let runtime: Runtime = options.runtime.parse()?;
    let sources = options.sources;
    let mut limits = Limits::default();
    options.limits.apply(&mut limits);
    let mut builder = isola::Template::builder(runtime).limits(limits.clone());
    if options.no_cache {
        builder = builder.cache_dir(None);
    } else if let Some(dir) = options.cache_dir {
        builder = builder.cache_dir(Some(dir.into()));
    }
    if let Some(prelude) = options.prelude {
        builder = builder.prelude(prelude);
    }
    for mount in &options.mounts {
        builder = builder.mount(mount.mount()?);
    }
    for variable in options.env {
        builder = builder.env(variable.name, variable.value);
    }
    let progress = progress.map(Arc::new);
    if let Some(progress) = progress.clone() {
        builder = builder.on_compile(move || {
            let compiling = Progress { phase: "compile", received: None, total: None };
            progress.call(compiling, ThreadsafeFunctionCallMode::NonBlocking);
        });
    }
    let component = source(runtime, sources, progress).find().await?;
    let builder = builder.runtime_path(component);
    Ok(Template { inner: builder.build().await?, limits })
}

fn source(
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

#[napi]
impl Template {
    /// Creates a sandbox that has not been started.
    #[napi]
    pub async fn create(
        &self,
        options: SandboxOptions,
        hostcall: Option<Callback<HostcallArgs>>,
        http: Option<Callback<HttpArgs>>,
    ) -> Either<Sandbox, Failure> {
        match self.instantiate(options, hostcall, http).await {
            Ok(sandbox) => Either::A(Sandbox::new(sandbox)),
            Err(error) => Either::B(error.into()),
        }
    }
}

#[napi]
impl Template {
    /// Reads a snapshot from a file.
    #[napi]
    pub async fn load_snapshot(&self, path: String) -> Either<Snapshot, Failure> {
        match self.inner.load_snapshot(path).await {
            Ok(snapshot) => Either::A(Snapshot::new(snapshot)),
            Err(error) => Either::B(error.into()),
        }
    }

    #[napi(getter)]
    pub fn runtime(&self) -> &'static str {
        self.inner.runtime().name()
    }
}

impl Template {
    async fn instantiate(
        &self,
        options: SandboxOptions,
        hostcall: Option<Callback<HostcallArgs>>,
        http: Option<Callback<HttpArgs>>,
    ) -> Result<isola::Sandbox, Error> {
        let builder = self.inner.sandbox();
        configured(builder, self.limits.clone(), options, hostcall, http)?.create().await
    }
}

/// Applies options to the builder of a sandbox.
pub fn configured(
    builder: SandboxBuilder,
    mut limits: Limits,
    options: SandboxOptions,
    hostcall: Option<Callback<HostcallArgs>>,
    http: Option<Callback<HttpArgs>>,
) -> Result<SandboxBuilder, Error> {
    options.limits.apply(&mut limits);
    let names = options.hostcalls.into_iter().collect();
    let http = http.filter(|_| options.http);
    let mut builder = builder.limits(limits).host(JsHost { names, hostcall, http });
    for mount in &options.mounts {
        builder = builder.mount(mount.mount()?);
    }
    for variable in options.env {
        builder = builder.env(variable.name, variable.value);
    }
    Ok(builder)
}
