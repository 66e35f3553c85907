//! The configuration of an image: environment, user, working directory, command.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::image::{Arch, Os};
use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::unpack::open_in_root;

/// The bytes of `/etc/passwd` and of `/etc/group` that are read.
const MAX_ACCOUNTS_FILE_BYTES: u64 = 4 << 20;

/// The largest size of the environment, the entry point and the command of an image
/// together, in bytes. Linux limits arguments and environment to 2 MiB.
const MAX_ARGS_AND_ENV_BYTES: usize = 1 << 20;

/// The used fields of an image's configuration. The complete type of `oci-spec` is
/// not used: its lists, such as the history, take fifty times the memory of their
/// text.
#[derive(Debug, Deserialize)]
pub(crate) struct Configuration {
    pub(crate) architecture: Arch,
    pub(crate) os: Os,
    #[serde(default)]
    pub(crate) variant: Option<String>,
    #[serde(default)]
    config: Option<ProcessDefaults>,
    pub(crate) rootfs: RootFs,
}

/// The layers of a configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

/// The execution defaults, as serialized in a configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessDefaults {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl Configuration {
    /// Parses a configuration; `what` names it in errors.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let parsed: Self = serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
            what: what.to_owned(),
            reason: error.to_string(),
        })?;
        if let Some(program) = &parsed.config {
            let lists = [&program.env, &program.entrypoint, &program.cmd];
            let texts = lists.into_iter().flatten().flatten();
            // The kernel counts a pointer and a NUL for each.
            let size: usize = texts.map(|text| text.len() + 9).sum();
            if size > MAX_ARGS_AND_ENV_BYTES {
                return Err(Error::TooLarge {
                    what: format!("the environment and command in {what}, of {size} bytes,"),
                    limit: format!("{MAX_ARGS_AND_ENV_BYTES} bytes"),
                });
            }
        }
        Ok(parsed)
    }
}

/// The execution defaults of an image, by the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The environment variables, in the image's order. Of duplicate names the last
    /// one is kept.
    pub env: Vec<(String, String)>,
    /// The user: `user`, `uid`, `user:group`, `uid:gid`, or a mixture. None is root.
    pub user: Option<String>,
    /// The working directory. None is `/`.
    pub workdir: Option<String>,
    /// The arguments that precede the command.
    pub entrypoint: Vec<String>,
    /// The default command.
    pub cmd: Vec<String>,
}

/// A user of an image, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory, if `/etc/passwd` contains it.
    pub home: Option<String>,
}

impl ImageConfig {
    pub(crate) fn new(configuration: Configuration) -> Self {
        let program = configuration.config.unwrap_or_default();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        // In reverse, since the last one of duplicate names is kept.
        let mut known = HashSet::new();
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in program.env.unwrap_or_default().iter().rev() {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            // Variables that execve cannot pass on are skipped.
            if name.is_empty() || variable.contains('\0') || !known.insert(name.to_owned()) {
                continue;
            }
            env.push((name.to_owned(), value.to_owned()));
        }
        env.reverse();
        Self {
            env,
            user: filled(program.user),
            workdir: filled(program.working_dir),
            entrypoint: program.entrypoint.unwrap_or_default(),
            cmd: program.cmd.unwrap_or_default(),
        }
    }

    /// Returns the command line: the image's entry point, followed by the given
    /// command or by the image's.
    pub fn command(&self, given: &[String]) -> Vec<String> {
        let command = if given.is_empty() { &self.cmd } else { given };
        self.entrypoint.iter().chain(command).cloned().collect()
    }
}

/// Finds a user, by name or by number, in an unpacked image.
pub(crate) fn resolve_user(root: &Path, user: Option<&str>) -> Result<User> {
    look_up(&read_accounts(root, "etc/passwd")?, &read_accounts(root, "etc/group")?, user)
}

