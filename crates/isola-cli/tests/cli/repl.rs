//! Tests of `isola repl` with a pipe and with a terminal.

use isola::{Language, Runtime};
use test_macros::each_runtime;

use crate::fixture::{Completed, TestDir, run_with_input};

fn repl(dir: &TestDir, args: &[&str], input: &str) -> Completed {
    let args: Vec<_> = ["repl"].iter().chain(args).copied().collect();
    let mut command = dir.command(&args);
    command.env("XDG_DATA_HOME", dir.path().join("home"));
    run_with_input(command, input.as_bytes())
}

#[test]
fn python_results_are_printed_as_by_python() {
    let dir = TestDir::new();
    for (input, shown) in [
        ("x = 6\nx * 7\n", "42\n"),
        ("'text'\n", "'text'\n"),
        ("None\nprint('a', end='')\n{1}\n", "a\n{1}\n"),
        ("def f(n):\n    return n * 2\n\nf(4); f(5)\n", "8\n10\n"),
        // Without an empty line, as in a file.
        ("def f():\n    return 1\nf()\n", "1\n"),
        ("for i in range(2):\n    print(i)", "0\n1\n"),
        ("x = [1,\n2]\nx\n", "[1, 2]\n"),
        ("import asyncio\nawait asyncio.sleep(0, 'late')\n", "'late'\n"),
        ("object\n_.__name__\n", "<class 'object'>\n'object'\n"),
    ] {
        assert_eq!(repl(&dir, &[], input).succeeded(), shown, "{input}");
    }
}

#[test]
fn javascript_results_are_printed_as_by_a_console() {
    let dir = TestDir::new();
    for (input, shown) in [
        ("const x = 6\nx * 7\n", "42\n"),
        ("let x = 1\nx += 1\nlet y = x\ny\n", "2\n2\n"),
        ("'text'\nundefined\nnull\n", "\"text\"\nnull\n"),
        ("{ a: 1 }\n{ let z = 5; z }\n", "{ a: 1 }\n5\n"),
        ("function f(n) {\n  return n * 2\n}\nf(4)\n", "8\n"),
        ("class A {\n  m() { return 1 }\n}\nnew A().m()\n", "1\n"),
        ("`a\nb`\n[1,\n2]\n/* c\n*/ 3\n", "\"a\\nb\"\n[ 1, 2 ]\n3\n"),
        ("Promise.resolve(7)\nnew Map([[1, 2]])\n", "7\nMap(1) { 1 => 2 }\n"),
        ("console.log('said')\n", "said\n"),
    ] {
        assert_eq!(repl(&dir, &["--runtime", "js"], input).succeeded(), shown, "{input}");
    }
}

#[test]
fn branches_have_separate_states() {
    let dir = TestDir::new();
    let python = "x = 1\n:fork\nx += 1\n:fork\nx += 1\nx\n:branch 1\nx\n:branch 2\nx\n:branches\n";
    let shown = repl(&dir, &[], python).succeeded();
    assert_eq!(shown, "3\n1\n2\n   1  2 inputs\n*  2  2 inputs\n   3  2 inputs\n");
    let javascript = "let x = 1\n:fork\nx = 2\nx\n:branch 1\nx\n";
    let shown = repl(&dir, &["--runtime", "js"], javascript).succeeded();
    assert_eq!(shown, "2\n2\n1\n");
}

#[each_runtime]
fn sessions_are_saved_and_restored(runtime: Runtime) {
    let dir = TestDir::new();
    let first = match runtime.language() {
        Language::Python => "x = [1]\n",
        Language::JavaScript => "let x = [1]\n",
    };
    let runtime = runtime.name();
    let input = format!("{first}:save warm\n:save ./x.snapshot\n:reset\nx\n:load warm\nx\n");
    let ran = repl(&dir, &["--runtime", runtime], &input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("saved to ./x.snapshot"), "{ran:?}");
    assert!(ran.stdout.ends_with("[1]\n") || ran.stdout.ends_with("[ 1 ]\n"), "{ran:?}");
    assert!(ran.stderr.contains("x is not defined") || ran.stderr.contains("'x' is not"));
    for source in ["warm", "./x.snapshot"] {
        let args = ["--runtime", runtime, "--from-snapshot", source];
        assert!(repl(&dir, &args, "x\n").succeeded().contains('1'));
    }
}

