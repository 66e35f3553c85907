//! Debian's `docker-registry` on loopback, filled by `skopeo`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use isorun_image::{PullOptions, Reference};

/// A registry process, which is killed at the end of the test.
pub struct Registry {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The user of [`Registry::with_login`].
pub const USER: &str = "tester";
pub const PASSWORD: &str = "open sesame";

impl Registry {
    pub fn start() -> Self {
        Self::configured("")
    }

    /// Starts a registry that requires a user and a password.
    pub fn with_login() -> Self {
        // bcrypt of the password, with the lowest cost.
        let line = format!("{USER}:$2b$04$AgByUOe9YDEY0VzdSum5ce5fYqpNAnSWudYGK0kz8yHTJyNs2V6V2\n");
        Self::configured(&line)
    }

    fn configured(users: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: none\n",
            path("data").display()
        );
        if !users.is_empty() {
            std::fs::write(path("users"), users).unwrap();
            config += &format!(
                "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
                path("users").display()
            );
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .env_remove("OTEL_TRACES_EXPORTER")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry must be installed: run cargo xtask setup");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, address) = line.split_once("listening on ")?;
                Some(address.split(['"', ' ', ',']).next()?.to_owned())
            })
            .expect("docker-registry must log its address");
        // The pipe is drained, since a full pipe would block the registry.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _directory: directory }
    }

    /// Copies the image of a layout, or with `all` those of all platforms.
    pub fn push(&self, layout: &Path, name: &str, all: bool) -> Reference {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if all {
            skopeo.arg("--all");
        }
        skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        skopeo.arg(format!("oci:{}:test", layout.display()));
        skopeo.arg(format!("docker://{}/{name}", self.address));
        let output = skopeo.output().expect("skopeo must be installed: run cargo xtask setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.name(name)
    }

    pub fn name(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Returns options for linux/amd64 images, independent of the test machine.
pub fn options() -> PullOptions {
    let mut options = PullOptions::default();
    options.platform = "linux/amd64".parse().unwrap();
    options
}
