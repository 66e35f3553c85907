//! `cargo xtask guests`: builds the guest components, reproducibly.
//!
//! A build sees nothing but a folder into which all its inputs were copied
//! (`target/guests/<name>/`), relative paths and a fixed environment. The Python
//! builder is shielded from the rest of the machine, too: see `still.c`. The
//! digest of that folder and of the builder decides whether there is anything to
//! do.

mod fuse;
mod interpreter;
mod libc;
mod still;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::digest::{self, Inputs};
use crate::{process, progress, setup, wit, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Only this guest
    #[arg(value_enum)]
    guest: Option<Guest>,
    /// Build even if nothing changed
    #[arg(long)]
    force: bool,
    /// Build twice, in different folders, and fail if the results differ
    #[arg(long)]
    verify: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Guest {
    Python,
    Js,
}

/// When every build takes place: 2020-01-01.
const EPOCH: u64 = 1_577_836_800;

pub fn run(args: &Args) -> Result<()> {
    let _lock = workspace::lock()?;
    let guests = match &args.guest {
        Some(guest) => std::slice::from_ref(guest),
        None => Guest::value_variants(),
    };
    let mut differ = Vec::new();
    for &guest in guests {
        if args.verify && !verify(guest)? {
            differ.push(guest.name());
        } else if !args.verify {
            build_if_stale(guest, args.force)?;
        }
    }
    if !differ.is_empty() {
        bail!("not reproducible: {}", differ.join(", "));
    }
    Ok(())
}

/// Makes sure that both guests are there and current.
pub fn ensure() -> Result<()> {
    let _lock = workspace::lock()?;
    for &guest in Guest::value_variants() {
        build_if_stale(guest, false)?;
    }
    Ok(())
}

impl Guest {
    fn name(self) -> &'static str {
        match self {
            Guest::Python => "python",
            Guest::Js => "js",
        }
    }

    /// What is copied from `guests/<name>/` beside the WIT packages.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Guest::Python => &["src"],
            Guest::Js => &["src", "build.mjs"],
        }
    }
}

enum Builder {
    Python { tools: setup::PythonBuilder, still: Option<PathBuf> },
    Js(setup::JsBuilder),
}

impl Builder {
    fn of(guest: Guest) -> Result<Builder> {
        Ok(match guest {
            Guest::Python => {
                Builder::Python { tools: setup::python_builder()?, still: still::library()? }
            }
            // `build.mjs` sees to it itself that its world is still.
            Guest::Js => Builder::Js(setup::js_builder()?),
        })
    }

    fn digest(&self) -> String {
        match self {
            Builder::Python { tools, still } => Inputs::default()
                .text("tools", &tools.digest)
                .text("still", &still.as_ref().map_or(String::new(), |_| still::digest()))
                .text("fuse", &fuse::digest())
                .text("interpreter", interpreter::SOURCE)
                .text("libc", &libc::digest())
                .finish(),
            Builder::Js(tools) => tools.digest.clone(),
        }
    }

    /// The build of what `stage` put into a folder, into a file in that folder.
    fn command(&self, output: &str) -> Command {
        match self {
            Builder::Python { tools, still } => {
                let mut command = hermetic(&tools.componentize_py);
                command.args(["-d", "wit", "-w", "guest", "componentize", "app"]);
                command.args(["-p", "src", "-p", "site"]);
                command.args(["-o", output]);
                // Without it the builder would ask the machine's own Python where
                // its packages are, and show them all to the guest.
                command.env("VIRTUAL_ENV", "no-site-packages");
                if let Some(still) = still {
                    command.env("LD_PRELOAD", still);
                }
                command
            }
            Builder::Js(tools) => {
                let mut command = hermetic(&tools.node);
                command.args(["build.mjs", "--wit", "wit", "--out", output]);
                command.env("ISOLA_JS_TOOLS", &tools.tools);
                command
            }
        }
    }
}

fn build_if_stale(guest: Guest, force: bool) -> Result<()> {
    let builder = Builder::of(guest)?;
    let name = guest.name();
    let folder = workspace::runtimes().join(name);
    let output = workspace::runtimes().join(format!("{name}.wasm"));
    let stamp = workspace::runtimes().join(format!("{name}.digest"));

    stage(guest, &builder, &folder)?;
    let digest = Inputs::default()
        .text("builder", &builder.digest())
        .text("command", &arguments(&builder.command("out.wasm")))
        .tree(&folder)?
        .finish();
    let current = fs::read_to_string(&stamp).is_ok_and(|text| text == digest);
    if current && output.exists() && !force {
        return Ok(());
    }

    progress::step(&format!("building the {name} guest"), || {
        build(guest, &builder, &folder, &output)?;
        fs::write(&stamp, &digest).with_context(|| format!("cannot write {}", stamp.display()))
    })?;
    eprintln!("    target/guests/{name}.wasm, {}", megabytes(&output)?);
    Ok(())
}

