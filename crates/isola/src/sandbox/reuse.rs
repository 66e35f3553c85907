//! Tests that nothing of a guest is left in memory that is used again.

#![cfg(target_os = "linux")]

use test_macros::each_runtime;

use crate::{Language, Runtime, Sandbox, Template, args};

/// In code only in two parts, so that its occurrences in memory are values of the guest.
const SECRET: &[u8] = b"correct-horse-battery-staple";

fn occurrences(memory: &[u8]) -> usize {
    memory.windows(SECRET.len()).filter(|part| *part == SECRET).count()
}

/// Creates a sandbox that has the secret in many places of its memory.
async fn knowing(template: &Template) -> Sandbox {
    let source = match template.runtime().language() {
        Language::Python => {
            "secrets = []
def main(a, b):
    secrets.extend(a + b for _ in range(1000))
    return len(secrets)
"
        }
        Language::JavaScript => {
            "const secrets = [];
function main(a, b) {
    for (let i = 0; i < 1000; i++) secrets.push(new TextEncoder().encode(a + b));
    return secrets.length;
}"
        }
    };
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(source).await.unwrap();
    let (a, b) = std::str::from_utf8(SECRET).unwrap().split_at(10);
    assert_eq!(sandbox.run("main", args![a, b]).await.unwrap().as_str(), "1000");
    sandbox
}

/// Creates a sandbox in which nothing has run. Returns whether its memory was used before, and
/// the content of its memory.
async fn new_memory(template: &Template) -> (bool, Vec<u8>) {
    let sandbox = template.sandbox().instantiate(None).await.unwrap();
    let mut lease = sandbox.shared().lease(true).unwrap();
    let reused = lease.guest().unwrap().memory_reused;
    let state = lease.copy_state().await.unwrap();
    (reused, state.image.bytes().unwrap().to_vec())
}

#[each_runtime]
async fn used_memory_has_nothing_of_its_last_guest(runtime: Runtime) {
    let template = Template::builder(runtime).build().await.unwrap();
    let (reused, first) = new_memory(&template).await;
    assert!(!reused);
    // Other tests in this process may take turns.
    let mut all_reused = 0;
    for _ in 0..5 {
        let sandbox = knowing(&template).await;
        let mut lease = sandbox.shared().lease(false).unwrap();
        let state = lease.copy_state().await.unwrap();
        assert!(occurrences(state.image.bytes().unwrap()) >= 1000);
        lease.release();
        drop((state, sandbox));
        let (reused, memory) = new_memory(&template).await;
        assert_eq!(occurrences(&memory), 0);
        let differing = memory.iter().zip(&first).filter(|(a, b)| a != b).count();
        assert_eq!((differing, memory.len()), (0, first.len()));
        all_reused += u32::from(reused);
    }
    assert!(all_reused > 0);
}

#[each_runtime]
async fn memory_is_not_used_again_if_that_is_off(runtime: Runtime) {
    let template = Template::builder(runtime).reuse_memory(false).build().await.unwrap();
    for _ in 0..4 {
        drop(knowing(&template).await);
        assert!(!new_memory(&template).await.0);
    }
}

#[each_runtime]
async fn copies_use_the_memory_of_earlier_copies(runtime: Runtime) {
    let template = Template::builder(runtime).build().await.unwrap();
    let parent = knowing(&template).await;
    let snapshot = parent.snapshot().await.unwrap();
    let mut reused = 0;
    for number in 1..5 {
        let copy = snapshot.create_sandbox().await.unwrap();
        let mut lease = copy.shared().lease(false).unwrap();
        reused += u32::from(lease.guest().unwrap().memory_reused);
        lease.release();
        let added = copy.run("main", args!["", ""]).await.unwrap();
        assert_eq!(added.as_str(), "2000", "copy {number}");
    }
    assert!(reused > 0);
}
