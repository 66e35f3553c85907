//! `cargo xtask test release`: makes a release, of the build of the tests unless another profile
//! is specified, installs each of its files into an empty place as `docs/install.md` says, and
//! runs samples of the documentation there. What runs there has neither Rust nor a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::debian_root::{self, Network, Root, RootCopy};
use super::samples::{block, expected_lines, sample, verify_output};
use super::{Release, ReleaseProfile, artifacts, assemble, build, oci};
use crate::{debian, process, progress, setup, workspace};

#[derive(clap::Args)]
pub struct ReleaseTestArgs {
    /// The build of the programs that the release holds
    #[arg(long, value_enum, default_value = "dev")]
    profile: ReleaseProfile,
}

/// Runs all tests.
pub fn test(args: &ReleaseTestArgs) -> Result<()> {
    debian::image_tools()?;
    build(args.profile)?;
    let release = Release::of_commit(args.profile)?;
    let scratch = workspace::root().join("target/release-test");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let dir = scratch.join("release");
    assemble(&release, &dir)?;
    let again = scratch.join("again");
    assemble(&release, &again)?;
    let result = Tests { release, dir, scratch: scratch.clone() }.run(&again);
    // Hundreds of megabytes, of which a failure leaves what it was about.
    if result.is_ok() {
        fs::remove_dir_all(&scratch)?;
    }
    result
}

struct Tests {
    release: Release,
    /// The files of the release.
    dir: PathBuf,
    /// The directory of everything that the tests create.
    scratch: PathBuf,
}

impl Tests {
    fn run(&self, again: &Path) -> Result<()> {
        step("the same programs make the same release", || self.is_reproducible(again))?;
        step("the digests are correct", || self.digests())?;
        step("the bill of materials is valid and complete", || self.bill_of_materials())?;
        step("the wheel of isola runs the sample of the README", || self.isola_in_python())?;
        step("the npm packages run the sample of the README", || self.isola_in_node())?;
        step("the TypeScript package is installed, and looks for a server", || {
            self.typescript_package()
        })?;
        step("the archives work in a fresh Debian", || self.archives())?;
        step("the package installs in a fresh Debian, works, and is purged", || self.package())?;
        step("the package works in the oldest Debian", || self.package_in_oldest_debian())?;
        step("the image of the server starts, and creates a sandbox", || self.image())
    }

    fn is_reproducible(&self, again: &Path) -> Result<()> {
        let digests = |dir: &Path| {
            fs::read_to_string(dir.join("SHA256SUMS")).context("a release without SHA256SUMS")
        };
        let (first, second) = (digests(&self.dir)?, digests(again)?);
        let differing: Vec<_> = first.lines().filter(|line| !second.contains(*line)).collect();
        ensure!(
            differing.is_empty() && first.len() == second.len(),
            "two runs differ in:\n{}",
            differing.join("\n")
        );
        fs::remove_dir_all(again).context("cannot remove the second release")
    }

    fn digests(&self) -> Result<()> {
        self.on_machine(&self.dir, &block("docs/install.md", "verify")?)?;
        let listed = fs::read_to_string(self.dir.join("SHA256SUMS"))?;
        let count = fs::read_dir(&self.dir)?.count() - 1;
        ensure!(listed.lines().count() == count, "SHA256SUMS does not list all {count} files");
        let damaged = self.empty("damaged")?;
        copy_all(&self.dir, &damaged)?;
        // It is a link to the file of the release.
        fs::remove_file(damaged.join("sbom.cdx.json"))?;
        fs::write(damaged.join("sbom.cdx.json"), "{}")?;
        let verified = self.on_machine(&damaged, &block("docs/install.md", "verify")?);
        ensure!(verified.is_err(), "a damaged file was accepted");
        fs::remove_dir_all(damaged)?;
        Ok(())
    }

    fn bill_of_materials(&self) -> Result<()> {
        let mut validate = Command::new(setup::sbom_validator()?);
        validate.arg(workspace::root().join("crates/xtask/release/validate_sbom.py"));
        validate.arg(self.dir.join("sbom.cdx.json"));
        process::run_quiet(validate)
    }

