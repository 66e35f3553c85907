//! Interpreters as runs: what they share with Linux sandboxes, and what they refuse.

use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_for;

use crate::support::{ExternalServices, Server, Tenant, answer, refused, services::PLACEHOLDER};

mod lifecycle;
mod network;
mod unprivileged;

const IMAGES: [&str; 2] = ["isola:python", "isola:js"];

impl Tenant {
    async fn interpreter(&self, image: &str) -> String {
        self.create_with(json!({ "image": image })).await
    }

    /// Runs a cell, and returns its execution.
    async fn cell(&self, id: &str, code: &str) -> Value {
        let (status, body) =
            self.post(&format!("/v1/runs/{id}/code"), json!({ "code": code })).await;
        assert_eq!(status, 200, "{code}: {body}");
        body
    }

    /// Returns the text of the value of a cell, which has to succeed.
    async fn value(&self, id: &str, code: &str) -> String {
        let execution = self.cell(id, code).await;
        assert_eq!(execution["error"], Value::Null, "{code}: {execution}");
        let results = execution["results"].as_array().unwrap();
        let main = results.iter().find(|result| result["is_main_result"] == true);
        let text = main.map(|main| main["data"]["text/plain"].as_str().unwrap().to_owned());
        text.unwrap_or_default()
    }
}
