//! `cargo xtask bench programs`: the speed of Python programs in the guest, in comparison
//! with native CPython and with Pyodide in Node.js.
//!
//! Each engine runs the same Python code, `programs/adapter.py`, in a new process for each
//! measurement, and prints what the adapter measured inside. The engines take turns, so that
//! other work of the machine affects all of them; the figure of an engine is its fastest.

mod list;
mod table;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::list::{PROGRAMS, Program};
use self::table::{Comparison, Measurement};
use crate::{debian, guests, process, progress, setup, workspace};

const ADAPTER: &str = include_str!("../../programs/adapter.py");
const PYODIDE: &str = include_str!("../../programs/pyodide.mjs");

/// The directory of the packages in a sandbox and in Pyodide.
const MOUNT: &str = "/programs";

#[derive(clap::Args)]
pub struct ProgramsArgs {
    /// Measure only the programs whose name contains this
    program: Option<String>,
    /// A build of the Python guest to measure, instead of that of this checkout; repeat it
    /// to compare several
    #[arg(long = "guest", value_name = "FILE.wasm")]
    guests: Vec<PathBuf>,
    /// How often each engine runs each program; the fastest counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// A way to run Python code.
struct Engine {
    name: String,
    kind: EngineKind,
}

enum EngineKind {
    /// A command, and its first arguments.
    Native(Vec<OsString>),
    /// The command `isola`, the directory of a runtime, and one with the adapter and a
    /// directory for temporary files.
    Guest { isola: PathBuf, runtime: PathBuf, dir: PathBuf },
    /// Node.js, and the path of Pyodide's module.
    Pyodide { node: PathBuf, module: PathBuf },
}

pub fn run(args: &ProgramsArgs) -> Result<()> {
    let filter = args.program.as_deref().unwrap_or_default();
    let programs: Vec<_> = PROGRAMS.iter().filter(|it| it.name.contains(filter)).collect();
    if programs.is_empty() {
        bail!("no program has a name that contains {filter:?}");
    }
    let packages = setup::programs()?;
    let engines = engines(&args.guests)?;
    let mut table = Comparison::new(engines.iter().map(|engine| engine.name.clone()).collect());
    let mut failures = Vec::new();
    for program in programs {
        let measured = progress::step(program.name, || {
            Ok(measure(program, &engines, args.rounds as usize, &packages))
        })?;
        let cells = measured.into_iter().enumerate().map(|(engine, result)| {
            let name = &engines[engine].name;
            result.map_err(|error| failures.push(format!("{} in {name}: {error:#}", program.name)))
        });
        table.add(program.name, cells.map(Result::ok).collect());
    }
    print!("\n{table}");
    if !failures.is_empty() {
        bail!("{} measurements failed:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

/// Measures a program in all engines, in turns. An engine that fails is not tried again.
fn measure(
    program: &Program,
    engines: &[Engine],
    rounds: usize,
    packages: &Path,
) -> Vec<Result<Measurement>> {
    let mut fastest: Vec<Option<Result<Measurement>>> = engines.iter().map(|_| None).collect();
    for round in 0..rounds {
        for turn in 0..engines.len() {
            // Each round begins with another engine.
            let engine = (round + turn) % engines.len();
            let slot = &mut fastest[engine];
            *slot = Some(match slot.take() {
                Some(Err(error)) => Err(error),
                before => engines[engine].run(program, packages).map(|now| match before {
                    Some(Ok(before)) if before.seconds <= now.seconds => before,
                    _ => now,
                }),
            });
        }
    }
    fastest.into_iter().flatten().collect()
}

/// Prepares the engines; native CPython, with which the others are compared, is the first.
fn engines(guests: &[PathBuf]) -> Result<Vec<Engine>> {
    let native = native_python()?;
    let mut engines = vec![Engine { name: "native".to_owned(), kind: EngineKind::Native(native) }];
    let isola = isola()?;
    let dir = workspace::root().join("target/programs");
    fs::create_dir_all(dir.join("tmp"))?;
    fs::write(dir.join("adapter.py"), ADAPTER)?;
    let mut add = |name: &str, runtime: PathBuf| {
        let kind = EngineKind::Guest { isola: isola.clone(), runtime, dir: dir.clone() };
        engines.push(Engine { name: name.to_owned(), kind });
    };
    if guests.is_empty() {
        guests::ensure()?;
        add("isola", workspace::runtimes());
    }
    for (index, guest) in guests.iter().enumerate() {
        // The command takes a directory, in which the file has this name.
        let runtime = dir.join(format!("guest-{index}"));
        fs::create_dir_all(&runtime)?;
        fs::copy(guest, runtime.join("python.wasm"))
            .with_context(|| format!("cannot copy {}", guest.display()))?;
        add(&guest.with_extension("").display().to_string(), runtime);
    }
    let module = setup::node_competitors()?.join("pyodide/pyodide.mjs");
    let kind = EngineKind::Pyodide { node: setup::node()?.node, module };
    engines.push(Engine { name: "Pyodide".to_owned(), kind });
    Ok(engines)
}

/// Returns the command of Debian's newest CPython of the guest's version, or of the
/// machine's own Python if Debian has none.
fn native_python() -> Result<Vec<OsString>> {
    match debian::newest_python(setup::GUEST_PYTHON_VERSION) {
        Ok(command) => Ok(command),
        Err(error) => {
            eprintln!("==> comparing with the machine's own Python, because: {error:#}");
            Ok(vec![setup::python()?.program.into()])
        }
    }
}

/// Returns an option's value that mounts a directory at a path of the guest.
fn mount(host: &Path, guest: &str) -> OsString {
    let mut mount = host.as_os_str().to_owned();
    mount.push(":");
    mount.push(guest);
    mount
}

/// Builds the command with optimizations, and returns its path.
fn isola() -> Result<PathBuf> {
    eprintln!("==> cargo build of isola-cli");
    process::run(process::cargo(&["build", "--profile", "bench", "-p", "isola-cli"]))?;
    Ok(workspace::cargo_target()?.join("release/isola"))
}

impl Engine {
    /// Measures a program once.
    fn run(&self, program: &Program, packages: &Path) -> Result<Measurement> {
        let arguments = [program.directory, program.function].into_iter().chain(
            // The names of options and values contain no spaces.
            program.arguments.split_whitespace(),
        );
        let mut command;
        match &self.kind {
            EngineKind::Native(python) => {
                command = Command::new(&python[0]);
                // Isolated from the environment, and without writing bytecode.
                command.args(&python[1..]).args(["-I", "-B", "-c"]);
                command.arg(format!("{ADAPTER}\nmeasure(*sys.argv[1:])\n"));
                command.arg(packages).args(arguments);
            }
            EngineKind::Guest { isola, runtime, dir } => {
                command = Command::new(isola);
                command.arg("run").arg(dir.join("adapter.py")).args(["--function", "measure"]);
                command.args(["--max-memory", "1G", "--cpu-timeout", "10m"]);
                command.arg("--mount").arg(mount(packages, MOUNT));
                command.arg("--mount").arg(mount(&dir.join("tmp"), "/tmp:rw"));
                for argument in [MOUNT].into_iter().chain(arguments) {
                    command.args(["--arg", &format!("\"{argument}\"")]);
                }
                command.env("ISOLA_RUNTIME_DIR", runtime);
            }
            EngineKind::Pyodide { node, module } => {
                command = Command::new(node);
                command.args(["--input-type=module", "-e", PYODIDE]).arg(module).arg(ADAPTER);
                command.arg(packages).arg(MOUNT).args(arguments);
            }
        }
        let captured = process::capture(command)?;
        if !captured.status.success() {
            bail!("{}", process::tail(&captured.text, 5));
        }
        Measurement::parse(&captured.text)
    }
}
