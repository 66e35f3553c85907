//! The examples of the guest's documentation, unchanged.

use isola::{Handlers, Limits, Runtime, Sandbox, Value, args};
use serde_json::json;

use crate::{
    fixture::{events, results, started, started_with},
    server::{Server, complete_response},
};

const ENTRY_POINTS: &str = r#"
from sandbox.asyncio import hostcall


def add(a, b):
    return a + b


async def lookup_user(user_id):
    return await hostcall("lookup_user", {"user_id": user_id})
"#;

const STREAM: &str = r#"
def stream_values():
    for i in range(3):
        yield i
"#;

const HOSTCALL: &str = r#"
from sandbox.asyncio import hostcall


async def main(user_id):
    return await hostcall("lookup_user", {"user_id": user_id})
"#;

const RUN: &str = r#"
from sandbox.asyncio import hostcall, run


async def fetch_user(user_id):
    return await hostcall("lookup_user", {"user_id": user_id})


def main(user_id):
    return run(fetch_user(user_id))
"#;

const SYNCHRONOUS: &str = r#"
from sandbox.http import fetch


def main(url):
    with fetch("GET", url, params={"q": "hello"}) as resp:
        return {
            "status": resp.status,
            "headers": resp.headers,
            "body": resp.text(),
        }
"#;

const ASYNCHRONOUS: &str = r#"
from sandbox.http import fetch


async def main(url):
    async with fetch("GET", url) as resp:
        return await resp.atext()
"#;

const MODULES: &str = r#"
from sandbox.importlib import http


def main():
    with http("https://example.com/modules"):
        import helpers

    return helpers.answer()
"#;

const SERDE: &str = r#"
from sandbox.serde import dumps, loads


payload = dumps({"hello": "world"}, "json")
value = loads(payload, "json")
"#;

/// The import lines of the documentation.
const IMPORTS: &str = "
from sandbox.asyncio import hostcall, run, subscribe
from sandbox.http import fetch
from sandbox.importlib import http
from sandbox.logging import debug, error, info, warning
from sandbox.serde import dumps, loads
";

async fn loaded(host: Handlers, script: &str) -> Sandbox {
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox.load_script(script).await.unwrap();
    sandbox
}

fn users() -> Handlers {
    Handlers::new().hostcall("lookup_user", |payload: Value| async move {
        let payload: serde_json::Value = payload.to().unwrap();
        Ok(Value::from(json!({"id": payload["user_id"], "name": "Ada"})))
    })
}

#[tokio::test]
async fn entry_point_examples_run() {
    let sandbox = loaded(users(), ENTRY_POINTS).await;
    assert_eq!(sandbox.run("add", args![1, 2]).await.unwrap(), json!(3));
    let user = sandbox.run("lookup_user", args![7]).await.unwrap();
    assert_eq!(user, json!({"id": 7, "name": "Ada"}));
}

#[tokio::test]
async fn stream_example_runs() {
    let sandbox = loaded(Handlers::new(), STREAM).await;
    let all = events(sandbox.run_stream("stream_values", args![]).unwrap()).await;
    let (items, end) = results(&all);
    assert_eq!(items, ["0", "1", "2"]);
    assert_eq!(end.as_deref(), Some("null"));
}

#[tokio::test]
async fn hostcall_examples_run() {
    for script in [HOSTCALL, RUN] {
        let user = loaded(users(), script).await.run("main", args![7]).await.unwrap();
        assert_eq!(user, json!({"id": 7, "name": "Ada"}));
    }
}

#[tokio::test]
async fn request_examples_run() {
    let server = Server::http(|request| async move {
        let mut response = complete_response(request.uri().query().unwrap_or("none").to_owned());
        response.headers_mut().insert("x-answer", "yes".parse().unwrap());
        response
    })
    .await;
    let sandbox = loaded(server.host(), SYNCHRONOUS).await;
    let seen = sandbox.run("main", args![server.url("/")]).await.unwrap();
    let seen: serde_json::Value = seen.to().unwrap();
    assert_eq!(seen["status"], json!(200));
    assert_eq!(seen["headers"]["x-answer"], json!("yes"));
    assert_eq!(seen["body"], json!("q=hello"));
    let sandbox = loaded(server.host(), ASYNCHRONOUS).await;
    let seen = sandbox.run("main", args![server.url("/")]).await.unwrap();
    assert_eq!(seen, json!("none"));
}

#[tokio::test]
async fn module_example_runs() {
    let host = Handlers::new().http(|request| async move {
        let source = "def answer():\n    return 42\n";
        let (status, body) = match request.uri().to_string().as_str() {
            "https://example.com/modules/helpers.py" => (200, source),
            _ => (404, ""),
        };
        let response = ::http::Response::builder().status(status);
        Ok(response.body(isola::http::Body::from(body)).unwrap())
    });
    assert_eq!(loaded(host, MODULES).await.run("main", args![]).await.unwrap(), json!(42));
}

#[tokio::test]
async fn serialization_example_runs() {
    let script = format!("{SERDE}\ndef main():\n    return [payload, value]\n");
    let seen = loaded(Handlers::new(), &script).await.run("main", args![]).await.unwrap();
    assert_eq!(seen, json!(["{\"hello\": \"world\"}", {"hello": "world"}]));
}

#[tokio::test]
async fn import_lines_run() {
    started(Runtime::Python).await.load_script(IMPORTS).await.unwrap();
}
