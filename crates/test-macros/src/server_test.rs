//! The attribute `server_test`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Error, Expr, ExprArray, FnArg, Ident, ItemFn, LitBool, LitInt, Result, Token, Type, parse_quote,
};

/// The default time limit of a test, in seconds.
const DEFAULT_SECONDS: u64 = 120;

/// The arguments of the attribute.
struct Arguments {
    /// The time limit in seconds.
    seconds: Expr,
    /// The arguments of the server.
    args: Option<ExprArray>,
    /// `true` if no other test may run at the same time.
    alone: bool,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let seconds = LitInt::new(&DEFAULT_SECONDS.to_string(), input.span());
        let mut arguments = Self { seconds: parse_quote!(#seconds), args: None, alone: false };
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match name.to_string().as_str() {
                "seconds" => arguments.seconds = input.parse()?,
                "args" => arguments.args = Some(input.parse()?),
                "alone" => arguments.alone = input.parse::<LitBool>()?.value,
                _ => {
                    let message = format!(
                        "unknown argument `{name}`: use `seconds = N`, `args = [\"--option\"]` or \
                         `alone = true`"
                    );
                    return Err(Error::new(name.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(arguments)
    }
}

/// Returns the test function.
pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let Arguments { seconds, args, alone } = syn::parse2(arguments)?;
    let mut test: ItemFn = syn::parse2(item)?;
    if test.sig.asyncness.is_none() {
        return Err(Error::new_spanned(test.sig.fn_token, "the test is not an `async fn`"));
    }
    let attributes = std::mem::take(&mut test.attrs);
    let name = &test.sig.ident;
    let server = server_type(&test.sig.inputs)?;
    if let (None, Some(args)) = (server, &args) {
        let message =
            "`args` starts a server: give the test a parameter, such as `server: &Server`";
        return Err(Error::new_spanned(args, message));
    }
    let (start, call) = match server {
        None => (quote!(), quote!(#name())),
        Some(server) => {
            let args = args.unwrap_or_else(|| parse_quote!([]));
            let (server, argument) = match server {
                Type::Reference(reference) => (&*reference.elem, quote!(&server)),
                owned => (owned, quote!(server)),
            };
            (quote!(let server = <#server>::start_with(&#args);), quote!(#name(#argument)))
        }
    };
    let turn = if alone { quote!(alone) } else { quote!(shared) };
    Ok(quote! {
        #(#attributes)*
        #[::core::prelude::v1::test]
        fn #name() {
            #test
            let seconds: u64 = #seconds;
            let _turn = ::test_support::turns::#turn();
            // Dropped last, after the runtime and with it all connections to the server.
            #start
            let runtime = ::tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime of tokio");
            let limit = ::std::time::Duration::from_secs(seconds);
            let outcome = ::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async { ::tokio::time::timeout(limit, #call).await })
            }));
            // Dropping the runtime would wait for blocking calls that may never return.
            runtime.shutdown_background();
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(_)) => panic!("the test exceeded its time limit of {seconds} s"),
                Err(panic) => ::std::panic::resume_unwind(panic),
            }
        }
    })
}

/// Returns the type of the only parameter.
fn server_type(inputs: &Punctuated<FnArg, Token![,]>) -> Result<Option<&Type>> {
    match inputs.iter().collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [FnArg::Typed(parameter)] => Ok(Some(&parameter.ty)),
        [_, second, ..] => Err(Error::new_spanned(second, "the test has more than one parameter")),
        [FnArg::Receiver(receiver)] => Err(Error::new_spanned(receiver, "the test is a method")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(arguments: TokenStream, item: TokenStream) -> String {
        let output = expand(arguments, item).unwrap_or_else(Error::into_compile_error);
        output.to_string().replace(' ', "")
    }

    #[test]
    fn server_is_started_with_its_arguments() {
        let output = expanded(
            quote!(args = ["--warm", "0"]),
            quote!(
                async fn a(server: &Server) {}
            ),
        );
        assert!(output.contains(r#"<Server>::start_with(&["--warm","0"])"#), "{output}");
        assert!(output.contains("timeout(limit,a(&server))"), "{output}");
        assert!(output.contains("seconds:u64=120"), "{output}");
        let output = expanded(
            quote!(),
            quote!(
                async fn a(mut server: Server) {}
            ),
        );
        assert!(output.contains("<Server>::start_with(&[])"), "{output}");
        assert!(output.contains("timeout(limit,a(server))"), "{output}");
    }

    #[test]
    fn test_runs_with_others_unless_it_is_alone() {
        let item = quote!(
            async fn a() {}
        );
        let output = expanded(quote!(), item.clone());
        assert!(output.contains("turns::shared()"), "{output}");
        let output = expanded(quote!(alone = true, seconds = 9), item.clone());
        assert!(output.contains("turns::alone()"), "{output}");
        assert!(expanded(quote!(alone = 1), item).contains("compile_error"));
    }

    #[test]
    fn test_without_parameter_starts_no_server() {
        let item = quote! {
            #[ignore = "slow"]
            async fn a() {}
        };
        let output = expanded(quote!(seconds = 60 + LIMIT), item);
        assert!(!output.contains("start_with"), "{output}");
        assert!(output.contains("seconds:u64=60+LIMIT"), "{output}");
        assert!(output.starts_with("#[ignore=\"slow\"]"), "{output}");
    }

    #[test]
    fn invalid_tests_are_refused() {
        for (arguments, item, message) in [
            (
                quote!(),
                quote!(
                    fn a() {}
                ),
                "notan`asyncfn`",
            ),
            (
                quote!(secs = 1),
                quote!(
                    async fn a() {}
                ),
                "unknownargument`secs`",
            ),
            (
                quote!(args = []),
                quote!(
                    async fn a() {}
                ),
                "`args`startsaserver",
            ),
            (
                quote!(),
                quote!(
                    async fn a(b: &B, c: &C) {}
                ),
                "morethanoneparameter",
            ),
        ] {
            let output = expanded(arguments, item);
            assert!(output.contains("compile_error"), "{output}");
            assert!(output.contains(message), "{output}");
        }
    }
}