#[test]
fn snapshot_of_run_is_restored() {
    let dir = TestDir::new();
    let dir = dir.file("a.py", "known = 'here'\n");
    let mut command = dir.command(&["run", "a.py", "--save-snapshot", "./a.snapshot"]);
    assert!(command.status().unwrap().success());
    let ran = repl(&dir, &["--from-snapshot", "./a.snapshot"], "known\n");
    assert_eq!(ran.succeeded(), "'here'\n");
}

#[each_runtime]
fn failed_input_does_not_change_the_session(runtime: Runtime) {
    let rows = match runtime.language() {
        Language::Python => &[
            ("x = 1\n1/0\nx\n", "ZeroDivisionError"),
            ("x = 1\nx = (\n:help\n)\nx\n", "SyntaxError"),
            ("x = 1\nx = 2; exec('while True: x += 1')\nx\n", "CPU time"),
            ("x = 1\nimport os; x = 2; os._exit(3)\nx\n", "before that"),
            ("x = 1\nx = 'x' * 10**9\nx\n", "MemoryError"),
            ("x = 1\n:jump\n:fork 2\n:branch 7\n:load none\nx\n", "no command :jump"),
        ][..],
        Language::JavaScript => &[
            ("let x = 1\nnull.x\nx\n", "TypeError"),
            ("let x = 1\nx = 2; for (;;);\nx\n", "CPU time"),
        ],
    };
    let dir = TestDir::new();
    for (input, message) in rows {
        let args = ["--runtime", runtime.name(), "--cpu-timeout", "300ms"];
        let ran = repl(&dir, &args, input);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1\n"), "{input}: {ran:?}");
        assert!(ran.stderr.contains(message), "{input}: {ran:?}");
        assert!(!ran.stderr.contains("isola_repl"), "{input}: {ran:?}");
    }
}

#[test]
fn guest_can_exit() {
    let dir = TestDir::new();
    for (input, code, exit_message) in [
        ("exit()\nprint('no')\n", 0, ""),
        ("import sys\nsys.exit(4)\n", 4, ""),
        ("quit('enough')\n", 1, "enough\n"),
        (":quit\nprint('no')\n", 0, ""),
    ] {
        let ran = repl(&dir, &[], input);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), exit_message), "{input}: {ran:?}");
        assert_eq!(ran.stdout, "", "{input}");
    }
}

#[test]
fn copies_have_the_same_mounts_and_environment() {
    let dir = TestDir::new().file("note.txt", "kept");
    let input = "import os\n:fork\nopen('/data/note.txt').read() + os.environ['A']\n:reset\n\
                 import os; os.listdir('/data'), os.environ['A']\n";
    let ran = repl(&dir, &["--mount", ".:/data", "--env", "A=1"], input);
    assert_eq!(ran.succeeded(), "'kept1'\n(['note.txt'], '1')\n");
    // No copy is possible while a file is open.
    let input = "f = open('/data/note.txt')\n:fork\nf.close()\n:fork\n1\n";
    let ran = repl(&dir, &["--mount", ".:/data"], input);
    assert!(ran.stderr.contains("/data/note.txt"), "{ran:?}");
    assert_eq!(ran.stdout, "1\n");
    let error = repl(&dir, &["--runtime", "ruby"], "").failed(2);
    assert!(error.contains("there is no runtime"), "{error}");
}

