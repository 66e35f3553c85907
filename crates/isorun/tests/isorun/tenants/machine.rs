//! Limits on the machine's disk, memory and descriptors, and on numbers of objects.

use std::{path::Path, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_macros::server_test;
use test_support::{
    Tmpfs,
    wait::{wait_for, wait_until},
};
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

use super::{OTHER_ADDRESS, RESPONSE_TIMEOUT, assert_others_served, connect};
use crate::support::{Server, Tenant, answer, refused};

/// A small file system for the data of a server.
struct SmallDisk {
    mounted: Tmpfs,
    _directory: TempDir,
}

impl SmallDisk {
    fn new(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { mounted: Tmpfs::mount(directory.path(), mib), _directory: directory }
    }

    fn data(&self) -> TempDir {
        tempfile::tempdir_in(self.mounted.path()).unwrap()
    }
}

#[server_test]
async fn filling_the_disk_terminates_the_tenants_largest_sandbox() {
    let disk = SmallDisk::new(1500);
    let home = tempfile::tempdir().unwrap();
    let reserve =
        ["--disk-reserve-mib", "600", "--tenant-share", "100", "--max-disk-mib", "100000"];
    let server = Server::start_in(disk.data(), home, &reserve);
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    let small = neighbour.create().await;
    neighbour.exec(&small, "head -c 1000000 /dev/urandom > /srv/mine").await;
    let before = neighbour.exec(&small, "sha256sum /srv/mine").await;
    // One large sandbox, and several that are large only in total.
    for count in [1, 3] {
        // On a disk that is in memory, what is written counts as memory, too.
        let large = json!({ "disk_mib": 100_000, "mem_mib": 2048 });
        let ids = join_all((0..count).map(|_| attacker.create_with(large.clone()))).await;
        let fills = ids.iter().map(|id| {
            let path = format!("/v1/runs/{id}/exec");
            let command = "cat /dev/zero > /srv/fill; sleep 1000";
            let attacker = &attacker;
            Box::pin(async move {
                attacker.post(&path, json!({ "command": command, "timeout": 60 })).await
            })
        });
        let ((status, body), at, _) = futures_util::future::select_all(fills).await;
        assert_eq!((status.as_u16(), &body["code"]), (410, &json!("sandbox_died")), "{body}");
        let run = attacker.get(&format!("/v1/runs/{}", ids[at])).await.1;
        assert_eq!(run["status"], "failed", "{run}");
        let error = body["error"].as_str().unwrap();
        assert!(error.contains("short of disk") && error.contains("--disk-reserve-mib"), "{error}");
        join_all(ids.iter().map(|id| attacker.destroy(id))).await;
        wait_until_ready(&server).await;
        assert_others_served(&server, &neighbour).await;
    }
    let after = neighbour.exec(&small, "sha256sum /srv/mine").await;
    assert_eq!(after["stdout"], before["stdout"], "the small sandbox of another tenant lost data");
    let free = rustix::fs::statvfs(server.data.path()).unwrap();
    assert!(free.f_bavail * free.f_frsize > 1000 << 20);
}

async fn wait_until_ready(server: &Server) {
    let ready = wait_until("the server is ready", async || {
        let (status, ready) = answer(server.http.get(format!("{}/readyz", server.url))).await;
        let short = ready["status"].as_str().unwrap().starts_with("short of ");
        assert!(status == 200 || short, "{ready}");
        status == 200
    });
    timeout(RESPONSE_TIMEOUT, ready).await.expect("the server is still not ready");
}

#[server_test]
async fn nothing_is_created_on_a_full_disk() {
    let disk = SmallDisk::new(600);
    let server =
        Server::start_in(disk.data(), tempfile::tempdir().unwrap(), &["--disk-reserve-mib", "200"]);
    let tenant = server.tenant().await;
    let id = tenant.create().await;
    let large = json!({ "image": "host", "disk_mib": 100_000 });
    refused(&tenant.post("/v1/runs", large).await, 400, "invalid_request", "disk_mib is 100000");
    let filler = disk.mounted.path().join("filler");
    fill(&filler, 150 << 20, disk.mounted.path());
    let short = wait_for("the server is short of disk", async || {
        let (status, ready) = answer(server.http.get(format!("{}/readyz", server.url))).await;
        (status == 503).then_some(ready)
    });
    let ready =
        timeout(RESPONSE_TIMEOUT, short).await.expect("the server still reports that it is ready");
    assert_eq!(ready["status"], "short of disk");
    for (path, body) in [
        ("/v1/runs".to_owned(), json!({ "image": "host" })),
        (format!("/v1/runs/{id}/fork"), json!({})),
        (format!("/v1/runs/{id}/snapshot"), json!({})),
    ] {
        let response = tenant.request(Method::POST, &path).json(&body).send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"), "{path}");
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        refused(&(status, body), 503, "unavailable", "--disk-reserve-mib");
    }
    // Existing sandboxes keep running: they use very little.
    assert_eq!(tenant.exec(&id, "echo here").await["stdout"], "here\n");
    std::fs::remove_file(&filler).unwrap();
    wait_until_ready(&server).await;
    tenant.assert_served().await;
}

/// Fills a disk until only this number of bytes is free.
fn fill(file: &Path, leave: u64, disk: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(file).unwrap();
    loop {
        let free = rustix::fs::statvfs(disk).unwrap();
        if free.f_bavail * free.f_frsize <= leave {
            return;
        }
        file.write_all(&[1; 1 << 20]).unwrap();
    }
}

#[server_test]
async fn exceeding_the_memory_share_terminates_the_largest_sandbox() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let available: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    // About 700 MiB.
    let percent = (700 * 1024 * 100 / available).clamp(1, 100).to_string();
    let server = Server::start_with(&[
        "--tenant-share",
        &percent,
        "--mem-reserve-mib",
        "16",
        "--max-mem-mib",
        "4096",
    ]);
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    let small = neighbour.create().await;
    let large = attacker.create_with(json!({ "mem_mib": 4096 })).await;
    let modest = attacker.create().await;
    let path = format!("/v1/runs/{large}/exec");
    let hog = "python3 -c 'import time; x = bytearray(b\"1\") * (2 << 30); time.sleep(1000)'";
    let outcome = attacker.post(&path, json!({ "command": hog, "timeout": 60 })).await;
    refused(&outcome, 410, "sandbox_died", "--tenant-share");
    assert_eq!(attacker.exec(&modest, "echo here").await["stdout"], "here\n");
    assert_eq!(neighbour.exec(&small, "echo here").await["stdout"], "here\n");
    neighbour.assert_served().await;
}

