//! The standard library of the Python guest.

use std::collections::BTreeSet;

use isola::{Limits, Runtime, args};

use crate::fixture::{started, started_with};

/// A script that lists the modules of the library, and the errors of importing them.
const PROBE: &str = "
import importlib, sys
def names():
    from isola_guest import stdlib
    return sorted(set(stdlib._modules) | set(sys.builtin_module_names))
def attempt(name):
    try:
        importlib.import_module(name)
        return None
    except BaseException as error:
        return f'{type(error).__name__}: {error}'
def main(names):
    return {name: why for name in names if (why := attempt(name))}
";

/// The expected modules of the library, so that a lost one is an error. A line that
/// starts with `-` is a module that cannot be imported, with the first line of the
/// error.
const EXPECTED: &str = include_str!("stdlib.txt");

#[tokio::test]
async fn every_module_imports() {
    let sandbox = started_with(Runtime::Python, Limits::default(), isola::DenyAll).await;
    sandbox.load_script(PROBE).await.unwrap();
    let names: Vec<String> = sandbox.run("names", args![]).await.unwrap().to().unwrap();
    let failed: std::collections::BTreeMap<String, String> =
        sandbox.run("main", args![names]).await.unwrap().to().unwrap();
    let found: BTreeSet<String> = names
        .iter()
        .map(|name| match failed.get(name) {
            None => name.clone(),
            Some(why) => format!("-{name} {}", why.lines().next().unwrap_or_default()),
        })
        .collect();
    let expected: BTreeSet<String> = EXPECTED.lines().map(str::to_owned).collect();
    let lost: Vec<_> = expected.difference(&found).collect();
    let new: Vec<_> = found.difference(&expected).collect();
    if std::env::var_os("ISOLA_UPDATE_EXPECTED").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sandbox/stdlib.txt");
        let lines: String = found.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(path, lines).unwrap();
        panic!("stdlib.txt was rewritten: review it, and run the tests again");
    }
    assert!(lost.is_empty() && new.is_empty(), "lost: {lost:#?}\nnew: {new:#?}");
}

#[tokio::test]
async fn modules_work_after_their_import() {
    let sandbox = started(Runtime::Python).await;
    sandbox
        .load_script(
            "
def main():
    import sqlite3, zlib, decimal, pickle, xml.etree.ElementTree as ET, datetime, zoneinfo
    import hashlib, base64, csv, io, statistics, itertools, re, textwrap, email.message, tomllib
    db = sqlite3.connect(':memory:')
    db.execute('create table t (a, b)')
    db.executemany('insert into t values (?, ?)', [(1, 'x'), (2, 'y')])
    message = email.message.EmailMessage()
    message['Subject'] = 'hi'
    return [
        db.execute('select sum(a), group_concat(b) from t').fetchall(),
        zlib.decompress(zlib.compress(b'abc' * 100)) == b'abc' * 100,
        str(decimal.Decimal('0.1') + decimal.Decimal('0.2')),
        pickle.loads(pickle.dumps({1, 2})) == {1, 2},
        ET.fromstring('<a><b>t</b></a>').find('b').text,
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC).isoformat(),
        hashlib.sha256(b'').hexdigest()[:8],
        list(csv.reader(io.StringIO('a,\"b,c\"'))),
        tomllib.loads('a = 1'),
        'Subject: hi' in str(message),
    ]
",
        )
        .await
        .unwrap();
    let value = sandbox.run("main", args![]).await.unwrap();
    let expected = serde_json::json!([
        [[3, "x,y"]],
        true,
        "0.3",
        true,
        "t",
        "2024-02-29T00:00:00+00:00",
        "e3b0c442",
        [["a", "b,c"]],
        {"a": 1},
        true
    ]);
    assert_eq!(value, expected);
}
