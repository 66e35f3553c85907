//! The Rust compiler for packages of the Python guest.
//!
//! The standard library has to be compiled as position-independent code, which needs its
//! sources, and those belong to one version of the compiler. Debian has both, as packages of
//! its security updates: `guests/python/packages/rust/debian.toml` pins them. Debian deletes a
//! version after a newer one; then the newest is used.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::debian::{self, Pins};
use crate::digest::Inputs;
use crate::guests::clear;
use crate::{progress, stamp, workspace};

const PINS: &str = "guests/python/packages/rust/debian.toml";

/// The random bytes of the standard library.
const RANDOM: &str = "guests/python/packages/rust/random.rs";

/// The suites of Debian that have the compiler, and the libraries that it needs.
const SUITE: &str = "bookworm-security";
const SUITE_OF_LIBRARIES: &str = "bookworm";

/// The libraries that the compiler needs. They do not influence what it creates, so they are
/// not pinned.
const LIBRARIES: [&str; 11] = [
    "libbsd0",
    "libedit2",
    "libffi8",
    "libicu72",
    "liblzma5",
    "libmd0",
    "libtinfo6",
    "libxml2",
    "libz3-4",
    "libzstd1",
    "zlib1g",
];

/// The dynamic loader of this machine. The compiler uses it with its own libraries, which the
/// programs that it starts must not see.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// An installed compiler.
pub struct RustCompiler {
    pub rustc: PathBuf,
    /// The directory that contains it and its sources.
    pub dir: PathBuf,
    /// The digest of the inputs of the installation.
    pub digest: String,
}

/// Returns the digest of the compiler, without installing it.
pub fn digest() -> Result<String> {
    let inputs = Pins::read(PINS)?.add_to(Inputs::default());
    Ok(inputs
        .text("code", include_str!("rust.rs"))
        .file("random", &workspace::root().join(RANDOM))?
        .finish())
}

/// Installs the compiler and the sources of its standard library.
pub fn install() -> Result<RustCompiler> {
    let tools = workspace::tools().join("rust");
    let digest = digest()?;
    let rustc = tools.join("rustc");
    let label = "the Rust compiler for packages of the Python guest";
    stamp::install(label, &tools, &digest, || {
        let files = unpack(&tools)?;
        let libraries = tools.join("libraries");
        fs::create_dir_all(&libraries)?;
        debian::unpack(&LIBRARIES, SUITE_OF_LIBRARIES, &libraries)?;
        keep_library(&files)?;
        let random = files.join("usr/lib/rustlib/src/rust/library/std/src/sys/random/wasip2.rs");
        // The standard library's own must be there, or another file is compiled.
        fs::metadata(&random).context("the standard library has no random bytes for WASI")?;
        fs::copy(workspace::root().join(RANDOM), random)?;
        write_program(&rustc, &files, &libraries.join("files"))
    })?;
    Ok(RustCompiler { rustc, dir: tools, digest })
}

/// Pins the newest version that Debian has.
pub fn update() -> Result<()> {
    let scratch = workspace::tools().join("update-rust");
    clear(&scratch)?;
    let found = progress::step("reading Debian's package lists of Rust", || newest(&scratch))?;
    fs::remove_dir_all(&scratch)?;
    Pins::of(found)?.write(PINS)
}

/// Unpacks the pinned packages, or the newest if Debian no longer has them.
fn unpack(tools: &Path) -> Result<PathBuf> {
    match Pins::read(PINS)?.unpack(SUITE, tools, |_| true) {
        Err(error) if error.is::<debian::Unavailable>() => {
            let pins = Pins::of(newest(&tools.join("lists"))?)?;
            eprintln!(
                "    warning: packages in Rust are compiled by {} of Debian's Rust, and the \
                 guest is not the same as elsewhere. Cause: {error:#}",
                pins.version
            );
            clear(&tools.join("unpacked"))?;
            pins.unpack(SUITE, tools, |_| true)
        }
        unpacked => unpacked,
    }
}

/// Returns the newest packages. The names of two of them contain versions.
fn newest(scratch: &Path) -> Result<Vec<debian::Version>> {
    fs::create_dir_all(scratch)?;
    let names = ["rustc-web", "rust-web-src", "libstd-rust-web-dev"];
    let mut found = debian::newest(&names, SUITE, scratch)?;
    for prefix in ["libstd-rust-web-", "libllvm"] {
        let last = found.last().map_or("", |package| &package.depends);
        let name = last
            .split([',', ' '])
            .find(|name| name.starts_with(prefix))
            .with_context(|| format!("Debian's Rust needs no {prefix}..."))?
            .to_owned();
        found.extend(debian::newest(&[&name], SUITE, scratch)?);
    }
    Ok(found)
}

/// Removes the sources of everything but the standard library.
fn keep_library(files: &Path) -> Result<()> {
    let source = fs::canonicalize(files.join("usr/lib/rustlib/src/rust"))
        .context("Debian's package contains no sources of Rust")?;
    for entry in fs::read_dir(source)?.flatten() {
        if entry.file_name() != "library" {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Writes the program that cargo calls. It starts the compiler with its own libraries.
fn write_program(program: &Path, files: &Path, libraries: &Path) -> Result<()> {
    let dirs = [
        files.join("usr/lib/x86_64-linux-gnu"),
        libraries.join("usr/lib/x86_64-linux-gnu"),
        libraries.join("lib/x86_64-linux-gnu"),
    ];
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let usr = files.join("usr");
    let arguments = [
        LOADER.to_owned(),
        "--library-path".to_owned(),
        dirs.join(":"),
        usr.join("bin/rustc").display().to_string(),
        "--sysroot".to_owned(),
        usr.display().to_string(),
    ];
    super::write_script(program, &arguments)
}
