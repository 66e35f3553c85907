//! Patches wasi-libc in the Python guest.
//!
//! `componentize-py` contains a compiled C library with bugs that affect scripts.
//! No compiler for it is available here, so the machine code is patched: named
//! functions, in which each pattern must occur an exact number of times, and
//! constant tables. If a newer version of the library differs, the build fails, and
//! the patches must be reviewed.
//!
//! - **Files that are opened for appending.** `lseek` moves to the end first, so
//!   `tell` returns the file's size, and reading starts there. With the patch only
//!   writing moves to the end, and the position is then behind the written bytes.
//! - **Alternate reading and writing.** The library has a stream for each, with
//!   separate positions. With the patch, opening one closes the other.
//! - **Modes.** WASI has none, so all files had mode 000, also in archives that a
//!   script creates. With the patch they are the modes for a umask of 022, and those of
//!   the sandbox's own files are in the upper half of the number of links, from which
//!   `stat` moves them to their place.
//! - **The number of a file.** That of a link was the result for the file to which it
//!   leads, so that two paths to one file seemed to lead to different ones.
//! - **Times before 1970.** They were changed to the maximum time, and could not be
//!   set. The host passes them in two's complement.
//! - **Too many open files.** WASI has no error for this. `quota`, which the host
//!   uses only for this, is converted to `EMFILE`.

use anyhow::{Context, Result, ensure};
use wasmparser::{BlockType, MemArg, Operator, ValType};

use super::merge_modules::{Function, FunctionPatch};
use crate::digest::Inputs;

/// The patches of functions.
pub const FUNCTION_PATCHES: [FunctionPatch; 7] = [
    ("file_seek", seek),
    ("file_get_read_stream", read_stream),
    ("file_get_write_stream", write_stream),
    ("file_fstat", file_stat),
    ("__wasilibc_nocwd_fstatat", path_stat),
    ("futimens", set_times),
    ("__wasilibc_nocwd_utimensat", set_times),
];

/// Returns a digest of this code.
pub fn digest() -> String {
    Inputs::default().text("libc", include_str!("libc.rs")).finish()
}

/// Patches the tables in the initial memory, in place.
pub fn patch_tables(component: &mut [u8]) -> Result<()> {
    let mut errors = ERRORS;
    errors[QUOTA_INDEX] = EMFILE;
    replace(component, &ERRORS, &errors, 21)?;
    replace(component, &TYPE_BITS, &MODES, 2)
}

/// The error numbers of the C library for the errors of WASI, in the order of WASI.
const ERRORS: [i32; 37] = [
    2, 6, 7, 8, 10, 16, 19, 20, 22, 25, 26, 27, 28, 29, 31, 32, 34, 35, 37, 43, 44, 46, 48, 51, 54,
    55, 56, 58, 59, 60, 61, 63, 64, 69, 70, 74, 75,
];
const QUOTA_INDEX: usize = 6;
const EMFILE: i32 = 33;

/// The mode bits of the file types of WASI, in the order of WASI without the first:
/// block device, character device, directory, pipe (which the library does not
/// support), link, file and socket.
const TYPE_BITS: [i32; 7] = [0o60000, 0o20000, 0o40000, 0, 0o120_000, 0o100_000, 0o140_000];
/// The same with permissions.
const MODES: [i32; 7] = [0o60644, 0o20666, 0o40755, 0, 0o120_777, 0o100_644, 0o140_755];

/// Replaces a table, which must occur exactly `times` times.
fn replace(component: &mut [u8], old: &[i32], new: &[i32], times: usize) -> Result<()> {
    let bytes = |table: &[i32]| table.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (old, new): (Vec<u8>, Vec<u8>) = (bytes(old), bytes(new));
    let mut found = 0;
    let mut at = 0;
    while let Some(rest) = component.get(at..at + old.len()) {
        if rest == old {
            component[at..at + new.len()].copy_from_slice(&new);
            found += 1;
            at += old.len();
        } else {
            at += 1;
        }
    }
    ensure!(found == times, "a table of wasi-libc occurs {found} times instead of {times}");
    Ok(())
}

/// Offsets in the library's `file_t`.
const OFLAG_OFFSET: u64 = 16;
const READ_STREAM_OFFSET: u64 = 20;
const WRITE_STREAM_OFFSET: u64 = 24;
/// The flag `O_APPEND` of the library.
const O_APPEND: i32 = 1;

