//! What runs of both kinds do alike, on Python: each case runs in a Linux sandbox and in an
//! interpreter.

use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_for;

use crate::support::{
    ExternalServices, Server, answer, refused,
    services::{PLACEHOLDER, SECRET},
};

const IMAGES: [&str; 2] = ["host", "isola:python"];

#[server_test]
async fn code_keeps_its_state_and_reports_errors(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({})).await;
        let first = server
            .cell(&id, "import sys\nx = 20\nprint('out')\nprint('err', file=sys.stderr)")
            .await;
        assert_eq!(first["execution_count"], 1, "{image}: {first}");
        let text = |stream: &str| {
            let pieces = first["logs"][stream].as_array().unwrap();
            pieces.iter().map(|piece| piece.as_str().unwrap()).collect::<String>()
        };
        assert_eq!((text("stdout").as_str(), text("stderr").as_str()), ("out\n", "err\n"));
        assert_eq!(server.value(&id, "x + 1").await, "21");
        let failed = server.cell(&id, "1 / 0").await;
        assert_eq!(failed["error"]["name"], "ZeroDivisionError", "{image}: {failed}");
        let traceback = failed["error"]["traceback"].as_str().unwrap();
        assert!(traceback.contains("1 / 0"), "{image}: {traceback}");
        assert_eq!(server.value(&id, "x").await, "20");
        assert_eq!(server.value(&id, "import asyncio\nawait asyncio.sleep(0, x)").await, "20");
    }
}

#[server_test]
async fn contexts_are_separate(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({})).await;
        server.value(&id, "x = 1").await;
        let contexts = format!("/v1/runs/{id}/contexts");
        let (status, context) = server.post(&contexts, json!({})).await;
        assert_eq!(status, 200, "{image}: {context}");
        let other = context["id"].as_str().unwrap().to_owned();
        let cell = async |code: &str| {
            let body = json!({ "code": code, "context": other });
            server.try_cell(&id, body).await.1
        };
        assert_eq!(cell("x").await["error"]["name"], "NameError", "{image}");
        cell("y = 2").await;
        assert_eq!(cell("y").await["results"][0]["data"]["text/plain"], "2", "{image}");
        let (_, list) = server.get(&contexts).await;
        let list = list["contexts"].as_array().unwrap();
        let found: Vec<_> = list.iter().map(|context| context["id"].as_str().unwrap()).collect();
        assert!(
            found.contains(&"default") && found.contains(&other.as_str()),
            "{image}: {found:?}"
        );
        let restarted = server.post(&format!("{contexts}/{other}/restart"), json!({})).await;
        assert_eq!(restarted.0, 200, "{image}: {restarted:?}");
        assert_eq!(cell("y").await["error"]["name"], "NameError", "{image}");
        let interrupted = server.post(&format!("{contexts}/{other}/interrupt"), json!({})).await;
        assert_eq!(interrupted.0, 200, "{image}: {interrupted:?}");
        let remove = server.request(Method::DELETE, &format!("{contexts}/{other}"));
        assert_eq!(answer(remove).await.0, 200);
        let gone = server.try_cell(&id, json!({ "code": "1", "context": other })).await;
        refused(&gone, 404, "context_not_found", &other);
        assert_eq!(server.value(&id, "x").await, "1");
    }
}

#[server_test]
async fn files_are_shared_with_code(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({})).await;
        server.upload(&id, "/tmp/a/in.txt", "from outside").await;
        assert_eq!(server.value(&id, "open('/tmp/a/in.txt').read()").await, "'from outside'");
        server.value(&id, "open('/tmp/a/out.bin', 'wb').write(bytes(range(256)))").await;
        let path = format!("/v1/runs/{id}/files/download?path=/tmp/a/out.bin");
        let response = server.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.headers()["x-file-mode"], "644", "{image}");
        assert_eq!(response.bytes().await.unwrap(), (0..=255).collect::<Vec<u8>>());
        let (_, list) = server.get(&format!("/v1/runs/{id}/files?path=/tmp/a")).await;
        assert_eq!(list["entries"], json!(["in.txt", "out.bin"]), "{image}");
        let missing = server.get(&format!("/v1/runs/{id}/files?path=/tmp/none")).await;
        refused(&missing, 404, "file_not_found", "/tmp/none");
        let missing = server.get(&format!("/v1/runs/{id}/files/download?path=/tmp/a")).await;
        refused(&missing, 400, "file_error", "/tmp/a");
    }
}

#[server_test]
async fn copies_have_state_and_files(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({ "env": { "NAME": "value" } })).await;
        server.value(&id, "x = [1]\nopen('/tmp/f', 'w').write('kept')").await;
        let state = "import os\n(x, open('/tmp/f').read(), os.environ['NAME'])";
        let expected = "([1], 'kept', 'value')";
        // A fork.
        let fork = server.fork(&id, 2).await;
        server.value(&id, "x.append(2)").await;
        for fork in &fork {
            assert_eq!(server.value(fork, state).await, expected, "{image}");
        }
        // Hibernation, on the same id.
        let sleeper = &fork[0];
        server.change(sleeper, "hibernate").await;
        let refusal = server.try_cell(sleeper, json!({ "code": "1" })).await;
        refused(&refusal, 409, "run_hibernated", sleeper);
        server.change(sleeper, "resume").await;
        assert_eq!(server.value(sleeper, state).await, expected, "{image}");
        // A snapshot, after its run was destroyed.
        let snapshot = server.snapshot(&fork[1]).await;
        server.destroy(&fork[1]).await;
        for _ in 0..2 {
            let restored = server.restore(&snapshot).await;
            assert_eq!(server.value(&restored, state).await, expected, "{image}");
        }
        assert_eq!(server.value(&id, "x").await, "[1, 2]");
        let (_, run) = server.get(&format!("/v1/runs/{sleeper}")).await;
        assert_eq!(run["image"], image);
    }
}

