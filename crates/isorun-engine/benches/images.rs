//! A pull beside the same by other tools: 100 MiB from a registry on loopback,
//! fetched, verified and unpacked. `cargo xtask bench images` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails ends the measurement")]

#[path = "../tests/images/bundle.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod bundle;
#[path = "../tests/images/registry.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod registry;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use isorun_engine::image::{Progress, Reference, Store};

use crate::bundle::{Bundle, Layer, gzip, sha256, zstd};
use crate::registry::{Registry, options};

const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let work = tempfile::tempdir().expect("a folder");
    let registry = Registry::start();
    for (form, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let layout = sample(compress).layout(&work.path().join(form));
        let name = registry.push(&layout, form, false);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // All stays until the end: ext4 makes files slowly where others were
        // just removed.
        for round in 0..ROUNDS {
            let at = work.path().join(format!("{form}{round}"));
            std::fs::create_dir(&at).expect("a folder");
            ours.push(runtime.block_on(pull(&at, &name)));
            // umoci of Debian 12 knows no zstd.
            if form == "gzip" {
                theirs.push(skopeo_and_umoci(&at, &name));
            }
        }
        let ours = median(ours);
        let rate = 100.0 / ours.as_secs_f64();
        println!(
            "pull and unpack 100 MiB, {form:<22} {:>8.2} s  {rate:.0} MiB/s",
            ours.as_secs_f64()
        );
        if form == "gzip" {
            let theirs = median(theirs);
            println!("skopeo copy and umoci unpack, {form:<17} {:>8.2} s", theirs.as_secs_f64());
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
            println!("a pull is faster than that by {:>28.1} ×", ratio);
        }
    }
}

async fn pull(at: &Path, name: &Reference) -> Duration {
    let start = Instant::now();
    let store = Store::open(at.join("store")).expect("a store");
    let image = store.pull(name, &options(), &Progress::none()).await.expect("an image");
    let time = start.elapsed();
    assert!(image.size >= 100 << 20);
    time
}

fn skopeo_and_umoci(at: &Path, name: &Reference) -> Duration {
    let layout = format!("{}:test", at.join("layout").display());
    let start = Instant::now();
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"])
        .arg(format!("docker://{name}"))
        .arg(format!("oci:{layout}")));
    run(Command::new("umoci").args(["unpack", "--image", &layout]).arg(at.join("bundle")));
    start.elapsed()
}

fn run(command: &mut Command) {
    let output = command.output().expect("the tools of `cargo xtask setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Five layers of 20 MiB: 3,000 files that compress about as programs do.
fn sample(compress: fn(&[u8]) -> Vec<u8>) -> Bundle {
    let mut state = 1_u64;
    let layers: Vec<_> = (0..5)
        .map(|number| {
            let mut layer = Layer::default();
            for file in 0..600 {
                let mut content = String::new();
                while content.len() < (20 << 20) / 600 + 1 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    content += &format!("{:x} is word {} of it; ", state >> 20, state >> 58);
                }
                layer = layer.file(&format!("layer{number}/d{}/f{file}", file % 40), &content);
            }
            let tar = layer.tar();
            (compress(&tar), sha256(&tar))
        })
        .collect();
    Bundle::new(&layers)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
