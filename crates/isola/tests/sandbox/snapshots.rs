//! Snapshots and forks: preserved state, independence of copies, and refused
//! snapshots.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use futures_util::FutureExt as _;
use isola::{Args, Error, Event, Handlers, Language, Limits, Runtime, Sandbox, Template, args};
use serde_json::{Value as Json, json};
use test_macros::each_runtime;

use crate::{
    fixture::{
        RUNTIMES, Script, events, loaded, results, started, template, wait_for, writable_mount,
    },
    snapshot_files::with_header,
};

async fn run(sandbox: &Sandbox, function: &str, args: Args) -> Json {
    sandbox.run(function, args).await.unwrap().to().unwrap()
}

const COUNTER: Script = Script {
    python: "
import json, collections
count = 0
seen = collections.OrderedDict()
def step(by=1):
    global count
    count += by
    seen[count] = 'x' * 10
    return [count, len(seen)]
def numbers():
    for i in range(100):
        yield i
suspended = numbers()
def pull():
    return next(suspended)
def closure():
    kept = []
    def add(x):
        kept.append(x)
        return json.dumps(kept)
    return add
add = closure()
async def later(x):
    return x * 2
",
    javascript: "
let count = 0;
const seen = new Map();
function step(by = 1) {
  count += by;
  seen.set(count, 'x'.repeat(10));
  return [count, seen.size];
}
function* numbers() { for (let i = 0; i < 100; i++) yield i }
const suspended = numbers();
const pull = () => suspended.next().value;
const closure = () => { const kept = []; return (x) => { kept.push(x); return JSON.stringify(kept) } };
const add = closure();
async function later(x) { return x * 2 }
",
};

#[each_runtime]
async fn copies_have_the_state_and_are_independent(runtime: Runtime) {
    let parent = loaded(runtime, COUNTER).await;
    for _ in 0..3 {
        run(&parent, "step", args![]).await;
    }
    assert_eq!(run(&parent, "pull", args![]).await, json!(0));
    run(&parent, "add", args![1]).await;

    let children = parent.fork(3).await.unwrap();
    for (n, child) in (1..).zip(&children) {
        assert_eq!(run(child, "step", args![10 * n]).await, json!([3 + 10 * n, 4]));
        assert_eq!(run(child, "pull", args![]).await, json!(1), "a generator");
        let text = run(child, "add", args![n]).await;
        assert_eq!(text.as_str().unwrap().replace(' ', ""), format!("[1,{n}]"));
        assert_eq!(run(child, "later", args![n]).await, json!(2 * n));
    }
    // The parent is not affected.
    assert_eq!(run(&parent, "step", args![]).await, json!([4, 4]));
    assert_eq!(run(&parent, "pull", args![]).await, json!(1));

    // A fork of a fork, after its ancestors were dropped.
    let grandchild = children[1].fork(1).await.unwrap().remove(0);
    drop(children);
    drop(parent);
    assert_eq!(run(&grandchild, "step", args![]).await, json!([24, 5]));
    assert_eq!(run(&grandchild, "pull", args![]).await, json!(2));
    grandchild
        .load_script(match runtime.language() {
            Language::Python => "import decimal\ndef late(): return str(decimal.Decimal(count))",
            Language::JavaScript => "const late = () => String(count)",
        })
        .await
        .unwrap();
    assert_eq!(run(&grandchild, "late", args![]).await, json!("24"));
}

#[each_runtime]
async fn snapshot_can_be_restored_many_times(runtime: Runtime) {
    let parent = loaded(runtime, COUNTER).await;
    run(&parent, "step", args![5]).await;
    let snapshot = parent.snapshot().await.unwrap();
    assert!(snapshot.resident_size() > 0 && snapshot.resident_size() <= snapshot.memory_size());
    run(&parent, "step", args![5]).await;
    parent.close();
    for _ in 0..20 {
        let child = snapshot.create_sandbox().await.unwrap();
        assert_eq!(run(&child, "step", args![]).await, json!([6, 2]));
    }
}

