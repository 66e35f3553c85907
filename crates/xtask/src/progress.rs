//! Progress messages on stderr.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs a task that takes a while, with progress: on a terminal a spinner with the
/// elapsed time, otherwise a line before and after it.
pub fn step<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        eprintln!("==> {label}");
    }
    let result = with_progress(label, work);
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    let time = seconds(start.elapsed());
    if terminal {
        eprintln!("==> {label}: {verdict} in {time}");
    } else {
        eprintln!("    {verdict} in {time}");
    }
    result
}

/// Runs a task with progress. The caller reports its result.
pub fn with_progress<T>(label: &str, work: impl FnOnce() -> T) -> T {
    if std::io::stderr().is_terminal() { show_spinner(label, work) } else { print_elapsed(work) }
}

/// Formats a duration for humans.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

fn show_spinner<T>(label: &str, work: impl FnOnce() -> T) -> T {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    bar.finish_and_clear();
    result
}

/// Runs a task without a terminal, and prints the elapsed time at intervals.
fn print_elapsed<T>(work: impl FnOnce() -> T) -> T {
    const REMINDER_INTERVAL: Duration = Duration::from_secs(30);
    let (finished, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let start = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = wait.recv_timeout(REMINDER_INTERVAL) {
                eprintln!("    ... {} so far", seconds(start.elapsed()));
            }
        });
        let result = work();
        drop(finished);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!(seconds(Duration::from_millis(49)), "0.0 s");
        assert_eq!(seconds(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
