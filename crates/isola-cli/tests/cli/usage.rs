//! Tests of usage errors: the message names the invalid value and the remedy.

use crate::fixture::{TestDir, finish, isola};

#[test]
fn usage_errors_name_the_value_and_the_remedy() {
    let dir = TestDir::with("s.py", "def main(*args): pass")
        .file("s.txt", "")
        .file("latin.py", b"# one\nname = 'caf\xe9'\n")
        .file("latin.js", b"\xff");
    for (args, parts) in [
        (vec!["s.py", "--arg", "hello"], vec!["--arg is not JSON", "in hello", "--arg '\"text\"'"]),
        (vec!["s.py", "--arg", "1", "--arg", "[1,"], vec!["--arg number 2 is not JSON", "[1,"]),
        (vec!["s.py", "--arg", ""], vec!["--arg is not JSON"]),
        (vec!["s.py", "--arg", "1 2"], vec!["--arg is not JSON", "trailing"]),
        (vec!["s.py", "--arg", "NaN"], vec!["--arg is not JSON"]),
        (vec!["s.py", "--kwarg", "a"], vec!["--kwarg \"a\"", "NAME=JSON"]),
        (vec!["s.py", "--kwarg", "=1"], vec!["--kwarg \"=1\"", "NAME=JSON"]),
        (vec!["s.py", "--kwarg", "a=x"], vec!["--kwarg a is not JSON"]),
        (vec!["s.py", "--kwarg", "a=1", "--kwarg", "a=2"], vec!["--kwarg a is given twice"]),
        (vec!["s.py", "--max-memory", "lots"], vec!["--max-memory", "512K, 64M or 1G"]),
        (vec!["s.py", "--max-memory", "0"], vec!["--max-memory", "greater than 0"]),
        (vec!["s.py", "--max-memory", "1M"], vec!["max_memory", "needs"]),
        (vec!["s.py", "--cpu-timeout", "5"], vec!["--cpu-timeout", "5s, 500ms or 1m"]),
        (vec!["s.py", "--timeout", "0s"], vec!["--timeout", "greater than 0"]),
        (vec!["s.py", "--mount", "data"], vec!["--mount data", "HOST:GUEST[:ro|rw]"]),
        (vec!["s.py", "--mount", ".:data"], vec!["--mount .:data", "absolute", "./data:/data"]),
        (vec!["s.py", "--mount", ".:/data:wr"], vec!["--mount .:/data:wr", "\"wr\"", "ro or rw"]),
        (vec!["s.py", "--mount", ":/data"], vec!["--mount :/data", "host"]),
        (vec!["s.py", "--mount", "./nowhere:/data"], vec!["--mount ./nowhere:/data", "nowhere"]),
        (vec!["s.py", "--mount", "s.py:/data"], vec!["--mount s.py:/data", "not a directory"]),
        (vec!["s.py", "--mount", ".:/a/../b"], vec![".."]),
        (vec!["s.py", "--env", "A"], vec!["--env \"A\"", "NAME=VALUE"]),
        (vec!["s.py", "--env", "=b"], vec!["--env \"=b\"", "NAME=VALUE"]),
        (vec!["s.py", "--allow-http", "http://a.test/"], vec!["--allow-http", "example.com"]),
        (
            vec!["s.py", "--runtime", "ruby"],
            vec!["\"ruby\"", "--runtime python, --runtime python-data"],
        ),
        (vec!["s.txt"], vec!["s.txt", "--runtime python", "--runtime js"]),
        (vec!["-"], vec!["standard input", "--runtime python"]),
        (vec!["missing.py"], vec!["there is no file missing.py"]),
        (vec![".", "--runtime", "js"], vec!["is a directory", "--mount"]),
        (vec!["latin.py"], vec!["latin.py is not UTF-8 text: see line 2"]),
        (vec!["latin.js"], vec!["latin.js is not UTF-8 text: see line 1"]),
        (vec!["s.py", "--prelude", "missing.py"], vec!["there is no file missing.py"]),
        (vec!["s.py", "--colour"], vec!["--colour"]),
        (vec![], vec!["<FILE|->"]),
    ] {
        let ran = dir.run(&args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{args:?}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{args:?}: {part:?} is not in {}", ran.stderr);
        }
    }
}

#[test]
fn missing_runtime_error_contains_the_directory() {
    let dir = TestDir::with("s.py", "");
    let mut command = dir.command(&["run", "s.py"]);
    command.env("ISOLA_RUNTIME_DIR", "not-here");
    let stderr = finish(command).failed(2);
    assert!(stderr.contains("not-here") && stderr.contains("ISOLA_RUNTIME_DIR"), "{stderr}");
}

#[test]
fn missing_python_data_error_says_how_to_install_it() {
    let dir = TestDir::with("s.py", "");
    for args in [
        &["run", "s.py", "--runtime", "python-data"][..],
        &["repl", "--runtime", "python-data"],
        &["mcp", "--python-runtime", "python-data"],
    ] {
        let mut command = dir.command(args);
        command.env("ISOLA_RUNTIME_DIR", "not-here");
        let stderr = finish(command).failed(2);
        for part in ["python-data.wasm", "not-here", "unpack isola-python-data.tar.gz"] {
            assert!(stderr.contains(part), "{args:?}: {stderr}");
        }
    }
}

#[test]
fn runtime_of_run_python_is_one_of_python() {
    for name in ["js", "ruby", ""] {
        let stderr = finish(isola(&["mcp", "--python-runtime", name])).failed(2);
        assert!(stderr.contains(&format!("--python-runtime {name:?}")), "{stderr}");
        assert!(stderr.contains("use --python-runtime python or"), "{stderr}");
    }
}

#[test]
fn help_and_version_are_printed() {
    let version = finish(isola(&["--version"])).succeeded();
    assert_eq!(version, format!("isola {}\n", env!("CARGO_PKG_VERSION")));
    let help = finish(isola(&["run", "--help"])).succeeded();
    for part in [
        "--arg",
        "--kwarg",
        "--mount",
        "--allow-http",
        "--events",
        "Exit codes",
        "137",
        "124",
        "130",
        "Examples",
        "isola run",
        "[default: main]",
        "[default: 256M]",
    ] {
        assert!(help.contains(part), "{part}");
    }
    let short = finish(isola(&["run", "-h"])).succeeded();
    assert!(short.lines().count() < 60, "{short}");
    // Without a command, the usage is printed.
    let stderr = finish(isola::<&str>(&[])).failed(2);
    assert!(stderr.contains("isola <COMMAND>"), "{stderr}");
}
