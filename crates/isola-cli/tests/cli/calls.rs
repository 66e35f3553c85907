//! Tests of function calls, their arguments and their values.

use crate::fixture::TestDir;

const PYTHON: &str = "
def main(*args, **kwargs):
    return [args, kwargs]
def same(value):
    return value
def grow(value):
    return value * 10 + 7
def items(n):
    for i in range(n):
        yield {'item': i}
async def later(n):
    return n
async def stream(n):
    for i in range(n):
        yield i
def nothing():
    pass
";

const JAVASCRIPT: &str = "
function main(...args) { return args; }
const same = (value) => value;
function grow(value) { return value * 10n + 7n; }
function* items(n) {
    for (let i = 0; i < n; i++) yield {item: i};
    return 'done';
}
async function later(n) { return n; }
async function* stream(n) { for (let i = 0; i < n; i++) yield i; }
function nothing() {}
";

fn scripts() -> TestDir {
    TestDir::with("s.py", PYTHON).file("s.js", JAVASCRIPT)
}

#[test]
fn arguments_and_results_are_json() {
    let dir = scripts();
    for (args, stdout) in [
        // `main` is the default.
        (vec!["s.py"], "[[],{}]\n"),
        (vec!["s.js"], "[]\n"),
        (
            vec!["s.py", "--arg", "1", "--kwarg", "b=\"two=2\"", "--arg", "[null]"],
            "[[1,[null]],{\"b\":\"two=2\"}]\n",
        ),
        (vec!["s.js", "--arg", "1", "--kwarg", "b=true"], "[1,{\"b\":true}]\n"),
        (vec!["s.py", "-f", "same", "--arg", "-1.5"], "-1.5\n"),
        (vec!["s.py", "--function=same", "--arg=\"ü🦀\""], "\"ü🦀\"\n"),
        (vec!["s.js", "-f", "same", "--arg", " {\"a\": 1} "], "{\"a\":1}\n"),
        (vec!["s.py", "-f", "later", "--arg", "3"], "3\n"),
        (vec!["s.js", "-f", "later", "--arg", "3"], "3\n"),
        // One line for each item, and no line for a final null.
        (vec!["s.py", "-f", "items", "--arg", "2"], "{\"item\":0}\n{\"item\":1}\n"),
        (vec!["s.py", "-f", "stream", "--arg", "2"], "0\n1\n"),
        (vec!["s.py", "-f", "same", "--arg", "null"], ""),
        (vec!["s.py", "-f", "nothing"], ""),
        (vec!["s.js", "-f", "nothing"], ""),
        (vec!["s.js", "-f", "stream", "--arg", "2"], "0\n1\n"),
        // A JavaScript generator may have a final value.
        (vec!["s.js", "-f", "items", "--arg", "1"], "{\"item\":0}\n\"done\"\n"),
    ] {
        assert_eq!(dir.run(&args).succeeded(), stdout, "{args:?}");
    }
}

#[test]
fn integers_keep_all_digits() {
    let dir = scripts();
    let digits = "1234567890".repeat(10);
    for file in ["s.py", "s.js"] {
        // JavaScript has BigInts for integers beyond its numbers.
        let ran = dir.run(&[file, "-f", "grow", "--arg", &digits]);
        assert_eq!(ran.succeeded(), format!("{digits}7\n"), "{file}");
    }
    let ran = dir.run(&["s.py", "-f", "same", "--kwarg", &format!("value={digits}"), "--events"]);
    assert_eq!(ran.succeeded(), format!("{{\"type\":\"end\",\"data\":{digits}}}\n"));
}

#[test]
fn script_is_read_from_standard_input() {
    let dir = TestDir::new();
    let ran = dir.run_with_stdin(
        &["-", "--runtime", "python", "--arg", "20"],
        b"def main(n):\n    return n + 1\n",
    );
    assert_eq!(ran.succeeded(), "21\n");
    let ran = dir.run_with_stdin(&["-", "--runtime", "js"], b"const main = () => 'js'");
    assert_eq!(ran.succeeded(), "\"js\"\n");
    let stderr = dir.run_with_stdin(&["-", "--runtime=python"], b"\n1 / 0\n").failed(1);
    assert!(stderr.contains("File \"<stdin>\", line 2"), "{stderr}");
}

