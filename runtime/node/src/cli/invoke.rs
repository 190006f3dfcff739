//! `tidegate invoke`: one request to a function, streamed both ways.

use std::io::Write as _;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use url::Url;

use super::{
    api::{self, Api, segment},
    failure::{Exit, Failure},
    http as client,
    output::{Out, paint},
    target::{ClientArgs, server_url},
};
use crate::body;

/// Arguments of `tidegate invoke`.
#[derive(Args, Debug)]
pub(super) struct InvokeArgs {
    /// The function, with @VERSION for one that does not serve
    #[arg(value_name = "NAME[@VERSION]")]
    function: String,
    /// Path and query that the function sees
    #[arg(default_value = "/")]
    path: String,
    /// Method. Default: GET, POST with a body
    #[arg(short = 'X', long, value_name = "METHOD")]
    method: Option<Method>,
    /// Header, as NAME: VALUE. Repeatable
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header_line)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Body: text, @FILE, or @- for stdin
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// Print status and headers of the answer too
    #[arg(short, long)]
    include: bool,
    /// Data listener. Default: the profile's, else what the node says
    #[arg(long, env = "TIDEGATE_GATE", value_name = "URL", hide_env_values = true, value_parser = server_url)]
    #[arg(help_heading = "Connection")]
    gate: Option<Url>,
    #[command(flatten)]
    client: ClientArgs,
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || "write it as NAME: VALUE".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse::<HeaderName>().map_err(|_| wrong())?;
    Ok((name, value.trim().parse::<HeaderValue>().map_err(|_| wrong())?))
}

/// Runs the command.
pub(super) async fn run(args: InvokeArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    let data = args.data.as_deref().map(read_data).transpose()?;
    let (name, version) = match args.function.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (args.function.as_str(), None),
    };
    let base = base(&api, args.gate.as_ref(), name, version).await?;
    let uri = format!("{base}/{}", args.path.trim_start_matches('/'));
    let mut request = Request::new(data.clone().map_or_else(body::empty, body::full));
    *request.uri_mut() =
        uri.parse().map_err(|error| Failure::new(Exit::Usage, format!("`{uri}` is no URL: {error}")))?;
    *request.method_mut() = match (&args.method, &data) {
        (Some(method), _) => method.clone(),
        (None, Some(_)) => Method::POST,
        (None, None) => Method::GET,
    };
    if let Some(data) = &data {
        request.headers_mut().insert(header::CONTENT_TYPE, content_type(data));
    }
    // Not in `Authorization`: that one is the guest's.
    if let Some(token) = api.token() {
        request.headers_mut().insert(HeaderName::from_static("tidegate-token"), api::header_value(token)?);
    }
    let mut given = HeaderMap::new();
    for (name, value) in &args.headers {
        given.append(name, value.clone());
    }
    // A header that is given stands in place of ours, and may be given more than once.
    for name in given.keys() {
        request.headers_mut().remove(name);
    }
    request.headers_mut().extend(given);

    let answer = client::send(request).await?;
    let status = answer.status();
    if api.out.is_json() {
        api.out.value(&as_json(answer).await?)?;
    } else {
        print(answer, args.include).await?;
    }
    match status {
        status if status.as_u16() < 400 => Ok(Exit::Ok),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Failure::new(Exit::Unauthorised, format!("`{}` answered {status}", args.function)))
        }
        StatusCode::NOT_FOUND => Err(Failure::new(Exit::NotFound, format!("`{}` answered {status}", args.function))),
        status => Err(Failure::new(Exit::Failed, format!("`{}` answered {status}", args.function))),
    }
}

