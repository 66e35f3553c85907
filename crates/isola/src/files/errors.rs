//! Conversion of file errors to WASI error codes.

use std::io;

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
