//! The runtime `python-data`: numpy and pandas, their independence between sandboxes, and
//! code that abuses them.
//!
//! `cargo xtask test quick` leaves these tests out: the runtime takes minutes to build.

use std::time::Duration;

use isola::{Error, Language, Limit, Limits, Runtime, Sandbox, args};
use serde_json::{Value as Json, json};

use crate::fixture::{started, started_with, template};

mod pictures;

/// Starts a sandbox and loads a script.
async fn loaded(script: &str) -> Sandbox {
    let sandbox = started(Runtime::PythonData).await;
    sandbox.load_script(script).await.unwrap();
    sandbox
}

async fn evaluate(sandbox: &Sandbox, code: &str) -> Json {
    let value = sandbox.evaluate(code).await;
    value.unwrap_or_else(|error| panic!("{code}: {error}")).to().unwrap()
}

#[tokio::test]
async fn runtime_is_python_with_packages() {
    assert_eq!(Runtime::PythonData.language(), Language::Python);
    let sandbox = loaded("import sys\ndef main(n):\n    return [sys.platform, n]").await;
    assert_eq!(sandbox.run("main", args![1]).await.unwrap(), json!(["wasi", 1]));
    for package in ["numpy", "pandas", "regex", "msgpack", "markupsafe", "pydantic", "yaml", "PIL"]
    {
        let name = format!("__import__({package:?}).__name__");
        assert_eq!(evaluate(&sandbox, &name).await, json!(package));
    }
    // The small runtime has none of them.
    let plain = started(Runtime::Python).await;
    let error = plain.evaluate("import numpy").await.unwrap_err();
    assert_eq!(error.exception().unwrap().name, "ModuleNotFoundError");
}

#[tokio::test]
async fn default_integers_have_64_bits() {
    let sandbox = loaded("import numpy as np").await;
    for (code, dtype) in [
        ("np.arange(3)", "int64"),
        ("np.array([1, 2])", "int64"),
        ("np.array([2**40])", "int64"),
        ("np.zeros(2, dtype=int)", "int64"),
        ("np.arange(3).sum()", "int64"),
        ("np.arange(3).cumsum()", "int64"),
        ("np.ones(3, dtype=np.int8).sum()", "int64"),
        ("np.ones(3, dtype=np.int32).prod()", "int64"),
        ("np.ones(3, dtype=bool).sum()", "int64"),
        ("np.ones(3, dtype=np.uint8).sum()", "uint64"),
        ("np.random.randint(5, size=2)", "int64"),
        ("np.array([1.5]).astype(int)", "int64"),
        ("np.array([1, 2.5])", "float64"),
        ("np.array([2**63])", "uint64"),
        // WebAssembly's addresses have 32 bits.
        ("np.arange(3).argsort()", "int32"),
        ("np.array([0, 1]).nonzero()[0]", "int32"),
    ] {
        assert_eq!(
            evaluate(&sandbox, &format!("str(({code}).dtype)")).await,
            json!(dtype),
            "{code}"
        );
    }
}

#[tokio::test]
async fn arithmetic_is_that_of_a_desktop() {
    let sandbox = loaded("import numpy as np").await;
    for (code, expected) in [
        ("int(np.full(4, 2**40).sum())", json!(4_u64 << 40)),
        ("int(np.array([2**31 - 1, 1]).sum())", json!(1_u64 << 31)),
        ("int(np.array([2**20, 2**20]).prod())", json!(1_u64 << 40)),
        ("(np.array([2**62]) // 3).item()", json!((1_u64 << 62) / 3)),
        ("int(np.arange(100_000)[::-3].sum())", json!(1_666_683_333_u64)),
        ("(np.arange(6).reshape(2, 3) @ np.arange(3)).tolist()", json!([5, 14])),
        ("np.sqrt(np.array([4.0, 2.25])).tolist()", json!([2.0, 1.5])),
        ("np.linalg.solve([[2.0, 0.0], [0.0, 4.0]], [2.0, 2.0]).tolist()", json!([1.0, 0.5])),
        ("np.fft.fft([1.0, 0.0, 0.0, 0.0]).real.tolist()", json!([1.0, 1.0, 1.0, 1.0])),
        ("np.sort(np.array([3, 1, 2])).tolist()", json!([1, 2, 3])),
        ("np.array(['b', 'a']).tolist()", json!(["b", "a"])),
        ("str(np.datetime64('2024-02-28') + np.timedelta64(2, 'D'))", json!("2024-03-01")),
        // There are no warnings of floating point, and so no errors either.
        ("(np.array([1.0]) / 0).tolist() == [np.inf]", json!(true)),
        ("np.isnan(np.array([0.0]) / 0).tolist()", json!([true])),
    ] {
        assert_eq!(evaluate(&sandbox, code).await, expected, "{code}");
    }
}

