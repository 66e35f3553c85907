//! Tables of cases from the standards, written in JavaScript. Each file defines
//! named cases, functions that throw if they fail; `harness.js` runs them.

use isola::{Args, Limits, Runtime, args};

use crate::{fixture::started_with, server::Server};

const HARNESS: &str = include_str!("harness.js");

/// Runs the cases of a file, and checks their minimum number.
async fn check(table: &str, min_cases: usize, args: Args) {
    let server = Server::http(super::fetch::echo).await;
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), server.host()).await;
    sandbox.load_script_as("harness.js", HARNESS).await.unwrap();
    sandbox.load_script_as("table.js", table).await.unwrap();
    let (count, failures): (usize, Vec<String>) =
        sandbox.run("runCases", args).await.unwrap().to().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= min_cases, "{count} cases");
}

#[tokio::test]
async fn url_cases_pass() {
    check(include_str!("url.js"), 60, args![]).await;
}

#[tokio::test]
async fn header_cases_pass() {
    check(include_str!("headers.js"), 25, args![]).await;
}

#[tokio::test]
async fn request_cases_pass() {
    check(include_str!("request.js"), 40, args![]).await;
}

#[tokio::test]
async fn response_cases_pass() {
    check(include_str!("response.js"), 35, args![]).await;
}

#[tokio::test]
async fn abort_cases_pass() {
    check(include_str!("abort.js"), 15, args![]).await;
}

#[tokio::test]
async fn stream_cases_pass() {
    check(include_str!("streams.js"), 15, args![]).await;
}

#[tokio::test]
async fn timer_cases_pass() {
    check(include_str!("timers.js"), 18, args![]).await;
}

#[tokio::test]
async fn blob_and_form_cases_pass() {
    check(include_str!("blob.js"), 33, args![]).await;
}

#[tokio::test]
async fn structured_clone_cases_pass() {
    check(include_str!("structured.js"), 20, args![]).await;
}

#[tokio::test]
async fn unicode_cases_pass() {
    check(include_str!("unicode.js"), 12, args![]).await;
}
