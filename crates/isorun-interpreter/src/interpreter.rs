//! One interpreter: its sandbox, its operations in turn, and what it uses.
//!
//! ```text
//!  create, load ──▶ alive ── a crash, a cancelled call ──▶ ended ──┐
//!                     ╰──────────────── destroy ───────────────────┴──▶ destroyed
//! ```

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isola::{CodeContext, Sandbox, SandboxFiles};
use isorun_egress::proxy::EgressProxy;
use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::timeout,
};

use crate::{
    error::{Error, Result},
    image::InterpreterImage,
    turns::Turns,
};

/// The longest time that an operation which needs an idle guest waits for one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// One interpreter.
pub(crate) struct Interpreter {
    pub(crate) image: InterpreterImage,
    pub(crate) proxy: Arc<EgressProxy>,
    tenant: Arc<str>,
    sandbox: Arc<Sandbox>,
    turns: Arc<Turns>,
    /// Held by the operation in progress. Others wait in the order of their arrival.
    operation: Arc<tokio::sync::Mutex<()>>,
    state: watch::Sender<State>,
    memory: Mutex<Memory>,
    contexts: Mutex<Contexts>,
}

/// What is known of the contexts without asking the guest.
#[derive(Default)]
struct Contexts {
    /// Those of the last list.
    known: Vec<CodeContext>,
    /// The ids of those in which code runs or waits to run.
    running: BTreeSet<String>,
}

/// Code that runs or waits to run in a context, until this is dropped.
pub(crate) struct RunningCode {
    interpreter: Arc<Interpreter>,
    context: String,
}

impl Drop for RunningCode {
    fn drop(&mut self) {
        self.interpreter.contexts().running.remove(&self.context);
    }
}

/// The state in the diagram of the module's documentation.
#[derive(Clone)]
enum State {
    Alive,
    /// The reason.
    Ended(String),
    Destroyed,
}

/// The memory of a guest when it was measured last.
#[derive(Clone, Copy, Default)]
struct Memory {
    /// The pages that only this guest has, in bytes.
    own: u64,
    /// The size of its memory at that time, in bytes.
    size: u64,
    /// The highest use so far, in bytes.
    peak: u64,
}

/// The resources that an interpreter has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// Current memory in bytes: the pages that only this interpreter has, and its files.
    pub mem_bytes: u64,
    /// Peak memory in bytes.
    pub mem_peak_bytes: u64,
    /// Size of its files in bytes.
    pub disk_used_bytes: u64,
}

impl Interpreter {
    pub(crate) fn new(
        image: InterpreterImage,
        tenant: Arc<str>,
        proxy: Arc<EgressProxy>,
        sandbox: Sandbox,
        turns: Arc<Turns>,
    ) -> Arc<Self> {
        // Until the first measurement its growth is counted from here.
        let memory = Memory { size: sandbox.memory_size(), ..Memory::default() };
        Arc::new(Self {
            image,
            proxy,
            tenant,
            sandbox: Arc::new(sandbox),
            turns,
            operation: Arc::default(),
            state: watch::Sender::new(State::Alive),
            memory: Mutex::new(memory),
            contexts: Mutex::default(),
        })
    }

    pub(crate) fn files(&self) -> SandboxFiles {
        self.sandbox.files()
    }

