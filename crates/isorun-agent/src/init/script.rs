//! The bash code of a shell, without any I/O.
//!
//! A command is a file that bash sources with the user's streams as its own. The
//! last line of the file belongs to the agent. It keeps the changes that the
//! command has made to its streams, since the redirection ends with the file, and
//! turns off `set -x`, `set -v` and the history until the next command, which would
//! show the agent's lines.

/// The descriptors of commands' standard input, output and error in bash. These and
/// the following are higher than those that scripts use.
pub const STREAM_FDS: [i32; 3] = [97, 96, 95];
/// The descriptor of `/dev/null`, which saves opening it for each line.
pub const NULL_FD: i32 = 94;
/// The descriptor of the pipe for exit codes.
pub const STATUS_FD: i32 = 98;
/// The descriptor of the file with the command.
pub const COMMAND_FD: i32 = 99;

/// Stores the exit code, and keeps a failure in the last line that bash exempts (`!
/// true`, `test -e x && ...`) from ending a shell that is under `set -e`.
const NOTE_STATUS: &str = "{ __isorun_status=${__isorun_status:-$?};} >&94 2>&94";

/// Keeps the command's streams. A group with redirections, unlike one without,
/// neither shows its lines under `set -x` nor lets traps write to the output. A
/// closed stream cannot be duplicated: then each is checked.
const KEEP_STREAMS: &str = "{ __isorun_keep;} 92>&2 2>&94 90<&0 91>&1 >&94||__isorun_keep_open";

/// The functions. Each is one line, and none depends on `IFS` or fails.
const FUNCTIONS: [&str; 8] = [
    "__isorun_end(){ if [[ -o history ]];then builtin history -d -1||:;__isorun_hush;fi;\
     builtin printf '%s %s\\n' \"$1\" \"${__isorun_status:-$2}\" >&98;}",
    "__isorun_last(){ return \"$1\";}",
    // Turns off tracing and the history, and stores which were on.
    "__isorun_hush(){ __isorun_flags=$-;builtin set +vx;\
     if [[ -o history ]];then if [[ -z $__isorun_shown && $(builtin history 1) = *'{ __isorun_status='* ]];\
     then builtin history -d -1||:;fi;__isorun_history=1;builtin set +o history;fi;}",
    // Turns them on again for a command.
    "__isorun_show(){ __isorun_shown=$__isorun_history;if [[ $__isorun_history ]];then __isorun_remember;fi;\
     if [[ $__isorun_flags = *v* ]];then __isorun_flags=${__isorun_flags//v};builtin set -v;fi;\
     if [[ -z ${1-} ]];then __isorun_trace;fi;}",
    "__isorun_trace(){ if [[ $__isorun_flags = *x* ]];then __isorun_flags=;builtin set -x;fi;__isorun_flags=;}",
    "__isorun_remember(){ builtin local IFS= t=;builtin read -rd '' t </proc/self/fd/99||:;\
     t=${t#'{ __isorun_trace'*'2>&94;'};builtin history -s -- \"${t%$'\\n\\n{ __isorun_status='*}\"||:;\
     __isorun_history=;builtin set -o history;}",
    "__isorun_keep(){ __isorun_hush;\\exec 97<&90 96>&91 95>&92;\
     __isorun_0=97 __isorun_1=96 __isorun_2=95;}",
    "__isorun_keep_open(){ { __isorun_hush;} 2>&94;\
     if { :;} 2>&94 90<&0;then \\exec 97<&0;__isorun_0=97;else \\exec 97<&94;__isorun_0=-;fi;\
     if { :;} 2>&94 91>&1;then \\exec 96>&1;__isorun_1=96;else \\exec 96>&94;__isorun_1=-;fi;\
     if { :;} 92>&2;then \\exec 95>&2;__isorun_2=95;else \\exec 95>&94;__isorun_2=-;fi;}",
];

/// Returns the first line that a shell reads.
pub fn preparation() -> String {
    let functions = FUNCTIONS.join(";");
    format!(
        "PS1=;PS2=;unset HISTFILE MAILCHECK;set +o history +H;history -c;{functions};\
         __isorun_flags= __isorun_history= __isorun_shown= __isorun_0=97 __isorun_1=96 __isorun_2=95;\
         exec >&94 2>&94\n"
    )
}

/// Returns the line that requests an exit code, which is written after that marker.
pub fn exit_code_query(marker: &str) -> String {
    format!("__isorun_end {marker} $?\n")
}

/// A command in the form that bash is given.
pub struct Command {
    /// The content of the file.
    pub file: String,
    /// True if the last line is not part of the file: in an open here-document it would
    /// be text, and after a `return` it would not be reached.
    is_apart: bool,
    last_exit_code: i32,
}

/// Returns code that sets `$?`. In a list it does not count as a failure.
fn set_status(last_exit_code: i32) -> String {
    if last_exit_code == 0 { String::new() } else { format!("__isorun_last {last_exit_code}&&:;") }
}

