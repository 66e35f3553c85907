//! What is to be run: the command line, checked once.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use isola::{Args, HttpClient, Limits, Mount, Permission, Runtime, Value};

use crate::{cli::RunArgs, failure::Failure, snapshot, source::Script};

/// A run that can be tried.
pub struct Config {
    pub runtime: Runtime,
    pub prelude: Option<Script>,
    pub script: Script,
    pub call: Call,
    pub mounts: Vec<Mount>,
    pub env: Vec<(String, String)>,
    pub http: Option<HttpClient>,
    pub limits: Limits,
    /// Where the interpreter comes from, and where it is kept.
    pub from_snapshot: Option<PathBuf>,
    pub save_snapshot: Option<PathBuf>,
    /// The wall time of the whole run.
    pub timeout: Option<Duration>,
}

pub struct Call {
    pub function: String,
    pub args: Args,
    /// Whether the user asked for a call. If not, a script may do without.
    pub is_wanted: bool,
}

impl Config {
    pub fn check(args: RunArgs) -> Result<Self, Failure> {
        let mut limits = Limits::default();
        if let Some(bytes) = args.max_memory {
            limits.max_memory = bytes;
        }
        if let Some(time) = args.cpu_timeout {
            limits.cpu_timeout = Some(time);
        }
        // What needs no file comes first: nobody wants to type a script into
        // standard input to hear then that an option is wrong.
        let runtime = runtime(args.runtime.as_deref(), &args.file)?;
        let call = call(args.function, &args.args, &args.kwargs)?;
        let mut mounts =
            args.mounts.iter().map(|text| mount(text)).collect::<Result<Vec<_>, _>>()?;
        let mut env = args.env.iter().map(|text| variable(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(folder) = &args.site_packages {
            show_packages(runtime, folder, &mut mounts, &mut env)?;
        }
        let http = http(&args.allow_http)?;
        let from_snapshot = args.from_snapshot.as_deref().map(snapshot::existing).transpose()?;
        let save_snapshot = args.save_snapshot.as_deref().map(snapshot::new).transpose()?;
        let prelude = args.prelude.as_deref().map(Script::read).transpose()?;
        let script = Script::read(&args.file)?;
        let timeout = args.timeout;
        Ok(Self {
            runtime,
            prelude,
            script,
            call,
            mounts,
            env,
            http,
            limits,
            from_snapshot,
            save_snapshot,
            timeout,
        })
    }
}

fn runtime(name: Option<&str>, file: &Path) -> Result<Runtime, Failure> {
    if let Some(name) = name {
        return named_runtime(name);
    }
    match file.extension().and_then(OsStr::to_str) {
        Some("py") => Ok(Runtime::Python),
        Some("js" | "mjs" | "cjs" | "ts" | "mts" | "cts") => Ok(Runtime::JavaScript),
        _ if file == Path::new("-") => Err(Failure::usage(
            "a script from standard input has no ending that tells its language",
        )
        .hint("add --runtime python or --runtime js")),
        _ => Err(Failure::usage(format!(
            "the ending of {} does not tell its language",
            file.display()
        ))
        .hint("add --runtime python or --runtime js")),
    }
}

pub fn named_runtime(name: &str) -> Result<Runtime, Failure> {
    match name {
        "javascript" => Ok(Runtime::JavaScript),
        name => name.parse().map_err(|_| {
            Failure::usage(format!("there is no runtime {name:?}"))
                .hint("use --runtime python or --runtime js")
        }),
    }
}

fn call(function: Option<String>, args: &[String], kwargs: &[String]) -> Result<Call, Failure> {
    let is_wanted = function.is_some() || !args.is_empty() || !kwargs.is_empty();
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
    Ok(Call { function: function.unwrap_or_else(|| "main".to_owned()), args: list, is_wanted })
}

fn json(option: &str, text: &str) -> Result<Value, Failure> {
    // The parser says where; the library's error would repeat what is said here.
    serde_json::from_str(text).map_err(|error| {
        let failure = Failure::usage(format!("{option} is not JSON: {error}, in {text}"));
        if text.starts_with(|c: char| c.is_alphabetic() || c == '\'') {
            failure.hint("a string keeps its double quotes, as in --arg '\"text\"'")
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
    let (folders, permission) = match text.rsplit_once(':') {
        Some((folders, "ro")) => (folders, Permission::Read),
        Some((folders, "rw")) => (folders, Permission::ReadWrite),
        _ => (text, Permission::Read),
    };
    let (host, guest) = folders.rsplit_once(':').ok_or_else(|| refuse("two paths are needed"))?;
    if host.is_empty() {
        return Err(refuse("the folder of the host is missing"));
    }
    if !guest.starts_with('/') {
        return Err(refuse(&format!("{guest:?} is neither an absolute path nor ro or rw")));
    }
    is_folder(Path::new(host)).map_err(|why| refuse(&why))?;
    Ok(Mount::new(host, guest).dir_perms(permission).file_perms(permission))
}

/// Mounts a folder of Python packages where the interpreter looks for modules.
pub fn show_packages(
    runtime: Runtime,
    folder: &Path,
    mounts: &mut Vec<Mount>,
    env: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    const SHOWN_AT: &str = "/site-packages";
    let shown = folder.display();
    let refuse = |why: &str| Failure::usage(format!("--site-packages {shown}: {why}"));
    if runtime != Runtime::Python {
        return Err(refuse("only Python has packages"));
    }
    is_folder(folder).map_err(|why| {
        refuse(&why).hint("give a folder that `pip install --target DIR ...` made")
    })?;
    mounts.push(Mount::new(folder, SHOWN_AT));
    match env.iter_mut().find(|(name, _)| name == "PYTHONPATH") {
        Some((_, path)) => *path = format!("{path}:{SHOWN_AT}"),
        None => env.push(("PYTHONPATH".to_owned(), SHOWN_AT.to_owned())),
    }
    Ok(())
}

/// The error says what is wrong with it.
fn is_folder(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is not a folder", path.display())),
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
