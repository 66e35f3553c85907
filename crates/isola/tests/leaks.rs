//! Ten thousand forks leave nothing behind: no memory, no mapping, no
//! descriptor. A process of its own, since it is the process that is counted.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use isola::{Runtime, Template, args};

#[derive(Debug)]
struct Count {
    descriptors: usize,
    mappings: usize,
    /// Resident memory, in MiB.
    memory: usize,
}

fn count() -> Count {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Count {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        memory: kibibytes >> 10,
    }
}

#[tokio::test]
async fn ten_thousand_forks_leave_nothing_behind() {
    for (runtime, script, forks) in [
        (Runtime::JavaScript, "let n = 0; const main = () => ++n", 9_000),
        (Runtime::Python, "n = 0\ndef main():\n    global n\n    n += 1\n    return n\n", 1_000),
    ] {
        let template = Template::builder(runtime).build().await.unwrap();
        let parent = template.sandbox().create().await.unwrap();
        parent.start().await.unwrap();
        parent.load_script(script).await.unwrap();
        let round = async |forks: usize| {
            for _ in 0..forks / 10 {
                // A snapshot of its own each time, and forks of it.
                let children = parent.fork(10).await.unwrap();
                assert_eq!(children[3].run("main", args![]).await.unwrap().as_str(), "1");
            }
        };
        round(forks / 10).await;
        let before = count();
        round(forks).await;
        let after = count();
        assert!(after.descriptors <= before.descriptors, "{runtime}: {before:?} {after:?}");
        assert!(after.mappings <= before.mappings + 16, "{runtime}: {before:?} {after:?}");
        assert!(after.memory <= before.memory + 32, "{runtime}: {before:?} {after:?}");
    }
}