#[server_test]
async fn time_limits_interrupt_code(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({})).await;
        server.value(&id, "x = 1").await;
        for code in ["while True: pass", "import time; time.sleep(60)"] {
            let (status, execution) =
                server.try_cell(&id, json!({ "code": code, "timeout": 0.5 })).await;
            assert_eq!(status, 200, "{image}: {execution}");
            assert_eq!(execution["error"]["name"], "TimeoutError", "{image}: {execution}");
        }
        assert_eq!(server.value(&id, "x").await, "1", "{image}");
    }
}

#[server_test]
async fn idle_runs_are_destroyed_or_hibernated(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({ "timeout": 0.3 })).await;
        wait_for("the idle run is destroyed", async || {
            (server.get(&format!("/v1/runs/{id}")).await.0 == 404).then_some(())
        })
        .await;
        let (_, history) = server.get("/v1/runs/history").await;
        let past = &history["sandboxes"][0];
        assert_eq!((&past["id"], &past["image"]), (&json!(id), &json!(image)), "{past}");
        let more = json!({ "timeout": 0.3, "on_idle": "hibernate", "auto_resume": true });
        let id = server.create_of(image, more).await;
        server.value(&id, "x = 5").await;
        wait_for("the idle run is hibernated", async || {
            let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
            (run["status"] == "hibernated").then_some(())
        })
        .await;
        assert_eq!(server.value(&id, "x").await, "5", "{image}");
        server.destroy(&id).await;
    }
}

/// Code that sends a request, and returns the body and a header, or that it failed. An
/// interpreter has a client of its own in place of sockets.
fn fetch(image: &str, url: &str, headers: &str) -> String {
    let request = match image {
        "host" => format!(
            "urllib.request.urlopen(urllib.request.Request({url:?}, headers={headers}), timeout=20)"
        ),
        _ => format!("sandbox.http.fetch('GET', {url:?}, headers={headers}, timeout=20)"),
    };
    let (module, text) = match image {
        "host" => ("urllib.request", "read().decode()"),
        _ => ("sandbox.http", "text()"),
    };
    format!(
        "import os, {module}\n\
         def ask():\n\
         \x20   try:\n\
         \x20       with {request} as answer:\n\
         \x20           return answer.{text}, answer.headers['x-echo']\n\
         \x20   except OSError as error: return 'failed: ' + str(error)\n\
         ask()"
    )
}

#[server_test]
async fn requests_pass_the_network_rules() {
    let services = ExternalServices::start(11, &["api.openai.com", "denied.test"]).await;
    let server = services.server(&[]);
    for image in IMAGES {
        let more = json!({
            "credentials": { "OPENAI_API_KEY": SECRET },
            "network": { "allow": ["api.openai.com"] },
        });
        let id = server.create_of(image, more).await;
        let auth = "{'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']}";
        let allowed =
            server.value(&id, &fetch(image, "https://api.openai.com/v1/models", auth)).await;
        // The service repeats the secret in a header, and the guest sees the placeholder.
        assert!(
            allowed.contains("\"real\"") && allowed.contains(PLACEHOLDER),
            "{image}: {allowed}"
        );
        let requests = services.take_requests();
        assert_eq!(requests, [("GET /v1/models".to_owned(), true)], "{image}");
        assert!(!server.value(&id, "str(dict(os.environ))").await.contains(SECRET));
        let denied = server.value(&id, &fetch(image, "https://denied.test/", "{}")).await;
        assert!(denied.contains("failed: "), "{image}: {denied}");
        assert!(services.take_requests().is_empty(), "{image}");
        let blocked = wait_for("the blocked request is recorded", async || {
            let log = server.audit_log(&id).await;
            log.into_iter().find(|entry| entry["event"] == "network.blocked")
        })
        .await;
        assert_eq!(blocked["data"]["name"], "denied.test", "{image}: {blocked}");
        assert_eq!(blocked["data"]["port"], 443, "{image}: {blocked}");
        // A change of the rules takes effect at once.
        let change = json!({ "network": { "allow": [] } });
        let request = server.request(Method::PATCH, &format!("/v1/runs/{id}")).json(&change);
        let (status, body) = answer(request).await;
        assert_eq!(status, 200, "{body}");
        let denied = server.value(&id, &fetch(image, "https://api.openai.com/", "{}")).await;
        assert!(denied.contains("failed: "), "{image}: {denied}");
    }
}

#[server_test]
async fn limits_are_enforced(server: &Server) {
    for image in IMAGES {
        let more = json!({ "mem_mib": 128, "disk_mib": 32 });
        let id = server.create_of(image, more).await;
        if image == "isola:python" {
            let failed = server.cell(&id, "x = bytearray(200 << 20)").await;
            assert_eq!(failed["error"]["name"], "MemoryError", "{failed}");
        }
        let code = "open('/tmp/big', 'wb').write(bytes(40 << 20))";
        let failed = server.cell(&id, code).await;
        assert_eq!(failed["error"]["name"], "OSError", "{image}: {failed}");
        assert_eq!(server.value(&id, "1 + 1").await, "2", "{image}");
        let (_, usage) = server.get("/v1/usage").await;
        assert!(usage["cpu_seconds"].as_f64().unwrap() > 0.0, "{usage}");
        let stats = server.destroy(&id).await;
        assert_eq!(stats["status"], "destroyed", "{stats}");
        assert_ne!(stats["mem_peak_bytes"], Value::from(0), "{image}: {stats}");
    }
}
