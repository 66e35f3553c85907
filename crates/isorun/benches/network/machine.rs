//! The systems under test: an isorun server, and for comparison a plain `runsc` container with
//! an unrestricted network, and nginx.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The path of the benchmark's executable in sandboxes.
const PROGRAM: &str = "/srv/network";
/// The addresses of the plain container's veth pair, in the container and on the machine.
const VETH_ADDRESSES: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(192, 0, 0, 10), Ipv4Addr::new(192, 0, 0, 9));
const NAMESPACE: &str = "isorun-bench";

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).stderr(Stdio::null()).status().unwrap().success()
}

/// An `isorun serve` process.
pub struct Server {
    child: Child,
    pub url: String,
    key: String,
    directory: TempDir,
    http: reqwest::Client,
}

impl Server {
    /// Starts a server, with this `PATH` if one is specified.
    pub fn start(arguments: &[&str], path: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
        command.args(["serve", "--no-pull", "--listen", "127.0.0.1:0", "--log", "error"]);
        command.args(arguments).env("ISORUN_DATA_DIR", directory.path().join("data"));
        command.env("XDG_CONFIG_HOME", directory.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("ISORUN_API_KEY=")).unwrap().unwrap();
        let written = std::fs::read(directory.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let text = |name: &str| written[name].as_str().unwrap().to_owned();
        let http = reqwest::Client::new();
        Self { child, url: text("api_url"), key: text("api_key"), directory, http }
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

    pub async fn create(&self, mut parameters: Value) -> String {
        parameters["image"] = json!("host");
        self.post("/v1/runs", parameters).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn destroy(&self, run: &str) {
        let url = format!("{}/v1/runs/{run}", self.url);
        let answer = self.http.delete(url).bearer_auth(&self.key).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// Creates a sandbox, and uploads the benchmark's executable.
    pub async fn create_with_program(&self, mut parameters: Value) -> String {
        parameters["vcpus"] = json!(2);
        let run = self.create(parameters).await;
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let url = format!("{}/v1/runs/{run}/files/upload?path={PROGRAM}", self.url);
        let request = self.http.post(url).bearer_auth(&self.key).body(program);
        assert!(request.send().await.unwrap().status().is_success());
        self.shell(&run, &format!("chmod +x {PROGRAM}")).await;
        run
    }

    /// Runs a program of the benchmark in a sandbox, and returns its result.
    pub async fn load(&self, run: &str, words: &str) -> f64 {
        let stdout = self.shell(run, &format!("{PROGRAM} --load {words}")).await;
        stdout.trim().parse().unwrap()
    }

    pub async fn shell(&self, run: &str, command: &str) -> String {
        let body = json!({ "command": command, "timeout": 120 });
        let output = self.post(&format!("/v1/runs/{run}/exec"), body).await;
        assert_eq!(output["exit_code"], 0, "{output}");
        output["stdout"].as_str().unwrap().to_owned()
    }

    /// Starts an HTTP server in a sandbox, on this port.
    pub async fn serve(&self, run: &str, port: u16) {
        let command = format!("setsid {PROGRAM} --load serve {port} >/dev/null 2>&1 &");
        self.shell(run, &command).await;
        let url = format!("{}/sb/{run}/p/{port}/", self.url);
        while !self.http.get(&url).send().await.unwrap().status().is_success() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the CPU time of the server, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / 100.0
    }

    /// Returns the id of a process in the network namespace of its only sandbox.
    pub fn sandbox_pid(&self) -> u32 {
        let directory = self.directory.path().to_str().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.starts_with("runsc-sandbox") && line.contains(directory)
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

/// A plain `runsc` container with the machine's files, and a veth pair into the machine's
/// network namespace, without a proxy or filters.
pub struct PlainRunsc {
    directory: TempDir,
    runsc: PathBuf,
}

impl PlainRunsc {
    /// The address of the machine as seen by the container.
    pub const HOST_ADDRESS: Ipv4Addr = VETH_ADDRESSES.1;

    pub fn start() -> Self {
        Self::delete_network();
        let plain = Self { directory: tempfile::tempdir().unwrap(), runsc: runsc() };
        let (container_address, host_address) = VETH_ADDRESSES;
        let namespace = ["-n", NAMESPACE];
        assert!(ip(&["netns", "add", NAMESPACE]));
        let veth = ["link", "add", "isorun-bench", "type", "veth", "peer", "name", "inside"];
        assert!(ip(&[&veth[..], &["netns", NAMESPACE]].concat()));
        assert!(ip(&["addr", "add", &format!("{host_address}/29"), "dev", "isorun-bench"]));
        assert!(ip(&["link", "set", "isorun-bench", "up"]));
        for words in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", &format!("{container_address}/29"), "dev", "inside"],
            vec!["link", "set", "inside", "up"],
            vec!["route", "add", "default", "via", &host_address.to_string()],
        ] {
            assert!(ip(&[&namespace[..], &words].concat()), "{words:?}");
        }
        let program = std::env::current_exe().unwrap();
        let program_directory = program.parent().unwrap();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "/", "readonly": true },
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sleep", "1000"], "cwd": "/",
                "env": ["PATH=/usr/bin:/bin"],
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                {
                    "destination": program_directory, "type": "bind",
                    "source": program_directory, "options": ["ro"],
                },
            ],
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network", "path": format!("/run/netns/{NAMESPACE}") },
                ],
                "resources": { "cpu": { "quota": 200_000, "period": 100_000 } },
            },
        });
        std::fs::write(plain.directory.path().join("config.json"), config.to_string()).unwrap();
        let bundle = plain.directory.path().to_str().unwrap();
        plain.run(&["run", "--detach", "--bundle", bundle, "plain"]);
        plain
    }

    /// Runs a program of the benchmark in the container, and returns its result.
    pub fn load(&self, words: &str) -> f64 {
        let program = std::env::current_exe().unwrap();
        let words = format!("{} --load {words}", program.display());
        let words: Vec<&str> = ["exec", "plain"].into_iter().chain(words.split(' ')).collect();
        self.run(&words).trim().parse().unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        // runsc before October 2024 takes the files in /proc/sys/net as a sign that it runs in the
        // machine's own network namespace, and refuses to run (google/gvisor#10704): hide them.
        let hide_files = "mount -t tmpfs none /proc/sys/net && exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", hide_files, "sh"])
            .arg(&self.runsc)
            .args(["--network=sandbox", "--platform=systrap", "--ignore-cgroups"])
            .args(["--overlay2=none", "--root"])
            .arg(self.directory.path().join("state"))
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .stdout(if words[0] == "exec" { Stdio::piped() } else { Stdio::null() })
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn delete_network() {
        ip(&["link", "del", "isorun-bench"]);
        ip(&["netns", "del", NAMESPACE]);
    }
}