const TABLE: &str = r#"
import io
import pandas as pd

CSV = """day,region,amount
2024-01-31,north,10
2024-02-01,south,5.5
2024-02-02,north,7
"""

def sales():
    return pd.read_csv(io.StringIO(CSV), parse_dates=["day"])

def totals():
    return sales().groupby("region")["amount"].sum().to_dict()

def months():
    frame = sales().set_index("day").resample("MS")["amount"].sum()
    return {str(day.date()): float(amount) for day, amount in frame.items()}

def joined():
    managers = pd.DataFrame({"region": ["north", "south"], "manager": ["Ada", "Bob"]})
    return sales().merge(managers, on="region")["manager"].tolist()

def records():
    frame = sales()
    frame["day"] = frame["day"].dt.strftime("%d.%m.")
    return frame.to_dict("records")

def as_json():
    return sales()[["region", "amount"]].to_json(orient="split", index=False)

def as_csv():
    return sales().sort_values("amount").to_csv(index=False)
"#;

#[tokio::test]
async fn tables_are_read_grouped_joined_and_written() {
    let sandbox = loaded(TABLE).await;
    for (function, expected) in [
        ("totals", json!({ "north": 17.0, "south": 5.5 })),
        ("months", json!({ "2024-01-01": 10.0, "2024-02-01": 12.5 })),
        ("joined", json!(["Ada", "Bob", "Ada"])),
        (
            "records",
            json!([
                { "day": "31.01.", "region": "north", "amount": 10.0 },
                { "day": "01.02.", "region": "south", "amount": 5.5 },
                { "day": "02.02.", "region": "north", "amount": 7.0 },
            ]),
        ),
        (
            "as_json",
            json!(
                r#"{"columns":["region","amount"],"data":[["north",10.0],["south",5.5],["north",7.0]]}"#
            ),
        ),
        (
            "as_csv",
            json!(
                "day,region,amount\n2024-02-01,south,5.5\n2024-02-02,north,7.0\n\
                 2024-01-31,north,10.0\n"
            ),
        ),
    ] {
        let value: Json = sandbox.run(function, args![]).await.unwrap().to().unwrap();
        assert_eq!(value, expected, "{function}");
    }
}

#[tokio::test]
async fn values_of_packages_leave_the_sandbox_as_json_or_are_refused_by_position() {
    let sandbox = loaded(
        "import numpy as np\nimport pandas as pd\n\
         def explicit():\n    return [np.arange(3).tolist(), np.int64(5).item(), \
         np.float32(0.5).item()]\n\
         def array():\n    return {'rows': np.arange(3)}\n\
         def missing():\n    return {'rows': [np.float64('nan')]}\n\
         def frame():\n    return {'rows': pd.DataFrame({'a': [1]})}\n",
    )
    .await;
    let explicit = sandbox.run("explicit", args![]).await.unwrap();
    assert_eq!(explicit, json!([[0, 1, 2], 5, 0.5]));
    // Lists and numbers, or an error that names the place: never another value.
    for (function, list) in [
        ("array", Some(json!({ "rows": [0, 1, 2] }))),
        ("frame", Some(json!({ "rows": [{ "a": 1 }] }))),
        ("missing", None),
    ] {
        match (sandbox.run(function, args![]).await, list) {
            (Ok(value), list) => assert_eq!(Some(value.to::<Json>().unwrap()), list, "{function}"),
            (Err(error), _) => assert!(error.to_string().contains("$.rows"), "{function}: {error}"),
        }
    }
}

