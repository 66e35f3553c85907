//! CPU time. These cases run alone, since others use CPU time as well.

use std::time::{Duration, Instant};

use isorun_agent::protocol::{Exec, Status};

use super::{Sandbox, shell, spec};
use crate::engine::{CpuWeight, Engine};

/// The interval of a measurement.
const INTERVAL: Duration = Duration::from_secs(3);
/// The number of intervals in which the kernel must have divided CPU time once. It weighs
/// the programs of each CPU against each other: all depends on which ones it has put on the
/// same CPU, and other programs of the machine make it move them.
const MAX_INTERVALS: usize = 5;

/// Two busy loops together get at most the CPU time of one CPU, in a new sandbox and in a
/// restored one.
pub async fn cpu_quota_is_enforced(engine: &dyn Engine) {
    let small = || crate::SandboxSpec { vcpus: 1, ..spec() };
    let sandbox = Sandbox::with_spec(engine, small()).await;
    assert_quota_of_one(&sandbox).await;
    if engine.capabilities().checkpoint {
        let dir = tempfile::tempdir().unwrap();
        engine.checkpoint(&sandbox.id, dir.path(), false).await.unwrap();
        assert_quota_of_one(&Sandbox::restore(engine, small(), dir.path()).await).await;
    }
}

async fn assert_quota_of_one(sandbox: &Sandbox<'_>) {
    let used = async || sandbox.engine.stats(&sandbox.id).await.unwrap().cpu_ms;
    let before = used().await;
    let start = Instant::now();
    let spin = "(while :; do :; done) & while :; do :; done";
    let exec = sandbox.exec(Exec { timeout_ms: Some(3000), ..shell(spin) }).await.unwrap();
    assert_eq!(exec.output(10).await.unwrap().status, Status::TimedOut);
    let took = start.elapsed().as_millis() as u64;
    let used = used().await - before;
    assert!(used <= took * 13 / 10 + 200, "{used} ms of CPU time in {took} ms");
    assert!(used > 300, "{used} ms of CPU time in {took} ms");
}

/// While CPU time is scarce, a sandbox with a quarter of the weight gets much less
/// of it than one with the whole weight.
pub async fn cpu_time_is_divided_by_weight(engine: &dyn Engine) {
    let machine = std::thread::available_parallelism().unwrap().get() as u32;
    let busy = || crate::SandboxSpec { vcpus: machine, ..spec() };
    let (first, second) =
        (Sandbox::with_spec(engine, busy()).await, Sandbox::with_spec(engine, busy()).await);
    let spin = format!("for i in $(seq {machine}); do (while :; do :; done) & done; wait");
    let _running =
        (first.exec(shell(&spin)).await.unwrap(), second.exec(shell(&spin)).await.unwrap());
    let used = async |sandbox: &Sandbox| engine.stats(&sandbox.id).await.unwrap().cpu_ms;
    for (light, heavy) in [(&first, &second), (&second, &first)] {
        engine.set_cpu_weight(&heavy.id, CpuWeight::FULL).await.unwrap();
        engine.set_cpu_weight(&light.id, CpuWeight::of_thousandths(250)).await.unwrap();
        let mut shares = Vec::new();
        let is_divided = loop {
            let before = (used(light).await, used(heavy).await);
            tokio::time::sleep(INTERVAL).await;
            let (light, heavy) = (used(light).await - before.0, used(heavy).await - before.1);
            shares.push((heavy, light));
            if heavy > light * 2 || shares.len() == MAX_INTERVALS {
                break heavy > light * 2;
            }
        };
        assert!(is_divided, "milliseconds of the heavy and the light one: {shares:?}");
    }
}
