//! Tests of the output on a terminal.

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
    thread,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::fixture::TestDir;

/// A new terminal.
pub(crate) struct Pty {
    /// The side of the user: reads what is displayed, and writes keys.
    pub(crate) user: File,
    /// The path of the side of commands.
    path: String,
}

impl Pty {
    pub(crate) fn open() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let path = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
        Self { user: File::from(user), path }
    }

    /// Opens the side of commands, as a standard stream of one.
    pub(crate) fn stream(&self) -> Stdio {
        Stdio::from(File::options().read(true).write(true).open(&self.path).unwrap())
    }
}

/// Runs a command on a new terminal, and returns its output.
pub(crate) fn run_on_terminal(mut command: Command) -> String {
    let terminal = Pty::open();
    let mut child = command.stdout(terminal.stream()).stderr(terminal.stream()).spawn().unwrap();
    // Drop our copy of the other end: it is closed when the child exits.
    drop(command);
    let reader = thread::spawn(move || {
        let (mut screen, mut bytes) = (terminal.user, Vec::new());
        // At its end a terminal reports an error.
        let _ = screen.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn control_sequences_do_not_reach_the_terminal() {
    let source = "
import sys
def main():
    print('\\x1b]0;title\\x07 and \\x1b[31mred')
    print('\\x9bm', file=sys.stderr)
    raise ValueError('\\x1b[2J')
";
    let dir = TestDir::with("s.py", source);
    let screen = run_on_terminal(dir.command(&["run", "s.py"]));
    assert!(!screen.contains(['\x1b', '\x07', '\u{9b}']), "{screen:?}");
    assert!(screen.contains("␛]0;title␇ and ␛[31mred\r\n"), "{screen:?}");
    assert!(screen.contains("ValueError: ␛[2J"), "{screen:?}");
    // The direction of text cannot be changed either.
    let source = "def main(): raise ValueError('\\u202e\\u2066a\\x9d0;x\\x9c')\nprint('\\u202eb')";
    let turned = TestDir::with("t.py", source);
    let screen = run_on_terminal(turned.command(&["run", "t.py"]));
    assert!(!screen.contains(['\u{202e}', '\u{2066}', '\u{9d}', '\u{9c}']), "{screen:?}");
    // A file or a pipe gets the output unchanged.
    let ran = dir.run(&["s.py"]);
    assert_eq!(ran.stdout, "\x1b]0;title\x07 and \x1b[31mred\n");
}

#[test]
fn spinner_is_shown_while_the_compiler_runs() {
    let dir = TestDir::with("s.js", "const main = () => 'done';");
    let mut command = dir.command(&["run", "s.js"]);
    command.env("XDG_CACHE_HOME", dir.path()).env("TERM", "xterm").env_remove("NO_COLOR");
    let screen = run_on_terminal(command);
    assert!(screen.contains("compiling the js runtime, once on this machine..."), "{screen:?}");
    // It is cleared before any other output.
    assert!(screen.ends_with("\"done\"\r\n"), "{screen:?}");
    let (_, after) = screen.rsplit_once("machine...").unwrap();
    assert!(after.contains("\x1b[2K"), "{screen:?}");
}
