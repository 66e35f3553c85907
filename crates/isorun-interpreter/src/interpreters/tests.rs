//! The life cycle of interpreters, without a server. The runtimes must be built.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use isola::Execution;
use isorun_egress::{
    Blocked, Observer, Policy, Reason, context::ProxyOptions, policy::DefaultAction,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::code::Cell;

/// The longest time that anything here may take.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Blocks(Mutex<Vec<Blocked>>);

impl Observer for Blocks {
    fn blocked(&self, _: &SandboxId, blocked: Blocked) {
        self.0.lock().unwrap().push(blocked);
    }
}

struct Fixture {
    interpreters: Arc<Interpreters>,
    blocks: Arc<Blocks>,
    dir: tempfile::TempDir,
}

fn open() -> Fixture {
    let (dir, blocks) = (tempfile::tempdir().unwrap(), Arc::new(Blocks::default()));
    let options = ProxyOptions {
        permitted: vec!["127.0.0.1/32".parse().unwrap()],
        observer: Some(Arc::clone(&blocks) as Arc<dyn Observer>),
        ..ProxyOptions::default()
    };
    let proxies = ProxyContext::new(&options).unwrap();
    let interpreters = Interpreters::open(proxies, dir.path().join("cache")).unwrap();
    Fixture { interpreters, blocks, dir }
}

fn spec(id: &str, image: InterpreterImage) -> InterpreterSpec {
    InterpreterSpec {
        id: id.parse().unwrap(),
        tenant: "tenant".into(),
        image,
        mem_mib: 256,
        disk_mib: 64,
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        network: Plan::default(),
    }
}

/// Runs code, and returns the text of its value.
async fn evaluate(interpreters: &Interpreters, id: &str, source: &str) -> Result<String> {
    let cell =
        Cell { code: source.to_owned(), language: None, context: None, timeout: Some(TIMEOUT) };
    let (sender, mut events) = mpsc::channel(4);
    let id = id.parse().unwrap();
    let running = interpreters.run_code(&id, cell, sender);
    let reading = async {
        let mut execution = Execution::default();
        while let Some(event) = events.recv().await {
            execution.add(event);
        }
        execution
    };
    let both = async { tokio::join!(running, reading) };
    let (ended, execution) = tokio::time::timeout(TIMEOUT, both).await.unwrap();
    ended?;
    assert_eq!(execution.error, None, "{source}");
    Ok(execution.text().unwrap_or_default())
}

/// Sources of both languages for the same cases: set a variable, read it, read the
/// environment.
const SOURCES: [(InterpreterImage, &str, &str, &str); 2] = [
    (InterpreterImage::Python, "x = 41", "x + 1", "import os; os.environ['GREETING']"),
    (InterpreterImage::JavaScript, "globalThis.x = 41", "x + 1", "undefined"),
];

#[tokio::test]
async fn state_is_kept_saved_and_loaded() {
    let Fixture { interpreters, dir, .. } = open();
    for (number, (image, set, get, environment)) in SOURCES.into_iter().enumerate() {
        let (first, second) = (format!("a{number}"), format!("b{number}"));
        interpreters.create(spec(&first, image)).await.unwrap();
        let again = interpreters.create(spec(&first, image)).await;
        assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
        evaluate(&interpreters, &first, set).await.unwrap();
        assert_eq!(evaluate(&interpreters, &first, get).await.unwrap(), "42");
        if image == InterpreterImage::Python {
            let greeting = evaluate(&interpreters, &first, environment).await.unwrap();
            assert_eq!(greeting, "'hello'");
        }
        let id: SandboxId = first.parse().unwrap();
        let saved = dir.path().join(&first);
        std::fs::create_dir(&saved).unwrap();
        assert!(!Interpreters::is_complete(&saved));
        interpreters.save(&id, &saved).await.unwrap();
        assert!(Interpreters::is_complete(&saved));
        let usage = interpreters.usage(&id).unwrap();
        assert!(usage.mem_bytes > 0 && usage.mem_peak_bytes >= usage.mem_bytes, "{usage:?}");
        assert!(usage.mem_bytes < 64 << 20, "{usage:?}");
        interpreters.destroy(&id).unwrap();
        let gone = evaluate(&interpreters, &first, get).await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
        interpreters.load(spec(&second, image), &saved).await.unwrap();
        assert_eq!(evaluate(&interpreters, &second, get).await.unwrap(), "42");
    }
    assert_eq!(interpreters.list().len(), 2);
}

#[tokio::test]
async fn invalid_limits_and_states_are_refused() {
    let Fixture { interpreters, dir, .. } = open();
    for mem_mib in [0, 31, 4097, u64::MAX] {
        let spec = InterpreterSpec { mem_mib, ..spec("a", InterpreterImage::JavaScript) };
        let error = interpreters.create(spec).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    let spec = spec("a", InterpreterImage::JavaScript);
    std::fs::write(checkpoint::state_file(dir.path()), b"not a snapshot").unwrap();
    let error = interpreters.load(spec, dir.path()).await.unwrap_err();
    assert!(matches!(error, Error::StateRefused(_)), "{error}");
    assert!(interpreters.list().is_empty());
}

#[tokio::test]
async fn a_destroyed_guest_stops() {
    let Fixture { interpreters, .. } = open();
    interpreters.create(spec("a", InterpreterImage::JavaScript)).await.unwrap();
    let id: SandboxId = "a".parse().unwrap();
    let looping = tokio::spawn({
        let interpreters = Arc::clone(&interpreters);
        async move { evaluate(&interpreters, "a", "for (;;) {}").await }
    });
    while interpreters.usage(&id).unwrap().cpu_ms < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    interpreters.destroy(&id).unwrap();
    let outcome = tokio::time::timeout(TIMEOUT, looping).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(Error::Ended(_))), "{outcome:?}");
}

