//! Sends every request on to the upstream in the setting `UPSTREAM` and streams its answer back.

use tidegate_sdk::{Error, IntoResponse, Request, Result, StatusCode, Uri, env, fetch, header};

#[tidegate_sdk::handler]
async fn forward(mut request: Request) -> Result<impl IntoResponse> {
    let Some(upstream) = env::var("UPSTREAM") else {
        return Ok((StatusCode::INTERNAL_SERVER_ERROR, "set UPSTREAM to the URL to forward to\n").into_response());
    };
    *request.uri_mut() = target(&upstream, request.uri())?;
    // Both belong to the connection the request came in on.
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::CONNECTION);
    Ok(fetch(request).await?.into_response())
}

/// The upstream's URL with the path and query of the request appended.
fn target(upstream: &str, uri: &Uri) -> Result<Uri> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", upstream.trim_end_matches('/'));
    url.parse().map_err(|error| Error::new(error).context(format!("UPSTREAM gives no valid URL: {url}")))
}
