//! The private files of a sandbox, against those of the machine's memory.

use std::{process::Command, time::Duration};

use isola::{Runtime, args};

use crate::{
    loaded,
    subprocess::{median_of, real_program},
    table::{Column, Table},
    template,
};

const FILES: &str = "write and read 1,000 files of 1 KB";
const RATIO: &str = "1,000 files, as a multiple of native on a tmpfs";
const LARGE: &str = "write and read a file of 32 MB";
const LARGE_RATIO: &str = "a file of 32 MB, as a multiple of native on a tmpfs";

const RUNS: usize = 15;

const SOURCE: &str = "
import os, time
def files(directory):
    data = b'x' * 1024
    start = time.perf_counter()
    for i in range(1000):
        with open(f'{directory}/f{i}', 'wb') as file:
            file.write(data)
    for i in range(1000):
        with open(f'{directory}/f{i}', 'rb') as file:
            assert file.read() == data
    seconds = time.perf_counter() - start
    for i in range(1000):
        os.unlink(f'{directory}/f{i}')
    return seconds
def large(directory):
    data = b'x' * (1 << 20)
    start = time.perf_counter()
    with open(f'{directory}/large', 'wb') as file:
        for _ in range(32):
            file.write(data)
    with open(f'{directory}/large', 'rb') as file:
        while file.read(1 << 20):
            pass
    seconds = time.perf_counter() - start
    os.unlink(f'{directory}/large')
    return seconds
";

pub(crate) fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let python = real_program("python3", "-c");
    for (name, ratio, function, goal) in
        [(FILES, RATIO, "files", Some(2.0)), (LARGE, LARGE_RATIO, "large", None)]
    {
        if !table.wants(name) && !table.wants(ratio) {
            continue;
        }
        // In memory on every Linux.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let native = median_of(RUNS, || {
            let call = format!("{SOURCE}print({function}({:?}))", dir.path());
            let output = Command::new(&python).args(["-c", &call]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            Duration::from_secs_f64(text.trim().parse().unwrap())
        });
        let template = runtime.block_on(template(Runtime::Python));
        let sandbox = runtime.block_on(loaded(&template, SOURCE));
        let guest = median_of(RUNS, || {
            let seconds = runtime.block_on(async { sandbox.run(function, args!["/tmp"]).await });
            Duration::from_secs_f64(seconds.unwrap().to().unwrap())
        });
        table.duration(name, Column::Python, guest, None);
        let multiple = guest.as_secs_f64() / native.as_secs_f64();
        table.ratio(ratio, Column::Python, multiple, goal);
    }
}
