//! What is measured and what it is compared with: a server of isorun, a plain
//! `runsc` container with a network that nothing watches, and nginx.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the benchmark itself is inside of sandboxes.
const PROGRAM: &str = "/srv/network";
/// Both ends of the plain container's cable.
const PLAIN: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 0, 10), Ipv4Addr::new(192, 0, 0, 9));
const NAMESPACE: &str = "isorun-bench";

/// An address on an interface of the machine, as long as this lives.
pub struct Address(Ipv4Addr);

impl Address {
    pub fn on_loopback(address: Ipv4Addr) -> Self {
        let _ = ip(&["addr", "del", &format!("{address}/32"), "dev", "lo"]);
        assert!(ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]));
        Self(address)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        ip(&["addr", "del", &format!("{}/32", self.0), "dev", "lo"]);
    }
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).stderr(Stdio::null()).status().unwrap().success()
}

/// `isorun serve`.
pub struct Server {
    child: Child,
    pub url: String,
    key: String,
    folder: TempDir,
    http: reqwest::Client,
}

impl Server {
    /// With this PATH, if one is given.
    pub fn start(arguments: &[&str], path: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
        command.args(["serve", "--no-pull", "--listen", "127.0.0.1:0", "--log", "error"]);
        command.args(arguments).env("ISORUN_DATA_DIR", folder.path().join("data"));
        command.env("XDG_CONFIG_HOME", folder.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("ISORUN_API_KEY=")).unwrap().unwrap();
        let written = std::fs::read(folder.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let text = |name: &str| written[name].as_str().unwrap().to_owned();
        let http = reqwest::Client::new();
        Self { child, url: text("api_url"), key: text("api_key"), folder, http }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let answer = request.json(&body).send().await;
        let answer = answer.unwrap_or_else(|error| {
            let status = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
            panic!("{error}: {status:?}")
        });
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{body}");
        body
    }

    pub async fn create(&self, mut order: Value) -> String {
        order["image"] = json!("host");
        self.post("/v1/runs", order).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn destroy(&self, run: &str) {
        let url = format!("{}/v1/runs/{run}", self.url);
        let answer = self.http.delete(url).bearer_auth(&self.key).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// A run that has the programs of the benchmark.
    pub async fn equipped(&self, mut order: Value) -> String {
        order["vcpus"] = json!(2);
        let run = self.create(order).await;
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let url = format!("{}/v1/runs/{run}/files/upload?path={PROGRAM}", self.url);
        let request = self.http.post(url).bearer_auth(&self.key).body(program);
        assert!(request.send().await.unwrap().status().is_success());
        self.shell(&run, &format!("chmod +x {PROGRAM}")).await;
        run
    }

    /// Runs a program of the benchmark inside; gives its figure.
    pub async fn load(&self, run: &str, words: &str) -> f64 {
        let said = self.shell(run, &format!("{PROGRAM} --load {words}")).await;
        said.trim().parse().unwrap()
    }

    pub async fn shell(&self, run: &str, command: &str) -> String {
        let order = json!({ "command": command, "timeout": 120 });
        let said = self.post(&format!("/v1/runs/{run}/exec"), order).await;
        assert_eq!(said["exit_code"], 0, "{said}");
        said["stdout"].as_str().unwrap().to_owned()
    }

    /// A server inside, on that port.
    pub async fn serve(&self, run: &str, port: u16) {
        let command = format!("setsid {PROGRAM} --load serve {port} >/dev/null 2>&1 &");
        self.shell(run, &command).await;
        let url = format!("{}/sb/{run}/p/{port}/", self.url);
        while !self.http.get(&url).send().await.unwrap().status().is_success() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The CPU time that it has used, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / 100.0
    }

    /// A process in the network of its only run.
    pub fn inside(&self) -> u32 {
        let folder = self.folder.path().to_str().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.starts_with("runsc-sandbox") && line.contains(folder)
            })
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

/// A container of plain `runsc`, over the machine's files, whose cable ends in
/// the machine's own network: nothing is between it and who listens there.
pub struct Plain {
    folder: TempDir,
    runsc: PathBuf,
}

impl Plain {
    /// Where it finds what listens on the machine.
    pub const OUTSIDE: Ipv4Addr = PLAIN.1;

    pub fn start() -> Self {
        Self::take_away();
        let plain = Self { folder: tempfile::tempdir().unwrap(), runsc: runsc() };
        let (inside, outside) = PLAIN;
        let namespace = ["-n", NAMESPACE];
        assert!(ip(&["netns", "add", NAMESPACE]));
        let cable = ["link", "add", "isorun-bench", "type", "veth", "peer", "name", "inside"];
        assert!(ip(&[&cable[..], &["netns", NAMESPACE]].concat()));
        assert!(ip(&["addr", "add", &format!("{outside}/29"), "dev", "isorun-bench"]));
        assert!(ip(&["link", "set", "isorun-bench", "up"]));
        for words in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", &format!("{inside}/29"), "dev", "inside"],
            vec!["link", "set", "inside", "up"],
            vec!["route", "add", "default", "via", &outside.to_string()],
        ] {
            assert!(ip(&[&namespace[..], &words].concat()), "{words:?}");
        }
        let program = std::env::current_exe().unwrap();
        let folder = program.parent().unwrap();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "/", "readonly": true },
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sleep", "1000"], "cwd": "/",
                "env": ["PATH=/usr/bin:/bin"],
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": folder, "type": "bind", "source": folder, "options": ["ro"] },
            ],
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network", "path": format!("/run/netns/{NAMESPACE}") },
                ],
                "resources": { "cpu": { "quota": 200_000, "period": 100_000 } },
            },
        });
        std::fs::write(plain.folder.path().join("config.json"), config.to_string()).unwrap();
        let bundle = plain.folder.path().to_str().unwrap();
        plain.run(&["run", "--detach", "--bundle", bundle, "plain"]);
        plain
    }

    /// Runs a program of the benchmark inside; gives its figure.
    pub fn load(&self, words: &str) -> f64 {
        let program = std::env::current_exe().unwrap();
        let words = format!("{} --load {words}", program.display());
        let words: Vec<&str> = ["exec", "plain"].into_iter().chain(words.split(' ')).collect();
        self.run(&words).trim().parse().unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        // runsc before October 2024 takes what is in that folder for the machine's own
        // network (google/gvisor#10704).
        let hidden = "mount -t tmpfs none /proc/sys/net && exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", hidden, "sh"])
            .arg(&self.runsc)
            .args(["--network=sandbox", "--platform=systrap", "--ignore-cgroups"])
            .args(["--overlay2=none", "--root"])
            .arg(self.folder.path().join("state"))
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .stdout(if words[0] == "exec" { Stdio::piped() } else { Stdio::null() })
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn take_away() {
        ip(&["link", "del", "isorun-bench"]);
        ip(&["netns", "del", NAMESPACE]);
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "plain"]);
        Self::take_away();
    }
}

