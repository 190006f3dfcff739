//! The loop around the limiters, the faults and the dialects.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::{
    Stats, anthropic,
    faults::{Fate, Hint},
    limiter::{Limiter, Room, Verdict},
    openai,
    options::{MockOptions, SplitBy},
    stats::{Book, Ticket},
    stream::{AnswerBody, Reply, unix_seconds},
};

/// Largest request body.
const MAX_BODY: usize = 32 << 20;
/// Limiters kept; what comes beyond shares one.
const MAX_PARTITIONS: usize = 10_000;

/// The fake upstream's state.
pub(super) struct Upstream {
    options: MockOptions,
    book: Book,
    began: Instant,
    limiters: Arc<Mutex<HashMap<u64, Limiter>>>,
}

/// Closes the connection without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped on purpose")
    }
}

impl std::error::Error for Hangup {}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Chat,
    Responses,
    Embeddings,
    Messages,
    Anything,
}

impl Asked {
    fn is_anthropic(self) -> bool {
        self == Self::Messages
    }
}

type Answer = Response<AnswerBody>;

/// Accepts connections until it is aborted; they end with it.
pub(super) async fn accept(listener: TcpListener, upstream: Arc<Upstream>) {
    let places = Arc::new(Semaphore::new(upstream.options.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: some come back when connections end.
                tracing::warn!(%error, "can't accept");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        upstream.book.connection();
        let upstream = Arc::clone(&upstream);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&upstream), request));
            // An error here is a client that went away or a hang-up on purpose.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

impl Upstream {
    pub(super) fn new(options: MockOptions) -> Self {
        let period = options.limit.map_or(Duration::from_secs(1), |limit| limit.per);
        Self { options, book: Book::new(period), began: Instant::now(), limiters: Arc::default() }
    }

    pub(super) fn stats(&self) -> Stats {
        self.book.stats()
    }

    pub(super) fn reset(&self) {
        self.book.reset();
        self.limiters.lock().clear();
    }

    /// Asks the limiter that this request falls under, if there is a limit, and books the answer with it.
    fn ask_limit(&self, ticket: &mut Ticket, headers: &HeaderMap, body: &Value) -> Option<(Verdict, u32)> {
        let Some(quota) = self.options.limit else {
            ticket.accepted();
            return None;
        };
        let mut hasher = DefaultHasher::new();
        for by in &self.options.split {
            match by {
                SplitBy::Key => {
                    headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key")).hash(&mut hasher)
                }
                SplitBy::Model => body.get("model").and_then(Value::as_str).hash(&mut hasher),
            }
        }
        let mut partition = hasher.finish();
        let mut limiters = self.limiters.lock();
        if limiters.len() >= MAX_PARTITIONS && !limiters.contains_key(&partition) {
            partition = 0;
        }
        let options = &self.options;
        let limiter = limiters
            .entry(partition)
            .or_insert_with(|| Limiter::new(options.limiter, quota, options.burst, options.count_refused));
        let verdict = limiter.ask(self.began.elapsed());
        let quota = limiter.quota().count;
        match verdict {
            Verdict::Passed(_) => {
                // Under the lock, so that the book has requests in the order in which the limiter let them pass.
                ticket.accepted();
                drop(limiters);
                let limiters = Arc::clone(&self.limiters);
                ticket.at_end(move || {
                    if let Some(limiter) = limiters.lock().get_mut(&partition) {
                        limiter.release();
                    }
                });
            }
            Verdict::Refused(_) => ticket.refused(),
        }
        Some((verdict, quota))
    }
}

async fn answer(upstream: Arc<Upstream>, request: Request<Incoming>) -> Result<Answer, Hangup> {
    let path = request.uri().path();
    let asked = match (request.method(), path) {
        (&Method::POST, "/v1/chat/completions") => Asked::Chat,
        (&Method::POST, "/v1/responses") => Asked::Responses,
        (&Method::POST, "/v1/embeddings") => Asked::Embeddings,
        (&Method::POST, "/v1/messages") => Asked::Messages,
        (_, path) if path == "/anything" || path.starts_with("/anything/") => Asked::Anything,
        (&Method::GET, "/v1/models") => return Ok(plain(StatusCode::OK, &openai::models())),
        (&Method::GET, "/healthz") => return Ok(plain(StatusCode::OK, &json!({"status": "ok"}))),
        (&Method::GET, "/__stats") => {
            let mut stats = serde_json::to_value(upstream.stats()).unwrap_or_default();
            let listed = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "requests=1"));
            if let (true, Some(stats)) = (listed, stats.as_object_mut()) {
                stats.insert("seen".into(), serde_json::to_value(upstream.book.seen()).unwrap_or_default());
            }
            return Ok(plain(StatusCode::OK, &stats));
        }
        (&Method::POST, "/__reset") => {
            upstream.reset();
            return Ok(plain(StatusCode::OK, &json!({"reset": true})));
        }
        (method, path) => {
            let message = format!("there is no {method} {path} here");
            return Ok(plain(
                StatusCode::NOT_FOUND,
                &openai::error("invalid_request_error", Some("not_found"), &message),
            ));
        }
    };
    limited(&upstream, asked, request).await
}

