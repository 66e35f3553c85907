//! The compiler that a build system of a package calls.
//!
//! A build system expects a compiler that links a shared library like one of Linux. Zig
//! links none for WebAssembly, so this program stands between the two: it compiles by Zig's
//! compilers, and calls the linker itself.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Tools, support};
use crate::guests::native_modules;
use crate::process;

/// The options of all packages. Libraries of C++ throw no exceptions: a merged module
/// cannot catch them.
const COMPILE: [&str; 8] = [
    "-target",
    "wasm32-wasi",
    "-fPIC",
    "-g0",
    "-msimd128",
    "-fno-sanitize=all",
    "-D_GNU_SOURCE",
    // The warnings are those of another project.
    "-w",
];

#[derive(clap::Args)]
pub struct CompilerArgs {
    /// The program of Zig
    zig: PathBuf,
    /// Its directory for temporary files
    cache: PathBuf,
    /// The directory of the libraries of the compiler
    support: PathBuf,
    /// Its command: `cc`, `c++` or `ar`
    command: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Compiles or links, as a compiler with these arguments would.
pub fn run(args: &CompilerArgs) -> Result<()> {
    let arguments = expanded(&args.arguments)?;
    let mut command = if arguments.iter().any(|argument| argument == "-shared") {
        linker(args, &arguments)?
    } else {
        let mut command = native_modules::zig(&args.zig, &args.command);
        if args.command != "ar" {
            command.args(COMPILE);
        }
        command.args(&arguments);
        command
    };
    command.env("ZIG_GLOBAL_CACHE_DIR", &args.cache).env("ZIG_LOCAL_CACHE_DIR", &args.cache);
    process::run(command)
}

/// Replaces `@FILE` by the arguments in the file.
fn expanded(arguments: &[OsString]) -> Result<Vec<OsString>> {
    let mut expanded = Vec::new();
    for argument in arguments {
        match argument.to_str().and_then(|text| text.strip_prefix('@')) {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the arguments in {file}"))?;
                expanded.extend(text.split_whitespace().map(OsString::from));
            }
            None => expanded.push(argument.clone()),
        }
    }
    Ok(expanded)
}

/// Creates the command that links a native module.
fn linker(args: &CompilerArgs, arguments: &[OsString]) -> Result<Command> {
    let ends = |argument: &&OsString, end: &str| {
        Path::new(argument).extension().is_some_and(|extension| extension == OsStr::new(end))
    };
    let output = arguments.iter().position(|argument| argument == "-o");
    let output = output.and_then(|at| arguments.get(at + 1)).context("no output is given")?;
    let mut command = native_modules::zig(&args.zig, "wasm-ld");
    command.args(native_modules::LINK);
    command.args(arguments.iter().filter(|argument| ends(argument, "o")));
    // The linker searches all archives again, so their order does not matter.
    command.args(arguments.iter().filter(|argument| ends(argument, "a")));
    command.args(support::ARCHIVES.map(|name| args.support.join(name)));
    command.arg("-o").arg(output);
    Ok(command)
}

/// Returns the words of a compiler's command, without its arguments.
pub fn words(tools: &Tools, cache: &Path, command: &str) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![
        text(&program),
        "wasm-compiler".to_owned(),
        text(&tools.compiler.zig),
        text(cache),
        text(&tools.support),
        command.to_owned(),
    ])
}
