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
use test_macros::each_runtime;

#[cfg(unix)]
use crate::fixture::create_fifo;
use crate::fixture::template;

/// Writes a small component for tests of the cache alone. It is refused when it is
/// linked, which is after it was cached.
fn tiny_runtime(dir: &Path) -> PathBuf {
    let path = dir.join("tiny.wasm");
    // An empty component: only the preamble.
    fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    path
}

/// Builds a template, which fails, and returns the number of compilations.
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
async fn runtime_is_compiled_once_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(dir.path());
    let cache = dir.path().join("cache");
    assert_eq!(build(&runtime, &cache).await, 1);
    assert_eq!(build(&runtime, &cache).await, 0);
    assert_eq!(list_cache(&cache).unwrap().len(), 1);

    // A custom section named "x" changes the component.
    fs::write(&runtime, b"\0asm\x0d\0\x01\0\x00\x02\x01x").unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    assert_eq!(list_cache(&cache).unwrap().len(), 2);

    assert!(clear_cache(&cache).unwrap() > 0);
    assert!(list_cache(&cache).unwrap().is_empty());
    assert_eq!(build(&runtime, &cache).await, 1);
}

#[tokio::test]
async fn damaged_entry_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(dir.path());
    let cache = dir.path().join("cache");
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
    // The same for a damaged or missing stamp.
    let stamp = code.with_extension("stamp");
    fs::write(&stamp, "{").unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    fs::remove_file(&stamp).unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    // The entry is still valid if the same bytes are written again.
    fs::write(&code, &good).unwrap();
    assert_eq!(build(&runtime, &cache).await, 0);
}

/// Writes a component with a memory, which is stored beside the machine code.
#[cfg(target_os = "linux")]
fn runtime_with_memory(dir: &Path) -> PathBuf {
    use wasm_encoder::{
        Component, ConstExpr, DataSection, ExportKind, ExportSection, InstanceSection,
        MemorySection, MemoryType, Module, ModuleArg, ModuleSection,
    };

    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 2,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(70_000), *b"data");
    let mut module = Module::new();
    module.section(&memories).section(&exports).section(&data);
    let mut instances = InstanceSection::new();
    instances.instantiate(0, Vec::<(&str, ModuleArg)>::new());
    let mut component = Component::new();
    component.section(&ModuleSection(&module)).section(&instances);
    let path = dir.join("memory.wasm");
    fs::write(&path, component.finish()).unwrap();
    path
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn damaged_memory_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime_with_memory(dir.path());
    let cache = dir.path().join("cache");
    assert_eq!(build(&runtime, &cache).await, 1);
    let entry = list_cache(&cache).unwrap()[0].clone();
    let memory = entry.path.with_extension("memory");
    let good = fs::read(&memory).unwrap();
    assert_eq!((good.len(), &good[70_000..70_004]), (128 << 10, &b"data"[..]));
    assert_eq!(entry.size, fs::metadata(&entry.path).unwrap().len() + (128 << 10));

    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for damage in [flipped, good[..1000].to_vec(), Vec::new()] {
        fs::write(&memory, damage).unwrap();
        assert_eq!(build(&runtime, &cache).await, 1);
        assert_eq!(fs::read(&memory).unwrap(), good);
    }
    fs::remove_file(&memory).unwrap();
    assert_eq!(build(&runtime, &cache).await, 1);
    assert_eq!(build(&runtime, &cache).await, 0);
    assert!(clear_cache(&cache).unwrap() > 128 << 10);
    assert!(!memory.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_builders_compile_once() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(dir.path());
    let cache = dir.path().join("cache");
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
async fn oldest_entries_are_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(dir.path());
    let cache = dir.path().join("cache");
    for version in 0..20 {
        // A custom section named "x", with different content each time.
        let mut component = b"\0asm\x0d\0\x01\0\x00\x03\x01x".to_vec();
        component.push(version);
        fs::write(&runtime, component).unwrap();
        assert_eq!(build(&runtime, &cache).await, 1);
    }
    assert_eq!(list_cache(&cache).unwrap().len(), 16);
    // The newest entry is kept.
    assert_eq!(build(&runtime, &cache).await, 0);
}

