//! Values that JSON does not have: NumPy's are sent as numbers and lists, others are
//! refused with their place and the expression that converts them.

use isola::{Handlers, Limit, Limits, Runtime, Sandbox, Value, args};
use serde_json::json;

use crate::fixture::{events, results, started, started_with};

/// Classes as those of packages that a plain runtime does not have. The guest knows them
/// by these names.
const PACKAGES: &str = "
import asyncio, collections, dataclasses, datetime, decimal, enum, fractions, pathlib, uuid

def of(package, name, base=object):
    return type(name, (base,), {'__module__': package})

Kind = collections.namedtuple('Kind', 'kind')

class generic:
    __module__ = 'numpy'
    size = 1
    def __init__(self, value, kind='i'):
        self.value, self.dtype = value, Kind(kind)
    def tolist(self):
        return self.value

class int64(generic):
    __module__ = 'numpy'

class datetime64(generic):
    __module__ = 'numpy'

class ndarray(generic):
    __module__ = 'numpy'
    def __iter__(self):
        return iter(self.value)
    @property
    def size(self):
        return len(self.value)

class huge(ndarray):
    size = 10 ** 12
    def tolist(self):
        raise AssertionError('an array that cannot fit is not converted')

class DataFrame:
    __module__ = 'pandas.core.frame'
    def __iter__(self):
        return iter(['column'])

class BaseModel:
    __module__ = 'pydantic.main'
    def model_dump(self, mode='python'):
        return {}
    def __iter__(self):
        return iter([('field', 1)])

class Model(BaseModel):
    pass

@dataclasses.dataclass
class Row:
    price: float = 1.0

class Colour(enum.Enum):
    RED = 1

async def later():
    return 1

def main(expression):
    return eval(expression)

def streamed(expression):
    yield eval(expression)
";

async fn sandbox() -> Sandbox {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(PACKAGES).await.unwrap();
    sandbox
}

#[tokio::test]
async fn arrays_are_lists_and_their_scalars_are_numbers() {
    let sandbox = sandbox().await;
    for (expression, expected) in [
        ("int64(5)", json!(5)),
        ("generic(True, 'b')", json!(true)),
        ("ndarray([1, 2, 3])", json!([1, 2, 3])),
        (
            "{'a': [ndarray([[1.5], [2.5]], 'f')], 'é': int64(1)}",
            json!({"a": [[[1.5], [2.5]]], "é": 1}),
        ),
        ("ndarray([int64(1), None, {'a': ndarray([])}], 'O')", json!([1, null, {"a": []}])),
    ] {
        let seen = sandbox.run("main", args![expression]).await.unwrap();
        assert_eq!(seen, expected, "{expression}");
        let stream = sandbox.run("streamed", args![expression]).stream().unwrap();
        let (items, _) = results(&events(stream).await);
        let item = Value::from_json(items.join(" ")).unwrap();
        assert_eq!(item, expected, "{expression}");
    }
    // A lone surrogate is escaped, for which there is another encoder.
    let seen = sandbox.run("main", args![r"['\ud800', ndarray([1])]"]).await.unwrap();
    assert_eq!(seen.as_str(), r#"["\ud800",[1]]"#);
    // The value of evaluated code, too, is a list and not its text.
    assert_eq!(sandbox.evaluate("ndarray([1, 2])").await.unwrap().as_str(), "[1,2]");
}

#[tokio::test]
async fn arrays_that_cannot_fit_are_not_converted() {
    let limits = Limits { max_value_size: 1 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, Handlers::new()).await;
    sandbox.load_script(PACKAGES).await.unwrap();
    let error = sandbox.run("main", args!["[huge([])]"]).await.unwrap_err();
    assert_eq!(error.limit(), Some(Limit::ValueSize), "{error}");
    assert_eq!(sandbox.run("main", args!["[1]"]).await.unwrap(), json!([1]));
}

#[tokio::test]
async fn refused_values_name_their_place_and_conversion() {
    let sandbox = sandbox().await;
    for (expression, why) in [
        ("decimal.Decimal(1)", "Decimal is not a JSON value; use float(x) or str(x)"),
        ("fractions.Fraction(1)", "Fraction is not a JSON value; use float(x) or str(x)"),
        ("datetime.datetime(2020, 1, 1)", "datetime is not a JSON value; use x.isoformat()"),
        ("datetime.date(2020, 1, 1)", "date is not a JSON value; use x.isoformat()"),
        ("datetime.time()", "time is not a JSON value; use x.isoformat()"),
        ("datetime.timedelta(1)", "timedelta is not a JSON value; use x.total_seconds()"),
        ("uuid.UUID(int=1)", "UUID is not a JSON value; use str(x)"),
        ("pathlib.Path('a')", "PosixPath is not a JSON value; use str(x)"),
        ("1j", "complex is not a JSON value; use [x.real, x.imag]"),
        ("b''", "bytes is not a JSON value; use x.decode() for text, or base64.b64encode(x)"),
        ("{1}", "set is not a JSON value; use sorted(x) or list(x)"),
        ("range(3)", "range is not a JSON value; use list(x)"),
        ("collections.ChainMap({})", "ChainMap is not a JSON value; use dict(x)"),
        ("Colour.RED", "Colour is not a JSON value; use x.value or x.name"),
        ("Row()", "Row is not a JSON value; use dataclasses.asdict(x)"),
        ("Model()", "Model is not a JSON value; use x.model_dump(mode=\"json\")"),
        ("DataFrame()", "DataFrame is not a JSON value; use x.to_dict(\"records\")"),
        (
            "of('pandas', 'NaTType', datetime.datetime)(2020, 1, 1)",
            "NaTType is not a JSON value; use None",
        ),
        ("datetime64(1, 'M')", "datetime64 is not a JSON value; use str(x)"),
        ("ndarray([1], 'M')", "ndarray is not a JSON value; use x.astype(str).tolist()"),
        ("later", "function is not a JSON value; use its result, x(...)"),
        (
            "asyncio.Future(loop=asyncio.new_event_loop())",
            "Future is not a JSON value; use await x",
        ),
        ("object()", "object is not a JSON value"),
        ("float('nan')", "nan is not a JSON value; use None or a text in its place"),
    ] {
        let error = sandbox
            .run("main", args![format!("{{'rows': [1, {{'price': {expression}}}]}}")])
            .await
            .unwrap_err()
            .to_string();
        let expected = format!("TypeError: cannot send $.rows[1].price to the host: {why}");
        assert!(error.starts_with(&expected), "{expression}: {error}");
    }
    for (expression, why) in [
        ("{int64(1): 1}", "$ to the host: a key of type int64 is not a JSON key; use key.item()"),
        ("[{(1, 2): 1}]", "$[0] to the host: a key of type tuple is not a JSON key; use a text"),
        ("{Colour.RED: 1}", "$ to the host: a key of type Colour is not a JSON key; use key.value"),
        ("ndarray([1.0, float('nan')], 'f')", "$[1] to the host: nan is not a JSON value; use"),
        // These have items, but are one value.
        ("DataFrame()", "$ to the host: DataFrame is not a JSON value; use x.to_dict"),
        ("Model()", "$ to the host: Model is not a JSON value; use x.model_dump"),
    ] {
        let error = sandbox.run("main", args![expression]).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("TypeError: cannot send {why}")),
            "{expression}: {error}"
        );
    }
}
