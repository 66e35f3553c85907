//! `cargo xtask format`, and the row `format` of `cargo xtask check`: rustfmt, ruff for
//! Python, prettier for JavaScript and TypeScript. Their configuration is at the root of
//! the repository, with the files that they leave alone.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{process, setup, workspace};

/// The workspaces that cargo formats.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];
const PYTHON_EXTENSIONS: [&str; 2] = ["py", "pyi"];
const JAVASCRIPT_EXTENSIONS: [&str; 6] = ["cjs", "cts", "js", "mjs", "mts", "ts"];

/// Whether files are compared with their formatted form, or replaced by it.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Check,
    Write,
}

/// Formats all source files.
pub fn write() -> Result<()> {
    for command in commands(Mode::Write)? {
        process::run_quiet(command)?;
    }
    Ok(())
}

/// Creates the commands of all formatters. In the mode `Check`, a command fails when a
/// file is not formatted, and prints its name.
pub fn commands(mode: Mode) -> Result<Vec<Command>> {
    let files = workspace::files()?;
    let mut commands: Vec<Command> =
        MANIFESTS.iter().map(|manifest| rustfmt(mode, manifest)).collect();
    // Without files, a formatter would process the whole directory, or wait for its input.
    let python = with_extension(&files, &PYTHON_EXTENSIONS);
    if !python.is_empty() {
        let mut ruff = ruff()?;
        ruff.arg("--quiet");
        if mode == Mode::Check {
            ruff.args(["--check", "--output-format", "concise"]);
        }
        ruff.arg("--").args(python);
        commands.push(ruff);
    }
    let javascript = with_extension(&files, &JAVASCRIPT_EXTENSIONS);
    if !javascript.is_empty() {
        let mut prettier = prettier()?;
        prettier.arg(if mode == Mode::Check { "--check" } else { "--write" });
        prettier.arg("--").args(javascript);
        commands.push(prettier);
    }
    Ok(commands)
}

/// Formats the content of a Python file.
pub fn python(path: &str, content: &str) -> Result<String> {
    let mut ruff = ruff()?;
    ruff.args(["--quiet", "--stdin-filename", path, "-"]);
    ruff.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ruff.spawn().context("cannot start ruff")?;
    // ruff writes nothing before it has read everything, so neither side waits for the
    // other. If it fails earlier, its message says why.
    let sent = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(content.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ruff cannot format {path}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    sent.context("cannot write to ruff")?;
    Ok(String::from_utf8(output.stdout)?)
}

fn rustfmt(mode: Mode, manifest: &str) -> Command {
    let mut cargo = process::cargo(&["fmt", "--all", "--manifest-path", manifest]);
    if mode == Mode::Check {
        cargo.args(["--check", "--", "--color", "never"]);
    }
    cargo
}

/// Creates the command `ruff format`, at the root of the checkout.
fn ruff() -> Result<Command> {
    let _lock = workspace::lock()?;
    let mut ruff = Command::new(setup::ruff()?);
    ruff.arg("format").current_dir(workspace::root());
    Ok(ruff)
}

/// Creates the command `prettier`, at the root of the checkout.
fn prettier() -> Result<Command> {
    let _lock = workspace::lock()?;
    let program = setup::prettier()?;
    let mut prettier = Command::new(setup::node()?.node);
    prettier.arg(program).args(["--log-level", "warn", "--no-color"]);
    prettier.current_dir(workspace::root());
    Ok(prettier)
}

fn with_extension<'a>(files: &'a [PathBuf], extensions: &[&str]) -> Vec<&'a PathBuf> {
    files
        .iter()
        .filter(|path| {
            path.extension().is_some_and(|found| extensions.iter().any(|known| found == *known))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_one_formatter() {
        let files = ["a.py", "b.pyi", "c.mts", "d.d.ts", "e.js", "f.json", "g.rs", "py", "h.pyc"]
            .map(PathBuf::from);
        let names = |extensions: &[&str]| -> Vec<&str> {
            with_extension(&files, extensions)
                .into_iter()
                .filter_map(|path| path.to_str())
                .collect()
        };
        assert_eq!(names(&PYTHON_EXTENSIONS), ["a.py", "b.pyi"]);
        assert_eq!(names(&JAVASCRIPT_EXTENSIONS), ["c.mts", "d.d.ts", "e.js"]);
    }

    #[test]
    fn only_the_mode_write_changes_files() {
        let words = |mode| -> Vec<String> {
            let command = rustfmt(mode, "Cargo.toml");
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        assert!(words(Mode::Check).contains(&"--check".to_owned()));
        assert!(!words(Mode::Write).contains(&"--check".to_owned()));
    }
}