/// Arrays in files, by their names and by files that Python has opened.
const FILES: &str = r#"
import os

import numpy as np

def saved():
    np.save("a.npy", np.arange(6).reshape(2, 3))
    array = np.load("a.npy")
    return [array.tolist(), str(array.dtype)]

def archive():
    np.savez("a.npz", x=np.arange(3), y=np.array(["b", "a"]))
    with np.load("a.npz") as found:
        return [found["x"].tolist(), found["y"].tolist()]

def large():
    # Larger than all buffers.
    array = np.arange(300_000)
    array.tofile("large.bin")
    np.save("large.npy", array[::-2])
    found = [np.fromfile("large.bin", dtype=int), np.load("large.npy")]
    same = [np.array_equal(found[0], array), np.array_equal(found[1], array[::-2])]
    return [os.path.getsize("large.bin"), *same]

def opened():
    # Python and numpy write and read the same file in turn.
    with open("b.bin", "wb") as file:
        file.write(b"head")
        np.arange(5, dtype=np.uint8).tofile(file)
        position = file.tell()
        file.write(b"tail")
    with open("b.bin", "rb") as file:
        head = file.read(4)
        array = np.fromfile(file, dtype=np.uint8, count=5)
        return [position, head.decode(), array.tolist(), file.tell(), file.read().decode()]

def several():
    with open("c.npy", "wb") as file:
        np.save(file, np.arange(3))
        np.save(file, np.array([0.5]))
    with open("c.npy", "rb") as file:
        return [np.load(file).tolist(), np.load(file).tolist(), file.read() == b""]

def offsets():
    with open("d.bin", "wb") as file:
        file.write(bytes(range(10)))
    byte = {"dtype": np.uint8}
    found = [np.fromfile("d.bin", offset=7, **byte), np.fromfile("d.bin", count=2, offset=3, **byte)]
    with open("d.bin", "rb", buffering=0) as file:
        file.seek(2)
        # An offset is relative to the position.
        found += [np.fromfile(file, count=2, offset=1, **byte), np.fromfile(file, **byte)]
        found += [np.fromfile(file, **byte)]
    # More than there is.
    found += [np.fromfile("d.bin", dtype=np.int32, count=100)]
    return [array.tolist() for array in found]

def appended():
    positions = []
    for number in range(3):
        with open("e.bin", "ab") as file:
            np.array([number, number], dtype=np.uint8).tofile(file)
            positions.append(file.tell())
            file.write(b"x")
    with open("e.bin", "r+b") as file:
        file.seek(3)
        np.array([9], dtype=np.uint8).tofile(file)
        positions.append(file.tell())
        rest = file.read()
    with open("e.bin", "rb") as file:
        return [positions, list(rest), list(file.read())]

def text():
    np.array([1.5, 2, -3]).tofile("f.txt", sep=", ", format="%.2f")
    with open("f.txt") as file:
        found = [file.read()]
    found.append(np.fromfile("f.txt", sep=",").tolist())
    np.arange(20_000).tofile("g.txt", sep=" ")
    numbers = np.fromfile("g.txt", dtype=int, sep=" ")
    found += [len(numbers), int(numbers.sum())]
    with open("g.txt", "rb") as file:
        found.append(np.fromfile(file, dtype=int, count=3, sep=" ").tolist())
        found.append(np.fromfile(file, dtype=int, count=2, sep=" ").tolist())
    return found

def mapped():
    np.save("h.npy", np.zeros(4))
    array = np.load("h.npy", mmap_mode="r+")
    array[1] = 2.5
    array.flush()
    return [type(array).__name__, np.load("h.npy").tolist()]
"#;

