//! Resolves `alice`, `1000` or `alice:staff` with the sandbox's own `/etc/passwd`
//! and `/etc/group`.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use isorun_agent::protocol::{Failure, FailureKind};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The maximum number of bytes that are read of each of the two files.
const MAX_ACCOUNTS_BYTES: u64 = 4 << 20;
/// The maximum number of a user's supplementary groups. Linux allows 65,536.
const MAX_GROUPS: usize = 1024;

/// A user to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
}

/// The content of both files, and the stamps of the versions that were read.
#[derive(Default)]
struct AccountFiles {
    stamps: [Option<Stamp>; 2],
    passwd: String,
    group: String,
}

/// The inode number, the size, and the time of the last change of anything. Differs
/// whenever the file has changed.
type Stamp = (u64, i64, i64, u64);

thread_local! {
    /// Programs are started far more often than users are added.
    static ACCOUNT_FILES: RefCell<AccountFiles> = RefCell::default();
}

/// Finds a user; root if none is named.
pub fn find(wanted: Option<&str>) -> Result<User, Failure> {
    ACCOUNT_FILES.with_borrow_mut(|known| {
        let stamps = [stamp(PASSWD), stamp(GROUP)];
        if known.stamps != stamps {
            *known = AccountFiles { stamps, passwd: read_text(PASSWD), group: read_text(GROUP) };
        }
        look_up(wanted.unwrap_or("0"), &known.passwd, &known.group)
    })
}

fn stamp(path: &str) -> Option<Stamp> {
    let stat = rustix::fs::stat(path).ok()?;
    Some((stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec))
}

/// Reads a file, up to a limit. A file that is not regular counts as empty: a
/// program that replaced it with a pipe must not block the agent.
fn read_text(path: &str) -> String {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut bytes = Vec::new();
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        // An error truncates the text.
        let _ = file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn look_up(wanted: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let number: Option<u32> = user.parse().ok();
    let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6
            && (fields.first() == Some(&user)
                || number.is_some() && fields.get(2).and_then(|f| f.parse().ok()) == number)
    });
    let field = |index: usize| line.as_ref().and_then(|fields| fields.get(index).copied());
    let uid =
        field(2).and_then(|f| f.parse().ok()).or(number).ok_or_else(|| unknown("user", user))?;
    let name = field(0).unwrap_or(user).to_owned();
    let home = field(5).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    let gid = match wanted_group {
        Some(wanted) => look_up_group(wanted, group)?,
        // A number without a line gets root's group, as in other container runtimes.
        None => field(3).and_then(|f| f.parse().ok()).unwrap_or(0),
    };
    let mut groups = vec![gid];
    if wanted_group.is_none() {
        let further = group.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let is_member = fields.get(3)?.split(',').any(|member| member == name);
            if is_member { fields.get(2)?.parse::<u32>().ok() } else { None }
        });
        groups.extend(further.take(MAX_GROUPS));
    }
    groups.dedup();
    Ok(User { uid, gid, groups, name, home })
}

fn look_up_group(wanted: &str, group: &str) -> Result<u32, Failure> {
    group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&wanted))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| unknown("group", wanted))
}

fn unknown(what: &str, name: &str) -> Failure {
    Failure {
        kind: FailureKind::NotFound,
        message: format!("there is no {what} {name:?} in the sandbox; a number needs no entry"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\n";
    const GROUP_TEXT: &str = "root:x:0:\nstaff:x:50:ada,bob\nada:x:1001:\n";

    #[test]
    fn special_and_large_account_files_do_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        std::fs::write(path("good"), PASSWD_TEXT).unwrap();
        File::create(path("large")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        for (name, length) in [
            ("good", PASSWD_TEXT.len()),
            ("pipe", 0),
            ("endless", 0),
            ("missing", 0),
            ("large", 4 << 20),
        ] {
            assert_eq!(read_text(&path(name)).len(), length, "{name}");
        }
        let many: String = (0..70_000).map(|gid| format!("g{gid}:x:{gid}:ada\n")).collect();
        let found = look_up("ada", PASSWD_TEXT, &many).unwrap();
        assert_eq!(found.groups.len(), 1 + MAX_GROUPS);
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        for (wanted, expected) in [
            ("root", Some((0, 0, vec![0], "/root"))),
            ("ada", Some((1000, 1001, vec![1001, 50], "/home/ada"))),
            ("1000", Some((1000, 1001, vec![1001, 50], "/home/ada"))),
            ("ada:staff", Some((1000, 50, vec![50], "/home/ada"))),
            ("ada:7", Some((1000, 7, vec![7], "/home/ada"))),
            ("4242", Some((4242, 0, vec![0], "/"))),
            ("4242:4243", Some((4242, 4243, vec![4243], "/"))),
            ("bob", None),
            ("ada:wheel", None),
            ("", None),
            ("-1", None),
        ] {
            let found = look_up(wanted, PASSWD_TEXT, GROUP_TEXT)
                .ok()
                .map(|user| (user.uid, user.gid, user.groups, user.home));
            let expected =
                expected.map(|(uid, gid, groups, home)| (uid, gid, groups, home.to_owned()));
            assert_eq!(found, expected, "{wanted}");
        }
    }
}
