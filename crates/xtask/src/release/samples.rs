//! Commands and samples of the documentation, as printed there.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Returns the block of shell commands with this name: its first line is "```sh NAME".
pub fn block(page: &str, name: &str) -> Result<String> {
    let text = read(page)?;
    find_block(&text, &format!("sh {name}")).with_context(|| format!("{page} has no block {name}"))
}

/// Returns the first sample in a language below a heading.
pub fn sample(page: &str, heading: &str, language: &str) -> Result<String> {
    let text = read(page)?;
    let missing = || format!("{page} has no sample in {language} below {heading:?}");
    let line = format!("{heading}\n");
    let start = text.find(&format!("\n{line}")).map(|index| index + 1);
    // The heading may be the first line.
    let start = start.or_else(|| text.starts_with(&line).then_some(0)).with_context(missing)?;
    find_block(text.get(start..).unwrap_or_default(), language).with_context(missing)
}

fn read(page: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(page)).with_context(|| format!("cannot read {page}"))
}

fn find_block(text: &str, info: &str) -> Option<String> {
    let fence = format!("\n```{info}\n");
    let start = text.find(&fence)? + fence.len();
    let rest = text.get(start..)?;
    rest.get(..rest.find("\n```")?).map(str::to_owned)
}

/// Returns what a sample claims to print: the rest of each line after the marker.
pub fn expected_lines<'a>(code: &'a str, marker: &str) -> Vec<&'a str> {
    code.lines().filter_map(|line| Some(line.split_once(marker)?.1.trim())).collect()
}

/// Verifies that lines were printed, in this order.
pub fn verify_output(printed: &str, expected: &[&str]) -> Result<()> {
    ensure!(!expected.is_empty(), "a sample that claims to print nothing");
    let mut lines = printed.lines().map(str::trim);
    for line in expected {
        ensure!(
            lines.any(|printed| printed == *line),
            "{line:?} was not printed, or not in this order:\n{printed}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_name() {
        let text = "x\n```sh a\none\n```\n```sh b\ntwo\nthree\n```\n";
        assert_eq!(find_block(text, "sh b").unwrap(), "two\nthree");
        assert!(find_block(text, "sh").is_none());
    }

    #[test]
    fn every_block_of_the_page_is_found() {
        let page = "docs/install.md";
        let text = read(page).unwrap();
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("```sh ")).collect();
        assert!(names.len() >= 7, "{names:?}");
        // A block without a name would not run.
        assert!(!text.lines().any(|line| line == "```sh"), "{page}: a block has no name");
        for name in names {
            assert!(!block(page, name).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn output_must_have_the_lines_in_order() {
        assert!(verify_output("a\nb\nc\n", &["a", "c"]).is_ok());
        assert!(verify_output("a\nb\nc\n", &["c", "a"]).is_err());
        assert!(verify_output("abc\n", &["a"]).is_err());
        assert!(verify_output("a", &[]).is_err());
    }

    #[test]
    fn claims_are_read_from_samples() {
        assert_eq!(expected_lines("print(4)  #> 4\npass\n", "#> "), ["4"]);
    }
}
