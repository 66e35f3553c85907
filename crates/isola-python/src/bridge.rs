//! Between tokio and asyncio: who works where, and how news gets across.

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

/// The process that has the threads; 0 before there are any.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The tokio runtime. It is made on first use and never taken down: its threads
/// end with the process.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Where tasks of ours run.
///
/// After a fork the threads are gone, and a task would wait for ever; so that
/// is refused.
pub fn runtime() -> PyResult<Handle> {
    if is_forked() {
        return Err(failure::raise(
            "internal",
            "isola was used in this process's parent before the fork, and its threads did not \
             come along: fork before the first use, or start workers with the method \"spawn\" \
             or \"forkserver\"",
        ));
    }
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*runtime {
        return Ok(runtime.handle().clone());
    }
    let made =
        Builder::new_multi_thread().thread_name("isola").enable_all().build().map_err(|error| {
            failure::raise("internal", &format!("cannot start isola's threads: {error}"))
        })?;
    let handle = made.handle().clone();
    *runtime = Some(made);
    OWNER.store(process::id(), Ordering::Release);
    Ok(handle)
}

/// Whether this process is a fork of the one that has the threads. Its locks
/// may be held for ever, so nothing of ours may be touched.
pub fn is_forked() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    owner != 0 && owner != process::id()
}

/// Fails in a forked process.
#[pyfunction]
pub fn check_process() -> PyResult<()> {
    runtime().map(drop)
}

/// How many of our threads hold the interpreter's lock or wait for it.
static WITHIN: AtomicUsize = AtomicUsize::new(0);

/// The interpreter is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Takes the interpreter's lock on one of our threads; `None` if the
/// interpreter is about to end.
///
/// A thread that is within the interpreter when that ends does not come back
/// from it, and before CPython 3.14 takes the process with it. So none is let
/// in any more once the program is over, and [`end`] waits for the last.
pub fn attach<R>(work: impl for<'py> FnOnce(Python<'py>) -> R) -> Option<R> {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            WITHIN.fetch_sub(1, Ordering::SeqCst);
        }
    }
    WITHIN.fetch_add(1, Ordering::SeqCst);
    let _leave = Leave;
    if ENDING.load(Ordering::SeqCst) { None } else { Python::try_attach(work) }
}

/// The end of the program, as `atexit` calls it.
#[pyfunction]
pub fn end(py: Python<'_>) {
    ENDING.store(true, Ordering::SeqCst);
    // In a fork those that are counted do not exist.
    if !is_forked() {
        py.detach(|| {
            while WITHIN.load(Ordering::SeqCst) > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        });
    }
}

/// Something that belongs to the process that made it.
///
/// A fork's copy is leaked instead of dropped: dropping takes locks that a
/// thread of the parent may have held.
pub struct Own<T>(Option<T>);

impl<T> Own<T> {
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub fn get(&self) -> PyResult<&T> {
        runtime()?;
        self.0.as_ref().ok_or_else(|| failure::raise("internal", "used after it was dropped"))
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if is_forked() {
            std::mem::forget(self.0.take());
        }
    }
}

/// An event loop, and a callback that it is to run once: with a value and
/// `None`, or with `None` and an exception.
pub struct Callback {
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
}

impl Callback {
    pub fn new(event_loop: Py<PyAny>, done: Py<PyAny>) -> Self {
        Self { event_loop, done }
    }

    /// Lets the event loop run the callback. An event loop that is closed by
    /// now has nobody who waits.
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

/// Lets an event loop call something, from any thread.
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

/// Work that was started, and can be given up.
#[pyclass(frozen, module = "isola._native")]
pub struct Task(Mutex<Option<oneshot::Sender<()>>>);

#[pymethods]
impl Task {
    /// Gives the work up. Its callback runs when it has stopped.
    fn cancel(&self) {
        // Whoever holds the receiver sees that the sender is gone.
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Runs a future on the runtime, and tells `callback` what came of it.
pub fn spawn<T, F, C>(future: F, callback: Callback, convert: C) -> PyResult<Task>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
    C: for<'py> FnOnce(Python<'py>, T) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    T: Send + 'static,
{
    let (keep, given_up) = oneshot::channel::<()>();
    runtime()?.spawn(async move {
        let outcome = tokio::select! {
            biased;
            outcome = future => Some(outcome),
            _ = given_up => None,
        };
        callback.send(move |py| match outcome {
            Some(Ok(value)) => convert(py, value),
            Some(Err(error)) => Err(failure::from_error(py, &error)),
            None => Err(failure::raise("cancelled", "the call was cancelled")),
        });
    });
    Ok(Task(Mutex::new(Some(keep))))
}