#[each_runtime]
async fn memory_of_a_child_can_grow_to_its_limit(runtime: Runtime) {
    let script = Script {
        python: "kept = []\ndef grow(n):\n    for _ in range(n): kept.append(bytearray(1 << 20))\n    return len(kept)",
        javascript: "const kept = []; function grow(n) { for (let i = 0; i < n; i++) kept.push(new Uint8Array(1 << 20).fill(1)); return kept.length }",
    };
    let parent = loaded(runtime, script).await;
    run(&parent, "grow", args![60]).await;
    let snapshot = parent.snapshot().await.unwrap();
    let child = snapshot.create_sandbox().await.unwrap();
    assert_eq!(run(&child, "grow", args![60]).await, json!(120));
    assert_eq!(run(&parent, "grow", args![1]).await, json!(61));

    // The limit includes the memory of the snapshot.
    let small = Limits { max_memory: 160 << 20, ..Limits::default() };
    let child = snapshot.sandbox().limits(small).create().await.unwrap();
    let error = child.run("grow", args![100]).await.unwrap_err();
    assert_eq!(error.code(), "memory_limit", "{error}");
    let error = snapshot.sandbox().max_memory(64 << 20).create().await.unwrap_err();
    assert_eq!(error.code(), "invalid_argument", "{error}");
    assert!(error.to_string().contains("already has"), "{error}");
}

const IDENTITY: Script = Script {
    python: "
import os, random, secrets, tempfile, time, uuid
random.seed(7)
r = random.random
def draw():
    import tempfile
    name = next(tempfile._get_candidate_names())
    return [r(), secrets.token_hex(8), str(uuid.uuid4()), os.urandom(8).hex(), name]
def clocks():
    return [time.monotonic(), time.time()]
def env():
    return dict(os.environ)
draw()
",
    javascript: "
const r = Math.random;
const draw = () => [r(), Math.random(), crypto.randomUUID?.() ?? r(), [...crypto.getRandomValues(new Uint8Array(8))].join()];
const clocks = () => [performance.now() / 1000, Date.now() / 1000];
const env = () => ({ ...process.env });
draw();
",
};

#[each_runtime]
async fn children_draw_different_random_numbers(runtime: Runtime) {
    let parent = loaded(runtime, IDENTITY).await;
    let children = parent.fork(20).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    let mut drawn = 0;
    for sandbox in children.iter().chain([&parent]) {
        for value in run(sandbox, "draw", args![]).await.as_array().unwrap() {
            drawn += 1;
            assert!(seen.insert(value.to_string()), "{value} came twice");
        }
    }
    assert!(drawn >= 21 * 4);
}

