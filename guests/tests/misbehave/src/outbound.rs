//! What a guest may ask of the world outside. Every path says in its answer what the host made of it.

use crate::query::Query;
use crate::wasi::{Exchange, read_all, request, send, split_url, start, wait, write_all};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, OutgoingBody, RequestOptions};

/// Tells what came of a call: 502 and the error, or the status, the headers as `x-upstream-...` and the body.
fn report(exchange: Exchange, result: Result<IncomingResponse, String>) {
    let whole = result.and_then(|response| {
        let status = response.status();
        let headers = response.headers().entries();
        let body = response.consume().map_err(|()| "the body was taken".to_owned())?;
        Ok((status, headers, read_all(body)?))
    });
    let (status, headers, body) = match whole {
        Ok(whole) => whole,
        Err(error) => return exchange.answer_with(502, &[], &format!("call failed: {error}\n")),
    };
    let mut named = vec![("x-upstream-status".to_owned(), status.to_string())];
    for (name, value) in headers {
        named.push((format!("x-upstream-{name}"), String::from_utf8_lossy(&value).into_owned()));
    }
    let named: Vec<_> = named.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    exchange.answer_with(200, &named, &String::from_utf8_lossy(&body));
}

fn url(query: &Query) -> &str {
    query.get("url").unwrap_or("http://127.0.0.1:1/")
}

/// One call: `url`, `method`, any number of `header=name:value`, `body`. `$NAME` in any of them is a setting's value,
/// `$basic(TEXT)` the Base64 of a text, settings replaced.
pub fn fetch(exchange: Exchange, query: &Query) {
    let settings = wasip2::cli::environment::get_environment();
    let told = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in &settings {
            text = text.replace(&format!("${name}"), value);
        }
        match text.split_once("$basic(").and_then(|(before, rest)| Some((before, rest.split_once(')')?))) {
            Some((before, (inner, after))) => format!("{before}{}{after}", base64(inner.as_bytes())),
            None => text,
        }
    };
    let headers: Vec<_> = query.all("header").map(told).collect();
    let headers: Vec<_> = headers.iter().filter_map(|pair| pair.split_once(':')).collect();
    let body = told(query.get("body").unwrap_or_default());
    let result = request(&told(url(query)), query.get("method").unwrap_or("GET"), &headers);
    report(exchange, result.and_then(|request| send(request, body.as_bytes(), None)));
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let six = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[six as usize]) } else { '=' });
        }
    }
    text
}

/// Answers with a head and a line, and only then makes a call, whose body is the rest.
pub fn late_fetch(exchange: Exchange, query: &Query) {
    let body = start(exchange.response_out, 200, &[]);
    {
        let Ok(stream) = body.write() else { return };
        if write_all(&stream, b"begun\n").is_err() {
            return;
        }
        let rest = request(url(query), "GET", &[])
            .and_then(|request| send(request, b"", None))
            .and_then(|response| read_all(response.consume().map_err(|()| "the body was taken".to_owned())?));
        let rest = rest.unwrap_or_else(|error| format!("call failed: {error}\n").into_bytes());
        let _ = write_all(&stream, &rest);
    }
    let _ = OutgoingBody::finish(body, None);
}