fn runsc() -> PathBuf {
    isorun_engine::gvisor::Tools::find(None, None).unwrap().runsc
}

/// nginx in the network of a sandbox, in front of a server inside, with what its
/// documentation says for this: connections are kept, and nothing is buffered.
pub struct Nginx {
    child: Child,
    pid: u32,
    _folder: TempDir,
}

impl Nginx {
    pub const URL: &str = "http://127.0.0.1:8080/";

    pub fn start(program: &Path, pid: u32, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let config = format!(
            "daemon off; worker_processes auto; pid {place}/pid; error_log stderr crit; user root;
             events {{ worker_connections 1024; }}
             http {{
               access_log off; client_body_temp_path {place}; proxy_temp_path {place};
               fastcgi_temp_path {place}; uwsgi_temp_path {place}; scgi_temp_path {place};
               keepalive_requests 100000000;
               upstream inside {{
                 server 192.0.0.2:{port}; keepalive 32; keepalive_requests 100000000;
               }}
               server {{
                 listen 127.0.0.1:8080;
                 location / {{
                   proxy_pass http://inside; proxy_http_version 1.1;
                   proxy_set_header Connection \"\"; proxy_buffering off;
                 }}
               }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = enter(pid);
        command.arg(program).arg("-c").arg(file).arg("-e").arg("stderr");
        let child = command.spawn().unwrap();
        let nginx = Self { child, pid, _folder: folder };
        let start = Instant::now();
        let listens = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080"];
        while !enter(pid).args(listens).stderr(Stdio::null()).status().unwrap().success() {
            assert!(start.elapsed() < Duration::from_secs(10), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        nginx
    }

    /// Runs a program of the benchmark beside it; gives its figure.
    pub fn load(&self, words: &str) -> f64 {
        let output = enter(self.pid)
            .arg(std::env::current_exe().unwrap())
            .arg("--load")
            .args(words.split(' '))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

fn enter(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    command
}
