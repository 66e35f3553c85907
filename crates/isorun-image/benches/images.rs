//! Benchmark of image pulls, in comparison with skopeo and umoci: 100 MiB from a registry on
//! loopback, fetched, verified and unpacked. Run with `cargo xtask bench images`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure ends the measurement")]

#[path = "../tests/images/bundle.rs"]
#[expect(dead_code, reason = "only tests use the rest")]
mod bundle;
#[path = "../tests/images/registry.rs"]
#[expect(dead_code, reason = "only tests use the rest")]
mod registry;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use isorun_image::{Progress, Reference, Store};

use crate::bundle::{Bundle, Layer, gzip, sha256, zstd};
use crate::registry::{Registry, options};

/// Number of pulls of each form.
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("failed to start a runtime");
    let work = tempfile::tempdir().expect("failed to create a directory");
    let registry = Registry::start();
    for (form, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let layout = sample(compress).layout(&work.path().join(form));
        let name = registry.push(&layout, form, false);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // Nothing is removed until the end: ext4 creates files slowly where others were just
        // removed.
        for round in 0..ROUNDS {
            let at = work.path().join(format!("{form}{round}"));
            std::fs::create_dir(&at).expect("failed to create a directory");
            ours.push(runtime.block_on(pull(&at, &name)));
            // umoci of Debian 12 does not support zstd.
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
    let store = Store::open(at.join("store")).expect("failed to open the store");
    let image =
        store.pull(name, &options(), &Progress::none()).await.expect("failed to pull the image");
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
    let output =
        command.output().expect("failed to run the program: install it with `cargo xtask setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns an image with five layers of 20 MiB: 3,000 files with the compression ratio of
/// programs.
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
