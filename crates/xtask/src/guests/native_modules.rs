//! Compiles the native modules of the Python guest: `guests/python/native`.
//!
//! Each module is a C file of this repository, linked with the sources of a library, into
//! a WebAssembly library that `componentize-py` links with the interpreter. The sources are
//! those that crates of crates.io contain. An object is compiled again if the digest of
//! its inputs changes. No object contains a path or a time, so that the guest is
//! reproducible.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Metadata;

use crate::digest::{self, Inputs};
use crate::setup::CCompiler;
use crate::{process, progress, setup, workspace};

/// A native module, and the library in it.
struct NativeModule {
    /// The name of its C file, and of the module after the prefix.
    name: &'static str,
    library: Option<SourceLibrary>,
}

/// The C sources in a crate.
struct SourceLibrary {
    package: &'static str,
    /// The directories that contain the C files.
    dirs: &'static [&'static str],
    /// Ends of the names of C files that are not compiled.
    excluded: &'static [&'static str],
    /// The directories that contain headers.
    includes: &'static [&'static str],
    defines: &'static [&'static str],
}

const PREFIX: &str = "_isola_";

/// A suffix by which `componentize-py` recognizes a native module.
const SUFFIX: &str = ".abi3.so";

const MODULES: [NativeModule; 7] = [
    NativeModule {
        name: "bzip2",
        library: Some(SourceLibrary {
            package: "bzip2-sys",
            dirs: &["bzip2-1.0.8"],
            // Programs.
            excluded: &[
                "bzip2.c",
                "bzip2recover.c",
                "dlltest.c",
                "mk251.c",
                "spewG.c",
                "unzcrash.c",
            ],
            includes: &["bzip2-1.0.8"],
            defines: &["BZ_NO_STDIO"],
        }),
    },
    NativeModule {
        name: "xz",
        library: Some(SourceLibrary {
            package: "liblzma-sys",
            dirs: &[
                "xz/src/liblzma/check",
                "xz/src/liblzma/common",
                "xz/src/liblzma/delta",
                "xz/src/liblzma/lz",
                "xz/src/liblzma/lzma",
                "xz/src/liblzma/rangecoder",
                "xz/src/liblzma/simple",
            ],
            // Smaller variants, generators of tables, and threads.
            excluded: &["_small.c", "tablegen.c", "consts_gen.c", "_mt.c"],
            includes: &[
                "",
                "xz/src/common",
                "xz/src/liblzma/api",
                "xz/src/liblzma/check",
                "xz/src/liblzma/common",
                "xz/src/liblzma/delta",
                "xz/src/liblzma/lz",
                "xz/src/liblzma/lzma",
                "xz/src/liblzma/rangecoder",
                "xz/src/liblzma/simple",
            ],
            defines: &["HAVE_CONFIG_H"],
        }),
    },
    NativeModule {
        name: "zstd",
        library: Some(SourceLibrary {
            package: "zstd-sys",
            dirs: &[
                "zstd/lib/common",
                "zstd/lib/compress",
                "zstd/lib/decompress",
                "zstd/lib/dictBuilder",
            ],
            // Part of another file because of the definition below.
            excluded: &["xxhash.c"],
            includes: &["zstd/lib"],
            defines: &[
                "XXH_PRIVATE_API=",
                "ZSTD_LEGACY_SUPPORT=0",
                "ZSTD_DISABLE_ASM",
                "ZSTDLIB_VISIBLE=",
                "ZDICTLIB_VISIBLE=",
                "ZSTDERRORLIB_VISIBLE=",
            ],
        }),
    },
    NativeModule { name: "kdf", library: None },
    NativeModule { name: "interrupt", library: None },
    // Not modules of Python: `merge_modules` calls their functions instead of others.
    NativeModule { name: "files", library: None },
    NativeModule { name: "heap", library: None },
];

/// The options of the compiler. Only the function that creates a module is exported:
/// the libraries of the interpreter have functions of the same names.
const COMPILE: [&str; 9] = [
    "-target",
    "wasm32-wasi",
    "-fPIC",
    "-O3",
    "-g0",
    "-msimd128",
    "-fvisibility=hidden",
    "-fno-sanitize=all",
    "-DNDEBUG",
];

