//! The attribute `each_runtime`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Signature, Type};

/// Returns the function, and a module of the same name with its two tests.
///
/// The function stays where it is, so that its body sees the names of its own module. A
/// function and a module can have the same name.
pub(crate) fn expand(options: &TokenStream, function: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(function)?;
    let runtime = parameter(&function.sig)?;
    let name = &function.sig.ident;
    let conditions = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    let (attribute, asyncness, dot_await) = if function.sig.asyncness.is_some() {
        (quote!(::tokio::test(#options)), quote!(async), quote!(.await))
    } else if options.is_empty() {
        (quote!(test), TokenStream::new(), TokenStream::new())
    } else {
        return Err(Error::new_spanned(
            options,
            "a test that is not async has no options of a tokio runtime: remove them, or make \
             the function async",
        ));
    };
    Ok(quote! {
        #function

        #(#conditions)*
        mod #name {
            #[allow(unused_imports, reason = "an absolute path needs none")]
            use super::*;

            #[#attribute]
            #asyncness fn python() {
                super::#name(<#runtime>::Python)#dot_await;
            }

            #[#attribute]
            #asyncness fn javascript() {
                super::#name(<#runtime>::JavaScript)#dot_await;
            }
        }
    })
}

/// Returns the type of the only parameter.
fn parameter(signature: &Signature) -> Result<&Type> {
    if let ReturnType::Type(..) = signature.output {
        return Err(Error::new_spanned(
            &signature.output,
            "the test returns a value: remove the return type, and panic if the test fails",
        ));
    }
    let mut parameters = signature.inputs.iter();
    match (parameters.next(), parameters.next()) {
        (Some(FnArg::Typed(parameter)), None) => Ok(&parameter.ty),
        _ => Err(Error::new_spanned(
            signature,
            format!(
                "the test has {} parameters, and needs exactly 1: the runtime",
                signature.inputs.len()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(options: &TokenStream, function: TokenStream, expected: &TokenStream) {
        assert_eq!(expand(options, function).unwrap().to_string(), expected.to_string());
    }

    #[track_caller]
    fn refused(options: &str, function: &str, reason: &str) {
        let expanded = expand(&options.parse().unwrap(), function.parse().unwrap());
        let error = expanded.unwrap_err().to_string();
        assert!(error.contains(reason), "{function}: {error}");
    }

    #[test]
    fn async_function_becomes_two_tests_of_tokio() {
        let function = quote! {
            /// Docs.
            async fn limit_is_enforced(runtime: Runtime) { start(runtime).await; }
        };
        check(
            &quote!(flavor = "multi_thread", worker_threads = 2),
            function.clone(),
            &quote! {
                #function

                mod limit_is_enforced {
                    #[allow(unused_imports, reason = "an absolute path needs none")]
                    use super::*;

                    #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn python() {
                        super::limit_is_enforced(<Runtime>::Python).await;
                    }

                    #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn javascript() {
                        super::limit_is_enforced(<Runtime>::JavaScript).await;
                    }
                }
            },
        );
    }

    #[test]
    fn sync_function_becomes_two_plain_tests_with_its_conditions() {
        let function = quote! {
            #[cfg(unix)]
            #[track_caller]
            fn mode_is_kept(runtime: isola::Runtime) {}
        };
        check(
            &TokenStream::new(),
            function.clone(),
            &quote! {
                #function

                #[cfg(unix)]
                mod mode_is_kept {
                    #[allow(unused_imports, reason = "an absolute path needs none")]
                    use super::*;

                    #[test]
                    fn python() {
                        super::mode_is_kept(<isola::Runtime>::Python);
                    }

                    #[test]
                    fn javascript() {
                        super::mode_is_kept(<isola::Runtime>::JavaScript);
                    }
                }
            },
        );
    }

    #[test]
    fn invalid_functions_are_refused() {
        refused("", "async fn a() {}", "the test has 0 parameters");
        refused("", "fn a(one: Runtime, other: u8) {}", "the test has 2 parameters");
        refused("", "fn a(self) {}", "needs exactly 1: the runtime");
        refused("", "fn a(runtime: Runtime) -> u8 { 1 }", "returns a value");
        refused("worker_threads = 2", "fn a(runtime: Runtime) {}", "not async");
        refused("", "struct A;", "expected");
    }
}