/// Finds a user in the texts of `/etc/passwd` and `/etc/group`.
pub(crate) fn look_up(passwd: &str, groups: &str, user: Option<&str>) -> Result<User> {
    let (name, group) = match user.unwrap_or_default().split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user.unwrap_or_default(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    // name:password:uid:gid:comment:home:shell
    let found = records(passwd).find(|fields| fields[0] == name).or_else(|| {
        let uid: u32 = name.parse().ok()?;
        records(passwd).find(|fields| number(fields.get(2)) == Some(uid))
    });
    let missing =
        |name: &str, file| Error::NoSuchUser { name: name.chars().take(64).collect(), file };
    let (uid, gid, home, account) = match found {
        Some(fields) => {
            let uid = number(fields.get(2)).ok_or_else(|| missing(name, "/etc/passwd"))?;
            let gid = number(fields.get(3)).unwrap_or(0);
            let home = fields.get(5).filter(|home| home.starts_with('/'));
            (uid, gid, home.map(|home| (*home).to_owned()), Some(fields[0]))
        }
        None => match id(name) {
            Some(uid) => (uid, 0, None, None),
            None => return Err(missing(name, "/etc/passwd")),
        },
    };
    // name:password:gid:member,member
    if let Some(group) = group {
        let gid = records(groups)
            .find(|fields| fields[0] == group)
            .and_then(|fields| number(fields.get(2)))
            .or_else(|| id(group))
            .ok_or_else(|| missing(group, "/etc/group"))?;
        return Ok(User { uid, gid, groups: Vec::new(), home });
    }
    let mut further: Vec<u32> = match account {
        Some(account) => records(groups)
            .filter(|fields| {
                fields.get(3).is_some_and(|members| members.split(',').any(|m| m == account))
            })
            .filter_map(|fields| number(fields.get(2)))
            .filter(|further| *further != gid)
            .take(1024)
            .collect(),
        None => Vec::new(),
    };
    further.sort_unstable();
    further.dedup();
    Ok(User { uid, gid, groups: further, home })
}

/// Reads a file of the image, resolving symbolic links within the image, and without
/// blocking on a FIFO. Returns an empty text if it is missing or not a regular
/// file.
fn read_accounts(root: &Path, path: &str) -> Result<String> {
    let root = File::open(root).map_err(Error::at("open an unpacked image", root))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(fd) = open_in_root(root.as_fd(), path.as_bytes(), flags) else {
        return Ok(String::new());
    };
    let is_file = rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if is_file {
        File::from(fd)
            .take(MAX_ACCOUNTS_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read the accounts of an image"))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.len() > 2)
}

fn number(field: Option<&&str>) -> Option<u32> {
    field.and_then(|text| id(text))
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_resolved_as_specified() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/passwd"),
            "# comment\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n\
             7:x:70:70::/:/\nbroken\nnone:x:no:1::/:\n",
        )
        .unwrap();
        std::fs::write(
            root.path().join("etc/group"),
            "root:x:0:\napp:x:1001:\naudio:x:29:root,app\nvideo:x:44:app\n",
        )
        .unwrap();
        let user = |spec: &str| resolve_user(root.path(), Some(spec).filter(|s| !s.is_empty()));
        let found = |uid, gid, groups: &[u32], home: Option<&str>| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        };
        for (spec, expected) in [
            ("", found(0, 0, &[29], Some("/root"))),
            ("root", found(0, 0, &[29], Some("/root"))),
            ("app", found(1000, 1001, &[29, 44], Some("/home/app"))),
            ("1000", found(1000, 1001, &[29, 44], Some("/home/app"))),
            ("app:audio", found(1000, 29, &[], Some("/home/app"))),
            ("app:5", found(1000, 5, &[], Some("/home/app"))),
            ("app:", found(1000, 1001, &[29, 44], Some("/home/app"))),
            ("65534:65534", found(65534, 65534, &[], None)),
            ("4242", found(4242, 0, &[], None)),
            (":audio", found(0, 29, &[], Some("/root"))),
            // A name of digits is a name first.
            ("7", found(70, 70, &[], Some("/"))),
        ] {
            assert_eq!(user(spec).unwrap(), expected, "{spec}");
        }
        for spec in ["nobody", "app:nogroup", "-1", "4294967295", "none", "99999999999"] {
            assert_eq!(user(spec).unwrap_err().code(), "image_user", "{spec}");
        }
    }

    #[test]
    fn accounts_are_read_within_the_image_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        // Outside of the image this would be the host's own file.
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd")).unwrap();
        assert!(resolve_user(root.path(), Some("root")).is_err());
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        let pipe = root.path().join("etc/passwd");
        let etc = File::open(root.path().join("etc")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(&etc, "passwd", FileType::Fifo, mode, 0).unwrap();
        assert!(pipe.exists());
        assert!(resolve_user(root.path(), Some("root")).is_err());
    }

    #[test]
    fn last_value_of_a_variable_is_used() {
        let configuration = |env: &[&str]| {
            let text = serde_json::json!({
                "architecture": "amd64", "os": "linux", "rootfs": { "diff_ids": [] },
                "config": { "Env": env, "WorkingDir": "/w", "User": "" },
                "history": [{}, {}], "other": [1],
            });
            Configuration::parse("it", text.to_string().as_bytes()).map(ImageConfig::new)
        };
        let config = configuration(&["A=1", "B=2", "A=3", "=x", "C", "D=\0", "B=4"]).unwrap();
        let pairs: Vec<_> = config.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("A", "3"), ("C", ""), ("B", "4")]);
        assert_eq!((config.workdir.as_deref(), config.user), (Some("/w"), None));
        // Comparing each name with each other one would take hours.
        let many: Vec<String> = (0..80_000).map(|at| format!("V{at}=")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(configuration(&many[..50_000]).unwrap().env.len(), 50_000);
        assert_eq!(configuration(&many).unwrap_err().code(), "image_too_large");
        assert!(configuration(&[&"x".repeat(2 << 20)]).is_err());
    }

    #[test]
    fn entry_point_precedes_the_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let config = ImageConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve"),
            ..ImageConfig::default()
        };
        assert_eq!(config.command(&[]), words("/entry -x serve"));
        assert_eq!(config.command(&words("ls /")), words("/entry -x ls /"));
    }
}