    fn isola_in_python(&self) -> Result<()> {
        let place = self.empty("python")?;
        copy_all(&self.dir, &place)?;
        let wheel = name_of(&place, "isola-", ".whl")?;
        ensure!(wheel.contains("-manylinux_"), "{wheel} is not for other machines");
        let code = sample("README.md", "### Embedded in Python", "python")?;
        fs::write(place.join("sample.py"), &code)?;
        let install = block("docs/install.md", "isola-python")?;
        let data = block("docs/install.md", "isola-python-data")?;
        fs::write(
            place.join("data.py"),
            "import isola.sync as isola\n\
             code = 'import numpy\\nint(numpy.arange(10).sum())'\n\
             print(isola.evaluate(code, runtime='python-data').value)\n",
        )?;
        let script = format!(
            "{install}
            venv/bin/python sample.py
            {data}
            venv/bin/python data.py"
        );
        let printed = self.on_machine(&place, &script)?;
        let mut expected = expected_lines(&code, "#> ");
        expected.push("45");
        verify_output(&printed, &expected)
    }

    fn isola_in_node(&self) -> Result<()> {
        let place = self.empty("node")?;
        copy_all(&self.dir, &place)?;
        let code = sample("README.md", "### Embedded in Node.js", "js")?;
        fs::write(place.join("sample.mjs"), code)?;
        let install = block("docs/install.md", "isola-node")?;
        let data = block("docs/install.md", "isola-node-data")?;
        fs::write(
            place.join("data.mjs"),
            "import { buildTemplate } from 'isola-core';
            const sandbox = await (await buildTemplate('python-data')).create();
            await sandbox.start();
            console.log(await sandbox.evaluate('int(__import__(\"numpy\").arange(10).sum())'));
            sandbox.close();",
        )?;
        let script = format!(
            "{install}
            node sample.mjs
            test ! -e node_modules/isola-core-runtime-python-data
            {data}
            node data.mjs"
        );
        let printed = self.on_machine(&place, &script)?;
        // The README says so below the sample.
        verify_output(&printed, &["hello Ada", "cpu_time_limit", "45"])
    }

    fn typescript_package(&self) -> Result<()> {
        let place = self.empty("typescript")?;
        copy_all(&self.dir, &place)?;
        // Its dependency, which npm cannot download here.
        let ws = setup::isorun_typescript()?.join("ws");
        let install = block("docs/install.md", "isorun-sdk")?;
        let code = "
            import { createRequire } from 'node:module';
            import { IsorunConnectionError, Sandbox } from '@isorun/sdk';
            console.log(typeof createRequire(import.meta.url)('@isorun/sdk').Sandbox.create);
            // No server listens on this port.
            const options = { image: 'host', apiUrl: 'http://127.0.0.1:1', apiKey: 'none' };
            const error = await Sandbox.create(options).catch((error) => error);
            console.log(error instanceof IsorunConnectionError);";
        fs::write(place.join("sample.mjs"), code)?;
        let script = format!(
            "npm pack --silent {} >/dev/null
            npm install ./ws-*.tgz
            {install}
            node sample.mjs",
            ws.display()
        );
        verify_output(&self.on_machine(&place, &script)?, &["function", "true"])
    }

    fn archives(&self) -> Result<()> {
        let root = self.fresh_root(debian_root::SUITE, "archives")?;
        let isola = block("docs/install.md", "isola-archive")?;
        let data = block("docs/install.md", "isola-data")?;
        let isorun = block("docs/install.md", "isorun-archive")?;
        let script = format!(
            "{PREPARE}
            apt-get install -q man-db nftables
            {isola}
            {data}
            mkdir /opt/other
            tar -xzf isola-*-x86_64-linux.tar.gz --strip-components=1 -C /opt/other
            rm -r /usr/local/lib/isola
            echo 'print(6 * 7 + 1)' | /opt/other/bin/isola run - --runtime python
            {isorun}
            for page in isola isola-run isorun isorun-serve; do
                man $page | grep -q '^NAME' && echo \"page $page\"
            done
            for program in isola isorun; do
                bash -n /usr/local/share/bash-completion/completions/$program
                test -s /usr/local/share/zsh/site-functions/_$program
                test -s /usr/local/share/fish/vendor_completions.d/$program.fish
                test -s /usr/local/share/doc/$program/LICENSE
            done
            grep -q '^gvisor.dev/gvisor ' /usr/local/share/doc/isorun/runsc-licences"
        );
        let printed = root.output(&script, Network::Loopback)?;
        let mut expected = expected_lines(&isola, "# prints ");
        expected.extend(expected_lines(&data, "# prints "));
        expected.extend(["43", "This machine can run sandboxes: `isorun serve`."]);
        expected.extend(["page isola", "page isola-run", "page isorun", "page isorun-serve"]);
        verify_output(&printed, &expected)
    }

