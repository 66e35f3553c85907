//! Telling the user, on stderr, what takes so long.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Does one piece of work that takes a while: on a terminal under a spinner
/// with the time elapsed, otherwise between two plain lines.
pub fn step<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        eprintln!("==> {label}");
    }
    let result = during(label, work);
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    let time = seconds(start.elapsed());
    if terminal {
        eprintln!("==> {label}: {verdict} in {time}");
    } else {
        eprintln!("    {verdict} in {time}");
    }
    result
}

/// Shows that a piece of work is under way, and leaves what became of it to the
/// caller.
pub fn during<T>(label: &str, work: impl FnOnce() -> T) -> T {
    if std::io::stderr().is_terminal() { spin(label, work) } else { remind(work) }
}

/// A duration as people read it.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

fn spin<T>(label: &str, work: impl FnOnce() -> T) -> T {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    bar.finish_and_clear();
    result
}

/// Without a terminal a line now and then shows that nothing hangs.
fn remind<T>(work: impl FnOnce() -> T) -> T {
    const PERIOD: Duration = Duration::from_secs(30);
    let (finished, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let start = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = wait.recv_timeout(PERIOD) {
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
