//! A store that fails: every operation succeeds after retries, or fails with the right error
//! within a bounded time.

use std::time::Duration;

use isorun_blobs::{BlobOptions, Error, TreeId};
use tokio::time::{Instant, timeout};

use crate::fixture::{Fixture, assert_same, noise, variables};
use crate::server::{ACCESS_KEY, Fault, Received, SECRET_KEY};

/// The time in which every operation of these tests ends.
const BOUND: Duration = Duration::from_secs(60);

fn options(fixture: &Fixture) -> BlobOptions {
    let mut options = fixture.options("cache");
    options.connect_timeout = Duration::from_secs(2);
    options.stall_timeout = Duration::from_secs(1);
    options.request_timeout = Duration::from_secs(2);
    options.operation_timeout = Duration::from_secs(4);
    options.max_retries = 3;
    options
}

/// Lets the first two requests of each kind fail.
fn first_two(fault: Fault) -> impl FnMut(&Received) -> Fault + Send {
    let mut seen = std::collections::HashMap::<String, u32>::new();
    move |received| {
        let kind = ["/trees/", "/chunks/", "garbage", "clock"]
            .iter()
            .find(|kind| received.path.contains(**kind))
            .unwrap_or(&"other");
        let count = seen.entry(format!("{} {kind}", received.method)).or_default();
        *count += 1;
        if *count <= 2 { fault.clone() } else { Fault::None }
    }
}

fn temporary() -> Vec<Fault> {
    vec![
        Fault::Status(500, "InternalError"),
        Fault::Status(503, "SlowDown"),
        Fault::Status(429, "TooManyRequests"),
        Fault::Reset,
        Fault::Stall,
    ]
}

