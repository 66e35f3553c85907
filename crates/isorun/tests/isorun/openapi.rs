//! The committed OpenAPI description of the HTTP API is up to date.

use std::{fs, path::Path, process::Command};

#[test]
fn committed_description_is_current() {
    let output = Command::new(env!("CARGO_BIN_EXE_isorun")).arg("openapi").output().unwrap();
    assert!(output.status.success());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/isorun.json");
    let committed = fs::read(&path).unwrap();
    assert!(
        committed == output.stdout,
        "openapi/isorun.json is out of date: run `cargo xtask generate`"
    );
}

#[test]
fn only_three_paths_need_no_key() {
    let output = Command::new(env!("CARGO_BIN_EXE_isorun")).arg("openapi").output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["security"], serde_json::json!([{ "key": [] }]));
    let mut open = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().values() {
            if method.get("security").is_some() {
                open.push(path.as_str());
            }
        }
    }
    open.sort_unstable();
    assert_eq!(open, ["/healthz", "/openapi.json", "/readyz"]);
}
