//! The parser of the lines that start with a colon.

use crate::failure::Failure;

/// A command of the session.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplCommand {
    Help,
    /// Copies the interpreter, and continues in the copy.
    Fork,
    /// Lists the branches.
    Branches,
    /// Continues in another branch.
    Branch(u32),
    Save(String),
    Load(String),
    Reset,
    Quit,
}

/// The names of the commands, for completion.
pub const NAMES: [&str; 8] =
    [":branch", ":branches", ":fork", ":help", ":load", ":quit", ":reset", ":save"];

pub const HELP: &str = "\
:fork            copy the interpreter, and continue in the copy
:branches        list the copies
:branch NUMBER   continue in another copy; the original has the number 1
:save NAME|FILE  save the interpreter state, as isola run --save-snapshot does
:load NAME|FILE  continue from a snapshot
:reset           start a new interpreter in this branch
:help            list the commands
:quit            exit, as Ctrl-D does
Ctrl-C stops running code; the interpreter is then restored to its state before that code.";

impl ReplCommand {
    /// Parses a line. Returns `None` for code, and an error for an invalid command.
    pub fn parse(line: &str) -> Option<Result<Self, Failure>> {
        let line = line.trim();
        if !line.starts_with(':') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(Self::of(name, rest.trim()))
    }

    fn of(name: &str, argument: &str) -> Result<Self, Failure> {
        let target = || match argument {
            "" => Err(Failure::usage(format!("{name} needs a name or the path of a file"))
                .hint(format!("for example {name} warm, or {name} ./warm.snapshot"))),
            text => Ok(text.to_owned()),
        };
        let command = match name {
            ":save" => return target().map(Self::Save),
            ":load" => return target().map(Self::Load),
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
        Err(Failure::usage(format!("{name} takes no argument, but got {argument:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ReplCommand, String> {
        ReplCommand::parse(line).unwrap().map_err(|failure| failure.to_string())
    }

    #[test]
    fn commands_are_parsed() {
        assert!(ReplCommand::parse("x = 1").is_none());
        assert!(ReplCommand::parse("x[1:2]").is_none());
        assert_eq!(parse(":fork"), Ok(ReplCommand::Fork));
        assert_eq!(parse("  :branch   2 "), Ok(ReplCommand::Branch(2)));
        assert_eq!(parse(":save ./a b.snapshot"), Ok(ReplCommand::Save("./a b.snapshot".into())));
        for (line, message) in [
            (":save", ":save needs a name"),
            (":branch two", ":branch needs the number"),
            (":branch -1", ":branch needs the number"),
            (":jump", "there is no command :jump"),
            (":", "there is no command :"),
            (":fork 3", ":fork takes no argument"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_is_parsed_and_documented() {
        for name in NAMES {
            assert!(HELP.contains(name), "{name}");
            let error = match parse(&format!("{name} 1")) {
                Ok(_) => continue,
                Err(error) => error,
            };
            assert!(error.contains("takes no argument"), "{name}: {error}");
        }
    }
}
