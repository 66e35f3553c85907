//! Progress of a pull: a bar for each layer on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stderr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use isorun_image::{Progress, ProgressEvent};

/// The display of the progress.
#[derive(Clone)]
pub struct Bars {
    mode: DisplayMode,
    all: MultiProgress,
    layers: Arc<Mutex<HashMap<String, ProgressBar>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DisplayMode {
    Bars,
    Lines,
    Silent,
}

impl Bars {
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, stderr().is_terminal()) {
            (true, _) => DisplayMode::Silent,
            (false, true) => DisplayMode::Bars,
            (false, false) => DisplayMode::Lines,
        };
        let target = match mode {
            DisplayMode::Bars => ProgressDrawTarget::stderr(),
            DisplayMode::Lines | DisplayMode::Silent => ProgressDrawTarget::hidden(),
        };
        Self { mode, all: MultiProgress::with_draw_target(target), layers: Arc::default() }
    }

    pub fn progress(&self) -> Progress {
        let bars = self.clone();
        Progress::new(move |event| bars.show(event))
    }

    /// Removes the bars from the terminal.
    pub fn clear(&self) {
        for (_, bar) in self.layers.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            bar.finish_and_clear();
        }
    }

    fn show(&self, event: ProgressEvent) {
        match event {
            ProgressEvent::Found { layers, bytes } => {
                self.line(&format!("{layers} layers, {} compressed", super::table::bytes(bytes)));
            }
            ProgressEvent::Fetching { layer, bytes, done } => {
                let bar = self.bar(&layer);
                bar.set_length(bytes);
                bar.set_position(done);
                bar.set_message("fetching");
            }
            ProgressEvent::Fetched { layer, bytes } => self.bar(&layer).inc(bytes),
            ProgressEvent::Complete { layer } => {
                let bar = self.bar(&layer);
                if let Some(length) = bar.length() {
                    bar.set_position(length);
                }
                bar.set_message("fetched");
            }
            ProgressEvent::Unpacking { layer } => self.bar(&layer).set_message("unpacking"),
            ProgressEvent::Unpacked { layer } => {
                self.bar(&layer).finish_with_message("unpacked");
                if self.mode == DisplayMode::Lines {
                    self.line(&format!("{} unpacked", short(&layer)));
                }
            }
            ProgressEvent::Retry { what, reason } => {
                self.line(&format!("{what}: {reason}; trying again"))
            }
            // Ignore events that are added later.
            _ => {}
        }
    }

    fn line(&self, text: &str) {
        match self.mode {
            // Print it above the bars. An error does not stop the pull.
            DisplayMode::Bars => drop(self.all.println(text)),
            DisplayMode::Lines => eprintln!("{text}"),
            DisplayMode::Silent => {}
        }
    }

    fn bar(&self, layer: &str) -> ProgressBar {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let create = || {
            let bar = self.all.add(ProgressBar::new(0).with_prefix(short(layer)));
            let template =
                "{prefix} {msg:9} {bar:30} {binary_bytes:>10} of {binary_total_bytes:10} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        };
        layers.entry(layer.to_owned()).or_insert_with(create).clone()
    }
}

fn short(layer: &str) -> String {
    layer.split(':').next_back().unwrap_or_default().chars().take(12).collect()
}