/// Runs a function for each fault at the same time.
async fn for_each<F: Future<Output = ()> + Send + 'static>(
    faults: impl IntoIterator<Item = Fault>,
    test: impl Fn(Fault) -> F,
) {
    let mut tests = tokio::task::JoinSet::new();
    for fault in faults {
        tests.spawn(test(fault));
    }
    while let Some(outcome) = tests.join_next().await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn an_upload_succeeds_after_temporary_failures() {
    for_each(temporary(), async |fault| {
        let fixture = Fixture::start().await;
        let blobs = fixture.open_with(1, options(&fixture)).await;
        let source = fixture.directory("source", &[("memory", noise(1, 100_000))]);
        fixture.server.plan(first_two(fault.clone()));
        let uploaded = timeout(BOUND, blobs.upload(&source)).await.unwrap();
        let uploaded = uploaded.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        fixture.server.plan(|_| Fault::None);
        let target = fixture.path("target");
        blobs.download(uploaded.id, &target).await.unwrap();
        assert_same(&source, &target);
    })
    .await;
}

#[tokio::test]
async fn a_download_succeeds_after_temporary_failures() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open_with(1, options(&fixture)).await;
    let source = fixture.directory("source", &[("memory", noise(1, 100_000))]);
    let id = blobs.upload(&source).await.unwrap().id;
    let faults = temporary().into_iter().chain([Fault::Truncate, Fault::StallBody]);
    for (number, fault) in faults.enumerate() {
        fixture.server.plan(first_two(fault.clone()));
        let target = fixture.path(&format!("target{number}"));
        let downloaded = timeout(BOUND, blobs.download(id, &target)).await.unwrap();
        downloaded.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn garbage_collection_succeeds_after_temporary_failures() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open_with(1, options(&fixture)).await;
    for fault in [Fault::Status(503, "SlowDown"), Fault::Reset, Fault::Stall] {
        fixture.server.plan(first_two(fault.clone()));
        let collected = timeout(BOUND, blobs.collect_garbage(&[].into())).await.unwrap();
        collected.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
}

#[tokio::test]
async fn a_store_that_keeps_failing_is_unavailable_within_a_bounded_time() {
    let faults = temporary().into_iter().chain([Fault::Truncate, Fault::StallBody]);
    for_each(faults, keeps_failing).await;
}

async fn keeps_failing(fault: Fault) {
    let fixture = Fixture::start().await;
    let blobs = fixture.open_with(1, options(&fixture)).await;
    let source = fixture.directory("source", &[("memory", noise(1, 100_000))]);
    let id = blobs.upload(&source).await.unwrap().id;
    let target = fixture.path("target");
    for path in ["/trees/", "/chunks/"] {
        let plan_fault = fault.clone();
        fixture.server.plan(move |received| {
            if received.path.contains(path) { plan_fault.clone() } else { Fault::None }
        });
        let started = Instant::now();
        let error = timeout(BOUND, blobs.download(id, &target)).await.unwrap().unwrap_err();
        let expected = matches!(error, Error::Unavailable { retry: true, .. });
        assert!(expected, "{fault:?} {path}: {error}");
        assert!(error.is_retryable());
        assert!(started.elapsed() < Duration::from_secs(30), "{fault:?} {path}");
        assert!(!target.exists());
        // An upload reads no bodies that could be cut.
        if !matches!(fault, Fault::Truncate | Fault::StallBody) {
            let error = timeout(BOUND, blobs.upload(&source)).await.unwrap().unwrap_err();
            let expected = matches!(error, Error::Unavailable { retry: true, .. });
            assert!(expected, "{fault:?} {path}: {error}");
        }
    }
    assert_eq!(fixture.objects("trees").len(), 1);
}

#[tokio::test]
async fn an_endless_response_is_refused() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open_with(1, options(&fixture)).await;
    let source = fixture.directory("source", &[("memory", noise(1, 10))]);
    let id = blobs.upload(&source).await.unwrap().id;
    for path in ["/trees/", "/chunks/", "list-type"] {
        fixture.server.plan(move |received| {
            if received.path.contains(path) { Fault::Endless } else { Fault::None }
        });
        let target = fixture.path("target");
        let error = match path {
            "list-type" => timeout(BOUND, blobs.upload(&source)).await.unwrap().unwrap_err(),
            _ => timeout(BOUND, blobs.download(id, &target)).await.unwrap().unwrap_err(),
        };
        let expected = matches!(error, Error::Unavailable { .. } | Error::Damaged { .. });
        assert!(expected, "{path}: {error}");
        assert!(!target.exists());
    }
}

#[tokio::test]
async fn permanent_errors_are_not_retried_and_say_what_to_do() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open_with(1, options(&fixture)).await;
    let id: TreeId = format!("tree{}", "0".repeat(32)).parse().unwrap();
    let is_denied = |error: &Error| matches!(error, Error::Denied { .. });
    let is_config = |error: &Error| matches!(error, Error::Config { .. });
    let is_unavailable = |error: &Error| matches!(error, Error::Unavailable { retry: false, .. });
    type Is<'a> = &'a dyn Fn(&Error) -> bool;
    let expected: [(u16, &str, Is, &str); 12] = [
        (403, "AccessDenied", &is_denied, "read, write and delete its objects"),
        (401, "Unauthorized", &is_denied, "read, write and delete its objects"),
        (403, "InvalidAccessKeyId", &is_denied, "AWS_ACCESS_KEY_ID is unknown"),
        (403, "SignatureDoesNotMatch", &is_denied, "check AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", &is_denied, "set the clock"),
        (400, "ExpiredToken", &is_denied, "the session token has expired"),
        (400, "InvalidToken", &is_denied, "AWS_SESSION_TOKEN"),
        (404, "NoSuchBucket", &is_config, "create the bucket"),
        (400, "AuthorizationHeaderMalformed", &is_config, "AWS_REGION"),
        (301, "PermanentRedirect", &is_config, "AWS_REGION"),
        (400, "InvalidRequest", &is_unavailable, "status 400, code InvalidRequest"),
        (501, "NotImplemented", &is_unavailable, "status 501, code NotImplemented"),
    ];
    for (status, code, is, text) in expected {
        fixture.server.plan(move |_| Fault::Status(status, code));
        fixture.server.received();
        let error = blobs.download(id, fixture.path("target")).await.unwrap_err();
        assert!(is(&error), "{code}: {error:?}");
        assert!(error.to_string().contains(text), "{code}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(SECRET_KEY) && !shown.contains(ACCESS_KEY), "{shown}");
        assert!(!error.is_retryable());
        assert_eq!(fixture.server.received().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn an_endpoint_without_a_server_is_unavailable() {
    let fixture = Fixture::start().await;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut options = options(&fixture);
    options.variables = variables(&format!("http://{address}"), ACCESS_KEY, SECRET_KEY);
    let blobs = fixture.open_with(1, options).await;
    let id: TreeId = format!("tree{}", "0".repeat(32)).parse().unwrap();
    let download = blobs.download(id, fixture.path("target"));
    let error = timeout(BOUND, download).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { retry: true, .. }), "{error}");
    assert!(error.to_string().contains("cannot connect to the endpoint"), "{error}");
}
