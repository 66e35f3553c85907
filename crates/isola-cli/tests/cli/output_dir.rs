//! Tests of `--output`, which writes the files of a script, of `--max-storage`, and of the
//! arguments of a script.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use crate::fixture::TestDir;

const SCRIPT: &str = "
import os
os.makedirs('sub/empty')
for name, text in (('a.txt', 'one'), ('sub/b.txt', 'two')):
    with open(name, 'w') as file:
        file.write(text)
os.chmod('sub/b.txt', 0o4550)
";

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_of_the_home_are_written() {
    let dir = TestDir::with("s.py", SCRIPT);
    dir.run(&["s.py", "--output", "new/out"]).succeeded();
    assert_eq!(dir.read("new/out/a.txt"), "one");
    assert_eq!(dir.read("new/out/sub/b.txt"), "two");
    assert!(dir.path().join("new/out/sub/empty").is_dir());
    let mode = fs::metadata(dir.path().join("new/out/sub/b.txt")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750 & mode);
    assert_eq!(mode & 0o700, 0o700);
    // Again, over what is there.
    let dir = dir.file("new/out/a.txt", "longer than before").file("new/out/mine.txt", "kept");
    dir.run(&["s.py", "--output", "new/out"]).succeeded();
    assert_eq!(names(&dir.path().join("new/out")), ["a.txt", "mine.txt", "sub"]);
    assert_eq!(dir.read("new/out/a.txt"), "one");
}

#[test]
fn files_are_written_after_a_failure_as_well() {
    for (name, end, args, code) in [
        ("s.py", "raise ValueError", &[][..], 1),
        ("s.py", "import sys; sys.exit(3)", &[], 3),
        ("s.py", "while True: pass", &["--cpu-timeout", "100ms"], 124),
        ("s.py", "import time; time.sleep(100)", &["--timeout", "2s"], 124),
        ("s.js", "files.write('a.txt', 'one'); throw new Error()", &[], 1),
    ] {
        let source = if name == "s.py" { format!("{SCRIPT}\n{end}\n") } else { end.to_owned() };
        let dir = TestDir::with(name, &source);
        let args: Vec<_> = [name, "--output", "out"].iter().chain(args).copied().collect();
        dir.run(&args).failed(code);
        assert_eq!(dir.read("out/a.txt"), "one", "{end}");
    }
    // What a script writes when it exits is there, too.
    let source = "import atexit\natexit.register(lambda: open('late', 'w').write('x'))\n";
    let dir = TestDir::with("s.py", source);
    dir.run(&["s.py", "--output", "out"]).succeeded();
    assert_eq!(dir.read("out/late"), "x");
}

#[test]
fn files_are_written_after_ctrl_c() {
    let source = format!("{SCRIPT}\nprint('ready', flush=True)\nwhile True: pass\n");
    let dir = TestDir::with("s.py", &source);
    let mut running = dir.start(&["s.py", "--output", "out"]);
    assert_eq!(running.line(), "ready\n");
    running.interrupt();
    assert_eq!(running.end().0, Some(130));
    assert_eq!(dir.read("out/a.txt"), "one");
}

