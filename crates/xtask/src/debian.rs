//! Installs programs that isorun and its tests run, from packages of Debian.

mod pins;
mod postgres;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use self::pins::Pins;
pub use self::postgres::{DIR_VARIABLE as POSTGRES_DIR_VARIABLE, postgres};
use crate::digest::Inputs;
use crate::{process, progress, stamp, workspace};

/// Installs a registry and the tools that fill it and create images, for the tests
/// and the benchmark of images.
pub fn image_tools() -> Result<()> {
    programs(&[("docker-registry", "docker-registry"), ("skopeo", "skopeo"), ("umoci", "umoci")])
}

/// Installs the tools that set up the networks of sandboxes and of their tests.
pub fn network_tools() -> Result<()> {
    programs(&[("ip", "iproute2"), ("nft", "nftables")])
}

/// Installs the program that creates certificates for the tests.
pub fn tls_tools() -> Result<()> {
    programs(&[("openssl", "openssl")])
}

/// Installs what makes a root of Debian and enters it.
pub fn bootstrap_tools() -> Result<()> {
    programs(&[
        ("ip", "iproute2"),
        ("pivot_root", "util-linux"),
        ("unshare", "util-linux"),
        ("wget", "wget"),
    ])
}

/// Installs a headless browser.
pub fn browser() -> Result<()> {
    programs(&[("chromium", "chromium")])
}

/// Unpacks nginx, with which the benchmark compares, beside the other tools. It is not
/// started as a service. Returns its path.
pub fn nginx() -> Result<PathBuf> {
    let tools = workspace::tools().join("nginx");
    let digest = Inputs::default().text("nginx", "of this Debian").finish();
    stamp::install("nginx, with which the benchmark compares", &tools, &digest, || {
        let release = release().context("nginx is taken from Debian, and this is not Debian")?;
        unpack(&["nginx"], &release, &tools).map(|_| ())
    })?;
    Ok(tools.join("files/usr/sbin/nginx"))
}

/// Unpacks the newest CPython of a version, such as 3.14, that Debian has, with the C library
/// and the other libraries that it needs. Returns the command that starts it by its own
/// dynamic loader.
pub fn newest_python(version: &str) -> Result<Vec<OsString>> {
    const SUITE: &str = "sid";
    const LIBRARIES: [&str; 3] = ["libc6", "libexpat1", "zlib1g"];
    let packages = python_packages(version, &LIBRARIES);
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let tools = workspace::tools().join("python-newest");
    let digest = Inputs::default().text(SUITE, &packages.join(" ")).finish();
    let label = format!("the newest CPython {version} of Debian, with which programs are compared");
    stamp::install(&label, &tools, &digest, || unpack(&packages, SUITE, &tools).map(|_| ()))?;
    let (loader, libraries) = loader_of(&tools)?;
    Ok(vec![
        loader.into(),
        "--library-path".into(),
        libraries.into(),
        tools.join(format!("files/usr/bin/python{version}")).into(),
    ])
}

