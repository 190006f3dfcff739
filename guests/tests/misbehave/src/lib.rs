//! A guest that does one wrong (or one plain) thing for each path, for the host's tests. It speaks wasi:http 0.2 directly and
//! not through the SDK: what it does has to be exactly what it says. README.md lists the paths.

mod greedy;
mod inbound;
mod outbound;
mod query;
mod wasi;

use query::Query;
use wasi::Exchange;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Misbehave;

impl Guest for Misbehave {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query::parse(query);
        let exchange = Exchange::new(request, response_out);
        match path {
            "/" => exchange.answer("misbehave\n"),
            // What it does to its own instance.
            "/spin" => greedy::spin(),
            "/alloc" => greedy::alloc(),
            "/recurse" => exchange.answer(&format!("{}\n", greedy::recurse(1))),
            "/trap" => core::arch::wasm32::unreachable(),
            "/panic" => greedy::panic(),
            "/exit" => wasip2::cli::exit::exit(Ok(())),
            "/log" => greedy::log(),
            "/say" => greedy::say(exchange),
            "/random" => greedy::random(exchange, &query),
            "/fields" => greedy::fields(exchange, &query),
            "/handles" => greedy::handles(exchange, &query),
            "/bodies" => greedy::bodies(exchange, &query),
            "/hold" => greedy::hold(exchange, &query),
            "/fill" => greedy::fill(),
            "/poll" => greedy::poll(),
            "/naps" => greedy::naps(),
            // How it treats its own exchange.
            "/no-answer" => drop(exchange),
            "/early-answer" => inbound::early_answer(exchange),
            "/echo" => inbound::echo(exchange),
            "/headers" => inbound::headers(exchange),
            "/env" => inbound::env(exchange),
            "/sleep" => inbound::sleep(exchange, &query),
            "/stream" => inbound::stream(exchange, &query),
            "/big" => inbound::big(exchange, &query),
            "/half" => inbound::half(exchange),
            "/short" => inbound::short(exchange),
            "/length" => inbound::length(exchange, &query),
            "/after" => inbound::after(exchange, &query),
            "/after-head" => inbound::after_head(exchange),
            "/response-headers" => inbound::response_headers(exchange, &query),
            "/response-trailers" => inbound::response_trailers(exchange, &query),
            // What it asks of the world outside.
            "/fetch" => outbound::fetch(exchange, &query),
            "/late-fetch" => outbound::late_fetch(exchange, &query),
            "/sockets" => outbound::sockets(exchange),
            "/calls" => outbound::calls(exchange, &query),
            "/never-read" => outbound::never_read(exchange, &query),
            "/body-write" => outbound::body_write(exchange, &query),
            "/content-length" => outbound::content_length(exchange, &query),
            "/forbidden-headers" => outbound::forbidden_headers(exchange),
            "/forbidden-trailers" => outbound::forbidden_trailers(exchange, &query),
            "/zero-timeout" => outbound::zero_timeout(exchange, &query),
            "/call-headers" => outbound::call_headers(exchange, &query),
            "/long-url" => outbound::long_url(exchange, &query),
            "/absolute-form" => outbound::absolute_form(exchange, &query),
            _ => exchange.answer_with(404, &[], "no such path\n"),
        }
    }
}

wasip2::http::proxy::export!(Misbehave);
