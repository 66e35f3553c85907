//! Requests, the memory that they use, and the data that is kept about them.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{RESPONSE_TIMEOUT, assert_others_served, connect, read_until_closed};
use crate::support::{Server, answer, refused};

#[server_test(args = ["--max-requests", "200", "--body-timeout", "4s", "--max-runs", "5"])]
async fn stalled_bodies_count_only_against_their_tenant(server: &Server) {
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    let id = attacker.create().await;
    for (path, head, first) in [
        ("/v1/runs", "content-length: 100", "{"),
        ("/v1/runs", "transfer-encoding: chunked", "1\r\n{\r\n"),
        (&format!("/v1/runs/{id}/exec"), "content-length: 1000000", "{"),
        (&format!("/v1/runs/{id}/files/upload?path=/tmp/a"), "content-length: 100", "x"),
        (&format!("/v1/runs/{id}/fork"), "transfer-encoding: chunked", ""),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\n{head}\r\n\r\n{first}",
            attacker.key
        );
        let started = Instant::now();
        let mut sockets = Vec::new();
        for _ in 0..150 {
            let mut socket = connect(server).await;
            socket.write_all(request.as_bytes()).await.unwrap();
            sockets.push(socket);
        }
        assert_others_served(server, &neighbour).await;
        let ends =
            sockets.into_iter().map(|socket| read_until_closed(socket, RESPONSE_TIMEOUT * 2));
        let ends = join_all(ends).await;
        assert!(started.elapsed() < RESPONSE_TIMEOUT * 3, "{:?}", started.elapsed());
        let count = |text: &str| ends.iter().filter(|end| end.contains(text)).count();
        assert_eq!(count("HTTP/1.1 408 "), 100, "{path} {head}: within the share: {ends:?}");
        assert_eq!(count("HTTP/1.1 429 "), 50, "{path} {head}: beyond the share");
        let over = ends.iter().find(|end| end.contains(" 429 ")).unwrap();
        for part in ["retry-after: ", "--max-requests", "100 of the server's 200"] {
            assert!(over.contains(part), "{part:?} is missing: {over}");
        }
    }
    attacker.destroy(&id).await;
    attacker.assert_served().await;
}

#[server_test(args = ["--body-timeout", "1s", "--min-body-rate", "1000"])]
async fn minimum_body_rate_is_enforced(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/files/upload?path=/tmp/file");
    let upload = |bytes: usize, pieces: usize| {
        let body = stream::iter(0..pieces).then(move |_| async move {
            // The rate of the upload is what is tested.
            sleep(Duration::from_millis(200)).await;
            Ok::<_, std::io::Error>(vec![7_u8; bytes])
        });
        let body = reqwest::Body::wrap_stream(body);
        answer(server.request(Method::POST, &path).body(body))
    };
    let (status, written) = upload(2_000, 20).await;
    assert_eq!((status.as_u16(), &written["size"]), (200, &json!(40_000)));
    let started = Instant::now();
    refused(&upload(10, 1_000).await, 408, "request_timeout", "1000 bytes per second");
    assert!(started.elapsed() < RESPONSE_TIMEOUT, "{:?}", started.elapsed());
    let kept = server.exec(&id, "wc -c < /tmp/file").await;
    assert_eq!(kept["stdout"], "40000\n", "a part of the second upload was written");
}

