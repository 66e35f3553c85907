//! `cargo xtask release`: everything that a release holds, in one directory.
//!
//! | to change | start in |
//! |---|---|
//! | which files an archive or a package has | `artifacts.rs` |
//! | how files become bytes that are always the same | `tree.rs` |
//! | the package of Debian | `deb.rs`, and `packaging` at the root of the repository |
//! | the image of the server | `oci.rs` |
//! | the bill of materials | `sbom.rs` |
//! | how each of them is installed and tried | `test.rs`, with samples from `samples.rs` |

mod artifacts;
mod deb;
mod debian_root;
mod oci;
mod pages;
mod samples;
mod sbom;
mod test;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{digest, guests, linux, node, process, progress, workspace};

pub use test::{ReleaseTestArgs, test};

#[derive(clap::Args)]
pub struct ReleaseArgs {
    /// The build of the programs that the release holds
    #[arg(long, value_enum, default_value = "release")]
    profile: ReleaseProfile,

    /// The directory of the release, which must be empty or absent
    /// [default: target/release-artifacts/VERSION]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Make the release from a tree with changes that are not committed
    #[arg(long)]
    allow_dirty: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReleaseProfile {
    /// The build of the tests: not optimized, and only for tests of the release itself
    Dev,
    /// The optimized build
    Release,
}

impl ReleaseProfile {
    /// Returns the name of the profile of cargo.
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// Returns the directory of the programs in cargo's target directory.
    fn dir(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }

    fn of_node(self) -> node::Profile {
        match self {
            Self::Dev => node::Profile::Debug,
            Self::Release => node::Profile::Release,
        }
    }

    /// Returns the level of compression with gzip.
    fn gzip_level(self) -> u32 {
        match self {
            Self::Dev => 1,
            Self::Release => 6,
        }
    }

    /// Returns the level of compression with zstd.
    fn zstd_level(self) -> i32 {
        match self {
            Self::Dev => 1,
            Self::Release => 19,
        }
    }
}

/// What all parts of a release have in common.
struct Release {
    profile: ReleaseProfile,
    version: String,
    repository: String,
    /// The commit.
    revision: String,
    /// The time of the commit in seconds since 1970: `SOURCE_DATE_EPOCH`.
    time: u64,
    /// The same as RFC 3339.
    created: String,
}

/// Runs `cargo xtask release`.
pub fn run(args: &ReleaseArgs) -> Result<()> {
    if !args.allow_dirty {
        refuse_changes()?;
    }
    let release = Release::of_commit(args.profile)?;
    let default = || workspace::root().join("target/release-artifacts").join(&release.version);
    let dir = args.output.clone().unwrap_or_else(default);
    // The default directory belongs to this command.
    if args.output.is_none() && dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    build(args.profile)?;
    assemble(&release, &dir)?;
    println!("{}", dir.display());
    Ok(())
}

/// Builds the programs. With the profile `dev` the tests have built the same.
fn build(profile: ReleaseProfile) -> Result<()> {
    guests::ensure_optimized()?;
    linux::ensure()?;
    node::build(profile.of_node())
}

/// Creates all files of a release from programs that were built before.
fn assemble(release: &Release, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if fs::read_dir(dir)?.next().is_some() {
        bail!("{} is not empty: remove it, or specify another with --output", dir.display());
    }
    let programs = artifacts::Programs::stage(release)?;
    artifacts::packages(release, dir)?;
    let version = &release.version;
    progress::step("packing the programs", || {
        for name in ["isola", "isorun"] {
            let archive = dir.join(format!("{name}-{version}-x86_64-linux.tar.gz"));
            artifacts::prefix(&programs, name)?.write_tar_gz(
                &archive,
                &format!("{name}-{version}/"),
                release.time,
                release.profile.gzip_level(),
            )?;
        }
        artifacts::debian_package(release, &programs, dir)
    })?;
    let base = oci::base()?;
    progress::step("packing the image of the server", || {
        artifacts::image(release, &programs, &base, dir)
    })?;
    let bill = sbom::render(&sbom::Contents {
        version,
        created: &release.created,
        runtimes: &workspace::runtimes(),
        debian: &base.packages,
        runsc: programs.runsc(),
    })?;
    fs::write(dir.join("sbom.cdx.json"), bill)?;
    write_checksums(dir)
}

/// Writes the digests in the format of `sha256sum`.
fn write_checksums(dir: &Path) -> Result<()> {
    let mut lines = String::new();
    for path in digest::files(dir)? {
        lines += &format!("{}  {}\n", digest::of_file(&dir.join(&path))?, path.display());
    }
    fs::write(dir.join("SHA256SUMS"), lines).context("cannot write SHA256SUMS")
}

fn refuse_changes() -> Result<()> {
    let changes = git(&["status", "--porcelain"])?;
    if !changes.is_empty() {
        bail!(
            "a release is made of a commit, and these files have changes: commit them, or use \
             --allow-dirty to try it\n{}",
            process::tail(&changes, 20)
        );
    }
    Ok(())
}

impl Release {
    fn of_commit(profile: ReleaseProfile) -> Result<Self> {
        let metadata = workspace::metadata()?;
        let packages = metadata.workspace_packages();
        let package = packages
            .iter()
            .find(|package| package.name.as_str() == "isorun")
            .context("the workspace has no crate isorun")?;
        let time = git(&["show", "--no-patch", "--format=%ct", "HEAD"])?;
        Ok(Self {
            profile,
            version: package.version.to_string(),
            repository: package.repository.clone().context("the crate names no repository")?,
            revision: git(&["rev-parse", "HEAD"])?,
            time: time.parse().context("git reports no time of the commit")?,
            created: process::stdout_of("date", &["-u", "-d", &format!("@{time}"), "+%FT%TZ"])
                .context("the program date does not work")?,
        })
    }
}

fn git(args: &[&str]) -> Result<String> {
    let root = workspace::root();
    let root = root.to_string_lossy();
    process::stdout_of("git", &[&["-C", &root], args].concat())
        .with_context(|| format!("`git {}` failed", args.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "abc").unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        write_checksums(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("SHA256SUMS")).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(text, format!("{empty}  a\n{abc}  b\n"));
    }

    #[test]
    fn a_release_is_that_of_a_commit() {
        let release = Release::of_commit(ReleaseProfile::Dev).unwrap();
        assert_eq!(release.revision.len(), 40);
        assert!(release.time > 1_700_000_000 && release.created.ends_with('Z'));
        assert!(release.version.split('.').count() >= 3, "{}", release.version);
    }
}
