//! The table of the expected results of the tests of a project.
//!
//! A text file with a section for each reason, which contains its explanation and
//! the tests that fail for that reason. The last section lists the modules with
//! their numbers of tests. Before it there may be a section of the reasons for which tests
//! skip themselves; without it, only their number is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

/// The name of the section of tests that fail and have no reason yet.
const UNEXPLAINED: &str = "unexplained";
/// The name of the section of reasons for which tests skip themselves.
const SKIPS: &str = "skips";
/// The name of the section of modules.
const MODULES: &str = "modules";

/// The minimum number of tests of one class, or with one name and other parameters, that are
/// written as one line.
const MIN_COLLAPSED_TESTS: usize = 3;

/// The result of the tests of one module.
pub enum ModuleOutcome {
    /// The results of the tests by their names.
    Ran(BTreeMap<String, Test>),
    /// The module skips itself, for this reason.
    Skipped(String),
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Passed,
    /// With the reason that the test gives.
    Skipped(String),
    NotRun,
    /// With the error message.
    Failed(String),
}

impl Test {
    /// Parses an event of a test. Returns `None` for other events.
    pub fn parse(kind: &str, detail: String) -> Option<Self> {
        match kind {
            "pass" => Some(Test::Passed),
            "skip" => Some(Test::Skipped(detail)),
            "not run" => Some(Test::NotRun),
            "fail" => Some(Test::Failed(detail)),
            _ => None,
        }
    }

    fn failed(&self) -> bool {
        matches!(self, Test::Failed(_))
    }

    /// Reports whether the test was run to its end.
    fn ran(&self) -> bool {
        matches!(self, Test::Passed | Test::Failed(_))
    }
}

pub type Outcomes = BTreeMap<String, ModuleOutcome>;

/// The expectation of a section for its tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expectation {
    Fail,
    /// The tests are not run: they would hang or take too long.
    NotRun,
    /// The tests may pass or fail: they depend on the load of the machine.
    Either,
}

/// A section with the tests that fail for one reason.
struct Reason {
    name: String,
    expectation: Expectation,
    /// Lines that start with `#`.
    explanation: Vec<String>,
    /// Tests, classes as `Class.*`, tests with any parameters as `test[*]`, and modules that
    /// are not run at all.
    items: Vec<String>,
}

/// The expected numbers of a module.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Ran { tests: usize, skipped: usize },
    Skipped(String),
}

/// The complete table.
pub struct Table {
    /// The lines before the first section.
    head: Vec<String>,
    reasons: Vec<Reason>,
    skips: Option<Skips>,
    modules: BTreeMap<String, Expected>,
}

/// The section of reasons for which tests skip themselves.
struct Skips {
    /// Lines that start with `#`.
    explanation: Vec<String>,
    /// The number of tests for each reason.
    counts: BTreeMap<String, usize>,
}

/// What the lines that are parsed belong to.
enum Section {
    Head,
    Reason,
    Skips,
    Modules,
}

/// The totals for the documentation.
#[derive(Default)]
pub struct Figures {
    pub modules: usize,
    pub skipped_modules: usize,
    pub passed: usize,
    pub skipped: usize,
    pub failed: usize,
}

