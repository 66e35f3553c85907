//! Tests of `isola cache`, each with a separate cache.

use std::{fs, path::PathBuf};

use crate::fixture::{Completed, TestDir, finish};

struct Cache {
    dir: TestDir,
    compiled: PathBuf,
}

impl Cache {
    fn new() -> Self {
        let dir = TestDir::new();
        let compiled = dir.path().join("isola/compiled");
        Self { dir, compiled }
    }

    /// Creates a cache with two runtimes, and files that belong to them.
    fn filled() -> Self {
        let cache = Self::new();
        fs::create_dir_all(&cache.compiled).unwrap();
        for (name, size) in [
            ("aa.cwasm", 3 << 20),
            ("aa.stamp", 10),
            ("bb.cwasm", 1536),
            ("cc.digest", 10),
            ("notes.txt", 10),
        ] {
            fs::write(cache.compiled.join(name), vec![0; size]).unwrap();
        }
        cache
    }

    fn run(&self, args: &[&str]) -> Completed {
        let args: Vec<_> = ["cache"].iter().chain(args).copied().collect();
        let mut command = self.dir.command(&args);
        command.env("XDG_CACHE_HOME", self.dir.path());
        finish(command)
    }
}

#[test]
fn ls_prints_sizes_with_units() {
    let cache = Cache::filled();
    let stdout = cache.run(&["ls"]).succeeded();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{stdout}");
    assert!(lines[0].contains("SIZE") && lines[0].contains("WRITTEN"), "{stdout}");
    assert!(lines[1].contains("3.00 MiB") && lines[1].ends_with("aa.cwasm"), "{stdout}");
    assert!(lines[2].contains("1.50 KiB") && lines[2].ends_with("bb.cwasm"), "{stdout}");
    let total = format!("in {}", cache.compiled.display());
    assert!(lines[3].contains("3.00 MiB") && lines[3].ends_with(&total), "{stdout}");
}

#[test]
fn ls_json_prints_sizes_in_bytes() {
    let cache = Cache::filled();
    let listing: serde_json::Value =
        serde_json::from_str(&cache.run(&["ls", "--json"]).succeeded()).unwrap();
    assert_eq!(listing["folder"], cache.compiled.to_str().unwrap());
    assert_eq!(listing["total"], (3 << 20) + 1536);
    assert_eq!(listing["entries"][1]["file"], "bb.cwasm");
    assert_eq!(listing["entries"][1]["size"], 1536);
    assert!(listing["entries"][1]["written"].as_u64().unwrap() > 1_700_000_000);
}

#[test]
fn clear_removes_only_files_of_the_cache() {
    let cache = Cache::filled();
    let ran = cache.run(&["clear"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.starts_with("removed 3.00 MiB from "), "{ran:?}");
    let left: Vec<_> =
        fs::read_dir(&cache.compiled).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn empty_cache_is_not_an_error() {
    let cache = Cache::new();
    assert!(cache.run(&["ls"]).succeeded().starts_with("no compiled runtimes in "));
    assert!(cache.run(&["ls", "--json"]).succeeded().contains("\"entries\":[]"));
    assert_eq!(cache.run(&["clear"]).code, Some(0));
}

#[test]
fn first_run_reports_the_compilation() {
    let cache = Cache::new();
    let dir = TestDir::with("s.js", "const main = () => 1;");
    let run = || {
        let mut command = dir.command(&["run", "s.js"]);
        command.env("XDG_CACHE_HOME", cache.dir.path());
        finish(command)
    };
    let first = run();
    assert_eq!(first.stdout, "1\n");
    assert_eq!(first.failed(0), "compiling the js runtime, once on this machine...\n");
    assert_eq!(run().succeeded(), "1\n");
    let stdout = cache.run(&["ls"]).succeeded();
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
}