/// Returns the error of a build with this cache directory.
#[cfg(unix)]
async fn refused(dir: &Path, cache: &Path) -> String {
    let built = Template::builder(Runtime::Python)
        .runtime_path(tiny_runtime(dir))
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
async fn directory_writable_by_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let outer = dir.path().join("outer");
    let cache = outer.join("cache");
    fs::create_dir_all(&cache).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&cache, &link).unwrap();
    // The directory itself and its parent, also through a link; for the user's own
    // group as for others.
    for (dir_to_change, mode, who) in [
        (&cache, 0o777, "others can write there"),
        (&cache, 0o1777, "others can write there"),
        (&cache, 0o770, "its group can write there"),
        (&cache, 0o2775, "its group can write there"),
        (&outer, 0o777, "others can write there"),
        (&outer, 0o770, "its group can write there"),
    ] {
        set_mode(dir_to_change, mode);
        for path in [&cache, &link] {
            let error = refused(dir.path(), path).await;
            assert!(error.contains(who), "{mode:o} {}: {error}", path.display());
        }
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "{mode:o}");
        set_mode(dir_to_change, 0o755);
    }
    // A directory such as /tmp is permitted as a parent.
    set_mode(&outer, 0o1777);
    assert!(refused(dir.path(), &cache).await.contains("is not a runtime"));
}

#[cfg(unix)]
#[tokio::test]
async fn special_files_as_entries_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tiny_runtime(dir.path());
    let cache = dir.path().join("cache");
    assert_eq!(build(&runtime, &cache).await, 1);
    let files = || {
        let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending != "lock"));
        files
    };
    assert_eq!(files().len(), 3);
    for replace in [
        &create_fifo as &dyn Fn(&Path),
        &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        &|path| fs::File::create(path).unwrap().set_len(8 << 30).unwrap(),
    ] {
        for path in files() {
            fs::remove_file(&path).unwrap();
            replace(&path);
            // Without the cached digest alone, nothing is compiled.
            let compiled = build(&runtime, &cache).await;
            let expected = usize::from(path.extension().unwrap() != "digest");
            assert_eq!(compiled, expected, "{}", path.display());
            assert!(fs::symlink_metadata(&path).unwrap().len() < 1 << 30, "{}", path.display());
        }
        assert_eq!(build(&runtime, &cache).await, 0);
    }
    // Devices are not read as a runtime either.
    for path in ["/dev/zero", "/dev/null"] {
        let error = Template::builder(Runtime::Python)
            .runtime_path(path)
            .cache_dir(None)
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("was not found"), "{error}");
    }
    let sparse = dir.path().join("sparse.wasm");
    fs::File::create(&sparse).unwrap().set_len(8 << 30).unwrap();
    for cache in [None, Some(cache.clone())] {
        let builder = Template::builder(Runtime::Python).runtime_path(&sparse).cache_dir(cache);
        let error = builder.build().await.unwrap_err();
        assert!(error.to_string().contains("8589934592 bytes"), "{error}");
    }
}

#[tokio::test]
async fn invalid_component_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("python.wasm");
    for content in ["", "not wasm"] {
        fs::write(&path, content).unwrap();
        let error = Template::builder(Runtime::Python)
            .runtime_path(dir.path())
            .cache_dir(Some(dir.path().join("cache")))
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("is not a runtime"), "{error}");
    }
}

#[each_runtime]
async fn runtime_is_loaded_from_the_cache(runtime: Runtime) {
    template(runtime).await;
    // The second build finds the entry of the first one.
    let cached = Template::builder(runtime)
        .on_compile(|| panic!("compiled again instead of loaded from the cache"))
        .build()
        .await
        .unwrap();
    let sandbox = cached.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    assert!(sandbox.run("missing", args![]).await.is_err());
}
