//! Completeness of output and files at the end of a call and of the sandbox.

use std::fs;

use isola::{Event, Runtime, args};

use crate::fixture::{events, loaded_with_data, started, stdout};

/// Returns the standard output of a call.
async fn printed(call: isola::Call) -> String {
    let all = events(call.stream().unwrap()).await;
    assert!(matches!(all.last(), Some(Event::End(_))), "{all:?}");
    stdout(&all)
}

#[tokio::test]
async fn open_files_are_flushed_after_a_call() {
    let dir = tempfile::tempdir().unwrap();
    let script = "
import codecs, csv, io, os, pathlib, tempfile
text = open('/data/text', 'w')
text.write('complete')
binary = open('/data/binary', 'wb')
binary.write(b'complete')
both = open('/data/both', 'w+')
both.write('complete')
above = io.TextIOWrapper(open('/data/above', 'wb'))
above.write('complete')
descriptor = os.fdopen(os.open('/data/descriptor', os.O_CREAT | os.O_WRONLY), 'w')
descriptor.write('complete')
path = pathlib.Path('/data/path').open('w')
path.write('complete')
rows = csv.writer(open('/data/rows', 'w'))
rows.writerow(['complete'])
class Cycle:
    def __init__(self):
        self.me = self
        self.file = open('/data/cycle', 'w')
        self.file.write('complete')
cycle = Cycle()
def later():
    text.write(' again')
";
    let sandbox = loaded_with_data(dir.path(), script).await;
    for name in ["text", "binary", "both", "above", "descriptor", "path", "rows", "cycle"] {
        let content = fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(content.trim_end(), "complete", "{name}");
    }
    sandbox.run("later", args![]).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("text")).unwrap(), "complete again");
}

#[tokio::test]
async fn finish_writes_what_is_still_buffered() {
    let dir = tempfile::tempdir().unwrap();
    let script = "
import gzip, io, zipfile
packed = gzip.open('/data/gz', 'wt')
packed.write('complete')
archive = zipfile.ZipFile('/data/zip', 'w')
archive.writestr('name', 'complete')
raw = io.BufferedWriter(io.FileIO('/data/raw', 'w'))
raw.write(b'complete')
";
    let sandbox = loaded_with_data(dir.path(), script).await;
    sandbox.finish().await.unwrap();
    assert!(sandbox.is_closed());
    assert_eq!(fs::read_to_string(dir.path().join("raw")).unwrap(), "complete");
    let script = "
import gzip, zipfile
def main():
    return [gzip.open('/data/gz', 'rt').read(), zipfile.ZipFile('/data/zip').read('name').decode()]
";
    let reader = loaded_with_data(dir.path(), script).await;
    assert_eq!(
        reader.run("main", args![]).await.unwrap(),
        serde_json::json!(["complete", "complete"])
    );
}

#[tokio::test]
async fn finish_runs_exit_handlers_and_finalizers() {
    let sandbox = started(Runtime::Python).await;
    let script = "
import atexit, sys, weakref
class Ends:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print(f'{self.name} is deleted')
class Plain:
    pass
module_level = Ends('a global')
cycle = Ends('a cycle')
cycle.me = cycle
plain = Plain()
weakref.finalize(plain, print, 'finalized')
atexit.register(print, 'first registered')
@atexit.register
def last():
    print('last registered')
@atexit.register
def fails():
    1 / 0
print('no line end', end='')
";
    assert_eq!(printed(sandbox.load_script(script)).await, "no line end");
    let text = printed(sandbox.finish()).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["last registered", "first registered", "finalized"], "{lines:?}");
    assert!(lines.contains(&"a global is deleted"), "{lines:?}");
    assert!(lines.contains(&"a cycle is deleted"), "{lines:?}");
    let error = sandbox.run("anything", args![]).await.unwrap_err();
    assert_eq!(error.code(), "closed");
}

#[tokio::test]
async fn rewrapped_standard_output_is_flushed() {
    for (what, script) in [
        ("wrapped anew", "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')"),
        ("detached", "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')"),
        ("by codecs", "sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer)"),
        ("without lines", "sys.stdout.reconfigure(line_buffering=False)"),
        ("twice", "sys.stdout = io.TextIOWrapper(io.BufferedWriter(sys.stdout.buffer.raw))"),
    ] {
        let sandbox = started(Runtime::Python).await;
        let script = format!("import codecs, io, sys\n{script}\nprint('é')\n");
        assert_eq!(printed(sandbox.load_script(script)).await, "é\n", "{what}");
        // Later calls behave the same.
        assert_eq!(printed(sandbox.load_script("print('again')")).await, "again\n", "{what}");
    }
}

#[tokio::test]
async fn null_device_discards_writes_and_reads_as_empty() {
    let sandbox = started(Runtime::Python).await;
    let script = "
import contextlib, os, pathlib
def main():
    with contextlib.redirect_stdout(open(os.devnull, 'w')):
        print('dropped')
    with open('/dev/null', 'r+b') as null:
        null.write(b'dropped')
        read = null.read()
    with open(pathlib.Path('/dev/null'), 'a') as null:
        null.write('dropped')
    pathlib.Path('/dev/null').write_text('dropped')
    return [read.decode(), open('/dev/null').read(), pathlib.Path('/dev/null').read_text()]
";
    sandbox.load_script(script).await.unwrap();
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    assert!(!all.iter().any(|event| matches!(event, Event::Stdout(_))), "{all:?}");
    let [.., Event::End(value)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(*value, serde_json::json!(["", "", ""]));
}
