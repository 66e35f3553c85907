//! The functions that a host can call, and the delivery of their results.

use isola::{Error, Language, Runtime, args};
use serde_json::json;
use test_macros::each_runtime;

use crate::fixture::{Script, events, loaded, results, run_main, started};

#[each_runtime]
async fn plain_and_async_functions_are_called(runtime: Runtime) {
    let script = Script {
        python: "
import asyncio
def plain(a, b):
    return a + b
async def later(a, b):
    await asyncio.sleep(0.001)
    return a * b
",
        javascript: "
function plain(a, b) { return a + b }
async function later(a, b) {
    await new Promise(resolve => setTimeout(resolve, 1));
    return a * b;
}
",
    };
    let sandbox = loaded(runtime, script).await;
    assert_eq!(sandbox.run("plain", args![2, 3]).await.unwrap(), json!(5));
    assert_eq!(sandbox.run("later", args![2, 3]).await.unwrap(), json!(6));
    assert_eq!(sandbox.run("later", args![4, 5]).await.unwrap(), json!(20));
}

const GREETING: Script = Script {
    python: "def greet(name, greeting='Hello'):\n    return f'{greeting} {name}'\n",
    javascript: "
function greet(name, { greeting = 'Hello' } = {}) { return `${greeting} ${name}` }
",
};

#[each_runtime]
async fn named_arguments_are_passed(runtime: Runtime) {
    let sandbox = loaded(runtime, GREETING).await;
    assert_eq!(sandbox.run("greet", args!["Ada"]).await.unwrap(), json!("Hello Ada"));
    let named = args!["Ada", greeting = "Hi"];
    assert_eq!(sandbox.run("greet", named).await.unwrap(), json!("Hi Ada"));
}

#[tokio::test]
async fn python_arguments_are_matched_by_name() {
    let sandbox = loaded(Runtime::Python, GREETING).await;
    let all_named = args![greeting = "Hey", name = "Bob"];
    assert_eq!(sandbox.run("greet", all_named).await.unwrap(), json!("Hey Bob"));
    let error = sandbox.run("greet", args!["Ada", nme = 1]).await.unwrap_err();
    assert!(error.to_string().starts_with("TypeError: "), "{error}");
}

#[each_runtime]
async fn generators_stream_their_items(runtime: Runtime) {
    let rows = [
        (
            "sync generator",
            Script {
                python: "def main():\n    for i in range(3):\n        yield i\n",
                javascript: "function* main() { for (let i = 0; i < 3; i++) yield i }",
            },
            vec!["0", "1", "2"],
        ),
        (
            "async generator",
            Script {
                python: "
import asyncio
async def main():
    for i in range(3):
        await asyncio.sleep(0.001)
        yield i
",
                javascript: "
async function* main() {
    for (let i = 0; i < 3; i++) {
        await new Promise(resolve => setTimeout(resolve, 1));
        yield i;
    }
}
",
            },
            vec!["0", "1", "2"],
        ),
        (
            "another iterable",
            Script {
                python: "def main():\n    return map(str, range(2))\n",
                javascript: "function main() { return new Set(['0', '1']) }",
            },
            vec!["\"0\"", "\"1\""],
        ),
        (
            "an iterable that an async function returns",
            Script {
                python: "async def main():\n    return iter([1, 2])\n",
                javascript: "async function main() { return [1, 2].values() }",
            },
            vec!["1", "2"],
        ),
    ];
    for (what, script, items) in &rows {
        let sandbox = loaded(runtime, *script).await;
        let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
        let (partial, end) = results(&all);
        assert_eq!(&partial, items, "{what}: {all:?}");
        assert_eq!(end.as_deref(), Some("null"), "{what}");
    }
}

#[each_runtime]
async fn json_values_are_not_streamed(runtime: Runtime) {
    let script = Script {
        python: "
import collections
def main():
    return [[1, 2], (3,), {'a': 1}, 'text', collections.OrderedDict(b=2)]
",
        javascript: "function main() { return [[1, 2], [3], {a: 1}, 'text', {b: 2}] }",
    };
    let sandbox = loaded(runtime, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    let (partial, end) = results(&all);
    assert!(partial.is_empty());
    assert_eq!(end.as_deref(), Some(r#"[[1,2],[3],{"a":1},"text",{"b":2}]"#));
}

#[each_runtime]
async fn generator_return_value_is_the_result_only_in_javascript(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    yield 1\n    return 2\n",
        javascript: "function* main() { yield 1; return 2 }",
    };
    let end = match runtime.language() {
        Language::Python => "null",
        Language::JavaScript => "2",
    };
    let value = run_main(runtime, script, args![]).await.unwrap();
    assert_eq!(value.as_str(), end);
}

#[each_runtime]
async fn generator_error_follows_its_items(runtime: Runtime) {
    let script = Script {
        python: "def main():\n    yield 1\n    raise ValueError('half')\n",
        javascript: "function* main() { yield 1; throw new RangeError('half') }",
    };
    let sandbox = loaded(runtime, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert!(matches!(&all[0], isola::Event::Result(value) if value.as_str() == "1"));
    assert!(
        matches!(&all[1], isola::Event::Error(Error::Guest(e)) if e.message == "half"),
        "{all:?}"
    );
    assert_eq!(all.len(), 2);
}

#[each_runtime]
async fn missing_function_is_an_error(runtime: Runtime) {
    let start = match runtime.language() {
        Language::Python => "NameError: name 'missing' is not defined",
        Language::JavaScript => "ReferenceError: missing is not defined",
    };
    let sandbox = started(runtime).await;
    let error = sandbox.run("missing", args![]).await.unwrap_err();
    assert!(error.to_string().starts_with(start), "{error}");
    assert_eq!(error.code(), "guest_exception");
}

#[each_runtime]
async fn value_that_is_not_callable_is_an_error(runtime: Runtime) {
    let script = Script { python: "answer = 42", javascript: "const answer = 42" };
    let sandbox = loaded(runtime, script).await;
    let error = sandbox.run("answer", args![]).await.unwrap_err();
    assert!(error.to_string().starts_with("TypeError: "), "{error}");
}

#[each_runtime]
async fn operations_in_the_wrong_state_are_refused(runtime: Runtime) {
    use crate::fixture::template;
    let sandbox = template(runtime).await.sandbox().create().await.unwrap();
    let early = sandbox.run("main", args![]).await.unwrap_err();
    assert_eq!(early.to_string(), "sandbox is not running");
    let early = sandbox.load_script("").await.unwrap_err();
    assert_eq!(early.to_string(), "sandbox is not running");
    sandbox.start().await.unwrap();
    let twice = sandbox.start().await.unwrap_err();
    assert_eq!(twice.to_string(), "sandbox is not in pending state");
    sandbox.close();
    sandbox.close();
    let late = sandbox.run("main", args![]).await.unwrap_err();
    assert_eq!(late.to_string(), "sandbox is closed: its owner closed it");
    assert_eq!(late.code(), "closed");
}
