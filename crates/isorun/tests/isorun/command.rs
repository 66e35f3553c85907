//! The client commands.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use test_macros::server_test;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{Server, with_input};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns a command that runs `isorun` without the configuration of the test's user.
fn isorun(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
    command.env_remove("ISORUN_API_URL").env_remove("ISORUN_API_KEY");
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[server_test]
async fn run_passes_input_output_and_exit_code(server: &Server) {
    let sum = server.run(&["run", "host", "--", "python3", "-c", "print(2 + 2)"]).await;
    assert_eq!((stdout(&sum).as_str(), sum.status.code()), ("4\n", Some(0)), "{sum:?}");

    let script = "echo out; echo err >&2; exit 42";
    let output = server.run(&["run", "host", "--", "sh", "-c", script]).await;
    assert_eq!(output.status.code(), Some(42));
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("out\n", "err\n"));

    let every: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let mut cat = server.command();
    cat.args(["run", "host", "--", "cat"]);
    let output = with_input(cat, &every).await;
    assert!(output.stdout == every, "{} bytes were returned", output.stdout.len());

    let args = ["run", "host", "-e", "A=b c", "-w", "/usr", "--", "sh", "-c", "echo $A $PWD"];
    assert_eq!(stdout(&server.run(&args).await), "b c /usr\n");

    let late = server.run(&["run", "host", "--timeout", "300ms", "--", "sleep", "100"]).await;
    assert_eq!(late.status.code(), Some(124), "{late:?}");
    assert!(stderr(&late).contains("0.3 s"), "{late:?}");

    let missing = server.run(&["run", "host", "--", "/no/such/program"]).await;
    assert_eq!(missing.status.code(), Some(125), "{missing:?}");
    let missing = server.run(&["run", "no-such-image", "--", "true"]).await;
    assert_eq!(missing.status.code(), Some(125));
    assert!(stderr(&missing).contains("no-such-image"), "{missing:?}");

    let left = server.get("/v1/runs").await.1;
    assert_eq!(left["runs"], json!([]), "a sandbox is left");
}

#[server_test]
async fn interrupted_run_leaves_no_sandbox(server: &Server) {
    for signal in [Signal::INT, Signal::TERM] {
        let mut run = server.command();
        run.args(["run", "host", "--", "sh", "-c", "echo begun; sleep 1000"]);
        let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(output.next_line().await.unwrap().as_deref(), Some("begun"));
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(130));
        assert_eq!(server.get("/v1/runs").await.1["runs"], json!([]), "after {signal:?}");
    }
}

#[server_test]
async fn run_starts_a_server_if_none_is_reachable() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let isorun = async |args: &[&str]| {
        let mut command = isorun(args);
        command.env("ISORUN_DATA_DIR", data.path()).env("XDG_CONFIG_HOME", home.path());
        // No server listens there.
        fs::create_dir_all(home.path().join("isorun")).unwrap();
        let config = r#"{"api_url": "http://127.0.0.1:1", "api_key": "isorun_live_x_y_z"}"#;
        fs::write(home.path().join("isorun/client.json"), config).unwrap();
        command.output().await.unwrap()
    };
    let output = isorun(&["run", "host", "--", "sh", "-c", "echo hello; exit 3"]).await;
    assert_eq!(
        (stdout(&output).as_str(), output.status.code()),
        ("hello\n", Some(3)),
        "{output:?}"
    );
    let listed = stdout(&isorun(&["keys", "ls", "--json"]).await);
    let keys: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert!(keys[0]["revoked_at"].is_string(), "its key was not revoked: {listed}");
    // A server that was specified must be reachable.
    let named = isorun(&["--api-url", "http://127.0.0.1:1", "run", "host", "--", "true"]).await;
    assert_eq!(named.status.code(), Some(125));
    assert!(stderr(&named).contains("isorun serve"), "{named:?}");
}

