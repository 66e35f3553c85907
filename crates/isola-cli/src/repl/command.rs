//! The lines that begin with a colon: what they say, and nothing of what they do.

use crate::failure::Failure;

/// What to do instead of running code.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    /// Copy the session, and go on in the copy.
    Fork,
    /// List the branches.
    Branches,
    /// Go on in another branch.
    Branch(u32),
    Save(String),
    Load(String),
    Reset,
    Quit,
}

/// The commands, for completion.
pub const NAMES: [&str; 8] =
    [":branch", ":branches", ":fork", ":help", ":load", ":quit", ":reset", ":save"];

pub const HELP: &str = "\
:fork            copy the interpreter as it is, and go on in the copy
:branches        list the copies
:branch NUMBER   go on in another one; the first has the number 1
:save NAME|FILE  keep the interpreter, as isola run --save-snapshot does
:load NAME|FILE  go on from such a snapshot
:reset           begin anew in this branch
:help            list the commands
:quit            end, as Ctrl-D does
Ctrl-C stops code that runs; the interpreter is then as it was before that code.";

impl Command {
    /// `None` for code, and an error for a command that cannot be.
    pub fn parse(line: &str) -> Option<Result<Self, Failure>> {
        let line = line.trim();
        if !line.starts_with(':') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(Self::of(name, rest.trim()))
    }

    fn of(name: &str, argument: &str) -> Result<Self, Failure> {
        let place = || match argument {
            "" => Err(Failure::usage(format!("{name} needs a name or the path of a file"))
                .hint(format!("for example {name} warm, or {name} ./warm.snapshot"))),
            text => Ok(text.to_owned()),
        };
        let command = match name {
            ":save" => return place().map(Self::Save),
            ":load" => return place().map(Self::Load),
            ":branch" => {
                return argument.parse().map(Self::Branch).map_err(|_| {
                    Failure::usage(":branch needs the number of a branch")
                        .hint(":branches lists them")
                });
            }
            ":help" => Self::Help,
            ":fork" => Self::Fork,
            ":branches" => Self::Branches,
            ":reset" => Self::Reset,
            ":quit" => Self::Quit,
            _ => {
                return Err(Failure::usage(format!("there is no command {name}"))
                    .hint(":help lists the commands"));
            }
        };
        if argument.is_empty() {
            return Ok(command);
        }
        Err(Failure::usage(format!("{name} takes nothing more, and not {argument:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Result<Command, String> {
        Command::parse(line).unwrap().map_err(|failure| failure.to_string())
    }

    #[test]
    fn commands_are_read() {
        assert!(Command::parse("x = 1").is_none());
        assert!(Command::parse("x[1:2]").is_none());
        assert_eq!(said(":fork"), Ok(Command::Fork));
        assert_eq!(said("  :branch   2 "), Ok(Command::Branch(2)));
        assert_eq!(said(":save ./a b.snapshot"), Ok(Command::Save("./a b.snapshot".into())));
        for (line, says) in [
            (":save", ":save needs a name"),
            (":branch two", ":branch needs the number"),
            (":branch -1", ":branch needs the number"),
            (":jump", "there is no command :jump"),
            (":", "there is no command :"),
            (":fork 3", ":fork takes nothing more"),
        ] {
            let error = said(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn all_of_them_are_completed_and_explained() {
        for name in NAMES {
            assert!(HELP.contains(name), "{name}");
            let error = match said(&format!("{name} 1")) {
                Ok(_) => continue,
                Err(error) => error,
            };
            assert!(error.contains("takes nothing more"), "{name}: {error}");
        }
    }
}
