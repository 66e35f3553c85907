//! The validated configuration of a run, created once from the command line.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use isola::{Args, HttpClient, Language, Limits, Mount, Permission, Runtime, Value};

use crate::{cli::RunArgs, failure::Failure, output_dir::OutputDir, snapshot, source::Script};

/// The configuration of `isola run`.
pub struct RunConfig {
    pub runtime: Runtime,
    pub prelude: Option<Script>,
    pub script: Script,
    pub call: CallSpec,
    pub mounts: Vec<Mount>,
    pub env: Vec<(String, String)>,
    /// The arguments of the script.
    pub arguments: Vec<String>,
    pub http: Option<HttpClient>,
    pub limits: Limits,
    /// The snapshot to start from.
    pub from_snapshot: Option<PathBuf>,
    /// The file to which a snapshot is saved after the script.
    pub save_snapshot: Option<PathBuf>,
    /// The wall time limit of the complete run.
    pub timeout: Option<Duration>,
    /// The directory to which the files of the sandbox are written.
    pub output: Option<OutputDir>,
}

/// The function to call after the script was loaded.
pub struct CallSpec {
    pub function: String,
    pub args: Args,
    /// True if the user requested a call. Otherwise the function may be missing.
    pub is_requested: bool,
}

impl RunConfig {
    pub fn check(args: RunArgs) -> Result<Self, Failure> {
        let mut limits = Limits::default();
        if let Some(bytes) = args.max_memory {
            limits.max_memory = bytes;
        }
        if let Some(bytes) = args.max_storage {
            limits.max_storage = bytes;
        }
        if let Some(time) = args.cpu_timeout {
            limits.cpu_timeout = Some(time);
        }
        // Options that need no file are checked first, so that a wrong option is
        // reported before a script is read from standard input.
        let runtime = runtime(args.runtime.as_deref(), &args.file)?;
        let call = call(args.function, &args.args, &args.kwargs)?;
        let mut mounts =
            args.mounts.iter().map(|text| mount(text)).collect::<Result<Vec<_>, _>>()?;
        let mut env = args.env.iter().map(|text| variable(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(dir) = &args.site_packages {
            mount_site_packages(runtime, dir, &mut mounts, &mut env)?;
        }
        let http = http(&args.allow_http)?;
        let from_snapshot =
            args.from_snapshot.as_deref().map(snapshot::existing_path).transpose()?;
        let save_snapshot = args.save_snapshot.as_deref().map(snapshot::new_path).transpose()?;
        let prelude = args.prelude.as_deref().map(Script::read).transpose()?;
        let script = Script::read(&args.file)?;
        let timeout = args.timeout;
        if args.output.is_some() && limits.max_storage == 0 {
            return Err(Failure::usage("--output: with --max-storage 0 the script has no files"));
        }
        let output = args.output.as_deref().map(OutputDir::open).transpose()?;
        Ok(Self {
            runtime,
            prelude,
            script,
            call,
            mounts,
            env,
            arguments: args.arguments,
            http,
            limits,
            from_snapshot,
            save_snapshot,
            timeout,
            output,
        })
    }
}

fn runtime(name: Option<&str>, file: &Path) -> Result<Runtime, Failure> {
    if let Some(name) = name {
        return parse_runtime(name);
    }
    match file.extension().and_then(OsStr::to_str) {
        Some("py") => Ok(Runtime::Python),
        Some("js" | "mjs" | "cjs" | "ts" | "mts" | "cts") => Ok(Runtime::JavaScript),
        _ if file == Path::new("-") => {
            Err(Failure::usage("the language of a script from standard input is not known")
                .hint(format!("add {RUNTIME_OPTIONS}")))
        }
        _ => Err(Failure::usage(format!(
            "the language of {} cannot be determined from its file extension",
            file.display()
        ))
        .hint(format!("add {RUNTIME_OPTIONS}"))),
    }
}

/// The option that selects a runtime, with each of its values.
const RUNTIME_OPTIONS: &str = "--runtime python, --runtime python-data or --runtime js";

/// Returns the runtime with this name.
pub fn parse_runtime(name: &str) -> Result<Runtime, Failure> {
    let runtime = match name {
        "javascript" => Runtime::JavaScript,
        name => name.parse().map_err(|_| {
            Failure::usage(format!("there is no runtime {name:?}"))
                .hint(format!("use {RUNTIME_OPTIONS}"))
        })?,
    };
    check_installed(runtime)?;
    Ok(runtime)
}

/// Returns the runtime of `isola mcp --python-runtime`.
pub fn parse_python_runtime(name: &str) -> Result<Runtime, Failure> {
    let runtime = name.parse::<Runtime>().ok();
    let runtime = runtime.filter(|runtime| runtime.language() == Language::Python);
    let runtime = runtime.ok_or_else(|| {
        Failure::usage(format!("--python-runtime {name:?} is not a runtime of Python"))
            .hint("use --python-runtime python or --python-runtime python-data")
    })?;
    check_installed(runtime)?;
    Ok(runtime)
}

/// Refuses a runtime that is not installed with this command, unless it is found.
fn check_installed(runtime: Runtime) -> Result<(), Failure> {
    if runtime != Runtime::PythonData {
        return Ok(());
    }
    let found = runtime.resolve(None).map(drop);
    found.map_err(|error| {
        Failure::usage(error.to_string()).hint(
            "this runtime is installed separately: unpack isola-python-data.tar.gz of the release \
             into one of these directories",
        )
    })
}

fn call(function: Option<String>, args: &[String], kwargs: &[String]) -> Result<CallSpec, Failure> {
    let is_requested = function.is_some() || !args.is_empty() || !kwargs.is_empty();
    let mut list = Args::new();
    for (index, text) in args.iter().enumerate() {
        let number = if args.len() > 1 { format!(" number {}", index + 1) } else { String::new() };
        list = list.push(&json(&format!("--arg{number}"), text)?);
    }
    let mut names: Vec<&str> = Vec::new();
    for text in kwargs {
        let (name, value) =
            text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Failure::usage(format!("--kwarg {text:?} has no name"))
                    .hint("write it as NAME=JSON, as in --kwarg year=2025")
            })?;
        if names.contains(&name) {
            return Err(Failure::usage(format!("--kwarg {name} is given twice")));
        }
        names.push(name);
        list = list.named(name, &json(&format!("--kwarg {name}"), value)?);
    }
    Ok(CallSpec {
        function: function.unwrap_or_else(|| "main".to_owned()),
        args: list,
        is_requested,
    })
}