/// Unpacks the CPython of a stable Debian that may be newer than this one, with its C library
/// and all libraries of its standard library. Returns its program, on which virtual
/// environments can be based.
pub fn private_python() -> Result<PathBuf> {
    const SUITE: &str = "trixie";
    const VERSION: &str = "3.13";
    // The last two are for packages that are compiled C++.
    const LIBRARIES: [&str; 16] = [
        "libbz2-1.0",
        "libc6",
        "libdb5.3t64",
        "libexpat1",
        "libffi8",
        "liblzma5",
        "libncursesw6",
        "libreadline8t64",
        "libsqlite3-0",
        "libssl3t64",
        "libtinfo6",
        "libuuid1",
        "libzstd1",
        "zlib1g",
        "libgcc-s1",
        "libstdc++6",
    ];
    let packages = python_packages(VERSION, &LIBRARIES);
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let tools = workspace::tools().join("python-private");
    let digest = Inputs::default().text(SUITE, &packages.join(" ")).finish();
    let label = format!("CPython {VERSION} of Debian, since that of this machine is older");
    stamp::install(&label, &tools, &digest, || unpack(&packages, SUITE, &tools).map(|_| ()))?;
    let (loader, libraries) = loader_of(&tools)?;
    let python = tools.join(format!("files/usr/bin/python{VERSION}"));
    // Python looks for its standard library, or for the virtual environment, near the name with
    // which it was started. That is the launcher's, or the link of an environment to it.
    let script = format!(
        "#!/bin/sh\nexec {} --library-path {} --argv0 \"$0\" {} \"$@\"\n",
        shell_quoted(&loader)?,
        shell_quoted(&libraries)?,
        shell_quoted(&python)?
    );
    let launcher = tools.join("files/usr/bin/python3");
    if fs::read_to_string(&launcher).ok().as_ref() != Some(&script) {
        fs::write(&launcher, script)
            .and_then(|()| fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", launcher.display()))?;
    }
    Ok(launcher)
}

/// Returns the packages of a CPython, and the given libraries.
fn python_packages(version: &str, libraries: &[&str]) -> Vec<String> {
    let own = [
        format!("python{version}-minimal"),
        format!("libpython{version}-minimal"),
        format!("libpython{version}-stdlib"),
    ];
    own.into_iter().chain(libraries.iter().map(|&library| library.to_owned())).collect()
}

/// Returns the dynamic loader and the directory of libraries among unpacked packages.
fn loader_of(tools: &Path) -> Result<(PathBuf, PathBuf)> {
    let libraries = tools.join(format!("files/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let loader = fs::read_dir(&libraries)
        .with_context(|| format!("cannot read {}", libraries.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("ld-linux"))
        .context("Debian's C library contains no dynamic loader")?;
    Ok((loader.path(), libraries))
}

/// Returns a path as one word of a shell.
fn shell_quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Returns the code name of this Debian release.
pub fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.to_owned())
}

/// Downloads packages of one suite and unpacks them. Root is not needed. Returns the
/// directory of their files.
pub fn unpack(packages: &[&str], suite: &str, tools: &Path) -> Result<PathBuf> {
    process::run_quiet(apt("apt-get", suite, tools, &["update"])?)?;
    process::run_quiet(apt("apt-get", suite, tools, &[&["download"], packages].concat())?)?;
    let archives: Vec<PathBuf> = fs::read_dir(tools)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    if archives.is_empty() {
        bail!("apt-get downloaded nothing");
    }
    let files = tools.join("files");
    for archive in archives {
        extract(&archive, &files)?;
    }
    Ok(files)
}

/// A version of a package in the archive.
pub struct Version {
    pub version: String,
    /// The path below the mirror.
    pub path: String,
    pub sha256: String,
    /// The packages that it needs, as Debian writes them.
    pub depends: String,
}

/// Returns the newest version of each package in a suite.
pub fn newest(packages: &[&str], suite: &str, tools: &Path) -> Result<Vec<Version>> {
    process::run_quiet(apt("apt-get", suite, tools, &["update"])?)?;
    let find = |package: &&str| {
        let captured = process::capture(apt("apt-cache", suite, tools, &["show", package])?)?;
        let optional = |name: &str| {
            let value = captured.text.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim().to_owned())
        };
        let field = |name: &str| {
            optional(name).with_context(|| {
                format!("{suite} has no {package}:\n{}", process::tail(&captured.text, 5))
            })
        };
        Ok(Version {
            version: field("Version:")?,
            path: field("Filename:")?,
            sha256: field("SHA256:")?,
            depends: optional("Depends:").unwrap_or_default(),
        })
    };
    packages.iter().map(find).collect()
}

/// Creates a command of apt that sees only one suite. It uses separate package lists, so
/// that the machine is not changed.
fn apt(program: &str, suite: &str, tools: &Path, arguments: &[&str]) -> Result<Command> {
    let mirror = mirror_of(suite)?;
    let apt = tools.join("apt");
    fs::create_dir_all(apt.join("lists/partial"))?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = apt.join("sources.list");
    fs::write(&source, format!("deb [signed-by={keys}] {mirror} {suite} main\n"))?;
    let mut command = Command::new(program);
    command.current_dir(tools).arg("-q");
    for (name, value) in [
        ("Dir::Etc::sourcelist", source.as_os_str()),
        ("Dir::Etc::sourceparts", "/dev/null".as_ref()),
        ("Dir::State::lists", apt.join("lists").as_os_str()),
        ("Dir::Cache", apt.join("cache").as_os_str()),
        ("APT::Sandbox::User", "".as_ref()),
    ] {
        let mut option = OsString::from(format!("{name}="));
        option.push(value);
        command.arg("-o").arg(option);
    }
    command.args(arguments);
    Ok(command)
}

/// Downloads one version of a package, by the suite, its path below the suite's mirror and its
/// SHA-256, and unpacks it.
pub fn unpack_version(
    suite: &str,
    path: &str,
    digest: &str,
    tools: &Path,
    files: &Path,
) -> Result<()> {
    let package = tools.join("package.deb");
    let mut download = Command::new("/usr/lib/apt/apt-helper");
    download.args(["-o", "APT::Sandbox::User=", "download-file"]);
    download.arg(format!("{}{path}", mirror_of(suite)?));
    download.arg(&package).arg(format!("SHA256:{digest}"));
    let captured = process::capture(download)?;
    if !captured.status.success() {
        if captured.text.contains(" 404 ") {
            let reason = format!("Debian no longer has {path}: run `cargo xtask update-python`");
            return Err(Unavailable(reason).into());
        }
        bail!("cannot download {path}:\n{}", process::tail(&captured.text, 20));
    }
    extract(&package, files)
}

/// A package cannot be had, and another attempt would not change that.
#[derive(Debug)]
pub struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Returns the URL of the mirror that this machine uses, with a slash at its end.
pub fn mirror() -> Result<String> {
    configured("/debian/")
        .ok_or_else(|| Unavailable("apt-get has no mirror of Debian".to_owned()).into())
}

/// Returns the URL of the mirror that has a suite. Security updates have an archive of their
/// own; a machine on which apt does not use it is assumed to have it beside the other.
fn mirror_of(suite: &str) -> Result<String> {
    if !suite.ends_with("-security") {
        return mirror();
    }
    match configured("/debian-security/") {
        Some(url) => Ok(url),
        None => Ok(format!("{}-security/", mirror()?.trim_end_matches('/'))),
    }
}

/// Returns the first URL with this end that apt is configured to use.
fn configured(end: &str) -> Option<String> {
    let text = process::stdout_of(
        "apt-get",
        &["indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"],
    )?;
    let line = text.lines().find(|line| line.ends_with(&format!("{end} main")))?;
    line.split(' ').next().map(str::to_owned)
}

/// Unpacks a package file, and removes the file.
fn extract(package: &Path, files: &Path) -> Result<()> {
    let mut extract = Command::new("dpkg-deb");
    extract.arg("-x").arg(package).arg(files);
    process::run_quiet(extract)?;
    fs::remove_file(package).with_context(|| format!("cannot remove {}", package.display()))
}

/// Installs missing programs as root on Debian. Elsewhere the error names the required
/// packages. Each program is given with the name of its package.
fn programs(required: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = required
        .iter()
        .filter(|(program, _)| !is_on(&path, program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !Path::new("/etc/debian_version").exists()
        || process::stdout_of("id", &["-u"]).as_deref() != Some("0")
    {
        bail!("isorun requires these packages of Debian, or their equivalents: {names}");
    }
    progress::step(&format!("apt-get install {names}"), || {
        let mut update = Command::new("apt-get");
        update.args(["update", "-q"]);
        process::run_quiet(update)?;
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["install", "-qy", "--no-install-recommends"]).args(&missing);
        process::run_quiet(install)
    })
}

fn is_on(path: &OsStr, program: &str) -> bool {
    std::env::split_paths(path).any(|dir| dir.join(program).is_file())
}
