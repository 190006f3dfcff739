//! How a guest may treat the request it got and the answer it owes.

use crate::query::Query;
use crate::wasi::{Exchange, read_some, start, write_all};
use std::fmt::Write as _;
use std::time::Duration;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, IncomingBody, OutgoingBody};

/// Answers, and never looks at the request's body.
pub fn early_answer(exchange: Exchange) {
    exchange.answer_with(403, &[], "answered before reading\n");
}

/// Streams the body back as it comes, with the headers as `x-echo-...`, the method, and the trailers.
pub fn echo(exchange: Exchange) {
    let Exchange { request, response_out } = exchange;
    let mut headers = vec![("x-echo-method".to_owned(), format!("{:?}", request.method()))];
    for (name, value) in request.headers().entries() {
        headers.push((format!("x-echo-{name}"), String::from_utf8_lossy(&value).into_owned()));
    }
    let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let outgoing = start(response_out, 200, &headers);
    let Ok(incoming) = request.consume() else { return };
    {
        let (Ok(from), Ok(to)) = (incoming.stream(), outgoing.write()) else { return };
        // Whichever side breaks, dropping the body unfinished tells the other.
        while let Ok(Some(chunk)) = read_some(&from) {
            if write_all(&to, &chunk).is_err() {
                return;
            }
        }
    }
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
    let _ = OutgoingBody::finish(outgoing, trailers);
}

/// One line a header, and what else the guest is told about the request.
pub fn headers(exchange: Exchange) {
    let request = &exchange.request;
    let mut text = format!(
        "method: {:?}\nscheme: {:?}\nauthority: {:?}\npath: {:?}\n",
        request.method(),
        request.scheme(),
        request.authority(),
        request.path_with_query()
    );
    for (name, value) in request.headers().entries() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(&value));
    }
    exchange.answer(&text);
}

/// One line a setting.
pub fn env(exchange: Exchange) {
    let lines =
        wasip2::cli::environment::get_environment().into_iter().map(|(name, value)| format!("{name}={value}\n"));
    exchange.answer(&lines.collect::<String>());
}

fn pause(ms: u64) {
    subscribe_duration(Duration::from_millis(ms).as_nanos() as u64).block();
}

/// Answers after `ms`.
pub fn sleep(exchange: Exchange, query: &Query) {
    let ms = query.number("ms", 1000);
    pause(ms);
    exchange.answer(&format!("slept {ms} ms\n"));
}

/// `n` server-sent events, `ms` apart.
pub fn stream(exchange: Exchange, query: &Query) {
    let (count, ms) = (query.number("n", 10), query.number("ms", 100));
    let body = start(exchange.response_out, 200, &[("content-type", "text/event-stream")]);
    {
        let Ok(stream) = body.write() else { return };
        for event in 0..count {
            if event > 0 {
                pause(ms);
            }
            if write_all(&stream, format!("data: {event}\n\n").as_bytes()).is_err() {
                return;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// An answer of `bytes` bytes.
pub fn big(exchange: Exchange, query: &Query) {
    let mut left = query.number("bytes", 1 << 20);
    let length = left.to_string();
    let body = start(exchange.response_out, 200, &[("content-length", &length)]);
    let chunk = [b'x'; 64 * 1024];
    {
        let Ok(stream) = body.write() else { return };
        while left > 0 {
            let now = left.min(chunk.len() as u64);
            if write_all(&stream, &chunk[..now as usize]).is_err() {
                return;
            }
            left -= now;
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Starts an answer, sends some of it, and drops the body unfinished.
pub fn half(exchange: Exchange) {
    let body = start(exchange.response_out, 200, &[]);
    if let Ok(stream) = body.write() {
        let _ = write_all(&stream, b"half of ");
    }
}

/// Promises ten bytes and sends four.
pub fn short(exchange: Exchange) {
    let body = start(exchange.response_out, 200, &[("content-length", "10")]);
    if let Ok(stream) = body.write() {
        let _ = write_all(&stream, b"four");
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Promises `promised` bytes and sends `n`, with `status`.
pub fn length(exchange: Exchange, query: &Query) {
    let promised = query.get("promised").unwrap_or("0").to_owned();
    let (count, status) = (query.number("n", 0), query.number("status", 200));
    exchange.answer_with(status as u16, &[("content-length", &promised)], &"x".repeat(count as usize));
}

/// An answer with the trailer `name`, which may be a forbidden one.
pub fn response_trailers(exchange: Exchange, query: &Query) {
    let name = query.get("name").unwrap_or("x-trailer").to_owned();
    let body = start(exchange.response_out, 200, &[("trailer", &name)]);
    if let Ok(stream) = body.write() {
        let _ = write_all(&stream, b"body\n");
    }
    let _ = OutgoingBody::finish(body, Fields::from_list(&[(name, b"1".to_vec())]).ok());
}

/// Answers whole and then goes on: `do=spin` computes, else it sleeps, for ever.
pub fn after(exchange: Exchange, query: &Query) {
    exchange.answer("answered\n");
    if query.get("do") == Some("spin") {
        crate::greedy::spin();
    }
    pause(u64::MAX / 2_000_000);
}

/// Starts an answer and never writes any of it.
pub fn after_head(exchange: Exchange) {
    let _body = start(exchange.response_out, 200, &[]);
    pause(u64::MAX / 2_000_000);
}

/// An answer with `n` headers of `bytes` bytes each, or what the host said to that.
pub fn response_headers(exchange: Exchange, query: &Query) {
    match crate::outbound::flood(query) {
        Ok(list) => {
            let list: Vec<_> = list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            exchange.answer_with(200, &list, "flooded\n");
        }
        Err(error) => exchange.answer_with(502, &[], &format!("{error}\n")),
    }
}
