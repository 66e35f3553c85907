//! Random layers: no entry is created outside of the root directory, and the store
//! remains usable.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use isorun_image::Limits;

use crate::bundle::{Bundle, Layer, TestStore, sha256};

/// Directories and their entries mostly have different names, so that many layers are
/// valid.
fn path() -> impl Strategy<Value = String> {
    let directory = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4);
    let leaf = prop::sample::select(vec!["x", "y", "z", "x", "y", "z", "a"]);
    prop_oneof![
        12 => (directory, leaf).prop_map(|(mut parts, leaf)| {
            parts.push(leaf);
            parts.join("/")
        }),
        1 => odd_path(),
    ]
}

/// Names that often collide, and paths that point outside.
fn odd_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        60 => prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned),
        1 => Just("..".to_owned()),
        3 => Just(".".to_owned()),
        3 => Just(String::new()),
        3 => Just("canary".to_owned()),
        6 => prop::sample::select(vec![".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec![".wh.", ".wh...", ".wh.."])
            .prop_map(str::to_owned),
        1 => "[a-c\u{0}-\u{20}\u{e9}]{1,6}",
    ];
    (any::<bool>(), prop::collection::vec(part, 1..6)).prop_map(|(absolute, parts)| {
        format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
    })
}

/// Targets of links, also at files that must not change.
fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => path(),
        1 => Just("OUTSIDE".to_owned()),
        1 => Just("OUTSIDE/canary".to_owned()),
        1 => (1_usize..20).prop_map(|up| format!("{}OUTSIDE", "../".repeat(up))),
        1 => (1_usize..6).prop_map(|up| "../".repeat(up)),
        1 => Just("/".to_owned()),
        1 => Just("/proc/self/root".to_owned()),
    ]
}

fn entry() -> impl Strategy<Value = (u8, String, String, u32)> {
    let kind = prop_oneof![
        40 => prop::sample::select(b"000222555".to_vec()),
        3 => prop::sample::select(b"134670".to_vec()),
        1 => prop::sample::select(b"LKxgSZ".to_vec()),
    ];
    (kind, path(), target(), 0_u32..0o10000)
}

#[test]
fn random_entries_stay_within_the_root() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let home = TestStore::new();
    let outside = home.path("outside").to_str().unwrap().to_owned();
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let layers = prop::collection::vec(prop::collection::vec(entry(), 1..12), 1..4);
    let good = std::cell::Cell::new(0);
    runner
        .run(&layers, |layers| {
            let layers: Vec<Layer> = layers
                .iter()
                .map(|entries| {
                    entries.iter().fold(Layer::default(), |layer, (kind, path, link, mode)| {
                        let link = link.replace("OUTSIDE", &outside);
                        let content: &[u8] = if b"07LKxgS".contains(kind) { b"dead" } else { b"" };
                        layer.entry(*kind, path.as_bytes(), link.as_bytes(), *mode, content)
                    })
                })
                .collect();
            let layers: Vec<_> = layers.iter().collect();
            let outcome = runtime.block_on(home.layers(&layers));
            home.check("random entries");
            match outcome {
                Ok(_) => good.set(good.get() + 1),
                Err(error) => prop_assert!(!error.is_host_error(), "{error}: {error:?}"),
            }
            Ok(())
        })
        .unwrap();
    assert!(good.get() > 100, "too few layers were unpacked: {}", good.get());
}

#[test]
fn random_bytes_are_refused_without_host_errors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let home = TestStore::new();
    let mut runner =
        TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let good = Layer::default().directory("d").file("d/f", "content").symlink("l", "d").tar();
    let damage = prop::collection::vec((0..good.len(), any::<u8>(), any::<bool>()), 1..8);
    let cut = 0..good.len();
    runner
        .run(&(damage, cut, 0_usize..3), |(damage, cut, form)| {
            let mut tar = good.clone();
            for (at, byte, repair) in damage {
                tar[at] = byte;
                // With a valid checksum, later checks are reached.
                let block = at / 512 * 512;
                if repair {
                    let mut header = tar::Header::from_byte_slice(&tar[block..block + 512]).clone();
                    header.set_cksum();
                    tar[block..block + 512].copy_from_slice(header.as_bytes());
                }
            }
            if form == 1 {
                tar.truncate(cut);
            }
            let mut stored = if form == 2 { crate::bundle::gzip(&tar) } else { tar.clone() };
            if form == 2 {
                let at = cut % stored.len();
                stored[at] ^= 0x55;
            }
            let bundle = Bundle::new(&[(stored, sha256(&tar))]);
            let outcome = runtime.block_on(home.import(&bundle, &Limits::default()));
            home.check("random bytes");
            if let Err(error) = outcome {
                prop_assert!(!error.is_host_error(), "{error}: {error:?}");
            }
            Ok(())
        })
        .unwrap();
}
