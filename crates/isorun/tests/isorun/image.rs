//! `isorun image`, against a real registry.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;
use test_macros::server_test;
use tokio::process::Command;

use self::{
    bundle::{Bundle, Layer, gzip, sha256},
    registry::{PASSWORD, Registry, USER},
};

use crate::support::{Server, refused, with_input};

#[path = "../../../isorun-image/tests/images/bundle.rs"]
#[allow(dead_code, reason = "the engine's tests use more of it")]
mod bundle;
#[path = "../../../isorun-image/tests/images/registry.rs"]
#[allow(dead_code, reason = "the engine's tests use more of it")]
mod registry;

/// A data directory, and a directory for docker's configuration.
struct Machine {
    data: tempfile::TempDir,
    home: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
        command.env("ISORUN_DATA_DIR", self.data.path()).env("DOCKER_CONFIG", self.home.path());
        for name in ["ISORUN_REGISTRY", "ISORUN_REGISTRY_PASSWORD"] {
            command.env_remove(name);
        }
        command.arg("image").args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }

    /// Returns the standard output of a command, and asserts that it succeeds.
    async fn text(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the standard error of a command, and asserts that it fails with this code.
    async fn error_output(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn sample() -> Bundle {
    let tar = Layer::default().file("etc/name", "sample").file("big", &"x".repeat(100_000)).tar();
    Bundle::with(&[(gzip(&tar), sha256(&tar))], serde_json::json!({}), "amd64")
}

fn push(registry: &Registry, name: &str) -> String {
    let layout = tempfile::tempdir().unwrap();
    registry.push(&sample().layout(layout.path()), name, false).to_string()
}

/// Returns an image with a shell and its libraries, the minimum for running a command.
fn with_shell() -> Bundle {
    let shell = std::fs::read("/bin/sh").unwrap();
    let linked = std::process::Command::new("ldd").arg("/bin/sh").output().unwrap();
    let mut layer = Layer::default().entry(b'0', b"bin/sh", b"", 0o755, &shell);
    for word in String::from_utf8(linked.stdout).unwrap().split_whitespace() {
        if let Some(path) = word.strip_prefix('/') {
            let library = std::fs::read(word).unwrap();
            layer = layer.entry(b'0', path.as_bytes(), b"", 0o755, &library);
        }
    }
    let below = layer.file("etc/passwd", "tester:x:1234:1234::/home/tester:/bin/sh\n");
    let above = Layer::default().directory("srv/app").file("srv/app/name", "an image\n");
    let layers = [&below, &above].map(|layer| (gzip(&layer.tar()), sha256(&layer.tar())));
    let config = serde_json::json!({ "Env": ["GREETING=hello"], "User": "tester", "WorkingDir": "/srv/app" });
    Bundle::with(&layers, config, "amd64")
}

#[server_test]
async fn pulled_image_runs_with_its_environment_user_and_directory() {
    let (registry, layout) = (Registry::start(), tempfile::tempdir().unwrap());
    registry.push(&with_shell().layout(layout.path()), "library/shell:1", false);
    let server = Server::start_pulling(registry.address());
    // The second sandbox uses the image that was pulled for the first.
    for _ in 0..2 {
        let id = server.create_with(serde_json::json!({ "image": "shell:1" })).await;
        let command = "read name < name; echo \"$GREETING from $PWD: $name\"; \
                       while read field uid rest; do case $field in Uid:) echo $uid; esac; \
                       done < /proc/self/status; echo * /*";
        let done = server.exec(&id, command).await;
        assert_eq!(done["exit_code"], 0, "{done}");
        let stdout = done["stdout"].as_str().unwrap();
        let lines: Vec<_> = stdout.lines().collect();
        assert_eq!(lines[..2], ["hello from /srv/app: an image", "1234"], "{stdout}");
        // It contains no files of the machine.
        assert!(lines[2].starts_with("name /bin ") && !lines[2].contains("/usr"), "{stdout}");
        server.destroy(&id).await;
    }
    let missing = server.post("/v1/runs", serde_json::json!({ "image": "nothing:here" })).await;
    refused(&missing, 404, "image_not_found", "nothing:here");
}

#[server_test]
async fn image_is_pulled_listed_and_removed() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let name = push(&registry, "some/image:1");
    let platform = ["--platform", "linux/amd64"];
    let output = machine.run(&["pull", &name, platform[0], platform[1]]).await;
    assert!(output.status.success(), "{output:?}");
    // The result is on standard output, the progress on standard error.
    let line = String::from_utf8(output.stdout).unwrap();
    let (shown, digest) = line.trim().split_once(' ').unwrap();
    assert_eq!(shown, name);
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains("1 layers") && progress.contains("unpacked"), "{progress}");
    let quiet = machine.run(&["pull", "--quiet", &name, platform[0], platform[1]]).await;
    assert!(quiet.stderr.is_empty(), "{quiet:?}");

    let table = machine.text(&["ls"]).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("NAME ") && lines[1].starts_with(&name), "{table}");
    assert!(lines[1].contains("97.7 KiB"), "{table}");
    let listed: Value = serde_json::from_str(&machine.text(&["ls", "--json"]).await).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["digest"]), (&name.into(), &digest.into()));
    assert_eq!(listed[0]["size_bytes"], 100_006);

    assert!(machine.text(&["gc"]).await.starts_with("freed 0 B"));
    let freed = machine.text(&["rm", listed[0]["name"].as_str().unwrap()]).await;
    assert!(freed.contains("1 unpacked images, 3 blobs"), "{freed}");
    assert_eq!(machine.text(&["ls", "--json"]).await.trim(), "[]");
    let error_output = machine.run(&["rm", "some/image:1"]).await;
    assert_eq!(error_output.status.code(), Some(2), "{error_output:?}");
    assert!(String::from_utf8_lossy(&error_output.stderr).contains("no image some/image:1"));
}

