//! Reads the sources of a crate as text: names and signs, without comments, literals and
//! the code of tests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A module: the names that lead to it from the root of the crate.
pub type ModulePath = Vec<String>;

/// A source file of a crate.
pub struct SourceFile {
    /// The path, relative to the directory of the crate.
    pub path: String,
    pub module: ModulePath,
    /// The content without the code of tests.
    pub tokens: Vec<Token>,
}

/// A name, a keyword, a number, `::`, or another sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// The number of the line, from 1.
    pub line: usize,
}

/// Reads the files below `src` of a crate, except those that are only compiled for
/// tests.
pub fn read_crate(dir: &Path) -> Result<Vec<SourceFile>> {
    let src = dir.join("src");
    let mut texts = Vec::new();
    let mut open = vec![src.clone()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&src)?.to_string_lossy().into_owned();
                texts.push((relative, fs::read_to_string(&path)?));
            }
        }
    }
    texts.sort();
    Ok(parse_files(texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))))
}

/// Parses files, each given as its path below `src` and its text.
pub fn parse_files<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut test_modules = Vec::new();
    for (path, text) in texts {
        let module = module_of(path);
        let (tokens, tests) = without_tests(&tokens(text));
        test_modules.extend(tests.into_iter().map(|name| child(&module, &name)));
        files.push(SourceFile { path: format!("src/{path}"), module, tokens });
    }
    files.retain(|file| {
        file.module.last().is_none_or(|name| name != "tests")
            && !test_modules.iter().any(|tests| file.module.starts_with(tests))
    });
    files
}

/// Returns the module of a file, given its path below `src`.
pub fn module_of(path: &str) -> ModulePath {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut module: ModulePath = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Returns the path of a module's child.
pub fn child(module: &[String], name: &str) -> ModulePath {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Reports whether a token is a name, a keyword or a number.
pub fn is_name(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Returns the text of the token at an index, or an empty text beyond the end.
pub fn at(tokens: &[Token], index: usize) -> &str {
    tokens.get(index).map_or("", |token| &token.text)
}

/// Splits a source into names and signs. Drops comments and literals.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut scanner = Scanner { chars: text.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while scanner.at < scanner.chars.len() {
        let line = scanner.line;
        if let Some(text) = scanner.next() {
            tokens.push(Token { text, line });
        }
    }
    tokens
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Scanner {
    fn peek(&self, offset: usize) -> Option<char> {
        self.chars.get(self.at + offset).copied()
    }

    fn advance(&mut self, count: usize) {
        for _ in 0..count {
            self.line += usize::from(self.peek(0) == Some('\n'));
            self.at += 1;
        }
    }

    /// Reads a token, or skips something that is none.
    fn next(&mut self) -> Option<String> {
        match (self.peek(0)?, self.peek(1)) {
            ('/', Some('/')) => {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.advance(1);
                }
                None
            }
            ('/', Some('*')) => {
                self.skip_block_comment();
                None
            }
            ('"', _) => {
                self.skip_quoted('"');
                None
            }
            // A character, and not a lifetime.
            ('\'', next) if next == Some('\\') || self.peek(2) == Some('\'') => {
                self.skip_quoted('\'');
                None
            }
            (c, _) if c.is_alphanumeric() || c == '_' => self.word(),
            (':', Some(':')) => {
                self.advance(2);
                Some("::".to_owned())
            }
            (c, _) => {
                self.advance(1);
                (!c.is_whitespace()).then(|| c.to_string())
            }
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (None, _) => return,
                _ => {
                    self.advance(1);
                    continue;
                }
            }
            self.advance(2);
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_quoted(&mut self, quote: char) {
        self.advance(1);
        while let Some(c) = self.peek(0).filter(|c| *c != quote) {
            self.advance(if c == '\\' { 2 } else { 1 });
        }
        self.advance(1);
    }

    /// Reads a word, or skips a raw string.
    fn word(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_') {
            self.advance(1);
        }
        let word: String = self.chars[start..self.at].iter().collect();
        let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#').count();
        // `r#type` is a name.
        let is_raw_string =
            matches!(word.as_str(), "r" | "br" | "cr") && self.peek(hashes) == Some('"');
        if !is_raw_string {
            return Some(word);
        }
        let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
        self.advance(hashes + 1);
        while self.at < self.chars.len() && !self.chars[self.at..].starts_with(&end) {
            self.advance(1);
        }
        self.advance(end.len());
        None
    }
}

/// Drops what follows `#[cfg(test)]` or `#[cfg(any(test, ...))]`: an item with its braces,
/// or up to a semicolon. Also returns the names of the modules that were dropped.
pub fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let length = match at(tokens, index) {
            "#" => tokens[index..].iter().take_while(|token| token.text != "]").count(),
            _ => 0,
        };
        if !is_for_tests(&tokens[index..index + length]) {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        index += length + 1;
        let mut depth = 0;
        while index < tokens.len() {
            match at(tokens, index) {
                "{" => depth += 1,
                // The end of what contains the item.
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "mod" if depth == 0 => modules.push(at(tokens, index + 1).to_owned()),
                _ => {}
            }
            let is_end = depth == 0 && matches!(at(tokens, index), "}" | ";");
            index += 1;
            if is_end {
                break;
            }
        }
    }
    (kept, modules)
}

/// Reports whether an attribute selects builds of tests.
fn is_for_tests(attribute: &[Token]) -> bool {
    at(attribute, 1) == "["
        && at(attribute, 2) == "cfg"
        && (3..attribute.len()).any(|index| {
            matches!(at(attribute, index), "test" | "doctest") && at(attribute, index - 2) != "not"
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_dropped() {
        let source = "a // b \"\n/* c /* d */ \" */ e \"f\\\"\" '\"' 'g' &'h r#\"i\"# \"# \" j br\"k\" r#type";
        assert_eq!(texts(source), ["a", "e", "&", "'", "h", "j", "r", "#", "type"]);
    }

    #[test]
    fn lines_are_counted_in_literals_and_comments() {
        let source = "a\n/* \n */ \"\n\\\n\" r\"\n\" // x\nb";
        let lines: Vec<_> = tokens(source).into_iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 7]);
    }

    #[test]
    fn code_of_tests_is_dropped() {
        let source = "#[cfg(test)] mod tests { fn f() { 1; } } fn a() {}\n\
                      #[cfg(any(test, x))] use b::c; #[cfg(not(test))] fn d() {}\n\
                      struct E { #[cfg(test)] f: u8 } #[cfg(doctest)] mod g; mod h;";
        let (kept, modules) = without_tests(&tokens(source));
        let kept: Vec<_> = kept.into_iter().map(|token| token.text).collect();
        assert_eq!(
            kept.join(" "),
            "fn a ( ) { } # [ cfg ( not ( test ) ) ] fn d ( ) { } struct E { } mod h ;"
        );
        assert_eq!(modules, ["tests", "g"]);
    }

    #[test]
    fn files_of_tests_are_left_out() {
        let files = parse_files([
            ("lib.rs", "mod a; mod b;"),
            ("main.rs", "fn main() {}"),
            ("a.rs", "#[cfg(test)] mod idle; mod c;"),
            ("a/idle.rs", ""),
            ("a/idle/deep.rs", ""),
            ("a/c.rs", ""),
            ("b/mod.rs", ""),
            ("b/tests.rs", ""),
        ]);
        let modules: Vec<_> = files.iter().map(|file| file.module.join("::")).collect();
        assert_eq!(modules, ["", "", "a", "a::c", "b"]);
        assert_eq!(files[3].path, "src/a/c.rs");
    }
}
