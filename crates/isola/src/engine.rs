//! The wasmtime engine of the process, and the heartbeat thread that advances its epoch.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::{Config, Engine, WasmBacktraceDetails};

use crate::{error::Error, linear_memory};

/// The interval at which running guests are interrupted, to check their limits
/// and to let other tasks run.
const EPOCH_INTERVAL: Duration = Duration::from_millis(2);

/// The time without a running guest after which the heartbeat stops.
const HEARTBEAT_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest native stack of a guest, in bytes. Recursion in an interpreter
/// that is written in C uses it.
const MAX_WASM_STACK_BYTES: usize = 16 << 20;

/// Returns the engine, which is created on first use.
pub(crate) fn engine() -> Result<&'static Engine, Error> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine = Engine::new(&config())
        .map_err(|error| Error::internal("cannot create the WebAssembly engine", error))?;
    Ok(ENGINE.get_or_init(|| engine))
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        .async_stack_size(MAX_WASM_STACK_BYTES + (1 << 20))
        // Guests are WASI 0.2 components, which do not use it.
        .concurrency_support(false)
        // The WebAssembly backtrace of an interpreter is not used.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false)
        .native_unwind_info(false);
    #[cfg(target_os = "linux")]
    config.with_host_memory(std::sync::Arc::new(linear_memory::Creator)).memory_init_cow(false);
    // The heap of an interpreter is one dense image, which is mapped instead of copied.
    #[cfg(not(target_os = "linux"))]
    config.memory_guaranteed_dense_image_size(512 << 20);
    config
}

/// A guard that keeps the heartbeat running until it is dropped.
pub(crate) struct HeartbeatGuard(&'static Heartbeat);

/// A thread that advances the engine's epoch, and parks when no guest runs.
struct Heartbeat {
    running: AtomicUsize,
    /// The thread has not been started, or is parked.
    stopped: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl HeartbeatGuard {
    pub(crate) fn acquire(engine: &'static Engine) -> Result<Self, Error> {
        static HEARTBEAT: Heartbeat = Heartbeat {
            running: AtomicUsize::new(0),
            stopped: AtomicBool::new(true),
            thread: Mutex::new(None),
        };
        HEARTBEAT.running.fetch_add(1, SeqCst);
        // From here on the count is decremented on drop, also if `wake` fails.
        let guard = Self(&HEARTBEAT);
        if HEARTBEAT.stopped.load(SeqCst) {
            HEARTBEAT.wake(engine)?;
        }
        Ok(guard)
    }
}

impl Drop for HeartbeatGuard {
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
                    .spawn(move || self.run(engine))
                    .map_err(|error| Error::internal("cannot start a thread", error))?;
                *thread = Some(spawned.thread().clone());
            }
        }
        Ok(())
    }

    fn run(&self, engine: &Engine) {
        self.stopped.store(false, SeqCst);
        let mut idle_since = None;
        loop {
            thread::sleep(EPOCH_INTERVAL);
            if self.running.load(SeqCst) > 0 {
                idle_since = None;
                engine.increment_epoch();
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() > HEARTBEAT_IDLE_TIMEOUT
            {
                self.stopped.store(true, SeqCst);
                // A process that is idle for long needs its memory for other things.
                linear_memory::release_all();
                // A guest that started before the flag was set is counted here; one that
                // starts after it unparks the thread.
                while self.running.load(SeqCst) == 0 {
                    thread::park();
                }
                self.stopped.store(false, SeqCst);
                idle_since = None;
            }
        }
    }
}
