//! The built-in image contains only files of the machine that every user may read.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use isorun_engine::conformance::{Sandbox, shell};
use rustix::fs::Mode;
use rustix::process::umask;
use test_macros::timed_test;

use crate::support::Scratch;

/// A temporary directory among the machine's programs.
struct MachineDir(PathBuf);

impl MachineDir {
    fn create() -> Self {
        let dir = tempfile::Builder::new().prefix("isorun-test-").tempdir_in("/usr/local");
        let dir = dir.unwrap().keep();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str, mode: u32) {
        let path = self.0.join(name);
        for dir in path.ancestors().skip(1).take_while(|dir| *dir != self.0) {
            fs::create_dir_all(dir).unwrap();
            // Another test changes the umask of this process.
            fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, format!("content of {name}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for MachineDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The umask of this process, which is restored when this is dropped.
struct Umask(Mode);

impl Umask {
    fn set(mode: u32) -> Self {
        Self(umask(Mode::from_raw_mode(mode)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

#[timed_test]
async fn private_files_of_the_machine_are_hidden() {
    let machine = MachineDir::create();
    for (name, mode) in [
        ("open", 0o644),
        ("program", 0o755),
        ("setuid", 0o4755),
        ("closed", 0o600),
        ("group", 0o640),
        ("runs", 0o711),
        ("setuid-closed", 0o4710),
        ("shut/open", 0o644),
        ("half/open", 0o644),
        ("deep/er/closed", 0o400),
        ("deep/er/open", 0o644),
    ] {
        machine.file(name, mode);
    }
    fs::hard_link(machine.0.join("closed"), machine.0.join("deep/other-name")).unwrap();
    symlink("closed", machine.0.join("link")).unwrap();
    for (name, mode) in [("shut", 0o700), ("half", 0o751)] {
        let mode = if name == "half" { 0o711 } else { mode };
        fs::set_permissions(machine.0.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let engine = Scratch::open(0).await;
    let sandbox = Sandbox::new(&*engine).await;
    let dir = machine.0.display();
    let seen = sandbox
        .text(&format!("cd {dir}; find . -type f -exec cat {{}} + 2>/dev/null | sort; cat link"))
        .await;
    let mut expected: Vec<String> = ["open", "program", "setuid", "deep/er/open"]
        .map(|name| format!("content of {name}\n"))
        .to_vec();
    expected.sort();
    assert_eq!(seen, expected.concat());
    let below = format!("find {dir}/shut {dir}/half -mindepth 1 | wc -l");
    assert_eq!(sandbox.text(&below).await, "0\n");
    // Every file of the machine that others may not read is an empty file in the sandbox.
    let hidden = sandbox
        .text(
            "find /usr /bin/ /lib/ -xdev \\( -type f -o -type d \\) ! -perm -o+r -size +8 | wc -l",
        )
        .await;
    assert_eq!(hidden, "0\n");
    // No mount is left, and the machine's own files are unchanged.
    drop(engine);
    for name in ["closed", "shut/open"] {
        assert!(fs::read_to_string(machine.0.join(name)).unwrap().starts_with("content of"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*machine.0.to_string_lossy()), "{mounts}");
}

#[timed_test]
async fn image_does_not_depend_on_the_umask() {
    let private = Umask::set(0o077);
    let engine = Scratch::open(0).await;
    let sandbox = Sandbox::new(&*engine).await;
    drop(private);
    let request = isorun_agent::protocol::Exec {
        user: Some("nobody".to_owned()),
        ..shell("cat /etc/passwd | wc -l; ls -d /usr/bin; cd /tmp && pwd")
    };
    let output = sandbox.exec(request).await.unwrap().output(1 << 20).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n/usr/bin\n/tmp\n", "{output:?}");
    // The state of the engine is not readable for other users.
    for (name, mode) in [("containers", 0o700), ("runsc", 0o700), ("hidden", 0o700)] {
        let found = fs::metadata(engine.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    assert!(Path::new("/usr").exists());
}
