//! The one wasmtime engine of the process, and its heartbeat.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::{Config, Engine, WasmBacktraceDetails};

use crate::error::Error;

/// How often running guests are interrupted: to see whether they are past a
/// limit, and to let others run.
const TICK: Duration = Duration::from_millis(2);

/// After so long without a running guest the heartbeat stops.
const LINGER: Duration = Duration::from_secs(2);

/// What guests may use of the native stack. Deep recursion in an interpreter
/// written in C is deep recursion here.
const WASM_STACK: usize = 16 << 20;

/// The engine, made on first use.
pub(crate) fn engine() -> Result<&'static Engine, Error> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine = Engine::new(&config())
        .map_err(|error| Error::internal("this machine cannot run WebAssembly", error))?;
    Ok(ENGINE.get_or_init(|| engine))
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(WASM_STACK + (1 << 20))
        // Guests are plain WASI 0.2 components without a need for these.
        .concurrency_support(false)
        // An interpreter's heap is one dense image that is mapped, not copied.
        .memory_guaranteed_dense_image_size(512 << 20)
        // Nobody reads the machine-level backtrace of an interpreter.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false)
        .native_unwind_info(false);
    config
}

/// Keeps the heartbeat going while it lives.
pub(crate) struct Running(&'static Heartbeat);

/// A thread that advances the engine's epoch, and parks when no guest runs.
struct Heartbeat {
    running: AtomicUsize,
    /// Not started yet, or parked.
    stopped: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Running {
    pub(crate) fn begin(engine: &'static Engine) -> Result<Self, Error> {
        static HEARTBEAT: Heartbeat = Heartbeat {
            running: AtomicUsize::new(0),
            stopped: AtomicBool::new(true),
            thread: Mutex::new(None),
        };
        HEARTBEAT.running.fetch_add(1, SeqCst);
        // From here on the count is given back, also when this fails.
        let running = Self(&HEARTBEAT);
        if HEARTBEAT.stopped.load(SeqCst) {
            HEARTBEAT.wake(engine)?;
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Heartbeat {
    fn wake(&'static self, engine: &'static Engine) -> Result<(), Error> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        match &*thread {
            Some(thread) => thread.unpark(),
            None => {
                let spawned = thread::Builder::new()
                    .name("isola-heartbeat".into())
                    .spawn(move || self.beat(engine))
                    .map_err(|error| Error::internal("cannot start a thread", error))?;
                *thread = Some(spawned.thread().clone());
            }
        }
        Ok(())
    }

    fn beat(&self, engine: &Engine) {
        self.stopped.store(false, SeqCst);
        let mut idle_since = None;
        loop {
            thread::sleep(TICK);
            if self.running.load(SeqCst) > 0 {
                idle_since = None;
                engine.increment_epoch();
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() > LINGER {
                self.stopped.store(true, SeqCst);
                // Whoever began before the flag was up is seen here; whoever
                // begins after it unparks.
                while self.running.load(SeqCst) == 0 {
                    thread::park();
                }
                self.stopped.store(false, SeqCst);
                idle_since = None;
            }
        }
    }
}
