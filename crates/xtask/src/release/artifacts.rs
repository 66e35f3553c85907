//! What each artifact holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tree::{Tree, gzip_bytes};
use super::{Release, deb, oci, pages};
use crate::linux::{self, BuiltRunsc};
use crate::node::RuntimePackages;
use crate::{archive, node, process, progress, sdk, setup, typescript, wheel, workspace};

/// The runtimes that are installed with the programs.
const RUNTIMES: [&str; 2] = ["python.wasm", "js.wasm"];

/// The programs of a release, stripped.
pub struct Programs {
    dir: PathBuf,
    /// The isolation of Linux sandboxes, which was linked without symbols.
    runsc: BuiltRunsc,
}

impl Programs {
    /// Copies the programs without their symbols.
    pub fn stage(release: &Release) -> Result<Self> {
        let built = workspace::cargo_target()?.join(release.profile.dir());
        let dir = workspace::root().join("target/release-stage").join(release.profile.name());
        fs::create_dir_all(&dir)?;
        let agent = workspace::root().join("target/isorun/isorun-agent");
        let sources = [
            ("isola", built.join("isola")),
            ("isorun", built.join("isorun")),
            ("isorun-agent", agent),
        ];
        for (name, source) in sources {
            let source: PathBuf = source;
            if !source.is_file() {
                bail!("there is no {}: the build did not create it", source.display());
            }
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(dir.join(name)).arg(&source);
            process::run_quiet(strip)?;
        }
        Ok(Self { dir, runsc: linux::runsc_for_release()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn runsc(&self) -> &BuiltRunsc {
        &self.runsc
    }
}

/// Copies the wheels, the npm packages and the archives of the runtimes.
pub fn packages(release: &Release, dir: &Path) -> Result<()> {
    let python = setup::sdk_tests()?;
    let mut files = vec![
        wheel::build_for_release(release.profile.name(), release.time)?,
        wheel::build_data(Some(release.time))?,
    ];
    // There is no source archive of isola: its runtimes are not built by pip.
    let archives = workspace::root().join("target/wheels/isorun-release");
    files.extend(sdk::build_package(&python, &["wheel", "sdist"], &archives)?);
    files.extend(npm_packages(release)?);
    for runtime in archive::RUNTIMES {
        let archives = archive::create(runtime)?;
        for suffix in ["tar.gz", "tar.gz.sha256"] {
            files.push(archives.join(format!("isola-{runtime}.{suffix}")));
        }
    }
    for file in files {
        let name = file.file_name().context("an artifact without a name")?;
        fs::copy(&file, dir.join(name))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Returns the archives of all npm packages.
fn npm_packages(release: &Release) -> Result<Vec<PathBuf>> {
    let mut archives = progress::step("packing the npm packages", || {
        node::pack(release.profile.of_node(), RuntimePackages::All)
    })?;
    archives.push(typescript::pack()?);
    Ok(archives)
}

/// Returns the files of a program below a prefix such as `/usr/local`.
pub fn prefix(programs: &Programs, name: &str) -> Result<Tree> {
    let mut tree = installed(programs, name)?;
    let doc = format!("share/doc/{name}");
    tree.file(format!("{doc}/LICENSE"), 0o644, &workspace::root().join("LICENSE"));
    if name == "isorun" {
        // Its paths are those of the package of Debian: a sample.
        let unit = workspace::root().join("packaging/isorun.service");
        tree.file(format!("{doc}/isorun.service"), 0o644, &unit);
    }
    Ok(tree)
}

/// Returns the files that all artifacts have: the program, what it needs to run, man pages
/// and completions.
fn installed(programs: &Programs, name: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.file(format!("bin/{name}"), 0o755, &programs.path(name));
    for runtime in RUNTIMES {
        // Both programs look for them here, relative to their own directory.
        tree.file(format!("lib/isola/{runtime}"), 0o644, &workspace::runtimes().join(runtime));
    }
    if name == "isorun" {
        tree.file("lib/isorun/isorun-agent", 0o755, &programs.path("isorun-agent"));
        tree.file("lib/isorun/runsc", 0o755, &programs.runsc.program);
        tree.file("share/doc/isorun/runsc-licences", 0o644, &programs.runsc.licences);
    }
    pages::add(&mut tree, "share", name, &programs.path(name))?;
    Ok(tree)
}

/// Creates the package of Debian.
pub fn debian_package(release: &Release, programs: &Programs, dir: &Path) -> Result<()> {
    let variables = deb::Variables::from([
        ("VERSION", release.version.clone()),
        ("REPOSITORY", release.repository.clone()),
        ("DEPENDS", deb::dependencies(&programs.path("isorun"))?),
    ]);
    let mut tree = installed(programs, "isorun")?.below("usr");
    let packaging = workspace::root().join("packaging");
    tree.file("etc/isorun/server.env", 0o644, &packaging.join("server.env"));
    let unit = packaging.join("isorun.service");
    tree.file("usr/lib/systemd/system/isorun.service", 0o644, &unit);
    let doc = "usr/share/doc/isorun";
    let copyright = [("REPOSITORY", release.repository.clone())].into();
    tree.bytes(format!("{doc}/copyright"), 0o644, deb::template("copyright", &copyright)?);
    let changelog = fs::read(workspace::root().join("CHANGELOG.md"))?;
    tree.bytes(format!("{doc}/changelog.gz"), 0o644, gzip_bytes(&changelog)?);
    let package = dir.join(format!("isorun_{}_amd64.deb", release.version));
    deb::write(&package, &tree, variables, release.time, release.profile.zstd_level())
}

/// Creates the image of the server.
pub fn image(release: &Release, programs: &Programs, base: &oci::Base, dir: &Path) -> Result<()> {
    let mut tree = installed(programs, "isorun")?.below("usr");
    tree.file("usr/share/doc/isorun/LICENSE", 0o644, &workspace::root().join("LICENSE"));
    let labels = oci::Labels {
        version: &release.version,
        revision: &release.revision,
        repository: &release.repository,
        created: &release.created,
        time: release.time,
    };
    oci::write(
        &dir.join(image_name(&release.version)),
        base,
        &tree,
        &labels,
        release.profile.gzip_level(),
    )
}

/// Returns the name of the archive of the image.
pub fn image_name(version: &str) -> String {
    format!("isorun-{version}-amd64.oci.tar")
}
