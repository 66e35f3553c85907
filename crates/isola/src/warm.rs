//! The build of a template, and its prelude, which is run once for all sandboxes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    args,
    error::{Error, HostError},
    host::{DenyAll, Host},
    http::{Request, Response},
    runtime::Language,
    state::GuestState,
    template::{Template, TemplateBuilder},
    value::Value,
};

impl TemplateBuilder {
    /// Finds the runtime, compiles it if necessary, and loads it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid option or a runtime that cannot be
    /// found, [`Error::Internal`] for an error of the cache.
    pub async fn build(self) -> Result<Template, Error> {
        let template = tokio::task::spawn_blocking(move || self.build_blocking())
            .await
            .map_err(|error| Error::internal("building the template", error))??;
        if let Some(state) = prepare(&template).await {
            template.set_warm(state);
        }
        Ok(template)
    }
}

/// Returns the state of a guest of this template in which the prelude has run.
///
/// Returns `None` if there is no prelude, or if it cannot be shared: hostcalls
/// and output belong to a sandbox and its caller, and an exception is reported to
/// the caller that starts a sandbox.
async fn prepare(template: &Template) -> Option<Arc<GuestState>> {
    template.defaults().prelude.as_ref()?;
    template.component().accessor.as_ref()?;
    let recording = Arc::new(RecordingHost::default());
    let host: Arc<dyn Host> = Arc::<RecordingHost>::clone(&recording);
    let builder = template.sandbox().shared_host(host);
    let sandbox = builder.instantiate(None).await.ok()?;
    let limit = template.defaults().limits.timeout.unwrap_or(MAX_PRELUDE_WAIT);
    sandbox.start().timeout(limit).await.ok()?;
    if recording.0.load(Relaxed) || !sandbox.is_silent() {
        return None;
    }
    let mut lease = sandbox.shared().lease(false).ok()?;
    let state = lease.copy_state().await;
    let state =
        state.inspect_err(|error| tracing::debug!(%error, "the prelude is not shared")).ok()?;
    let state = Arc::new(state);
    state.image.expect_more_guests();
    profile_hot_pages(template, &state).await;
    Some(state)
}

/// Runs a start, a script and a call in a copy, as most sandboxes do first, and
/// records the pages that they write.
async fn profile_hot_pages(template: &Template, state: &Arc<GuestState>) -> Option<()> {
    let sandbox = template.sandbox().instantiate(Some(Arc::clone(state))).await.ok()?;
    sandbox.start().timeout(MAX_PRELUDE_WAIT).await.ok()?;
    let source = match template.runtime().language() {
        Language::Python => "def isola(n): return n",
        Language::JavaScript => "function isola(n) { return n }",
    };
    sandbox.load_script(source).timeout(MAX_PRELUDE_WAIT).await.ok()?;
    sandbox.run("isola", args![1]).timeout(MAX_PRELUDE_WAIT).await.ok()?;
    sandbox.shared().lease(false).ok()?.record_hot_pages(state).await;
    Some(())
}

/// The wall time limit of a prelude while a template is built, if the template
/// has none. Its CPU time is limited separately.
const MAX_PRELUDE_WAIT: Duration = Duration::from_secs(60);

/// A host that denies all requests and records that there was one.
#[derive(Default)]
struct RecordingHost(AtomicBool);

#[async_trait]
impl Host for RecordingHost {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        self.0.store(true, Relaxed);
        DenyAll.hostcall(name, payload).await
    }

    async fn http(&self, request: Request) -> Result<Response, HostError> {
        self.0.store(true, Relaxed);
        DenyAll.http(request).await
    }
}
