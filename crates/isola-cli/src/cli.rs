//! The command line as it is parsed by clap. `config` validates its values.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Run untrusted Python and JavaScript, isolated by WebAssembly
///
/// A script runs in an interpreter inside WebAssembly, in this process. It sees
/// no files of this machine, no network and no environment variables except those
/// that you pass to it, and its memory and CPU time are limited. Files that it
/// writes are in memory: see --output.
#[derive(Parser)]
#[command(name = "isola", version, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a Python or JavaScript file
    ///
    /// Loads the file, calls one of its functions and prints the value it returns.
    #[command(after_long_help = RUN_NOTES)]
    Run(Box<RunArgs>),

    /// Use a Python or JavaScript interpreter interactively, and copy it at any time
    ///
    /// All input runs in one persistent sandbox. `:fork` continues in a copy of it,
    /// `:save` and `:load` store it on disk, `:help` lists the other commands.
    #[command(after_long_help = REPL_NOTES)]
    Repl(Box<ReplArgs>),

    /// Serve the tools run_python and run_javascript to an agent, over standard input and output
    ///
    /// A server of the Model Context Protocol (MCP). Code runs in sessions: the
    /// variables of a session persist between calls.
    #[command(after_long_help = MCP_NOTES)]
    Mcp(Box<McpArgs>),

    /// List or clear the cache of compiled runtimes
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },

    /// List, show or remove named snapshots
    #[command(after_long_help = SNAPSHOT_NOTES)]
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },

    /// Print a completion script for a shell
    ///
    /// For bash: isola completions bash > ~/.local/share/bash-completion/completions/isola
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell that the script is for
        shell: Shell,
    },

    /// Print a man page in the format that `man -l -` reads
    Man {
        /// Print the page of this command, such as `run`, instead of the main page
        command: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum CacheCommand {
    /// List the compiled runtimes and their sizes
    Ls {
        /// Print one JSON object instead of a table; sizes are in bytes
        #[arg(long)]
        json: bool,
    },
    /// Remove the compiled runtimes; the next run compiles again
    Clear,
}

#[derive(Subcommand)]
pub enum SnapshotCommand {
    /// List the named snapshots and their sizes
    Ls {
        /// Print one JSON object instead of a table; sizes are in bytes
        #[arg(long)]
        json: bool,
    },
    /// Show the runtime, version and sizes of a snapshot
    Show {
        /// A name or the path of a file
        #[arg(value_name = "NAME|FILE")]
        snapshot: String,
        /// Print one JSON object; sizes are in bytes
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots
    Rm {
        /// Names or paths of files
        #[arg(value_name = "NAME|FILE", required = true)]
        snapshots: Vec<String>,
    },
}

#[derive(clap::Args)]
pub struct McpArgs {
    /// The runtime of run_python: python, or python-data, which has numpy and pandas
    #[arg(long, value_name = "RUNTIME", default_value = "python")]
    pub python_runtime: String,

    /// Mount a host directory in every session; read-only unless :rw
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Allow code to send HTTP requests to these hosts, or to all
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// Memory limit of each session [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// CPU time limit of one piece of code
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Limits")]
    pub cpu_timeout: Duration,

    /// Wall time limit of one piece of code
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s", help_heading = "Limits")]
    pub timeout: Duration,

    /// Output limit of one piece of code, and size limit of its value
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1M", help_heading = "Limits")]
    pub max_output: usize,

    /// Maximum number of open sessions; a new session closes the least recently used idle one
    ///
    /// If code is running in all of them, a new session waits until one is idle.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..), default_value = "8", help_heading = "Limits")]
    pub max_sessions: u16,

    /// Close a session that has been idle for this long
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30m", help_heading = "Limits")]
    pub idle_timeout: Duration,
}

#[derive(clap::Args)]
pub struct ReplArgs {
    /// The runtime: python, python-data or js
    #[arg(long, value_name = "RUNTIME", default_value = "python")]
    pub runtime: String,

    /// Start from the interpreter state in this snapshot
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub from_snapshot: Option<String>,

    /// Mount a host directory in the sandbox; read-only unless :rw
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Allow Python to import the packages in this host directory
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    pub site_packages: Option<PathBuf>,

    /// Set an environment variable of the interpreter; there are none by default
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Access")]
    pub env: Vec<String>,

    /// Allow code to send HTTP requests to these hosts, or to all
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// Memory limit of the interpreter, and of each copy [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// CPU time limit of each input [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub cpu_timeout: Option<Duration>,

    /// Wall time limit of each input [default: none]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub timeout: Option<Duration>,
}

#[derive(clap::Args)]
pub struct RunArgs {
    /// The script, or - to read it from standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,

    /// Arguments of the script: sys.argv in Python, scriptArgs in JavaScript
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,

    /// Call this function [default: main]
    ///
    /// Without -f, --arg and --kwarg, a script that defines no `main` is allowed:
    /// only its top level runs.
    #[arg(short, long, value_name = "NAME")]
    pub function: Option<String>,

    /// A positional argument; repeat it for more
    #[arg(long = "arg", value_name = "JSON", allow_hyphen_values = true)]
    pub args: Vec<String>,

    /// A named argument; repeat it for more
    #[arg(long = "kwarg", value_name = "NAME=JSON", allow_hyphen_values = true)]
    pub kwargs: Vec<String>,

    /// The runtime: python, python-data or js [default: determined by the file extension]
    ///
    /// python-data is Python with numpy, pandas and other packages for data. It is
    /// installed separately.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,

    /// A file to run first, such as helper functions that the script uses
    #[arg(long, value_name = "FILE")]
    pub prelude: Option<PathBuf>,

    /// Start from the interpreter state in this snapshot
    ///
    /// A name or the path of a file that --save-snapshot wrote.
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub from_snapshot: Option<String>,

    /// Save the interpreter state after the script has run
    ///
    /// A name, such as `warm`, refers to a file in the user's data directory; a
    /// value that contains a slash or ends in .snapshot is the path of a file.
    /// The file contains all data of the script, including secrets.
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub save_snapshot: Option<String>,

    /// Mount a host directory in the sandbox; read-only unless :rw
    ///
    /// HOST is a directory of this machine, GUEST the absolute path at which the
    /// script sees it.
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Allow a Python script to import the packages in this host directory
    ///
    /// A directory of pure Python packages, as created by `pip install --target
    /// DIR`. It is mounted read-only at /site-packages, which is added to
    /// PYTHONPATH.
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    pub site_packages: Option<PathBuf>,

    /// Set an environment variable of the script; there are none by default
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Access")]
    pub env: Vec<String>,

    /// Allow the script to send HTTP requests to these hosts, or to all
    ///
    /// A host is a name such as example.com, *.example.com for all its subdomains,
    /// or either with a port, as in localhost:8000. Redirects are checked as well.
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// Memory limit of the interpreter [default: 256M]
    ///
    /// A number of bytes, or a number with the suffix K, M or G (powers of 1024).
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// Size limit of the script's own files, which are in memory; 0 for none [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = storage_size, help_heading = "Limits")]
    pub max_storage: Option<usize>,

    /// CPU time limit of loading the script, and of the call [default: 30s]
    ///
    /// Waiting for HTTP or a timer does not count. Durations are written as
    /// 5s, 500ms or 1m30s.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub cpu_timeout: Option<Duration>,

    /// Wall time limit of the run, from the start of the interpreter [default: none]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub timeout: Option<Duration>,

    /// Write the files of the script's home directory to this directory at the end
    ///
    /// The home, /root, is the directory in which a script starts. It is written also
    /// if the script fails or exceeds a limit. Existing files are replaced; links are
    /// left out.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Print each event as one line of JSON on stdout
    #[arg(long, help_heading = "Output")]
    pub events: bool,
}

fn size(text: &str) -> Result<usize, String> {
    match storage_size(text) {
        Ok(0) => Err("the limit must be greater than 0".to_owned()),
        size => size,
    }
}

fn storage_size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|_| "give a number of bytes, or a size such as 512K, 64M or 1G".to_owned())?;
    usize::try_from(bytes)
        .map_err(|_| "the size is larger than the address space of this machine".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("the limit must be greater than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("give a number and a unit, such as 5s, 500ms or 1m".to_owned()),
    }
}

const EXAMPLES: &str = "\
Examples:
  isola run greet.py --arg '\"Ada\"'
  isola run report.js -f summary --kwarg year=2025 --mount ./data:/data
  echo 'print(6 * 7)' | isola run - --runtime python

`isola help run` describes output, limits and exit codes.";

const RUN_NOTES: &str = "\
Output:
  Output of the script is written to stdout and stderr immediately,
  and its logs to stderr as `level: message`. Each item that a
  generator yields is one line of JSON on stdout, and so is the final
  value unless it is null. With --events, stdout contains only JSON
  lines, the last of which is an `end` or an `error`.

Exit codes:
    0  the script succeeded
    1  the script failed: an exception, a crash, or another limit
    2  usage error: an invalid option, file or argument
   70  internal error: a bug, or a failure of this machine
  124  a time limit, --cpu-timeout or --timeout
  130  interrupted (Ctrl-C)
  137  the memory limit, --max-memory
  141  stdout was closed by its reader

Examples:
  isola run greet.py --arg '\"Ada\"' --kwarg 'greeting=\"Hi\"'
  isola run count.js -f upTo --arg 10 | head -n 3
  isola run convert.py --mount ./in:/in --output ./out -- --format csv
  isola run fetch.py --allow-http api.example.com --timeout 20s
  isola run totals.py --runtime python-data --mount ./data:/data
  isola run unknown.js --max-memory 64M --cpu-timeout 2s --events";

const REPL_NOTES: &str = "\
Commands, each on a separate line:
  :fork            copy the interpreter, and continue in the copy
  :branches        list the copies
  :branch NUMBER   continue in another copy; the original has the number 1
  :save NAME|FILE  save the interpreter state in a snapshot
  :load NAME|FILE  continue from a snapshot
  :reset           start a new interpreter in this branch
  :help            list the commands
  :quit            exit, as Ctrl-D does

Ctrl-C stops running code. The interpreter is then restored to its state
before that code, as it is after a limit or a crash. Input from a pipe is
accepted as well, without prompts and history.

Examples:
  isola repl
  isola repl --runtime js --max-memory 64M
  isola repl --from-snapshot warm --mount ./data:/data";

const SNAPSHOT_NOTES: &str = "\
Examples:
  isola run load.py --save-snapshot warm
  isola run ask.py --from-snapshot warm
  isola snapshot ls
  isola snapshot rm warm ./old.snapshot

A snapshot belongs to one build of a runtime. Only the version of isola
that created it can restore it; other versions reject it.";

const MCP_NOTES: &str = "\
In the configuration of an MCP client:
  { \"mcpServers\": { \"isola\": { \"command\": \"isola\", \"args\": [\"mcp\"] } } }

Each tool takes `source` and the name of a `session`. The result contains
the printed output and the value of the last expression. After a time limit
or a crash the session is restarted, and the next result reports this.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_definitions_are_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("512K", 512 << 10),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("64MB", 64 << 20),
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("1.5 GiB", 3 << 29),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1M", "64X", "0", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(storage_size("0"), Ok(0));
        assert_eq!(storage_size("1K"), Ok(1024));
        assert!(storage_size("-1").is_err());
    }

    #[test]
    fn durations_are_parsed() {
        for (text, milliseconds) in
            [("5s", 5_000), ("500ms", 500), ("1m", 60_000), ("1m30s", 90_000), ("2h", 7_200_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "five seconds"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