/// `n` calls at once, then one line for each kind of outcome with its count.
pub fn calls(exchange: Exchange, query: &Query) {
    let mut futures = Vec::new();
    let mut outcomes = BTreeMap::<String, u64>::new();
    for _ in 0..query.number("n", 5000) {
        let sent = request(url(query), "GET", &[])
            .and_then(|request| outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}")));
        match sent {
            Ok(future) => futures.push(future),
            Err(error) => *outcomes.entry(error).or_default() += 1,
        }
    }
    for future in futures {
        let outcome = match wait(&future) {
            Ok(response) => response.status().to_string(),
            Err(error) => format!("{error:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    let mut text = String::new();
    for (outcome, count) in outcomes {
        let _ = writeln!(text, "{count} {outcome}");
    }
    exchange.answer(&text);
}

/// Gets an answer, reads none of its body, and stays for `ms` before it answers itself.
pub fn never_read(exchange: Exchange, query: &Query) {
    match request(url(query), "GET", &[]).and_then(|request| send(request, b"", None)) {
        Ok(response) => {
            let _body = response.consume();
            wasip2::clocks::monotonic_clock::subscribe_duration(query.number("ms", 3_600_000) * 1_000_000).block();
            exchange.answer(&format!("{} and its body unread\n", response.status()));
        }
        Err(error) => exchange.answer_with(502, &[], &format!("call failed: {error}\n")),
    }
}

/// Writes a request body without end.
pub fn body_write(exchange: Exchange, query: &Query) {
    let sent = request(url(query), "POST", &[]).and_then(|request| {
        let body = request.body().map_err(|()| "the body was taken")?;
        let future = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
        Ok((body, future))
    });
    let (body, _future) = match sent {
        Ok(sent) => sent,
        Err(error) => return exchange.answer_with(502, &[], &format!("call failed: {error}\n")),
    };
    let stream = body.write().unwrap();
    let chunk = [b'x'; 64 * 1024];
    let mut written = 0_u64;
    while write_all(&stream, &chunk).is_ok() {
        written += chunk.len() as u64;
    }
    exchange.answer(&format!("closed after {written} bytes\n"));
}

/// A request that promises `says` bytes and sends `bytes`; `twice=1` states two different lengths.
pub fn content_length(exchange: Exchange, query: &Query) {
    let says = query.get("says").unwrap_or("10");
    let mut headers = vec![("content-length", says)];
    if query.get("twice").is_some() {
        headers.push(("content-length", "4"));
    }
    let body = vec![b'x'; usize::try_from(query.number("bytes", 4)).unwrap_or_default()];
    let result = request(url(query), "POST", &headers).and_then(|request| send(request, &body, None));
    report(exchange, result);
}

/// Which headers of a request the host refuses: one line each.
pub fn forbidden_headers(exchange: Exchange) {
    let mut text = String::new();
    for name in [
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "x-fine",
    ] {
        let outcome = match Fields::from_list(&[(name.to_owned(), b"x".to_vec())]) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => format!("refused: {error:?}"),
        };
        let _ = writeln!(text, "{name}: {outcome}");
    }
    exchange.answer(&text);
}

/// A request whose trailer is `name`, by default one that a proxy would believe.
pub fn forbidden_trailers(exchange: Exchange, query: &Query) {
    let name = query.get("name").unwrap_or("transfer-encoding").to_owned();
    let result = request(url(query), "POST", &[]).and_then(|request| {
        let body = request.body().map_err(|()| "the body was taken")?;
        let future = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
        let _ = write_all(&body.write().unwrap(), b"body");
        let trailers = Fields::from_list(&[(name.clone(), b"chunked".to_vec())]);
        let trailers = trailers.map_err(|error| format!("trailer refused: {error:?}"))?;
        OutgoingBody::finish(body, Some(trailers)).map_err(|error| format!("{error:?}"))?;
        wait(&future).map_err(|error: ErrorCode| format!("{error:?}"))
    });
    report(exchange, result);
}

/// A call with every timeout set to `ns` nanoseconds, zero by default.
pub fn zero_timeout(exchange: Exchange, query: &Query) {
    let ns = Some(query.number("ns", 0));
    let options = RequestOptions::new();
    let set = options.set_connect_timeout(ns).is_ok()
        && options.set_first_byte_timeout(ns).is_ok()
        && options.set_between_bytes_timeout(ns).is_ok();
    if !set {
        return exchange.answer_with(502, &[], "timeouts refused\n");
    }
    let result = request(url(query), "GET", &[]).and_then(|request| send(request, b"", Some(options)));
    report(exchange, result);
}

/// A URL with `bytes` bytes before its query.
pub fn long_url(exchange: Exchange, query: &Query) {
    let length = usize::try_from(query.number("bytes", 100_000)).unwrap_or_default();
    let long = format!("{}/{}?q=1", url(query).trim_end_matches('/'), "a".repeat(length));
    let result = request(&long, "GET", &[]).and_then(|request| send(request, b"", None));
    report(exchange, result);
}

/// A request to `url` whose path is `path` as it stands, e.g. `http://elsewhere/`.
pub fn absolute_form(exchange: Exchange, query: &Query) {
    let path = query.get("path").unwrap_or("http://elsewhere.invalid/");
    let result = match split_url(url(query)) {
        Some(_) => request(url(query), "GET", &[]),
        None => Err("not a URL".to_owned()),
    };
    let result = result.and_then(|request| {
        request.set_path_with_query(Some(path)).map_err(|()| "path refused".to_owned())?;
        send(request, b"", None)
    });
    report(exchange, result);
}

/// `n` headers of `bytes` bytes each, if the host takes that many.
pub fn flood(query: &Query) -> Result<Vec<(String, String)>, String> {
    let value = "x".repeat(usize::try_from(query.number("bytes", 8)).unwrap_or(usize::MAX));
    let list: Vec<_> = (0..query.number("n", 1000)).map(|number| (format!("x-flood-{number}"), value.clone())).collect();
    let fields: Vec<_> = list.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    Fields::from_list(&fields).map(|_| list).map_err(|error| format!("headers refused: {error:?}"))
}

/// A call with `n` headers of `bytes` bytes each.
pub fn call_headers(exchange: Exchange, query: &Query) {
    let result = flood(query).and_then(|list| {
        let list: Vec<_> = list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        send(request(url(query), "GET", &list)?, b"", None)
    });
    report(exchange, result);
}

/// What it gets when it asks for sockets.
pub fn sockets(exchange: Exchange) {
    use wasip2::sockets::{
        instance_network, ip_name_lookup, network::IpAddressFamily, tcp_create_socket, udp_create_socket,
    };
    let network = instance_network::instance_network();
    let tcp = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).map(drop);
    let udp = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv6).map(drop);
    let names = ip_name_lookup::resolve_addresses(&network, "localhost").map(drop);
    exchange.answer(&format!("{tcp:?} {udp:?} {names:?}\n"));
}
