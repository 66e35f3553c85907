//! The cache of compiled templates.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use isola::{Runtime, Template, args, clear_cache, list_cache};

/// A small component stands in for a runtime where only the cache matters.
/// It is refused when it is linked, which is after it was cached.
fn tiny_runtime(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.wasm");
    // An empty component: the preamble, and nothing else.
    fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    path
}

async fn build(runtime: &Path, cache: &Path) -> usize {
    let compiled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&compiled);
    let built = Template::builder(Runtime::Python)
        .runtime_path(runtime)
        .cache_dir(Some(cache.to_owned()))
        .on_compile(move || {
            counter.fetch_add(1, SeqCst);
        })
        .build()
        .await;
    let error = built.unwrap_err().to_string();
    assert!(error.contains("is not a runtime for this version"), "{error}");
    compiled.load(SeqCst)
}

#[tokio::test]
async fn compiles_once_and_again_when_the_runtime_changes() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(folder.path());
    let cache = folder.path().join("cache");
    assert_eq!(build(&runtime, &cache).await, 1);
    assert_eq!(build(&runtime, &cache).await, 0);
    assert_eq!(list_cache(&cache).unwrap().len(), 1);

    // A custom section named "x" makes it another component.
    fs::write(&runtime, b"\0asm\x0d\0\x01\0\x00\x02\x01x").unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    assert_eq!(list_cache(&cache).unwrap().len(), 2);

    assert!(clear_cache(&cache).unwrap() > 0);
    assert!(list_cache(&cache).unwrap().is_empty());
    assert_eq!(build(&runtime, &cache).await, 1);
}

#[tokio::test]
async fn a_damaged_entry_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(folder.path());
    let cache = folder.path().join("cache");
    build(&runtime, &cache).await;
    let code = list_cache(&cache).unwrap()[0].path.clone();
    let good = fs::read(&code).unwrap();

    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damage in [flipped, good[..good.len() / 2].to_vec(), Vec::new()] {
        fs::write(&code, damage).unwrap();
        assert_eq!(build(&runtime, &cache).await, 1);
        assert_eq!(fs::read(&code).unwrap(), good);
        assert_eq!(build(&runtime, &cache).await, 0);
    }
    // A lost or damaged stamp, too.
    let stamp = code.with_extension("stamp");
    fs::write(&stamp, "{").unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    fs::remove_file(&stamp).unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    // Touched, copied or restored from a backup, the same bytes still hold.
    fs::write(&code, &good).unwrap();
    assert_eq!(build(&runtime, &cache).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn builders_at_the_same_time_compile_once() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(folder.path());
    let cache = folder.path().join("cache");
    let builders: Vec<_> = (0..8)
        .map(|_| {
            let (runtime, cache) = (runtime.clone(), cache.clone());
            tokio::spawn(async move { build(&runtime, &cache).await })
        })
        .collect();
    let mut compiled = 0;
    for builder in builders {
        compiled += builder.await.unwrap();
    }
    assert_eq!(compiled, 1);
}

#[tokio::test]
async fn old_entries_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(folder.path());
    let cache = folder.path().join("cache");
    for version in 0..20 {
        // A custom section named "x", with a content of its own each time.
        let mut component = b"\0asm\x0d\0\x01\0\x00\x03\x01x".to_vec();
        component.push(version);
        fs::write(&runtime, component).unwrap();
        assert_eq!(build(&runtime, &cache).await, 1);
    }
    assert_eq!(list_cache(&cache).unwrap().len(), 16);
    // The newest is there.
    assert_eq!(build(&runtime, &cache).await, 0);
}

/// What is said of a cache folder.
#[cfg(unix)]
async fn refused(folder: &Path, cache: &Path) -> String {
    let built = Template::builder(Runtime::Python)
        .runtime_path(tiny_runtime(folder))
        .cache_dir(Some(cache.to_owned()))
        .build()
        .await;
    built.unwrap_err().to_string()
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path().join("outer");
    let cache = outer.join("cache");
    fs::create_dir_all(&cache).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&cache, &link).unwrap();
    // The folder itself, the one above it, and by way of a link: of one's own
    // group as of any other.
    for (place, mode, who) in [
        (&cache, 0o777, "others can write there"),
        (&cache, 0o1777, "others can write there"),
        (&cache, 0o770, "its group can write there"),
        (&cache, 0o2775, "its group can write there"),
        (&outer, 0o777, "others can write there"),
        (&outer, 0o770, "its group can write there"),
    ] {
        set_mode(place, mode);
        for path in [&cache, &link] {
            let error = refused(folder.path(), path).await;
            assert!(error.contains(who), "{mode:o} {}: {error}", path.display());
        }
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "{mode:o}");
        set_mode(place, 0o755);
    }
    // A folder such as /tmp may be above it.
    set_mode(&outer, 0o1777);
    assert!(refused(folder.path(), &cache).await.contains("is not a runtime"));
}

#[cfg(unix)]
#[tokio::test]
async fn entries_that_are_no_files_are_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(folder.path());
    let cache = folder.path().join("cache");
    assert_eq!(build(&runtime, &cache).await, 1);
    let files = || {
        let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending != "lock"));
        files
    };
    assert_eq!(files().len(), 3);
    for replace in [
        &(|path: &Path| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
        }) as &dyn Fn(&Path),
        &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        &|path| fs::File::create(path).unwrap().set_len(8 << 30).unwrap(),
    ] {
        for path in files() {
            fs::remove_file(&path).unwrap();
            replace(&path);
            // The memory of a digest alone is not worth a build.
            let compiled = build(&runtime, &cache).await;
            let expected = usize::from(path.extension().unwrap() != "digest");
            assert_eq!(compiled, expected, "{}", path.display());
            assert!(fs::symlink_metadata(&path).unwrap().len() < 1 << 30, "{}", path.display());
        }
        assert_eq!(build(&runtime, &cache).await, 0);
    }
    // As a runtime neither is read.
    for path in ["/dev/zero", "/dev/null"] {
        let error = Template::builder(Runtime::Python)
            .runtime_path(path)
            .cache_dir(None)
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("was not found"), "{error}");
    }
    let sparse = folder.path().join("sparse.wasm");
    fs::File::create(&sparse).unwrap().set_len(8 << 30).unwrap();
    for cache in [None, Some(cache.clone())] {
        let builder = Template::builder(Runtime::Python).runtime_path(&sparse).cache_dir(cache);
        let error = builder.build().await.unwrap_err();
        assert!(error.to_string().contains("8589934592 bytes"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_component_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("python.wasm");
    for content in ["", "not wasm"] {
        fs::write(&path, content).unwrap();
        let error = Template::builder(Runtime::Python)
            .runtime_path(folder.path())
            .cache_dir(Some(folder.path().join("cache")))
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("is not a runtime"), "{error}");
    }
}

#[tokio::test]
async fn the_real_runtime_from_the_cache_answers() {
    for runtime in crate::fixture::BOTH {
        crate::fixture::template(runtime).await;
        // The second build finds what the first one made.
        let template = Template::builder(runtime)
            .on_compile(|| panic!("it was compiled already"))
            .build()
            .await
            .unwrap();
        let sandbox = template.sandbox().create().await.unwrap();
        sandbox.start().await.unwrap();
        assert!(sandbox.run("missing", args![]).await.is_err());
    }
}