#[server_test(args = ["--max-sandboxes", "2", "--max-snapshots", "2"])]
async fn sandbox_and_snapshot_limits_are_enforced(server: &Server) {
    let (one, other) = (server.tenant().await, server.tenant().await);
    let first = one.create_with(json!({ "mem_mib": 256 })).await;
    let second = one.create_with(json!({ "mem_mib": 256 })).await;
    for tenant in [&one, &other] {
        let more = tenant.post("/v1/runs", json!({ "image": "host" })).await;
        // With so few sandboxes, the share of one tenant is all of them.
        let (status, code) =
            if std::ptr::eq(tenant, &one) { (429, "too_many_runs") } else { (503, "unavailable") };
        refused(&more, status, code, "2");
    }
    let fork = one.post(&format!("/v1/runs/{second}/fork"), json!({})).await;
    refused(&fork, 429, "too_many_runs", "2");
    one.destroy(&second).await;
    other.assert_served().await;
    let snapshot = format!("/v1/runs/{first}/snapshot");
    let mut taken = Vec::new();
    for _ in 0..2 {
        let (status, body) = one.post(&snapshot, json!({})).await;
        assert_eq!(status, 200, "{body}");
        taken.push(body["snapshot_id"].as_str().unwrap().to_owned());
    }
    refused(&one.post(&snapshot, json!({})).await, 429, "too_many_requests", "--max-snapshots");
    let path = format!("/v1/snapshots/{}", taken[0]);
    assert_eq!(answer(one.request(Method::DELETE, &path)).await.0, 200);
    assert_eq!(one.post(&snapshot, json!({})).await.0, 200);
}

