//! Evaluation of source code, with the value of its last expression.

use isola::{Error, Language, Runtime};
use test_macros::each_runtime;

use crate::fixture::{events, results, started};

#[each_runtime]
async fn value_of_the_last_expression_is_returned(runtime: Runtime) {
    let rows = match runtime.language() {
        Language::Python => [
            ("x = 20", "null"),
            ("x + 1", "21"),
            ("import asyncio\nawait asyncio.sleep(0, 'slept')", r#""slept""#),
            ("object", r#""<class 'object'>""#),
        ],
        Language::JavaScript => [
            ("var x = 20; undefined", "null"),
            ("x + 1", "21"),
            ("Promise.resolve('slept')", r#""slept""#),
            ("Symbol('s')", r#""Symbol(s)""#),
        ],
    };
    let sandbox = started(runtime).await;
    for (source, value) in rows {
        assert_eq!(sandbox.evaluate(source).await.unwrap().as_str(), value, "{source}");
    }
}

#[tokio::test]
async fn generators_are_streamed_and_errors_are_those_of_the_user() {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script("def helper(): return 1 / 0").await.unwrap();
    let stream = sandbox.evaluate("(i * i for i in range(3))").stream().unwrap();
    let (items, end) = results(&events(stream).await);
    assert_eq!((items.join(" "), end.as_deref()), ("0 1 4".to_owned(), Some("null")));
    let error = sandbox.evaluate("helper()").await.unwrap_err();
    let Error::Guest(exception) = &error else { panic!("{error}") };
    assert_eq!(exception.name, "ZeroDivisionError");
    assert!(exception.traceback.contains("in helper"), "{exception}");
    assert!(!exception.traceback.contains("isola_evaluate"), "{exception}");
    let error = sandbox.evaluate("def f(:").await.unwrap_err();
    assert!(error.to_string().starts_with("SyntaxError"), "{error}");
    assert_eq!(sandbox.evaluate("2 ** 10").await.unwrap().as_str(), "1024");
}
