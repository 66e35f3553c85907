//! Small file systems.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A small tmpfs, which is unmounted when this is dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts a tmpfs of this size for its owner only. The directory is created.
    pub fn mount(directory: impl Into<PathBuf>, mib: u32) -> Self {
        let directory = directory.into();
        std::fs::create_dir_all(&directory).unwrap();
        let options = CString::new(format!("size={mib}m,mode=700")).unwrap();
        mount("isorun-test", &directory, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .expect("mounting a tmpfs needs root");
        Self(directory)
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A process that still uses it keeps it, without a name.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
