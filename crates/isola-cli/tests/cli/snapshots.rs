//! Tests of `isola run` with snapshots, and of `isola snapshot`.

use std::fs;

use isola::{Language, Runtime};
use test_macros::each_runtime;

use crate::fixture::{Completed, TestDir, finish};

/// A directory with scripts and a data directory for snapshots.
struct Store(TestDir);

impl Store {
    fn new() -> Self {
        let dir = TestDir::new()
            .file("one.py", "import json\nkept = {'n': 1}\ndef main(): return kept['n']\n")
            .file("two.py", "kept['n'] += 1\nprint(json.dumps(kept))\n")
            .file("open.py", "kept = open('/data/one.py')\n")
            .file("one.js", "const kept = { n: 1 };\n")
            .file(
                "two.js",
                "kept.n += 1; console.log(JSON.stringify(kept)); const main = () => kept.n;\n",
            );
        Self(dir)
    }

    fn isola(&self, args: &[&str]) -> Completed {
        let mut command = self.0.command(args);
        command.env("XDG_DATA_HOME", self.0.path().join("home"));
        finish(command)
    }
}

#[each_runtime]
fn run_continues_from_a_named_snapshot_or_a_file(runtime: Runtime) {
    let store = Store::new();
    let (script, next, printed) = match runtime.language() {
        Language::Python => ("one.py", "two.py", "{\"n\": 2}\n2\n"),
        Language::JavaScript => ("one.js", "two.js", "{\"n\":2}\n2\n"),
    };
    for target in ["warm", "./warm.snapshot"] {
        store.isola(&["run", script, "--save-snapshot", target]).succeeded();
        for _ in 0..2 {
            let ran = store.isola(&["run", next, "--from-snapshot", target]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            // JavaScript's console writes logs, and those go to stderr.
            let text = ran.stdout + ran.stderr.trim_start_matches("info: ");
            assert!(printed.split('\n').all(|line| text.contains(line)), "{text}");
        }
    }
    assert!(store.0.path().join("home/isola/snapshots/warm.snapshot").is_file());
    assert!(store.0.path().join("warm.snapshot").is_file());
}

#[test]
fn snapshots_are_listed_shown_and_removed() {
    let store = Store::new();
    let empty = store.isola(&["snapshot", "ls"]).succeeded();
    assert!(empty.contains("NAME"), "{empty}");
    store.isola(&["run", "one.py", "--save-snapshot", "a"]).succeeded();
    store.isola(&["run", "one.js", "--save-snapshot", "b"]).succeeded();
    let table = store.isola(&["snapshot", "ls"]).succeeded();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].contains("python") && lines[1].ends_with("  a"), "{table}");
    assert!(lines[2].contains("js") && lines[2].ends_with("  b"), "{table}");
    let listing: serde_json::Value =
        serde_json::from_str(&store.isola(&["snapshot", "ls", "--json"]).succeeded()).unwrap();
    assert_eq!(listing["entries"][0]["name"], "a");
    assert!(listing["total"].as_u64().unwrap() > listing["entries"][0]["size"].as_u64().unwrap());
    let shown = store.isola(&["snapshot", "show", "a"]).succeeded();
    assert!(shown.contains("python") && shown.contains("changed"), "{shown}");
    let shown = store.isola(&["snapshot", "show", "b", "--json"]).succeeded();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["runtime"], "js");

    // Either all snapshots are removed or none.
    let error = store.isola(&["snapshot", "rm", "a", "nothing"]).failed(2);
    assert!(error.contains("there is no snapshot nothing"), "{error}");
    store.isola(&["snapshot", "rm", "a", "b"]).succeeded();
    assert_eq!(store.isola(&["snapshot", "ls"]).succeeded().lines().count(), 2);
    let error = store.isola(&["snapshot", "rm", "./one.py"]).failed(2);
    assert!(error.contains("not a snapshot or is damaged"), "{error}");
    assert!(store.0.path().join("one.py").is_file());
}

#[test]
fn unusable_snapshots_are_refused() {
    let store = Store::new();
    store.isola(&["run", "one.py", "--save-snapshot", "a.snapshot"]).succeeded();
    let error = store.isola(&["run", "two.js", "--from-snapshot", "a.snapshot"]).failed(2);
    assert!(error.contains("for the runtime python"), "{error}");
    let error = store.isola(&["run", "two.py", "--from-snapshot", "none"]).failed(2);
    assert!(error.contains("there is no snapshot none"), "{error}");
    let error = store.isola(&["run", "one.py", "--save-snapshot", "no/such/x"]).failed(2);
    assert!(error.contains("there is no directory no/such"), "{error}");
    let path = store.0.path().join("a.snapshot");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&path, bytes).unwrap();
    let error = store.isola(&["run", "two.py", "--from-snapshot", "a.snapshot"]).failed(2);
    assert!(error.contains("damaged"), "{error}");
    let error =
        store.isola(&["run", "open.py", "--mount", ".:/data", "--save-snapshot", "open"]).failed(1);
    assert!(error.contains("/data/one.py"), "{error}");
}
