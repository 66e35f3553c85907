//! The examples of the specification of the guest API, unchanged.

use isola::{Event, Handlers, HostError, Level, Limits, Runtime, Value, args};
use serde_json::json;

use super::fetch::echo;
use crate::{
    fixture::{events, log_records, results, started, started_with},
    server::{self, Server},
};

#[tokio::test]
async fn plain_and_async_functions_are_called() {
    let host = Handlers::new().hostcall("lookup_user", |payload: Value| async move {
        assert_eq!(payload, json!({ "user_id": 7 }));
        Ok::<_, HostError>(Value::from(json!({ "name": "Ada" })))
    });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    sandbox
        .load_script(
            r#"function add(a, b) {
  return a + b;
}

async function lookupUser(userId) {
  return await hostcall("lookup_user", { user_id: userId });
}
"#,
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("add", args![1, 2]).await.unwrap(), json!(3));
    assert_eq!(sandbox.run("lookupUser", args![7]).await.unwrap(), json!({ "name": "Ada" }));
}

#[tokio::test]
async fn generators_stream_items_and_return_a_result() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "function* items() { yield 1; yield { b: 2 } }
             function* withEnd() { yield 1; return 'end' }
             async function* later() { yield await Promise.resolve('a'); return ['end'] }
             async function* fails() { yield 1; throw new RangeError('in the middle') }",
        )
        .await
        .unwrap();
    for (function, partial, end) in [
        ("items", &["1", r#"{"b":2}"#][..], "null"),
        ("withEnd", &["1"], r#""end""#),
        ("later", &[r#""a""#], r#"["end"]"#),
    ] {
        let all = events(sandbox.run_stream(function, args![]).unwrap()).await;
        assert_eq!(
            results(&all),
            (partial.iter().map(|&s| s.to_owned()).collect(), Some(end.to_owned()))
        );
    }
    let all = events(sandbox.run_stream("fails", args![]).unwrap()).await;
    assert_eq!(results(&all), (vec!["1".to_owned()], None));
    let Some(Event::Error(error)) = all.last() else { panic!("{all:?}") };
    assert!(error.to_string().starts_with("RangeError: in the middle"), "{error}");
}

#[tokio::test]
async fn fetch_sends_a_plain_object_as_json() {
    let server = Server::http(|request| async move {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/hello"));
        assert_eq!(request.headers()["content-type"], "application/json");
        server::complete_response(
            http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes(),
        )
    })
    .await;
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), server.host()).await;
    sandbox
        .load_script(
            r#"async function main(url) {
  const resp = await fetch(url + "/hello", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: { hello: "world" },
  });
  return await resp.json();
}
"#,
        )
        .await
        .unwrap();
    let answer = sandbox.run("main", args![server.url("")]).await.unwrap();
    assert_eq!(answer, json!({ "hello": "world" }));
}

#[tokio::test]
async fn headers_and_requests_can_be_created() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            r#"
const headers = new Headers([["x-test", "a"]]);
headers.append("x-test", "b");
headers.set("content-type", "application/json");
const req = new Request("https://example.test/data", {
  method: "POST",
  body: { hello: "world" },
});
async function main() {
  return [[...headers], req.method, req.url, [...req.headers], req.bodyUsed, await req.json(), req.bodyUsed];
}
"#,
        )
        .await
        .unwrap();
    let seen = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(
        seen,
        json!([
            [["content-type", "application/json"], ["x-test", "a, b"]],
            "POST",
            "https://example.test/data",
            [["content-type", "application/json"]],
            false,
            { "hello": "world" },
            true,
        ])
    );
}

#[tokio::test]
async fn aborted_fetch_throws_abort_error() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            r#"
async function main() {
const controller = new AbortController();
controller.abort("stop");
try {
  await fetch("https://example.test/never", { signal: controller.signal });
} catch (err) {
  console.log(err.name); // AbortError
}
}
"#,
        )
        .await
        .unwrap();
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    let [Event::Log(record), Event::End(_)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((record.level, record.message.as_str()), (Level::Info, "AbortError"));
}

#[tokio::test]
async fn form_is_sent_url_encoded() {
    let server = Server::http(echo).await;
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), server.host()).await;
    let sample = r#"
async function main() {
const params = new URLSearchParams({ a: "1", b: "two" });
const response = await fetch("https://example.test/form", {
  method: "POST",
  body: params,
});
const { headers, body } = await response.json();
return [headers["content-type"], body];
}
async function url(url) {
  return [(await fetch(new URL(url))).status, new Request(new URL(url)).url];
}
"#;
    let sample = sample.replace("https://example.test/form", &server.url("/form"));
    sandbox.load_script(sample).await.unwrap();
    let sent = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(sent, json!(["application/x-www-form-urlencoded;charset=UTF-8", "a=1&b=two"]));
    let url = server.url("/x");
    assert_eq!(sandbox.run("url", args![&url]).await.unwrap(), json!([200, url]));
}

#[tokio::test]
async fn console_methods_log_with_their_level() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "function main() {
                console.log('log', 1, { a: [1] });
                console.debug('debug');
                console.info('info');
                console.warn('warn');
                console.error('error');
            }",
        )
        .await
        .unwrap();
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert_eq!(
        log_records(&all),
        [
            (Level::Info, "log 1 { a: [ 1 ] }"),
            (Level::Debug, "debug"),
            (Level::Info, "info"),
            (Level::Warning, "warn"),
            (Level::Error, "error"),
        ]
    );
}