/// Patches `lseek`: it does not move to the end of a file that is opened for
/// appending, except for `SEEK_END`.
fn seek<'a>(_: &Function<'_>, mut code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut found = 0;
    for at in 2..code.len() {
        if let [
            Operator::I32Load8U { memarg },
            Operator::I32Const { value: O_APPEND },
            Operator::I32And,
        ] = &code[at - 2..=at]
            && memarg.offset == OFLAG_OFFSET
        {
            code[at - 1] = Operator::I32Const { value: 0 };
            found += 1;
        }
    }
    expect(found, 2)?;
    Ok(code)
}

/// Patches the start of reading: it continues at the position of the last write.
fn read_stream<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut patched = close_other_streams(function, WRITE_STREAM_OFFSET)?;
    patched.extend(code);
    Ok(patched)
}

/// Patches the start of writing: it continues at the position of the last read, or at
/// the end of a file that is opened for appending.
fn write_stream<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut patched = close_other_streams(function, READ_STREAM_OFFSET)?;
    patched.extend([
        Operator::LocalGet { local_index: 0 },
        load(OFLAG_OFFSET),
        Operator::I32Const { value: O_APPEND },
        Operator::I32And,
        Operator::If { blockty: BlockType::Empty },
        Operator::LocalGet { local_index: 0 },
        Operator::Call { function_index: function.named("file_seek_end")? },
        Operator::Drop,
        Operator::End,
    ]);
    patched.extend(code);
    Ok(patched)
}

/// Returns code that closes all streams of the file if this one is open.
fn close_other_streams<'a>(function: &Function<'_>, stream: u64) -> Result<Vec<Operator<'a>>> {
    Ok(vec![
        Operator::LocalGet { local_index: 0 },
        load(stream),
        Operator::If { blockty: BlockType::Empty },
        Operator::LocalGet { local_index: 0 },
        Operator::Call { function_index: function.named("file_close_streams")? },
        Operator::End,
    ])
}

fn load<'a>(offset: u64) -> Operator<'a> {
    Operator::I32Load { memarg: MemArg { align: 2, max_align: 2, offset, memory: 0 } }
}

/// Patches `stat`: seconds and nanoseconds of the host are not changed.
fn stat<'a>(_: &Function<'_>, mut code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for at in 2..code.len() {
        match &code[at - 2..=at] {
            [Operator::I64Const { value: i64::MAX }, Operator::I64LtU, Operator::Select] => {
                code[at - 2] = Operator::I64Const { value: -1 };
                code[at - 1] = Operator::I64LeU;
                seconds += 1;
            }
            [Operator::I64Const { value: 0 }, Operator::I64LtS, Operator::Select] => {
                code[at - 1] = Operator::I64LtU;
                nanoseconds += 1;
            }
            _ => {}
        }
    }
    expect(seconds, 3)?;
    expect(nanoseconds, 3)?;
    Ok(code)
}

/// Offsets in the library's `struct stat`.
const LINKS_OFFSET: u64 = 16;
const MODE_OFFSET: u64 = 24;

/// Patches `fstat`, whose second parameter is the result.
fn file_stat<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    Ok(with_mode(1, stat(function, code)?))
}

/// Patches `fstatat`, whose third parameter is the result.
fn path_stat<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let code = identify_the_followed(function, stat(function, code)?)?;
    Ok(with_mode(2, code))
}

/// The flag of `fstatat` by which a link is not followed, in its fourth parameter, and the
/// flag of WASI by which it is.
const AT_SYMLINK_NOFOLLOW: i32 = 1;
const SYMLINK_FOLLOW: i32 = 1;

