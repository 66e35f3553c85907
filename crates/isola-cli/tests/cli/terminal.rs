//! What is different when somebody looks on.

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
    thread,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::fixture::Folder;

/// Runs a command on a terminal of its own, and gives what it shows.
pub(crate) fn shown(mut command: Command) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let side = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    let mut child = command.stdout(side()).stderr(side()).spawn().unwrap();
    // The other end is closed once only the child holds it.
    drop(command);
    let reader = thread::spawn(move || {
        let (mut screen, mut bytes) = (File::from(terminal), Vec::new());
        // It ends with an error, as terminals do.
        let _ = screen.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn a_guest_cannot_steer_the_terminal() {
    let source = "
import sys
def main():
    print('\\x1b]0;title\\x07 and \\x1b[31mred')
    print('\\x9bm', file=sys.stderr)
    raise ValueError('\\x1b[2J')
";
    let folder = Folder::with("s.py", source);
    let screen = shown(folder.command(&["run", "s.py"]));
    assert!(!screen.contains(['\x1b', '\x07', '\u{9b}']), "{screen:?}");
    assert!(screen.contains("␛]0;title␇ and ␛[31mred\r\n"), "{screen:?}");
    assert!(screen.contains("ValueError: ␛[2J"), "{screen:?}");
    // Text is not turned around either.
    let source = "def main(): raise ValueError('\\u202e\\u2066a\\x9d0;x\\x9c')\nprint('\\u202eb')";
    let turned = Folder::with("t.py", source);
    let screen = shown(turned.command(&["run", "t.py"]));
    assert!(!screen.contains(['\u{202e}', '\u{2066}', '\u{9d}', '\u{9c}']), "{screen:?}");
    // A file or a pipe gets what was written.
    let ran = folder.run(&["s.py"]);
    assert_eq!(ran.stdout, "\x1b]0;title\x07 and \x1b[31mred\n");
}

#[test]
fn a_spinner_shows_the_compiler_at_work() {
    let folder = Folder::with("s.js", "const main = () => 'done';");
    let mut command = folder.command(&["run", "s.js"]);
    command.env("XDG_CACHE_HOME", folder.path()).env("TERM", "xterm").env_remove("NO_COLOR");
    let screen = shown(command);
    assert!(screen.contains("compiling the js runtime, once on this machine..."), "{screen:?}");
    // It is gone before anything else is shown.
    assert!(screen.ends_with("\"done\"\r\n"), "{screen:?}");
    let (_, after) = screen.rsplit_once("machine...").unwrap();
    assert!(after.contains("\x1b[2K"), "{screen:?}");
}
