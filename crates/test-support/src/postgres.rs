//! A PostgreSQL server of the test's own: Debian's programs, with a data directory that is
//! removed afterwards.

use std::{
    fs,
    net::TcpListener,
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

/// The unprivileged user that the server runs as if the test runs as root, which PostgreSQL
/// refuses.
const UNPRIVILEGED_USER: u32 = 65534;
/// The longest time until the server accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server on a port of the loopback address, without passwords.
pub struct PostgresServer {
    port: u16,
    dir: PathBuf,
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
        let dir = std::env::temp_dir().join(format!("postgres-{}-{}", std::process::id(), next()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if is_root() {
            chown(&dir, Some(UNPRIVILEGED_USER), Some(UNPRIVILEGED_USER)).unwrap();
        }
        let made = program("initdb")
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-U", "isorun", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .current_dir(&dir)
            .output()
            .expect("PostgreSQL is installed by `cargo xtask test`");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let server = Self { port, dir, databases: AtomicU32::new(0), running: Mutex::default() };
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
        let (dir, port) = (self.dir.clone(), self.port);
        let (stop, stopped) = mpsc::channel();
        // The signal at the end of the parent is sent when the thread that started the process
        // ends, so a thread of its own has to stay.
        let thread = thread::spawn(move || {
            let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
            let mut child = program("postgres")
                .arg("-D")
                .arg(dir.join("data"))
                .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
                .args(["-c", "max_connections=300", "-c", "fsync=off"])
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
        let output = Command::new(find("psql"))
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

/// Returns a command of PostgreSQL that runs as an unprivileged user and ends with this process.
fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        let user = UNPRIVILEGED_USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(find(name));
    command.env("LC_ALL", "C").env_remove("PGDATA");
    command
}

/// Finds a program of PostgreSQL. Debian has those of the server in a directory of its version.
fn find(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(name).to_owned())
}
