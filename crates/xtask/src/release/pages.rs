//! The man pages and completion scripts of a program, which the program itself prints.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tree::{Tree, gzip_bytes};

/// Adds the pages and scripts of a program, below a directory such as `share`.
pub fn add(tree: &mut Tree, share: &str, name: &str, program: &Path) -> Result<()> {
    let main = print(program, &["man"])?;
    let commands = subcommands(name, &main);
    if commands.is_empty() {
        bail!("the man page of {name} lists no commands");
    }
    tree.bytes(format!("{share}/man/man1/{name}.1.gz"), 0o644, gzip_bytes(main.as_bytes())?);
    for command in commands {
        let page = print(program, &["man", command])?;
        let path = format!("{share}/man/man1/{name}-{command}.1.gz");
        tree.bytes(path, 0o644, gzip_bytes(page.as_bytes())?);
    }
    for (shell, path) in [
        ("bash", format!("bash-completion/completions/{name}")),
        ("zsh", format!("zsh/site-functions/_{name}")),
        ("fish", format!("fish/vendor_completions.d/{name}.fish")),
    ] {
        tree.bytes(format!("{share}/{path}"), 0o644, print(program, &["completions", shell])?);
    }
    Ok(())
}

/// Returns the commands to which a main page refers.
fn subcommands<'a>(name: &str, page: &'a str) -> Vec<&'a str> {
    let prefix = format!("{name}\\-");
    page.lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.strip_suffix("(1)"))
        // The command `help` of clap is no page of its own.
        .filter(|command| *command != "help")
        .collect()
}

fn print(program: &Path, args: &[&str]) -> Result<String> {
    let shown = format!("{} {}", program.display(), args.join(" "));
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` does not print text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_of_the_main_page() {
        let page = ".SH SUBCOMMANDS\n.TP\nisola\\-run(1)\nRun\n.TP\nisola\\-help(1)\nHelp\n";
        assert_eq!(subcommands("isola", page), ["run"]);
    }
}
