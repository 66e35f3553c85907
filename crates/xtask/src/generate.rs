//! Files that are generated from code and committed, so that they can be read
//! without a build: `cargo xtask generate` writes them, and `cargo xtask check` fails
//! when one is out of date.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{dependencies, format, sdk, setup, workspace};

const OPENAPI: &str = "openapi/isorun.json";

/// A Python script that generates Python files. With the path of one of them as its
/// argument, it prints the content of that file, which need not be formatted.
struct Script {
    /// The path, relative to the root of the repository.
    path: &'static str,
    /// The paths of the generated files, relative to the root of the repository.
    outputs: &'static [&'static str],
}

/// All scripts that generate files of the repository.
const SCRIPTS: &[Script] = &[
    Script {
        path: "crates/isola-python/generate_sync.py",
        outputs: &["crates/isola-python/python/isola/sync.py"],
    },
    Script {
        path: "sdk/python/generate_sync.py",
        outputs: &["sdk/python/src/isorun/_sandbox.py", "sdk/python/src/isorun/_shell.py"],
    },
];

/// A generated file.
struct Generated {
    /// The path, relative to the root of the repository.
    path: &'static str,
    content: String,
}

impl Generated {
    fn is_current(&self) -> bool {
        fs::read_to_string(workspace::root().join(self.path)).is_ok_and(|text| text == self.content)
    }
}

/// Writes all generated files that are not current.
pub fn write() -> Result<()> {
    for file in generate() {
        let file = file?;
        if file.is_current() {
            continue;
        }
        let path = workspace::root().join(file.path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&path, file.content).with_context(|| format!("cannot write {}", file.path))?;
        eprintln!("==> wrote {}", file.path);
    }
    Ok(())
}

/// Returns the paths of the generated files that are not current.
pub fn stale() -> Result<Vec<&'static str>> {
    let mut paths = Vec::new();
    for file in generate() {
        let file = file?;
        if !file.is_current() {
            paths.push(file.path);
        }
    }
    Ok(paths)
}

/// Generates all files, one after the other, without writing them. The OpenAPI description
/// is last, because the server has to be compiled for it.
fn generate() -> impl Iterator<Item = Result<Generated>> {
    let scripts = SCRIPTS.iter().flat_map(|script| {
        script
            .outputs
            .iter()
            .map(|path| run(script, path).map(|content| Generated { path, content }))
    });
    let others = [(dependencies::PAGE, dependencies::render as fn() -> _), (OPENAPI, openapi)]
        .into_iter()
        .map(|(path, render)| render().map(|content| Generated { path, content }));
    scripts.chain(others)
}

/// Runs a script for one of its outputs, and formats the result.
fn run(script: &Script, output: &str) -> Result<String> {
    let lock = workspace::lock()?;
    let mut python = Command::new(setup::python()?.program);
    drop(lock);
    python.args([script.path, output]).current_dir(workspace::root());
    // Python would encode the output for the locale of the machine.
    python.env("PYTHONUTF8", "1");
    let printed = python.output().context("cannot start Python")?;
    if !printed.status.success() {
        let reason = String::from_utf8_lossy(&printed.stderr);
        bail!("`{} {output}` failed:\n{reason}", script.path);
    }
    format::python(output, &String::from_utf8(printed.stdout)?)
}

/// Returns the OpenAPI description of the server's HTTP API.
fn openapi() -> Result<String> {
    sdk::build_for_tests()?;
    let mut command = Command::new(sdk::command()?);
    let output = command.arg("openapi").output().context("cannot start isorun")?;
    if !output.status.success() {
        bail!("`isorun openapi` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_their_outputs_are_files_of_the_repository() {
        for script in SCRIPTS {
            assert!(workspace::root().join(script.path).is_file(), "{}", script.path);
            assert!(!script.outputs.is_empty(), "{}", script.path);
            for output in script.outputs {
                assert!(workspace::root().join(output).is_file(), "{output}");
            }
        }
    }

    #[test]
    fn a_file_is_current_if_its_content_is_the_same() {
        let content = fs::read_to_string(workspace::root().join("rustfmt.toml")).unwrap();
        let mut file = Generated { path: "rustfmt.toml", content };
        assert!(file.is_current());
        file.content.push('\n');
        assert!(!file.is_current());
        file.path = "no-such-file";
        assert!(!file.is_current());
    }
}
