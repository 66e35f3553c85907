//! The two programs that the engine needs: `runsc` and the agent.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engine::{Error, Result};

/// The oldest version of runsc whose checkpoints contain the complete state of
/// these sandboxes.
pub const MIN_RUNSC_VERSION: &str = "20240729";
/// The environment variable with the directory of the programs in a checkout or a
/// package.
pub const TOOLS_DIR_VARIABLE: &str = "ISORUN_TOOLS_DIR";

/// What `runsc` itself says that it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// It can start the programs of a checkpoint before all of their memory is read.
    pub restores_in_background: bool,
    /// Sandboxes can have control groups of version 2 inside: their limit of processes
    /// holds, and the processes of a program can be killed at once.
    pub has_cgroups_v2: bool,
}

/// The paths of both programs, with a supported version of runsc.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The path of `runsc`.
    pub runsc: PathBuf,
    /// The version of `runsc`, such as `20240729.0`.
    pub version: String,
    /// What this version of `runsc` can do and older ones cannot.
    pub features: Features,
    /// The path of `isorun-agent`.
    pub agent: PathBuf,
}

impl Tools {
    /// Finds both programs. An error names what is missing and how to install it.
    pub fn find(runsc: Option<&Path>, agent: Option<&Path>) -> Result<Self> {
        let runsc = match runsc {
            Some(path) => path.to_owned(),
            None => find("runsc").ok_or_else(|| {
                Error::Setup(
                    "there is no runsc, which isorun's packages contain: install one of them, \
                     the package `runsc` of Debian 13 or of bookworm-backports, or gVisor's \
                     own release; in a checkout, run `cargo xtask setup --linux`"
                        .to_owned(),
                )
            })?,
        };
        let version = version_of(&runsc)?;
        if version.as_str() < MIN_RUNSC_VERSION {
            return Err(Error::Setup(format!(
                "{} is version {version}, but {MIN_RUNSC_VERSION} or newer is required: install \
                 the package `runsc` of Debian 13 or of bookworm-backports",
                runsc.display()
            )));
        }
        let agent = match agent {
            Some(path) => path.to_owned(),
            None => find("isorun-agent").ok_or_else(|| {
                Error::Setup(format!(
                    "there is no isorun-agent, the program that runs inside each sandbox: put it \
                     into the directory of this program or the one that {TOOLS_DIR_VARIABLE} \
                     names; in a checkout, run `cargo xtask setup`"
                ))
            })?,
        };
        let features = Features {
            restores_in_background: output(&runsc, &["help", "restore"])?.contains("-background"),
            has_cgroups_v2: output(&runsc, &["flags"])?.contains("-in-sandbox-cgroup"),
        };
        Ok(Self { runsc, version, features, agent })
    }

    /// Returns what an old `runsc` cannot do, or `None` for a current one.
    pub fn shortcoming(&self) -> Option<&'static str> {
        (!self.features.has_cgroups_v2).then_some(
            "with this runsc idle sandboxes use CPU time, and the limit of processes does not \
             hold: install a current one, of 20260905 or newer",
        )
    }
}

/// Searches the directory that the variable names, the directory of this program,
/// the directories of packages and `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let packaged = ["/usr/lib/isorun", "/usr/local/lib/isorun"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    env::var_os(TOOLS_DIR_VARIABLE)
        .map(PathBuf::from)
        .into_iter()
        .chain(beside)
        .chain(packaged)
        .chain(env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn version_of(runsc: &Path) -> Result<String> {
    let text = output(runsc, &["--version"])?;
    parse_version(&text).ok_or_else(|| {
        Error::Setup(format!(
            "{} --version does not report a version, but {text:?}",
            runsc.display()
        ))
    })
}

/// Returns what `runsc` prints on both streams: some of its help is on that of errors.
fn output(runsc: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(runsc)
        .args(arguments)
        .output()
        .map_err(Error::io(format!("cannot start {}", runsc.display())))?;
    Ok([output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat())
}

/// Parses `runsc version 0.0~20240729.0` of Debian, `release-20240729.0` of gVisor, or
/// `20260905` of `cargo xtask setup`.
fn parse_version(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("runsc version "))?;
    let start = line.find("20")?;
    let version: String =
        line.get(start..)?.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (version.len() >= 8).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        for (text, expected) in [
            ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n", Some("20240729.0")),
            ("runsc version release-20250407.0\n", Some("20250407.0")),
            ("runsc version 0.0~20221219.0\n", Some("20221219.0")),
            ("runsc version 20260905\nspec: 1.2.1\n", Some("20260905")),
            ("nonsense", None),
            ("runsc version x\n", None),
        ] {
            assert_eq!(parse_version(text).as_deref(), expected, "{text}");
        }
    }
}