#[cfg(unix)]
mod at_a_terminal {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
        process::Child,
        sync::mpsc::{Receiver, channel},
        thread,
        time::Instant,
    };

    use isola::{Language, Runtime};
    use rustix::process::{Pid, Signal, kill_process};
    use test_macros::each_runtime;

    use crate::{
        fixture::{EVENT_TIMEOUT, TestDir, wait_until},
        terminal::Pty,
    };

    impl Drop for Terminal {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    struct Terminal {
        keys: File,
        shown: Receiver<Vec<u8>>,
        text: String,
        child: Child,
    }

    impl Terminal {
        fn new(dir: &TestDir, args: &[&str]) -> Self {
            let terminal = Pty::open();
            let mut command = dir.command(args);
            command.env("XDG_DATA_HOME", dir.path().join("home")).env("TERM", "xterm");
            command.stdin(terminal.stream()).stdout(terminal.stream()).stderr(terminal.stream());
            let child = command.spawn().unwrap();
            drop(command);
            let keys = terminal.user;
            let mut screen = keys.try_clone().unwrap();
            let (sender, shown) = channel();
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                // At its end a terminal reports an error.
                while let Ok(read) = screen.read(&mut bytes) {
                    if sender.send(bytes[..read].to_vec()).is_err() {
                        break;
                    }
                }
            });
            Self { keys, shown, text: String::new(), child }
        }

        fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
        }

        /// Waits until this text is displayed, after the text of the previous wait.
        #[track_caller]
        fn until(&mut self, part: &str) {
            let deadline = Instant::now() + EVENT_TIMEOUT;
            loop {
                if let Some(at) = self.text.find(part) {
                    self.text.drain(..at + part.len());
                    return;
                }
                let left = deadline.saturating_duration_since(Instant::now());
                let bytes = self.shown.recv_timeout(left);
                let bytes = bytes.unwrap_or_else(|_| panic!("no {part:?} in {:?}", self.text));
                self.text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }

        fn interrupt(&self) {
            kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        }

        /// Exits with Ctrl-D at the next prompt: before that, the editor does not read
        /// the key.
        fn end(mut self, prompt: &str) -> Option<i32> {
            self.until(prompt);
            self.press("\x04");
            wait_until("the exit of the command", || self.child.try_wait().unwrap().is_some());
            self.child.wait().unwrap().code()
        }
    }

    #[each_runtime]
    fn lines_are_edited_completed_and_kept_in_history(runtime: Runtime) {
        let dir = TestDir::new();
        let (prompt, first) = match runtime.language() {
            Language::Python => ("py> ", "remarkable = 21"),
            Language::JavaScript => ("js> ", "const remarkable = 21"),
        };
        let args = ["repl", "--runtime", runtime.name()];
        let mut terminal = Terminal::new(&dir, &args);
        terminal.until(prompt);
        terminal.press(&format!("{first}\r"));
        terminal.until(prompt);
        // Names and commands are completed, and Ctrl-C cancels a line.
        terminal.press("remark\t * 2\r");
        terminal.until("42\r\n");
        terminal.until(prompt);
        terminal.press("nonsense\x03");
        terminal.until(prompt);
        terminal.press(":for\t\r");
        terminal.until(&prompt.replace('>', ":2>"));
        terminal.press("remarkable + 1\r");
        terminal.until("22\r\n");
        assert_eq!(terminal.end(&prompt.replace('>', ":2>")), Some(0));
        // The history contains the lines of the previous session.
        let mut terminal = Terminal::new(&dir, &args);
        terminal.until(prompt);
        terminal.press("\x1b[A");
        terminal.until("remarkable + 1");
        terminal.press("\x03");
        assert_eq!(terminal.end(prompt), Some(0));
    }

    #[each_runtime]
    fn interrupt_stops_the_code_and_keeps_the_session(runtime: Runtime) {
        let dir = TestDir::new();
        let (prompt, first, busy) = match runtime.language() {
            Language::Python => {
                ("py> ", "x = 7", "x = 8; print('be' + 'gun'); exec('while True: pass')")
            }
            Language::JavaScript => {
                ("js> ", "let x = 7", "x = 8; console.log('be' + 'gun'); for (;;);")
            }
        };
        let mut terminal = Terminal::new(&dir, &["repl", "--runtime", runtime.name()]);
        terminal.until(prompt);
        terminal.press(&format!("{first}\r"));
        terminal.until(prompt);
        terminal.press(&format!("{busy}\r"));
        terminal.until("begun\r\n");
        terminal.interrupt();
        terminal.until("interrupted");
        terminal.until("restored to its state before that input");
        terminal.until(prompt);
        terminal.press("x * 6\r");
        terminal.until("42\r\n");
        assert_eq!(terminal.end(prompt), Some(0));
    }

    #[test]
    fn block_is_read_until_it_is_complete() {
        let dir = TestDir::new();
        let mut terminal = Terminal::new(&dir, &["repl"]);
        terminal.until("py> ");
        terminal.press("def f():\r    return 'wh' + 'ole'\r\r");
        terminal.until("py> ");
        terminal.press("f()\r");
        terminal.until("'whole'\r\n");
        assert_eq!(terminal.end("py> "), Some(0));
    }
}
