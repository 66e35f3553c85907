//! Conversion of file errors to WASI error codes.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use wasmtime_wasi::p2::{FsError, bindings::filesystem::types::ErrorCode};

/// Returns the error for an operation that the mount does not permit.
pub(super) fn denied() -> FsError {
    ErrorCode::NotPermitted.into()
}

/// Returns the error for a sandbox that has its maximum number of files open. WASI
/// has no code for that; `quota` has no other use here, and the guests' C library
/// converts it to `EMFILE`.
pub(super) fn too_many_open() -> FsError {
    ErrorCode::Quota.into()
}

/// Returns the code of an error of the operating system. wasmtime's own conversion
/// maps some errors that a guest can cause to `EIO`.
pub(super) fn code(error: &io::Error) -> ErrorCode {
    #[cfg(unix)]
    if let Some(number) = error.raw_os_error() {
        use rustix::io::Errno;
        let code = match Errno::from_raw_os_error(number) {
            Errno::XDEV => Some(ErrorCode::CrossDevice),
            Errno::ROFS => Some(ErrorCode::ReadOnly),
            Errno::TXTBSY => Some(ErrorCode::TextFileBusy),
            Errno::NXIO => Some(ErrorCode::NoSuchDevice),
            Errno::NODEV => Some(ErrorCode::NoDevice),
            Errno::MFILE | Errno::NFILE => Some(ErrorCode::Quota),
            // `Quota` has another meaning, see `too_many_open`.
            Errno::DQUOT => Some(ErrorCode::InsufficientSpace),
            Errno::AGAIN => Some(ErrorCode::WouldBlock),
            Errno::DEADLK => Some(ErrorCode::Deadlock),
            Errno::NOLCK => Some(ErrorCode::NoLock),
            _ => None,
        };
        if let Some(code) = code {
            return code;
        }
    }
    match error.kind() {
        io::ErrorKind::Unsupported => ErrorCode::Unsupported,
        io::ErrorKind::NotADirectory => ErrorCode::NotDirectory,
        io::ErrorKind::FileTooLarge => ErrorCode::FileTooLarge,
        io::ErrorKind::InvalidData => ErrorCode::IllegalByteSequence,
        _ => ErrorCode::from(error),
    }
}

/// Converts the result of an operation that ran on a [`Worker`](super::work::Worker).
pub(super) fn outcome<T>(result: wasmtime::Result<io::Result<T>>) -> Result<T, FsError> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(code(&error).into()),
        Err(error) => Err(FsError::trap(error)),
    }
}

/// The error of a write that a guest learns when it flushes the file, as POSIX says.
#[derive(Default)]
pub(super) struct PendingError(Mutex<Option<ErrorCode>>);

impl PendingError {
    pub(super) fn set(&self, code: ErrorCode) {
        *self.lock() = Some(code);
    }

    /// Returns the last error, once.
    pub(super) fn take(&self) -> Result<(), FsError> {
        self.lock().take().map_or(Ok(()), |code| Err(code.into()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<ErrorCode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A code as the cause of a stream's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct StreamErrorCode(pub(super) ErrorCode);

/// Returns the code of a stream's error.
pub(super) fn code_of_stream(error: &wasmtime::Error) -> Option<ErrorCode> {
    let own = error.downcast_ref::<StreamErrorCode>().map(|error| error.0);
    own.or_else(|| error.downcast_ref::<io::Error>().map(code))
}

/// Returns the name of the error number that POSIX has for a code.
pub(super) fn posix_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Access => "EACCES",
        ErrorCode::BadDescriptor => "EBADF",
        ErrorCode::Busy => "EBUSY",
        ErrorCode::CrossDevice => "EXDEV",
        ErrorCode::Exist => "EEXIST",
        ErrorCode::FileTooLarge => "EFBIG",
        ErrorCode::InsufficientMemory => "ENOMEM",
        ErrorCode::InsufficientSpace => "ENOSPC",
        ErrorCode::Invalid => "EINVAL",
        ErrorCode::IsDirectory => "EISDIR",
        ErrorCode::Loop => "ELOOP",
        ErrorCode::NameTooLong => "ENAMETOOLONG",
        ErrorCode::NoEntry => "ENOENT",
        ErrorCode::NotDirectory => "ENOTDIR",
        ErrorCode::NotEmpty => "ENOTEMPTY",
        ErrorCode::NotPermitted => "EPERM",
        ErrorCode::Quota => "EMFILE",
        ErrorCode::ReadOnly => "EROFS",
        ErrorCode::Unsupported => "ENOTSUP",
        _ => "EIO",
    }
}

/// Returns what the user reads about a code.
pub(super) fn message(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Access | ErrorCode::NotPermitted => "operation not permitted",
        ErrorCode::BadDescriptor => "bad file descriptor",
        ErrorCode::Busy => "resource busy",
        ErrorCode::CrossDevice => "the mount does not permit it, or it leads out of it",
        ErrorCode::Exist => "file already exists",
        ErrorCode::FileTooLarge => "file too large",
        ErrorCode::InsufficientMemory => "not enough memory",
        ErrorCode::InsufficientSpace => "no space left in the sandbox",
        ErrorCode::Invalid => "invalid argument",
        ErrorCode::IsDirectory => "is a directory",
        ErrorCode::Loop => "too many levels of symbolic links",
        ErrorCode::NameTooLong => "name too long",
        ErrorCode::NoEntry => "no such file or directory",
        ErrorCode::NotDirectory => "not a directory",
        ErrorCode::NotEmpty => "directory not empty",
        ErrorCode::Quota => "too many open files",
        ErrorCode::ReadOnly => "read-only file system",
        ErrorCode::Unsupported => "not supported",
        _ => "input/output error",
    }
}
