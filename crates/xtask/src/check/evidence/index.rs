//! The tests that exist: those of Rust by their modules, others by their files.

use std::collections::BTreeSet;

use crate::check::rust_source::{Token, at, is_name, module_of, tokens};

/// The attributes of tests: the last name of each.
const TEST_ATTRIBUTES: [&str; 4] = ["test", "server_test", "timed_test", "each_runtime"];
/// The attribute of a test that runs once for each runtime, and the names of these runs.
const EACH_RUNTIME: (&str, [&str; 2]) = ("each_runtime", ["python", "javascript"]);

/// The tests of the repository.
#[derive(Default)]
pub struct TestIndex {
    /// The crate, the test target, the modules and the name of each test in Rust.
    rust: Vec<Vec<String>>,
    /// The path of each file, with the names of the tests in it.
    files: Vec<(String, Vec<String>)>,
    fuzz_targets: BTreeSet<String>,
}

impl TestIndex {
    /// Adds the tests of a file.
    pub fn add(&mut self, path: &str, text: &str) {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["crates", krate, dir @ ("src" | "tests"), ..] if path.ends_with(".rs") => {
                let rest = path.split_once(&format!("/{dir}/")).map_or(path, |(_, rest)| rest);
                let module = [vec![krate.to_owned()], module_of(rest)].concat();
                let has_parts = dir == "tests";
                self.rust.extend(rust_tests(&module, &tokens(text), has_parts));
            }
            ["fuzz", _, "fuzz_targets", file] => {
                self.fuzz_targets.insert(file.trim_end_matches(".rs").to_owned());
            }
            _ => {}
        }
        let names = match path.rsplit('.').next() {
            Some("py") => python_tests(text),
            Some("mjs") => javascript_tests(text),
            _ => Vec::new(),
        };
        self.files.push((path.to_owned(), names));
    }

    /// Returns what is wrong with the name of a test, and the place in which it is said
    /// to be.
    pub fn problem(&self, name: &str, place: Option<&str>) -> Option<String> {
        if let Some(place) = place.filter(|place| !self.is_place(place)) {
            return Some(format!("`{place}` is not a crate, a test target or a directory"));
        }
        let exists = match name.split_once("::").unwrap_or((name, "")) {
            (file, test) if file.contains('.') => self.files.iter().any(|(path, tests)| {
                path.rsplit('/').next() == Some(file)
                    && (test.is_empty() || tests.iter().any(|found| found == test))
                    && place.is_none_or(|place| is_below(path, place))
            }),
            _ => {
                let names: Vec<&str> = name.split("::").collect();
                self.rust.iter().any(|test| {
                    place.is_none_or(|place| is_in(test, place)) && contains(test, &names)
                })
            }
        };
        let place = place.map_or(String::new(), |place| format!(" in `{place}`"));
        (!exists).then(|| format!("there is no test `{name}`{place}"))
    }

    /// Returns what is wrong with the name of a fuzz target.
    pub fn fuzz_problem(&self, name: &str) -> Option<String> {
        let exists = self.fuzz_targets.contains(name);
        (!exists).then(|| format!("there is no fuzz target `{name}`"))
    }

    fn is_place(&self, place: &str) -> bool {
        self.rust.iter().any(|test| is_in(test, place))
            || self.files.iter().any(|(path, _)| is_below(path, place))
    }
}

/// Reports whether a test is in a crate or in a test target.
fn is_in(test: &[String], place: &str) -> bool {
    test.iter().take(2).any(|name| name == place)
}

