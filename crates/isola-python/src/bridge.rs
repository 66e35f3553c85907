//! The bridge between tokio and asyncio: the runtime, its tasks, and their callbacks.

use std::{
    future::Future,
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use isola::Error;
use pyo3::{intern, prelude::*, types::PyTuple};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

use crate::failure;

/// The id of the process that has the runtime's threads; 0 before there are any.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The tokio runtime. It is created on first use and never shut down: its
/// threads end with the process.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Returns the runtime on which the tasks of this module run.
///
/// Fails in a forked process, which does not have the threads, so that a task
/// would wait forever.
pub fn runtime() -> PyResult<Handle> {
    if is_forked() {
        return Err(failure::raise(
            "internal",
            "isola was used in the parent process before the fork, and its threads do not exist \
             in this process: fork before the first use, or start workers with the method \
             \"spawn\" or \"forkserver\"",
        ));
    }
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*runtime {
        return Ok(runtime.handle().clone());
    }
    let created =
        Builder::new_multi_thread().thread_name("isola").enable_all().build().map_err(|error| {
            failure::raise("internal", &format!("cannot start isola's threads: {error}"))
        })?;
    let handle = created.handle().clone();
    *runtime = Some(created);
    OWNER.store(process::id(), Ordering::Release);
    Ok(handle)
}

/// Reports whether this process is a fork of the one that has the threads. Locks
/// may be held forever in it, so no object of this module may be used.
pub fn is_forked() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    owner != 0 && owner != process::id()
}

/// Fails in a forked process.
#[pyfunction]
pub fn check_process() -> PyResult<()> {
    runtime().map(drop)
}

/// The number of the runtime's threads that hold the interpreter's lock or wait
/// for it.
static ATTACHED_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Set when the interpreter is about to shut down.
static SHUTTING_DOWN: AtomicBool = AtomicBool::new(false);

/// Takes the interpreter's lock on a thread of the runtime and calls `work`.
/// Returns `None` if the interpreter is about to shut down.
///
/// A thread that is attached while the interpreter shuts down never returns,
/// and before CPython 3.14 it crashes the process. So no thread attaches once
/// the shutdown has started, and [`end`] waits for those that are attached.
pub fn attach<R>(work: impl for<'py> FnOnce(Python<'py>) -> R) -> Option<R> {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            ATTACHED_THREADS.fetch_sub(1, Ordering::SeqCst);
        }
    }
    ATTACHED_THREADS.fetch_add(1, Ordering::SeqCst);
    let _leave = Leave;
    if SHUTTING_DOWN.load(Ordering::SeqCst) { None } else { Python::try_attach(work) }
}

/// Prepares for the shutdown of the interpreter. Registered with `atexit`.
#[pyfunction]
pub fn end(py: Python<'_>) {
    SHUTTING_DOWN.store(true, Ordering::SeqCst);
    // In a forked process the counted threads do not exist.
    if !is_forked() {
        py.detach(|| {
            while ATTACHED_THREADS.load(Ordering::SeqCst) > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        });
    }
}

/// A value that only the process that created it can use.
///
/// In a forked process it is leaked instead of dropped: dropping takes locks
/// that a thread of the parent may have held.
pub struct ProcessBound<T>(Option<T>);

impl<T> ProcessBound<T> {
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub fn get(&self) -> PyResult<&T> {
        runtime()?;
        self.0.as_ref().ok_or_else(|| failure::raise("internal", "used after it was dropped"))
    }
}

impl<T> Drop for ProcessBound<T> {
    fn drop(&mut self) {
        if is_forked() {
            std::mem::forget(self.0.take());
        }
    }
}

/// A callback and the event loop that runs it, once: with a value and `None`, or
/// with `None` and an exception.
pub struct Callback {
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
}

impl Callback {
    pub fn new(event_loop: Py<PyAny>, done: Py<PyAny>) -> Self {
        Self { event_loop, done }
    }

    /// Schedules the callback on the event loop. Does nothing if the event loop is
    /// closed, since no task can wait then.
    pub fn send(self, outcome: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>) {
        attach(|py| {
            let arguments = match outcome(py) {
                Ok(value) => (value.unbind(), py.None()),
                Err(error) => (py.None(), error.into_value(py).into_any()),
            };
            let _ = self.event_loop.call_method1(
                py,
                intern!(py, "call_soon_threadsafe"),
                (self.done, arguments.0, arguments.1),
            );
        });
    }
}

/// Schedules a call on an event loop, from any thread.
pub fn post<'py, A>(
    event_loop: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    args: A,
) -> PyResult<()>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    PyErr: From<A::Error>,
{
    let py = event_loop.py();
    let rest = args.into_pyobject(py)?;
    let mut all = vec![callback.clone()];
    all.extend(rest.iter());
    event_loop.call_method1(intern!(py, "call_soon_threadsafe"), PyTuple::new(py, all)?)?;
    Ok(())
}

/// A started operation, which can be cancelled.
#[pyclass(frozen, module = "isola._native")]
pub struct Task(Mutex<Option<oneshot::Sender<()>>>);

#[pymethods]
impl Task {
    /// Cancels the operation. Its callback runs when it has stopped.
    fn cancel(&self) {
        // Dropping the sender resolves the receiver.
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Runs a future on the runtime, and passes its outcome to `callback`.
pub fn spawn<T, F, C>(future: F, callback: Callback, convert: C) -> PyResult<Task>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
    C: for<'py> FnOnce(Python<'py>, T) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    T: Send + 'static,
{
    let (keep, cancelled) = oneshot::channel::<()>();
    runtime()?.spawn(async move {
        let outcome = tokio::select! {
            biased;
            outcome = future => Some(outcome),
            _ = cancelled => None,
        };
        callback.send(move |py| match outcome {
            Some(Ok(value)) => convert(py, value),
            Some(Err(error)) => Err(failure::from_error(py, &error)),
            None => Err(failure::raise("cancelled", "the call was cancelled")),
        });
    });
    Ok(Task(Mutex::new(Some(keep))))
}
