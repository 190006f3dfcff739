//! Comments for streams that wait. Whoever asks for server-sent events and has nothing of them for long takes the connection
//! for dead, and so does everything on the way. A call that still waits at the gate after a while is therefore answered at
//! once: with the head of a stream, comments while it waits, then the stream. What comes of the call after that can only be
//! told in the stream, so an answer that is no stream becomes an event of it. That is done only to those who insist on a
//! stream, and the call goes on whether its answer is read or not.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior},
};

use crate::{
    body::{Body, BodyError},
    outbound::TransportError,
    problem::{Problem, Shape},
};

/// What a client sees that looks at the bytes; readers of server-sent events skip it.
const COMMENT: &[u8] = b": tidegate: waiting\n\n";
const EVENTS: &str = "text/event-stream";
/// Of an answer that is no stream so much goes into its event, bytes (no setting: it is an error's text).
const TOLD: usize = 64 << 10;

type Answer = Result<Response<Body>, TransportError>;

/// Lets a waiting call begin its answer.
pub(super) struct Early {
    begin: oneshot::Sender<Shape>,
    /// After so long at the gate, all its waits together.
    pub(super) every: Duration,
}

impl Early {
    /// Begins the answer. `shape`: of errors.
    pub(super) fn begin(self, shape: Shape) {
        // Whoever would take it left.
        let _ = self.begin.send(shape);
    }
}

/// Whether a request may want a stream, by its head: then it is worth a look at its body when it has waited long.
pub(super) fn may_stream(method: &Method, headers: &HeaderMap) -> bool {
    match *method {
        Method::GET => insists(headers),
        Method::POST => insists(headers) || is_json(headers),
        _ => false,
    }
}

/// Whether a request wants a stream, and nothing else.
pub(super) fn wants_stream(uri: &Uri, headers: &HeaderMap, body: Option<&[u8]>) -> bool {
    #[derive(Deserialize)]
    struct Asks {
        #[serde(default)]
        stream: bool,
    }
    insists(headers)
        || uri.query().is_some_and(|query| query.split('&').any(|part| part == "alt=sse"))
        || body.and_then(|body| serde_json::from_slice::<Asks>(body).ok()).is_some_and(|asks| asks.stream)
}

/// Whether events are all that is accepted. Who takes JSON, too, as clients of MCP do, may get just that.
fn insists(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepts.flat_map(|value| value.split(',')).map(media).filter(|range| !range.is_empty()).peekable();
    ranges.peek().is_some() && ranges.all(|range| range == EVENTS)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|text| {
        let media = media(text);
        media == "application/json" || media.ends_with("+json")
    })
}

