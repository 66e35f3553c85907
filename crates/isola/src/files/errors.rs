//! What went wrong with a file, in the words of WASI.

use std::io;

use wasmtime_wasi::p2::{FsError, bindings::filesystem::types::ErrorCode};

/// An operation that is not permitted by the mount.
pub(super) fn denied() -> FsError {
    ErrorCode::NotPermitted.into()
}

/// The sandbox has as many files open as it may. WASI has no code for that, and
/// no use for this one, which the guests' C library makes `EMFILE` of.
pub(super) fn too_many_open() -> FsError {
    ErrorCode::Quota.into()
}

/// The code of an error of the operating system. wasmtime's own conversion
/// makes an `EIO` of some that a guest can meet.
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
            // `quota` says something else, see there.
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

/// The result of an operation that ran on a [`Worker`](super::work::Worker).
pub(super) fn outcome<T>(result: wasmtime::Result<io::Result<T>>) -> Result<T, FsError> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(code(&error).into()),
        Err(error) => Err(FsError::trap(error)),
    }
}
