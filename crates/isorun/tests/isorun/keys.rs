//! API keys and tenants.

use reqwest::Method;
use serde_json::json;
use test_macros::server_test;

use crate::support::{Server, answer, refused};

#[server_test]
async fn requests_without_a_valid_key_are_refused(server: &Server) {
    let mut changed = server.key.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == '0' { '1' } else { '0' });
    let id = "run0123456789abcdef";
    let paths = [
        (Method::GET, "/v1/runs".to_owned()),
        (Method::POST, "/v1/runs".to_owned()),
        (Method::GET, format!("/v1/runs/{id}")),
        (Method::POST, format!("/v1/runs/{id}/exec")),
        (Method::GET, format!("/v1/runs/{id}/terminal")),
        (Method::GET, format!("/v1/runs/{id}/files/download?path=/etc/passwd")),
        (Method::GET, format!("/v1/runs/{id}/audit")),
        (Method::GET, "/v1/usage".to_owned()),
        (Method::GET, "/metrics".to_owned()),
    ];
    for (method, path) in paths {
        let url = format!("{}{path}", server.url);
        let none = answer(server.http.request(method.clone(), &url)).await;
        refused(&none, 401, "unauthorized", "no API key");
        for key in [changed.as_str(), "isorun_live_local_0_00", "", "\u{1f600}"] {
            let request = server.http.request(method.clone(), &url);
            let wrong = answer(request.header("authorization", format!("Bearer {key}"))).await;
            refused(&wrong, 401, "unauthorized", "");
        }
    }
    let basic = server.http.get(format!("{}/v1/runs", server.url)).basic_auth("a", Some("b"));
    refused(&answer(basic).await, 401, "unauthorized", "not `Bearer`");
}

#[server_test]
async fn revoked_key_is_refused_immediately(server: &Server) {
    let key = server.new_key(&[]).await;
    let list = || answer(server.http.get(format!("{}/v1/runs", server.url)).bearer_auth(&key));
    assert_eq!(list().await.0, 200);
    let id = key.rsplit('_').nth(1).unwrap();
    assert!(server.run(&["keys", "revoke", id]).await.status.success());
    refused(&list().await, 401, "unauthorized", "revoked");
    let again = server.run(&["keys", "revoke", id]).await;
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let listed = String::from_utf8(server.run(&["keys", "ls"]).await.stdout).unwrap();
    assert!(listed.contains(id), "{listed}");
    assert!(!listed.contains(&key), "the list contains a secret key");
}

#[server_test]
async fn runs_of_other_tenants_are_invisible(server: &Server) {
    let id = server.create().await;
    let other_key = server.new_key(&[]).await;
    let ask = |method: Method, path: &str| {
        server.http.request(method, format!("{}{path}", server.url)).bearer_auth(&other_key)
    };
    let run = format!("/v1/runs/{id}");
    let exec = json!({ "command": "true" });
    for request in [
        ask(Method::GET, &run),
        ask(Method::PATCH, &run).json(&json!({ "timeout": 1 })),
        ask(Method::DELETE, &run),
        ask(Method::GET, &format!("{run}/stats")),
        ask(Method::POST, &format!("{run}/exec")).json(&exec),
        ask(Method::POST, &format!("{run}/exec/stream")).json(&exec),
        ask(Method::GET, &format!("{run}/exec/attach")),
        ask(Method::GET, &format!("{run}/terminal")),
        ask(Method::POST, &format!("{run}/files/upload?path=/tmp/a")).body("a"),
        ask(Method::GET, &format!("{run}/files/download?path=/etc/hostname")),
        ask(Method::GET, &format!("{run}/files?path=/")),
        ask(Method::GET, &format!("{run}/audit")),
    ] {
        refused(&answer(request).await, 404, "run_not_found", &id);
    }
    assert_eq!(answer(ask(Method::GET, "/v1/runs")).await.1, json!({ "runs": [] }));
    let usage = answer(ask(Method::GET, "/v1/usage")).await.1;
    assert_eq!(usage["active_sandboxes"], 0);
    // Its owner can still access it, also with a second key of the same tenant.
    assert_eq!(server.exec(&id, "echo here").await["stdout"], "here\n");
    let colleague = server.new_key(&["--tenant", "local"]).await;
    let same = server.http.get(format!("{}{run}", server.url)).bearer_auth(colleague);
    assert_eq!(answer(same).await.0, 200);
    server.destroy(&id).await;
    let past = answer(ask(Method::GET, "/v1/runs/history")).await.1;
    assert_eq!(past, json!({ "sandboxes": [] }));
    // Other tenants cannot distinguish a destroyed sandbox from one that never existed.
    refused(&answer(ask(Method::GET, &run)).await, 404, "run_not_found", &id);
}

#[server_test]
async fn metrics_require_an_admin_key(server: &Server) {
    let id = server.create().await;
    server.exec(&id, "true").await;
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(metrics.status(), 200);
    let text = metrics.text().await.unwrap();
    for line in ["isorun_runs_created_total 1", "isorun_execs_total 1", "isorun_runs_active 1"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(!text.contains(&id), "the metrics contain the id of a sandbox");
    let key = server.new_key(&[]).await;
    let other = server.http.get(format!("{}/metrics", server.url)).bearer_auth(key);
    refused(&answer(other).await, 403, "forbidden", "--admin");
}

#[server_test(args = ["--rate", "1"])]
async fn rate_limit_is_enforced_with_retry_after(server: &Server) {
    let mut refusals = 0;
    for _ in 0..5 {
        let response = server.request(Method::GET, "/v1/runs").send().await.unwrap();
        if response.status() == 429 {
            let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=3).contains(&wait), "{wait}");
            refusals += 1;
        }
    }
    assert!(refusals >= 2, "{refusals}");
    // Other keys are not limited, and health checks are not counted.
    let key = server.new_key(&[]).await;
    let other = server.http.get(format!("{}/v1/runs", server.url)).bearer_auth(key);
    assert_eq!(answer(other).await.0, 200);
    let health = server.http.get(format!("{}/healthz", server.url));
    assert_eq!(answer(health).await.0, 200);
}