/// A request that counts.
async fn limited(upstream: &Upstream, asked: Asked, request: Request<Incoming>) -> Result<Answer, Hangup> {
    let options = &upstream.options;
    let mut ticket = upstream.book.arrive();
    let number = ticket.number();
    let fate = Fate::of(options, number);
    let (head, body) = request.into_parts();
    let bytes = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(error_answer(asked, StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 32 MiB", ticket));
        }
        Err(_) => return Err(Hangup),
    };
    let body: Value = match serde_json::from_slice(&bytes) {
        Ok(body) => body,
        Err(_) if asked == Asked::Anything => Value::Null,
        Err(error) => {
            let message = format!("the body is no JSON: {error}");
            return Ok(error_answer(asked, StatusCode::BAD_REQUEST, &message, ticket));
        }
    };
    if options.credit.is_some_and(|credit| number > credit) {
        ticket.refused();
        return Ok(out_of_credit(asked, ticket));
    }
    let verdict = upstream.ask_limit(&mut ticket, &head.headers, &body);
    let room = match verdict {
        Some((Verdict::Refused(room), quota)) => return Ok(refusal(options, asked, room, quota, ticket)),
        Some((Verdict::Passed(room), quota)) => Some((room, quota)),
        None => None,
    };
    if fate.dropped {
        ticket.dropped();
        return Err(Hangup);
    }
    if fate.slow {
        ticket.slow();
        tokio::time::sleep(options.slow_for.get()).await;
    }
    if !options.latency.get().is_zero() {
        tokio::time::sleep(options.latency.get()).await;
    }
    if fate.fails {
        ticket.failed();
        let status = if asked.is_anthropic() { 529 } else { 500 };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(error_answer(asked, status, "the server failed on purpose", ticket));
    }
    let reply = match asked {
        Asked::Chat => openai::chat(&body, number),
        Asked::Responses => openai::responses(&body, number),
        Asked::Embeddings => openai::embeddings(&body),
        Asked::Messages => anthropic::messages(&body, number),
        Asked::Anything => {
            let text = String::from_utf8_lossy(&bytes);
            Reply::Json(json!({"method": head.method.as_str(), "path": head.uri.path(), "body": text}))
        }
    };
    let mut answer = match reply {
        Reply::Json(value) => {
            let mut answer = Response::new(AnswerBody::whole(value.to_string(), Some(ticket)));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Reply::Events(events) => {
            let mut answer = Response::new(AnswerBody::streamed(events, options.chunk_delay.get(), ticket));
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            answer
        }
    };
    id_header(answer.headers_mut(), asked, number);
    if let Some((room, quota)) = room
        && Hint::of(options, number, room.next_in).rate_headers
    {
        rate_headers(answer.headers_mut(), asked, room, quota);
    }
    Ok(answer)
}

fn refusal(options: &MockOptions, asked: Asked, room: Room, quota: u32, ticket: Ticket) -> Answer {
    let number = ticket.number();
    let hint = Hint::of(options, number, room.next_in);
    let quota_text = options.limit.map(|limit| limit.to_string()).unwrap_or_default();
    // The text names the wait where an honest provider would, and only there.
    let again = match (&hint.retry_after_ms, &hint.retry_after) {
        (Some(_), _) => format!(" Please try again in {}.", openai::go_duration(room.next_in)),
        _ => String::new(),
    };
    let message = format!("Rate limit reached: {quota_text}.{again}");
    let body = if asked.is_anthropic() {
        anthropic::error("rate_limit_error", &message, number)
    } else {
        openai::error("requests", Some("rate_limit_exceeded"), &message)
    };
    let mut answer = json_answer(StatusCode::TOO_MANY_REQUESTS, &body, Some(ticket));
    let headers = answer.headers_mut();
    let mut put = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("retry-after", hint.retry_after);
    if !asked.is_anthropic() {
        put("retry-after-ms", hint.retry_after_ms);
    }
    if hint.rate_headers {
        rate_headers(headers, asked, room, quota);
    }
    id_header(headers, asked, number);
    answer
}

fn out_of_credit(asked: Asked, ticket: Ticket) -> Answer {
    let number = ticket.number();
    if asked.is_anthropic() {
        let body = anthropic::error("invalid_request_error", "Your credit balance is too low.", number);
        return json_answer(StatusCode::BAD_REQUEST, &body, Some(ticket));
    }
    let message = "You exceeded your current quota, please check your plan and billing details.";
    let body = openai::error("insufficient_quota", Some("insufficient_quota"), message);
    json_answer(StatusCode::TOO_MANY_REQUESTS, &body, Some(ticket))
}

fn error_answer(asked: Asked, status: StatusCode, message: &str, ticket: Ticket) -> Answer {
    let body = match (asked.is_anthropic(), status.as_u16()) {
        (true, 529) => anthropic::error("overloaded_error", message, ticket.number()),
        (true, _) => anthropic::error("invalid_request_error", message, ticket.number()),
        (false, 500..) => openai::error("server_error", None, message),
        (false, _) => openai::error("invalid_request_error", None, message),
    };
    json_answer(status, &body, Some(ticket))
}

fn plain(status: StatusCode, body: &Value) -> Answer {
    json_answer(status, body, None)
}

fn json_answer(status: StatusCode, body: &Value, ticket: Option<Ticket>) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(body.to_string(), ticket));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn id_header(headers: &mut HeaderMap, asked: Asked, number: u64) {
    let name = if asked.is_anthropic() { "request-id" } else { "x-request-id" };
    if let Ok(value) = HeaderValue::from_str(&format!("req_mock{number:08}")) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn rate_headers(headers: &mut HeaderMap, asked: Asked, room: Room, quota: u32) {
    let (names, reset) = if asked.is_anthropic() {
        let at = unix_seconds() + room.full_in.as_millis().div_ceil(1_000) as u64;
        let names = [
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ];
        (names, anthropic::rfc3339(at))
    } else {
        let names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        (names, openai::go_duration(room.full_in))
    };
    for (name, value) in names.into_iter().zip([quota.to_string(), room.remaining.to_string(), reset]) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