#[each_runtime]
async fn clocks_continue_in_a_child(runtime: Runtime) {
    let parent = loaded(runtime, IDENTITY).await;
    // Time passes before the snapshot, so that a clock that starts again is noticed, and
    // after it, so that one that was stopped is.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let before: [f64; 2] = parent.run("clocks", args![]).await.unwrap().to().unwrap();
    let snapshot = parent.snapshot().await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let child = snapshot.create_sandbox().await.unwrap();
    let after: [f64; 2] = child.run("clocks", args![]).await.unwrap().to().unwrap();
    assert!(after[0] >= before[0], "{before:?} {after:?}");
    assert!(after[1] >= before[1] + 0.03, "{before:?} {after:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((after[1] - now.as_secs_f64()).abs() < 60.0);
}

#[each_runtime]
async fn each_child_has_its_own_host_and_environment(runtime: Runtime) {
    let template = template(runtime).await;
    let parent = template.sandbox().env("A", "1").env("B", "1").create().await.unwrap();
    parent.start().await.unwrap();
    parent.load_script(IDENTITY.of(runtime)).await.unwrap();
    let call = match runtime.language() {
        Language::Python => {
            "from sandbox.asyncio import hostcall\nasync def ask(): return await hostcall('who', None)\n"
        }
        Language::JavaScript => "const ask = () => hostcall('who', null)",
    };
    parent.load_script(call).await.unwrap();
    let snapshot = parent.snapshot().await.unwrap();
    for name in ["x", "y"] {
        let host = Handlers::new().hostcall("who", move |_| async move {
            isola::Value::new(&name).map_err(|_| isola::HostError::new("no"))
        });
        let child = snapshot.sandbox().host(host).env("B", name).env("C", "3").create().await;
        let child = child.unwrap();
        assert_eq!(run(&child, "env", args![]).await, json!({"A": "1", "B": name, "C": "3"}));
        assert_eq!(run(&child, "ask", args![]).await, json!(name));
    }
    // Without a host of its own the child has none, and the parent's environment is
    // unchanged.
    let child = snapshot.create_sandbox().await.unwrap();
    assert_eq!(child.run("ask", args![]).await.unwrap_err().code(), "hostcall_failed");
    assert_eq!(run(&parent, "env", args![]).await, json!({"A": "1", "B": "1"}));
}

#[tokio::test]
async fn mounts_are_those_of_the_child() {
    let dir_with_file = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("name"), text).unwrap();
        dir
    };
    let (one, two) = (dir_with_file("one"), dir_with_file("two"));
    let mount = |dir: &tempfile::TempDir| writable_mount(dir, "/data");
    let template = template(Runtime::Python).await;
    let parent = template.sandbox().mount(mount(&one)).create().await.unwrap();
    parent.start().await.unwrap();
    let script = "
def read():
    with open('/data/name') as file: return file.read()
kept = []
def keep(name):
    kept.append(open(name))
    kept[0].read(1)
def rest():
    return kept[0].read()
def drop():
    kept.pop().close()
def write():
    import os
    os.write(1, b'written')
    os.stat('/data')
    return os.listdir('/data')
";
    parent.load_script(script).await.unwrap();
    assert_eq!(run(&parent, "read", args![]).await, json!("one"));
    let snapshot = parent.snapshot().await.unwrap();
    let child = snapshot.sandbox().mount(mount(&two)).create().await.unwrap();
    assert_eq!(run(&child, "read", args![]).await, json!("two"));
    assert_eq!(run(&parent, "read", args![]).await, json!("one"));

    for sandbox in [&parent, &child] {
        // libc still has valid descriptors.
        let events = events(sandbox.run_stream("write", args![]).unwrap()).await;
        assert!(matches!(&events[0], Event::Stdout(text) if text == "written"), "{events:?}");
        assert_eq!(results(&events).1.unwrap(), "[\"name\"]");
    }

    // A guest with an open file cannot be copied; the error names the file.
    run(&parent, "keep", args!["/data/name"]).await;
    let error = parent.snapshot().await.unwrap_err();
    assert_eq!(error.code(), "snapshot_refused");
    assert!(error.to_string().contains("/data/name"), "{error}");
    // The parent is not affected.
    assert_eq!(run(&parent, "rest", args![]).await, json!("ne"));
    run(&parent, "drop", args![]).await;
    assert_eq!(
        run(&parent.snapshot().await.unwrap().create_sandbox().await.unwrap(), "read", args![])
            .await,
        json!("one")
    );
}

