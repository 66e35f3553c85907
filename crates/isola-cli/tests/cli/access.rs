//! Tests of the access of a script to its host: only what the user has allowed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
};

use crate::fixture::TestDir;

const FILES: &str = "
import os
def read(path):
    with open(path) as file:
        return file.read()
def write(path, text):
    with open(path, 'w') as file:
        file.write(text)
def env():
    return dict(os.environ)
";

fn files() -> TestDir {
    let dir = TestDir::with("s.py", FILES);
    fs::create_dir(dir.path().join("data")).unwrap();
    dir.file("data/in.txt", "from the host")
}

#[test]
fn mounts_are_read_only_by_default() {
    let dir = files();
    let read = ["-f", "read", "--arg", "\"/box/in.txt\""];
    let write = ["-f", "write", "--arg", "\"/box/out.txt\"", "--arg", "\"from the guest\""];
    let run = |mount: &str, call: &[&str]| {
        let args: Vec<_> = ["s.py", "--mount", mount].iter().chain(call).copied().collect();
        dir.run(&args)
    };
    for mount in ["data:/box", "./data:/box:ro", "data:/box:rw"] {
        assert_eq!(run(mount, &read).succeeded(), "\"from the host\"\n", "{mount}");
    }
    for mount in ["data:/box", "data:/box:ro"] {
        let stderr = run(mount, &write).failed(1);
        assert!(stderr.contains("PermissionError"), "{stderr}");
        assert!(!dir.path().join("data/out.txt").exists());
    }
    run("data:/box:rw", &write).succeeded();
    assert_eq!(dir.read("data/out.txt"), "from the guest");
    // Without a mount the path does not exist.
    let stderr = dir.run(&["s.py", "-f", "read", "--arg", "\"/box/in.txt\""]).failed(1);
    assert!(stderr.contains("FileNotFoundError"), "{stderr}");
}

#[test]
fn several_mounts_and_paths_with_colons_are_accepted() {
    let dir = files();
    fs::create_dir(dir.path().join("a:b")).unwrap();
    let dir = dir.file("a:b/c.txt", "colon");
    let mounts = ["s.py", "--mount", "a:b:/odd:ro", "--mount", "data:/data", "-f", "read"];
    for (path, text) in [("\"/odd/c.txt\"", "colon"), ("\"/data/in.txt\"", "from the host")] {
        let args: Vec<_> = mounts.iter().copied().chain(["--arg", path]).collect();
        assert_eq!(dir.run(&args).succeeded(), format!("\"{text}\"\n"));
    }
}

#[test]
fn packages_in_a_directory_can_be_imported() {
    let dir = TestDir::with(
        "s.py",
        "import sys, shape\ndef main():\n    return [shape.SIDES, sys.path]\n",
    );
    for name in ["site/shape", "other"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let dir = dir.file("site/shape/__init__.py", "from .sides import SIDES");
    let dir = dir.file("site/shape/sides.py", "SIDES = 6");
    let seen = dir.run(&["s.py", "--site-packages", "site"]).succeeded();
    assert_eq!(seen, "[6,[\"/site-packages\"]]\n");
    // No file is written to the packages.
    assert_eq!(fs::read_dir(dir.path().join("site/shape")).unwrap().count(), 2);
    let seen = dir
        .run(&["s.py", "--site-packages", "site", "--mount", "other:/o", "--env", "PYTHONPATH=/o"])
        .succeeded();
    assert_eq!(seen, "[6,[\"/o\",\"/site-packages\"]]\n");
    for (args, why) in [
        (["s.py", "--site-packages", "none"], "--site-packages none: none: No such file"),
        (["s.py", "--site-packages", "s.py"], "--site-packages s.py: s.py is not a directory"),
        (["s.js", "--site-packages", "site"], "--site-packages site: only Python has packages"),
    ] {
        let stderr = dir.run(&args).failed(2);
        assert!(stderr.contains(why), "{stderr}");
    }
}

/// Real packages, as installed by `pip install --target`.
#[test]
fn packages_installed_by_pip_can_be_imported() {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/python-samples");
    let dir = TestDir::with(
        "s.py",
        "import attrs, jinja2, networkx\ndef main():\n    \
         return jinja2.Template('{{ n }}').render(n=networkx.path_graph(5).number_of_edges())\n",
    );
    assert_eq!(dir.run(&["s.py", "--site-packages", packages]).succeeded(), "\"4\"\n");
}

#[test]
fn environment_contains_only_given_variables() {
    let dir = files();
    assert_eq!(dir.run(&["s.py", "-f", "env"]).succeeded(), "{}\n");
    let ran = dir.run(&["s.py", "-f", "env", "--env", "A=1", "--env", "B=x=y", "--env", "C="]);
    let env: serde_json::Value = serde_json::from_str(&ran.succeeded()).unwrap();
    assert_eq!(env, serde_json::json!({"A": "1", "B": "x=y", "C": ""}));
}

#[test]
fn http_reaches_only_allowed_hosts() {
    let dir = TestDir::with(
        "s.js",
        "async function main(url) {
            const response = await fetch(url);
            return [response.status, await response.text()];
        }",
    );
    let port = serve("hello from the server");
    let url = format!("\"http://127.0.0.1:{port}/path\"");
    let address = format!("127.0.0.1:{port}");
    for hosts in ["all", "127.0.0.1", &address, "example.com,127.0.0.1"] {
        let ran = dir.run(&["s.js", "--arg", &url, "--allow-http", hosts]);
        assert_eq!(ran.succeeded(), "[200,\"hello from the server\"]\n", "{hosts}");
    }
    let other = format!("127.0.0.1:{}", port ^ 1);
    for hosts in ["example.com", &other] {
        let stderr = dir.run(&["s.js", "--arg", &url, "--allow-http", hosts]).failed(1);
        assert!(stderr.contains(&format!("requests to {address} are not allowed")), "{stderr}");
    }
    let stderr = dir.run(&["s.js", "--arg", &url]).failed(1);
    assert!(stderr.contains("HTTP is disabled"), "{stderr}");
}

/// Starts a server that sends the same response to every request, until the tests
/// end. Returns its port.
fn serve(body: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).find(String::is_empty);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
        }
    });
    port
}