#[server_test]
async fn invalid_limits_are_refused_at_startup(server: &Server) {
    for (option, value) in [
        ("--tenant-share", "0"),
        ("--tenant-share", "101"),
        ("--head-timeout", "0"),
        ("--idle-timeout", "soon"),
        ("--max-connections", "1"),
        ("--max-connections-per-address", "0"),
        ("--max-snapshots", "0"),
        ("--disk-reserve-mib", "much"),
    ] {
        let output = server.run(&["serve", option, value]).await;
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(option), "{stderr}");
    }
    let help = server.run(&["serve", "--help"]).await;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for option in [
        "--tenant-share",
        "--max-sandboxes",
        "--max-snapshots",
        "--max-pulls",
        "--max-held-memory-mib",
        "--disk-reserve-mib",
        "--mem-reserve-mib",
        "--pids-reserve",
        "--max-connections",
        "--max-connections-per-address",
        "--head-timeout",
        "--idle-timeout",
        "--key-timeout",
        "--answer-timeout",
        "--body-timeout",
        "--min-body-rate",
        "--keep-history",
        "--max-history",
    ] {
        assert!(help.contains(option), "{option} is missing");
        let page = include_str!("../../../../../docs/isorun/server.md");
        assert!(page.contains(option), "{option} is missing in docs/isorun/server.md");
    }
}

#[server_test]
async fn low_descriptor_limit_is_shared() {
    let server = Server::start_limited("ulimit -Sn 300 && ulimit -Hn 512", &[]);
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    // The number of unauthenticated connections is limited for each address.
    let attacker = attacker.at(OTHER_ADDRESS);
    let id = attacker.create().await;
    let path = format!("/v1/runs/{id}/exec/stream");
    // Commands that run until all are answered, each with a connection into the sandbox.
    let command = json!({ "command": "echo started; sleep 600", "timeout": 0 });
    let commands = join_all((0..150).map(|_| async {
        // A connection beyond the limit may be closed before its request is read.
        let sent = attacker.request(Method::POST, &path).json(&command).send().await;
        let mut answer = sent.ok()?;
        let first = answer.chunk().await.ok()??;
        Some((String::from_utf8_lossy(&first).into_owned(), answer))
    }));
    let (commands, ()) = tokio::join!(commands, assert_others_served(&server, &neighbour));
    assert_others_served(&server, &neighbour).await;
    assert!(server.descriptors() < 512 - 16, "{}", server.descriptors());
    let (started, refused): (Vec<_>, Vec<_>) = commands
        .iter()
        .flatten()
        .map(|(first, _)| first)
        .partition(|first| first.contains("started"));
    assert!((10..=32).contains(&started.len()), "{}: {refused:?}", started.len());
    assert!(refused.iter().all(|first| first.contains("too_many_requests")), "{refused:?}");
    drop(commands);
    // Connections of a client that has sent its key, and then nothing else.
    let mut sockets = Vec::new();
    let request = format!(
        "GET /v1/runs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        attacker.key
    );
    for _ in 0..400 {
        let mut socket = connect(&server).await;
        let _ = socket.write_all(request.as_bytes()).await;
        sockets.push(socket);
    }
    assert_others_served(&server, &neighbour).await;
    assert!(server.descriptors() < 512 - 16, "{}", server.descriptors());
    drop(sockets);
    assert_others_served(&server, &neighbour).await;
}

/// CPU time is divided between tenants, not between sandboxes.
#[server_test(alone = true)]
async fn cpu_time_is_divided_between_tenants(server: &Server) {
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    let spin = async |tenant: &Tenant, id: &str| {
        let path = format!("/v1/runs/{id}/exec/stream");
        let body = json!({ "command": "while :; do :; done", "timeout": 0 });
        let answer = tenant.request(Method::POST, &path).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    };
    let used = async |tenant: &Tenant, id: &str| {
        let (status, stats) = tenant.get(&format!("/v1/runs/{id}/stats")).await;
        assert_eq!(status, 200, "{stats}");
        stats["cpu_ms"].as_u64().unwrap()
    };
    let own = neighbour.create().await;
    let ids = join_all((0..6).map(|_| attacker.create())).await;
    let mut running = vec![spin(&neighbour, &own).await];
    for id in &ids {
        running.push(spin(&attacker, id).await);
    }
    let all = async || {
        let others = join_all(ids.iter().map(|id| used(&attacker, id))).await;
        (used(&neighbour, &own).await, others.into_iter().sum::<u64>())
    };
    // The usage is measured every second. If CPU time were divided between sandboxes, the
    // neighbour would get a seventh.
    loop {
        let before = all().await;
        // The interval of the measurement.
        sleep(Duration::from_secs(2)).await;
        let after = all().await;
        if (after.0 - before.0) * 2 > after.1 - before.1 {
            break;
        }
    }
    neighbour.assert_served().await;
    drop(running);
}