#[test]
fn extension_or_option_selects_the_runtime() {
    let dir = TestDir::with("a.mjs", "export const main = () => typeof globalThis")
        .file("a.ts", "const main = (): string => typeof globalThis")
        .file("a.cjs", "const main = () => typeof globalThis")
        .file("a.txt", "main = lambda: __name__")
        .file("a.py", "const main = () => typeof globalThis");
    for (args, stdout) in [
        (&["a.mjs"][..], "\"object\"\n"),
        (&["a.cjs"], "\"object\"\n"),
        (&["a.ts"], "\"object\"\n"),
        (&["a.txt", "--runtime", "python"], "\"__main__\"\n"),
        (&["a.py", "--runtime", "js"], "\"object\"\n"),
    ] {
        assert_eq!(dir.run(args).succeeded(), stdout, "{args:?}");
    }
}

#[test]
fn script_without_main_runs_its_top_level() {
    let dir = TestDir::with("top.py", "print('ran')")
        .file("top.js", "globalThis.ran = true;")
        .file("top.mjs", "await null;\nexport const other = 1;");
    assert_eq!(dir.run(&["top.py"]).succeeded(), "ran\n");
    assert_eq!(dir.run(&["top.js"]).succeeded(), "");
    assert_eq!(dir.run(&["top.mjs"]).succeeded(), "");
    let end = "{\"type\":\"end\",\"data\":null}\n";
    assert_eq!(dir.run(&["top.js", "--events"]).succeeded(), end);
    // A requested call of a missing function is an error.
    for (file, message) in [
        ("top.py", "error: NameError: name 'main' is not defined"),
        ("top.js", "error: ReferenceError: main is not defined"),
        ("top.mjs", "error: ReferenceError: main is not defined: top.mjs exports other"),
    ] {
        for asked in [["-f", "main"], ["--arg", "1"], ["--kwarg", "a=1"]] {
            let stderr = dir.run(&[file, asked[0], asked[1]]).failed(1);
            assert!(stderr.contains(message), "{stderr}");
        }
    }
}

#[test]
fn name_error_of_user_code_is_reported() {
    let dir = TestDir::new()
        .file("raises.py", "def main():\n    raise NameError(\"name 'main' is not defined\")")
        .file("deeper.py", "def main():\n    del globals()['main']\n    main()")
        .file("top.py", "main()")
        .file("other.py", "def main():\n    return mian")
        .file("raises.js", "function main() { throw new ReferenceError('main is not defined'); }")
        .file("top.js", "main()");
    for file in ["raises.py", "deeper.py", "top.py", "other.py", "raises.js", "top.js"] {
        let stderr = dir.run(&[file]).failed(1);
        assert!(stderr.contains("is not defined"), "{file}: {stderr}");
    }
}

#[test]
fn prelude_runs_before_the_script() {
    let dir = TestDir::new()
        .file("helpers.py", "print('prelude')\ndef double(n):\n    return 2 * n\n")
        .file("s.py", "print('script')\ndef main(n):\n    return double(n)\n")
        .file("helpers.js", "const double = (n) => 2 * n;")
        .file("s.js", "const main = (n) => double(n);")
        .file("broken.py", "\n\nraise ValueError('at the start')\n");
    assert_eq!(
        dir.run(&["s.py", "--prelude", "helpers.py", "--arg", "21"]).succeeded(),
        "prelude\nscript\n42\n"
    );
    assert_eq!(dir.run(&["s.js", "--prelude", "helpers.js", "--arg", "21"]).succeeded(), "42\n");
    let stderr = dir.run(&["s.py", "--prelude", "broken.py"]).failed(1);
    assert!(stderr.contains("File \"broken.py\", line 3"), "{stderr}");
}
