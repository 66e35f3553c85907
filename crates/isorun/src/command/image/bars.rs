//! Progress of a pull: a bar for each layer on a terminal, or else lines.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stderr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use isorun_engine::image::{Progress, ProgressEvent};

/// What is shown while an image comes.
#[derive(Clone)]
pub struct Bars {
    how: How,
    all: MultiProgress,
    layers: Arc<Mutex<HashMap<String, ProgressBar>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Bars,
    Lines,
    Nothing,
}

impl Bars {
    pub fn new(quiet: bool) -> Self {
        let how = match (quiet, stderr().is_terminal()) {
            (true, _) => How::Nothing,
            (false, true) => How::Bars,
            (false, false) => How::Lines,
        };
        let target = match how {
            How::Bars => ProgressDrawTarget::stderr(),
            How::Lines | How::Nothing => ProgressDrawTarget::hidden(),
        };
        Self { how, all: MultiProgress::with_draw_target(target), layers: Arc::default() }
    }

    pub fn progress(&self) -> Progress {
        let bars = self.clone();
        Progress::new(move |event| bars.show(event))
    }

    /// Takes the bars off the screen.
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
                if self.how == How::Lines {
                    self.line(&format!("{} unpacked", short(&layer)));
                }
            }
            ProgressEvent::Retry { what, reason } => {
                self.line(&format!("{what}: {reason}; trying again"))
            }
            // What is told one day and not known here is no reason to stop.
            _ => {}
        }
    }

    fn line(&self, text: &str) {
        match self.how {
            // Above the bars; if it cannot be shown, the pull goes on.
            How::Bars => drop(self.all.println(text)),
            How::Lines => eprintln!("{text}"),
            How::Nothing => {}
        }
    }

    fn bar(&self, layer: &str) -> ProgressBar {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let bar = self.all.add(ProgressBar::new(0).with_prefix(short(layer)));
            let template =
                "{prefix} {msg:9} {bar:30} {binary_bytes:>10} of {binary_total_bytes:10} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        };
        layers.entry(layer.to_owned()).or_insert_with(make).clone()
    }
}

fn short(layer: &str) -> String {
    layer.split(':').next_back().unwrap_or_default().chars().take(12).collect()
}