/// The URL below which the function is, without a slash at the end.
async fn base(api: &Api, gate: Option<&Url>, name: &str, version: Option<&str>) -> Result<String, Failure> {
    let below = match version {
        Some(version) => format!("/f/{}@{}", segment(name), segment(version)),
        None => format!("/f/{}", segment(name)),
    };
    let at = |gate: &str| format!("{}{below}", gate.trim_end_matches('/'));
    if let Some(gate) = gate.cloned().or_else(|| api.configured_gate()) {
        return Ok(at(gate.as_str()));
    }
    // The node knows where it listens. A token that may only invoke is not told; then the usual place is tried.
    match api.get(&format!("/v1/functions/{}", segment(name)), &format!("invoking `{name}`")).await {
        Ok(function) => {
            let function = api.reachable(function);
            let urls = function.get("urls").and_then(Value::as_array);
            let first = urls.and_then(|urls| urls.first()).and_then(Value::as_str);
            match (first.map(|url| (url, url.split_once(&format!("/f/{name}")))), version) {
                (Some((_, Some((gate, _)))), _) => return Ok(at(gate)),
                // The root of `tidegate dev`, or a host of its own: all paths are the function's.
                (Some((url, None)), None) => return Ok(url.trim_end_matches('/').to_owned()),
                (Some((url, None)), Some(_)) => {
                    let what = format!("`{name}` is served at {url} alone, and only the version that is active");
                    return Err(Failure::new(Exit::Usage, what));
                }
                (None, _) => {}
            }
        }
        Err(failure) if failure.exit == Exit::NotFound => return Err(failure),
        Err(failure) if api.usual_gate().is_none() => return Err(failure),
        Err(_) => {}
    }
    api.usual_gate().map(|gate| at(gate.as_str())).ok_or_else(|| {
        Failure::new(Exit::Usage, "it is not known where the data listener is").next("name it with --gate")
    })
}

fn read_data(text: &str) -> Result<Bytes, Failure> {
    let Some(file) = text.strip_prefix('@') else { return Ok(Bytes::from(text.to_owned())) };
    let read = if file == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    read.map(Bytes::from).map_err(|error| Failure::new(Exit::Usage, format!("{file}: {error}")))
}

fn content_type(data: &[u8]) -> HeaderValue {
    HeaderValue::from_static(match (serde_json::from_slice::<serde::de::IgnoredAny>(data), std::str::from_utf8(data)) {
        (Ok(_), _) => "application/json",
        (_, Ok(_)) => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    })
}

/// Writes the answer as it comes.
async fn print(answer: Response<Incoming>, include: bool) -> Result<(), Failure> {
    let (head, mut body) = answer.into_parts();
    if include {
        let mut stdout = anstream::stdout().lock();
        let version = if head.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
        writeln!(stdout, "{bold}{version} {}{bold:#}", head.status, bold = paint::BOLD)?;
        for (name, value) in &head.headers {
            writeln!(stdout, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(stdout)?;
    }
    let mut stdout = std::io::stdout().lock();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::new(Exit::Unreachable, format!("the answer broke off: {error}")))?;
        if let Ok(bytes) = frame.into_data() {
            stdout.write_all(&bytes)?;
            stdout.flush()?;
        }
    }
    Ok(())
}

async fn as_json(answer: Response<Incoming>) -> Result<Value, Failure> {
    let (head, body) = answer.into_parts();
    let bytes = client::read(body).await?;
    let mut headers = Map::new();
    for name in head.headers.keys() {
        let values: Vec<_> =
            head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        headers.insert(name.to_string(), json!(values.join(", ")));
    }
    let mut object = json!({"status": head.status.as_u16(), "headers": headers});
    if let Some(object) = object.as_object_mut() {
        match std::str::from_utf8(&bytes) {
            Ok(text) => object.insert("body".into(), json!(text)),
            Err(_) => {
                use base64::Engine as _;
                object.insert("body_base64".into(), json!(base64::engine::general_purpose::STANDARD.encode(&bytes)))
            }
        };
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_is_told_from_the_data() {
        assert_eq!(content_type(b"{\"a\": 1}"), "application/json");
        assert_eq!(content_type(b"hello"), "text/plain; charset=utf-8");
        assert_eq!(content_type(b"\xff\xfe"), "application/octet-stream");
    }

    #[test]
    fn headers_are_written_as_on_the_wire() {
        let (name, value) = header_line("Prefer: wait=10").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("prefer", "wait=10"));
        assert!(header_line("no colon").is_err() && header_line("bad name: x").is_err());
    }
}
