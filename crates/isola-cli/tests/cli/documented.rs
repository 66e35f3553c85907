//! Tests of the documentation: its examples are run.
//!
//! A block that starts with three backquotes and, for example, `python greet.py` is
//! the content of that file. In a `console` block, a line that starts with `$ ` is a
//! command, and the following lines are its complete output. `localhost:8000` is a
//! server for the page's directory: its `server.py`, or else that of Python's
//! library.

use std::{env, fs, path::Path, process::Command};

use crate::fixture::{ISOLA, Running, TestDir, compile_data_once, compile_once};

/// The pages, and the minimum number of examples of each.
const PAGES: [(&str, usize); 15] = [
    ("README.md", 2),
    ("docs/isola/command/README.md", 6),
    ("docs/isola/command/repl.md", 1),
    ("docs/isola/files.md", 2),
    ("docs/guest/python/README.md", 5),
    ("docs/guest/python/asyncio.md", 6),
    ("docs/guest/python/data.md", 5),
    ("docs/guest/python/dependencies.md", 3),
    ("docs/guest/python/http.md", 10),
    ("docs/guest/python/importlib.md", 6),
    ("docs/guest/python/logging.md", 2),
    ("docs/guest/python/serde.md", 4),
    ("docs/guest/javascript/README.md", 5),
    ("docs/guest/javascript/modules.md", 6),
    ("docs/guest/javascript/console.md", 1),
];

/// The address of the server in the pages.
const SERVER: &str = "localhost:8000";

#[test]
fn examples_print_the_documented_output() {
    for (page, min_examples) in PAGES {
        let path = root().join(page);
        let text = fs::read_to_string(path).unwrap();
        let dir = TestDir::new();
        fs::create_dir(dir.path().join("data")).unwrap();
        let server = text.contains(SERVER).then(|| serve(&dir, &text));
        let text = match &server {
            Some((_, port)) => text.replace(SERVER, &format!("localhost:{port}")),
            None => text,
        };
        let mut examples = 0;
        for (info, text) in blocks(&text) {
            match info.split_once(' ') {
                Some((_, name)) => put(&dir, name, &text),
                None if info == "console" => examples += check(page, &dir, &text),
                None => {}
            }
        }
        assert!(examples >= min_examples, "{page}: {examples} examples");
    }
}

#[test]
fn every_page_of_the_python_guest_is_listed() {
    for entry in fs::read_dir(root().join("docs/guest/python")).unwrap() {
        let name = format!("docs/guest/python/{}", entry.unwrap().file_name().to_str().unwrap());
        assert!(PAGES.iter().any(|(page, _)| *page == name), "{name}");
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn put(dir: &TestDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Starts a server for the directory. Returns it and its port.
fn serve(dir: &TestDir, page: &str) -> (Running, String) {
    let mut python = Command::new("python3");
    python.arg("-u").current_dir(dir.path());
    match blocks(page).into_iter().find(|(info, _)| *info == "python server.py") {
        Some((_, text)) => {
            put(dir, "server.py", &text);
            python.args(["server.py", "0"]);
        }
        None => {
            python.args(["-m", "http.server", "--bind", "127.0.0.1", "0"]);
        }
    }
    let mut server = Running::of(python);
    // "... port 40123 ..."
    let line = server.line();
    let mut words = line.split_whitespace().skip_while(|word| *word != "port");
    let port =
        words.nth(1).unwrap_or_else(|| panic!("no port in the output of the server: {line:?}"));
    (server, port.to_owned())
}

fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            blocks.push((info, text.map(|line| format!("{line}\n")).collect()));
        }
    }
    blocks
}

/// Runs the commands of a block, and returns their number.
fn check(page: &str, dir: &TestDir, block: &str) -> usize {
    let mut examples: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => examples.push((command, String::new())),
            (None, Some((_, expected))) => *expected += &format!("{line}\n"),
            (None, None) => panic!("{line:?} follows no command"),
        }
    }
    for (command, expected) in &examples {
        assert_eq!(shell(dir, command), *expected, "{page}: {command}");
    }
    examples.len()
}

fn shell(dir: &TestDir, command: &str) -> String {
    compile_once();
    if command.contains("python-data") {
        compile_data_once();
    }
    let bin = Path::new(ISOLA).parent().unwrap();
    let path = env::join_paths(
        [bin.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(dir.path())
        .env("PATH", path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
