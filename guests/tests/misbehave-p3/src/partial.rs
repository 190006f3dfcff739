//! Bodies of which the start is read and the rest passed on.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme, Trailers};
use wasip3::wit_bindgen::{FutureReader, StreamReader};
use wasip3::wit_future;

type Rest = (StreamReader<u8>, FutureReader<Result<Option<Trailers>, ErrorCode>>);

/// The rest of the request's body as the answer's.
pub async fn answer(request: Request, count: u64) -> Result<Response, ErrorCode> {
    let (done, result) = wit_future::new(|| Ok(()));
    let (rest, trailers) = behind(Request::consume_body(request, result), count).await;
    drop(done);
    Ok(Response::new(Fields::new(), Some(rest), trailers).0)
}

/// The rest of the body of a call's answer as the answer's.
pub async fn answer_of_call(count: u64) -> Result<Response, ErrorCode> {
    let (_, none) = wit_future::new(|| Ok(None));
    let called = send(Request::new(Fields::new(), None, none, None).0).await?;
    let (done, result) = wit_future::new(|| Ok(()));
    let (rest, trailers) = behind(Response::consume_body(called, result), count).await;
    drop(done);
    Ok(Response::new(Fields::new(), Some(rest), trailers).0)
}

/// The rest of the request's body as a call's; its answer is the answer.
pub async fn call(request: Request, count: u64) -> Result<Response, ErrorCode> {
    let (done, result) = wit_future::new(|| Ok(()));
    let (rest, trailers) = behind(Request::consume_body(request, result), count).await;
    drop(done);
    let request = Request::new(Fields::new(), Some(rest), trailers, None).0;
    let _ = request.set_method(&Method::Post);
    send(request).await
}

async fn send(request: Request) -> Result<Response, ErrorCode> {
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some("upstream.test"));
    let _ = request.set_path_with_query(Some("/"));
    client::send(request).await
}

/// What is left of a body when one read of so many bytes at most is done.
async fn behind((mut body, trailers): Rest, count: u64) -> Rest {
    let _read = body.read(Vec::with_capacity(count as usize)).await;
    (body, trailers)
}
