//! Samples that are taken in turns, and the table of their medians and ratios.

use std::time::Duration;

/// The samples of one row, in seconds: those of all rounds, for each place.
pub struct Samples<const N: usize>([Vec<f64>; N]);

impl<const N: usize> Samples<N> {
    pub const fn new() -> Self {
        Self([const { Vec::new() }; N])
    }

    pub fn add(&mut self, place: usize, time: Duration) {
        self.0[place].push(time.as_secs_f64());
    }

    /// Returns the median of a place.
    fn median(&self, place: usize) -> f64 {
        median(self.0[place].clone())
    }

    /// Returns the median of the ratios of two places in the same round, if there are both.
    fn ratio(&self, of: usize, to: usize) -> Option<f64> {
        let ratios: Vec<f64> = self.0[of].iter().zip(&self.0[to]).map(|(of, to)| of / to).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints the head of a table: the places, and the ratios of each but the first to the one
/// before it.
pub fn header(places: &[&str], ratios: &[&str]) {
    let ratios: Vec<String> =
        ratios.iter().zip(places).map(|(of, to)| format!("{of} / {to}")).collect();
    println!("| row | {} | {} |", places.join(" | "), ratios.join(" | "));
    println!("|{}", "---|".repeat(1 + places.len() + ratios.len()));
}

/// Prints a row of durations.
pub fn print_row<const N: usize>(name: &str, samples: &Samples<N>) {
    print(name, samples, seconds);
}

/// Prints a row of durations that transfers of this size took, as their throughput.
pub fn print_throughput<const N: usize>(name: &str, samples: &Samples<N>, bytes: usize) {
    print(name, samples, |time| format!("{:.0} MB/s", bytes as f64 / time / 1e6));
}

fn print<const N: usize>(name: &str, samples: &Samples<N>, format: impl Fn(f64) -> String) {
    let or_empty = |text: Option<String>| text.unwrap_or_default();
    let medians = (0..N).map(|place| {
        let median = samples.median(place);
        or_empty((!median.is_nan()).then(|| format(median)))
    });
    let ratios = (1..N)
        .map(|place| or_empty(samples.ratio(place, place - 1).map(|it| format!("{it:.2} ×"))));
    let cells: Vec<String> = medians.chain(ratios).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

fn seconds(time: f64) -> String {
    match time {
        time if time < 0.1 => format!("{:.2} ms", time * 1e3),
        time if time < 1.0 => format!("{:.0} ms", time * 1e3),
        time => format!("{time:.2} s"),
    }
}
