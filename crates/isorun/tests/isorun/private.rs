//! The server's data is accessible to its own user only, and a checkpoint can only be used for
//! the purpose that it was written for.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_until;
use tokio::process::Command;

use crate::support::{Server, refused};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Returns all files and directories below a directory.
fn list_recursively(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![directory.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

/// Reports whether an unprivileged user of the machine can read a file.
async fn others_can_read(path: &Path) -> bool {
    let mut cat = Command::new("/bin/cat");
    cat.arg(path).uid(65534).gid(65534).stdout(Stdio::null()).stderr(Stdio::null());
    cat.status().await.unwrap().success()
}

#[server_test]
async fn readable_data_directory_is_restricted() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Directories as a package, an administrator or an earlier version may have created them.
    for name in ["", "state", "state/hibernated", "state/snapshots", "images"] {
        fs::create_dir_all(data.path().join(name)).unwrap();
        fs::set_permissions(data.path().join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let server = Server::start_in(data, home, &[]);
    let id = server.create().await;
    server.exec(&id, "echo secret > /srv/secret").await;
    let snapshot = server.snapshot(&id).await;
    server.change(&id, "hibernate").await;
    let data = server.data.path();
    assert_eq!(mode(data), 0o700);
    for name in ["state", "images"] {
        assert_eq!(mode(&data.join(name)), 0o700, "{name}");
        for path in list_recursively(&data.join(name)) {
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        }
    }
    for name in ["isorun.db", "isorun.db-wal", "isorun.db-shm", "secret", "lock"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    for path in [
        format!("state/hibernated/{id}/pages.img"),
        format!("state/snapshots/{snapshot}/pages.img"),
        format!("state/snapshots/{snapshot}/manifest.json"),
        "secret".to_owned(),
        "isorun.db".to_owned(),
    ] {
        let path = data.join(path);
        assert!(path.is_file(), "{}", path.display());
        assert!(!others_can_read(&path).await, "{}", path.display());
    }
    assert_eq!(mode(&server.home.path().join("isorun/client.json")), 0o600);
}

#[server_test]
async fn writable_data_directory_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let start = async |data: &Path| {
        let home = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_isorun"))
            .args(["serve", "--no-pull", "--listen", "127.0.0.1:0"])
            .env("ISORUN_DATA_DIR", data)
            .env("XDG_CONFIG_HOME", home.path())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for mode in [0o777, 0o770, 0o1777, 0o702] {
        let data = parent.path().join(format!("{mode:o}"));
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
        let stderr = start(&data).await;
        assert!(stderr.contains("chmod 700"), "{stderr}");
        assert_eq!(
            fs::read_dir(&data).unwrap().count(),
            0,
            "the server wrote to {}",
            data.display()
        );
    }
    let theirs = parent.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
    assert!(start(&theirs).await.contains("belongs to the user 65534"));
    let link = parent.path().join("link");
    symlink(&theirs, &link).unwrap();
    assert!(start(&link).await.contains("belongs to the user 65534"));
    // A secret that others can read, and one that is a symbolic link.
    let data = parent.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    fs::write(data.join("secret"), "0".repeat(64)).unwrap();
    fs::set_permissions(data.join("secret"), Permissions::from_mode(0o644)).unwrap();
    assert!(start(&data).await.contains("chmod 600"));
    fs::remove_file(data.join("secret")).unwrap();
    fs::write(parent.path().join("elsewhere"), "0".repeat(64)).unwrap();
    symlink(parent.path().join("elsewhere"), data.join("secret")).unwrap();
    start(&data).await;
}

async fn assert_resume_refused(server: &Server, id: &str, why: &str) {
    let refusal = server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
    refused(&refusal, 422, "snapshot_damaged", why);
}

/// Hibernates a sandbox. Returns the directory of its checkpoint.
async fn hibernate(server: &Server, id: &str) -> PathBuf {
    server.change(id, "hibernate").await;
    server.data.path().join("state/hibernated").join(id)
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn swap(one: &Path, two: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).unwrap();
    fs::rename(two, one).unwrap();
    fs::rename(aside, two).unwrap();
}

#[server_test]
async fn substituted_checkpoints_are_refused(server: &Server) {
    let aside = server.data.path().join("state");
    let (one, two) = (server.create().await, server.create().await);
    server.exec(&one, "echo 1 > /srv/who").await;
    server.exec(&two, "echo 2 > /srv/who").await;
    let snapshot = server.snapshot(&one).await;
    let snapshots = server.data.path().join("state/snapshots");
    // The checkpoint of another sandbox.
    let directories = (hibernate(server, &one).await, hibernate(server, &two).await);
    swap(&directories.0, &directories.1);
    assert_resume_refused(server, &one, "belongs to another").await;
    assert_resume_refused(server, &two, "belongs to another").await;
    swap(&directories.0, &directories.1);
    // Only its manifest.
    swap(&directories.0.join("manifest.json"), &directories.1.join("manifest.json"));
    assert_resume_refused(server, &one, "belongs to another").await;
    swap(&directories.0.join("manifest.json"), &directories.1.join("manifest.json"));
    // A snapshot of the same sandbox in place of the hibernation, and the reverse.
    swap(&directories.0, &snapshots.join(&snapshot));
    assert_resume_refused(server, &one, "belongs to another").await;
    let refusal = server.post("/v1/runs/restore", json!({ "snapshot_id": snapshot })).await;
    refused(&refusal, 422, "snapshot_damaged", "belongs to another");
    swap(&directories.0, &snapshots.join(&snapshot));
    // An earlier hibernation of the same sandbox.
    let earlier = aside.join("earlier");
    copy_directory(&directories.0, &earlier);
    server.change(&one, "resume").await;
    server.exec(&one, "echo later > /srv/who").await;
    hibernate(server, &one).await;
    swap(&directories.0, &earlier);
    assert_resume_refused(server, &one, "not the latest").await;
    swap(&directories.0, &earlier);
    // A changed manifest, and an additional file.
    let manifest = directories.0.join("manifest.json");
    let good = fs::read_to_string(&manifest).unwrap();
    let envelope: Value = serde_json::from_str(&good).unwrap();
    assert!(envelope["manifest"]["owner"]["tenant"].is_string(), "{envelope}");
    for (from, to) in [("\"pids\":", "\"pids\":1"), ("\"generation\":", "\"generation\":1")] {
        fs::write(&manifest, good.replace(from, to)).unwrap();
        assert_resume_refused(server, &one, "was changed").await;
    }
    fs::write(&manifest, &good).unwrap();
    fs::write(directories.0.join("more.img"), "x").unwrap();
    assert_resume_refused(server, &one, "does not belong to it").await;
    fs::remove_file(directories.0.join("more.img")).unwrap();
    // After everything is restored, both can be resumed.
    server.change(&one, "resume").await;
    server.change(&two, "resume").await;
    assert_eq!(server.exec(&one, "cat /srv/who").await["stdout"], "later\n");
    assert_eq!(server.exec(&two, "cat /srv/who").await["stdout"], "2\n");
    fs::remove_dir_all(earlier).unwrap();
    server.assert_served().await;
}

#[server_test(seconds = 240)]
async fn earlier_hibernation_is_refused_after_a_crash(server: Server) {
    let id = server.create().await;
    let directory = hibernate(&server, &id).await;
    let earlier = server.data.path().join("earlier");
    copy_directory(&directory, &earlier);
    server.change(&id, "resume").await;
    // Kill the server and its sandboxes, and restore the earlier hibernation.
    let (data, home) = server.stop(Signal::KILL).await;
    fs::rename(&earlier, data.path().join("state/hibernated").join(&id)).unwrap();
    let containers = data.path().join("engine/containers");
    for entry in fs::read_dir(containers).unwrap().flatten() {
        let Ok(pid) = fs::read_to_string(entry.path().join("pid")) else { continue };
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        wait_until("the sandbox's process has exited or is a zombie", async || {
            fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        })
        .await;
    }
    let server = Server::start_in(data, home, &[]);
    // Its sandbox is gone, and what is on disk is older than what its client has seen.
    let refusal = server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
    refused(&refusal, 410, "sandbox_died", "it exited");
    assert!(!server.data.path().join("state/hibernated").join(&id).exists());
    server.destroy(&id).await;
    server.assert_served().await;
}

#[server_test]
async fn snapshot_of_a_hibernated_run_is_independent(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "echo here > /srv/mark").await;
    let directory = hibernate(server, &id).await;
    let snapshot = server.snapshot(&id).await;
    let copy = server.data.path().join("state/snapshots").join(&snapshot);
    let inode = |directory: &Path| fs::metadata(directory.join("pages.img")).unwrap().ino();
    assert_eq!(inode(&directory), inode(&copy), "it takes additional disk space");
    let restored = server.restore(&snapshot).await;
    assert_eq!(server.exec(&restored, "cat /srv/mark").await["stdout"], "here\n");
    server.change(&id, "resume").await;
    assert_eq!(server.exec(&id, "cat /srv/mark").await["stdout"], "here\n");
}