#[each_runtime]
async fn sandbox_that_is_not_idle_is_refused(runtime: Runtime) {
    let sandbox = template(runtime).await.sandbox().create().await.unwrap();
    assert!(matches!(sandbox.snapshot().await, Err(Error::NotRunning)));
    sandbox.start().await.unwrap();
    sandbox
        .load_script(match runtime.language() {
            Language::Python => "import asyncio\nasync def wait(): await asyncio.sleep(60)",
            Language::JavaScript => "const wait = () => new Promise(r => setTimeout(r, 60000))",
        })
        .await
        .unwrap();
    let call = tokio::spawn(async move {
        let call = sandbox.run("wait", args![]).into_future();
        tokio::pin!(call);
        assert!((&mut call).now_or_never().is_none());
        let error = sandbox.fork(1).await.unwrap_err();
        assert!(matches!(error, Error::Busy), "{error}");
        sandbox.close();
        assert!(call.await.is_err());
        assert!(matches!(sandbox.snapshot().await, Err(Error::Closed(_))));
    });
    call.await.unwrap();
}

#[each_runtime]
async fn child_of_a_closed_sandbox_continues(runtime: Runtime) {
    let parent = started(runtime).await;
    parent
        .load_script(match runtime.language() {
            Language::Python => "x = 5\ndef hang():\n    while True: pass\ndef get(): return x",
            Language::JavaScript => {
                "const x = 5; const hang = () => { for (;;); }; const get = () => x"
            }
        })
        .await
        .unwrap();
    let child = parent.fork(1).await.unwrap().remove(0);
    let limit = Duration::from_millis(50);
    assert!(parent.run("hang", args![]).cpu_timeout(limit).await.is_err());
    assert!(parent.is_closed());
    assert_eq!(run(&child, "get", args![]).await, json!(5));
}

const PRELUDE: Script = Script {
    python: "import json, re, dataclasses, datetime, collections, asyncio, random\ntoken = random.random()\ntable = [n * n for n in range(1000)]\ncalls = 0\n",
    javascript: "const token = Math.random(); const table = Array.from({ length: 1000 }, (_, n) => n * n); let calls = 0;\n",
};

#[each_runtime]
async fn prelude_runs_once_and_sandboxes_are_independent(runtime: Runtime) {
    let template =
        Template::builder(runtime).prelude(PRELUDE.of(runtime)).env("A", "1").build().await;
    let template = template.unwrap();
    let script = match runtime.language() {
        Language::Python => {
            "def main():\n    global calls\n    calls += 1\n    return [token, table[-1], calls]\ndef env():\n    import os\n    return dict(os.environ)"
        }
        Language::JavaScript => {
            "const main = () => [token, table.at(-1), ++calls]; const env = () => ({...process.env})"
        }
    };
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let sandbox = template.sandbox().create().await.unwrap();
        assert!(matches!(sandbox.run("main", args![]).await, Err(Error::NotRunning)));
        sandbox.start().await.unwrap();
        sandbox.load_script(script).await.unwrap();
        let answer = run(&sandbox, "main", args![]).await;
        assert_eq!(answer[1], json!(998_001));
        assert_eq!(answer[2], json!(1));
        tokens.push(answer[0].clone());
        assert_eq!(run(&sandbox, "env", args![]).await, json!({"A": "1"}));
    }
    assert!(tokens[0] == tokens[1] && tokens[1] == tokens[2], "it ran once");

    // The prelude may depend on the environment, so another one runs it again.
    let sandbox = template.sandbox().env("B", "2").create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    assert_ne!(run(&sandbox, "main", args![]).await[0], tokens[0]);
}

#[each_runtime]
async fn prelude_with_hostcalls_runs_in_each_sandbox(runtime: Runtime) {
    let prelude = match runtime.language() {
        Language::Python => {
            "from sandbox.asyncio import hostcall, run\nasync def ask():\n    try: return await hostcall('who', None)\n    except Exception as error: return str(error)\nwho = run(ask())\n"
        }
        Language::JavaScript => {
            "try { globalThis.who = await hostcall('who', null) } catch (error) { globalThis.who = String(error) }\n"
        }
    };
    let template = Template::builder(runtime).prelude(prelude).build().await.unwrap();
    for name in ["x", "y"] {
        let host = Handlers::new().hostcall("who", move |_| async move {
            isola::Value::new(&name).map_err(|_| isola::HostError::new("no"))
        });
        let sandbox = template.sandbox().host(host).create().await.unwrap();
        sandbox.start().await.unwrap();
        let script = match runtime.language() {
            Language::Python => "def main(): return who",
            Language::JavaScript => "const main = () => who",
        };
        sandbox.load_script(script).await.unwrap();
        assert_eq!(run(&sandbox, "main", args![]).await, json!(name));
    }
}