/// The options of the linker. The builder resolves what is undefined.
pub const LINK: [&str; 6] = [
    "-shared",
    "--experimental-pic",
    "--no-entry",
    "--strip-all",
    "--gc-sections",
    "--unresolved-symbols=import-dynamic",
];

/// A C file to compile.
pub struct Unit {
    pub source: PathBuf,
    pub options: Vec<String>,
    /// Options that contain paths of this machine.
    pub paths: Vec<String>,
    pub object: PathBuf,
}

/// Compiles the modules whose inputs have changed. Returns the directory that contains all
/// of them, and nothing else.
pub fn build() -> Result<PathBuf> {
    let compiler = setup::c_compiler()?;
    let crates = workspace::native_sources()?;
    let source = workspace::root().join("guests/python/native");
    let target = workspace::root().join("target/native");
    let objects = target.join("objects");
    fs::create_dir_all(&objects)?;
    let dir = target.join("modules");

    // A library's files are pinned by the lock file.
    let mut common = Inputs::default()
        .text("compiler", &compiler.digest)
        .text("options", &COMPILE.join(" "))
        .file("Cargo.lock", &source.join("Cargo.lock"))?;
    for header in digest::files(&source)? {
        if header.extension().is_some_and(|extension| extension == "h") {
            common = common.file(&header.to_string_lossy(), &source.join(&header))?;
        }
    }
    let common = common.finish();

    let mut units = Vec::new();
    let mut links = Vec::new();
    for module in &MODULES {
        let first = units.len();
        units.extend(module.units(&source, &crates, &objects, &common)?);
        let linked = units[first..].iter().map(|unit| unit.object.clone());
        links.push((module.file(), linked.collect::<Vec<_>>()));
    }
    let mut inputs = Inputs::default().text("common", &common).text("options", &LINK.join(" "));
    for object in links.iter().flat_map(|(_, objects)| objects) {
        let name = object.file_name().unwrap_or_default();
        inputs = inputs.text("object", &name.to_string_lossy());
    }
    let digest = inputs.finish();
    let stamp = target.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == digest) {
        return Ok(dir);
    }

    units.retain(|unit| !unit.object.exists());
    let label = format!("compiling {} C files of the Python guest", units.len());
    progress::step(&label, || {
        compile_all(&compiler, &target, &units)?;
        super::clear(&dir)?;
        for (file, objects) in &links {
            link(&compiler, objects, &dir.join(file))?;
        }
        fs::write(&stamp, &digest).with_context(|| format!("cannot write {}", stamp.display()))
    })?;
    Ok(dir)
}

impl NativeModule {
    fn file(&self) -> String {
        format!("{PREFIX}{}{SUFFIX}", self.name)
    }

    /// Returns the C files of the module. The name of an object is the digest of its
    /// inputs.
    fn units(
        &self,
        source: &Path,
        crates: &Metadata,
        objects: &Path,
        common: &str,
    ) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        let mut add = |source: PathBuf, name: &str, content: &str, options, paths| {
            let options: Vec<String> = options;
            let digest = Inputs::default()
                .text("common", common)
                .text("name", name)
                .text("content", content)
                .text("options", &options.join(" "))
                .finish();
            let object = objects.join(format!("{digest}.o"));
            units.push(Unit { source, options, paths, object });
        };
        let mut options = Vec::new();
        let mut paths = vec![format!("-I{}", source.display())];
        if let Some(library) = &self.library {
            let root = library.root(crates)?;
            options.extend(library.defines.iter().map(|define| format!("-D{define}")));
            paths.extend(library.paths(&root));
            for file in library.files(&root)? {
                let name = format!("{} {file}", library.package);
                // Their warnings are those of another project.
                let options = options.iter().cloned().chain(["-w".into()]).collect();
                add(root.join(&file), &name, "", options, paths.clone());
            }
        }
        options.extend(["-std=c11", "-Wall", "-Wextra", "-Werror"].map(String::from));
        let file = format!("{}.c", self.name);
        let path = source.join(&file);
        let content =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        add(path, &file, &content, options, paths);
        Ok(units)
    }
}

