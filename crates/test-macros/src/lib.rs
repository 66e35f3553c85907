//! Attributes for the tests of this repository.

mod each_runtime;
mod server_test;

use proc_macro::TokenStream;

/// Turns a function into two tests, one for each runtime.
///
/// ```
/// #[each_runtime]
/// async fn value_size_limit_is_enforced(runtime: Runtime) {
///     let sandbox = started(runtime).await;
/// }
/// ```
///
/// The tests are called `value_size_limit_is_enforced::python` and
/// `value_size_limit_is_enforced::javascript`. They call the function with
/// `Runtime::Python` and `Runtime::JavaScript`. The type of the parameter can be any type
/// that has these two values; it is a name in scope or an absolute path, since the tests
/// are in a module of their own. If the function is `async`, they are tests of tokio, with
/// the options of the attribute:
/// `#[each_runtime(flavor = "multi_thread", worker_threads = 2)]`.
#[proc_macro_attribute]
pub fn each_runtime(options: TokenStream, function: TokenStream) -> TokenStream {
    each_runtime::expand(&options.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Turns an `async fn` into a test with a tokio runtime of two worker threads and a time
/// limit.
///
/// - `seconds = N` is the time limit; the default is 120. It may be any expression of the
///   type `u64`.
/// - A parameter of a type `T` or `&T` is started before the test by
///   `T::start_with(&[...])`, with the strings of `args = [...]`. A borrowed one is dropped
///   after the runtime, so that no task of the test is connected to it any more; also if
///   the test panics or exceeds its limit.
/// - `alone = true` lets no other test of these attributes run in the same process at the
///   same time, for a test that uses all CPUs.
///
/// ```ignore
/// #[server_test(args = ["--max-runs", "1"], seconds = 300)]
/// async fn run_limit_is_enforced(server: &Server) {}
/// ```
#[proc_macro_attribute]
pub fn server_test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    server_test::expand(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Turns an `async fn` without parameters into a test with a tokio runtime of two worker
/// threads and a time limit, as [`macro@server_test`] does, for tests that need no server.
#[proc_macro_attribute]
pub fn timed_test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    server_test(arguments, item)
}
