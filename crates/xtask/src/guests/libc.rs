//! Mends wasi-libc as it is in the Python guest.
//!
//! `componentize-py` brings a C library that was compiled long before, and that
//! is wrong in some places that scripts meet. There is no compiler for it here,
//! so what is wrong is changed in the machine code: named functions, of which
//! each change must fit exactly as often as is said, and constant tables. When a
//! newer library comes along that is different, the build fails and somebody
//! looks.
//!
//! - **Files that are opened for appending.** `lseek` goes to the end first, so
//!   `tell` is the file's size, and reading begins there. Only writing goes to
//!   the end now, and the position is behind what was written afterwards.
//! - **Reading and writing by turns.** The library has a stream for each, with
//!   positions of their own. What is begun ends the other.
//! - **Modes.** WASI has none, so every file had mode 000, and so had what a
//!   script put into archives. They are what a umask of 022 leaves.
//! - **Times before 1970.** They were made the end of all time, and could not be
//!   set. The host hands them on in two's complement.
//! - **Too many open files.** WASI has no error for that. `quota`, which the
//!   host uses for nothing else, is `EMFILE`.

use anyhow::{Result, ensure};
use wasmparser::{BlockType, MemArg, Operator};

use super::fuse::{Function, Mend};
use crate::digest::Inputs;

/// The functions that are changed.
pub const FUNCTIONS: [Mend; 7] = [
    ("file_seek", seek),
    ("file_get_read_stream", read_stream),
    ("file_get_write_stream", write_stream),
    ("file_fstat", stat),
    ("__wasilibc_nocwd_fstatat", stat),
    ("futimens", set_times),
    ("__wasilibc_nocwd_utimensat", set_times),
];

/// Changes with this code.
pub fn digest() -> String {
    Inputs::default().text("libc", include_str!("libc.rs")).finish()
}

/// Changes the tables in the initial memory, in place.
pub fn mend_tables(component: &mut [u8]) -> Result<()> {
    let mut errors = ERRORS;
    errors[QUOTA] = EMFILE;
    replace(component, &ERRORS, &errors, 21)?;
    replace(component, &KINDS, &MODES, 2)
}

/// The errors of WASI, in their order, as those of the C library.
const ERRORS: [i32; 37] = [
    2, 6, 7, 8, 10, 16, 19, 20, 22, 25, 26, 27, 28, 29, 31, 32, 34, 35, 37, 43, 44, 46, 48, 51, 54,
    55, 56, 58, 59, 60, 61, 63, 64, 69, 70, 74, 75,
];
const QUOTA: usize = 6;
const EMFILE: i32 = 33;

/// The file types of WASI but the first, in their order, as bits of a mode:
/// block device, character device, directory, pipe (which the library does not
/// know), link, file and socket.
const KINDS: [i32; 7] = [0o60000, 0o20000, 0o40000, 0, 0o120_000, 0o100_000, 0o140_000];
const MODES: [i32; 7] = [0o60644, 0o20666, 0o40755, 0, 0o120_777, 0o100_644, 0o140_755];

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
    ensure!(found == times, "a table of wasi-libc is there {found} times instead of {times}");
    Ok(())
}

/// Offsets in the library's `file_t`.
const OFLAG: u64 = 16;
const READ_STREAM: u64 = 20;
const WRITE_STREAM: u64 = 24;
/// `O_APPEND`.
const APPEND: i32 = 1;

/// `lseek` does not go to the end of a file that is opened for appending,
/// unless it is told to.
fn seek<'a>(_: &Function<'_>, mut code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut found = 0;
    for at in 2..code.len() {
        if let [
            Operator::I32Load8U { memarg },
            Operator::I32Const { value: APPEND },
            Operator::I32And,
        ] = &code[at - 2..=at]
            && memarg.offset == OFLAG
        {
            code[at - 1] = Operator::I32Const { value: 0 };
            found += 1;
        }
    }
    expect(found, 2)?;
    Ok(code)
}

/// What is read begins where the last write ended.
fn read_stream<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut mended = ends_other(function, WRITE_STREAM)?;
    mended.extend(code);
    Ok(mended)
}

/// What is written begins where the last read ended, or at the end of the file.
fn write_stream<'a>(function: &Function<'_>, code: Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>> {
    let mut mended = ends_other(function, READ_STREAM)?;
    mended.extend([
        Operator::LocalGet { local_index: 0 },
        load(OFLAG),
        Operator::I32Const { value: APPEND },
        Operator::I32And,
        Operator::If { blockty: BlockType::Empty },
        Operator::LocalGet { local_index: 0 },
        Operator::Call { function_index: function.named("file_seek_end")? },
        Operator::Drop,
        Operator::End,
    ]);
    mended.extend(code);
    Ok(mended)
}

/// Ends all streams of the file if it has this one.
fn ends_other<'a>(function: &Function<'_>, stream: u64) -> Result<Vec<Operator<'a>>> {
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

/// Seconds are what the host says, and so are nanoseconds.
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

/// Seconds before 1970 are not refused.
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
    ensure!(found == times, "what is to be changed is there {found} times instead of {times}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fuse::Module;
    use super::*;

    #[test]
    fn tables_are_replaced_as_often_as_is_said() {
        fn table(values: &[i32]) -> impl Iterator<Item = u8> {
            values.iter().flat_map(|value| value.to_le_bytes())
        }
        let mut bytes: Vec<u8> = vec![1];
        bytes.extend(table(&KINDS).chain([2]).chain(table(&KINDS)));
        let before = bytes.clone();
        for times in [0, 1, 3] {
            assert!(replace(&mut before.clone(), &KINDS, &MODES, times).is_err(), "{times}");
        }
        replace(&mut bytes, &KINDS, &MODES, 2).unwrap();
        let expected: Vec<u8> =
            [1].into_iter().chain(table(&MODES)).chain([2]).chain(table(&MODES)).collect();
        assert_eq!(bytes, expected);
        assert!(mend_tables(&mut bytes).is_err());
    }

    #[test]
    fn code_that_is_different_is_not_changed() {
        let module = Module::default();
        let nameless = module.function(0);
        for (name, mend) in FUNCTIONS {
            assert!(mend(&nameless, vec![Operator::End]).is_err(), "{name}");
        }
    }
}
