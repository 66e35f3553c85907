//! Completion scripts and man pages.

use crate::fixture::{finish, isola};

#[test]
fn every_shell_has_a_completion_script() {
    for (shell, part) in
        [("bash", "complete -F _isola"), ("zsh", "#compdef isola"), ("fish", "complete -c isola")]
    {
        let script = finish(isola(&["completions", shell])).succeeded();
        for part in [part, "allow-http", "cache", "max-memory"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    let stderr = finish(isola(&["completions", "tcsh"])).failed(2);
    assert!(stderr.contains("bash"), "{stderr}");
}

#[test]
fn every_command_has_a_man_page() {
    for (args, title, part) in [
        (&["man"][..], ".TH isola 1", "isola\\-run(1)"),
        (&["man", "run"], ".TH isola-run 1", "\\-\\-max\\-memory"),
        (&["man", "repl"], ".TH isola-repl 1", "isola repl"),
        (&["man", "mcp"], ".TH isola-mcp 1", "\\-\\-max\\-sessions"),
        (&["man", "cache"], ".TH isola-cache 1", "isola\\-cache\\-ls"),
    ] {
        let page = finish(isola(args)).succeeded();
        assert!(page.contains(title), "{page}");
        assert!(page.contains(part), "{page}");
    }
    let page = finish(isola(&["man", "run"])).succeeded();
    assert!(page.contains("137") && page.contains("isola run"), "{page}");
    let stderr = finish(isola(&["man", "jump"])).failed(2);
    assert!(stderr.contains("run, repl, mcp, cache"), "{stderr}");
}