#[tokio::test]
async fn arrays_are_written_to_files_and_read() {
    let sandbox = loaded(FILES).await;
    for (function, expected) in [
        ("saved", json!([[[0, 1, 2], [3, 4, 5]], "int64"])),
        ("archive", json!([[0, 1, 2], ["b", "a"]])),
        ("large", json!([2_400_000, true, true])),
        ("opened", json!([9, "head", [0, 1, 2, 3, 4], 9, "tail"])),
        ("several", json!([[0, 1, 2], [0.5], true])),
        (
            "offsets",
            json!([[7, 8, 9], [3, 4], [3, 4], [5, 6, 7, 8, 9], [], [0x0302_0100, 0x0706_0504]]),
        ),
        ("appended", json!([[2, 5, 8, 4], [1, 120, 2, 2, 120], [0, 0, 120, 9, 1, 120, 2, 2, 120]])),
        (
            "text",
            json!(["1.50, 2.00, -3.00", [1.5, 2.0, -3.0], 20_000, 199_990_000, [0, 1, 2], [3, 4]]),
        ),
        ("mapped", json!(["memmap", [0.0, 2.5, 0.0, 0.0]])),
    ] {
        let value: Json = sandbox.run(function, args![]).await.unwrap().to().unwrap();
        assert_eq!(value, expected, "{function}");
    }
}

/// Functions that write arrays where they cannot be written.
const UNWRITABLE: &str = r#"
import io
import os

import numpy as np

def error_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except OSError as error:
        return error.strerror and os.strerror(error.errno)
    except Exception as error:
        return type(error).__name__

def fill():
    # The space of a file grows in steps, so that others have room when one has none.
    for number in range(100):
        with open(f"filler{number}", "wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 64)
                except OSError:
                    if file.tell() == 0:
                        raise
                    break

def full():
    large, small = np.ones(1 << 18), np.ones(500)
    strided = np.ones(1 << 19)[::2]
    for name in ["small", "text", "strided"]:
        open(name, "w").close()
    found = [error_of(large.tofile, "large"), os.path.getsize("large") < large.nbytes]
    found.append(error_of(fill))
    # What fits into the buffer of a stream is written when the stream is closed.
    found.append(error_of(small.tofile, "small"))
    found.append(error_of(small.tofile, "text", sep=" "))
    found.append(error_of(strided.tofile, "strided"))
    os.remove("filler0")
    os.remove("large")
    small.tofile("small")
    found.append(np.fromfile("small").tolist() == small.tolist())
    return found

def unsaved():
    # Python writes the header of the file, and numpy the array.
    array = np.ones(1 << 18)
    try:
        np.save("array.npy", array)
    except OSError:
        return os.path.getsize("array.npy") < array.nbytes

def refused():
    array = np.ones(2)
    array.tofile("a.bin")
    found = [error_of(array.tofile, io.BytesIO()), error_of(np.load, "missing.npy")]
    with open("a.bin", "rb") as file:
        found.append(error_of(array.tofile, file) is not None)
        # The file is as usable as before.
        found.append(np.fromfile(file).tolist())
    return [*found, error_of(np.fromfile, file)]
"#;

#[tokio::test]
async fn arrays_that_cannot_be_written_or_read_are_errors() {
    let limits = Limits { max_storage: 1 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::PythonData, limits, isola::DenyAll).await;
    sandbox.load_script(UNWRITABLE).await.unwrap();
    let full = "No space left on device";
    assert_eq!(
        sandbox.run("full", args![]).await.unwrap(),
        json!([full, true, full, full, full, full, true])
    );
    assert_eq!(sandbox.run("unsaved", args![]).await.unwrap(), json!(true));
    assert_eq!(
        sandbox.run("refused", args![]).await.unwrap(),
        json!([null, "No such file or directory", true, [1.0, 1.0], "ValueError"])
    );
}

const DRAW: &str = "
import numpy as np

def draw():
    return [int(np.random.randint(2**60)), int(np.random.default_rng().integers(2**60))]

def seed(n):
    np.random.seed(n)
";

async fn draw(sandbox: &Sandbox) -> [u64; 2] {
    sandbox.run("draw", args![]).await.unwrap().to().unwrap()
}

#[tokio::test]
async fn random_numbers_of_all_sandboxes_differ() {
    let (parent, other) = (loaded(DRAW).await, loaded(DRAW).await);
    // The state of the generator is part of the snapshot, before and after its first use.
    let unused = parent.snapshot().await.unwrap();
    let mut drawn = vec![draw(&parent).await, draw(&other).await];
    let used = parent.snapshot().await.unwrap();
    for snapshot in [&unused, &used] {
        for _ in 0..2 {
            drawn.push(draw(&snapshot.create_sandbox().await.unwrap()).await);
        }
    }
    for child in parent.fork(2).await.unwrap() {
        drawn.push(draw(&child).await);
    }
    drawn.push(draw(&parent).await);
    for index in 0..2 {
        let mut numbers: Vec<u64> = drawn.iter().map(|pair| pair[index]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), drawn.len(), "{drawn:?}");
    }
}

