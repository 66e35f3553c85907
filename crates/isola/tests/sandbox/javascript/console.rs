//! The log records of `console`: level and text of each.

use isola::{Event, Level, Runtime, args};

use crate::fixture::{events, log_records, started};

async fn records(source: &str) -> Vec<(Level, String)> {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox.load_script_as("log.js", format!("function main() {{\n{source}\n}}")).await.unwrap();
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert!(matches!(all.last(), Some(Event::End(_))), "{source}: {all:?}");
    let records = log_records(&all).into_iter();
    records.map(|(level, message)| (level, message.to_owned())).collect()
}

#[tokio::test]
async fn every_method_has_its_level_and_format() {
    for (source, level, text) in [
        ("console.log('a', 1, true, null, undefined)", Level::Info, "a 1 true null undefined"),
        (
            "console.info({ a: { b: { c: { d: 1 } } } })",
            Level::Info,
            "{ a: { b: { c: [Object] } } }",
        ),
        ("console.debug([1, 'two', [3]])", Level::Debug, "[ 1, 'two', [ 3 ] ]"),
        (
            "console.warn(new Map([[1, 'a']]), new Set([1]))",
            Level::Warning,
            "Map(1) { 1 => 'a' } Set(1) { 1 }",
        ),
        ("console.error('bad', 5n, Symbol('s'))", Level::Error, "bad 5n Symbol(s)"),
        ("console.trace('here')", Level::Debug, "Trace: here\n    at main (log.js:2:9)"),
        ("console.assert(1 > 2, 'no', { a: 1 })", Level::Error, "Assertion failed: no { a: 1 }"),
        ("console.assert(false)", Level::Error, "Assertion failed"),
        ("console.dir({ a: { b: { c: {} } } }, { depth: 0 })", Level::Info, "{ a: [Object] }"),
        ("console.count(); ", Level::Info, "default: 1"),
        ("console.countReset('x')", Level::Warning, "Count for 'x' does not exist"),
        ("console.timeEnd('x')", Level::Warning, "No such label 'x' for console.timeEnd()"),
        ("console.timeLog('x')", Level::Warning, "No such label 'x' for console.timeLog()"),
        ("console.table(5)", Level::Info, "5"),
        ("console.log()", Level::Info, ""),
        (
            "const o = { name: 'o' }; o.self = o; console.log(o)",
            Level::Info,
            "<ref *1> { name: 'o', self: [Circular *1] }",
        ),
        ("console.log(new (class Point { x = 1 })())", Level::Info, "Point { x: 1 }"),
        (
            "console.log(() => 1, class A {}, function f() {})",
            Level::Info,
            "[Function (anonymous)] [class A] [Function: f]",
        ),
        (
            "console.log('%s is %d years and %i months, %f', 'Ada', '36', 7.9, '1.5')",
            Level::Info,
            "Ada is 36 years and 7 months, 1.5",
        ),
        (
            "console.log('%o %O %j %%', [1], { a: 1 }, { b: [2] })",
            Level::Info,
            "[ 1, [length]: 1 ] { a: 1 } {\"b\":[2]} %",
        ),
        ("console.log('%c styled', 'color: red')", Level::Info, " styled"),
        ("console.log('%s', 'a', 'b', { c: 1 })", Level::Info, "a b { c: 1 }"),
        ("console.log('100%', 1)", Level::Info, "100% 1"),
        ("console.log('%x', 1)", Level::Info, "%x 1"),
        ("console.log('%s %s', 'only one')", Level::Info, "only one %s"),
    ] {
        let logged = records(source).await;
        // Node shows the length of an array with %o; here it is the same as %O.
        let text = text.replace(", [length]: 1", "");
        assert_eq!(logged, [(level, text)], "{source}");
    }
}

#[tokio::test]
async fn true_assertion_logs_nothing() {
    assert_eq!(records("console.assert(true, 'fine')").await, []);
}

#[tokio::test]
async fn errors_are_logged_with_their_stack() {
    let logged =
        records("console.error('failed:', new RangeError('bad', { cause: new Error('why') }))")
            .await;
    let [(Level::Error, text)] = &logged[..] else { panic!("{logged:?}") };
    assert!(text.starts_with("failed: RangeError: bad\n    at main (log.js:2:"), "{text}");
    assert!(text.contains("[cause]: Error: why\n      at main (log.js:2:"), "{text}");
}

#[tokio::test]
async fn groups_indent_and_counters_increment() {
    let logged = records(
        "console.group('outer');
        console.log('in\\ntwo lines');
        console.groupCollapsed('inner');
        console.warn('deep');
        console.groupEnd();
        console.groupEnd();
        console.groupEnd();
        console.log('out');
        console.count('c'); console.count('c'); console.countReset('c'); console.count('c');",
    )
    .await;
    let texts: Vec<_> = logged.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        ["outer", "  in\n  two lines", "  inner", "    deep", "out", "c: 1", "c: 2", "c: 1"]
    );
    assert_eq!(logged[3].0, Level::Warning);
}

#[tokio::test]
async fn timers_log_elapsed_time() {
    let logged = records(
        "console.time('t'); console.time('t'); console.timeLog('t', 'half', { way: 1 }); console.timeEnd('t'); console.timeEnd('t');",
    )
    .await;
    assert_eq!(
        logged[0],
        (Level::Warning, "Label 't' already exists for console.time()".to_owned())
    );
    assert!(
        logged[1].1.starts_with("t: ") && logged[1].1.ends_with("ms half { way: 1 }"),
        "{logged:?}"
    );
    assert!(logged[2].1.starts_with("t: ") && logged[2].1.ends_with("ms"), "{logged:?}");
    assert_eq!(logged[3].0, Level::Warning);
}

#[tokio::test]
async fn tables_are_drawn() {
    for (source, table) in [
        (
            "console.table([{ a: 1, b: 'x' }, { a: 2, c: true }])",
            "┌─────────┬───┬─────┬──────┐
│ (index) │ a │ b   │ c    │
├─────────┼───┼─────┼──────┤
│ 0       │ 1 │ 'x' │      │
│ 1       │ 2 │     │ true │
└─────────┴───┴─────┴──────┘",
        ),
        (
            "console.table({ one: 1, two: { a: [1] } }, ['a'])",
            "┌─────────┬───────┬────────┐
│ (index) │ a     │ Values │
├─────────┼───────┼────────┤
│ one     │       │ 1      │
│ two     │ [ 1 ] │        │
└─────────┴───────┴────────┘",
        ),
        (
            "console.table(new Map([['k', 'v']]))",
            "┌───────────────────┬─────┬────────┐
│ (iteration index) │ Key │ Values │
├───────────────────┼─────┼────────┤
│ 0                 │ 'k' │ 'v'    │
└───────────────────┴─────┴────────┘",
        ),
    ] {
        let logged = records(source).await;
        assert_eq!(logged, [(Level::Info, table.to_owned())], "{source}");
    }
}