const KEPT: Script = Script {
    python: "import json, collections\nkept = collections.Counter('mississippi')\ndef items():\n    yield from range(9)\npending = items()\nnext(pending)\ndef main():\n    return [kept['s'], next(pending), json.dumps([1])]\n",
    javascript: "const kept = new Map([...'mississippi'].map((c, i, all) => [c, all.filter(x => x === c).length]));\nfunction* items() { for (let i = 0; i < 9; i++) yield i }\nconst pending = items();\npending.next();\nconst main = () => [kept.get('s'), pending.next().value, JSON.stringify([1])];\n",
};

/// The environment variable that the test sets in its child process: the directory of
/// the snapshots.
const DIR_VARIABLE: &str = "ISOLA_TEST_SNAPSHOTS";

/// Tests both runtimes together, because it lists their snapshots.
#[tokio::test]
async fn snapshot_file_is_restored_in_another_process() {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        for runtime in RUNTIMES {
            let path = std::path::Path::new(&dir).join(format!("{runtime}.snapshot"));
            let snapshot = template(runtime).await.load_snapshot(path).await.unwrap();
            for _ in 0..2 {
                let sandbox = snapshot.create_sandbox().await.unwrap();
                let answer = run(&sandbox, "main", args![]).await;
                assert_eq!(answer, json!([4, 2, "[1]"]), "{runtime}");
            }
        }
        println!("restored both");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for runtime in RUNTIMES {
        let sandbox = loaded(runtime, KEPT).await;
        run(&sandbox, "main", args![]).await;
        let path = dir.path().join(format!("{runtime}.snapshot"));
        let size = sandbox.snapshot().await.unwrap().save(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size, "{runtime}");
        let info = isola::SnapshotInfo::read(&path).unwrap();
        assert_eq!(info.runtime, runtime.name());
        assert!(info.size < info.changed_size && info.changed_size < info.memory_size, "{info:?}");
    }
    let names: Vec<_> = isola::list_snapshots(dir.path()).unwrap();
    assert_eq!(
        names.iter().map(|info| info.runtime.as_str()).collect::<Vec<_>>(),
        ["js", "python"]
    );
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "snapshots::snapshot_file_is_restored_in_another_process"])
        .arg("--nocapture")
        .env(DIR_VARIABLE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("restored both"), "{output:?}");
}