#[tokio::test]
async fn memory_of_the_first_code_is_counted_while_it_runs() {
    let Fixture { interpreters, .. } = open();
    interpreters.create(spec("a", InterpreterImage::Python)).await.unwrap();
    let id: SandboxId = "a".parse().unwrap();
    let filling = tokio::spawn({
        let interpreters = Arc::clone(&interpreters);
        async move { evaluate(&interpreters, "a", "x = bytearray(100 << 20)\nwhile True: pass").await }
    });
    let counted = async {
        while interpreters.usage(&id).unwrap().mem_bytes < 90 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, counted).await.unwrap();
    interpreters.destroy(&id).unwrap();
    assert!(filling.await.unwrap().is_err());
}

#[tokio::test]
async fn time_limit_includes_the_wait_for_code_of_other_contexts() {
    let Fixture { interpreters, .. } = open();
    interpreters.create(spec("a", InterpreterImage::Python)).await.unwrap();
    let id: SandboxId = "a".parse().unwrap();
    let other = interpreters.create_context(&id, None, None).await.unwrap().id;
    let (sender, mut endless) = mpsc::channel(4);
    let code = "print('started')\nwhile True: pass".to_owned();
    let cell = Cell { code, language: None, context: Some(other.clone()), timeout: None };
    let looping = tokio::spawn({
        let (interpreters, id) = (Arc::clone(&interpreters), id.clone());
        async move { interpreters.run_code(&id, cell, sender).await }
    });
    tokio::time::timeout(TIMEOUT, endless.recv()).await.unwrap().unwrap();
    let limit = Some(Duration::from_millis(200));
    let cell = Cell { code: "1".to_owned(), language: None, context: None, timeout: limit };
    let (sender, _events) = mpsc::channel(4);
    let waiting = interpreters.run_code(&id, cell, sender);
    let outcome = tokio::time::timeout(TIMEOUT, waiting).await.unwrap();
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    interpreters.interrupt_context(&id, &other).await.unwrap();
    while tokio::time::timeout(TIMEOUT, endless.recv()).await.unwrap().is_some() {}
    looping.await.unwrap().unwrap();
    assert_eq!(evaluate(&interpreters, "a", "1 + 1").await.unwrap(), "2");
}

#[tokio::test]
async fn files_are_read_up_to_the_given_size() {
    let Fixture { interpreters, .. } = open();
    interpreters.create(spec("a", InterpreterImage::Python)).await.unwrap();
    let id: SandboxId = "a".parse().unwrap();
    interpreters.write_file(&id, "x".to_owned(), vec![1; 1000]).await.unwrap();
    assert_eq!(interpreters.file_size(&id, "x").unwrap(), 1000);
    let read = interpreters.read_file(&id, "x".to_owned(), 1000).await.unwrap();
    assert_eq!(read.content.len(), 1000);
    // It has grown since its size was asked for.
    assert!(interpreters.read_file(&id, "x".to_owned(), 999).await.is_err());
}

/// Answers every connection with the head that it has received.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {count}\r\nconnection: close\r\n\r\n{}",
                String::from_utf8_lossy(&head[..count])
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn requests_pass_the_policy() {
    let Fixture { interpreters, blocks, .. } = open();
    let address = echo_server().await;
    let fetch = format!(
        "await fetch('http://{address}/path').then(async (r) => \
         r.status + ' ' + (await r.text()).split('\\r\\n')[0], String)"
    );
    interpreters.create(spec("a", InterpreterImage::JavaScript)).await.unwrap();
    let denied = evaluate(&interpreters, "a", &fetch).await.unwrap();
    assert!(denied.contains("deny") && denied.contains("127.0.0.1"), "{denied}");
    let reported = std::mem::take(&mut *blocks.0.lock().unwrap());
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!((reported[0].port, reported[0].reason), (address.port(), Reason::Private));
    let policy = Policy::new(DefaultAction::Deny, &["127.0.0.1".to_owned()], &[]).unwrap();
    let plan = Plan { policy, ..Plan::default() };
    interpreters.set_network(&"a".parse().unwrap(), plan).unwrap();
    let allowed = evaluate(&interpreters, "a", &fetch).await.unwrap();
    assert_eq!(allowed, "'200 GET /path HTTP/1.1'");
    let name = "await fetch('http://localhost/').catch(String)";
    let denied = evaluate(&interpreters, "a", name).await.unwrap();
    assert!(denied.contains("private"), "{denied}");
    assert_eq!(blocks.0.lock().unwrap().len(), 1);
}
