//! A guest over WASI 0.3 for the host's tests: one plain (or wrong) thing for each path. README.md lists them.

mod send;

use std::hint::black_box;
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

struct Probe;

wasip3::http::service::export!(Probe);

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => text(200, "probe-p3\n"),
            "/echo" => echo(request),
            "/fetch" => fetch(&percent_decode(value(query, "url").unwrap_or("http://127.0.0.1:1/"))).await,
            "/late-fetch" => late_fetch(percent_decode(value(query, "url").unwrap_or("http://127.0.0.1:1/"))),
            "/send" => send::send(query).await,
            "/say" => say().await,
            "/sleep" => {
                let ms = value(query, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(1000_u64);
                wait_for(ms * 1_000_000).await;
                text(200, &format!("slept {ms} ms\n"))
            }
            "/spin" => spin(),
            "/trap" => core::arch::wasm32::unreachable(),
            _ => text(404, "no such path\n"),
        }
    }
}

/// Never ends and never calls the host.
fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// A line to each output.
async fn say() -> Result<Response, ErrorCode> {
    let (mut out, out_reader) = wit_stream::new();
    let (mut err, err_reader) = wit_stream::new();
    let written =
        (wasip3::cli::stdout::write_via_stream(out_reader), wasip3::cli::stderr::write_via_stream(err_reader));
    out.write_all(b"to standard output\n".to_vec()).await;
    err.write_all(b"to standard error\n".to_vec()).await;
    drop((out, err));
    text(200, &format!("{:?} {:?}\n", written.0.await, written.1.await))
}

fn internal(error: impl std::fmt::Debug) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("{error:?}")))
}

/// An answer with a text, written while the host reads it.
fn text(status: u16, text: &str) -> Result<Response, ErrorCode> {
    let (mut body, reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers_reader);
    drop(trailers);
    response.set_status_code(status).map_err(internal)?;
    let bytes = text.as_bytes().to_vec();
    wasip3::spawn_local(async move {
        let _unsent = body.write_all(bytes).await;
    });
    Ok(response)
}

/// The request's body and trailers as the answer's, headers as `x-echo-...`.
fn echo(request: Request) -> Result<Response, ErrorCode> {
    let mut headers = vec![("x-echo-method".to_owned(), format!("{:?}", request.get_method()).into_bytes())];
    headers.extend(request.get_headers().copy_all().into_iter().map(|(name, value)| (format!("x-echo-{name}"), value)));
    let (done, done_reader) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, done_reader);
    drop(done);
    let (response, _sent) = Response::new(Fields::from_list(&headers).map_err(internal)?, Some(body), trailers);
    Ok(response)
}

/// GETs `url`: 502 and the error, or the status and headers as `x-upstream-...` with the body streaming.
async fn fetch(url: &str) -> Result<Response, ErrorCode> {
    let upstream = match get(url).await {
        Ok(upstream) => upstream,
        Err(error) => return text(502, &format!("call failed: {error:?}\n")),
    };
    let mut headers = vec![("x-upstream-status".to_owned(), upstream.get_status_code().to_string().into_bytes())];
    let theirs = upstream.get_headers().copy_all();
    headers.extend(theirs.into_iter().map(|(name, value)| (format!("x-upstream-{name}"), value)));
    let (done, done_reader) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(upstream, done_reader);
    drop(done);
    let (response, _sent) = Response::new(Fields::from_list(&headers).map_err(internal)?, Some(body), trailers);
    Ok(response)
}

/// Answers with a head and a line, and only then GETs `url`, whose body is the rest.
fn late_fetch(url: String) -> Result<Response, ErrorCode> {
    let (mut body, reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers_reader);
    drop(trailers);
    wasip3::spawn_local(async move {
        let _unsent = body.write_all(b"begun\n".to_vec()).await;
        let rest = match get(&url).await {
            Ok(upstream) => {
                let (done, done_reader) = wit_future::new(|| Ok(()));
                let (theirs, _trailers) = Response::consume_body(upstream, done_reader);
                drop(done);
                theirs.collect().await
            }
            Err(error) => format!("call failed: {error:?}\n").into_bytes(),
        };
        let _unsent = body.write_all(rest).await;
    });
    Ok(response)
}

async fn get(url: &str) -> Result<Response, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, trailers_reader, None);
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).map_err(internal)?;
    request.set_authority(Some(authority)).map_err(internal)?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(internal)?;
    wasip3::http::client::send(request).await
}

/// The first value called `name` in a query string, still encoded.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| (key == name).then_some(value))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
