//! The documentation shows what happens: its examples are run.
//!
//! A block that begins with three backquotes and, say, `python greet.py` is
//! that file. In a `console` block, a line that begins with `$ ` is a command,
//! and what follows is all that it prints.

use std::{env, fs, path::Path, process::Command};

use crate::fixture::{Folder, ISOLA};

/// The pages, and how many examples each has at least.
const PAGES: [(&str, usize); 4] = [
    ("README.md", 2),
    ("docs/cli.md", 6),
    ("docs/python-guest.md", 5),
    ("docs/javascript-guest.md", 4),
];

#[test]
fn the_examples_print_what_they_are_said_to() {
    for (page, least) in PAGES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
        let text = fs::read_to_string(path).unwrap();
        let mut folder = Folder::new();
        fs::create_dir(folder.path().join("data")).unwrap();
        let mut examples = 0;
        for (info, text) in blocks(&text) {
            match info.split_once(' ') {
                Some((_, name)) => folder = folder.file(name, text),
                None if info == "console" => examples += check(&folder, &text),
                None => {}
            }
        }
        assert!(examples >= least, "{page}: {examples} examples");
    }
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
fn check(folder: &Folder, block: &str) -> usize {
    let mut examples: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => examples.push((command, String::new())),
            (None, Some((_, expected))) => *expected += &format!("{line}\n"),
            (None, None) => panic!("{line:?} follows no command"),
        }
    }
    for (command, expected) in &examples {
        assert_eq!(shell(folder, command), *expected, "{command}");
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
