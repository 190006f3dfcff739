//! The little that the paths share: answering, writing and reading bodies, starting a call.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// A request being served and the place of its answer.
pub struct Exchange {
    pub request: IncomingRequest,
    pub response_out: ResponseOutparam,
}

impl Exchange {
    pub fn new(request: IncomingRequest, response_out: ResponseOutparam) -> Self {
        Self { request, response_out }
    }

    /// A 200 with `text`.
    pub fn answer(self, text: &str) {
        self.answer_with(200, &[], text);
    }

    /// An answer with everything known beforehand.
    pub fn answer_with(self, status: u16, headers: &[(&str, &str)], text: &str) {
        let body = start(self.response_out, status, headers);
        if let Ok(stream) = body.write() {
            let _ = write_all(&stream, text.as_bytes());
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

/// Sends the head of an answer and returns its body.
pub fn start(response_out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> OutgoingBody {
    let list: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    let response = OutgoingResponse::new(Fields::from_list(&list).unwrap_or_else(|_| Fields::new()));
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(response_out, Ok(response));
    body
}

/// Writes all of `bytes`, waiting as long as it takes.
pub fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        stream.write(now)?;
        bytes = rest;
    }
    Ok(())
}

/// The next chunk of a body; `None` at its end.
pub fn read_some(stream: &InputStream) -> Result<Option<Vec<u8>>, String> {
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(chunk) if chunk.is_empty() => {}
            Ok(chunk) => return Ok(Some(chunk)),
            Err(StreamError::Closed) => return Ok(None),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

/// All of a body. Its trailers are not looked at.
pub fn read_all(body: IncomingBody) -> Result<Vec<u8>, String> {
    let stream = body.stream().map_err(|()| "the body was taken".to_owned())?;
    let mut all = Vec::new();
    while let Some(chunk) = read_some(&stream)? {
        all.extend(chunk);
    }
    Ok(all)
}

/// `http://host:port/path?query` in the parts that wasi:http wants.
pub fn split_url(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = match url.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        (_, _) => return None,
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    Some((scheme, authority, path))
}

pub fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_owned()),
    }
}

/// A request to `url`, not sent yet; what the host said when it refuses a part.
pub fn request(url: &str, verb: &str, headers: &[(&str, &str)]) -> Result<OutgoingRequest, String> {
    let (scheme, authority, path) = split_url(url).ok_or_else(|| format!("not a URL: {url}"))?;
    let list: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    let fields = Fields::from_list(&list).map_err(|error| format!("headers refused: {error:?}"))?;
    let request = OutgoingRequest::new(fields);
    request.set_method(&method(verb)).map_err(|()| "method refused")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme refused")?;
    request.set_authority(Some(authority)).map_err(|()| "authority refused")?;
    request.set_path_with_query((!path.is_empty()).then_some(path)).map_err(|()| "path refused")?;
    Ok(request)
}

/// Waits for the answer's head.
pub fn wait(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    future.subscribe().block();
    match future.get() {
        Some(Ok(result)) => result,
        _ => Err(ErrorCode::InternalError(Some("the future was ready and had nothing".to_owned()))),
    }
}

/// Sends `request` with `body` and waits for the answer's head.
pub fn send(
    request: OutgoingRequest,
    body: &[u8],
    options: Option<RequestOptions>,
) -> Result<IncomingResponse, String> {
    let outgoing = request.body().map_err(|()| "the body was taken")?;
    let future = outgoing_handler::handle(request, options).map_err(|error| format!("{error:?}"))?;
    if !body.is_empty() {
        let stream = outgoing.write().map_err(|()| "the body was taken")?;
        // A server may answer without reading it all: that is for the answer to say.
        let _ = write_all(&stream, body);
    }
    let finished = OutgoingBody::finish(outgoing, None);
    let response = wait(&future).map_err(|error| format!("{error:?}"))?;
    finished.map_err(|error| format!("{error:?}")).map(|()| response)
}
