//! Versions of `runsc`. They are dates, and compared as text.

use std::path::Path;

use crate::process;

/// The oldest version that the engine supports.
pub const MIN_VERSION: &str = "20240729";

/// Reports whether a program is a `runsc` of at least that version.
pub fn is_recent(program: &Path, least: &str) -> bool {
    process::stdout_of(program, &["--version"])
        .is_some_and(|text| date_of(&text).is_some_and(|date| date >= least))
}

/// Returns the date in the output of `runsc --version`.
fn date_of(text: &str) -> Option<&str> {
    let start = text.find("20")?;
    text.get(start..start + 8).filter(|date| date.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_in_versions() {
        for (text, expected) in [
            ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev", Some("20240729")),
            ("runsc version release-20250407.0", Some("20250407")),
            ("runsc version 20260905", Some("20260905")),
            ("runsc version unknown", None),
            ("runsc version VERSION_MISSING\nspec: 1.2.0", None),
            ("", None),
        ] {
            assert_eq!(date_of(text), expected, "{text}");
        }
    }
}
