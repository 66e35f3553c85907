//! The modules that are compiled into a program in Go, and their licences: for the packages
//! that contain the program, and for the bill of materials.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// A module in a program.
#[derive(Debug)]
pub struct GoModule {
    /// Its path, such as `golang.org/x/sys`. That of Go's own library is `std`.
    pub path: String,
    pub version: String,
    /// The identifier of SPDX.
    pub licence: String,
    text: String,
}

/// The module whose licence is Go's own, word by word.
const LICENSED_AS_GO: &str = "golang.org/x/sys";

/// Returns the modules in a program that was built from a directory of vendored modules.
pub fn of_program(program: &Path, vendor: &Path) -> Result<Vec<GoModule>> {
    let program = program.to_string_lossy();
    let text = process::stdout_of("go", &["version", "-m", &program])
        .with_context(|| format!("`go version -m {program}` failed"))?;
    let mut modules = Vec::new();
    for (path, version) in parse_versions(&text) {
        let licensed = if path == "std" { LICENSED_AS_GO } else { path };
        let text = read_licences(&vendor.join(licensed))?;
        let licence = identify(&text)
            .with_context(|| format!("the licence of the Go module {licensed} is not known"))?;
        modules.push(GoModule {
            path: path.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
            text,
        });
    }
    ensure!(modules.len() > 1, "`go version -m {program}` lists no modules:\n{text}");
    Ok(modules)
}

/// Returns Go's own library and the modules in the output of `go version -m`, with their
/// versions.
fn parse_versions(text: &str) -> Vec<(&str, &str)> {
    let mut words = text.lines().map(|line| line.split_whitespace());
    // Such as `target/runsc: go1.26.3`.
    let go = words.next().and_then(|mut words| words.next_back()?.strip_prefix("go"));
    let modules = words.filter_map(|mut words| {
        (words.next()? == "dep").then_some(())?;
        Some((words.next()?, words.next()?))
    });
    go.map(|version| ("std", version)).into_iter().chain(modules).collect()
}

/// Reads the licence and the notices of a module.
fn read_licences(dir: &Path) -> Result<String> {
    const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS", "AUTHORS"];
    let mut files: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            NAMES.iter().any(|start| name.starts_with(start))
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let texts: Vec<_> = files.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

/// Returns the identifier of SPDX for the text of a licence.
fn identify(text: &str) -> Option<&'static str> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |phrase: &str| words.contains(phrase);
    if has("Apache License Version 2.0") || has("Apache License, Version 2.0") {
        Some("Apache-2.0")
    } else if has("Permission is hereby granted, free of charge") {
        Some("MIT")
    } else if has("Redistributions in binary form must reproduce") {
        let three = has("Neither the name") || has("may be used to endorse or promote");
        Some(if three { "BSD-3-Clause" } else { "BSD-2-Clause" })
    } else {
        None
    }
}

/// Writes a line `PATH VERSION LICENCE` of each module.
pub fn list(modules: &[GoModule]) -> String {
    let line = |module: &GoModule| {
        let GoModule { path, version, licence, .. } = module;
        format!("{path} {version} {licence}\n")
    };
    modules.iter().map(line).collect()
}

/// Writes the licences of all modules, each below a heading.
pub fn licence_texts(modules: &[GoModule]) -> String {
    let section = |module: &GoModule| {
        let title = format!("{} {}", module.path, module.version);
        format!("{title}\n{}\n\n{}\n\n", "=".repeat(title.len()), module.text.trim())
    };
    modules.iter().map(section).collect()
}

/// Reads the lines that [`list`] has written: path, version and licence.
pub fn read(list: &str) -> Result<Vec<[&str; 3]>> {
    list.lines()
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [path, version, licence] => Ok([path, version, licence]),
            _ => bail!("`{line}` is no Go module"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_the_library_of_go_are_found() {
        let text = "dir/runsc: go1.26.3\n\tpath\tx/runsc\n\tmod\tx\t(devel)\t\n\
                    \tdep\tgithub.com/gofrs/flock\tv0.8.0\t\n\tbuild\t-compiler=gc\n";
        assert_eq!(parse_versions(text), [("std", "1.26.3"), ("github.com/gofrs/flock", "v0.8.0")]);
    }

    #[test]
    fn licences_are_identified_by_their_text() {
        let binary = "Redistributions in binary form must\nreproduce the above";
        for (text, expected) in [
            ("   Apache License\n   Version 2.0, January 2004", Some("Apache-2.0")),
            ("Permission is hereby granted, free of\ncharge, to any person", Some("MIT")),
            (binary, Some("BSD-2-Clause")),
            (&format!("{binary}\nNeither the name of Google"), Some("BSD-3-Clause")),
            ("All rights reserved.", None),
            ("", None),
        ] {
            assert_eq!(identify(text), expected, "{text}");
        }
    }

    #[test]
    fn a_module_without_a_licence_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.go"), "package a").unwrap();
        assert_eq!(identify(&read_licences(dir.path()).unwrap()), None);
        fs::write(dir.path().join("License.md"), "Permission is hereby granted, free of charge")
            .unwrap();
        assert_eq!(identify(&read_licences(dir.path()).unwrap()), Some("MIT"));
    }

    #[test]
    fn the_list_can_be_read_again() {
        let module = GoModule {
            path: "a.b/c".to_owned(),
            version: "v1".to_owned(),
            licence: "MIT".to_owned(),
            text: "text\n".to_owned(),
        };
        let modules = [module];
        assert_eq!(read(&list(&modules)).unwrap(), [["a.b/c", "v1", "MIT"]]);
        assert_eq!(licence_texts(&modules), "a.b/c v1\n========\n\ntext\n\n");
        assert!(read("a b").is_err());
    }
}