impl SourceLibrary {
    /// Returns the directory of the crate.
    fn root(&self, crates: &Metadata) -> Result<PathBuf> {
        let package = crates.packages.iter().find(|package| *package.name == self.package);
        let package = package.with_context(|| format!("no crate {}", self.package))?;
        let dir = package.manifest_path.parent().context("a crate without a directory")?;
        Ok(dir.into())
    }

    /// Returns the options that contain paths.
    fn paths(&self, root: &Path) -> Vec<String> {
        let includes = self.includes.iter().map(|dir| format!("-I{}", root.join(dir).display()));
        // No object may contain the path of the sources.
        let map = format!("-ffile-prefix-map={}={}", root.display(), self.package);
        includes.chain([map]).collect()
    }

    /// Returns the C files, relative to the directory of the crate.
    fn files(&self, root: &Path) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for dir in self.dirs {
            for path in digest::files(&root.join(dir))? {
                let name = path.to_string_lossy();
                // Files of subdirectories belong to something else.
                let compiled = name.ends_with(".c") && path.components().count() == 1;
                if compiled && !self.excluded.iter().any(|end| name.ends_with(end)) {
                    files.push(format!("{dir}/{name}"));
                }
            }
        }
        ensure!(!files.is_empty(), "{} contains no C files", self.package);
        Ok(files)
    }
}

/// Compiles files, as many at the same time as there are processors.
pub fn compile_all(compiler: &CCompiler, target: &Path, units: &[Unit]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(compiler, target, unit)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn compile(compiler: &CCompiler, target: &Path, unit: &Unit) -> Result<()> {
    let unfinished = unit.object.with_extension("unfinished.o");
    // The suffix alone does not make it use the C++ library.
    let is_cxx = ["cc", "cpp"].iter().any(|end| unit.source.extension() == Some(end.as_ref()));
    let mut command = zig(&compiler.zig, if is_cxx { "c++" } else { "cc" });
    command
        .args(COMPILE)
        .args(&unit.options)
        .args(&unit.paths)
        .arg("-c")
        .arg(&unit.source)
        .arg("-o")
        .arg(&unfinished)
        .env("ZIG_GLOBAL_CACHE_DIR", target.join("zig-cache"))
        .env("ZIG_LOCAL_CACHE_DIR", target.join("zig-cache"));
    process::run_quiet(command)?;
    fs::rename(&unfinished, &unit.object)
        .with_context(|| format!("no object was created from {}", unit.source.display()))
}

/// Links objects and archives as a native module.
pub fn link(compiler: &CCompiler, objects: &[PathBuf], output: &Path) -> Result<()> {
    let mut command = zig(&compiler.zig, "wasm-ld");
    command.args(LINK).args(objects).arg("-o").arg(output);
    process::run_quiet(command)
}

/// Creates a command of Zig whose environment does not depend on the machine.
pub fn zig(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(name).env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> PathBuf {
        workspace::root().join("guests/python/native")
    }

    #[test]
    fn every_c_file_is_a_module() {
        let files = digest::files(&source()).unwrap();
        let files = files.iter().filter(|file| file.extension().is_some_and(|end| end == "c"));
        let files: Vec<_> = files.map(|file| file.display().to_string()).collect();
        let mut expected: Vec<_> =
            MODULES.iter().map(|module| format!("{}.c", module.name)).collect();
        expected.sort();
        assert_eq!(files, expected);
    }

    #[test]
    fn every_library_is_pinned() {
        let manifest = fs::read_to_string(source().join("Cargo.toml")).unwrap();
        for library in MODULES.iter().filter_map(|module| module.library.as_ref()) {
            let pinned = format!("{} = {{ version = \"=", library.package);
            assert!(manifest.contains(&pinned), "{}", library.package);
        }
    }
}