#[tokio::test]
async fn damaged_or_incompatible_file_is_refused() {
    let template = template(Runtime::JavaScript).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.snapshot");
    let sandbox = loaded(Runtime::JavaScript, KEPT).await;
    sandbox.snapshot().await.unwrap().save(&path).await.unwrap();
    let file = std::fs::read(&path).unwrap();
    let refused = async |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = template.load_snapshot(&path).await.unwrap_err();
        assert_eq!(error.code(), "snapshot_refused", "{error}");
        error.to_string()
    };

    // Damage at any position.
    let mut at = 0;
    while at < file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        refused(&damaged).await;
        at += 1 + file.len() / 97;
    }
    for len in [0, 4, 11, 300, file.len() / 2, file.len() - 1] {
        refused(&file[..len]).await;
    }
    assert!(refused(b"#!/bin/sh\necho no snapshot\n").await.contains("not a snapshot"));

    // Snapshots of another runtime, build, engine or memory.
    let set = |key: &'static str, value: Json| with_header(&file, |header| header[key] = value);
    let rows = [
        ("runtime", json!("python"), "for the runtime python"),
        ("guest", json!("0"), "a different build"),
        ("engine", json!("0"), "a different engine version or configuration"),
        ("base", json!([1, 2]), "a different initial memory"),
        ("memory", json!(1_u64 << 31), "max_memory"),
        ("memory", json!(1_u64 << 40), "memory size is invalid"),
        ("memory", json!(64 << 10), "damaged"),
        ("memory", json!((64 << 20) + 1), "damaged"),
    ];
    for (key, value, expected) in rows {
        let error = refused(&set(key, value)).await;
        assert!(error.contains(expected), "{key}: {error}");
    }
    // Missing globals: the restore fails, and no code runs.
    std::fs::write(&path, set("globals", json!([]))).unwrap();
    let snapshot = template.load_snapshot(&path).await.unwrap();
    assert!(snapshot.create_sandbox().await.is_err());

    // The unchanged header gives a valid snapshot.
    std::fs::write(&path, with_header(&file, |_| ())).unwrap();
    let snapshot = template.load_snapshot(&path).await.unwrap();
    let sandbox = snapshot.create_sandbox().await.unwrap();
    assert_eq!(run(&sandbox, "main", args![]).await, json!([4, 1, "[1]"]));

    let missing = template.load_snapshot(dir.path().join("none")).await.unwrap_err();
    assert_eq!(missing.code(), "snapshot_refused");
    let nowhere = dir.path().join("no/such/directory/x");
    let error = sandbox.snapshot().await.unwrap().save(nowhere).await.unwrap_err();
    assert_eq!(error.code(), "invalid_argument", "{error}");
}

/// The steps of a program. Each returns a summary of the state.
const STEPS: Script = Script {
    python: "
import collections, decimal, gc, itertools, json, re
state = {'list': [], 'dict': {}, 'text': '', 'sum': decimal.Decimal(0), 'made': []}
def items(n):
    while True:
        n = (n * 5 + 1) % 1009
        yield n
pending = [items(i) for i in range(3)]
def closure():
    n = 0
    def add(k):
        nonlocal n
        n += k
        return n
    return add
adders = [closure(), closure()]
def step(kind, k):
    if kind == 0: state['list'].append([k] * (k % 50))
    elif kind == 1: state['dict'][str(k % 97)] = {'k': k}
    elif kind == 2: return next(pending[k % 3])
    elif kind == 3: return adders[k % 2](k)
    elif kind == 4: state['text'] = re.sub('[aeiou]', 'x', state['text'] + chr(97 + k % 26) * (k % 300))
    elif kind == 5: state['sum'] += decimal.Decimal(k) / 7; return str(state['sum'])
    elif kind == 6: state['made'] = state['made'][-3:] + [bytearray(k % 7 << 18)]
    elif kind == 7: exec(f'class C{k % 5}:\\n    n = {k}\\n', globals()); return globals()[f'C{k % 5}'].n
    elif kind == 8: state['list'] = state['list'][k % 5:]; gc.collect()
    return [len(state['list']), len(state['dict']), len(state['text']), len(json.dumps(state['dict']))]
",
    javascript: "
const state = { list: [], dict: new Map(), text: '', made: [] };
function* items(n) { for (;;) { n = (n * 5 + 1) % 1009; yield n } }
const pending = [items(0), items(1), items(2)];
const closure = () => { let n = 0; return (k) => n += k };
const adders = [closure(), closure()];
const weak = new WeakMap();
function step(kind, k) {
  if (kind === 0) state.list.push(Array(k % 50).fill(k));
  else if (kind === 1) { const o = { k }; state.dict.set(k % 97, o); weak.set(o, k) }
  else if (kind === 2) return pending[k % 3].next().value;
  else if (kind === 3) return adders[k % 2](k);
  else if (kind === 4) state.text = (state.text + String.fromCharCode(97 + k % 26).repeat(k % 300)).replace(/[aeiou]/g, 'x');
  else if (kind === 5) return [...state.dict.values()].map((o) => weak.get(o)).join();
  else if (kind === 6) state.made = [...state.made.slice(-3), new Uint8Array(k % 7 << 18).fill(k)];
  else if (kind === 7) return eval(`class C { static n = ${k} } C.n`);
  else if (kind === 8) state.list = state.list.slice(k % 5);
  return [state.list.length, state.dict.size, state.text.length, JSON.stringify([...state.dict]).length];
}
",
};

