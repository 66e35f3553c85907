//! The compiled runtimes of this process.

use std::path::PathBuf;

use isola::{Limits, Template};
use tokio::sync::OnceCell;

use crate::{
    error::{Error, Result},
    image::InterpreterImage,
    spec::InterpreterSpec,
};

/// The compiled runtime of each image, built at its first use.
pub(crate) struct Templates {
    python: OnceCell<Template>,
    python_data: OnceCell<Template>,
    javascript: OnceCell<Template>,
    /// The directory of compiled code if the user has no cache directory.
    fallback_cache: PathBuf,
}

impl Templates {
    pub(crate) fn new(fallback_cache: PathBuf) -> Self {
        Self {
            python: OnceCell::new(),
            python_data: OnceCell::new(),
            javascript: OnceCell::new(),
            fallback_cache,
        }
    }

    /// Returns the template of an image. The first call on a machine compiles the runtime,
    /// which takes seconds; the result is cached on disk.
    pub(crate) async fn get(&self, image: InterpreterImage) -> Result<&Template> {
        let template = match image {
            InterpreterImage::Python => &self.python,
            InterpreterImage::PythonData => &self.python_data,
            InterpreterImage::JavaScript => &self.javascript,
        };
        template.get_or_try_init(|| self.build(image)).await
    }

    async fn build(&self, image: InterpreterImage) -> Result<Template> {
        let path = find(image)?;
        // The template limits what snapshots may have; each sandbox has limits of its own.
        let max_memory = usize::try_from(*InterpreterSpec::MEM_MIB.end() << 20);
        let limits = Limits { max_memory: max_memory.unwrap_or(usize::MAX), ..Limits::default() };
        let cache = isola::default_cache_dir().unwrap_or_else(|_| self.fallback_cache.clone());
        let template = Template::builder(image.runtime())
            .runtime_path(path)
            .cache_dir(Some(cache))
            .limits(limits)
            .on_compile(move || tracing::info!(%image, "compiling a runtime"))
            .build()
            .await;
        template.map_err(|error| Error::Failed(format!("cannot load {image}: {error}")))
    }
}

/// Returns the path of a runtime on this machine.
pub(crate) fn find(image: InterpreterImage) -> Result<PathBuf> {
    image.runtime().resolve(None).map_err(|error| {
        Error::RuntimeMissing(format!(
            "{image} is not available: {error}. {}",
            image.installation()
        ))
    })
}