impl Drop for PlainRunsc {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "plain"]);
        Self::delete_network();
    }
}

fn runsc() -> PathBuf {
    isorun_engine::gvisor::Tools::find(None, None).unwrap().runsc
}

/// nginx in the network namespace of a sandbox, as a reverse proxy of a server in it, configured
/// as its documentation recommends: with keep-alive connections and without buffering.
pub struct Nginx {
    child: Child,
    pid: u32,
    _directory: TempDir,
}

impl Nginx {
    pub const URL: &str = "http://127.0.0.1:8080/";

    pub fn start(program: &Path, pid: u32, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let config = format!(
            "daemon off; worker_processes auto; pid {path}/pid; error_log stderr crit; user root;
             events {{ worker_connections 1024; }}
             http {{
               access_log off; client_body_temp_path {path}; proxy_temp_path {path};
               fastcgi_temp_path {path}; uwsgi_temp_path {path}; scgi_temp_path {path};
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
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = enter(pid);
        command.arg(program).arg("-c").arg(file).arg("-e").arg("stderr");
        let child = command.spawn().unwrap();
        let nginx = Self { child, pid, _directory: directory };
        let start = Instant::now();
        let listens = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080"];
        while !enter(pid).args(listens).stderr(Stdio::null()).status().unwrap().success() {
            assert!(start.elapsed() < Duration::from_secs(10), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        nginx
    }

    /// Runs a program of the benchmark in the same namespace, and returns its result.
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

/// Returns a command that runs a program in the network namespace of a process.
fn enter(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    command
}
