//! Random programs, copied at random points: whatever is copied goes on as if
//! nothing had been, and so does the copy. Beside it runs the same program in a
//! sandbox that is never copied, and both have to say the same at each step.
#![no_main]

use std::sync::OnceLock;

use isola::{Runtime, Sandbox, Template, args};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// The steps of a program, each with a number that the bytes choose. They reach
/// what is hard to copy: memory that grows and is freed, generators that are
/// suspended, closures, caches, numbers beyond a word, what was thrown.
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

/// The steps of each program. More would be slow without being longer in any
/// interesting way.
const STEPS: usize = 32;

static TEMPLATES: OnceLock<[(Template, &str); 2]> = OnceLock::new();

fuzz_target!(
    init: {
        let build = |guest| within(async move {
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
        within(compare(template, script, bytes));
    }
);

async fn compare(template: &Template, script: &str, bytes: &[u8]) {
    let plain = started(template, script).await;
    // Those that go on from a copy, or were copied, and have not ended yet.
    let mut copied = vec![started(template, script).await];
    for (kind, n) in steps(bytes) {
        if kind >= 0xd0 && copied.len() < 4 {
            let from = &copied[usize::from(n) % copied.len()];
            let child = match kind & 1 {
                0 => from.fork(1).await.map(|mut children| children.remove(0)),
                _ => from.snapshot().await.expect("an idle guest").create_sandbox().await,
            };
            copied.push(child.expect("a copy"));
        } else if kind >= 0xc0 && copied.len() > 1 {
            copied.remove(usize::from(n) % copied.len());
        }
        let says = step(&plain, kind % 13, n).await;
        for each in &copied {
            assert_eq!(says, step(each, kind % 13, n).await, "after a copy");
        }
    }
}

/// The steps that the bytes are. Short inputs, with which a fuzzer begins, are
/// continued with steps that depend on them, so that they are copied as well.
fn steps(bytes: &[u8]) -> impl Iterator<Item = (u8, u8)> {
    let seed = bytes.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |seed, byte| {
        (seed ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let continued = (1_u64..).map(move |number| {
        let mixed = (seed ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let [.., kind, n] = (mixed >> 16).to_be_bytes();
        (kind, n)
    });
    bytes.chunks_exact(2).map(|pair| (pair[0], pair[1])).chain(continued).take(STEPS)
}

async fn started(template: &Template, script: &str) -> Sandbox {
    let sandbox = template.sandbox().create().await.expect("a sandbox");
    sandbox.start().await.expect("a start");
    sandbox.load_script(script).await.expect("a script");
    sandbox
}

/// What a step gives, or throws.
async fn step(sandbox: &Sandbox, kind: u8, n: u8) -> String {
    match sandbox.run("step", args![kind, n]).await {
        Ok(value) => value.as_str().to_owned(),
        Err(error) => error.code().to_owned() + &error.to_string(),
    }
}

fn within<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|error| panic!("{error}")).block_on(future)
}