#[server_test]
async fn another_registry_can_replace_docker_hub() {
    let (machine, registry) = (Machine::new(), Registry::start());
    push(&registry, "library/python:3.12");
    let args = ["pull", "-q", "--platform", "linux/amd64", "python:3.12"];
    let with = async |option: &[&str]| machine.text(&[&args[..], option].concat()).await;
    assert!(with(&["--registry", registry.address()]).await.starts_with("python:3.12 sha256:"));
    with(&["--mirror", &format!("docker.io={}", registry.address())]).await;
    let output = machine.command(&args).env("ISORUN_REGISTRY", registry.address()).output();
    assert!(output.await.unwrap().status.success());
    assert!(machine.text(&["ls"]).await.contains("python:3.12 "));
}

#[server_test]
async fn password_is_read_from_environment_stdin_or_configuration() {
    let (machine, registry) = (Machine::new(), Registry::with_login());
    let name = push(&registry, "private");
    let args = ["pull", "-q", "--platform", "linux/amd64", &name];
    let error_output = machine.error_output(&args, 2).await;
    assert!(
        error_output.contains("denies access") && error_output.contains("--user"),
        "{error_output}"
    );
    let error_output = machine.error_output(&[&args[..], &["--user", USER]].concat(), 2).await;
    assert!(error_output.contains("ISORUN_REGISTRY_PASSWORD"), "{error_output}");

    let mut command = machine.command(&[&args[..], &["--user", USER]].concat());
    assert!(command.env("ISORUN_REGISTRY_PASSWORD", PASSWORD).status().await.unwrap().success());
    let command = machine.command(&[&args[..], &["--user", USER, "--password-stdin"]].concat());
    let output = with_input(command, format!("{PASSWORD}\n").as_bytes()).await;
    assert!(output.status.success(), "{output:?}");

    let config = format!(
        r#"{{"auths": {{"{}": {{"username": "{USER}", "password": "{PASSWORD}"}}}}}}"#,
        registry.address()
    );
    std::fs::write(machine.home.path().join("config.json"), config).unwrap();
    machine.text(&args).await;
}

#[server_test]
async fn directory_and_archive_are_imported() {
    let machine = Machine::new();
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), "content").unwrap();
    let archive = work.path().join("root.tgz");
    let tar = Command::new("tar")
        .args(["-czf", archive.to_str().unwrap(), "-C", root.to_str().unwrap(), "."])
        .status()
        .await;
    assert!(tar.unwrap().success());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let line = machine.text(&["import", "-q", &path(&root), "my/root"]).await;
    assert!(line.starts_with("my/root:latest sha256:"), "{line}");
    machine.text(&["import", "-q", &path(&archive), "my/archive:2"]).await;
    let error_output = machine.error_output(&["import", &path(&root)], 2).await;
    assert!(error_output.contains("specify one"), "{error_output}");
    let table = machine.text(&["ls"]).await;
    assert!(table.contains("my/archive:2 ") && table.contains("my/root:latest "), "{table}");
}

#[server_test]
async fn image_errors_name_the_cause() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let unknown = registry.name("unknown:1").to_string();
    for (args, code, part) in [
        (&["pull", "Not A Name"][..], 2, "not a valid image reference"),
        (&["pull", &unknown], 2, &*format!("no image {unknown}")),
        (&["pull", "127.0.0.1:1/a"], 125, "cannot fetch"),
        (&["pull", "a", "--platform", "amd64"], 2, "linux/amd64"),
        (&["pull", "a", "--mirror", "x"], 2, "REGISTRY=HOST"),
        (&["import", "/nowhere", "a"], 125, "No such file"),
    ] {
        let error_output = machine.error_output(args, code).await;
        assert!(error_output.contains(part), "{args:?}: {error_output}");
    }
}
