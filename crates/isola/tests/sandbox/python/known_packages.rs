//! Imports of packages that a sandbox cannot have say why, and what to do.

use isola::{Mount, Runtime, Template, args};
use serde_json::json;

use crate::fixture::started;

#[tokio::test]
async fn missing_packages_are_explained() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script("import importlib\ndef main(name):\n    importlib.import_module(name)")
        .await
        .unwrap();
    let native = "it has native code, which a WebAssembly sandbox cannot load. ";
    for (module, whys) in [
        ("torch", [native, "A Linux sandbox (isorun) has it after `pip install torch`"]),
        ("torch.nn", [native, "`pip install torch`"]),
        ("cv2", [native, "`pip install opencv-python`"]),
        ("numpy", ["The runtime `python-data` has numpy", "Linux sandbox (isorun)"]),
        ("PIL.Image", ["The runtime `python-data` has PIL", "Linux sandbox (isorun)"]),
        ("bs4", ["`pip install --target DIR beautifulsoup4`", "--site-packages DIR"]),
        ("tkinter", ["a sandbox has no display", ""]),
    ] {
        let error = sandbox.run("main", args![module]).await.unwrap_err().to_string();
        let root = module.split('.').next().unwrap();
        let start = format!("ModuleNotFoundError: No module named '{root}': ");
        assert!(error.starts_with(&start), "{module}: {error}");
        for why in whys {
            assert!(error.contains(why), "{module}: {error}");
        }
    }
    // Other names have the usual message.
    let error = sandbox.run("main", args!["torches"]).await.unwrap_err().to_string();
    assert!(
        error.lines().next() == Some("ModuleNotFoundError: No module named 'torches'"),
        "{error}"
    );
}

#[tokio::test]
async fn code_that_asks_for_a_package_has_the_usual_answers() {
    let sandbox = started(Runtime::Python).await;
    let script = "
import importlib.util, pkgutil, sys
def main():
    try:
        import numpy
    except ImportError as error:
        caught = [type(error).__name__, error.name]
    try:
        import pandas as pd
    except ModuleNotFoundError:
        pd = None
    found = [importlib.util.find_spec('numpy'), importlib.util.find_spec('torch')]
    return [caught, pd, found, 'numpy' in sys.modules]

class Own:
    # Finders of scripts come after those of the guest.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'torch':
            return importlib.util.spec_from_loader(name, Own)
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        module.answer = 42

def own():
    sys.meta_path.append(Own)
    import torch
    return torch.answer

def trace():
    import scipy
";
    sandbox.load_script(script).await.unwrap();
    let seen = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(seen, json!([["ModuleNotFoundError", "numpy"], null, [null, null], false]));
    assert_eq!(sandbox.run("own", args![]).await.unwrap(), json!(42));
    let error = sandbox.run("trace", args![]).await.unwrap_err();
    let isola::Error::Guest(exception) = &error else { panic!("{error}") };
    assert_eq!(exception.traceback.matches("File ").count(), 1, "{}", exception.traceback);
}

#[tokio::test]
async fn native_files_of_other_platforms_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("speedy");
    std::fs::create_dir(&package).unwrap();
    std::fs::write(package.join("__init__.py"), "from . import _speed\n").unwrap();
    std::fs::write(package.join("_speed.cpython-314-x86_64-linux-gnu.so"), b"\x7fELF").unwrap();
    std::fs::write(dir.path().join("_flat.cpython-314-wasm32-wasi.so"), b"\0asm").unwrap();
    let guarded = "try:\n    from speedy import _speed\nexcept ImportError:\n    _speed = None\n";
    std::fs::write(dir.path().join("guarded.py"), guarded).unwrap();
    let template = Template::builder(Runtime::Python)
        .mount(Mount::new(dir.path(), "/packages"))
        .env("PYTHONPATH", "/packages")
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script("def main(name):\n    return __import__(name).__name__").await.unwrap();
    let error = sandbox.run("main", args!["speedy"]).await.unwrap_err().to_string();
    let expected = "No module named 'speedy._speed': \
                    '/packages/speedy/_speed.cpython-314-x86_64-linux-gnu.so' is native code";
    assert!(error.contains(expected), "{error}");
    let error = sandbox.run("main", args!["_flat"]).await.unwrap_err().to_string();
    assert!(
        error.contains("'/packages/_flat.cpython-314-wasm32-wasi.so' is native code"),
        "{error}"
    );
    assert_eq!(sandbox.run("main", args!["guarded"]).await.unwrap(), json!("guarded"));
}
