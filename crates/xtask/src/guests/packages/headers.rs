//! The headers of CPython, for the builder's configuration of it.
//!
//! The builder contains the interpreter and no headers. Those of a minor version are the
//! same everywhere, so they are taken from Debian's package of the version whose library
//! the guest has. One header describes the platform: it is derived from the values with which the
//! builder's interpreter was compiled, which its library contains.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::digest::Inputs;
use crate::guests::builder_library;
use crate::{process, python_library, setup, stamp, workspace};

/// The headers, and what else a build system asks about the interpreter.
pub struct Headers {
    pub include: PathBuf,
    /// The variables of the interpreter's build, by their names.
    pub variables: BTreeMap<String, Value>,
    pub digest: String,
}

/// The file with the variables, in the builder's library.
const VARIABLES: &str = "_sysconfigdata__wasi_wasm32-wasi.py";

/// Installs the headers.
pub fn install() -> Result<Headers> {
    let builder = setup::python_builder()?;
    let tools = workspace::tools().join("python-headers");
    let source = python_library::headers_digest()?;
    let digest = Inputs::default()
        .text("builder", &builder.digest)
        .text("headers", &source)
        .text("code", include_str!("headers.rs"))
        .finish();
    stamp::install("the headers of the guest's Python", &tools, &digest, || {
        python_library::install_headers(&tools.join("unpacked"))?;
        let variables = variables(&builder, &tools)?;
        let from = tools.join("unpacked/usr/include");
        let include = tools.join("include");
        fs::rename(from.join("python3.14"), &include)?;
        let platform = fs::read_dir(&from)?
            .flatten()
            .map(|entry| entry.path().join("python3.14/pyconfig.h"))
            .find(|path| path.is_file())
            .context("Debian's headers contain no pyconfig.h of the platform")?;
        let configuration = configuration(&fs::read_to_string(platform)?, &variables)?;
        fs::write(include.join("pyconfig.h"), configuration)?;
        fs::write(tools.join("variables.json"), serde_json::to_vec(&variables)?)?;
        fs::remove_dir_all(tools.join("unpacked"))?;
        Ok(())
    })?;
    let variables = serde_json::from_slice(&fs::read(tools.join("variables.json"))?)?;
    Ok(Headers { include: tools.join("include"), variables, digest })
}

/// Reads the variables of the interpreter's build from the builder's library.
fn variables(builder: &setup::PythonBuilder, dir: &Path) -> Result<BTreeMap<String, Value>> {
    let program = fs::read(builder.package.join("componentize_py.abi3.so"))?;
    let module = dir.join("variables.py");
    fs::write(&module, builder_library::file(&program, VARIABLES)?)?;
    let script = "import json, runpy, sys\n\
                  print(json.dumps(runpy.run_path(sys.argv[1])['build_time_vars']))";
    let program = setup::python()?.program;
    let path = module.to_string_lossy().into_owned();
    let text = process::stdout_of(program, &["-c", script, &path])
        .context("the variables of the builder's Python cannot be read")?;
    fs::remove_file(&module)?;
    serde_json::from_str(&text).context("the variables of the builder's Python are not JSON")
}

/// Writes a `pyconfig.h` with the names of another one, and the values of the builder.
fn configuration(template: &str, variables: &BTreeMap<String, Value>) -> Result<String> {
    let mut text = String::from("#ifndef Py_PYCONFIG_H\n#define Py_PYCONFIG_H\n");
    let mut defined = 0;
    for name in names(template) {
        match variables.get(name) {
            // A size of zero would be a size; any other zero means that something is absent.
            Some(Value::Number(value)) if value.as_i64() != Some(0) => {
                text.push_str(&format!("#define {name} {value}\n"));
                defined += 1;
            }
            Some(Value::String(value)) => {
                text.push_str(&format!("#define {name} {value}\n"));
                defined += 1;
            }
            _ => {}
        }
    }
    ensure!(defined > 100, "only {defined} names of pyconfig.h have values");
    text.push_str("#endif\n");
    Ok(text)
}

/// Returns the names that a `pyconfig.h` defines or mentions as undefined.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start_matches("/* ").trim_start_matches('#').trim_start();
        let name = line.strip_prefix("define ").or_else(|| line.strip_prefix("undef "))?;
        name.split([' ', '(', '\t']).next().filter(|name| *name != "Py_PYCONFIG_H")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_names_of_one_and_the_values_of_another() {
        let many: Vec<String> = (0..120).map(|n| format!("/* #undef HAVE_{n} */")).collect();
        let template = format!(
            "#ifndef Py_PYCONFIG_H\n#define Py_PYCONFIG_H\n#define SIZEOF_LONG 8\n\
             # define HAVE_FORK 1\n/* #undef WITH_X */\n{}\n",
            many.join("\n")
        );
        let mut variables = BTreeMap::from([
            ("SIZEOF_LONG".to_owned(), Value::from(4)),
            ("HAVE_FORK".to_owned(), Value::from(0)),
            ("WITH_X".to_owned(), Value::from("\"x\"")),
            ("OTHER".to_owned(), Value::from(1)),
        ]);
        variables.extend((0..120).map(|n| (format!("HAVE_{n}"), Value::from(1))));
        let text = configuration(&template, &variables).unwrap();
        assert!(text.contains("#define SIZEOF_LONG 4\n#define WITH_X \"x\"\n"), "{text}");
        assert!(!text.contains("HAVE_FORK") && !text.contains("OTHER"), "{text}");
    }

    #[test]
    fn a_configuration_without_values_is_an_error() {
        assert!(configuration("#define HAVE_FORK 1\n", &BTreeMap::new()).is_err());
    }
}