    fn package(&self) -> Result<()> {
        let root = self.fresh_root(debian_root::SUITE, "package")?;
        let linux = sample("README.md", "## isorun", "python")?;
        let interpreters = sample("docs/isorun/interpreters.md", "# Interpreters", "python")?;
        let place = root.dir.join("srv/release");
        fs::write(place.join("linux.py"), &linux)?;
        fs::write(place.join("interpreters.py"), &interpreters)?;
        let install = block("docs/install.md", "isorun-debian")?;
        let first = block("docs/install.md", "isorun-first")?;
        let sdk = block("docs/install.md", "isorun-python")?;
        let image = artifacts::image_name(&self.release.version);
        let version = format!("isorun {}", self.release.version);
        let script = format!(
            "{PREPARE}
            apt-get install -q python3-venv python3-httpx
            {LIST_FILES} >/srv/before
            {install}
            test -L /etc/systemd/system/multi-user.target.wants/isorun.service
            {START_SERVICE}
            {first}
            {sdk}
            venv/bin/python linux.py
            venv/bin/python interpreters.py
            isorun keys ls
            isorun image import {image} isorun:test
            isorun run isorun:test -- isorun --version
            kill $server
            wait $server
            apt-get remove -q isorun
            test -f /etc/isorun/server.env
            test -d /var/lib/isorun
            apt-get install -q ./isorun_*_amd64.deb
            apt-get purge -q isorun
            apt-get autoremove -q --purge
            {LIST_FILES} >/srv/after
            diff /srv/before /srv/after
            echo nothing is left"
        );
        let printed = root.output(&script, Network::Loopback)?;
        let mut expected = vec!["This machine can run sandboxes: `isorun serve`."];
        expected.extend(expected_lines(&first, "# prints "));
        expected.extend(expected_lines(&linux, "print(out.stdout)  # "));
        expected.extend(expected_lines(&interpreters, ".text)  # "));
        // The image of the server is an image for sandboxes, too.
        expected.extend([version.as_str(), "nothing is left"]);
        verify_output(&printed, &expected)
    }

    fn package_in_oldest_debian(&self) -> Result<()> {
        let root = self.fresh_root(debian_root::OLDEST_SUITE, "oldest")?;
        let install = block("docs/install.md", "isorun-debian")?;
        let first = block("docs/install.md", "isorun-first")?;
        let script = format!(
            "{PREPARE}
            apt-get install -q python3
            {install}
            {START_SERVICE}
            {first}
            kill $server
            wait $server"
        );
        let printed = root.output(&script, Network::Loopback)?;
        let mut expected = vec!["This machine can run sandboxes: `isorun serve`."];
        expected.extend(expected_lines(&first, "# prints "));
        verify_output(&printed, &expected)
    }

