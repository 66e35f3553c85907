//! Checks that no two types of a crate have the same name, so that a name in a message,
//! a search or a review means one type.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::rust_source::{SourceFile, Token, at, is_name, read_crate};
use crate::workspace;

/// Finds every name of several types.
pub fn find() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, dir) in workspace::crates()? {
        let repeated = repeated(&read_crate(&dir)?);
        found.extend(repeated.into_iter().map(|(ty, places)| {
            let count = places.len();
            let places = places.join(", ");
            format!(
                "crates/{name}: {count} types are called {ty} ({places}): name each after what \
                 it stands for"
            )
        }));
    }
    Ok(found)
}

/// Returns the names that several types have, with the position of each.
fn repeated(files: &[SourceFile]) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        // Alternatives for platforms count once.
        let mut alternatives = BTreeSet::new();
        for (name, is_alternative) in types(&file.tokens) {
            if !is_alternative || alternatives.insert(&name.text) {
                let place = format!("{}:{}", file.path, name.line);
                names.entry(name.text.clone()).or_default().push(place);
            }
        }
    }
    names.retain(|_, places| places.len() > 1);
    names
}

/// Returns the names of the types that a source defines, in functions and modules too,
/// each with whether it has the attribute `cfg`. Associated types are not among them:
/// they are names within a trait.
fn types(tokens: &[Token]) -> Vec<(&Token, bool)> {
    let mut found = Vec::new();
    // For each open brace, whether it is the body of a trait or of an `impl`.
    let mut bodies = Vec::new();
    let mut is_associated = false;
    let mut has_cfg = false;
    for (index, token) in tokens.iter().enumerate() {
        let before = |count| index.checked_sub(count).map_or("", |before| at(tokens, before));
        // `impl` is also a part of types, and the others are names in some places.
        let starts_item = match before(1) {
            "" | "{" | "}" | ";" | "]" | ")" | "pub" | "unsafe" | "auto" | "default" => true,
            // A repetition in a macro.
            "(" => before(2) == "$",
            _ => false,
        };
        match token.text.as_str() {
            "cfg" if (before(2), before(1)) == ("#", "[") => has_cfg = true,
            "{" => {
                bodies.push(std::mem::take(&mut is_associated));
                has_cfg = false;
            }
            "}" => {
                bodies.pop();
                has_cfg = false;
            }
            // The end of a trait alias or of a declaration without a body.
            ";" => {
                is_associated = false;
                has_cfg = false;
            }
            "impl" if starts_item => is_associated = true,
            "struct" | "enum" | "union" | "trait" | "type" if starts_item => {
                let is_in_trait = bodies.last().is_some_and(|is_associated| *is_associated);
                if let Some(name) = tokens.get(index + 1).filter(|name| is_type_name(&name.text))
                    && !(token.text == "type" && is_in_trait)
                {
                    found.push((name, has_cfg));
                    is_associated |= token.text == "trait";
                }
            }
            _ => {}
        }
    }
    found
}

fn is_type_name(token: &str) -> bool {
    is_name(token) && token.starts_with(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::rust_source::{parse_files, tokens};

    #[test]
    fn types_are_found_wherever_they_are_defined() {
        let source = "pub struct A<T> where T: B { c: u8 } pub(crate) enum D { E }\n\
                      #[repr(C)] union F { g: u8 } unsafe trait H { type I; fn j() { struct K; } }\n\
                      impl H for A { type I = u8; fn l() -> impl M { enum N {} } }\n\
                      type O = u8; fn p(q: Q) { q.union(R); let s = &dyn T; type U = V; }\n\
                      mod w { trait X = Y; type Z = u8; }\n\
                      macro_rules! m { () => {$( impl H for A { type M = u8; } )*} }";
        let tokens = tokens(source);
        let names: Vec<_> = types(&tokens).iter().map(|(name, _)| name.text.as_str()).collect();
        assert_eq!(names, ["A", "D", "F", "H", "K", "N", "O", "U", "X", "Z"]);
    }

    #[test]
    fn a_name_of_two_types_of_a_crate_is_found() {
        let found = repeated(&parse_files([
            ("lib.rs", "mod a;\nmod b;\nstruct Limits;"),
            ("a.rs", "enum State { Limits }\n#[cfg(test)]\nmod tests { struct Sandbox; }"),
            ("b.rs", "struct Sandbox;\n\nfn f() {\n    struct State;\n}"),
            ("c.rs", "#[cfg(unix)]\nstruct Entries(u8);\n#[cfg(not(unix))]\nstruct Entries(u16);"),
        ]));
        let expected =
            [("State".to_owned(), vec!["src/a.rs:1".to_owned(), "src/b.rs:4".to_owned()])];
        assert_eq!(found, BTreeMap::from(expected));
    }
}
