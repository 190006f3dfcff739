//! The smallest function over WASI 0.3: the host may run many requests in one instance at once.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Hello;

wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let greeting = setting("GREETING").unwrap_or_else(|| "Hello from Rust on WASI 0.3".to_owned());
        let text = format!("{greeting}\n");
        let headers = [
            ("content-type".to_owned(), b"text/plain; charset=utf-8".to_vec()),
            ("content-length".to_owned(), text.len().to_string().into_bytes()),
        ];
        let fields = Fields::from_list(&headers).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
        let (mut body, body_reader) = wit_stream::new();
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(fields, Some(body_reader), trailers_reader);
        // Dropped: there are none, which is what the default says.
        drop(trailers);
        wasip3::spawn_local(async move {
            // What is left over was not wanted: the client is gone.
            let _unsent = body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}

/// One of the function's settings.
fn setting(name: &str) -> Option<String> {
    wasip3::cli::environment::get_environment().into_iter().find_map(|(key, value)| (key == name).then_some(value))
}
