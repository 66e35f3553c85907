//! Published libraries, bundled with esbuild. Each does a small task, whose result is
//! compared with that of the same bundle in Node.js. `libraries/entries` has the tasks.

use std::{collections::BTreeMap, path::PathBuf};

use isola::{DenyAll, Limits, Runtime, args};
use serde_json::Value;

use crate::fixture::started_with;

const LIBRARIES: [&str; 13] = [
    "ajv",
    "change-case",
    "commonmark",
    "dayjs",
    "fuse",
    "highlight",
    "luxon",
    "marked",
    "micromark",
    "prettier",
    "remark",
    "slugify",
    "zod",
];

#[tokio::test]
async fn bundled_modules_give_the_results_of_node() {
    check("mjs").await;
}

#[tokio::test]
async fn bundled_scripts_give_the_results_of_node() {
    check("js").await;
}

/// Runs the bundles with this extension.
async fn check(extension: &str) {
    let results: BTreeMap<String, Value> =
        serde_json::from_str(&bundle_file("results.json")).unwrap();
    assert_eq!(results.keys().collect::<Vec<_>>(), LIBRARIES);
    for (library, expected) in results {
        let name = format!("{library}.{extension}");
        // The largest have 50,000 lines, which is slow when the machine has much to do.
        let limits = Limits { cpu_timeout: None, ..Limits::default() };
        let sandbox = started_with(Runtime::JavaScript, limits, DenyAll).await;
        let loaded = sandbox.load_script_as(&name, bundle_file(&name)).await;
        loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        let seen = sandbox.run("main", args![]).await;
        let seen = seen.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(seen, expected, "{name}");
    }
}

/// Returns the content of a file that `cargo xtask` has written with the bundles.
fn bundle_file(name: &str) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/javascript-bundles");
    let path = PathBuf::from(dir).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}: run `cargo xtask setup`, which writes it", path.display())
    })
}
