//! A template's prelude, run once for all of its sandboxes.

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
    host::{DenyAll, Host, HostError},
    http::{Request, Response},
    runtime::Runtime,
    snapshot::state::State,
    template::Template,
    value::Value,
};

/// A guest of this template in which the prelude has run.
///
/// `None` if there is no prelude, or if it is none to share: what it asks of
/// its host and what it writes belongs to a sandbox and its caller, and an
/// exception is told to who starts one.
pub(crate) async fn prepare(template: &Template) -> Option<Arc<State>> {
    template.defaults().prelude.as_ref()?;
    template.component().accessor.as_ref()?;
    let asked = Arc::new(Asked::default());
    let host: Arc<dyn Host> = Arc::<Asked>::clone(&asked);
    let builder = template.sandbox().shared_host(host);
    let sandbox = builder.instantiate(None).await.ok()?;
    let limit = template.defaults().limits.timeout.unwrap_or(PATIENCE);
    sandbox.start().timeout(limit).await.ok()?;
    if asked.0.load(Relaxed) || !sandbox.is_silent() {
        return None;
    }
    let mut lease = sandbox.shared().lease(false).ok()?;
    let state = lease.copy().await;
    let state =
        state.inspect_err(|error| tracing::debug!(%error, "the prelude is not shared")).ok()?;
    let state = Arc::new(state);
    rehearse(template, &state).await;
    Some(state)
}

/// Has a copy do what most do at once, a start, a script and a call, to know
/// which pages that writes.
async fn rehearse(template: &Template, state: &Arc<State>) -> Option<()> {
    let sandbox = template.sandbox().instantiate(Some(Arc::clone(state))).await.ok()?;
    sandbox.start().timeout(PATIENCE).await.ok()?;
    let source = match template.runtime() {
        Runtime::Python => "def isola(n): return n",
        Runtime::JavaScript => "function isola(n) { return n }",
    };
    sandbox.load_script(source).timeout(PATIENCE).await.ok()?;
    sandbox.run("isola", args![1]).timeout(PATIENCE).await.ok()?;
    sandbox.shared().lease(false).ok()?.trace(state).await;
    Some(())
}

/// How long a prelude may wait while a template is built, if its limits say
/// nothing. Its CPU time has a limit anyway.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that denies everything and remembers that it was asked.
#[derive(Default)]
struct Asked(AtomicBool);

#[async_trait]
impl Host for Asked {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        self.0.store(true, Relaxed);
        DenyAll.hostcall(name, payload).await
    }

    async fn http(&self, request: Request) -> Result<Response, HostError> {
        self.0.store(true, Relaxed);
        DenyAll.http(request).await
    }
}
