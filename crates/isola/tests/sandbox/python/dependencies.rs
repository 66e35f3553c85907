//! Inline script metadata (PEP 723).

use isola::{Limits, Runtime, args};
use serde_json::json;

use super::importlib::{files, serve};
use crate::fixture::{started, started_with};

fn script(metadata: &str, code: &str) -> String {
    let lines: String = metadata
        .lines()
        .map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") })
        .collect();
    format!("# A script.\n\n# /// script\n{lines}# ///\n\n{code}")
}

#[tokio::test]
async fn dependencies_are_imported_from_their_url() {
    let server = serve(files()).await;
    for (dependencies, code) in [
        (r#"["helpers @ URL/modules", "pkg @ URL/modules/"]"#, "import helpers"),
        (r#"["my-project @ URL/modules.zip"]"#, "import helpers"),
        (r#"["my-project @ URL/modules-1.0-py3-none-any.whl"]"#, "import helpers"),
        (r#"["my-project @ URL/release.zip#subdirectory=project-1.0/src"]"#, "import helpers"),
        // A function may import later.
        (r#"["my-project @ URL/modules.zip"]"#, ""),
    ] {
        let sandbox = started_with(Runtime::Python, Limits::default(), server.host()).await;
        let metadata = format!(
            "requires-python = \">=3.12\"\n\ndependencies = {}\n[tool.other]\nx = 1",
            dependencies.replace("URL", &server.url(""))
        );
        let code = format!(
            "
import sys
{code}
def main():
    import helpers
    return [helpers.answer(), sum('remote.Importer' in repr(one) for one in sys.meta_path)]
"
        );
        let source = script(&metadata, &code);
        sandbox.load_script(source.clone()).await.unwrap();
        // Loading it again adds no importer.
        sandbox.load_script(source).await.unwrap();
        let seen = sandbox.run("main", args![]).await.unwrap();
        let importers = dependencies.matches('@').count();
        assert_eq!(seen, json!(["from the data file", importers]), "{dependencies}");
    }
}

#[tokio::test]
async fn directory_serves_only_the_named_dependency() {
    let server = serve(files()).await;
    let sandbox = started_with(Runtime::Python, Limits::default(), server.host()).await;
    let metadata = format!("dependencies = [\"pkg @ {}\"]", server.url("/modules"));
    let code = "
def main(name):
    try:
        __import__(name)
    except ImportError as error:
        return str(error)
";
    sandbox.load_script(script(&metadata, code)).await.unwrap();
    assert!(sandbox.run("main", args!["pkg"]).await.unwrap().is_null());
    // The module exists at the URL, but the script's metadata does not list it.
    let seen = sandbox.run("main", args!["helpers"]).await.unwrap();
    assert_eq!(seen, json!("No module named 'helpers'"));
}

#[tokio::test]
async fn bundled_or_excluded_dependency_needs_no_url() {
    let sandbox = started(Runtime::Python).await;
    let metadata = "dependencies = [
  'pyyaml>=6', 'CBOR2', 'packaging[x]',
  'other; sys_platform == \"win32\"',
]";
    sandbox.load_script(script(metadata, "import yaml, cbor2, packaging")).await.unwrap();
    // No metadata: another type, an unclosed block, a similar comment.
    for source in [
        "# /// other\n# dependencies = ['none']\n# ///\n",
        "# /// script\n# dependencies = ['none']\n",
        "# /// script\n# dependencies = ['none']\n\n# ///\n",
        "#/// script\n# dependencies = ['none']\n# ///\n",
        "# /// script\n# ///\n",
    ] {
        sandbox.load_script(source).await.unwrap_or_else(|error| panic!("{source}: {error}"));
    }
}

#[tokio::test]
async fn unsatisfiable_metadata_is_an_error_with_the_reason() {
    let server = serve(files()).await;
    for (metadata, expected) in [
        (
            "dependencies = ['requests']",
            "ModuleNotFoundError: tool.py, script metadata: it depends on 'requests', which is \
             neither bundled with this guest nor on a mount; give a URL as in 'requests @ \
             https://...'",
        ),
        (
            "dependencies = ['cbor2>=6']",
            "ImportError: tool.py, script metadata: it depends on 'cbor2>=6', but cbor2 is 5.9.0",
        ),
        (
            "requires-python = '<3.10'",
            "ImportError: tool.py, script metadata: it requires Python <3.10, but this is 3.14.0",
        ),
        (
            "requires-python = 'new'",
            "ValueError: tool.py, script metadata: requires-python 'new' is not a valid version \
             specifier",
        ),
        (
            "requires-python = 3",
            "ValueError: tool.py, script metadata: requires-python 3 is not a valid version \
             specifier",
        ),
        (
            "dependencies = 'requests'",
            "ValueError: tool.py, script metadata: dependencies is not a list of strings",
        ),
        (
            "dependencies = ['a b']",
            "ValueError: tool.py, script metadata: 'a b' is not a valid dependency: ",
        ),
        (
            "dependencies = ['a @ file:///etc']",
            "ImportError: tool.py, script metadata: a is at 'file:///etc', but only http and",
        ),
        ("dependencies = [", "ValueError: tool.py: the script metadata after line 3 is not TOML: "),
        (
            "dependencies = ['helpers @ BASE/none']",
            "ModuleNotFoundError: No module named 'helpers' at BASE/none",
        ),
        (
            "dependencies = ['helpers @ BASE/forbidden']",
            "ImportError: BASE/forbidden/helpers/__init__.py: the server answered 403",
        ),
        (
            "dependencies = ['helpers @ BASE/modules.zip#sha256=00']",
            "ImportError: BASE/modules.zip: its SHA-256 is ",
        ),
    ] {
        let sandbox = started_with(Runtime::Python, Limits::default(), server.host()).await;
        let source = script(&metadata.replace("BASE", &server.url("")), "import helpers");
        let error = sandbox.load_script_as("tool.py", source).await.unwrap_err().to_string();
        let expected = expected.replace("BASE", &server.url(""));
        assert!(error.starts_with(&expected), "{metadata}: {error}");
    }
    let twice = "# /// script\n# ///\n\n# /// script\n# ///\n";
    let sandbox = started(Runtime::Python).await;
    let error = sandbox.load_script_as("tool.py", twice).await.unwrap_err().to_string();
    assert!(error.starts_with("ValueError: tool.py: there is more than one block"), "{error}");
}