fn json(option: &str, text: &str) -> Result<Value, Failure> {
    // The parser's error contains the position; the library's error would repeat
    // the rest of this message.
    serde_json::from_str(text).map_err(|error| {
        let failure = Failure::usage(format!("{option} is not JSON: {error}, in {text}"));
        if text.starts_with(|c: char| c.is_alphabetic() || c == '\'') {
            failure.hint("put a string in double quotes, as in --arg '\"text\"'")
        } else {
            failure
        }
    })
}

pub fn mount(text: &str) -> Result<Mount, Failure> {
    let refuse = |why: &str| {
        Failure::usage(format!("--mount {text}: {why}"))
            .hint("write it as HOST:GUEST[:ro|rw], as in --mount ./data:/data")
    };
    let (paths, permission) = match text.rsplit_once(':') {
        Some((paths, "ro")) => (paths, Permission::Read),
        Some((paths, "rw")) => (paths, Permission::ReadWrite),
        _ => (text, Permission::Read),
    };
    let (host, guest) = paths.rsplit_once(':').ok_or_else(|| refuse("two paths are needed"))?;
    if host.is_empty() {
        return Err(refuse("the host directory is missing"));
    }
    if !guest.starts_with('/') {
        return Err(refuse(&format!("{guest:?} is neither an absolute path nor ro or rw")));
    }
    check_directory(Path::new(host)).map_err(|why| refuse(&why))?;
    Ok(Mount::new(host, guest).dir_perms(permission).file_perms(permission))
}

/// Mounts a directory of Python packages and adds it to `PYTHONPATH`.
pub fn mount_site_packages(
    runtime: Runtime,
    dir: &Path,
    mounts: &mut Vec<Mount>,
    env: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    const GUEST_PATH: &str = "/site-packages";
    let shown = dir.display();
    let refuse = |why: &str| Failure::usage(format!("--site-packages {shown}: {why}"));
    if runtime.language() != Language::Python {
        return Err(refuse("only Python has packages"));
    }
    check_directory(dir).map_err(|why| {
        refuse(&why).hint("give a directory created by `pip install --target DIR ...`")
    })?;
    mounts.push(Mount::new(dir, GUEST_PATH));
    match env.iter_mut().find(|(name, _)| name == "PYTHONPATH") {
        Some((_, path)) => *path = format!("{path}:{GUEST_PATH}"),
        None => env.push(("PYTHONPATH".to_owned(), GUEST_PATH.to_owned())),
    }
    Ok(())
}

/// Returns an error message unless the path is a directory.
fn check_directory(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is not a directory", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

pub fn variable(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("--env {text:?} has no name and value"))
            .hint("write it as NAME=VALUE; the script sees no variable of this shell")),
    }
}

pub fn http(hosts: &[String]) -> Result<Option<HttpClient>, Failure> {
    if hosts.is_empty() {
        return Ok(None);
    }
    let client = if hosts.iter().any(|host| host == "all") {
        HttpClient::allow_all()
    } else {
        HttpClient::allow(hosts)
    };
    client.map(Some).map_err(|error| match error {
        isola::Error::InvalidArgument(why) => Failure::usage(format!("--allow-http: {why}")),
        other => other.into(),
    })
}