#[test]
fn nothing_is_written_outside_of_the_directory() {
    // A script that writes to the directory through a mount prepares links for later.
    let dir = TestDir::with(
        "s.py",
        "import os\n\
         os.makedirs('dir')\n\
         for name in ('link', 'hard', 'dir/x', 'file'):\n\
         \x20   with open(name, 'w') as file:\n\
         \x20       file.write('from the script')\n\
         os.symlink('/etc/passwd', 'own-link')\n",
    );
    let dir = dir.file("secret", "secret");
    let out = dir.path().join("out");
    fs::create_dir_all(dir.path().join("elsewhere")).unwrap();
    fs::create_dir_all(out.join("file")).unwrap();
    symlink("../secret", out.join("link")).unwrap();
    fs::hard_link(dir.path().join("secret"), out.join("hard")).unwrap();
    symlink("../elsewhere", out.join("dir")).unwrap();
    let stderr = dir.run(&["s.py", "--output", "out"]).succeeded_with_messages();
    assert_eq!(dir.read("secret"), "secret");
    assert_eq!(names(&dir.path().join("elsewhere")), [""; 0]);
    // The entries themselves were replaced.
    assert!(fs::symlink_metadata(out.join("link")).unwrap().is_file());
    assert_eq!(fs::metadata(out.join("hard")).unwrap().nlink(), 1);
    assert_eq!(dir.read("out/hard"), "from the script");
    assert!(!out.join("own-link").exists());
    for part in [
        "/dir was not written: the output directory has something else at its path",
        "/file was not written: the output directory has something else at its path",
        "/own-link was not written: it is a link or a device",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn hostile_files_are_left_out() {
    let dir = TestDir::with(
        "s.py",
        "import os\n\
         with open('big', 'wb') as file:\n\
         \x20   file.truncate(700_000)\n\
         os.link('big', 'other')\n\
         for number in range(50):\n\
         \x20   os.symlink('x', f'link-\\x1b-{number}')\n\
         deep = '/root'\n\
         for _ in range(200):\n\
         \x20   deep += '/d'\n\
         \x20   os.mkdir(deep)\n",
    );
    let args = ["s.py", "--output", "out", "--max-storage", "1M"];
    let stderr = dir.run(&args).succeeded_with_messages();
    assert_eq!(fs::metadata(dir.path().join("out/big")).unwrap().len(), 700_000);
    assert!(!dir.path().join("out/other").exists());
    assert!(!stderr.contains('\x1b'), "{stderr}");
    assert!(stderr.contains("/d/d/d/"), "{stderr}");
    assert!(stderr.contains("it is deeper than 100 directories"), "{stderr}");
    assert!(stderr.contains("more files were not written"), "{stderr}");
    assert_eq!(stderr.lines().count(), 11, "{stderr}");
}

#[test]
fn storage_is_limited() {
    let source =
        "def main():\n    with open('x', 'wb') as file:\n        file.write(bytes(5000))\n";
    let dir = TestDir::with("s.py", source);
    dir.run(&["s.py", "--max-storage", "1M"]).succeeded();
    let stderr = dir.run(&["s.py", "--max-storage", "4K"]).failed(1);
    assert!(stderr.contains("No space left"), "{stderr}");
    let stderr = dir.run(&["s.py", "--max-storage", "0"]).failed(1);
    assert!(stderr.contains("PermissionError"), "{stderr}");
    let stderr = dir.run(&["s.py", "--max-storage", "0", "--output", "out"]).failed(2);
    assert!(stderr.contains("--max-storage 0"), "{stderr}");
    let dir = dir.file("file", "");
    let stderr = dir.run(&["s.py", "--output", "file"]).failed(2);
    assert!(stderr.contains("--output file"), "{stderr}");
}

#[test]
fn script_gets_arguments() {
    let dir = TestDir::with("s.py", "import sys\ndef main(): return sys.argv\n");
    let seen = dir.run(&["s.py", "--", "a", "--output", "b c"]).succeeded();
    assert_eq!(seen, "[\"s.py\",\"a\",\"--output\",\"b c\"]\n");
    assert_eq!(dir.run(&["s.py"]).succeeded(), "[\"s.py\"]\n");
    let dir = TestDir::with("s.js", "function main() { return scriptArgs }");
    assert_eq!(dir.run(&["s.js", "--", "a"]).succeeded(), "[\"a\"]\n");
    // A script from a snapshot has the arguments of this run.
    let dir = TestDir::with("s.py", "import sys\ndef main(): return sys.argv[1:]\n");
    dir.run(&["s.py", "--save-snapshot", "./x.snapshot", "--", "old"]).succeeded();
    let args = ["s.py", "--from-snapshot", "./x.snapshot", "--", "new"];
    assert_eq!(dir.run(&args).succeeded(), "[\"new\"]\n");
}
