//! Files that are generated from code and committed, so that they can be read
//! without a build: `cargo xtask generate` writes them, and `cargo xtask check` fails
//! when one is out of date.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// A generated file.
pub struct Generator {
    /// The path, relative to the root of the repository.
    pub path: &'static str,
    /// Generates the content.
    pub render: fn() -> Result<String>,
}

/// All generated files of the repository.
pub const GENERATORS: &[Generator] = &[Generator { path: "openapi/isorun.json", render: openapi }];

/// Writes all generated files that are not current.
pub fn write() -> Result<()> {
    for generator in GENERATORS {
        let expected = (generator.render)()?;
        if is_current(generator, &expected) {
            continue;
        }
        let path = workspace::root().join(generator.path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&path, expected).with_context(|| format!("cannot write {}", generator.path))?;
        eprintln!("==> wrote {}", generator.path);
    }
    Ok(())
}

/// Returns the paths of the generated files that are not current.
pub fn stale() -> Result<Vec<&'static str>> {
    let mut paths = Vec::new();
    for generator in GENERATORS {
        if !is_current(generator, &(generator.render)()?) {
            paths.push(generator.path);
        }
    }
    Ok(paths)
}

/// Returns the OpenAPI description of the server's HTTP API.
fn openapi() -> Result<String> {
    let mut cargo = process::cargo(&["run", "--quiet", "--package", "isorun", "--", "openapi"]);
    let output = cargo.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`isorun openapi` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn is_current(generator: &Generator, expected: &str) -> bool {
    fs::read_to_string(workspace::root().join(generator.path)).is_ok_and(|text| text == expected)
}
