//! Deep data and deep recursion in the interpreter's own C code.

use isola::{Runtime, args};

use crate::fixture::{started, template};

const KINDS: &str = include_str!("depth.py");

#[tokio::test]
async fn deep_data_is_freed_or_raises_an_exception() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(KINDS).await.unwrap();
    let names: Vec<String> = sandbox.run("names", args![]).await.unwrap().to().unwrap();
    assert!(names.len() > 80, "{names:?}");
    let mut wrong = Vec::new();
    for name in names {
        // With any outcome, the interpreter continues to work.
        let ended = sandbox.run("run", args![name.as_str()]).await;
        match ended.map(|value| value.to::<String>().unwrap()) {
            Ok(end) if end == "ok" || !name.starts_with("free_") => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
        assert!(!sandbox.is_closed(), "{name} closes the sandbox: {wrong:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn moderately_deep_data_works() {
    let sandbox = template(Runtime::Python).await.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    let script = "
import ast, copy, json, pickle
def nested(n):
    value = 1
    for _ in range(n):
        value = [value]
    return value
def main():
    deep = nested(3000)
    assert json.loads(json.dumps(deep)) == deep
    assert pickle.loads(pickle.dumps(deep)) == deep
    assert repr(deep) == '[' * 3000 + '1' + ']' * 3000
    # As deep as the language allows.
    assert eval('(' * 100 + '1' + ')' * 100) == 1
    assert eval('[' * 100 + ']' * 100) is not None
    for kind in ('[{} for x in y]', '{{{} for x in y}}', '({} for x in y)', '[0 for x in {}]'):
        source = 'y'
        for _ in range(15):
            source = kind.format(source)
        compile(source, 'x', 'eval')
    return 'done'
";
    sandbox.load_script(script).await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), serde_json::json!("done"));
}

#[tokio::test]
async fn error_of_a_deep_value_is_short() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
def deep(n, end):
    value = end
    for _ in range(n):
        value = {'key': [value]}
    return value
def number(n):
    return deep(n, 1)
def unfit(n):
    return deep(n, {1})
def caught():
    import json
    try:
        json.dumps(deep(100000, 1))
    except RecursionError as error:
        raise ValueError('too deep') from error
",
        )
        .await
        .unwrap();
    for (function, count) in [("number", 100_000), ("unfit", 1000), ("unfit", 100_000)] {
        let error = sandbox.run(function, args![count]).await.unwrap_err();
        let exception = error.exception().unwrap();
        let length = exception.message.len() + exception.traceback.len();
        assert!(length < 2000, "{function}({count}) prints {length} bytes: {error}");
    }
    let error = sandbox.run("caught", args![]).await.unwrap_err();
    let length = error.exception().unwrap().traceback.len();
    assert!(length < 4000, "{length} bytes");
}