#[tokio::test]
async fn random_numbers_differ_after_a_snapshot_on_disk_was_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.snapshot");
    let parent = loaded(DRAW).await;
    parent.snapshot().await.unwrap().save(&path).await.unwrap();
    let own = draw(&parent).await;
    let mut drawn = vec![own];
    for _ in 0..2 {
        let loaded = template(Runtime::PythonData).await.load_snapshot(&path).await.unwrap();
        drawn.push(draw(&loaded.create_sandbox().await.unwrap()).await);
    }
    assert!(drawn[0][0] != drawn[1][0] && drawn[1][0] != drawn[2][0], "{drawn:?}");
}

#[tokio::test]
async fn a_seed_is_that_of_one_sandbox() {
    let (one, same, other) = (loaded(DRAW).await, loaded(DRAW).await, loaded(DRAW).await);
    for sandbox in [&one, &same] {
        sandbox.run("seed", args![7]).await.unwrap();
    }
    let first = draw(&one).await[0];
    assert_eq!(draw(&same).await[0], first);
    assert_ne!(draw(&other).await[0], first);
}

#[tokio::test]
async fn copies_have_arrays_of_their_own() {
    let script = "import numpy as np\nrows = np.zeros(4_000_000, dtype=np.int64)\n\
                  def add(n):\n    rows[::1000] += n\n    return int(rows.sum())\n";
    let parent = loaded(script).await;
    let add = async |sandbox: &Sandbox, number: i64| -> i64 {
        sandbox.run("add", args![number]).await.unwrap().to().unwrap()
    };
    assert_eq!(add(&parent, 1).await, 4_000);
    let children = parent.fork(2).await.unwrap();
    for (number, child) in (10..).zip(&children) {
        assert_eq!(add(child, number).await, 4_000 * (1 + number));
    }
    assert_eq!(add(&parent, 0).await, 4_000);
}

/// Code that makes numpy access memory that is not an array's, or allocate too much.
const HOSTILE: &str = r#"
import io
import os
import pickle
import numpy as np
from numpy.lib.stride_tricks import as_strided

# The second element is 2047 MiB behind the first one: outside of the memory.
FAR = 2047 << 20

def write_far():
    as_strided(np.zeros(1), shape=(2,), strides=(FAR,))[1] = 1.0

def read_far():
    return float(as_strided(np.zeros(1), shape=(2,), strides=(FAR,))[1])

def write_before():
    # Overwrites the interpreter's own data.
    view = as_strided(np.zeros(1, dtype=np.uint8), shape=(1 << 30,), strides=(-64,))
    view[:] = 255

def saved(header, data=b""):
    text = header.encode() + b"\n"
    return io.BytesIO(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)

def header(descr, shape):
    return repr({"descr": descr, "fortran_order": False, "shape": shape})

class Exit:
    def __reduce__(self):
        return os._exit, (3,)

def load_exit():
    np.load(saved(header("|O", (1,)), pickle.dumps(Exit())), allow_pickle=True)

def load_forbidden():
    np.load(saved(header("|O", (1,)), pickle.dumps(Exit())))

def load_huge():
    np.load(saved(header("<i8", (1 << 40,))))

