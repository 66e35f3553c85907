//! Isolation of sandboxes from each other, and of the host from all of them.

use std::collections::HashSet;

use isola::{Runtime, args};
use serde_json::json;
use test_macros::each_runtime;

use crate::fixture::{Script, loaded, run_main, started_with};

#[each_runtime]
async fn globals_and_patches_stay_in_their_sandbox(runtime: Runtime) {
    let writer = Script {
        python: "
import builtins, json, sys
builtins.leak = json.leak = leak = 'secret'
sys.modules['leak'] = json
def main():
    return leak
",
        javascript: "
globalThis.leak = Object.prototype.leak = 'secret';
function main() { return leak }
",
    };
    let reader = Script {
        python: "
import builtins, json, sys
def main():
    return [hasattr(builtins, 'leak'), hasattr(json, 'leak'), 'leak' in sys.modules, 'leak' in globals()]
",
        javascript: "
function main() { return [typeof leak !== 'undefined', 'leak' in {}, 'leak' in globalThis, false] }
",
    };
    let writing = loaded(runtime, writer).await;
    assert_eq!(writing.run("main", args![]).await.unwrap(), json!("secret"));
    let reading = loaded(runtime, reader).await;
    let seen = reading.run("main", args![]).await.unwrap();
    assert_eq!(seen, json!([false, false, false, false]));
}

#[each_runtime]
async fn environment_contains_only_given_variables(runtime: Runtime) {
    let script = Script {
        python: "import os\ndef main():\n    return dict(os.environ)\n",
        javascript: "function main() { return {...process.env} }",
    };
    assert_eq!(run_main(runtime, script, args![]).await.unwrap(), json!({}));

    let template = isola::Template::builder(runtime)
        .env("A", "template")
        .env("B", "template")
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().env("B", "sandbox").env("C", "ü=1").create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script.of(runtime)).await.unwrap();
    let env = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(env, json!({"A": "template", "B": "sandbox", "C": "ü=1"}));

    let bad = template.sandbox().env("A=B", "c").create().await;
    assert!(bad.unwrap_err().to_string().contains("A=B"));
}

#[each_runtime]
async fn random_numbers_differ(runtime: Runtime) {
    let script = Script {
        python: "
import os, random, secrets, tempfile, uuid
def main():
    return [random.random(), random.Random().random(), secrets.token_hex(), str(uuid.uuid4()),
            os.urandom(8).hex(), next(tempfile._get_candidate_names())]
",
        javascript: "
function main() {
    return [Math.random(), crypto.randomUUID(), ...crypto.getRandomValues(new Uint32Array(2))];
}
",
    };
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let drawn: Vec<serde_json::Value> =
            run_main(runtime, script, args![]).await.unwrap().to().unwrap();
        for number in drawn {
            assert!(seen.insert(number.to_string()), "{number} twice");
        }
    }
}

#[each_runtime]
async fn clock_matches_the_host(runtime: Runtime) {
    let script = Script {
        python: "import time\ndef main():\n    return time.time()\n",
        javascript: "function main() { return Date.now() / 1000 }",
    };
    let guest: f64 = run_main(runtime, script, args![]).await.unwrap().to().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((guest - host.as_secs_f64()).abs() < 5.0, "{guest}");
}

#[tokio::test]
async fn files_sockets_and_processes_are_unavailable() {
    let script = Script {
        python: "
import os, socket, subprocess
def attempt(what):
    try:
        return ['done', repr(what())]
    except Exception as error:
        return ['refused', type(error).__name__]
def main():
    return [attempt(what)[0] for what in (
        lambda: os.listdir('/etc'),
        lambda: open('/etc/passwd').read(),
        lambda: os.listdir('/proc'),
        lambda: open('../../etc/passwd').read(),
        lambda: socket.create_connection(('127.0.0.1', 22), 1),
        lambda: socket.socket().bind(('127.0.0.1', 0)),
        lambda: socket.getaddrinfo('localhost', 80),
        lambda: subprocess.run(['ls']),
        lambda: os.fork(),
        lambda: os.system('ls'),
    )]
",
        javascript: "",
    };
    let outcomes: Vec<String> =
        run_main(Runtime::Python, script, args![]).await.unwrap().to().unwrap();
    assert_eq!(outcomes, vec!["refused"; 10]);
}

#[tokio::test]
async fn javascript_cannot_bypass_the_runner() {
    let script = Script {
        python: "",
        javascript: "
async function attempt(what) {
    try { return ['done', String(await what())] } catch (error) { return ['refused', error.name] }
}
async function main() {
    return [
        await attempt(() => import('isola:sandbox/host')),
        await attempt(() => import('./runner.js')),
        await attempt(() => require('fs')),
        await attempt(() => Deno.env),
        await attempt(() => fetch('http://127.0.0.1:1/')),
    ].map(([outcome]) => outcome);
}
",
    };
    let outcomes: Vec<String> =
        run_main(Runtime::JavaScript, script, args![]).await.unwrap().to().unwrap();
    assert_eq!(outcomes, vec!["refused"; 5]);
}

#[each_runtime(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_sandboxes_have_separate_states(runtime: Runtime) {
    let script = Script {
        python: "
state = None
def put(value):
    global state
    state = value
def get():
    return state
",
        javascript: "let state; function put(value) { state = value } function get() { return state }",
    };
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            tokio::spawn(async move {
                let sandbox = loaded(runtime, script).await;
                sandbox.run("put", args![number]).await.unwrap();
                tokio::task::yield_now().await;
                assert_eq!(sandbox.run("get", args![]).await.unwrap(), json!(number));
                sandbox
            })
        })
        .collect();
    let mut sandboxes = Vec::new();
    for task in tasks {
        sandboxes.push(task.await.unwrap());
    }
    for (number, sandbox) in sandboxes.iter().enumerate() {
        assert_eq!(sandbox.run("get", args![]).await.unwrap(), json!(number));
    }
}

#[each_runtime]
async fn an_idle_guest_holds_no_handle(runtime: Runtime) {
    // The remaining handles of the guest show it: their number is the same after a
    // thousand calls that each opened a timer.
    let script = Script {
        python: "
import asyncio
async def main():
    await asyncio.sleep(0.0001)
",
        javascript: "async function main() { await new Promise(r => setTimeout(r, 0)) }",
    };
    let limits = isola::Limits { max_handles: 32, ..isola::Limits::default() };
    let sandbox = started_with(runtime, limits, isola::DenyAll).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    for _ in 0..1000 {
        sandbox.run("main", args![]).await.unwrap();
    }
}