impl Table {
    pub fn parse(text: &str) -> Result<Self> {
        let mut table =
            Table { head: Vec::new(), reasons: Vec::new(), skips: None, modules: BTreeMap::new() };
        let mut section = Section::Head;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = table.start_section(title)?;
            } else if matches!(section, Section::Head) {
                table.head.push(line.to_owned());
            } else if !line.is_empty() {
                table.add_line(&section, line).with_context(|| format!("line {}", number + 1))?;
            }
        }
        Ok(table)
    }

    fn start_section(&mut self, title: &str) -> Result<Section> {
        Ok(match title {
            MODULES => Section::Modules,
            SKIPS => {
                self.skips = Some(Skips { explanation: Vec::new(), counts: BTreeMap::new() });
                Section::Skips
            }
            _ => {
                self.reasons.push(Reason::from_title(title)?);
                Section::Reason
            }
        })
    }

    /// Adds a line that is not empty to a section, the last one of its kind.
    fn add_line(&mut self, section: &Section, line: &str) -> Result<()> {
        match (section, &mut self.skips, self.reasons.last_mut()) {
            (Section::Modules, ..) if !line.starts_with('#') => {
                let (name, expected) = module(line)?;
                self.modules.insert(name, expected);
            }
            (Section::Skips, Some(skips), _) if line.starts_with('#') => {
                skips.explanation.push(line.to_owned());
            }
            (Section::Skips, Some(skips), _) => {
                let (count, reason) =
                    line.split_once(' ').context("a number and a reason are required")?;
                skips.counts.insert(reason.to_owned(), count.parse()?);
            }
            (Section::Reason, _, Some(reason)) if line.starts_with('#') => {
                reason.explanation.push(line.to_owned());
            }
            (Section::Reason, _, Some(reason)) => {
                let item = line.split("  #").next().unwrap_or(line);
                reason.items.push(item.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Reports whether a complete module is excluded.
    pub fn excludes(&self, module: &str) -> bool {
        self.not_run().any(|item| item == module)
    }

    /// Returns the tests of a module that are not to be run.
    pub fn excluded_tests<'a>(&'a self, module: &'a str) -> impl Iterator<Item = &'a str> {
        self.not_run().filter(move |item| module_of(item) == module && *item != module)
    }

    fn not_run(&self) -> impl Iterator<Item = &str> {
        let not_run =
            self.reasons.iter().filter(|reason| reason.expectation == Expectation::NotRun);
        not_run.flat_map(|reason| reason.items.iter().map(String::as_str))
    }

    /// Returns the differences between the outcomes and the table.
    pub fn compare(&self, outcomes: &Outcomes) -> Vec<String> {
        let mut found = Vec::new();
        for (module, outcome) in outcomes {
            let seen = Expected::of(outcome);
            match self.modules.get(module) {
                None => found.push(format!("{module}: is not in the table; it {seen}")),
                Some(expected) if *expected != seen => {
                    found.push(format!("{module}: {seen}; expected: {expected}"));
                }
                Some(_) => {}
            }
            let ModuleOutcome::Ran(tests) = outcome else { continue };
            for (name, test) in tests {
                if let Test::Failed(detail) = test
                    && self.reason_of(name).is_none()
                {
                    found.push(format!("{name}: fails, and no reason is given: {detail}"));
                }
            }
        }
        for module in self.modules.keys().filter(|module| !outcomes.contains_key(*module)) {
            found.push(format!("{module}: is in the table, and there is no such module"));
        }
        for reason in &self.reasons {
            for item in &reason.items {
                found.extend(reason.check_item(item, outcomes));
            }
        }
        if let Some(skips) = &self.skips {
            found.extend(skips.compare(&skip_counts(outcomes)));
        }
        found
    }

    fn reason_of(&self, name: &str) -> Option<usize> {
        let matches = |item: &String| item == name || group_of(item) == Some(parent(name));
        self.reasons.iter().position(|reason| {
            reason.expectation != Expectation::NotRun
                && reason.name != UNEXPLAINED
                && reason.items.iter().any(matches)
        })
    }

    /// Updates the table with outcomes. Tests that fail for the first time are put into
    /// the section without a reason.
    pub fn update(&mut self, outcomes: &Outcomes) {
        let mut failed = vec![Vec::new(); self.reasons.len()];
        let mut unexplained = Vec::new();
        for outcome in outcomes.values() {
            let ModuleOutcome::Ran(tests) = outcome else { continue };
            for (name, test) in tests {
                match (test, self.reason_of(name)) {
                    (Test::Failed(_), Some(reason)) => failed[reason].push(name.as_str()),
                    (Test::Failed(detail), None) => unexplained.push(format!("{name}  # {detail}")),
                    _ => {}
                }
            }
        }
        for (reason, failed) in self.reasons.iter_mut().zip(failed) {
            if reason.expectation == Expectation::Fail {
                reason.items = collapsed(&failed, outcomes);
            }
        }
        self.reasons.retain(|reason| reason.name != UNEXPLAINED);
        if !unexplained.is_empty() {
            let explanation = vec!["# Each of these is to be given a reason.".to_owned()];
            let name = UNEXPLAINED.to_owned();
            let expectation = Expectation::Fail;
            self.reasons.push(Reason { name, expectation, explanation, items: unexplained });
        }
        if let Some(skips) = &mut self.skips {
            skips.counts = skip_counts(outcomes);
        }
        self.modules =
            outcomes.iter().map(|(name, outcome)| (name.clone(), Expected::of(outcome))).collect();
    }

    pub fn text(&self) -> String {
        let mut text = self.head.join("\n").trim_end().to_owned() + "\n";
        for reason in &self.reasons {
            let expectation = match reason.expectation {
                Expectation::Fail => "",
                Expectation::NotRun => ": not run",
                Expectation::Either => ": either",
            };
            let _ = writeln!(text, "\n[{}{expectation}]", reason.name);
            for line in reason.explanation.iter().chain(&reason.items) {
                let _ = writeln!(text, "{line}");
            }
        }
        if let Some(skips) = &self.skips {
            let _ = writeln!(text, "\n[{SKIPS}]");
            for line in &skips.explanation {
                let _ = writeln!(text, "{line}");
            }
            for (reason, count) in &skips.counts {
                let _ = writeln!(text, "{count} {reason}");
            }
        }
        let _ = writeln!(text, "\n[{MODULES}]");
        let _ = writeln!(text, "# The tests of each module, and how many of them skip themselves.");
        for (name, expected) in &self.modules {
            let _ = match expected {
                Expected::Ran { tests, skipped } => writeln!(text, "{name} {tests} {skipped}"),
                Expected::Skipped(reason) => writeln!(text, "{name} skips itself: {reason}"),
            };
        }
        text
    }
}

pub fn figures(outcomes: &Outcomes) -> Figures {
    let mut figures = Figures::default();
    for outcome in outcomes.values() {
        let ModuleOutcome::Ran(tests) = outcome else {
            figures.skipped_modules += 1;
            continue;
        };
        figures.modules += 1;
        for test in tests.values() {
            match test {
                Test::Passed => figures.passed += 1,
                Test::Failed(_) => figures.failed += 1,
                Test::Skipped(_) => figures.skipped += 1,
                Test::NotRun => {}
            }
        }
    }
    figures
}

/// Returns how many tests skip themselves for each reason.
fn skip_counts(outcomes: &Outcomes) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes.values() {
        let ModuleOutcome::Ran(tests) = outcome else { continue };
        for test in tests.values() {
            if let Test::Skipped(reason) = test {
                *counts.entry(reason.trim().to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

impl Skips {
    /// Returns the differences between the expected numbers and those of a run.
    fn compare(&self, seen: &BTreeMap<String, usize>) -> Vec<String> {
        let reasons: BTreeSet<&String> = self.counts.keys().chain(seen.keys()).collect();
        let count = |counts: &BTreeMap<String, usize>, reason: &String| {
            counts.get(reason).copied().unwrap_or_default()
        };
        let counts = reasons
            .into_iter()
            .map(|reason| (reason, count(seen, reason), count(&self.counts, reason)));
        counts
            .filter(|(_, seen, expected)| seen != expected)
            .map(|(reason, seen, expected)| {
                format!("{seen} tests skip themselves; expected: {expected}: {reason}")
            })
            .collect()
    }
}

impl Reason {
    fn from_title(title: &str) -> Result<Self> {
        let (name, expectation) = title.split_once(": ").unwrap_or((title, ""));
        let expectation = match expectation {
            "" => Expectation::Fail,
            "not run" => Expectation::NotRun,
            "either" => Expectation::Either,
            other => bail!("[{name}: {other}]: the expectation must be `not run` or `either`"),
        };
        Ok(Reason {
            name: name.to_owned(),
            expectation,
            explanation: Vec::new(),
            items: Vec::new(),
        })
    }

    /// Returns the difference between an item and the outcomes, if there is one.
    fn check_item(&self, item: &str, outcomes: &Outcomes) -> Option<String> {
        if self.name == UNEXPLAINED {
            // It is reported as a test that fails without a reason.
            return None;
        }
        let Some(outcome) = outcomes.get(module_of(item)) else {
            // An excluded module is not among the outcomes.
            let excluded = self.expectation == Expectation::NotRun && module_of(item) == item;
            return (!excluded).then(|| format!("[{}] {item}: there is no such module", self.name));
        };
        let empty = BTreeMap::new();
        let tests = if let ModuleOutcome::Ran(tests) = outcome { tests } else { &empty };
        let passed = |name: &str| format!("[{}] {name}: passes", self.name);
        if let Some(group) = group_of(item) {
            let mut members =
                tests.iter().filter(|(name, test)| parent(name) == group && test.ran()).peekable();
            if members.peek().is_none() {
                return Some(format!("[{}] {item}: there are no such tests", self.name));
            }
            let mut passing = members.filter(|(_, test)| !test.failed());
            let must_fail = self.expectation == Expectation::Fail;
            return passing.next().filter(|_| must_fail).map(|(name, _)| passed(name));
        }
        match (self.expectation, tests.get(item)) {
            (_, None) => Some(format!("[{}] {item}: there is no such test", self.name)),
            (Expectation::Fail, Some(Test::Failed(_)))
            | (Expectation::NotRun, Some(Test::NotRun)) => None,
            (Expectation::Fail, Some(Test::Skipped(_))) => {
                Some(format!("[{}] {item}: skips itself", self.name))
            }
            (Expectation::Fail, Some(_)) => Some(passed(item)),
            (Expectation::NotRun, Some(_)) => Some(format!("[{}] {item}: was run", self.name)),
            (Expectation::Either, Some(_)) => None,
        }
    }
}

impl Expected {
    fn of(outcome: &ModuleOutcome) -> Self {
        match outcome {
            ModuleOutcome::Skipped(reason) => Expected::Skipped(reason.clone()),
            ModuleOutcome::Ran(tests) => Expected::Ran {
                tests: tests.len(),
                skipped: tests.values().filter(|test| matches!(test, Test::Skipped(_))).count(),
            },
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expected::Ran { tests, skipped } => {
                write!(f, "has {tests} tests, of which {skipped} skip themselves")
            }
            Expected::Skipped(reason) => write!(f, "skips itself: {reason}"),
        }
    }
}

fn module(line: &str) -> Result<(String, Expected)> {
    let (name, rest) = line.split_once(' ').context("a name and numbers are required")?;
    if let Some(reason) = rest.strip_prefix("skips itself: ") {
        return Ok((name.to_owned(), Expected::Skipped(reason.to_owned())));
    }
    let (tests, skipped) = rest.split_once(' ').context("two numbers are required")?;
    let expected = Expected::Ran { tests: tests.parse()?, skipped: skipped.parse()? };
    Ok((name.to_owned(), expected))
}

/// Returns the module of a test, which is the start of its name.
fn module_of(name: &str) -> &str {
    name.split(['.', ':']).next().unwrap_or(name)
}

/// Returns the class of a test, or, if it has parameters, its name without them.
fn parent(name: &str) -> &str {
    match name.split_once('[') {
        Some((test, _)) => test,
        None => name.rsplit_once('.').map_or(name, |(class, _)| class),
    }
}

/// Returns the parent of the tests that an item stands for, if it stands for several.
fn group_of(item: &str) -> Option<&str> {
    item.strip_suffix(".*").or_else(|| item.strip_suffix("[*]"))
}

/// Returns the lines for failed tests, with one line for a group of which all tests failed.
fn collapsed(failed: &[&str], outcomes: &Outcomes) -> Vec<String> {
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    for name in failed {
        *groups.entry(parent(name)).or_default() += 1;
    }
    groups.retain(|group, count| {
        let Some(ModuleOutcome::Ran(tests)) = outcomes.get(module_of(group)) else { return false };
        let members = tests.iter().filter(|(name, test)| parent(name) == *group && test.ran());
        *count >= MIN_COLLAPSED_TESTS && members.count() == *count
    });
    let items = failed.iter().map(|name| match groups.get(parent(name)) {
        Some(_) if name.contains('[') => format!("{}[*]", parent(name)),
        Some(_) => format!("{}.*", parent(name)),
        None => (*name).to_owned(),
    });
    let mut known = BTreeSet::new();
    items.filter(|item| known.insert(item.clone())).collect()
}

#[cfg(test)]
mod tests;