/// Builds twice and says whether the results are the same. The second build is
/// made in another folder, to find paths that get into the component.
fn verify(guest: Guest) -> Result<bool> {
    let builder = Builder::of(guest)?;
    let name = guest.name();
    let base = workspace::runtimes().join("verify");
    let here = base.join(name);
    let elsewhere = base.join("elsewhere").join(name);
    stage(guest, &builder, &here)?;
    clear(&elsewhere)?;
    copy(&here, &elsewhere)?;

    let mut digests = Vec::new();
    for (label, folder) in [("first", here), ("second", elsewhere)] {
        let output = base.join(format!("{name}-{label}.wasm"));
        progress::step(&format!("building the {name} guest, {label} time"), || {
            build(guest, &builder, &folder, &output)
        })?;
        let digest = digest::of_file(&output)?;
        println!("{name} {label}: sha256 {digest}, {}", megabytes(&output)?);
        digests.push(digest);
    }
    let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
    let verdict = if same { "the same, bit for bit" } else { "DIFFERENT" };
    println!("{name}: {verdict}");
    Ok(same)
}

/// Copies all that a build needs into a folder of its own.
fn stage(guest: Guest, builder: &Builder, folder: &Path) -> Result<()> {
    let source = workspace::root().join("guests").join(guest.name());
    clear(folder)?;
    wit::assemble(&source.join("wit/world.wit"), &folder.join("wit"))?;
    for name in guest.sources() {
        copy(&source.join(name), &folder.join(name))?;
    }
    if let Builder::Python { tools, .. } = builder {
        copy_python(&tools.bundled, &folder.join("site"))?;
    }
    Ok(())
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Runs the builder and puts its result into place in one step, so that nobody
/// ever finds half a component.
fn build(guest: Guest, builder: &Builder, folder: &Path, output: &Path) -> Result<()> {
    const UNFINISHED: &str = "unfinished.wasm";
    // With random numbers that repeat, the names of scratch files repeat too:
    // each build gets a place of its own for them.
    let scratch = folder.with_extension("tmp");
    clear(&scratch)?;
    let mut command = builder.command(UNFINISHED);
    command.current_dir(folder).env("TMPDIR", &scratch);
    process::quiet(command)?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    let unfinished = folder.join(UNFINISHED);
    if let Guest::Python = guest {
        let mut linked = fs::read(&unfinished).context("the builder left nothing")?;
        libc::mend_tables(&mut linked)?;
        let fused = fuse::fuse(&linked, &interpreter::CPYTHON, &libc::FUNCTIONS)
            .context("the guest's libraries cannot be fused")?;
        fs::write(&unfinished, fused)
            .with_context(|| format!("cannot write {}", unfinished.display()))?;
    }
    fs::rename(&unfinished, output)
        .with_context(|| format!("the builder left nothing for {}", output.display()))
}

fn arguments(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    args.join(" ")
}

/// A command with nothing in its environment that could change from one machine
/// or day to the next.
fn hermetic(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    // Builders start helpers of their own.
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    command
}

/// Copies the Python files of installed packages, what says which they are, and
/// the time zones, which are data.
fn copy_python(from: &Path, to: &Path) -> Result<()> {
    for path in digest::files(from)? {
        let is_python = path.extension().is_some_and(|extension| extension == "py");
        let is_zone = path.starts_with("tzdata");
        if is_left_behind(&path) || !(is_python || is_zone || path.ends_with("METADATA")) {
            continue;
        }
        copy(&from.join(&path), &to.join(&path))?;
    }
    Ok(())
}

/// Copies a file, or a folder without what a run of it leaves behind.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(());
    }
    for path in digest::files(from)? {
        if is_left_behind(&path) {
            continue;
        }
        copy(&from.join(&path), &to.join(&path))?;
    }
    Ok(())
}

fn is_left_behind(path: &Path) -> bool {
    const NAMES: [&str; 3] = ["__pycache__", ".stamp", "bin"];
    path.components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name))
}

fn megabytes(path: &PathBuf) -> Result<String> {
    let bytes = fs::metadata(path).with_context(|| format!("no {}", path.display()))?.len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_caches_behind() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        for name in ["app.py", "pkg/a.py", "pkg/__pycache__/a.pyc", ".stamp"] {
            let path = from.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        copy(from.path(), to.path()).unwrap();
        let copied = digest::files(to.path()).unwrap();
        assert_eq!(copied, [Path::new("app.py"), Path::new("pkg/a.py")]);
    }

    #[test]
    fn a_build_does_not_see_the_environment() {
        let command = hermetic(Path::new("true"));
        let names: Vec<_> = command.get_envs().map(|(name, _)| name).collect();
        assert!(!names.iter().any(|name| *name == "CARGO"));
        assert!(names.iter().any(|name| *name == "SOURCE_DATE_EPOCH"));
    }
}