impl Command {
    /// Prepares a command of a user. `last_exit_code` is the value of `$?` before it.
    pub fn new(text: &str, last_exit_code: i32) -> Self {
        let has_document = text.contains("<<");
        let is_apart = has_document || text.contains("return");
        let mut file = String::new();
        if is_apart {
            // Tracing is turned on in the file: earlier, the line that runs the file would
            // show under `set -x`.
            file.push_str(&format!("{{ __isorun_trace;{}}} 2>&94;", set_status(last_exit_code)));
        }
        file.push_str(text);
        if !has_document {
            file.push_str("\n\n");
            file.push_str(NOTE_STATUS);
        }
        if !is_apart {
            file.push(';');
            file.push_str(KEEP_STREAMS);
        }
        Self { file, is_apart, last_exit_code }
    }

    /// Returns the line that runs it. With `restored`, bash seeds its random numbers
    /// again.
    pub fn line(&self, restored: bool) -> String {
        let mut line = String::from("__isorun_status=;");
        if restored {
            line.push_str("RANDOM=${SRANDOM-};");
        }
        line.push_str(if self.is_apart { "__isorun_show apart;" } else { "__isorun_show;" });
        line.push_str(&set_status(self.last_exit_code));
        let file = "/proc/self/fd/99";
        let streams = r#"<&"$__isorun_0" >&"$__isorun_1" 2>&"$__isorun_2""#;
        let run = if self.is_apart {
            format!("\\builtin eval '. {file};{NOTE_STATUS};{KEEP_STREAMS}' {streams}\n")
        } else {
            format!(". {file} {streams}\n")
        };
        line + &run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs commands one after the other in a new bash, and returns their output.
    fn printed(commands: &[&str]) -> String {
        use std::io::Write as _;
        use std::process::{Command as Process, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let mut input = String::from("exec 97</dev/null 96>&1 95>&2 94<>/dev/null 98>/dev/null\n");
        input.push_str(&preparation());
        for (at, command) in commands.iter().enumerate() {
            let command = Command::new(command, 0);
            let path = dir.path().join(at.to_string());
            std::fs::write(&path, &command.file).unwrap();
            input.push_str(&format!("exec 99<{}\n", path.display()));
            input.push_str(&command.line(false));
            input.push_str(&exit_code_query("word"));
        }
        let mut bash = Process::new("bash")
            .args(["--noediting", "--norc", "--noprofile", "-i"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        bash.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn generated_code_is_one_line() {
        assert_eq!(preparation().matches('\n').count(), 1);
        assert_eq!(exit_code_query("x").matches('\n').count(), 1);
        for text in ["", "echo", "cat <<E\nx\nE", "return 3"] {
            assert_eq!(Command::new(text, 3).line(true).matches('\n').count(), 1, "{text}");
        }
    }

    #[test]
    fn script_uses_the_descriptor_constants() {
        let line = preparation();
        for (at, number) in STREAM_FDS.iter().enumerate() {
            assert!(line.contains(&format!("__isorun_{at}={number}")), "{line}");
        }
        assert!(line.contains(&format!("exec >&{NULL_FD} 2>&{NULL_FD}")), "{line}");
        assert!(line.contains(&format!(">&{STATUS_FD}")), "{line}");
        assert!(Command::new("", 0).line(false).contains(&format!("/proc/self/fd/{COMMAND_FD}")));
    }

    #[test]
    fn interactive_settings_do_not_change_output() {
        for (commands, expected) in [
            (
                &["PS1='p$ '; PS0=zero; PROMPT_COMMAND='echo often'; echo $PS1", "echo a"][..],
                "p$\na\n",
            ),
            (&["trap 'echo trapped' DEBUG", "echo a"], "a\n"),
            (
                &["set -o history; echo a", "echo b", "history | sed 's/^ *[0-9]* *//'"],
                "a\nb\necho b\nhistory | sed 's/^ *[0-9]* *//'\n",
            ),
            (&["set -x; exec 2>&1", "echo a"], "++ echo a\na\n"),
            (&["IFS=0123456789", "echo a"], "a\n"),
            (&["set -u; shopt -s failglob; set -o posix", "echo a"], "a\n"),
        ] {
            assert_eq!(printed(commands), expected, "{commands:?}");
        }
    }

    #[test]
    fn redirections_persist() {
        for (commands, expected) in [
            (&["exec 3>&1 >/dev/null", "echo no", "exec >&3 3>&-", "echo yes"][..], "yes\n"),
            (&["exec >&-", "echo no", "echo no"], ""),
            (&["exec 2>&1", "echo a >&2"], "a\n"),
            (
                &[
                    "exec <<<x$'\\n'y",
                    "read a; echo $a",
                    "read a; echo $a",
                    "exec <&-",
                    "cat; echo $?",
                ],
                "x\ny\n1\n",
            ),
            (&["exec {n}>&1 >/dev/null", "exec >&$n {n}>&-; return 3", "echo yes"], "yes\n"),
            (&["exec 4<>/dev/null 1>&4", "echo no"], ""),
            (&["exec 2>&- </dev/null", "echo a; cat", "exec 2>&1", "echo b >&2"], "a\nb\n"),
        ] {
            assert_eq!(printed(commands), expected, "{commands:?}");
        }
    }
}
