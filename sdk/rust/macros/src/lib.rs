//! The attribute behind `#[tidegate_sdk::handler]`. It needs the function's name and nothing else, so it reads the tokens
//! itself: an author's first build should not wait for a parser of all of Rust.

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Makes an `async fn(Request) -> impl IntoResponse` the handler of this component: exports
/// `wasi:http/incoming-handler` and marks the component as safe to serve more than one request with one instance.
#[proc_macro_attribute]
pub fn handler(attribute: TokenStream, function: TokenStream) -> TokenStream {
    if !attribute.is_empty() {
        return error("#[handler] takes no arguments");
    }
    let name = match handler_name(function.clone()) {
        Ok(name) => name,
        Err(message) => return error(message),
    };
    let glue = format!(
        r#"
        const _: () = {{
            struct TidegateHandler;
            impl ::tidegate_sdk::__private::Guest for TidegateHandler {{
                fn handle(
                    request: ::tidegate_sdk::__private::IncomingRequest,
                    response_out: ::tidegate_sdk::__private::ResponseOutparam,
                ) {{
                    ::tidegate_sdk::__private::serve(request, response_out, {name});
                }}
            }}
            ::tidegate_sdk::__private::export!(TidegateHandler with_types_in ::tidegate_sdk::__private::wasip2);
            ::tidegate_sdk::__private::reuse_mark!();
        }};
        "#
    );
    match glue.parse::<TokenStream>() {
        Ok(glue) => function.into_iter().chain(glue).collect(),
        Err(_) => error("#[handler] could not generate its code"),
    }
}

/// The name of an `async fn` with one argument, or what is wrong with it.
fn handler_name(function: TokenStream) -> Result<String, &'static str> {
    let mut is_async = false;
    let mut tokens = function.into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "async" => is_async = true,
            "fn" => {
                if !is_async {
                    return Err("a handler is an `async fn`");
                }
                let Some(TokenTree::Ident(name)) = tokens.next() else {
                    return Err("a handler is a function with a name");
                };
                return match tokens.next() {
                    Some(TokenTree::Group(arguments)) if arguments.delimiter() == Delimiter::Parenthesis => {
                        if arguments.stream().is_empty() {
                            Err("a handler takes one argument, the request: `async fn handler(req: Request)`")
                        } else {
                            Ok(name.to_string())
                        }
                    }
                    _ => Err("a handler cannot be generic"),
                };
            }
            _ => {}
        }
    }
    Err("#[handler] belongs on an `async fn`")
}

/// A compile error at the attribute.
fn error(message: &str) -> TokenStream {
    format!("compile_error!({message:?});").parse().unwrap_or_default()
}
