//! The pool of containers that are created in advance.

use std::time::{Duration, Instant};

use isorun_engine::Engine;
use isorun_engine::conformance::{Sandbox, clean_up, hostname, spec};
use test_macros::timed_test;
use test_support::wait::wait_until;

use crate::support::Scratch;

#[timed_test(seconds = 300)]
async fn pooled_containers_are_new_and_complete() {
    let scratch = Scratch::open(2).await;
    let engine = &*scratch;
    engine.warm(&spec());
    for _ in 0..6 {
        wait_until("a container is ready", async || scratch.ready() > 0).await;
        let start = Instant::now();
        let sandbox = Sandbox::new(engine).await;
        let took = start.elapsed();
        assert_eq!(
            sandbox.text("ls -A /srv; hostname").await,
            format!("{}\n", hostname(&sandbox.id))
        );
        sandbox.text("echo used > /srv/file").await;
        assert!(took < Duration::from_secs(5), "{took:?} from the pool");
        engine.destroy(&sandbox.id).await.unwrap();
    }
    // The memory limit is that of the spec, also for a container from the pool.
    let other = isorun_engine::SandboxSpec { mem_mib: 96, ..spec() };
    let sandbox = Sandbox::with_spec(engine, other).await;
    let total = sandbox.text("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo").await;
    assert!((96..=160).contains(&total.trim().parse::<u32>().unwrap()), "{total}");
    clean_up(engine).await;
    let left: Vec<_> = std::fs::read_dir(scratch.dir.path().join("containers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[timed_test(seconds = 300)]
async fn fifty_concurrent_sandboxes() {
    let scratch = Scratch::open(0).await;
    let engine = &*scratch;
    let mut sandboxes = Vec::new();
    for _ in 0..10 {
        let five = (0..5).map(|_| Sandbox::new(engine));
        sandboxes.extend(futures_util::future::join_all(five).await);
    }
    assert_eq!(engine.list().await.unwrap().len(), 50);
    for sandbox in &sandboxes {
        assert_eq!(sandbox.text("hostname").await, format!("{}\n", hostname(&sandbox.id)));
    }
    // `runsc` accepts abbreviated names, so that of the first container must not begin others.
    for sandbox in &sandboxes[..5] {
        let dir = tempfile::tempdir().unwrap();
        engine.checkpoint(&sandbox.id, dir.path(), true).await.unwrap();
    }
}
