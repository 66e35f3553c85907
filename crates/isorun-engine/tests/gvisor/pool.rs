//! The pool of containers that are created in advance.

use std::time::{Duration, Instant};

use isorun_engine::Engine;
use isorun_engine::conformance::{Sandbox, clean_up, hostname, spec};

use crate::support::Scratch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_the_pool_is_new_and_whole() {
    let scratch = Scratch::open(2).await;
    let engine = &*scratch;
    engine.warm(&spec());
    for _ in 0..6 {
        let ready = until_ready(&scratch).await;
        let start = Instant::now();
        let sandbox = Sandbox::new(engine).await;
        let took = start.elapsed();
        assert_eq!(
            sandbox.text("ls -A /srv; hostname").await,
            format!("{}\n", hostname(&sandbox.id))
        );
        sandbox.text("echo used > /srv/file").await;
        assert!(took < Duration::from_secs(5), "{took:?} with {ready} ready");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once() {
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
    clean_up(engine).await;
}

async fn until_ready(scratch: &Scratch) -> usize {
    loop {
        let ready = scratch.ready();
        if ready > 0 {
            return ready;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
