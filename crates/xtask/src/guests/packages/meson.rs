//! Builds a package by meson, for a machine that is not this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::recipe::MesonBuild;
use super::{Tools, compiler};
use crate::guests::{copy, hermetic};
use crate::process;

/// The directory of packages below the prefix of an installation.
const SITE: &str = "lib/python3.14/site-packages";

/// The end of the names of native modules.
pub const SUFFIX: &str = ".cpython-314-wasm32-wasi.so";

/// Builds the package in `source`, and copies its files into `files`.
pub fn build(
    build: &MesonBuild,
    tools: &Tools,
    dir: &Path,
    source: &Path,
    files: &Path,
    needed: &[PathBuf],
) -> Result<()> {
    let scratch = dir.join("meson");
    fs::create_dir_all(&scratch)?;
    let python = write_python(tools, &scratch)?;
    let cross = scratch.join("cross.ini");
    fs::write(&cross, cross_file(build, tools, dir, &scratch, &python, needed)?)?;
    let command = || command(tools, &scratch, needed);

    let objects = scratch.join("objects");
    let mut meson = command();
    match &build.program {
        Some(program) => {
            meson.arg(tools.packages.bin.join("python"));
            meson.arg(source.join(program));
        }
        None => {
            meson.arg(tools.packages.bin.join("meson"));
        }
    }
    meson.arg("setup").arg(&objects).arg(source).arg("--cross-file").arg(&cross);
    meson.args(["--buildtype", "release", "--prefix", "/usr", "-Db_ndebug=true"]);
    meson.args(["--wrap-mode", "nodownload"]);
    meson.args(&build.options);
    process::run_quiet(meson).context("meson cannot configure it")?;

    let mut ninja = command();
    ninja.arg(tools.packages.bin.join("ninja")).arg("-C").arg(&objects).arg("--quiet");
    compile(ninja)?;

    let installed = scratch.join("installed");
    let mut install = command();
    install.arg(tools.packages.bin.join("ninja")).arg("-C").arg(&objects).arg("install");
    install.env("DESTDIR", &installed);
    process::run_quiet(install).context("ninja cannot install it")?;
    copy(&installed.join("usr").join(SITE), files)?;
    remove_paths(dir, files)?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Runs ninja. Its error is that of the first command that failed.
fn compile(ninja: Command) -> Result<()> {
    let captured = process::capture(ninja)?;
    if !captured.status.success() {
        let failed = captured.text.find("FAILED:").unwrap_or(0);
        let lines: Vec<&str> = captured.text[failed..].lines().take(20).collect();
        bail!("ninja cannot compile it:\n{}", lines.join("\n"));
    }
    Ok(())
}

/// Creates a command with the installed tools on its search path. The program is its first
/// argument.
fn command(tools: &Tools, scratch: &Path, needed: &[PathBuf]) -> Command {
    let mut command = hermetic(Path::new("/usr/bin/env"));
    let mut path = vec![tools.packages.bin.clone()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    if let Ok(path) = std::env::join_paths(path) {
        command.env("PATH", path);
    }
    if let Ok(packages) = std::env::join_paths(needed) {
        // Cython finds the declarations of other packages there.
        command.env("PYTHONPATH", packages);
    }
    command.current_dir(scratch);
    command
}

/// Writes the program that meson takes for the Python of the target: it tells about the
/// target, and runs scripts by this machine's.
fn write_python(tools: &Tools, scratch: &Path) -> Result<PathBuf> {
    let answer = scratch.join("python.json");
    fs::write(&answer, description(tools).to_string())?;
    let program = scratch.join("python");
    let quoted = |path: &Path| format!("'{}'", path.display());
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n*/python_info.py) exec cat {};;\nesac\nexec {} \"$@\"\n",
        quoted(&answer),
        quoted(&tools.packages.bin.join("python"))
    );
    fs::write(&program, script)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(program)
}

/// Describes the target's Python as meson's own script would.
fn description(tools: &Tools) -> Value {
    let include = tools.headers.include.to_string_lossy();
    let mut variables = tools.headers.variables.clone();
    for name in ["LIBPYTHON", "LIBDIR", "LIBPC"] {
        variables.insert(name.into(), "".into());
    }
    let paths = json!({
        "data": "/usr",
        "include": include,
        "platinclude": include,
        "platlib": format!("/usr/{SITE}"),
        "platstdlib": "/usr/lib/python3.14",
        "purelib": format!("/usr/{SITE}"),
        "scripts": "/usr/bin",
        "stdlib": "/usr/lib/python3.14",
    });
    let install_paths = json!({
        "data": "",
        "include": "/include",
        "platinclude": "/include",
        "platlib": format!("/{SITE}"),
        "platstdlib": "/lib/python3.14",
        "purelib": format!("/{SITE}"),
        "scripts": "/bin",
        "stdlib": "/lib/python3.14",
    });
    json!({
        "variables": variables,
        "paths": paths,
        "sysconfig_paths": paths,
        "install_paths": install_paths,
        "version": "3.14",
        "platform": "wasi-wasm32",
        "is_pypy": false,
        "is_venv": false,
        "is_freethreaded": false,
        "link_libpython": false,
        "suffix": SUFFIX,
        "limited_api_suffix": ".abi3.so",
    })
}

/// Describes the target to meson.
fn cross_file(
    build: &MesonBuild,
    tools: &Tools,
    dir: &Path,
    scratch: &Path,
    python: &Path,
    needed: &[PathBuf],
) -> Result<String> {
    let cache = scratch.join("zig-cache");
    let list = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        format!("[{}]", words.join(", "))
    };
    let program =
        |command: &str| -> Result<String> { Ok(list(&compiler::words(tools, &cache, command)?)) };
    // No object may contain the path of the sources.
    let map = format!("-ffile-prefix-map={}=.", dir.display());
    let include = format!("-I{}", tools.headers.include.display());
    let options = list(&[map, include]);
    let packages: Vec<_> = needed.iter().map(|dir| dir.display().to_string()).collect();
    let properties: Vec<_> = build
        .properties
        .iter()
        .map(|line| line.replace("{files}", packages.first().map_or("", String::as_str)))
        .collect();
    Ok(format!(
        "[binaries]\nc = {}\ncpp = {}\nar = {}\nstrip = ['true']\npython = '{}'\ncython = '{}'\n\
         [built-in options]\nc_args = {}\ncpp_args = {}\n\
         [host_machine]\nsystem = 'wasi'\ncpu_family = 'wasm32'\ncpu = 'wasm32'\n\
         endian = 'little'\n\
         [properties]\nneeds_exe_wrapper = true\nskip_sanity_check = true\n{}\n",
        program("cc")?,
        program("c++")?,
        program("ar")?,
        python.display(),
        tools.packages.bin.join("cython").display(),
        options,
        options,
        properties.join("\n"),
    ))
}

/// Removes the paths of this machine from the files that describe the build.
fn remove_paths(dir: &Path, files: &Path) -> Result<()> {
    let here = dir.display().to_string();
    for path in crate::digest::files(files)? {
        let path = files.join(path);
        if path.extension().is_some_and(|extension| extension == "py") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            if text.contains(&here) {
                fs::write(&path, text.replace(&here, "/build"))?;
            }
        }
    }
    Ok(())
}
