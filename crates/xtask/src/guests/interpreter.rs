//! The changes of CPython when its libraries are merged.

use super::merge_modules::{Changes, Guard};

/// The source of this file, for the digest of the inputs of a guest.
pub const SOURCE: &str = include_str!("interpreter.rs");

/// The return values of functions of CPython that have set an exception.
const ERROR: i32 = -1;
const NULL: i32 = 0;

/// Creates the guard of a recursive function that does not check the stack.
const fn checked(name: &'static str, error: i32) -> Guard {
    Guard { name, frame: 64, error_value: Some(error) }
}

/// The changes of CPython 3.14, which has 1 MiB of linear stack, and 16 MiB of the
/// engine's stack (`WASM_STACK` in the crate `isola`): a chain of calls must not use
/// more than sixteen times as much of the engine's stack as of the linear stack.
pub const CPYTHON: Changes = Changes {
    checks: &["_Py_CheckRecursiveCall", "_Py_EnterRecursiveCall", "Py_EnterRecursiveCall"],
    frame: 64,
    guards: &[
        // The destructor of objects. If little stack is left, it puts objects on a list
        // to destroy them later.
        Guard { name: "_Py_Dealloc", frame: 96, error_value: None },
        // With 23 or more nested comprehensions, the compiler writes past the end of its
        // stack of exception handlers (CPython 3.14.0): 21 of these frames fit.
        Guard { name: "codegen_comprehension", frame: 45 * 1024, error_value: Some(ERROR) },
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
    // `guests/python/native/heap.c` says why.
    replaced: &[
        ("malloc", "isola_malloc"),
        ("calloc", "isola_calloc"),
        ("realloc", "isola_realloc"),
        ("free", "isola_free"),
        // `guests/python/native/files.c` says why.
        ("write", "isola_write"),
    ],
    // The pointers change when `tracemalloc` or a debug hook is started.
    expected: &[
        (&["PyMem_RawMalloc", "PyMem_Malloc", "PyObject_Malloc"], "_PyMem_RawMalloc"),
        (&["PyMem_RawCalloc", "PyMem_Calloc", "PyObject_Calloc"], "_PyMem_RawCalloc"),
        (&["PyMem_RawRealloc", "PyMem_Realloc", "PyObject_Realloc"], "_PyMem_RawRealloc"),
        (&["PyMem_RawFree", "PyMem_Free", "PyObject_Free"], "_PyMem_RawFree"),
        // The destructor of the objects that die most often.
        (&["_Py_Dealloc"], "long_dealloc"),
    ],
    // The garbage collector calls it when a cycle contains an `operator.methodcaller`.
    without_result: &["methodcaller_clear"],
};
