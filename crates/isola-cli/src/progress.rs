//! Progress display while a runtime is compiled, which happens once on a machine.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use isola::Runtime;

/// A progress display, visible from the start of the compiler until it is dropped.
pub struct CompileProgress {
    runtime: Runtime,
    bar: Arc<OnceLock<ProgressBar>>,
}

impl CompileProgress {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, bar: Arc::default() }
    }

    /// Returns the function to call when the compiler starts.
    pub fn callback(&self) -> impl Fn() + Send + 'static {
        let (bar, runtime) = (Arc::clone(&self.bar), self.runtime);
        move || {
            let message = format!("compiling the {runtime} runtime, once on this machine...");
            if !stderr().is_terminal() {
                // In one write, so that it is not mixed with output of other processes.
                let _ = stderr().write_all(format!("{message}\n").as_bytes());
                return;
            }
            bar.get_or_init(|| spinner(message));
        }
    }
}

impl Drop for CompileProgress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Creates a spinner with the elapsed time: the compiler does not report progress.
fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
