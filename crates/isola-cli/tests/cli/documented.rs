//! The documentation shows what happens: its examples are run.
//!
//! A block that begins with three backquotes and, say, `python greet.py` is
//! that file. In a `console` block, a line that begins with `$ ` is a command,
//! and what follows is all that it prints. `localhost:8000` is a server for the
//! page's folder: its `server.py`, or else that of Python's library.

use std::{env, fs, path::Path, process::Command};

use crate::fixture::{Folder, ISOLA, Running};

/// The pages, and how many examples each has at least.
const PAGES: [(&str, usize); 13] = [
    ("README.md", 2),
    ("docs/cli.md", 6),
    ("docs/repl.md", 1),
    ("docs/python-guest.md", 5),
    ("docs/python/asyncio.md", 6),
    ("docs/python/dependencies.md", 3),
    ("docs/python/http.md", 10),
    ("docs/python/importlib.md", 6),
    ("docs/python/logging.md", 2),
    ("docs/python/serde.md", 4),
    ("docs/javascript-guest.md", 5),
    ("docs/javascript/modules.md", 6),
    ("docs/javascript/console.md", 1),
];

/// What the pages call the server.
const SERVER: &str = "localhost:8000";

#[test]
fn the_examples_print_what_they_are_said_to() {
    for (page, least) in PAGES {
        let path = root().join(page);
        let text = fs::read_to_string(path).unwrap();
        let folder = Folder::new();
        fs::create_dir(folder.path().join("data")).unwrap();
        let server = text.contains(SERVER).then(|| serve(&folder, &text));
        let text = match &server {
            Some((_, port)) => text.replace(SERVER, &format!("localhost:{port}")),
            None => text,
        };
        let mut examples = 0;
        for (info, text) in blocks(&text) {
            match info.split_once(' ') {
                Some((_, name)) => put(&folder, name, &text),
                None if info == "console" => examples += check(page, &folder, &text),
                None => {}
            }
        }
        assert!(examples >= least, "{page}: {examples} examples");
    }
}

#[test]
fn every_page_of_the_python_guest_is_run() {
    for entry in fs::read_dir(root().join("docs/python")).unwrap() {
        let name = format!("docs/python/{}", entry.unwrap().file_name().to_str().unwrap());
        assert!(PAGES.iter().any(|(page, _)| *page == name), "{name}");
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn put(folder: &Folder, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A server for the folder, and its port.
fn serve(folder: &Folder, page: &str) -> (Running, String) {
    let mut python = Command::new("python3");
    python.arg("-u").current_dir(folder.path());
    match blocks(page).into_iter().find(|(info, _)| *info == "python server.py") {
        Some((_, text)) => {
            put(folder, "server.py", &text);
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
    let port = words.nth(1).unwrap_or_else(|| panic!("the server says {line:?}"));
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

/// Runs the commands of a block, and counts them.
fn check(page: &str, folder: &Folder, block: &str) -> usize {
    let mut examples: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => examples.push((command, String::new())),
            (None, Some((_, expected))) => *expected += &format!("{line}\n"),
            (None, None) => panic!("{line:?} follows no command"),
        }
    }
    for (command, expected) in &examples {
        assert_eq!(shell(folder, command), *expected, "{page}: {command}");
    }
    examples.len()
}

fn shell(folder: &Folder, command: &str) -> String {
    // Has the runtimes compiled by now.
    drop(folder.command::<&str>(&[]));
    let bin = Path::new(ISOLA).parent().unwrap();
    let path = env::join_paths(
        [bin.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder.path())
        .env("PATH", path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
