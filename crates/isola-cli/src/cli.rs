//! The command line as it is typed. What it means is checked in `config`.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Run untrusted Python and JavaScript, isolated by WebAssembly
///
/// A script runs in an interpreter inside WebAssembly, in this process. It sees
/// no files, no network and no environment but those that you hand it, and its
/// memory and CPU time are limited.
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
    /// Loads the file, calls one of its functions and prints what it gives.
    #[command(after_long_help = RUN_NOTES)]
    Run(Box<RunArgs>),

    /// Talk to a Python or JavaScript interpreter, and copy it on the way
    ///
    /// What is typed runs in one sandbox that stays. `:fork` goes on in a copy
    /// of it, `:save` and `:load` keep it on disk, `:help` lists the rest.
    #[command(after_long_help = REPL_NOTES)]
    Repl(Box<ReplArgs>),

    /// Offer run_python and run_javascript to an agent, over standard input and output
    ///
    /// A server of the Model Context Protocol (MCP). What is run stays in a
    /// session: variables are there for the next piece of code.
    #[command(after_long_help = MCP_NOTES)]
    Mcp(Box<McpArgs>),

    /// Look at, or empty, the cache of compiled runtimes
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },

    /// Look at, or remove, the snapshots that have a name
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
        /// The shell that is to read it
        shell: Shell,
    },

    /// Print a man page, for `man -l -`
    Man {
        /// The page of this command, such as `run`, instead of the main page
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
    /// List the snapshots that have a name, and their sizes
    Ls {
        /// Print one JSON object instead of a table; sizes are in bytes
        #[arg(long)]
        json: bool,
    },
    /// Tell what a snapshot is of
    Show {
        /// A name, or the path of a file
        #[arg(value_name = "NAME|FILE")]
        snapshot: String,
        /// Print one JSON object; sizes are in bytes
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots
    Rm {
        /// Names, or paths of files
        #[arg(value_name = "NAME|FILE", required = true)]
        snapshots: Vec<String>,
    },
}

#[derive(clap::Args)]
pub struct McpArgs {
    /// Show a host folder to every session; read-only unless :rw
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Let code send HTTP requests to these hosts, or to all
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// The memory of each session [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// CPU time of one piece of code
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Limits")]
    pub cpu_timeout: Duration,

    /// Wall time of one piece of code
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s", help_heading = "Limits")]
    pub timeout: Duration,

    /// What one piece of code may print, and how long its value may be
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1M", help_heading = "Limits")]
    pub max_output: usize,

    /// Sessions that are there at once; one more closes the one that was not used for longest
    ///
    /// If code runs in all of them, one more waits until it has ended in one.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..), default_value = "8", help_heading = "Limits")]
    pub max_sessions: u16,

    /// Close a session that is not used for so long
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30m", help_heading = "Limits")]
    pub idle_timeout: Duration,
}

#[derive(clap::Args)]
pub struct ReplArgs {
    /// The interpreter: python or js
    #[arg(long, value_name = "RUNTIME", default_value = "python")]
    pub runtime: String,

    /// Go on from the interpreter in this snapshot, with all that it has
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub from_snapshot: Option<String>,

    /// Show a host folder to the interpreter; read-only unless :rw
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Let Python import the packages in this host folder
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    pub site_packages: Option<PathBuf>,

    /// Set an environment variable of the interpreter, which otherwise has none
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Access")]
    pub env: Vec<String>,

    /// Let code send HTTP requests to these hosts, or to all
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// The memory of the interpreter, and of each copy [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// CPU time of each input [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub cpu_timeout: Option<Duration>,

    /// Wall time of each input [default: none]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub timeout: Option<Duration>,
}

#[derive(clap::Args)]
pub struct RunArgs {
    /// The script, or - to read it from standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,

    /// Call this function [default: main]
    ///
    /// Without -f, --arg and --kwarg, a script that defines no `main` only runs
    /// at its top level.
    #[arg(short, long, value_name = "NAME")]
    pub function: Option<String>,

    /// A positional argument; repeat it for more
    #[arg(long = "arg", value_name = "JSON", allow_hyphen_values = true)]
    pub args: Vec<String>,

    /// A named argument; repeat it for more
    #[arg(long = "kwarg", value_name = "NAME=JSON", allow_hyphen_values = true)]
    pub kwargs: Vec<String>,

    /// The interpreter: python or js [default: by the file's ending]
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,

    /// Source code to run first, such as helpers that the script expects
    #[arg(long, value_name = "FILE")]
    pub prelude: Option<PathBuf>,

    /// Go on from the interpreter in this snapshot, with all that it has
    ///
    /// A name, or the path of a file: what --save-snapshot wrote.
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub from_snapshot: Option<String>,

    /// Keep the interpreter as it is after the script, to go on from later
    ///
    /// A name, such as `warm`, is kept in the user's data folder; what has a
    /// slash in it or ends in .snapshot is the path of a file. The file holds
    /// whatever the script knows.
    #[arg(long, value_name = "NAME|FILE", help_heading = "Snapshots")]
    pub save_snapshot: Option<String>,

    /// Show a host folder to the script; read-only unless :rw
    ///
    /// HOST is a folder of this machine, GUEST the absolute path at which the
    /// script sees it.
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", help_heading = "Access")]
    pub mounts: Vec<String>,

    /// Let a Python script import the packages in this host folder
    ///
    /// A folder such as `pip install --target DIR` makes, of pure Python
    /// packages. The script sees it, read-only, at /site-packages, which is
    /// added to PYTHONPATH.
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    pub site_packages: Option<PathBuf>,

    /// Set an environment variable of the script, which otherwise has none
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Access")]
    pub env: Vec<String>,

    /// Let the script send HTTP requests to these hosts, or to all
    ///
    /// A host is a name such as example.com, *.example.com for all below it, or
    /// either with a port, as in localhost:8000. Redirects are checked as well.
    #[arg(long, value_name = "HOST,...|all", value_delimiter = ',', help_heading = "Access")]
    pub allow_http: Vec<String>,

    /// The memory that the interpreter may use [default: 256M]
    ///
    /// A number of bytes, or one with K, M or G, which are powers of 1024.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub max_memory: Option<usize>,

    /// CPU time of loading the script, and of the call [default: 30s]
    ///
    /// Waiting for HTTP or a timer does not count. Durations are written as
    /// 5s, 500ms or 1m30s.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub cpu_timeout: Option<Duration>,

    /// Wall time of it all, from the start of the interpreter [default: none]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub timeout: Option<Duration>,

    /// Print everything that happens as one JSON line each, on stdout
    #[arg(long, help_heading = "Output")]
    pub events: bool,
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|_| "give a number of bytes, or a size such as 512K, 64M or 1G".to_owned())?;
    match usize::try_from(bytes) {
        Ok(0) => Err("a limit of nothing lets nothing run".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("that is more than this machine can address".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a limit of nothing lets nothing run".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("give a number and a unit, such as 5s, 500ms or 1m".to_owned()),
    }
}

const EXAMPLES: &str = "\
Examples:
  isola run greet.py --arg '\"Ada\"'
  isola run report.js -f summary --kwarg year=2025 --mount ./data:/data
  echo 'print(6 * 7)' | isola run - --runtime python

`isola help run` tells all about running: output, limits and exit codes.";

const RUN_NOTES: &str = "\
Output:
  What the script prints goes to stdout and stderr as it happens,
  its logs to stderr as `level: message`. Each item that a generator
  yields is one line of JSON on stdout, and so is the final value
  unless it is null. With --events stdout holds nothing but JSON
  lines, the last of which is an `end` or an `error`.

Exit codes:
    0  the script ended well
    1  the script failed: an exception, a crash, or another limit
    2  usage: an option, a file or an argument that cannot be
   70  internal error: a bug, or trouble with this machine
  124  a time limit, --cpu-timeout or --timeout
  130  interrupted (Ctrl-C)
  137  the memory limit, --max-memory
  141  nobody reads stdout any more

Examples:
  isola run greet.py --arg '\"Ada\"' --kwarg 'greeting=\"Hi\"'
  isola run count.js -f upTo --arg 10 | head -n 3
  isola run convert.py --mount ./in:/in --mount ./out:/out:rw
  isola run fetch.py --allow-http api.example.com --timeout 20s
  isola run unknown.js --max-memory 64M --cpu-timeout 2s --events";

const REPL_NOTES: &str = "\
Commands, each on a line of its own:
  :fork            copy the interpreter as it is, and go on in the copy
  :branches        list the copies
  :branch NUMBER   go on in another one; the first has the number 1
  :save NAME|FILE  keep the interpreter
  :load NAME|FILE  go on from what was kept
  :reset           begin anew in this branch
  :help            list the commands
  :quit            end, as Ctrl-D does

Ctrl-C stops code that runs. The interpreter is then as it was before that
code, and so it is after a limit or a crash. Input from a pipe works as well,
without prompts and history.

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

A snapshot is of one build of a runtime, and is restored by the version
of isola that made it: another one refuses it.";

const MCP_NOTES: &str = "\
In the configuration of an MCP client:
  { \"mcpServers\": { \"isola\": { \"command\": \"isola\", \"args\": [\"mcp\"] } } }

Each tool takes `source`, and the name of a `session`. The answer has what
was printed and the value of the last expression. After a time limit or a
crash the session begins anew, and the next answer says so.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
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
    }

    #[test]
    fn durations() {
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