/// Reports whether a file is in a directory, or in the crate of that name.
fn is_below(path: &str, place: &str) -> bool {
    [place.to_owned(), format!("crates/{place}")]
        .iter()
        .any(|dir| path.strip_prefix(dir.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// Reports whether these names follow each other in the path of a test: they are the
/// test, or modules that contain it.
fn contains(test: &[String], names: &[&str]) -> bool {
    test.windows(names.len()).any(|part| part == names)
}

/// A function of a source file.
struct SourceFunction<'a> {
    /// The modules that contain it, and its name.
    path: Vec<String>,
    /// The last name of each attribute.
    attributes: Vec<&'a str>,
    is_public: bool,
    /// The position of its name among the tokens.
    start: usize,
}

/// Returns the tests of a file, each as its path. Functions that a test calls as
/// statements are parts of it: some tests must run one after another.
fn rust_tests(module: &[String], tokens: &[Token], has_parts: bool) -> Vec<Vec<String>> {
    let is_conformance = module.iter().rev().skip(1).any(|name| name == "conformance");
    let functions = functions(module, tokens);
    let is_test = |function: &SourceFunction<'_>| {
        (is_conformance && function.is_public)
            || function.attributes.iter().any(|name| TEST_ATTRIBUTES.contains(name))
    };
    let mut parts = BTreeSet::new();
    for (index, function) in functions.iter().enumerate() {
        if has_parts && is_test(function) {
            let end = functions.get(index + 1).map_or(tokens.len(), |next| next.start);
            parts.extend((function.start + 1..end).map(|at| &tokens[at - 1..]).filter_map(
                |tokens| {
                    let is_call = matches!(at(tokens, 0), "{" | "}" | ";") && at(tokens, 2) == "(";
                    is_call.then(|| at(tokens, 1))
                },
            ));
        }
    }
    let (each_runtime, runtimes) = EACH_RUNTIME;
    let mut found = Vec::new();
    for function in &functions {
        let path = &function.path;
        if function.attributes.contains(&each_runtime) {
            found.extend(runtimes.map(|runtime| [&path[..], &[runtime.to_owned()]].concat()));
        } else if is_test(function) || parts.contains(at(tokens, function.start)) {
            found.push(path.clone());
        }
    }
    found
}

fn functions<'a>(module: &[String], tokens: &'a [Token]) -> Vec<SourceFunction<'a>> {
    let mut found = Vec::new();
    // For each open brace, the name of the module whose body it starts.
    let mut scopes: Vec<Option<String>> = Vec::new();
    let mut pending = None;
    let mut attributes: Vec<&str> = Vec::new();
    let mut is_public = false;
    let mut index = 0;
    while index < tokens.len() {
        match at(tokens, index) {
            "#" if at(tokens, index + 1) == "[" => {
                let path = tokens[index + 2..]
                    .iter()
                    .map(|token| token.text.as_str())
                    .take_while(|token| *token == "::" || is_name(token));
                attributes.extend(path.last());
                index = end_of_attribute(tokens, index + 1);
            }
            "pub" => is_public = true,
            "mod" => pending = Some(at(tokens, index + 1).to_owned()),
            // Not the type of a function.
            "fn" if is_name(at(tokens, index + 1)) => {
                let mut path = module.to_vec();
                path.extend(scopes.iter().flatten().cloned());
                path.push(at(tokens, index + 1).to_owned());
                let attributes = std::mem::take(&mut attributes);
                found.push(SourceFunction { path, attributes, is_public, start: index + 1 });
            }
            sign @ ("{" | "}" | ";") => {
                match sign {
                    "{" => scopes.push(pending.take()),
                    "}" => _ = scopes.pop(),
                    _ => pending = None,
                }
                attributes.clear();
                is_public = false;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// Returns the position of the bracket that ends an attribute.
fn end_of_attribute(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for index in start..tokens.len() {
        match at(tokens, index) {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len()
}

/// Returns the names of the functions of a Python file that are tests.
fn python_tests(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ")?;
            Some(name.split('(').next()?.to_owned())
        })
        .filter(|name| name.starts_with("test"))
        .collect()
}

/// Returns the titles of the tests of a JavaScript file.
fn javascript_tests(text: &str) -> Vec<String> {
    text.match_indices("test(")
        .filter_map(|(start, call)| {
            let mut rest = text[start + call.len()..].trim_start().chars();
            let quote = rest.next().filter(|c| matches!(c, '\'' | '"' | '`'))?;
            Some(rest.take_while(|c| *c != quote).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> TestIndex {
        let mut index = TestIndex::default();
        for (path, text) in [
            (
                "crates/a/tests/sandbox/limits.rs",
                "#[tokio::test(flavor = \"x\", threads = [1])]\n#[allow(unused)]\nasync fn memory() {}\n\
                 fn helper() {}\n#[each_runtime]\nfn cpu(runtime: Runtime) {}\n\
                 #[cfg(x)]\nmod deep { #[server_test(seconds = 3)] async fn disk() {} }\n",
            ),
            (
                "crates/a/tests/border.rs",
                "#[test] fn file() { part(1).await; let x = build(); } fn part() { inner(); } \
                 fn build() {} fn inner() {}",
            ),
            (
                "crates/a/src/files/work.rs",
                "fn f() {}\n#[cfg(test)] mod tests { #[test] fn g() {} }",
            ),
            ("crates/b/src/conformance/execs.rs", "pub async fn signals() {} async fn help() {}"),
            ("crates/b/src/conformance.rs", "pub async fn clean_up() {}"),
            ("crates/c/tests/test_host.py", "async def test_calls():\n    def handler(): ...\n"),
            ("crates/d/test/host.test.mjs", "test('a handler throws', () => {})"),
            ("fuzz/e/fuzz_targets/frames.rs", ""),
            ("docs/f.md", ""),
        ] {
            index.add(path, text);
        }
        index
    }

    #[test]
    fn tests_that_exist_are_found() {
        for (name, place) in [
            ("limits::memory", None),
            ("limits::memory", Some("a")),
            ("limits::memory", Some("sandbox")),
            ("memory", None),
            ("limits", None),
            ("limits::cpu", None),
            ("limits::cpu::python", None),
            ("limits::deep::disk", None),
            ("file", Some("border")),
            ("part", Some("border")),
            ("files::work::tests", None),
            ("files::work::tests::g", Some("a")),
            ("execs::signals", Some("b")),
            ("test_host.py", Some("crates/c/tests")),
            ("test_host.py::test_calls", Some("c")),
            ("host.test.mjs", None),
            ("host.test.mjs::a handler throws", None),
            ("f.md", None),
        ] {
            assert_eq!(index().problem(name, place), None, "{name} {place:?}");
        }
        assert_eq!(index().fuzz_problem("frames"), None);
    }

    #[test]
    fn other_names_are_not_found() {
        for (name, place) in [
            ("limits::memories", None),
            ("limits::helper", None),
            ("limits::disk", None),
            ("limits::memory", Some("b")),
            ("limits::memory", Some("border")),
            ("limits::memory", Some("nowhere")),
            ("border::build", None),
            ("border::inner", None),
            ("work::f", None),
            ("execs::help", None),
            ("conformance::clean_up", None),
            ("test_hosts.py", None),
            ("test_host.py", Some("d")),
            ("test_host.py::handler", None),
            ("host.test.mjs::a handler", None),
        ] {
            assert!(index().problem(name, place).is_some(), "{name} {place:?}");
        }
        assert!(index().fuzz_problem("answers").is_some());
    }
}