#[server_test]
async fn client_commands_manage_a_sandbox(server: &Server) {
    let created =
        server.run(&["create", "host", "--mem", "512M", "--disk", "1G", "--idle", "0"]).await;
    assert!(created.status.success(), "{created:?}");
    let id = stdout(&created).trim().to_owned();

    let listed = stdout(&server.run(&["ps"]).await);
    assert!(listed.contains(&id) && listed.contains("512 MiB"), "{listed}");

    let local = server.home.path().join("data.txt");
    fs::write(&local, "some data\n").unwrap();
    let local = local.to_str().unwrap();
    let into = server.run(&["cp", local, &format!("{id}:/job/")]).await;
    assert!(into.status.success(), "{into:?}");
    assert_eq!(stdout(&server.run(&["ls", &id, "/job"]).await), "data.txt\n");
    let output = server.run(&["exec", &id, "--", "tr", "a-z", "A-Z"]).await;
    assert_eq!(output.status.code(), Some(0));
    let mut upper = server.command();
    upper.args(["exec", &id, "--", "sh", "-c", "tr a-z A-Z < /job/data.txt; cat"]);
    assert_eq!(stdout(&with_input(upper, b"input").await), "SOME DATA\ninput");

    let back = server.home.path().join("back.txt");
    let from = format!("{id}:/job/data.txt");
    assert!(server.run(&["cp", &from, back.to_str().unwrap()]).await.status.success());
    assert_eq!(fs::read_to_string(&back).unwrap(), "some data\n");
    assert_eq!(stdout(&server.run(&["cp", &from, "-"]).await), "some data\n");
    // Permissions are copied in both directions, and the path of a directory needs no slash.
    for mode in [0o755, 0o640, 0o500] {
        fs::set_permissions(local, fs::Permissions::from_mode(mode)).unwrap();
        assert!(server.run(&["cp", local, &format!("{id}:/tmp")]).await.status.success());
        let seen = server.run(&["exec", &id, "--", "stat", "-c", "%a", "/tmp/data.txt"]).await;
        assert_eq!(stdout(&seen), format!("{mode:o}\n"));
        let _ = fs::remove_file(&back);
        let from = format!("{id}:/tmp/data.txt");
        assert!(server.run(&["cp", &from, back.to_str().unwrap()]).await.status.success());
        let masked = fs::metadata(&back).unwrap().permissions().mode() & 0o777;
        assert_eq!(masked, mode & !0o022, "{mode:o}");
    }
    let mut piped = server.command();
    piped.args(["cp", "-", &format!("{id}:/tmp/piped")]);
    assert!(with_input(piped, b"from a pipe").await.status.success());
    assert_eq!(stdout(&server.run(&["cp", &format!("{id}:/tmp/piped"), "-"]).await), "from a pipe");
    let directory = server.run(&["cp", "/usr", &from]).await;
    assert!(stderr(&directory).contains("tar"), "{directory:?}");

    assert!(stdout(&server.run(&["stats", &id]).await).contains("PEAK MEMORY"));
    assert!(stdout(&server.run(&["stats"]).await).starts_with("ACTIVE"));
    let log = stdout(&server.run(&["logs", &id]).await);
    assert!(log.contains("sandbox.created") && log.contains("exec.exit"), "{log}");

    let removed = server.run(&["rm", &id]).await;
    assert!(stdout(&removed).contains("of CPU time"), "{removed:?}");
    let again = server.run(&["rm", &id]).await;
    assert_eq!(again.status.code(), Some(125), "{again:?}");
    assert!(stderr(&again).contains("a request destroyed it"), "{again:?}");
    assert!(stdout(&server.run(&["ps", "--past"]).await).contains(&id));
}

#[server_test]
async fn invalid_usage_and_help() {
    let command = async |args: &[&str]| isorun(args).output().await.unwrap();
    let missing =
        command(&["exec", "run0123456789abcdef", "--api-url", "http://127.0.0.1:1"]).await;
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    for args in
        [&["exec", "nonsense", "--", "true"][..], &["run"], &["rm"], &["create", "a", "--mem", "1"]]
    {
        assert_eq!(command(args).await.status.code(), Some(2), "{args:?}");
    }
    let nowhere = command(&["ps", "--api-url", "ftp://x"]).await;
    assert!(stderr(&nowhere).contains("not an http or https URL"), "{nowhere:?}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&command(&["completions", shell]).await).contains("isorun"), "{shell}");
    }
    let main_page = stdout(&command(&["man"]).await);
    assert!(main_page.contains(".TH isorun 1"), "{main_page}");
    assert!(main_page.contains("isorun\\-run(1)") && !main_page.contains("openapi"), "{main_page}");
    let page = stdout(&command(&["man", "serve"]).await);
    assert!(page.contains(".TH isorun-serve 1") && page.contains("keep\\-sandboxes"), "{page}");
    let unknown = command(&["man", "jump"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(stderr(&unknown).contains("the commands are serve, keys"), "{unknown:?}");
    for page in ["serve", "run", "exec", "code", "cp", "keys", "audit"] {
        let help = command(&[page, "--help"]).await;
        assert!(help.status.success() && stdout(&help).len() > 300, "{page}");
    }
}

#[server_test]
async fn doctor_reports_missing_tools() {
    let doctor = async |path: Option<&str>| {
        let mut command = isorun(&["doctor"]);
        if let Some(path) = path {
            command.env("PATH", path).env_remove("ISORUN_TOOLS_DIR");
        }
        command.output().await.unwrap()
    };
    let well = doctor(None).await;
    assert!(well.status.success(), "{well:?}");
    assert!(stdout(&well).contains("hello from Linux"), "{well:?}");
    let without = doctor(Some("/nowhere")).await;
    assert_eq!(without.status.code(), Some(1), "{without:?}");
    assert!(stdout(&without).contains("MISSING  runsc and agent"), "{without:?}");
    assert!(stdout(&without).contains("bookworm-backports"), "the remedy is missing");
}
