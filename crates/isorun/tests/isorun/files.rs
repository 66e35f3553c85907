//! Uploads and downloads of files.

use std::time::Duration;

use futures_util::stream;
use reqwest::{Body, Method};
use serde_json::json;
use test_macros::server_test;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Server, answer, refused};

#[server_test]
async fn uploaded_bytes_are_downloaded_unchanged(server: &Server) {
    let id = server.create().await;
    let files = format!("/v1/runs/{id}/files");
    let every: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
    for (path, content) in [
        ("/job/deep/er/data.bin", every.as_slice()),
        ("/tmp/empty", b""),
        ("/tmp/name with \u{e9} & ? #", b"odd"),
    ] {
        let upload = server.request(Method::POST, &format!("{files}/upload"));
        let upload = upload.query(&[("path", path)]).body(content.to_vec());
        let expected = json!({ "path": path, "size": content.len() });
        assert_eq!(answer(upload).await, (reqwest::StatusCode::OK, expected));
        let download = server.request(Method::GET, &format!("{files}/download"));
        let response = download.query(&[("path", path)]).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        assert!(response.bytes().await.unwrap() == content, "{path}");
    }
    let (_, listed) = server.get(&format!("{files}?path=/job/deep")).await;
    assert_eq!(listed, json!({ "entries": ["er"] }));
    // Replace a file, with other permissions.
    let upload = server.request(Method::POST, &format!("{files}/upload"));
    let upload = upload.query(&[("path", "/tmp/empty"), ("mode", "750")]).body("now not");
    assert_eq!(answer(upload).await.0, 200);
    let seen = server.exec(&id, "stat -c %a /tmp/empty; cat /tmp/empty").await;
    assert_eq!(seen["stdout"], "750\nnow not");
}

/// Linux allows every byte but `/` and NUL in a file name.
#[server_test]
async fn file_names_need_not_be_utf8(server: &Server) {
    let id = server.create().await;
    let files = format!("/v1/runs/{id}/files");
    let made = server
        .exec(&id, r"mkdir /srv/n; cd /srv/n; printf one > $(printf 'caf\351'); mkdir $(printf '\377\200')")
        .await;
    assert_eq!(made["exit_code"], 0, "{made}");
    let download = async |path: &str| {
        let path = format!("{files}/download?path={path}");
        server.request(Method::GET, &path).send().await.unwrap()
    };
    assert_eq!(download("/srv/n/caf%E9").await.bytes().await.unwrap(), "one");
    let missing = download("/srv/n/caf%E8").await;
    assert_eq!(missing.status(), 404);
    for (name, content) in [("%FF%80/in+a%2Bb%20c", "two"), ("%C3", "three")] {
        let path = format!("{files}/upload?path=/srv/n/{name}");
        assert_eq!(answer(server.request(Method::POST, &path).body(content)).await.0, 200);
        assert_eq!(download(&format!("/srv/n/{name}")).await.bytes().await.unwrap(), content);
    }
    let (_, listed) = server.get(&format!("{files}?path=/srv/n/")).await;
    let expected = json!({
        "entries": ["caf\u{fffd}", "\u{fffd}", "\u{fffd}\u{fffd}"],
        "encoded_entries": ["caf%E9", "%C3", "%FF%80"],
    });
    assert_eq!(listed, expected);
    let (_, listed) = server.get(&format!("{files}?path=/srv/n/%FF%80")).await;
    assert_eq!(listed, json!({ "entries": ["in a+b c"] }));
    for (path, error) in [("/a%00b", "NUL byte at offset 2"), ("/%FF/../x", "`..`")] {
        let path = format!("{files}/download?path={path}");
        refused(&answer(server.request(Method::GET, &path)).await, 400, "invalid_request", error);
    }
}

#[server_test]
async fn aborted_upload_changes_nothing(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "echo before > /tmp/file").await;
    let upload =
        server.request(Method::POST, &format!("/v1/runs/{id}/files/upload?path=/tmp/file"));
    let pieces = stream::iter([Ok(vec![b'x'; 100_000]), Err("cut")]);
    let sent = upload.body(Body::wrap_stream(pieces)).send().await;
    assert!(sent.is_err(), "{sent:?}");
    let seen = server.exec(&id, "cat /tmp/file; ls -A /tmp").await;
    assert_eq!(seen["stdout"], "before\nfile\n", "a temporary file is left");
}

/// Not every client reads a response before it has sent its request.
#[server_test]
async fn a_refusal_is_seen_by_a_client_that_sends_everything_first(server: &Server) {
    let id = server.create().await;
    server.destroy(&id).await;
    let body = vec![0; 64 << 20];
    let head = format!(
        "POST /v1/runs/{id}/files/upload?path=/tmp/file HTTP/1.1\r\nhost: a\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        server.key,
        body.len()
    );
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("run_destroyed"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[server_test(args = ["--max-upload", "1000"])]
async fn upload_size_limit_is_enforced(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/files/upload?path=/tmp/file");
    let upload = server.request(Method::POST, &path).body(vec![0; 1001]);
    refused(&answer(upload).await, 413, "too_large", "1000 bytes");
    // Without `content-length`.
    let pieces = stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(vec![0; 500])));
    let pieces = server.request(Method::POST, &path).body(Body::wrap_stream(pieces));
    refused(&answer(pieces).await, 413, "too_large", "1000 bytes");
    assert_eq!(server.exec(&id, "ls -A /tmp").await["stdout"], "");
    let fits = server.request(Method::POST, &path).body(vec![0; 1000]);
    assert_eq!(answer(fits).await.0, 200);
}

#[server_test]
async fn file_errors_name_the_cause(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "mkfifo /tmp/pipe; ln -s /tmp/loop /tmp/loop").await;
    let files = format!("/v1/runs/{id}/files");
    for (path, status, code) in [
        ("/download?path=/nothing", 404, "file_not_found"),
        ("/download?path=/tmp", 400, "file_error"),
        ("/download?path=/tmp/pipe", 400, "file_error"),
        ("/download?path=/tmp/loop", 400, "file_error"),
        ("?path=/nothing", 404, "file_not_found"),
        ("?path=/etc/passwd", 400, "file_error"),
    ] {
        refused(&server.get(&format!("{files}{path}")).await, status, code, "");
    }
    for path in ["/tmp", "/etc/passwd/below"] {
        let upload = server.request(Method::POST, &format!("{files}/upload?path={path}"));
        refused(&answer(upload.body("x")).await, 400, "file_error", path);
    }
}

#[server_test]
async fn full_disk_is_reported(server: &Server) {
    let id = server.create_with(json!({ "disk_mib": 16 })).await;
    let upload = server.request(Method::POST, &format!("/v1/runs/{id}/files/upload?path=/tmp/big"));
    let full = answer(upload.body(vec![1; 64 << 20])).await;
    refused(&full, 507, "sandbox_full", "/tmp/big");
    assert_eq!(server.exec(&id, "ls -A /tmp").await["stdout"], "", "a part of it is left");
    assert_eq!(server.exec(&id, "echo ok").await["stdout"], "ok\n");
}

#[server_test]
async fn download_is_aborted_when_the_run_ends(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "truncate -s 10G /tmp/big").await;
    let path = format!("/v1/runs/{id}/files/download?path=/tmp/big");
    let mut response = server.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.chunk().await.unwrap().unwrap();
    server.destroy(&id).await;
    // The client must not take it for a complete file.
    let broken = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the response looks complete"),
                Err(error) => break error,
            }
        }
    });
    broken.await.unwrap();
}
