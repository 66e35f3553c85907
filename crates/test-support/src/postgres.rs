//! A PostgreSQL server of the test's own: the machine's programs, or those that `cargo xtask
//! setup` has unpacked, with a data directory that is removed afterwards.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::ports;

/// The unprivileged user that the server runs as if the test runs as root, which PostgreSQL
/// refuses.
const UNPRIVILEGED_USER: u32 = 65534;
/// The longest time until the server accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Debian's directory of the versions of PostgreSQL, relative to the root.
const VERSIONS: &str = "usr/lib/postgresql";
/// The variable that names the directory of unpacked packages, which `.cargo/config.toml` sets.
const UNPACKED_VARIABLE: &str = "ISORUN_POSTGRES_DIR";
/// Shows the unpacked packages in a directory that every user can reach: the checkout may be one
/// that only root can enter. Only the program and its children have the mount.
const MOUNT: &str = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;

/// A server on a port of the loopback address, without passwords.
pub struct PostgresServer {
    port: u16,
    dir: PathBuf,
    /// Settings in addition to those of all servers.
    settings: Vec<String>,
    databases: AtomicU32,
    /// The running process. A thread waits for it, and for the end of this process.
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl PostgresServer {
    /// Starts a server, which stops when the result is dropped.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with settings such as `fsync=on`.
    pub fn start_with(settings: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("postgres-{}-{}", std::process::id(), next()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(dir.join("files")).unwrap();
        if is_root() {
            chown(&dir, Some(UNPRIVILEGED_USER), Some(UNPRIVILEGED_USER)).unwrap();
        }
        let made = server_program("initdb", &dir)
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-U", "isorun", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .current_dir(&dir)
            .output()
            .expect("PostgreSQL is installed by `cargo xtask test`");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = ports::reserved();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let (databases, running) = (AtomicU32::new(0), Mutex::default());
        let server = Self { port, dir, settings, databases, running };
        server.restart();
        server
    }

    /// Returns a server that the tests of this process share.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts the server again after [`Self::stop`], with the same data and port.
    pub fn restart(&self) {
        let (dir, port, settings) = (self.dir.clone(), self.port, self.settings.clone());
        let (stop, stopped) = mpsc::channel();
        // The signal at the end of the parent is sent when the thread that started the process
        // ends, so a thread of its own has to stay.
        let thread = thread::spawn(move || {
            let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
            let mut child = server_program("postgres", &dir)
                .arg("-D")
                .arg(dir.join("data"))
                .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
                .args(["-c", "max_connections=300", "-c", "fsync=off"])
                // The last of several is used.
                .args(settings.iter().flat_map(|setting| ["-c", setting]))
                .arg("-k")
                .arg(&dir)
                .current_dir(&dir)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let _ = stopped.recv();
            // SIGQUIT stops it at once, as a crash would.
            let pid = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            let _ = child.wait();
        });
        *self.lock() = Some(Running { stop, thread });
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.psql("postgres", "SELECT 1").is_ok_and(|text| text == "1") {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server at once. Its data stay.
    pub fn stop(&self) {
        if let Some(Running { stop, thread }) = self.lock().take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Creates an empty database, and returns its URL.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        format!("postgres://isorun@127.0.0.1:{}/{name}", self.port)
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement, and returns what it prints without headers.
    pub fn psql(&self, database: &str, statement: &str) -> Result<String, String> {
        let output = find("psql")
            .command()
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "isorun", "-AtXq"])
            .args(["-v", "ON_ERROR_STOP=1", "-c", statement, database])
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program of PostgreSQL.
struct PostgresProgram {
    path: PathBuf,
    /// The directory of the unpacked packages, if it is one of them.
    unpacked: Option<PathBuf>,
}

impl PostgresProgram {
    /// Returns a command that finds the program's libraries.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(unpacked) = &self.unpacked {
            command.env("LD_LIBRARY_PATH", libraries(unpacked));
        }
        command
    }
}

/// Returns a command of the server, whose directory is `dir`, that runs as an unprivileged user
/// and ends with this process.
fn server_program(name: &str, dir: &Path) -> Command {
    let PostgresProgram { mut path, unpacked } = find(name);
    let mut root = unpacked.clone();
    let mut command = Command::new("setpriv");
    if let Some(unpacked) = unpacked.filter(|_| is_root()) {
        let mounted = dir.join("files");
        path = mounted.join(path.strip_prefix(&unpacked).unwrap());
        command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", MOUNT, "sh"]).arg(unpacked).arg(&mounted);
        command.arg("setpriv");
        root = Some(mounted);
    }
    if is_root() {
        let user = UNPRIVILEGED_USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(path);
    command.env("LC_ALL", "C").env_remove("PGDATA");
    if let Some(root) = root {
        command.env("LD_LIBRARY_PATH", libraries(&root));
    }
    command
}

/// Finds a program: that of the newest version on this machine, or else that of unpacked
/// packages.
fn find(name: &str) -> PostgresProgram {
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    };
    if let Some(path) = newest(Path::new("/"), name).or_else(on_path) {
        return PostgresProgram { path, unpacked: None };
    }
    let unpacked = std::env::var_os(UNPACKED_VARIABLE).map(PathBuf::from);
    let path = unpacked.as_ref().and_then(|unpacked| newest(unpacked, name));
    let path = path.unwrap_or_else(|| {
        panic!("there is no {name} of PostgreSQL: `cargo xtask setup` installs it")
    });
    PostgresProgram { path, unpacked }
}

/// Returns a program of the newest version below `root`. Debian has those of the server in a
/// directory of their version.
fn newest(root: &Path, name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(root.join(VERSIONS)).into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    programs.filter(|path| path.is_file()).max()
}

fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}
