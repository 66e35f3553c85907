//! Attributes for the tests of this repository.

use proc_macro::TokenStream;

mod each_runtime;

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