    /// Fails if a request names another language.
    pub(crate) fn check_language(&self, name: Option<&str>) -> Result<()> {
        match name.filter(|name| !self.image.has_language(&name.to_ascii_lowercase())) {
            None => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(64).collect();
                let other =
                    InterpreterImage::ALL.into_iter().find(|other| other.has_language(name));
                let hint = other.map_or("an OCI image with an interpreter", InterpreterImage::name);
                Err(Error::LanguageMissing(format!(
                    "{} runs {}, not {shown:?}: create a run of {hint} for it",
                    self.image,
                    self.image.language()
                )))
            }
        }
    }

    /// Marks a context as running, or fails if code runs in it.
    pub(crate) fn begin_code(self: &Arc<Self>, context: &str) -> Result<RunningCode> {
        if !self.contexts().running.insert(context.to_owned()) {
            return Err(Error::ContextBusy(format!(
                "the context `{context}` runs a cell: wait for it, interrupt it, or use another \
                 context"
            )));
        }
        Ok(RunningCode { interpreter: Arc::clone(self), context: context.to_owned() })
    }

    pub(crate) fn running_contexts(&self) -> BTreeSet<String> {
        self.contexts().running.clone()
    }

    pub(crate) fn known_contexts(&self) -> Vec<CodeContext> {
        self.contexts().known.clone()
    }

    pub(crate) fn set_known_contexts(&self, contexts: &[CodeContext]) {
        self.contexts().known = contexts.to_vec();
    }

    fn contexts(&self) -> MutexGuard<'_, Contexts> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts the code of a context, and reports whether any runs.
    pub(crate) fn interrupt(&self, context: &str) -> bool {
        self.sandbox.interrupt_context(context)
    }

    /// Runs an operation as a task, which completes even if the caller is cancelled. Waits
    /// for earlier operations first, at most for a limited time.
    pub(crate) async fn operate<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Sandbox>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let turn = self.wait_for_idle(Some(IDLE_TIMEOUT)).await?;
        self.start(turn, work).await
    }

    /// Waits for earlier operations.
    pub(crate) async fn wait_for_idle(
        &self,
        limit: Option<Duration>,
    ) -> Result<OwnedMutexGuard<()>> {
        let waiting = Arc::clone(&self.operation).lock_owned();
        let guard = match limit {
            None => waiting.await,
            Some(limit) => timeout(limit, waiting).await.map_err(|_| {
                Error::Busy(format!(
                    "the interpreter has been running code for more than {} s: interrupt it, or \
                     try again later",
                    limit.as_secs()
                ))
            })?,
        };
        match &*self.state.borrow() {
            State::Alive => Ok(guard),
            State::Ended(why) => Err(Error::Ended(why.clone())),
            State::Destroyed => Err(Error::Ended("it was destroyed".to_owned())),
        }
    }

    /// Runs an operation as a task.
    pub(crate) async fn start<T, F>(
        self: &Arc<Self>,
        guard: OwnedMutexGuard<()>,
        work: impl FnOnce(Arc<Sandbox>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let this = Arc::clone(self);
        let operation = async move {
            let outcome = work(Arc::clone(&this.sandbox)).await;
            this.after_operation(outcome.as_ref().err()).await;
            drop(guard);
            outcome
        };
        match self.turns.spawn(&self.tenant, operation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Failed("an operation of a guest panicked".to_owned())),
        }
    }

    /// Measures the guest, or records that it has ended.
    async fn after_operation(&self, error: Option<&Error>) {
        if self.sandbox.is_closed() {
            let why = error.map_or_else(|| "it was closed".to_owned(), ToString::to_string);
            self.end(State::Ended(why));
        } else if let Ok(own) = self.sandbox.measure_memory().await {
            let size = self.sandbox.memory_size();
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            *memory = Memory { own, size, peak: memory.peak.max(own) };
        }
    }

    /// Closes the guest, and stops what runs in it.
    pub(crate) fn destroy(&self) {
        self.end(State::Destroyed);
        self.sandbox.close();
    }

    fn end(&self, next: State) {
        self.state.send_if_modified(|state| {
            let changes = !matches!(state, State::Destroyed);
            if changes {
                *state = next;
            }
            changes
        });
    }

    /// Waits until the guest has ended by itself, and returns the reason; `None` if it was
    /// destroyed.
    pub(crate) async fn ended(&self) -> Option<String> {
        let mut state = self.state.subscribe();
        // The sender is a field of `self`, so the channel is not closed.
        let ended = state.wait_for(|state| !matches!(state, State::Alive)).await;
        match ended.as_deref() {
            Ok(State::Ended(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Returns the resources that it has used so far. Memory that a running operation has
    /// taken since the last measurement is counted by its growth.
    pub(crate) fn usage(&self) -> Usage {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let disk_used_bytes = self.sandbox.files().used();
        let growth = self.sandbox.memory_size().saturating_sub(memory.size);
        let mem_bytes = memory.own.saturating_add(growth).saturating_add(disk_used_bytes);
        memory.peak = memory.peak.max(mem_bytes);
        Usage {
            cpu_ms: u64::try_from(self.sandbox.cpu_time().as_millis()).unwrap_or(u64::MAX),
            mem_bytes,
            mem_peak_bytes: memory.peak,
            disk_used_bytes,
        }
    }
}
