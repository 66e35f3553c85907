//! Samples that are taken in turns, and the table of their medians and ratios.

use std::time::Duration;

/// The number of samples from which on the fastest tenth is compared, too.
const MIN_SAMPLES_OF_TENTHS: usize = 20;

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
        quantile(self.0[place].clone(), 0.5)
    }

    /// Returns the median of the ratios of two places in the same round, and, if there are
    /// enough samples, the ratio of the fastest tenths, which other work of the machine affects
    /// less.
    fn ratio(&self, of: usize, to: usize) -> Option<String> {
        let (of, to) = (&self.0[of], &self.0[to]);
        let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        if ratios.is_empty() {
            return None;
        }
        let count = ratios.len();
        let median = quantile(ratios, 0.5);
        if count < MIN_SAMPLES_OF_TENTHS {
            return Some(format!("{median:.2} ×"));
        }
        let fastest = quantile(of.clone(), 0.1) / quantile(to.clone(), 0.1);
        Some(format!("{median:.2} × ({fastest:.2} ×)"))
    }
}

fn quantile(mut samples: Vec<f64>, part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * part) as usize;
    samples.get(at).copied().unwrap_or(f64::NAN)
}

/// Prints the head of a table: the places, and the ratios of each but the first to the one
/// before it, with that of the fastest tenths in parentheses.
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
    let ratios = (1..N).map(|place| or_empty(samples.ratio(place, place - 1)));
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