#[server_test]
async fn arbitrary_requests_leave_no_series_and_no_memory(server: &Server) {
    let metrics = async || {
        let text = server.request(Method::GET, "/metrics").send().await.unwrap().text().await;
        text.unwrap().lines().count()
    };
    server.get("/v1/runs").await;
    let send = async |request: String| {
        let mut socket = connect(server).await;
        let _ = socket.write_all(request.as_bytes()).await;
        let mut byte = [0; 1];
        let _ = timeout(RESPONSE_TIMEOUT, socket.read(&mut byte)).await;
    };
    // The first requests fill the allocator's caches.
    for number in 0..200 {
        send(format!("M{number}{} / HTTP/1.1\r\nhost: x\r\n\r\n", "X".repeat(50_000))).await;
    }
    let (lines, memory) = (metrics().await, server.memory_mib());
    for number in 0..1500 {
        let long = "Y".repeat(50_000);
        send(match number % 4 {
            0 => format!("N{number}{long} / HTTP/1.1\r\nhost: x\r\n\r\n"),
            1 => format!("GET /{number}{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
            2 => format!(
                "GET /v1/runs/{number} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {long}\r\n\r\n"
            ),
            _ => format!("Q{number} /v1/runs HTTP/1.1\r\nhost: {number}.example\r\n\r\n"),
        })
        .await;
    }
    assert!(metrics().await <= lines + 10, "{} after {lines}", metrics().await);
    let after = server.memory_mib();
    assert!(after < memory + 40, "{after} MiB after {memory} MiB");
    server.assert_served().await;
}

/// 16 MiB of characters that take six bytes each in JSON, in each of 20 responses.
#[server_test(args = ["--max-held-memory-mib", "256"])]
async fn json_escaped_output_stays_within_the_memory_limit(server: &Server) {
    let neighbour = server.tenant().await;
    let id = server.create().await;
    server.exec(&id, "head -c 8388608 /dev/zero | tr '\\0' '\\1' > /dev/shm/ones").await;
    let before = server.memory_mib();
    let command = "cat /dev/shm/ones; cat /dev/shm/ones >&2";
    let path = format!("/v1/runs/{id}/exec");
    let exec = async || {
        let request = server.request(Method::POST, &path);
        let response = request.json(&json!({ "command": command })).send().await.unwrap();
        if response.status() != 200 {
            panic!("{}: {}", response.status(), response.text().await.unwrap());
        }
        let mut body = response.bytes_stream();
        let (mut bytes, mut end) = (0, Vec::new());
        while let Some(piece) = body.next().await {
            let piece = piece.unwrap();
            bytes += piece.len();
            end.extend_from_slice(&piece);
            let rest = end.len().saturating_sub(100);
            end.drain(..rest);
        }
        let complete = bytes > 6 * (16 << 20);
        let truncated = String::from_utf8_lossy(&end).contains("_truncated\":true");
        assert!(complete != truncated, "{bytes} bytes, and it ends with {end:?}");
        complete
    };
    let all = join_all((0..20).map(|_| exec()));
    tokio::join!(all, assert_others_served(server, &neighbour));
    let peak = server.status_kib("VmHWM") / 1024;
    assert!(peak < before + 256, "{peak} MiB after {before} MiB");
    // One at a time, the responses are complete.
    assert!(exec().await && exec().await);
    // The memory is released, however often it was used.
    join_all((0..20).map(|_| exec())).await;
    let released = wait_until("the memory is released", async || {
        server.assert_served().await;
        server.memory_mib() <= before + 64
    });
    timeout(RESPONSE_TIMEOUT, released)
        .await
        .unwrap_or_else(|_| panic!("{} MiB after {before} MiB", server.memory_mib()));
}

#[server_test(seconds = 240)]
async fn long_history_does_not_delay_requests(server: Server) {
    const RUNS: u32 = 50_000;
    let (data, home) = server.stop(Signal::TERM).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let base = i64::try_from(now.as_millis()).unwrap() - 3_600_000;
    {
        let mut file = rusqlite::Connection::open(data.path().join("isorun.db")).unwrap();
        let transaction = file.transaction().unwrap();
        for number in 0..RUNS {
            transaction
                .prepare_cached(
                    "INSERT INTO runs (id, tenant, image, digest, status, vcpus, mem_mib, disk_mib,
                     timeout_ms, defaults, create_ms, created_at, destroyed_at, cpu_ms)
                     VALUES (?, 'local', 'host', '', 'destroyed', 1, 1024, 1, 0, '{}', 1, ?, ?, 100)",
                )
                .unwrap()
                .execute((
                    format!("run{number:016x}"),
                    base,
                    base + i64::from(number / 2),
                ))
                .unwrap();
        }
        transaction.commit().unwrap();
    }
    let server = Server::start_in(data, home, &[]);
    let neighbour = server.tenant().await;
    let median = async |path: &str| {
        let mut times = Vec::new();
        for _ in 0..15 {
            let started = Instant::now();
            let (status, body) = server.get(path).await;
            assert_eq!(status, 200, "{body}");
            times.push(started.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    let simple = median("/v1/runs").await;
    for path in ["/v1/usage", "/v1/runs/history?limit=10"] {
        let long = median(path).await;
        assert!(long < simple * 5 + Duration::from_millis(10), "{path}: {long:?}, {simple:?}");
    }
    let usage = server.get("/v1/usage").await.1;
    assert_eq!(usage["history_sandboxes"], RUNS);
    assert_eq!(usage["cpu_seconds"], f64::from(RUNS) / 10.0);
    // The pages contain all sandboxes, the latest first.
    let (mut seen, mut before) = (Vec::new(), String::new());
    while seen.len() < 5_000 {
        let (status, page) = server.get(&format!("/v1/runs/history?limit=1000{before}")).await;
        assert_eq!(status, 200, "{page}");
        let page = page["sandboxes"].as_array().unwrap().clone();
        assert_eq!(page.len(), 1000);
        before = format!("&before={}", page[999]["id"].as_str().unwrap());
        seen.extend(page.iter().map(|run| run["id"].as_str().unwrap().to_owned()));
    }
    let expected: Vec<_> = (0..5_000).map(|at| format!("run{:016x}", RUNS - 1 - at)).collect();
    assert_eq!(seen, expected);
    // While one tenant reads its history, another is served.
    let reading = async {
        loop {
            server.get("/v1/runs/history?limit=1000").await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = assert_others_served(&server, &neighbour) => {}
    }
    let foreign = neighbour.get("/v1/runs/history?before=run0000000000000001").await;
    assert_eq!(foreign.1, json!({ "sandboxes": [] }));
}

/// Lists many long file names.
#[server_test(args = ["--max-held-memory-mib", "64"])]
async fn large_directory_listing_stays_within_the_memory_limit(server: &Server) {
    let id = server.create().await;
    let make = "import os\nos.makedirs('/tmp/many')\nfor i in range(30000): open(f'/tmp/many/{i:05}' + '\\u00e9' * 100, 'w').close()";
    let made = server
        .post(
            &format!("/v1/runs/{id}/exec"),
            json!({ "command": ["python3", "-c", make], "timeout": 100 }),
        )
        .await;
    assert_eq!(made.1["exit_code"], 0, "{}", made.1);
    let before = server.memory_mib();
    let path = format!("/v1/runs/{id}/files?path=/tmp/many");
    let list = async || {
        let response = server.request(Method::GET, &path).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap())
    };
    let (status, body) = list().await;
    let names: Value = serde_json::from_slice(&body).unwrap();
    assert!(status == 200, "{status}: {names}");
    assert_eq!((status, names["entries"].as_array().unwrap().len()), (200, 30_000));
    let answers = join_all((0..20).map(|_| list())).await;
    assert!(answers.iter().any(|(status, _)| *status == 200));
    for (status, body) in answers {
        let body: Value = serde_json::from_slice(&body).unwrap();
        match status {
            200 => assert_eq!(body["entries"].as_array().unwrap().len(), 30_000),
            _ => refused(
                &(reqwest::StatusCode::from_u16(status).unwrap(), body),
                429,
                "too_many_requests",
                "--max-held-memory-mib",
            ),
        }
    }
    let peak = server.status_kib("VmHWM") / 1024;
    assert!(peak < before + 150, "{peak} MiB after {before} MiB");
}