    fn image(&self) -> Result<()> {
        let archive = self.dir.join(artifacts::image_name(&self.release.version));
        let config = oci::inspect(&archive, &self.release.version, &self.scratch)?;
        let entry: Vec<&str> = config["config"]["Entrypoint"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        ensure!(entry == ["/usr/bin/isorun", "serve"], "the entry point is {entry:?}");
        let root = Root { dir: oci::unpack(&archive, &self.release.version, &self.scratch)? };
        let script = format!(
            "{} & server=$!
            {WAIT_FOR_SERVER}
            isorun run host -- sh -c '. /etc/os-release; echo $VERSION_CODENAME'
            kill $server
            wait $server",
            entry.join(" ")
        );
        let printed = root.output(&script, Network::Loopback)?;
        verify_output(&printed, &[debian_root::SUITE])
    }

    /// Creates an empty directory.
    fn empty(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Creates a fresh Debian with the files of the release in `/srv/release`.
    fn fresh_root(&self, suite: &str, name: &str) -> Result<RootCopy> {
        let root = RootCopy::of(&debian_root::fresh(suite)?, self.scratch.join(name))?;
        let place = root.dir.join("srv/release");
        fs::create_dir_all(&place)?;
        copy_all(&self.dir, &place)?;
        Ok(root)
    }

    /// Runs a shell script on this machine, without a network for pip and npm, without Rust
    /// and without files of the user.
    fn on_machine(&self, place: &Path, script: &str) -> Result<String> {
        let path = self.path_without_rust()?;
        let home = self.empty("home")?;
        let mut bash = Command::new("timeout");
        bash.args(["--signal=KILL", "300", "bash", "-euo", "pipefail", "-c", script]);
        bash.current_dir(place);
        bash.env_clear().env("PATH", path).env("HOME", &home).env("LANG", "C.UTF-8");
        bash.env("PIP_NO_INDEX", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        bash.env("npm_config_offline", "true").env("npm_config_audit", "false");
        let captured = process::capture(bash)?;
        if !captured.status.success() {
            let output = process::tail(&captured.text, 40);
            bail!("`{script}` failed ({}):\n{output}", captured.status);
        }
        Ok(captured.text)
    }

    fn path_without_rust(&self) -> Result<String> {
        let python = setup::python()?.program;
        let python = process::stdout_of(python, &["-c", "import sys; print(sys.executable)"])
            .context("Python does not run")?;
        let node = setup::node()?;
        let mut dirs = Vec::new();
        for program in [Path::new(&python), &node.node] {
            let dir = program.parent().unwrap_or(program);
            if dir.is_absolute() {
                dirs.push(dir.display().to_string());
            }
        }
        dirs.extend(["/usr/bin", "/bin"].map(str::to_owned));
        let rust = dirs.iter().find(|dir| Path::new(dir).join("cargo").exists());
        if let Some(dir) = rust {
            bail!("{dir} contains cargo: the tests must run without Rust");
        }
        Ok(dirs.join(":"))
    }
}

/// Enters the directory of the release, and lets apt install without questions what it has
/// downloaded.
const PREPARE: &str = "
    cd /srv/release
    echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/99test";

/// Lists all files, without those that apt and dpkg write about packages that are gone, and
/// without those of the user root.
const LIST_FILES: &str = "
    find / -xdev \\( -path /srv -o -path /root -o -path /var/lib/dpkg -o -path /var/lib/apt \
        -o -path /var/cache/apt -o -path /var/cache/man -o -path /var/log \
        -o -path /var/cache/ldconfig -o -path /var/cache/debconf -o -name __pycache__ \\) -prune \
        -o -print | sort";

/// Starts the server as the unit of systemd does: without systemd, by the lines of its file.
const START_SERVICE: &str = "
    unit=/usr/lib/systemd/system/isorun.service
    set -a
    eval \"$(sed -n 's/^Environment=//p' $unit | sed \"s|%h|$HOME|\")\"
    . \"$(sed -n 's/^EnvironmentFile=-//p' $unit)\"
    set +a
    # A variable without a value is empty for systemd.
    command=$(set +u; eval echo \"$(sed -n 's/^ExecStart=//p' $unit)\")
    $command >/tmp/server.log 2>&1 & server=$!
    for attempt in $(seq 100); do
        isorun ps >/dev/null 2>&1 && break
        if [ $attempt = 100 ]; then cat /tmp/server.log; exit 1; fi
        sleep 0.2
    done";

const WAIT_FOR_SERVER: &str = "
    for attempt in $(seq 100); do
        isorun ps >/dev/null 2>&1 && break
        if [ $attempt = 100 ]; then echo the server does not start; exit 1; fi
        sleep 0.2
    done";

fn step(label: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    /// Enough for any of them on a busy machine.
    const WARNING_AFTER: Duration = Duration::from_secs(120);
    let start = Instant::now();
    progress::step(label, work).with_context(|| format!("failed: {label}"))?;
    if start.elapsed() > WARNING_AFTER {
        eprintln!("    this took unusually long");
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // A link is as good, and hundreds of megabytes faster.
        if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn name_of(dir: &Path, start: &str, end: &str) -> Result<String> {
    fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with(start) && name.ends_with(end))
        .with_context(|| format!("the release has no {start}*{end}"))
}
