//! Scripts, loaded one after another into the same state.

use isola::{Language, Runtime, Template, args};
use serde_json::json;
use test_macros::each_runtime;

use crate::fixture::{Script, started};

#[each_runtime]
async fn later_scripts_see_earlier_ones(runtime: Runtime) {
    let scripts = match runtime.language() {
        Language::Python => [
            "counter = 0\ndef count():\n    global counter\n    counter += 1\n    return counter\n",
            "count()\ncounter += 10\n",
            "class Thing:\n    def __init__(self): self.n = counter\ndef main():\n    return [Thing().n, count()]\n",
        ],
        Language::JavaScript => [
            "let counter = 0;\nfunction count() { return ++counter }\n",
            "count();\ncounter += 10;",
            "class Thing { constructor() { this.n = counter } }\nconst main = () => [new Thing().n, count()];\n",
        ],
    };
    let sandbox = started(runtime).await;
    for script in scripts {
        sandbox.load_script(script).await.unwrap();
    }
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!([11, 12]));
}

#[tokio::test]
async fn every_kind_of_top_level_javascript_declaration_is_callable() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "
const arrow = (a) => a + 1;
let assigned = function (a) { return a + 2 };
var old = async (a) => a + 3;
function plain(a) { return a + 4 }
async function later(a) { return a + 5 }
function* items(a) { yield a; return a + 6 }
const { destructured, inner: [renamed = (a) => a + 8] } = { destructured: (a) => a + 7, inner: [] };
globalThis.explicit = (a) => a + 9;
class Klass { static make(a) { return a } }
// a comment that ends the source without a newline",
        )
        .await
        .unwrap();
    for (name, result) in [
        ("arrow", 2),
        ("assigned", 3),
        ("old", 4),
        ("plain", 5),
        ("later", 6),
        ("items", 7),
        ("destructured", 8),
        ("renamed", 9),
        ("explicit", 10),
    ] {
        assert_eq!(sandbox.run(name, args![1]).await.unwrap(), json!(result), "{name}");
    }
    // A notebook declares the same names repeatedly.
    sandbox.load_script("const arrow = (a) => a * 100").await.unwrap();
    assert_eq!(sandbox.run("arrow", args![2]).await.unwrap(), json!(200));
    // A class is not callable without `new`, as in the language.
    let error = sandbox.run("Klass", args![]).await.unwrap_err();
    assert!(error.to_string().starts_with("TypeError"), "{error}");
}

/// Identifiers at positions of declared names that declare none.
#[tokio::test]
async fn javascript_parameters_are_not_global() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "globalThis.seen = 5;
function main(a, seen, toString) {
  return ['a' in globalThis, globalThis.seen, Object.hasOwn(globalThis, 'toString')];
}",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![1, 2, 3]).await.unwrap(), json!([false, 5, false]));
    // There is no error at positions without a name either.
    sandbox.load_script("Object.preventExtensions(globalThis)").await.unwrap();
    sandbox.load_script("seen = [3, 1].sort((x, y, valueOf) => x - y)[0]").await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!([false, 1, false]));
}

#[tokio::test]
async fn unusual_javascript_sources_are_parsed() {
    for source in [
        "'use strict';\nfunction main() { return (function () { return this === undefined })() }",
        "/* } */ const re = /[/`'\"{]const x = 1/g; const main = () => re.source.length === 18",
        "const t = `a ${`b ${'}'}`} const z = 1`;\nconst main = () => t.length === 17",
        "let a = 1\nlet b = a\n++b\nconst main = () => a === 1 && b === 2",
        "for (let i = 0; i < 3; i++) { const hidden = i }\nconst main = () => typeof hidden === 'undefined'",
        "if (true) { var shown = true }\nfunction main() { return shown }",
        "label: for (const x of [1]) { break label }\nasync function main() { for await (const y of [Promise.resolve(true)]) return y }",
        "#!/usr/bin/env node\nconst main = () => true",
        "const let_ = 1, of = 2, get = 3; var main = () => let_ + of + get === 6",
        "\u{feff}const main = () => true",
        "const main = () => true <!-- html comment\n",
    ] {
        let sandbox = started(Runtime::JavaScript).await;
        sandbox.load_script(source).await.unwrap_or_else(|error| panic!("{source}: {error}"));
        let value = sandbox.run("main", args![]).await;
        assert_eq!(value.unwrap_or_else(|e| panic!("{source}: {e}")), json!(true), "{source}");
    }
}

#[each_runtime]
async fn prelude_runs_before_scripts(runtime: Runtime) {
    let prelude = Script {
        python: "import json\ndef helper(x):\n    return json.dumps(x)\n",
        javascript: "const helper = (x) => JSON.stringify(x);",
    };
    let script = Script {
        python: "def main():\n    return helper([1])\n",
        javascript: "function main() { return helper([1]) }",
    };
    let template = Template::builder(runtime).prelude(prelude.of(runtime)).build().await.unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script.of(runtime)).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("[1]"));
}

#[each_runtime]
async fn failed_prelude_has_its_line(runtime: Runtime) {
    let prelude = Script { python: "x = 1\n1 / 0\n", javascript: "const x = 1;\nnope();\n" };
    let template = Template::builder(runtime).prelude(prelude.of(runtime)).build().await.unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    let error = sandbox.start().await.unwrap_err().to_string();
    assert!(error.contains("prelude") && error.contains('2'), "{error}");
    // A sandbox whose prelude failed cannot be used.
    assert!(sandbox.is_closed());
    let after = sandbox.run("main", args![]).await.unwrap_err().to_string();
    assert!(after.starts_with("sandbox is closed: an earlier call ended it: "), "{after}");
}

#[tokio::test]
async fn python_script_is_main_and_its_classes_can_be_pickled() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
import dataclasses, pickle, typing
@dataclasses.dataclass
class Point:
    x: int
    y: 'typing.Optional[int]' = None
def main():
    assert __name__ == '__main__'
    assert typing.get_type_hints(Point)['y'] == typing.Optional[int]
    return dataclasses.asdict(pickle.loads(pickle.dumps(Point(1, 2))))
",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!({"x": 1, "y": 2}));
}
