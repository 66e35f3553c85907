//! The type stubs in `guests/python/stubs` match the modules at run time.

use std::{collections::BTreeMap, fs, path::Path};

use isola::{Handlers, Limits, Runtime, Sandbox, args};

use crate::fixture::started_with;

/// A script that compares the stubs with the imported modules.
const COMPARE: &str = include_str!("stubs.py");

/// Returns the texts of a directory's files with an extension, by module.
fn texts(dir: &str, extension: &str) -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/python").join(dir);
    let texts = fs::read_dir(dir).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (path.extension()? == extension).then(|| (name, fs::read_to_string(path).unwrap()))
    });
    texts.collect()
}

async fn sandbox() -> Sandbox {
    // The comparison includes responses.
    let host = Handlers::new()
        .http(|_| async { Ok(::http::Response::new(isola::http::Body::from("body"))) });
    let sandbox = started_with(Runtime::Python, Limits::default(), host).await;
    sandbox.load_script(COMPARE).await.unwrap();
    sandbox
}

async fn differences(sandbox: &Sandbox, stubs: &BTreeMap<String, String>) -> Vec<String> {
    sandbox.run("differences", args![stubs]).await.unwrap().to().unwrap()
}

#[tokio::test]
async fn stubs_match_the_modules() {
    let stubs = texts("stubs/sandbox", "pyi");
    let modules = texts("src/sandbox", "py");
    assert!(stubs.keys().eq(modules.keys()), "{:?}, {:?}", stubs.keys(), modules.keys());
    let found = differences(&sandbox().await, &stubs).await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn differences_are_found() {
    let stubs = texts("stubs/sandbox", "pyi");
    let sandbox = sandbox().await;
    for (module, what, instead, expected) in [
        ("http", "\"Headers\",", "", "http: __all__ is "),
        ("http", "def fetch(", "def fetched(", "http: it defines "),
        ("http", "    timeout: float | None = None,\n", "", "http.fetch: its parameters are "),
        (
            "http",
            "proxy: str | None = None",
            "proxy: str | None",
            "http.fetch: its parameters are ",
        ),
        ("http", "    *,\n", "", "http.fetch: its parameters are "),
        (
            "http",
            "def read(self, size: int = -1)",
            "def read(self, size: int = 1)",
            "http.Response.read: its parameters are ",
        ),
        (
            "http",
            "def read(self, size: int = -1)",
            "def read(self, count: int = -1)",
            "http.Response.read: its parameters are ",
        ),
        ("http", "def iter_sse(", "def iter_events(", "http.Response: it defines "),
        ("http", "async def atext", "def atext", "http.AsyncResponse.atext: "),
        ("http", "def close(", "@property\n    def close(", "http._Received.close: "),
        ("http", "    url: str\n", "", "http.Request: its attributes are "),
        ("http", "    status: int\n", "    code: int\n", "http._Received: its attributes are "),
        (
            "http",
            "    event: str = \"message\"",
            "    event: str",
            "http.ServerSentEvent: its fields are ",
        ),
        (
            "http",
            "RequestError(OSError)",
            "RequestError(Exception)",
            "http.RequestError: its bases are ",
        ),
        ("http", "default: _T", "other: _T", "http.Headers.get: the parameters of its overloads "),
        (
            "asyncio",
            "class DeadlockError(RuntimeError):",
            "class Other(RuntimeError):",
            "asyncio: it defines ",
        ),
        ("asyncio", "async def subscribe", "def subscribe", "asyncio.subscribe: "),
        ("importlib", "http(url: str)", "http(place: str)", "importlib.http: its parameters are "),
        (
            "logging",
            "def info(message: object, /,",
            "def info(message: object,",
            "logging.info: its parameters are ",
        ),
        (
            "serde",
            "def dumps(value: object, format: Literal[\"cbor\"])",
            "def dumps(value: object)",
            "serde.dumps: the parameters of its overloads ",
        ),
    ] {
        let mut changed = stubs.clone();
        let text = changed.get_mut(module).unwrap();
        assert!(text.contains(what), "{module}.pyi has no {what:?}");
        *text = text.replacen(what, instead, 1);
        let found = differences(&sandbox, &changed).await;
        let is_reported = found.iter().any(|line| line.starts_with(expected));
        assert!(is_reported, "{module}: {what:?} -> {instead:?}: {found:#?}");
    }
}
