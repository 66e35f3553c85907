//! What is changed in CPython while its libraries are merged.

use super::fuse::{Changes, Guard};

/// This file, for the digest of what a guest is built from.
pub const SOURCE: &str = include_str!("interpreter.rs");

/// What functions of CPython return after they have set an exception.
const ERROR: i32 = -1;
const NULL: i32 = 0;

/// A recursive function without a check of its own.
const fn checked(name: &'static str, error: i32) -> Guard {
    Guard { name, frame: 64, refusal: Some(error) }
}

/// CPython 3.14 has 1 MiB of stack in memory, and the engine gives it a stack of
/// 16 MiB (`WASM_STACK` in the crate `isola`): a chain of calls must not take more
/// than sixteen times as much of the one as of the other.
pub const CPYTHON: Changes = Changes {
    checks: &["_Py_CheckRecursiveCall", "_Py_EnterRecursiveCall", "Py_EnterRecursiveCall"],
    frame: 64,
    guards: &[
        // The end of each object. With too little left of the stack it puts
        // objects on a list for later.
        Guard { name: "_Py_Dealloc", frame: 96, refusal: None },
        // From 23 comprehensions within each other on, the compiler writes past
        // the end of its stack of exception handlers (CPython 3.14.0): 21 of
        // these frames fit.
        Guard { name: "codegen_comprehension", frame: 45 * 1024, refusal: Some(ERROR) },
        // Hashes of nested values.
        checked("tuple_hash", ERROR),
        checked("ga_hash", ERROR),
        checked("slice_hash", ERROR),
        checked("method_hash", ERROR),
        checked("union_hash", ERROR),
        checked("weakref_hash", ERROR),
        checked("mappingproxy_hash", ERROR),
        // Iterators over iterators.
        checked("map_next", NULL),
        checked("filter_next", NULL),
        checked("zip_next", NULL),
        checked("enum_next", NULL),
        checked("reversed_next", NULL),
        checked("chain_next", NULL),
        checked("islice_next", NULL),
        checked("takewhile_next", NULL),
        checked("dropwhile_next", NULL),
        checked("starmap_next", NULL),
        checked("accumulate_next", NULL),
        checked("compress_next", NULL),
        checked("filterfalse_next", NULL),
        checked("cycle_next", NULL),
        checked("pairwise_next", NULL),
        checked("batched_next", NULL),
        checked("zip_longest_next", NULL),
        checked("groupby_next", NULL),
    ],
    allocators: &["malloc", "calloc", "realloc"],
};
