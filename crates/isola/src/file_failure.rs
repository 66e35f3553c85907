//! The reasons for which an operation on a file of a sandbox fails.

/// The reason why an operation on a file of a sandbox failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFailure {
    /// It does not exist (`ENOENT`).
    #[error("no such file or directory")]
    NotFound,
    /// It exists already (`EEXIST`).
    #[error("file exists")]
    Exists,
    /// A directory has entries (`ENOTEMPTY`).
    #[error("directory not empty")]
    NotEmpty,
    /// A part of the path is not a directory (`ENOTDIR`).
    #[error("not a directory")]
    NotADirectory,
    /// It is a directory (`EISDIR`).
    #[error("is a directory")]
    IsADirectory,
    /// The files would take more than `max_storage` (`ENOSPC`).
    #[error("no space left: the sandbox's files would take more than its max_storage")]
    NoSpace,
    /// The file is, or would be, larger than the operation permits (`EFBIG`).
    #[error("file too large")]
    TooLarge,
    /// A file has too many links (`EMLINK`).
    #[error("too many links")]
    TooManyLinks,
    /// The path leads into a mounted directory, which is not part of the sandbox's own
    /// files (`EXDEV`).
    #[error("it is in a mounted directory: use the directory of the host")]
    Mounted,
    /// There are too many symbolic links in the path (`ELOOP`).
    #[error("too many levels of symbolic links")]
    Loop,
    /// A name or the path is too long (`ENAMETOOLONG`).
    #[error("file name too long")]
    NameTooLong,
    /// It cannot be changed or removed under this name (`EBUSY`).
    #[error("resource busy")]
    Busy,
    /// The operation is not permitted for such a file (`EPERM`).
    #[error("operation not permitted")]
    NotPermitted,
    /// The sandbox has no files of its own: its `max_storage` is 0 (`EROFS`).
    #[error("the sandbox has no files of its own, since its max_storage is 0")]
    ReadOnly,
    /// The operation is not possible for this file (`EINVAL`).
    #[error("invalid argument")]
    Invalid,
    /// The machine failed (`EIO`).
    #[error("input/output error")]
    Io,
}

impl FileFailure {
    /// Returns the name of the error number that POSIX has for it, such as `ENOENT`.
    #[must_use]
    pub fn errno(self) -> &'static str {
        match self {
            Self::NotFound => "ENOENT",
            Self::Exists => "EEXIST",
            Self::NotEmpty => "ENOTEMPTY",
            Self::NotADirectory => "ENOTDIR",
            Self::IsADirectory => "EISDIR",
            Self::NoSpace => "ENOSPC",
            Self::TooLarge => "EFBIG",
            Self::TooManyLinks => "EMLINK",
            Self::Mounted => "EXDEV",
            Self::Loop => "ELOOP",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::Busy => "EBUSY",
            Self::NotPermitted => "EPERM",
            Self::ReadOnly => "EROFS",
            Self::Invalid => "EINVAL",
            Self::Io => "EIO",
        }
    }
}
