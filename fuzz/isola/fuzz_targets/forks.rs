//! Random programs, forked or snapshotted at random points: the original and the copy
//! must both continue unchanged. The same program runs in a sandbox that is never
//! copied, and all must return the same result at each step.
#![no_main]

use std::sync::OnceLock;

use isola::{Runtime, Sandbox, Template, args};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// The steps of a program, each with an argument that the input selects. They cover
/// state that is hard to copy: memory that grows and is freed, suspended generators,
/// closures, caches, big integers, exceptions.
const PYTHON: &str = "
import gc, json, re, zlib
state = {'list': [], 'map': {}, 'blob': bytearray(), 'gens': []}
def count(n):
    while True:
        n = n * 31 + 7 & 0xffffff
        yield n
def adder(n):
    total = 0
    def add(x):
        nonlocal total
        total += n * x
        return total
    return add
add = adder(3)
class Node:
    made = 0
    def __init__(self, n, last):
        Node.made += 1
        self.n, self.last = n, last
chain = None
big = 1
def step(kind, n):
    global chain, big
    if kind == 0: state['list'].extend(range(n * 50)); return len(state['list'])
    if kind == 1: state['map'][f'k{n % 40}'] = [n] * (n % 9); return sorted(state['map'])[:9]
    if kind == 2: state['blob'] += bytes([n]) * (n * 2000); return zlib.crc32(state['blob'])
    if kind == 3: state['gens'].append(count(n)); return len(state['gens'])
    if kind == 4: return [next(each) for each in state['gens'][-20:]]
    if kind == 5: return add(n)
    if kind == 6: chain = Node(n, chain); return Node.made
    if kind == 7: chain = None; return gc.collect() >= 0
    if kind == 8: big = big * (n + 3) % 2**4000; return big % 1000007
    if kind == 9: state['blob'] = bytearray(); state['list'].clear(); return 0
    if kind == 10: return re.sub('[aeiou]', str(n), json.dumps(state['map']))[:200]
    if kind == 11: raise KeyError(n)
    return state['list'][n % (len(state['list']) or 1):][:3]
";

const JAVASCRIPT: &str = "
const state = { list: [], map: new Map(), blob: new Uint8Array(0), gens: [] };
function* count(n) { for (;;) yield (n = (n * 31 + 7) & 0xffffff) }
const adder = (n) => { let total = 0; return (x) => (total += n * x) };
const add = adder(3);
class Node { static made = 0; constructor(n, last) { Node.made++; this.n = n; this.last = last } }
let chain = null, big = 1n;
function grown(n) {
  const blob = new Uint8Array(state.blob.length + n * 200).fill(n);
  blob.set(state.blob);
  state.blob = blob;
  return blob.reduce((sum, byte) => (sum * 31 + byte) | 0, 0);
}
function step(kind, n) {
  switch (kind) {
    case 0: for (let i = 0; i < n * 50; i++) state.list.push(i); return state.list.length;
    case 1: state.map.set('k' + (n % 40), new Array(n % 9).fill(n)); return [...state.map.keys()].sort().slice(0, 9);
    case 2: return state.blob.length > 2e5 ? 0 : grown(n);
    case 3: state.gens.push(count(n)); return state.gens.length;
    case 4: return state.gens.slice(-20).map((each) => each.next().value);
    case 5: return add(n);
    case 6: chain = new Node(n, chain); return Node.made;
    case 7: chain = null; return true;
    case 8: big = (big * BigInt(n + 3)) % (1n << 4000n); return String(big % 1000007n);
    case 9: state.blob = new Uint8Array(0); state.list.length = 0; return 0;
    case 10: return JSON.stringify([...state.map]).replace(/[aeiou]/g, n).slice(0, 200);
    case 11: throw new RangeError(String(n));
    default: return state.list.slice(n % (state.list.length || 1)).slice(0, 3);
  }
}
";

/// The number of steps of each program. More are slower and find no more.
const STEPS_PER_PROGRAM: usize = 32;

static TEMPLATES: OnceLock<[(Template, &str); 2]> = OnceLock::new();

fuzz_target!(
    init: {
        let build = |guest| block_on(async move {
            Template::builder(guest).build().await.unwrap_or_else(|error| panic!("{error}"))
        });
        TEMPLATES.get_or_init(|| {
            [(build(Runtime::Python), PYTHON), (build(Runtime::JavaScript), JAVASCRIPT)]
        });
    },
    |input: &[u8]| {
        let Some((which, bytes)) = input.split_first() else { return };
        let Some(templates) = TEMPLATES.get() else { return };
        let (template, script) = &templates[usize::from(which & 1)];
        block_on(compare(template, script, bytes));
    }
);

async fn compare(template: &Template, script: &str, bytes: &[u8]) {
    let original = start_sandbox(template, script).await;
    // The sandboxes that are copies, or were copied, and still run.
    let mut copied = vec![start_sandbox(template, script).await];
    for (kind, n) in steps(bytes) {
        if kind >= 0xd0 && copied.len() < 4 {
            let from = &copied[usize::from(n) % copied.len()];
            let child = match kind & 1 {
                0 => from.fork(1).await.map(|mut children| children.remove(0)),
                _ => {
                    from.snapshot()
                        .await
                        .expect("taking a snapshot of an idle guest")
                        .create_sandbox()
                        .await
                }
            };
            copied.push(child.expect("copying a sandbox"));
        } else if kind >= 0xc0 && copied.len() > 1 {
            copied.remove(usize::from(n) % copied.len());
        }
        let expected = step(&original, kind % 13, n).await;
        for each in &copied {
            assert_eq!(expected, step(each, kind % 13, n).await, "after a copy");
        }
    }
}

/// Converts the input to steps. Short inputs, which a fuzzer starts with, are extended
/// with steps that depend on them, so that they include copies as well.
fn steps(bytes: &[u8]) -> impl Iterator<Item = (u8, u8)> {
    let seed = bytes.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |seed, byte| {
        (seed ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let continued = (1_u64..).map(move |number| {
        let mixed = (seed ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let [.., kind, n] = (mixed >> 16).to_be_bytes();
        (kind, n)
    });
    bytes.chunks_exact(2).map(|pair| (pair[0], pair[1])).chain(continued).take(STEPS_PER_PROGRAM)
}

async fn start_sandbox(template: &Template, script: &str) -> Sandbox {
    let sandbox = template.sandbox().create().await.expect("creating a sandbox");
    sandbox.start().await.expect("starting a sandbox");
    sandbox.load_script(script).await.expect("loading a script");
    sandbox
}

/// Runs a step. Returns its result, or the code and message of its error.
async fn step(sandbox: &Sandbox, kind: u8, n: u8) -> String {
    match sandbox.run("step", args![kind, n]).await {
        Ok(value) => value.as_str().to_owned(),
        Err(error) => error.code().to_owned() + &error.to_string(),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|error| panic!("{error}")).block_on(future)
}
