//! The check of a store.

use isorun_blobs::{CheckReport, Error};

use crate::fixture::{Fixture, variables};
use crate::server::{ACCESS_KEY, Fault};

fn failed(report: &CheckReport) -> Vec<&'static str> {
    let failed = report.steps.iter().filter(|step| step.error.is_some());
    failed.map(|step| step.operation).collect()
}

#[tokio::test]
async fn a_usable_store_passes_and_keeps_nothing() {
    let fixture = Fixture::start().await;
    let report = fixture.open().await.check().await;
    assert!(report.is_ok(), "{report:?}");
    let operations: Vec<_> = report.steps.iter().map(|step| step.operation).collect();
    assert_eq!(operations, ["write", "read", "list", "delete"]);
    assert!(fixture.objects("").is_empty());
}

#[tokio::test]
async fn each_denied_operation_is_named_with_what_to_do() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    type Matches = fn(&str, &str) -> bool;
    let operations: [(&str, Matches, &str); 4] = [
        ("write", |method, _| method == "PUT", "s3:PutObject"),
        ("read", |method, path| method == "GET" && !path.contains("list-type"), "s3:GetObject"),
        ("list", |method, path| method == "GET" && path.contains("list-type"), "s3:ListBucket"),
        ("delete", |method, _| method == "POST", "s3:DeleteObject"),
    ];
    for (operation, matches, advice) in operations {
        fixture.server.plan(move |received| {
            let denied = matches(received.method.as_str(), &received.path);
            if denied { Fault::Status(403, "AccessDenied") } else { Fault::None }
        });
        let report = blobs.check().await;
        assert_eq!(failed(&report), [operation]);
        let step = report.steps.iter().find(|step| step.error.is_some()).unwrap();
        assert!(matches!(step.error, Some(Error::Denied { .. })), "{step:?}");
        assert!(step.advice.unwrap().contains(advice), "{step:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_named() {
    let fixture = Fixture::start().await;
    let mut options = fixture.options("cache");
    options.variables = variables(&fixture.server.endpoint, ACCESS_KEY, "wrong-secret");
    let blobs = fixture.open_with(1, options).await;
    let report = blobs.check().await;
    assert_eq!(failed(&report), ["write"]);
    let error = report.steps[0].error.clone().unwrap();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("check AWS_SECRET_ACCESS_KEY"), "{error}");
    assert!(!error.to_string().contains("wrong-secret"), "{error}");

    let mut options = fixture.options("other");
    options.variables = variables(&fixture.server.endpoint, "AKIAOTHER", "wrong-secret");
    let report = fixture.open_with(1, options).await.check().await;
    let error = report.steps[0].error.clone().unwrap();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}
