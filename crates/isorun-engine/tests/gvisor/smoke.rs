//! The thin path: a sandbox, programs in it, and its end.

use std::time::Instant;

use isorun_engine::Engine;

use crate::support::Bench;

#[tokio::test]
async fn programs_run_in_a_sandbox() {
    let bench = Bench::new(0).await;
    let start = Instant::now();
    let id = bench.sandbox().await;
    eprintln!("create {:?}", start.elapsed());
    assert_eq!(bench.text(&id, "echo hello").await, "hello\n");
    assert_eq!(bench.text(&id, "python3 -c 'print(6 * 7)'").await, "42\n");
    for argv in [
        vec!["/bin/true"],
        vec!["/bin/sh", "-c", "true"],
        vec!["/bin/sh", "-c", "/bin/true"],
        vec!["/nonexistent"],
    ] {
        let start = Instant::now();
        for _ in 0..50 {
            let argv = argv.iter().map(|a| a.to_string()).collect();
            if let Ok(exec) = isorun_agent::client::exec(
                bench.connect(&id).await,
                isorun_agent::protocol::Exec { argv, ..Default::default() },
            )
            .await
            {
                exec.output(100).await.unwrap();
            }
        }
        eprintln!("exec {argv:?} {:?}", start.elapsed() / 50);
    }
    let start = Instant::now();
    for _ in 0..50 {
        isorun_agent::client::info(bench.connect(&id).await).await.unwrap();
    }
    eprintln!("info {:?}", start.elapsed() / 50);
    let start = Instant::now();
    for _ in 0..50 {
        bench.connect(&id).await;
    }
    eprintln!("connect {:?}", start.elapsed() / 50);
    eprintln!(
        "{}",
        bench
            .text(
                &id,
                r#"cat > /tmp/t.py <<'P'
import os,time
def t(n,f):
    f(); s=time.time()
    for i in range(30): f()
    print(n,(time.time()-s)/30*1000)
def sp():
    os.waitpid(os.posix_spawn('/bin/true',['true'],{}),0)
def fk():
    p=os.fork()
    if p==0: os.execv('/bin/true',['true'])
    os.waitpid(p,0)
def f0():
    p=os.fork()
    if p==0: os._exit(0)
    os.waitpid(p,0)
t('posix_spawn',sp); t('fork+exec',fk); t('fork',f0)
P
python3 /tmp/t.py"#
            )
            .await
    );
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..50 {
            bench.sh(&id, "true").await;
        }
        eprintln!("exec {:?}", start.elapsed() / 50);
    }
    eprintln!("{:?}", bench.engine.stats(&id).await);
    let start = Instant::now();
    eprintln!("{:?}", bench.engine.destroy(&id).await);
    eprintln!("destroy {:?}", start.elapsed());
    bench.close().await;
}

#[tokio::test]
async fn a_checkpoint_is_restored_twice() {
    let bench = Bench::new(0).await;
    let id = bench.sandbox().await;
    bench.text(&id, "echo kept > /root/file; (while true; do date +%s >> /root/log; sleep 0.05; done) >/dev/null 2>&1 &").await;
    let image = bench.folder.path().join("image");
    std::fs::create_dir(&image).unwrap();
    let start = Instant::now();
    bench.engine.checkpoint(&id, &image, true).await.unwrap();
    eprintln!("checkpoint {:?}", start.elapsed());
    for _ in 0..2 {
        let copy = crate::support::spec();
        let copy_id = copy.id.clone();
        let start = Instant::now();
        bench.engine.restore(copy, &image).await.unwrap();
        eprintln!("restore {:?}", start.elapsed());
        assert_eq!(bench.text(&copy_id, "cat /root/file").await, "kept\n");
        assert_eq!(bench.text(&copy_id, "hostname").await, format!("{copy_id}\n"));
        let count = "wc -l < /root/log";
        let before: u32 = bench.text(&copy_id, count).await.trim().parse().unwrap();
        // The loop goes on in the copy.
        bench
            .text(&copy_id, &format!("until [ $({count}) -gt {before} ]; do sleep 0.02; done"))
            .await;
    }
    assert_eq!(bench.text(&id, "cat /root/file").await, "kept\n");
    bench.close().await;
}
