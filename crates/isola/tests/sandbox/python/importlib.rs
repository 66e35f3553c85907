//! `sandbox.importlib`, against a real server.

use std::{collections::HashMap, io::Write as _, sync::Arc};

use isola::{Limits, Runtime, Sandbox, args};
use serde_json::json;

use crate::{
    fixture::{started, started_with},
    server::{Server, complete_response},
};

pub(super) type Files = HashMap<String, Vec<u8>>;

/// A small tree of modules.
pub(super) const FILES: [(&str, &str); 9] = [
    ("helpers.py", "import pkg.sub\ndef answer():\n    return pkg.sub.told()\n"),
    ("pkg/__init__.py", "from . import sub\nfrom .deep import bottom\n"),
    (
        "pkg/sub.py",
        "from importlib.resources import files\ndef told():\n    \
         return files('pkg').joinpath('data/text.txt').read_text(encoding='utf-8')\n",
    ),
    ("pkg/data/text.txt", "from the data file"),
    ("pkg/deep/__init__.py", ""),
    ("pkg/deep/bottom.py", "from ..sub import told\n"),
    ("broken.py", "x = (\n"),
    ("raises.py", "def fail():\n    raise KeyError('here')\nfail()\n"),
    ("json.py", "raise RuntimeError('the guest has this itself')\n"),
];

/// Returns an archive of the modules, below a prefix.
pub(super) fn archive(prefix: &str) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in FILES {
        archive.start_file(format!("{prefix}{name}"), options).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.start_file(format!("{prefix}spaces/inner.py"), options).unwrap();
    archive.write_all(b"found = True\n").unwrap();
    archive.finish().unwrap().into_inner()
}

/// Starts a server of these files. A few paths redirect or fail.
pub(super) async fn serve(files: Files) -> Server {
    let files = Arc::new(files);
    Server::http(move |request| {
        let files = Arc::clone(&files);
        async move {
            let path = request.uri().path().trim_start_matches('/').to_owned();
            if let Some(rest) = path.strip_prefix("moved/") {
                let mut response = complete_response("");
                *response.status_mut() = hyper::StatusCode::FOUND;
                let location = format!("/modules/{rest}");
                response.headers_mut().insert("location", location.parse().unwrap());
                return response;
            }
            let mut response = complete_response(files.get(&path).cloned().unwrap_or_default());
            if path == "loop/helpers.py" || path == "loop/helpers/__init__.py" {
                *response.status_mut() = hyper::StatusCode::FOUND;
                response.headers_mut().insert("location", format!("/{path}").parse().unwrap());
            } else if path.starts_with("forbidden") {
                *response.status_mut() = hyper::StatusCode::FORBIDDEN;
            } else if path.starts_with("private") && request.uri().query() != Some("key=1") {
                *response.status_mut() = hyper::StatusCode::UNAUTHORIZED;
            } else if !files.contains_key(&path) {
                *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            }
            response
        }
    })
    .await
}

pub(super) fn files() -> Files {
    let mut files = Files::new();
    for (name, text) in FILES {
        files.insert(format!("modules/{name}"), text.into());
        files.insert(format!("private/{name}"), text.into());
    }
    files.insert("modules.zip".to_owned(), archive(""));
    files.insert("modules-1.0-py3-none-any.whl".to_owned(), archive(""));
    files.insert("release.zip".to_owned(), archive("project-1.0/src/"));
    files.insert("damaged.zip".to_owned(), b"PK\x03\x04 not really".to_vec());
    files
}

const SCRIPT: &str = "
import sys
from sandbox.importlib import http
def main(url):
    before = list(sys.meta_path)
    with http(url):
        import json, helpers
        from importlib.resources import files
        assert files('pkg').joinpath('data', 'text.txt').is_file()
        assert not files('pkg').joinpath('none.txt').is_file()
    assert sys.meta_path == before
    assert json.dumps([]) == '[]'
    # Imported modules remain, with their sources.
    import inspect
    assert 'told' in inspect.getsource(helpers)
    return [helpers.answer(), helpers.__file__, helpers.pkg.__path__[0]]
def attempt(url, name):
    before = list(sys.meta_path)
    try:
        with http(url):
            __import__(name)
    finally:
        assert sys.meta_path == before
def nested(first, second):
    with http(first):
        with http(second):
            import helpers
    return helpers.answer()
def namespace(url):
    with http(url):
        import spaces.inner
    return spaces.inner.found
def listed(url):
    with http(url):
        import pkg
        from importlib.resources import files
        return sorted(one.name for one in files('pkg').iterdir())
def probe(url):
    from importlib.util import find_spec
    with http(url):
        return [find_spec('helpers').origin, find_spec('none')]
def moved(url):
    # User code may reorder the importers.
    with http(url):
        sys.meta_path.insert(0, sys.meta_path.pop())
        import pkg
    return len([one for one in sys.meta_path if 'remote.Importer' in repr(one)])
async def inside(url):
    with http(url):
        import helpers
    return helpers.answer()
";

async fn sandbox(server: &Server) -> Sandbox {
    let sandbox = started_with(Runtime::Python, Limits::default(), server.host()).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    sandbox
}

