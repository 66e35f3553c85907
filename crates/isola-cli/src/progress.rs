//! The wait for the compiler, which happens once on a machine.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use isola::Runtime;

/// Shown from the moment that it is told of until it is dropped.
pub struct Compiling {
    runtime: Runtime,
    bar: Arc<OnceLock<ProgressBar>>,
}

impl Compiling {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, bar: Arc::default() }
    }

    /// What is to be called when the compiler starts.
    pub fn callback(&self) -> impl Fn() + Send + 'static {
        let (bar, runtime) = (Arc::clone(&self.bar), self.runtime);
        move || {
            let message = format!("compiling the {runtime} runtime, once on this machine...");
            if !stderr().is_terminal() {
                // Whole, so that no other process writes in between.
                let _ = stderr().write_all(format!("{message}\n").as_bytes());
                return;
            }
            bar.get_or_init(|| spinner(message));
        }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// The compiler does not say how far it is, so the bar tells how long it took.
fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