def load_negative():
    np.load(saved(header("<i8", (-1, -1))))

def load_truncated():
    np.load(saved(header("<i8", (1000,)), b"\0" * 8))

def load_code():
    np.load(saved("__import__('os')._exit(3)"))

def load_mapped():
    with open("/tmp/a.npy", "wb") as file:
        file.write(saved(header("<i8", (1 << 40,))).getvalue())
    np.load("/tmp/a.npy", mmap_mode="r")

def one_bomb():
    np.ones(2**27)

def many_bombs():
    kept = []
    while True:
        kept.append(np.ones(2**20))

def growing_bomb():
    text = np.array(["x" * 1000])
    while True:
        text = np.strings.add(text, text)

def frame_bomb():
    import pandas as pd
    frame = pd.DataFrame({"a": np.arange(100_000)})
    frame.merge(frame, how="cross")

def fine():
    return int(np.arange(10).sum())
"#;

#[tokio::test]
async fn worst_of_hostile_code_is_a_dead_sandbox() {
    /// What a call may end with.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Expected {
        /// The interpreter is gone.
        Crash,
        /// An exception, after which the sandbox continues.
        Exception(&'static str),
        Memory,
        /// A crash, an exception or a limit; whatever numpy overwrites.
        AnyError,
    }
    use Expected::{AnyError, Crash, Exception, Memory};

    let witness = loaded(HOSTILE).await;
    for (function, expected) in [
        ("write_far", Crash),
        ("read_far", Crash),
        ("write_before", AnyError),
        ("load_exit", Crash),
        ("load_forbidden", Exception("ValueError")),
        ("load_huge", AnyError),
        ("load_negative", AnyError),
        ("load_truncated", Exception("ValueError")),
        ("load_code", Exception("ValueError")),
        ("load_mapped", AnyError),
        ("one_bomb", Memory),
        ("many_bombs", Memory),
        ("growing_bomb", Memory),
        ("frame_bomb", AnyError),
    ] {
        let sandbox = loaded(HOSTILE).await;
        let error = match sandbox.run(function, args![]).await {
            Ok(value) => panic!("{function} returned {value}"),
            Err(error) => error,
        };
        match (expected, &error) {
            (Crash | AnyError, Error::Crash(_)) => {}
            (Exception(name), Error::Guest(exception)) => {
                assert_eq!(exception.name, name, "{function}: {error}");
                let value = sandbox.run("fine", args![]).await.unwrap();
                assert_eq!(value, json!(45), "{function}");
            }
            (Memory, error) => {
                assert_eq!(error.limit(), Some(Limit::Memory), "{function}: {error}")
            }
            (AnyError, Error::Guest(_) | Error::Limit(_)) => {}
            (expected, error) => panic!("{function}: {error:?} instead of {expected:?}"),
        }
        // No other sandbox notices.
        assert_eq!(witness.run("fine", args![]).await.unwrap(), json!(45), "{function}");
    }
}

#[tokio::test]
async fn arrays_that_do_not_fit_can_be_caught() {
    let sandbox = loaded(
        "import numpy as np\n\
         def main():\n    try:\n        np.ones(2**27)\n    except MemoryError:\n        \
         return int(np.ones(2**10).sum())\n",
    )
    .await;
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(1024));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_operations_of_packages_are_stopped_at_the_cpu_time_limit() {
    for code in [
        "np.broadcast_to(np.ones(1, dtype=np.int8), (2**31 - 1,)).sum()",
        "sum(int(np.sort(np.arange(1_000_000) % 9973)[0]) for _ in range(1000))",
        "np.linalg.svd(np.arange(640_000.0).reshape(800, 800) % 97)",
    ] {
        let limits = Limits { cpu_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
        let sandbox = started_with(Runtime::PythonData, limits, isola::DenyAll).await;
        sandbox.load_script("import numpy as np").await.unwrap();
        let error = sandbox.evaluate(code).await.unwrap_err();
        assert_eq!(error.limit(), Some(Limit::CpuTime), "{code}: {error}");
    }
}