/// Runs pseudo-random programs with fixed seeds, each in two sandboxes: one is never
/// copied, and the other is repeatedly replaced by a copy of itself.
#[each_runtime]
async fn copied_programs_behave_like_the_original(runtime: Runtime) {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=6_u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            // Xorshift, by Marsaglia.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let alone = loaded(runtime, STEPS).await;
        let mut copied = loaded(runtime, STEPS).await;
        for number in 0..80 {
            let (kind, k) = (next(9), next(100_000));
            let expected = run(&alone, "step", args![kind, k]).await;
            let answer = run(&copied, "step", args![kind, k]).await;
            assert_eq!(answer, expected, "seed {seed}, step {number}");
            match next(12) {
                0..3 => copied = copied.fork(2).await.unwrap().remove(1),
                3 => {
                    let path = dir.path().join("a.snapshot");
                    copied.snapshot().await.unwrap().save(&path).await.unwrap();
                    let loaded = template(runtime).await.load_snapshot(&path).await.unwrap();
                    copied = loaded.create_sandbox().await.unwrap();
                }
                _ => {}
            }
        }
    }
}

#[each_runtime]
async fn cancelled_fork_does_not_change_the_parent(runtime: Runtime) {
    let parent = loaded(runtime, COUNTER).await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), parent.fork(20_000)).await;
    assert!(given_up.is_err());
    // A copy in progress is finished.
    let step = async {
        loop {
            match parent.run("step", args![]).await {
                Err(Error::Busy) => tokio::time::sleep(Duration::from_millis(1)).await,
                other => break other.unwrap(),
            }
        }
    };
    let stepped = wait_for("the end of the copy", step).await;
    assert_eq!(stepped.to::<Json>().unwrap(), json!([1, 1]));
    assert_eq!(parent.fork(0).await.unwrap().len(), 0);
}

/// The second copy records the pages that copies write first, and later copies get
/// them in advance. That must change only the cost.
#[each_runtime]
async fn copies_with_prefetched_pages_behave_the_same(runtime: Runtime) {
    let parent = loaded(runtime, COUNTER).await;
    run(&parent, "step", args![]).await;
    let snapshot = parent.snapshot().await.unwrap();
    let mut answers = Vec::new();
    for n in 0..4 {
        let child = snapshot.create_sandbox().await.unwrap();
        answers.push([run(&child, "step", args![]).await, run(&child, "add", args![1]).await]);
        // A write of one copy is not visible in the next.
        run(&child, "step", args![100 * n]).await;
    }
    assert!(answers.iter().all(|each| *each == answers[0]), "{answers:?}");
    assert_eq!(answers[0][0], json!([2, 2]));
}

#[each_runtime]
async fn other_tasks_run_while_a_guest_is_copied(runtime: Runtime) {
    let parent = loaded(runtime, COUNTER).await;
    let turns = AtomicUsize::new(0);
    let copying = async {
        let snapshot = parent.snapshot().await.unwrap();
        (snapshot.memory_size(), turns.load(Relaxed))
    };
    let others = async {
        loop {
            turns.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let (size, turns) = tokio::select! {
        copied = copying => copied,
        () = others => unreachable!("the loop is endless"),
    };
    // At least one turn for every few megabytes.
    assert!(turns as u64 > size >> 23, "{turns} turns for {size} bytes");
    // The parent's state is unchanged.
    assert_eq!(run(&parent, "step", args![]).await, json!([1, 1]));
}
