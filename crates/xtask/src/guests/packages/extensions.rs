//! Builds a package whose native modules consist of a few files, without its own build
//! system.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::meson::SUFFIX;
use super::recipe::{Extension, ExtensionsBuild};
use super::{Tools, copy_python_files, support};
use crate::guests::hermetic;
use crate::guests::native_modules::{self, Unit};
use crate::process;

/// Builds the package in `source`, and copies its files into `files`.
pub fn build(
    build: &ExtensionsBuild,
    tools: &Tools,
    dir: &Path,
    source: &Path,
    files: &Path,
) -> Result<()> {
    copy_python_files(&source.join(&build.root), &build.packages, files)?;
    let objects = dir.join("objects");
    fs::create_dir_all(&objects)?;
    for module in &build.modules {
        let units = units(module, tools, dir, source, &objects)?;
        native_modules::compile_all(&tools.compiler, &objects, &units)?;
        let archives = support::ARCHIVES.map(|name| tools.support.join(name));
        let linked: Vec<_> = units.iter().map(|unit| unit.object.clone()).chain(archives).collect();
        let file = files.join(format!("{}{SUFFIX}", module.name.replace('.', "/")));
        fs::create_dir_all(file.parent().unwrap_or(files))?;
        native_modules::link(&tools.compiler, &linked, &file)?;
    }
    fs::remove_dir_all(&objects)?;
    Ok(())
}

/// Returns the files to compile, after Cython has translated those in its language.
fn units(
    module: &Extension,
    tools: &Tools,
    dir: &Path,
    source: &Path,
    objects: &Path,
) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for file in &module.sources {
        let mut path = source.join(file);
        if path.extension().is_some_and(|extension| extension == "pyx") {
            let mut cython = hermetic(&tools.packages.bin.join("cython"));
            // The path that is given gets into the module.
            cython.current_dir(source).arg("-3").arg(file);
            process::run_quiet(cython).with_context(|| format!("cannot translate {file}"))?;
            path.set_extension("c");
        }
        let name = format!("{}-{}.o", module.name, file.replace('/', "-"));
        let mut options = module.options.clone();
        options.extend(["-w".into(), "-D_GNU_SOURCE".into()]);
        let mut paths = vec![
            format!("-I{}", tools.headers.include.display()),
            format!("-ffile-prefix-map={}=.", dir.display()),
        ];
        paths.extend(
            module.includes.iter().map(|include| format!("-I{}", source.join(include).display())),
        );
        units.push(Unit { source: path, options, paths, object: objects.join(name) });
    }
    Ok(units)
}
