//! The figures of the engines, and the table that a run prints in Markdown.

use std::fmt;

use anyhow::{Context, Result};

/// What one engine measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measurement {
    /// The duration of one loop.
    pub seconds: f64,
    /// The version of the engine.
    version: String,
}

/// The measurements of all engines, of which the first is the one to compare with.
pub(super) struct Comparison {
    engines: Vec<String>,
    rows: Vec<(&'static str, Vec<Option<Measurement>>)>,
}

impl Measurement {
    /// Reads the last line of an engine's output: the seconds, and the version.
    pub(super) fn parse(output: &str) -> Result<Self> {
        let line = output.trim_end().lines().last().unwrap_or_default();
        let (seconds, version) = line.split_once(' ').unwrap_or((line, ""));
        let seconds = seconds
            .parse()
            .ok()
            .filter(|&seconds: &f64| seconds.is_finite() && seconds > 0.0)
            .with_context(|| format!("not a positive number of seconds: {line:?}"))?;
        Ok(Self { seconds, version: version.trim().to_owned() })
    }
}

impl Comparison {
    pub(super) fn new(engines: Vec<String>) -> Self {
        Self { engines, rows: Vec::new() }
    }

    /// Adds the measurements of one program, in the order of the engines. `None` means that
    /// the engine could not run it.
    pub(super) fn add(&mut self, program: &'static str, cells: Vec<Option<Measurement>>) {
        self.rows.push((program, cells));
    }

    /// Returns the version of an engine, from its first measurement.
    fn version(&self, engine: usize) -> &str {
        let mut cells = self.rows.iter().filter_map(|(_, cells)| cells[engine].as_ref());
        cells.next().map_or("no measurement", |cell| &cell.version)
    }

    /// Returns the geometric mean of an engine's ratios, over the programs that all engines
    /// could run, so that the means are comparable.
    fn mean(&self, engine: usize) -> Option<f64> {
        geometric_mean(self.rows.iter().filter_map(|(_, cells)| {
            let cells: Option<Vec<_>> = cells.iter().map(Option::as_ref).collect();
            let cells = cells?;
            Some(cells[engine].seconds / cells[0].seconds)
        }))
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let others = 1..self.engines.len();
        let mut head = vec![String::new(), format!("{}, ms", self.engines[0])];
        let mut mean = vec!["geometric mean".to_owned(), String::new()];
        for engine in others.clone() {
            head.extend([format!("{}, ms", self.engines[engine]), "× native".to_owned()]);
            let ratio = self.mean(engine).map_or_else(String::new, shown_ratio);
            mean.extend([String::new(), ratio]);
        }
        let rule = head.iter().map(|_| "---".to_owned()).collect();
        let mut lines = vec![head, rule];
        for (name, cells) in &self.rows {
            let mut line = vec![(*name).to_owned(), shown_time(cells[0].as_ref())];
            for engine in others.clone() {
                let ratio = match (&cells[0], &cells[engine]) {
                    (Some(native), Some(cell)) => shown_ratio(cell.seconds / native.seconds),
                    _ => String::new(),
                };
                line.extend([shown_time(cells[engine].as_ref()), ratio]);
            }
            lines.push(line);
        }
        lines.push(mean);
        lines
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (engine, name) in self.engines.iter().enumerate() {
            writeln!(f, "- {name}: {}", self.version(engine))?;
        }
        writeln!(f)?;
        let lines = self.lines();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = width(column).unwrap_or_default();
                let fill = if cell == "---" { "-" } else { " " };
                write!(f, "| {cell}{} ", fill.repeat(width - cell.chars().count()))?;
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for ratio in ratios {
        sum += ratio.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

fn shown_ratio(ratio: f64) -> String {
    format!("{ratio:.2}")
}

/// Shows milliseconds with three digits.
fn shown_time(cell: Option<&Measurement>) -> String {
    let Some(cell) = cell else { return "failed".to_owned() };
    let millis = cell.seconds * 1e3;
    let digits = match millis {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        0.01.. => 4,
        _ => 5,
    };
    format!("{millis:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: f64) -> Option<Measurement> {
        Some(Measurement { seconds, version: "CPython 3".to_owned() })
    }

    #[test]
    fn the_last_line_of_the_output_is_parsed() {
        let cell = Measurement::parse("a warning\n0.25 CPython 3.14.0, Pyodide 1\n\n").unwrap();
        assert_eq!(
            cell,
            Measurement { seconds: 0.25, version: "CPython 3.14.0, Pyodide 1".to_owned() }
        );
        assert_eq!(Measurement::parse("5e-06 x").unwrap().seconds, 5e-6);
    }

    #[test]
    fn other_output_is_an_error_that_shows_it() {
        for output in ["", "Traceback", "0.0 x", "-1 x", "nan x", "inf x", "1.5\nbye"] {
            let error = Measurement::parse(output).unwrap_err().to_string();
            let last = output.lines().last().unwrap_or_default();
            assert_eq!(error, format!("not a positive number of seconds: {last:?}"));
        }
    }

    #[test]
    fn the_geometric_mean_weighs_twice_as_fast_and_half_as_fast_the_same() {
        assert_eq!(geometric_mean([].into_iter()), None);
        let mean = geometric_mean([0.5, 2.0, 8.0, 0.125].into_iter()).unwrap();
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn times_have_three_digits() {
        let shown = |millis: f64| shown_time(measured(millis / 1e3).as_ref());
        assert_eq!(
            [1234.5, 123.45, 12.345, 1.2345, 0.12345, 0.012345, 0.0012345].map(shown),
            ["1234", "123", "12.3", "1.23", "0.123", "0.0123", "0.00123"]
        );
    }

    #[test]
    fn means_contain_only_programs_that_all_engines_ran() {
        let mut table = Comparison::new(["native", "a", "b"].map(str::to_owned).into());
        table.add("both", vec![measured(0.001), measured(0.002), measured(0.004)]);
        table.add("one", vec![measured(0.001), measured(0.1), None]);
        assert_eq!(
            table.to_string(),
            "\
- native: CPython 3
- a: CPython 3
- b: CPython 3

|                | native, ms | a, ms | × native | b, ms  | × native |
| -------------- | ---------- | ----- | -------- | ------ | -------- |
| both           | 1.00       | 2.00  | 2.00     | 4.00   | 4.00     |
| one            | 1.00       | 100   | 100.00   | failed |          |
| geometric mean |            |       | 2.00     |        | 4.00     |
"
        );
    }
}