#[tokio::test]
async fn modules_are_imported_from_a_tree_and_an_archive() {
    let server = serve(files()).await;
    for (path, base) in [
        ("/modules", "/modules"),
        ("/modules/", "/modules"),
        ("/moved", "/moved"),
        ("/private?key=1", "/private"),
        ("/modules.zip", "/modules.zip"),
        ("/modules-1.0-py3-none-any.whl", "/modules-1.0-py3-none-any.whl"),
        ("/release.zip#subdirectory=project-1.0/src", "/release.zip"),
    ] {
        let sandbox = sandbox(&server).await;
        let seen = sandbox.run("main", args![server.url(path)]).await.unwrap();
        let base = server.url(base);
        let expected =
            json!(["from the data file", format!("{base}/helpers.py"), format!("{base}/pkg")]);
        assert_eq!(seen, expected, "{path}");
        let inside = sandbox.run("inside", args![server.url(path)]).await.unwrap();
        assert_eq!(inside, json!("from the data file"), "{path}");
    }
}

#[tokio::test]
async fn import_error_contains_the_url() {
    let server = serve(files()).await;
    for (path, name, expected) in [
        ("/modules", "missing", "ModuleNotFoundError: No module named 'missing' here or at URL"),
        ("/modules", "pkg.none", "ModuleNotFoundError: No module named 'pkg.none' here or at URL"),
        ("/modules.zip", "none", "ModuleNotFoundError: No module named 'none' here or at URL"),
        ("/modules", "broken", "ImportError: URL/broken.py: '(' was never closed"),
        ("/modules", "raises", "KeyError: 'here'"),
        ("/forbidden", "any", "ImportError: URL/any/__init__.py: the server answered 403"),
        ("/loop", "helpers", "ImportError: URL/helpers/__init__.py: the server redirects more"),
        ("/none.zip", "any", "ImportError: URL: the archive does not exist"),
        ("/damaged.zip", "any", "ImportError: URL: File is not a zip file"),
    ] {
        let url = server.url(path);
        let error = sandbox(&server).await.run("attempt", args![url.clone(), name]).await;
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(&expected.replace("URL", &url)), "{path} {name}: {error}");
    }
    let url = server.url("/modules.zip");
    let wrong = format!("{url}#sha256=0000");
    let error = sandbox(&server).await.run("attempt", args![wrong, "helpers"]).await.unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with(&format!("ImportError: {url}: its SHA-256 is ")), "{error}");
    assert!(error.contains("but 0000 is expected"), "{error}");

    for (url, why) in [
        ("ftp://a.test", "ImportError: ftp://a.test/any/__init__.py: "),
        (
            "http://elsewhere.test/modules",
            "ImportError: http://elsewhere.test/modules/any/__init__.py: requests to \
             elsewhere.test are not allowed",
        ),
    ] {
        let error = sandbox(&server).await.run("attempt", args![url, "any"]).await.unwrap_err();
        assert!(error.to_string().starts_with(why), "{error}");
    }
    let off = started(Runtime::Python).await;
    off.load_script(SCRIPT).await.unwrap();
    let error = off.run("attempt", args!["http://a.test", "any"]).await.unwrap_err().to_string();
    let expected = "ImportError: http://a.test/any/__init__.py: HTTP is disabled for this sandbox";
    assert!(error.starts_with(expected), "{error}");
}

#[tokio::test]
async fn tracebacks_show_the_lines_of_remote_modules() {
    let server = serve(files()).await;
    let sandbox = sandbox(&server).await;
    let error = sandbox.run("attempt", args![server.url("/modules"), "raises"]).await.unwrap_err();
    let isola::Error::Guest(error) = error else { panic!("{error}") };
    let place = format!("File \"{}\", line 2, in fail", server.url("/modules/raises.py"));
    assert!(error.traceback.contains(&place), "{}", error.traceback);
    assert!(error.traceback.contains("    raise KeyError('here')"), "{}", error.traceback);
}

#[tokio::test]
async fn importers_are_standard_finders() {
    let server = serve(files()).await;
    let sandbox = sandbox(&server).await;
    let (tree, archive) = (server.url("/modules"), server.url("/modules.zip"));
    let first = sandbox.run("nested", args![server.url("/nothing"), tree.clone()]).await.unwrap();
    assert_eq!(first, json!("from the data file"));
    let found = sandbox.run("probe", args![tree.clone()]).await.unwrap();
    assert_eq!(found, json!([format!("{tree}/helpers.py"), null]));
    assert_eq!(sandbox.run("moved", args![archive.clone()]).await.unwrap(), json!(0));
    assert_eq!(sandbox.run("namespace", args![archive.clone()]).await.unwrap(), json!(true));
}

#[tokio::test]
async fn only_an_archive_can_list_its_data() {
    let server = serve(files()).await;
    let listed = sandbox(&server).await.run("listed", args![server.url("/modules.zip")]).await;
    assert_eq!(listed.unwrap(), json!(["__init__.py", "data", "deep", "sub.py"]));
    let error = sandbox(&server).await.run("listed", args![server.url("/modules")]).await;
    let error = error.unwrap_err().to_string();
    let expected = format!("NotADirectoryError: {} cannot be listed", server.url("/modules/pkg"));
    assert!(error.starts_with(&expected), "{error}");
}
