// Random bytes of Rust's standard library in the packages of the Python guest, in place of
// its own for WASI. Those import functions of WASI; these call the guest's C library.

unsafe extern "C" {
    fn getentropy(buffer: *mut u8, length: usize) -> i32;
}

/// The number of bytes that `getentropy` returns at most.
const MAX_LENGTH: usize = 256;

fn fill(bytes: &mut [u8]) -> bool {
    bytes.chunks_mut(MAX_LENGTH).all(|chunk| {
        // SAFETY: the pointer and the length are those of a slice that is borrowed mutably.
        unsafe { getentropy(chunk.as_mut_ptr(), chunk.len()) == 0 }
    })
}

pub fn fill_bytes(bytes: &mut [u8]) {
    assert!(fill(bytes), "failed to generate random data");
}

pub fn hashmap_random_keys() -> (u64, u64) {
    let mut keys = [0; 16];
    fill_bytes(&mut keys);
    let keys = u128::from_ne_bytes(keys);
    (keys as u64, (keys >> 64) as u64)
}

/// The source of the crate `getrandom`, which is compiled with `getrandom_backend="custom"`.
/// Its error has the representation of this one, and this code stands for a failure.
///
/// # Safety
///
/// `length` bytes can be written at `destination`.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    destination: *mut u8,
    length: usize,
) -> Result<(), core::num::NonZeroU32> {
    // SAFETY: the caller guarantees that the bytes can be written; the zeros make them
    // initialized.
    let bytes = unsafe {
        destination.write_bytes(0, length);
        core::slice::from_raw_parts_mut(destination, length)
    };
    if fill(bytes) { Ok(()) } else { Err(core::num::NonZeroU32::MAX) }
}
