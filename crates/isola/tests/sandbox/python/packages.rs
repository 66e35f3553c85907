//! Packages of the Python Package Index, on a mount.

use isola::{Limits, Mount, Runtime, Template, args};
use serde_json::json;

/// Returns the directory of real packages, installed by `pip install --target`.
pub(super) fn site_packages() -> std::path::PathBuf {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/python-samples");
    std::path::Path::new(dir)
        .canonicalize()
        .expect("the sample packages are missing: run `cargo xtask setup`")
}

const SCRIPT: &str = r#"
# /// script
# dependencies = ["jinja2>=3", "attrs", "networkx"]
# ///
import attrs
import networkx
from importlib.metadata import version
from jinja2 import Environment

@attrs.define
class Edge:
    a: str
    b: str = attrs.field(validator=attrs.validators.instance_of(str))

def main(pairs):
    graph = networkx.Graph()
    for edge in (Edge(*pair) for pair in pairs):
        graph.add_edge(edge.a, edge.b)
    path = networkx.shortest_path(graph, "a", "d")
    template = Environment().from_string("{% for node in path %}<{{ node|upper }}>{% endfor %}")
    return [template.render(path=path), version("attrs") != ""]

def refused():
    Edge("a", 5)
"#;

#[tokio::test]
async fn pure_python_packages_import_from_a_mount() {
    let template = Template::builder(Runtime::Python)
        .mount(Mount::new(site_packages(), "/packages"))
        .env("PYTHONPATH", "/nothing:/packages")
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(SCRIPT).await.unwrap();
    let pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "e")];
    let seen = sandbox.run("main", args![pairs]).await.unwrap();
    assert_eq!(seen, json!(["<A><B><C><D>", true]));
    let error = sandbox.run("refused", args![]).await.unwrap_err().to_string();
    assert!(error.starts_with("TypeError: (\"'b' must be <class 'str'>"), "{error}");
}

#[tokio::test]
async fn script_can_append_the_directory_to_its_path() {
    let template = Template::builder(Runtime::Python)
        .mount(Mount::new(site_packages(), "/lib/site-packages"))
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    let script = "
import sys
sys.path.append('/lib/site-packages')
import attrs
def main():
    return attrs.__file__
";
    sandbox.load_script(script).await.unwrap();
    let seen = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(seen, json!("/lib/site-packages/attrs/__init__.py"));
}

/// Packages that need little of what a sandbox does not have.
#[tokio::test]
async fn popular_packages_do_a_small_task() {
    let template = Template::builder(Runtime::Python)
        .mount(Mount::new(site_packages(), "/packages"))
        .env("PYTHONPATH", "/packages")
        .build()
        .await
        .unwrap();
    for (package, expected) in [
        ("sympy", json!(["x*cos(x) + sin(x)", "x**3/3", ["-sqrt(2)", "sqrt(2)"]])),
        ("hypothesis", json!([true, true])),
        ("fsspec", json!(["text", ["/dir/a.txt"], true])),
        ("trio", json!([[1, 2, 3], true])),
        ("anyio", json!([1, true])),
        ("httpcore", json!(["HTTP is disabled for this sandbox", "b'/b'"])),
        ("uvicorn", json!([true, false])),
        ("botocore", json!([["one"], "https://s3.amazonaws.com/b/k", "ConnectionClosedError"])),
        ("rich", json!([true, true])),
        ("platformdirs", json!([".local/share/app", true])),
        ("pint", json!([10.0, "50.8 mm"])),
        ("fpdf", json!(["%PDF-", true])),
        ("werkzeug", json!(["GET 1", true])),
    ] {
        // The import of a large package is slow when the machine has much to do.
        let limits = Limits { cpu_timeout: None, ..Limits::default() };
        let sandbox = template.sandbox().limits(limits).create().await.unwrap();
        sandbox.start().await.unwrap();
        sandbox.load_script(include_str!("popular.py")).await.unwrap();
        let seen = sandbox.run("main", args![package]).await;
        let seen = seen.unwrap_or_else(|error| panic!("{package}: {error}"));
        assert_eq!(seen, expected, "{package}");
    }
}
