//! The attribute `server_test` with a server that counts how many of it exist.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::time::Duration;

use test_macros::server_test;

/// The servers that were dropped, by their first argument.
static DROPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Server(Vec<String>);

impl Server {
    fn start_with(args: &[&str]) -> Self {
        Self(args.iter().map(|arg| (*arg).to_owned()).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        DROPPED.lock().unwrap().extend(self.0.first().cloned());
    }
}

fn was_dropped(name: &str) -> bool {
    DROPPED.lock().unwrap().iter().any(|dropped| dropped == name)
}

#[server_test(args = ["borrowed", "--warm"])]
async fn server_is_borrowed(server: &Server) {
    assert_eq!(server.0, ["borrowed", "--warm"]);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[server_test]
async fn server_is_owned(mut server: Server) {
    assert!(server.0.is_empty());
    server.0.push("owned".to_owned());
    drop(server);
    assert!(was_dropped("owned"));
}

#[server_test(args = ["slow"], seconds = 1)]
#[should_panic(expected = "exceeded its time limit of 1 s")]
async fn time_limit_is_enforced(server: &Server) {
    assert_eq!(server.0, ["slow"]);
    std::future::pending::<()>().await;
}

#[server_test(args = ["failing"])]
#[should_panic(expected = "this test fails")]
async fn failing(server: &Server) {
    panic!("this test fails with {:?}", server.0);
}

#[server_test(args = ["failing and owned"])]
#[should_panic(expected = "this test fails")]
async fn failing_with_an_owned_server(server: Server) {
    panic!("this test fails with {:?}", server.0);
}

#[test]
fn servers_of_failed_tests_are_dropped() {
    assert!(catch_unwind(failing).is_err());
    assert!(was_dropped("failing"));
    assert!(catch_unwind(failing_with_an_owned_server).is_err());
    assert!(was_dropped("failing and owned"));
    assert!(catch_unwind(time_limit_is_enforced).is_err());
    assert!(was_dropped("slow"));
}

#[server_test]
async fn blocking_calls_of_a_test_are_not_waited_for() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || receiver.recv());
    // The call would wait for ever.
    std::mem::forget(sender);
}
