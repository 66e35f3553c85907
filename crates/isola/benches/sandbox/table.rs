//! The table that a run prints, in Markdown.

use std::{fmt, time::Duration};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Python,
    JavaScript,
}

pub(crate) struct Table {
    filter: String,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    /// The figure and the goal, for each column.
    cells: [(String, String); 2],
}

impl Table {
    pub(crate) fn new(filter: String) -> Self {
        Self { filter, rows: Vec::new() }
    }

    /// Reports whether the row is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter) || self.filter.contains(name)
    }

    pub(crate) fn duration(
        &mut self,
        name: &'static str,
        column: Column,
        figure: Duration,
        goal: Option<Duration>,
    ) {
        let goal = goal.map_or_else(String::new, |goal| {
            let missed = if figure > goal { ", MISSED" } else { "" };
            format!("≤ {}{missed}", Shown(goal))
        });
        self.text(name, column, Shown(figure).to_string(), &goal);
    }

    /// Adds a figure as a multiple of another one.
    pub(crate) fn ratio(
        &mut self,
        name: &'static str,
        column: Column,
        ratio: f64,
        goal: Option<f64>,
    ) {
        let goal = goal.map_or_else(String::new, |goal| {
            let missed = if ratio > goal { ", MISSED" } else { "" };
            format!("≤ {goal} ×{missed}")
        });
        self.text(name, column, format!("{ratio:.1} ×"), &goal);
    }

    pub(crate) fn text(&mut self, name: &'static str, column: Column, figure: String, goal: &str) {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name, cells: Default::default() });
            self.rows.len() - 1
        });
        self.rows[index].cells[column as usize] = (figure, goal.to_owned());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<[&str; 5]> =
            [["", "Python", "goal", "JavaScript", "goal"], ["---", "---", "---", "---", "---"]]
                .into_iter()
                .chain(self.rows.iter().map(|row| {
                    let [python, javascript] = &row.cells;
                    [row.name, &python.0, &python.1, &javascript.0, &javascript.1]
                }))
                .collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = width(column).unwrap_or_default();
                let fill = if *cell == "---" { "-" } else { " " };
                write!(f, "| {cell}{} ", fill.repeat(width - cell.chars().count()))?;
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

/// A duration, displayed in a suitable unit with three digits.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_secs_f64() * 1e6;
        let (number, unit) = if micros >= 1e3 { (micros / 1e3, "ms") } else { (micros, "µs") };
        let digits = if number >= 100.0 {
            0
        } else if number >= 10.0 {
            1
        } else {
            2
        };
        write!(f, "{number:.digits$} {unit}")
    }
}
