//! `sandbox.serde`.

use isola::{Runtime, Sandbox, args};
use serde_json::json;

use crate::fixture::started;

const SCRIPT: &str = "
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID
from cbor2 import CBORTag
from sandbox.serde import dumps, loads
NAN = float('nan')
CIRCLE = []
CIRCLE.append(CIRCLE)
DEEP = []
for _ in range(5000):
    DEEP = [DEEP]
def evaluate(expression):
    return eval(expression)
def shown(expression):
    return repr(eval(expression))
def there_and_back(expression, format):
    value = eval(expression)
    back = loads(dumps(value, format), format)
    return back == value and type(back) is type(value)
";

async fn sandbox() -> Sandbox {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    sandbox
}

#[tokio::test]
async fn each_format_is_encoded_and_decoded() {
    let sandbox = sandbox().await;
    for (expression, expected) in [
        (r#"dumps({'hello': 'world'}, 'json')"#, r#"'{"hello": "world"}'"#),
        (
            r#"dumps(['é', 2**70, None, (1,)], 'json')"#,
            r#"'["é", 1180591620717411303424, null, [1]]'"#,
        ),
        (
            r#"dumps({'b': [1, {'a': None}], 'a': 'yes'}, 'yaml')"#,
            r#""b:\n- 1\n- a: null\na: 'yes'\n""#,
        ),
        (r#"dumps('é', 'yaml')"#, r"'é\n...\n'"),
        (r#"dumps({'hello': 'world'}, 'cbor').hex()"#, "'a16568656c6c6f65776f726c64'"),
        (r#"dumps(2**64, 'cbor').hex()"#, "'c249010000000000000000'"),
        (r#"dumps(CBORTag(1234, 'x'), 'cbor').hex()"#, "'d904d26178'"),
        (r#"loads('{"hello": [1, 2.5, true]}', 'json')"#, "{'hello': [1, 2.5, True]}"),
        (
            "loads('a: [1, 0x10, 1.5, yes, ~, 2024-02-29]', 'yaml')",
            "{'a': [1, 16, 1.5, True, None, datetime.date(2024, 2, 29)]}",
        ),
        (r"loads('- !!binary AP8=\n- !!set {a}', 'yaml')", r"[b'\x00\xff', {'a'}]"),
        ("loads('', 'yaml')", "None"),
        (
            "loads(bytes.fromhex('c11a65e0b9a0'), 'cbor')",
            "datetime.datetime(2024, 2, 29, 17, 6, 40, tzinfo=datetime.timezone.utc)",
        ),
        ("loads(bytes.fromhex('d904d26178'), 'cbor')", "CBORTag(1234, 'x')"),
        (r"loads(bytearray(b'\x81\x01'), 'cbor')", "[1]"),
    ] {
        let seen = sandbox.run("shown", args![expression]).await.unwrap();
        assert_eq!(seen, json!(expected), "{expression}");
    }
}

#[tokio::test]
async fn values_round_trip() {
    let sandbox = sandbox().await;
    const JSON: &[&str] = &[
        "{'a': [1, -2.5, None, True, 'é🦀'], 'b': {}}",
        "2**200",
        "-2**200",
        "1e300",
        "''",
        r"'a\u2028\x00b'",
    ];
    const YAML: &[&str] = &[
        r"b'\x00\xff'",
        "date(2024, 2, 29)",
        "datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC)",
        "{1, 2}",
        "{1: 'a', None: 'b', True: 'c'}",
        "'no'",
        "'1.5'",
        r"'a\n b\n\t# c: d\n'",
    ];
    const CBOR: &[&str] = &[
        "Decimal('1.5')",
        "UUID(int=5)",
        "float('inf')",
        "__import__('ipaddress').ip_address('::1')",
        "__import__('fractions').Fraction(1, 3)",
    ];
    for (format, values) in
        [("json", &[JSON][..]), ("yaml", &[JSON, YAML]), ("cbor", &[JSON, YAML, CBOR])]
    {
        for value in values.iter().copied().flatten() {
            let same = sandbox.run("there_and_back", args![value, format]).await;
            assert_eq!(same.unwrap(), json!(true), "{format} {value}");
        }
    }
}

#[tokio::test]
async fn invalid_data_is_refused() {
    let sandbox = sandbox().await;
    for (expression, expected) in [
        ("dumps(1, 'xml')", "ValueError: unknown format 'xml': use one of 'json', 'yaml', 'cbor'"),
        ("loads('1', 'JSON')", "ValueError: unknown format 'JSON'"),
        ("loads('1', None)", "ValueError: unknown format None"),
        ("dumps(b'', 'json')", "TypeError: Object of type bytes is not JSON serializable"),
        ("dumps(NAN, 'json')", "ValueError: the value cannot be encoded as JSON: "),
        ("dumps(CIRCLE, 'json')", "ValueError: the value cannot be encoded as JSON: Circular"),
        ("dumps(object(), 'yaml')", "TypeError: object is not a YAML value"),
        ("dumps(object(), 'cbor')", "TypeError: the value cannot be encoded as CBOR: "),
        ("dumps(CIRCLE, 'cbor')", "TypeError: the value cannot be encoded as CBOR: cyclic"),
        ("dumps(DEEP, 'yaml')", "calls nest deeper than the limit"),
        ("loads('{', 'json')", "JSONDecodeError: Expecting property name"),
        ("loads(5, 'json')", "TypeError: the JSON object must be"),
        ("loads('a: b: c', 'yaml')", "ValueError: not valid YAML of plain values: mapping values"),
        (
            r"loads('- 1\n---\n- 2', 'yaml')",
            "ValueError: not valid YAML of plain values: expected a single",
        ),
        (
            "loads('!!python/object/apply:os.system [x]', 'yaml')",
            "ValueError: not valid YAML of plain values: could not determine a constructor",
        ),
        ("loads('[' * 5000, 'yaml')", "ValueError: the YAML is nested too deeply"),
        ("loads(5, 'yaml')", "TypeError: YAML must be a str, not int"),
        ("loads('text', 'cbor')", "TypeError: CBOR must be bytes, not str"),
        ("loads(b'', 'cbor')", "ValueError: not valid CBOR: "),
        (r"loads(b'\xff', 'cbor')", "ValueError: not valid CBOR: it starts with a break"),
        (r"loads(b'\x18', 'cbor')", "ValueError: not valid CBOR: "),
        (r"loads(b'\x01\x02', 'cbor')", "ValueError: not a single CBOR value: 1 bytes follow it"),
        (r"loads(b'\x9b' + b'\xff' * 8, 'cbor')", "ValueError: not valid CBOR: "),
        (r"loads(b'\x81' * 5000, 'cbor')", "ValueError: not valid CBOR: "),
    ] {
        let error = sandbox.run("evaluate", args![expression]).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{expression}: {error}");
    }
}
