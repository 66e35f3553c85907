//! The audit log, and the detection of changes in it.

use std::fs;

use reqwest::Method;
use serde_json::Value;
use test_macros::server_test;

use crate::support::Server;

#[server_test]
async fn log_is_complete_and_changes_are_detected(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "exit 3").await;
    server.destroy(&id).await;
    let path = format!("/v1/runs/{id}/audit");
    let response = server.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = entries.iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["sandbox.created", "exec.start", "exec.exit", "sandbox.destroyed"]);
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(entry["seq"], at + 1);
        assert_eq!(entry["sandbox_id"], id);
        assert_eq!(entry["hmac"].as_str().unwrap().len(), 64);
        assert!(entry["ts"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(entries[1]["data"]["command"]["argv"][2], "exit 3");
    assert_eq!(entries[2]["data"]["exit_code"], 3);
    assert_eq!(entries[1]["data"]["exec"], entries[2]["data"]["exec"]);

    let verified = server.run(&["audit", "verify"]).await;
    let stdout = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && stdout.contains("4 entries in 1 logs hold"), "{stdout}");

    // A log in a file is verified, too, and changes in it are detected.
    let file = server.home.path().join("log.ndjson");
    let name = file.to_str().unwrap();
    let verify = async |content: &str| {
        fs::write(&file, content).unwrap();
        server.run(&["audit", "verify", "--file", name]).await
    };
    assert!(verify(&text).await.status.success());
    for changed in [
        text.replace("exit 3", "exit 0"),
        text.replace("\"seq\":3", "\"seq\":2"),
        text.lines().skip(1).map(|line| format!("{line}\n")).collect(),
    ] {
        let output = verify(&changed).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&id));
    }
    let garbage = verify("nonsense\n").await;
    assert_eq!(garbage.status.code(), Some(2), "{garbage:?}");
    // A log cannot be verified with the secret of another server.
    let elsewhere = Server::start();
    let output = elsewhere.run(&["audit", "verify", "--file", name]).await;
    assert!(!output.status.success());
}