/// Patches the number of the file in `stat`: it is that of the file to which a link leads,
/// as the rest of the result.
fn identify_the_followed<'a>(
    function: &Function<'_>,
    mut code: Vec<Operator<'a>>,
) -> Result<Vec<Operator<'a>>> {
    let hash = function.named("filesystem_method_descriptor_metadata_hash_at")?;
    let calls = |operator: &Operator<'_>| matches!(operator, Operator::Call { function_index } if *function_index == hash);
    let call = code.iter().position(calls);
    let call = call.context("`stat` does not request the number of a file")?;
    // The flags are the second of five arguments, and the only constant 0.
    let start = call.saturating_sub(16);
    let is_zero = |operator: &Operator<'_>| matches!(operator, Operator::I32Const { value: 0 });
    let zeros: Vec<usize> = (start..call).filter(|at| is_zero(&code[*at])).collect();
    expect(zeros.len(), 1)?;
    let flags = [
        Operator::LocalGet { local_index: 3 },
        Operator::I32Const { value: AT_SYMLINK_NOFOLLOW },
        Operator::I32And,
        Operator::I32Const { value: SYMLINK_FOLLOW },
        Operator::I32Xor,
    ];
    code.splice(zeros[0]..=zeros[0], flags);
    Ok(code)
}

/// Adds to the end of a function: if the number of links has an upper half, the permissions
/// are moved from there to the mode. `result` is the local of the address of the result.
fn with_mode(result: u32, code: Vec<Operator<'_>>) -> Vec<Operator<'_>> {
    let at = |offset| MemArg { align: 2, max_align: 2, offset, memory: 0 };
    let address = Operator::LocalGet { local_index: result };
    let high = Operator::I32Load { memarg: at(LINKS_OFFSET + 4) };
    // The body becomes a block, to whose end each return leads.
    let mut patched = vec![Operator::Block { blockty: BlockType::Type(ValType::I32) }];
    let mut depth = 0;
    for operator in code {
        match &operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => depth += 1,
            Operator::End => depth -= 1,
            Operator::Return => {
                patched.push(Operator::Br { relative_depth: depth as u32 });
                continue;
            }
            _ => {}
        }
        patched.push(operator);
    }
    patched.extend([
        address.clone(),
        high.clone(),
        Operator::If { blockty: BlockType::Empty },
        address.clone(),
        address.clone(),
        Operator::I32Load { memarg: at(MODE_OFFSET) },
        Operator::I32Const { value: 0o170_000 },
        Operator::I32And,
        address.clone(),
        high,
        Operator::I32Const { value: 0o7777 },
        Operator::I32And,
        Operator::I32Or,
        Operator::I32Store { memarg: at(MODE_OFFSET) },
        address,
        Operator::I32Const { value: 0 },
        Operator::I32Store { memarg: at(LINKS_OFFSET + 4) },
        Operator::End,
        Operator::End,
    ]);
    patched
}

/// Patches the setting of times: seconds before 1970 are not rejected.
fn set_times<'a>(_: &Function<'_>, mut code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut found = 0;
    for at in 2..code.len() {
        if let [Operator::I64Const { value: 0 }, Operator::I64LtS, Operator::BrIf { .. }] =
            &code[at - 2..=at]
        {
            code[at - 1] = Operator::I64LtU;
            found += 1;
        }
    }
    expect(found, 2)?;
    Ok(code)
}

fn expect(found: usize, times: usize) -> Result<()> {
    ensure!(found == times, "the code to patch occurs {found} times instead of {times}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::merge_modules::Module;
    use super::*;

    #[test]
    fn tables_are_replaced_as_often_as_is_said() {
        fn table(values: &[i32]) -> impl Iterator<Item = u8> {
            values.iter().flat_map(|value| value.to_le_bytes())
        }
        let mut bytes: Vec<u8> = vec![1];
        bytes.extend(table(&TYPE_BITS).chain([2]).chain(table(&TYPE_BITS)));
        let before = bytes.clone();
        for times in [0, 1, 3] {
            assert!(replace(&mut before.clone(), &TYPE_BITS, &MODES, times).is_err(), "{times}");
        }
        replace(&mut bytes, &TYPE_BITS, &MODES, 2).unwrap();
        let expected: Vec<u8> =
            [1].into_iter().chain(table(&MODES)).chain([2]).chain(table(&MODES)).collect();
        assert_eq!(bytes, expected);
        assert!(patch_tables(&mut bytes).is_err());
    }

    #[test]
    fn code_that_is_different_is_not_changed() {
        let module = Module::default();
        let nameless = module.function(0);
        for (name, patch) in FUNCTION_PATCHES {
            assert!(patch(&nameless, vec![Operator::End]).is_err(), "{name}");
        }
    }
}
