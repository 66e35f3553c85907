//! Values of every JSON type are passed unchanged in both directions.

use isola::{Error, Limit, Limits, Runtime, Value, args};
use serde_json::json;
use test_macros::each_runtime;

use crate::fixture::{Script, loaded, run_main, started_with};

const ECHO: Script = Script {
    python: "def main(value):\n    return value\n",
    javascript: "function main(value) { return value }",
};

#[each_runtime]
async fn values_of_every_kind_round_trip(runtime: Runtime) {
    let sandbox = loaded(runtime, ECHO).await;
    for value in [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(9_007_199_254_740_991_i64),
        json!(""),
        json!("plain"),
        json!("quote \" backslash \\ newline \n tab \t nul \u{0} del \u{7f}"),
        json!("grüße, 世界, 🦀, \u{2028}"),
        json!([]),
        json!({}),
        json!([1, [2, [3, [null]]]]),
        json!({"a": {"b": [{"c": "d"}]}, "": 1, "ключ": "значение"}),
    ] {
        let back = sandbox.run("main", args![value]).await.unwrap();
        assert_eq!(back, value);
    }
}

#[each_runtime]
async fn nested_values_round_trip(runtime: Runtime) {
    let deep = (0..60).fold(json!("core"), |inner, _| json!([{ "in": inner }]));
    let back = run_main(runtime, ECHO, args![deep]).await.unwrap();
    assert!(back == deep);
}

#[each_runtime]
async fn ten_mebibytes_round_trip(runtime: Runtime) {
    let text = "0123456789abcdef".repeat(10 << 16);
    let back: String = run_main(runtime, ECHO, args![text]).await.unwrap().to().unwrap();
    assert!(back == text, "{} bytes", back.len());
}

#[tokio::test]
async fn python_integers_keep_every_digit() {
    let script = Script {
        python: "def main(n):\n    return {'square': n * n, 'big': 7 ** 6000}\n",
        javascript: "",
    };
    let n = Value::from_json("123456789012345678901234567890").unwrap();
    let result = run_main(Runtime::Python, script, args![n]).await.unwrap();
    let text = result.as_str();
    assert!(text.contains("15241578753238836750495351562536198787501905199875019052100"), "{text}");
    // 7^6000 has 5071 digits: more than CPython converts by default.
    assert!(text.len() > 5_071, "{}", text.len());
}

#[tokio::test]
async fn javascript_bigints_become_integers() {
    let script = Script { python: "", javascript: "function main() { return [2n ** 100n, 1] }" };
    let result = run_main(Runtime::JavaScript, script, args![]).await.unwrap();
    assert_eq!(result.as_str(), "[1267650600228229401496703205376,1]");
}

#[each_runtime]
async fn non_json_value_is_refused_with_its_path(runtime: Runtime) {
    let rows = [
        (
            Script {
                python: "def main():\n    return {'items': [1, {'price': float('nan')}]}\n",
                javascript: "function main() { return {items: [1, {price: NaN}]} }",
            },
            "items[1].price",
        ),
        (
            Script {
                python: "def main():\n    return [float('-inf')]\n",
                javascript: "function main() { return [-Infinity] }",
            },
            "$[0]",
        ),
        (
            Script {
                python: "def main():\n    return {'f': [main]}\n",
                javascript: "function main() { return {f: [main]} }",
            },
            "$.f[0]",
        ),
        (
            Script {
                python: "def main():\n    a = []\n    a.append({'self': a})\n    return a\n",
                javascript: "function main() { const a = []; a.push({self: a}); return a }",
            },
            "$[0].self",
        ),
        (
            Script {
                python: "def main():\n    return {'when': __import__('datetime').date(2020, 1, 1)}\n",
                javascript: "function main() { return {when: Symbol('s')} }",
            },
            "$.when",
        ),
        (
            Script {
                python: "def main():\n    return b'bytes'\n",
                javascript: "function main() { return {m: new Map([[1, 2]])} }",
            },
            "$",
        ),
        (
            // The same for partial results.
            Script {
                python: "def main():\n    yield {'a': object()}\n",
                javascript: "function* main() { yield {a: () => 1} }",
            },
            "$.a",
        ),
    ];
    for (script, path) in rows {
        match run_main(runtime, script, args![]).await {
            Err(Error::Guest(exception)) => {
                assert_eq!(exception.name, "TypeError");
                assert!(exception.message.contains(path), "{}", exception.message);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[each_runtime]
async fn nan_argument_is_refused_with_its_path(runtime: Runtime) {
    let sandbox = loaded(runtime, ECHO).await;
    let error = sandbox.run("main", args![vec![1.0, f64::NAN]]).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(why) if why.contains("$[1]")), "{error}");
    // The sandbox is not affected.
    assert_eq!(sandbox.run("main", args![1]).await.unwrap(), json!(1));
}

#[each_runtime]
async fn value_size_limit_applies_in_both_directions(runtime: Runtime) {
    let limits = Limits { max_value_size: 1 << 20, ..Limits::default() };
    let script = Script {
        python: "def main(n):\n    return 'x' * n\n",
        javascript: "function main(n) { return 'x'.repeat(n) }",
    };
    let sandbox = started_with(runtime, limits, isola::DenyAll).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    for n in [1 << 20, 20 << 20] {
        let error = sandbox.run("main", args![n]).await.unwrap_err();
        assert_eq!(error.limit(), Some(Limit::ValueSize), "{error}");
    }
    let error = sandbox.run("main", args!["x".repeat(1 << 20)]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::ValueSize), "{error}");
    assert_eq!(sandbox.run("main", args![1]).await.unwrap(), json!("x"));
}