fn media(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Runs a call whose sender may want a stream.
pub(super) async fn send<F>(every: Duration, call: impl FnOnce(Early) -> F) -> Answer
where
    F: Future<Output = Answer> + Send + 'static,
{
    let (begin, begun) = oneshot::channel();
    let mut call = Box::pin(call(Early { begin, every }));
    tokio::select! {
        biased;
        answer = &mut call => answer,
        Ok(shape) = begun => Ok(begin_answer(call, every, shape)),
    }
}

fn begin_answer<F>(call: Pin<Box<F>>, every: Duration, shape: Shape) -> Response<Body>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // It may be the one that others wait for: it goes on whether anybody reads or not.
    let call = Going(tokio::spawn(call));
    let mut response = Response::new(Commented { state: State::Waits { call, ticks }, shape }.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A call in a task of its own, which ends with whoever waits for it.
struct Going(JoinHandle<Answer>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The stream.
struct Commented {
    state: State,
    shape: Shape,
}

enum State {
    Waits {
        call: Going,
        ticks: Interval,
    },
    /// The stream itself.
    Passes(Body),
    /// An answer that is none: what of it has come.
    Tells {
        status: StatusCode,
        body: Body,
        text: BytesMut,
    },
    Over,
}

impl http_body::Body for Commented {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            this.state = match &mut this.state {
                State::Waits { call, ticks } => match Pin::new(&mut call.0).poll(cx) {
                    Poll::Pending => {
                        ready!(ticks.poll_tick(cx));
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                    }
                    Poll::Ready(Ok(Ok(answer))) if is_stream(&answer) => State::Passes(answer.into_body()),
                    Poll::Ready(Ok(Ok(answer))) => {
                        let (status, text) = (answer.status(), BytesMut::new());
                        State::Tells { status, body: answer.into_body(), text }
                    }
                    Poll::Ready(Ok(Err(error))) => {
                        let problem = Problem::from(error).shape(this.shape);
                        this.state = State::Over;
                        return Poll::Ready(Some(Ok(Frame::data(event(Some("error"), &problem.to_json())))));
                    }
                    // The node goes down, or a fault of ours: what was begun is cut off.
                    Poll::Ready(Err(_)) => {
                        this.state = State::Over;
                        return Poll::Ready(Some(Err(BodyError::Cancelled)));
                    }
                },
                State::Passes(body) => return Pin::new(body).poll_frame(cx),
                State::Tells { status, body, text } => {
                    if let Some(Ok(frame)) = ready!(Pin::new(body).poll_frame(cx)) {
                        if let Ok(data) = frame.into_data() {
                            text.extend_from_slice(&data);
                        }
                        if text.len() <= TOLD {
                            continue;
                        }
                    }
                    // What came of it is all that there is to tell.
                    let name = if status.is_success() { None } else { Some("error") };
                    let told = event(name, &told(*status, text));
                    this.state = State::Over;
                    return Poll::Ready(Some(Ok(Frame::data(told))));
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

fn is_stream(answer: &Response<Body>) -> bool {
    let content = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_plain = !answer.headers().contains_key(header::CONTENT_ENCODING);
    answer.status().is_success() && is_plain && content.is_some_and(|content| media(content) == EVENTS)
}

/// What an event says of an answer: its body, or its status where that is nothing that could be told.
fn told(status: StatusCode, text: &[u8]) -> Vec<u8> {
    let status = status.as_u16();
    let instead = match text {
        text if text.iter().all(u8::is_ascii_whitespace) => "without a body".to_owned(),
        text if text.len() > TOLD => format!("with more than {TOLD} bytes that are no stream"),
        text if std::str::from_utf8(text).is_err() => "with bytes that are no text".to_owned(),
        text => return text.to_vec(),
    };
    format!(r#"{{"error":{{"message":"the upstream answered {status} {instead}","code":{status}}}}}"#).into_bytes()
}

/// An event; each line of its data is a line of its own.
fn event(name: Option<&str>, data: &[u8]) -> Bytes {
    let mut event = BytesMut::new();
    if let Some(name) = name {
        event.extend_from_slice(format!("event: {name}\n").as_bytes());
    }
    let lines = data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for line in lines.flat_map(|line| line.split(|byte| *byte == b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.extend_from_slice(b"\n");
    }
    event.extend_from_slice(b"\n");
    event.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn who_wants_a_stream_says_so_in_one_of_three_ways() {
        let (plain, json) = (headers(&[]), headers(&[("content-type", "application/json; charset=utf-8")]));
        let both = headers(&[("accept", "application/json, text/event-stream")]);
        let accepts = headers(&[("accept", "Text/Event-Stream;q=0.9")]);
        for (uri, headers, body, wants) in [
            ("/v1/x", &accepts, None, true),
            ("/v1/x", &plain, None, false),
            ("/v1/x", &both, None, false),
            ("/m:streamGenerateContent?key=1&alt=sse", &json, Some("{}"), true),
            ("/v1/chat/completions", &json, Some(r#"{"model": "m", "stream": true}"#), true),
            ("/v1/chat/completions", &json, Some(r#"{"model": "m", "stream": false}"#), false),
            ("/v1/chat/completions", &json, Some(r#"{"messages": [{"stream": true}]}"#), false),
            ("/v1/chat/completions", &json, Some(r#"{"stream": "yes"}"#), false),
            ("/v1/chat/completions", &json, Some("no json"), false),
        ] {
            let uri = uri.parse().unwrap();
            assert_eq!(wants_stream(&uri, headers, body.map(str::as_bytes)), wants, "{uri} {body:?}");
        }
        assert!(may_stream(&Method::GET, &accepts) && may_stream(&Method::POST, &json));
        assert!(!may_stream(&Method::GET, &json) && !may_stream(&Method::POST, &plain));
        assert!(!may_stream(&Method::HEAD, &accepts) && !may_stream(&Method::DELETE, &accepts));
    }

    #[test]
    fn an_event_is_whole_whatever_lines_are_in_it() {
        assert_eq!(event(Some("error"), b"{\"a\":1}"), "event: error\ndata: {\"a\":1}\n\n");
        assert_eq!(
            event(Some("error"), b"one\r\ntwo\n\nthree\rfour"),
            "event: error\ndata: one\ndata: two\ndata: \ndata: three\ndata: four\n\n"
        );
        assert_eq!(event(Some("error"), b""), "event: error\ndata: \n\n");
    }

    async fn text(answer: Response<Body>) -> String {
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    const EVERY: Duration = Duration::from_millis(20);

    /// What follows the comments on a call that waits for a while, then is answered so.
    async fn waits(status: u16, content: &'static str, body: &'static str) -> String {
        let answer = send(EVERY, |early| async move {
            tokio::time::sleep(early.every).await;
            early.begin(Shape::OpenAi);
            tokio::time::sleep(EVERY * 3 / 2).await;
            if status == 0 {
                return Err(TransportError::Closed { host: "llm".into(), why: "reset".into() });
            }
            let answer = Response::builder().status(status).header("content-type", content);
            Ok(answer.body(crate::body::full(body)).unwrap())
        });
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &HeaderValue::from_static(EVENTS))
        );
        let text = text(answer).await;
        let comment = std::str::from_utf8(COMMENT).unwrap();
        assert!(text.starts_with(comment), "{text}");
        text.replace(comment, "")
    }

    #[tokio::test]
    async fn a_stream_that_waits_gets_comments_and_then_is_itself() {
        assert_eq!(waits(200, EVENTS, "data: 1\n\n").await, "data: 1\n\n");
        let body = r#"{"error": {"message": "no such model"}}"#;
        assert_eq!(waits(404, "application/json", body).await, format!("event: error\ndata: {body}\n\n"));
        assert!(waits(500, "text/plain", "").await.contains("answered 500 without a body"));
        assert_eq!(waits(200, "application/json", "{}").await, "data: {}\n\n", "it is no error");
        let long = "x".repeat(TOLD + 1);
        assert!(waits(500, "text/plain", long.leak()).await.contains("with more than 65536 bytes"));
        assert!(waits(0, "", "").await.contains(
            r#"event: error
data: {"error":"#
        ));
    }

    #[tokio::test]
    async fn a_call_that_does_not_wait_is_answered_as_it_is() {
        let answer =
            send(EVERY, |_early| async { Ok(Response::builder().status(404).body(crate::body::full("no")).unwrap()) });
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(text(answer).await, "no");
    }

    #[tokio::test]
    async fn whoever_leaves_takes_the_call_along() {
        struct Gone(std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let held = Gone(std::sync::Arc::clone(&gone));
        let answer = send(EVERY, |early| async move {
            let _held = held;
            early.begin(Shape::Problem);
            std::future::pending().await
        });
        let answer = answer.await.unwrap();
        assert!(!gone.load(std::sync::atomic::Ordering::Relaxed));
        drop(answer);
        while !gone.load(std::sync::atomic::Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_call_goes_on_although_nobody_reads_its_answer() {
        let (done, is_done) = oneshot::channel();
        let answer = send(EVERY, |early| async move {
            early.begin(Shape::Problem);
            tokio::task::yield_now().await;
            done.send(()).unwrap();
            std::future::pending().await
        });
        let _unread = answer.await.unwrap();
        is_done.await.unwrap();
    }
}
