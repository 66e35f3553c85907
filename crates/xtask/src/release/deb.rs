//! The package of Debian: an `ar` archive of two tar archives, as deb(5) describes it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::tree::{Tree, gzip};
use crate::{process, workspace};

/// The directory of the control files, relative to the root of the repository.
const SOURCE: &str = "packaging/debian";

/// The values that replace `@NAME@` in the control files.
pub type Variables<'a> = BTreeMap<&'a str, String>;

/// Reads a control file and replaces the variables in it.
pub fn template(name: &str, variables: &Variables<'_>) -> Result<String> {
    let path = workspace::root().join(SOURCE).join(name);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    fill(&text, variables).with_context(|| format!("{SOURCE}/{name} is not valid"))
}

fn fill(text: &str, variables: &Variables<'_>) -> Result<String> {
    let mut text = text.to_owned();
    for (name, value) in variables {
        text = text.replace(&format!("@{name}@"), value);
    }
    let is_name =
        |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let parts: Vec<_> = text.split('@').collect();
    let between = parts.get(1..parts.len().saturating_sub(1)).unwrap_or_default();
    if let Some(name) = between.iter().find(|part| is_name(part)) {
        bail!("@{name}@ has no value");
    }
    Ok(text)
}

/// Writes the package. `data` are the installed files, `level` is that of zstd.
pub fn write(
    package: &Path,
    data: &Tree,
    mut variables: Variables<'_>,
    time: u64,
    level: i32,
) -> Result<()> {
    // In KiB, as the field requires.
    variables.insert("INSTALLED_SIZE", data.size()?.div_ceil(1024).to_string());
    let mut control = Tree::default();
    for name in ["control", "conffiles"] {
        control.bytes(name, 0o644, template(name, &variables)?);
    }
    for name in ["postinst", "prerm", "postrm"] {
        control.bytes(name, 0o755, template(name, &variables)?);
    }
    let control = control.write_tar(gzip(Vec::new(), 9), "./", true, time)?.finish()?;
    let encoder = zstd::Encoder::new(Vec::new(), level)?;
    let data = data.write_tar(encoder, "./", true, time)?.finish()?;
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.zst", &data)];
    let mut file =
        File::create(package).with_context(|| format!("cannot create {}", package.display()))?;
    file.write_all(&ar(&members, time))?;
    Ok(())
}

/// Creates an archive in the common format of `ar`.
fn ar(members: &[(&str, &[u8])], time: u64) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let header =
            format!("{name:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, "100644", content.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Returns the packages that the shared libraries of a program are in, for the field
/// `Depends`. A library that is not known here is an error.
pub fn dependencies(program: &Path) -> Result<String> {
    let text = process::stdout_of("objdump", &["-p", &program.to_string_lossy()])
        .context("objdump does not run: install the package binutils")?;
    parse_dependencies(&text).with_context(|| format!("cannot package {}", program.display()))
}

fn parse_dependencies(objdump: &str) -> Result<String> {
    let needed = objdump.lines().filter_map(|line| line.trim().strip_prefix("NEEDED"));
    let mut packages = BTreeMap::new();
    for library in needed.map(str::trim) {
        let package = match library {
            "libc.so.6"
            | "libm.so.6"
            | "libdl.so.2"
            | "libpthread.so.0"
            | "librt.so.1"
            | "ld-linux-x86-64.so.2" => "libc6",
            "libgcc_s.so.1" => "libgcc-s1",
            _ => bail!("no package is known for {library}: add it to release/deb.rs"),
        };
        packages.insert(package, String::new());
    }
    let newest = objdump
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("GLIBC_"))
        .filter_map(|version| {
            version.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()
        })
        .max();
    if let (Some(libc), Some(newest)) = (packages.get_mut("libc6"), newest) {
        let newest: Vec<_> = newest.iter().map(u32::to_string).collect();
        *libc = format!(" (>= {})", newest.join("."));
    }
    let packages: Vec<_> =
        packages.iter().map(|(package, version)| format!("{package}{version}")).collect();
    Ok(packages.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJDUMP: &str = "\
  NEEDED               libgcc_s.so.1
  NEEDED               libc.so.6
Version References:
  required from libc.so.6:
    0x09691a75 0x00 04 GLIBC_2.2.5
    0x069691b4 0x00 03 GLIBC_2.34
    0x0d696919 0x00 02 GLIBC_2.9
";

    #[test]
    fn the_newest_version_of_the_c_library_is_required() {
        assert_eq!(parse_dependencies(OBJDUMP).unwrap(), "libc6 (>= 2.34), libgcc-s1");
    }

    #[test]
    fn an_unknown_library_is_an_error() {
        let text = format!("{OBJDUMP}  NEEDED   libssl.so.3\n");
        let error = format!("{:#}", parse_dependencies(&text).unwrap_err());
        assert!(error.contains("libssl.so.3"), "{error}");
    }

    #[test]
    fn a_variable_without_a_value_is_an_error() {
        let variables = Variables::from([("VERSION", "1.2".to_owned())]);
        assert_eq!(fill("v @VERSION@, a@b", &variables).unwrap(), "v 1.2, a@b");
        assert!(fill("v @VERSION@ @OTHER@", &variables).is_err());
    }

    #[test]
    fn members_of_an_archive_begin_at_even_positions() {
        let bytes = ar(&[("a", b"xyz"), ("b", b"12")], 5);
        assert!(bytes.starts_with(b"!<arch>\na               5           0     0     100644  3"));
        assert_eq!(bytes.len(), 8 + 60 + 4 + 60 + 2);
    }
}
