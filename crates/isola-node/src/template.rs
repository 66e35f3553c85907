//! Templates.

use std::sync::Arc;

use isola::{Error, Limits, Runtime};
use napi::{bindgen_prelude::Either, threadsafe_function::ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::{
    exchange::HttpArgs,
    failure::Failure,
    host::{Callback, HostcallArgs},
    options::{SandboxOptions, TemplateOptions},
    runtime::{Progress, source},
    sandbox::Sandbox,
    snapshot::Snapshot,
};

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
    let mut builder =
        isola::Template::builder(runtime).limits(limits.clone()).reuse_memory(options.reuse_memory);
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
        options.apply(builder, self.limits.clone(), hostcall, http)?.create().await
    }
}
