//! Tests of the end of a run: its exit code, and the output of exit handlers.

use crate::fixture::TestDir;

#[test]
fn sys_exit_sets_the_exit_code() {
    for (end, code, message) in [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(None)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(True)", 1, ""),
        ("sys.exit(256)", 0, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('no such user')", 1, "no such user\n"),
        ("raise SystemExit", 0, ""),
        ("exit(4)", 4, ""),
        ("import asyncio\nasync def main(): sys.exit(5)\nasyncio.run(main())", 5, ""),
    ] {
        let script = format!("import sys\nprint('begun')\n{end}\nprint('never')\n");
        let ran = TestDir::with("s.py", &script).run(&["s.py"]);
        assert_eq!((ran.code, &*ran.stderr), (Some(code), message), "{end}: {ran:?}");
        assert_eq!(ran.stdout, "begun\n", "{end}");
    }
    // The same in a function that is called.
    let dir = TestDir::with("s.py", "import sys\ndef leave(n): sys.exit(n)\n");
    assert_eq!(dir.run(&["s.py", "-f", "leave", "--arg", "0"]).code, Some(0));
    assert_eq!(dir.run(&["s.py", "-f", "leave", "--arg", "7"]).code, Some(7));
}

#[test]
fn exit_handlers_and_finalizers_run_at_the_end() {
    let script = "
import atexit, io, sys, weakref
class Ends:
    def __del__(self): print('deleted')
ends = Ends()
class Plain: pass
plain = Plain()
weakref.finalize(plain, print, 'finalized')
atexit.register(print, 'at exit')
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')
print('begun')
";
    for (end, code) in [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("def main(): 1 / 0", 1)] {
        let ran = TestDir::with("s.py", &format!("{script}{end}\n")).run(&["s.py"]);
        assert_eq!(ran.stdout, "begun\nat exit\nfinalized\ndeleted\n", "{end}: {ran:?}");
        assert_eq!(ran.code, Some(code), "{end}: {ran:?}");
    }
}

#[test]
fn byte_order_mark_is_ignored() {
    let python = "\u{feff}print('ran')\n";
    let javascript = "\u{feff}console.log('ran');\n";
    let dir = TestDir::with("s.py", python)
        .file("p.py", "\u{feff}before = 1\n")
        .file("s.js", javascript)
        .file("s.mjs", "\u{feff}export const main = () => 'ran';\n");
    for args in [&["s.py"][..], &["s.py", "--prelude", "p.py"], &["s.js"], &["s.mjs"]] {
        let ran = dir.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains("ran"), "{args:?}: {ran:?}");
    }
}
