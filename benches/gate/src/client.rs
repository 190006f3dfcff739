//! Clients as programs have them: connections that are kept, and retries as the usual SDKs make them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::upstream::HELD;

/// What a client does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Retry {
    /// It takes the answer as it is: whatever stands between deals with it.
    Never,
    /// Exponential backoff with full jitter, as SDKs have it.
    Backoff,
}

/// Tries of a call at most.
const TRIES: u32 = 6;
/// The wait before the second try at most; it doubles with each.
const BASE: Duration = Duration::from_millis(500);
/// No wait is longer.
const CAP: Duration = Duration::from_secs(8);
/// No try takes longer than this, so that a case ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the requests of language models hold: the same for all sides.
const QUESTION: &str = r#"{"model":"bench","messages":[{"role":"user","content":"yes?"}]}"#;

/// A call that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    /// When it was due.
    pub(crate) due: Instant,
    pub(crate) ended: Instant,
    /// The last answer; nothing where there was none.
    pub(crate) status: Option<u16>,
    /// How long the upstream had it, where it said so.
    pub(crate) held: Option<Duration>,
}

impl Done {
    pub(crate) fn succeeded(&self) -> bool {
        self.status == Some(200)
    }

    pub(crate) fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }
}

/// Sends one kind of request to one place, or to several in turn.
pub(crate) struct Client {
    places: Vec<Place>,
    turn: AtomicUsize,
    method: Method,
    headers: HeaderMap,
    retry: Retry,
}

struct Place {
    address: String,
    path: PathAndQuery,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Headers are written `name: value`.
    pub(crate) fn new(urls: &[String], method: Method, headers: &[String], retry: Retry) -> Result<Self> {
        let places = urls.iter().map(|url| Place::new(url)).collect::<Result<_>>()?;
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) = header.split_once(": ").context("a header is `name: value`")?;
            map.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(Self { places, turn: AtomicUsize::new(0), method, headers: map, retry })
    }

    /// One call, with what retries it takes, that was due at this moment.
    pub(crate) async fn call(&self, due: Instant) -> Done {
        let mut tries = 1;
        loop {
            let answer = self.send().await;
            let status = answer.as_ref().ok().map(|answer| answer.status);
            let may_pass = status.is_none_or(|status| status == 429 || status >= 500);
            if self.retry == Retry::Never || !may_pass || tries == TRIES {
                return Done { due, ended: Instant::now(), status, held: answer.ok().and_then(|answer| answer.held) };
            }
            let most = CAP.min(BASE * 2u32.saturating_pow(tries - 1));
            tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
            tries += 1;
        }
    }

    /// One request and its whole answer.
    pub(crate) async fn send(&self) -> Result<Answer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.places.len().max(1);
        let place = self.places.get(turn).context("there is no place to send to")?;
        tokio::time::timeout(PATIENCE, self.send_to(place)).await.context("no answer in time")?
    }

    async fn send_to(&self, place: &Place) -> Result<Answer> {
        // A kept connection may have ended meanwhile; of what was not sent then a fresh one is told.
        while let Some(mut sender) = place.kept() {
            match sender.try_send_request(self.request(place)?).await {
                Ok(answer) => return place.whole(sender, answer).await,
                Err(mut error) => {
                    if error.take_message().is_none() {
                        return Err(error.into_error().into());
                    }
                }
            }
        }
        let mut sender = place.connect().await?;
        let answer = sender.send_request(self.request(place)?).await?;
        place.whole(sender, answer).await
    }

    fn request(&self, place: &Place) -> Result<Request<Full<Bytes>>> {
        let posts = self.method == Method::POST;
        let body = if posts { Bytes::from_static(QUESTION.as_bytes()) } else { Bytes::new() };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = place.path.clone().into();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(http::header::HOST, HeaderValue::try_from(place.address.as_str())?);
        if posts {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        }
        Ok(request)
    }

    #[cfg(test)]
    pub(crate) async fn connects(&self) -> bool {
        TcpStream::connect(&self.places[0].address).await.is_ok()
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) held: Option<Duration>,
    pub(crate) body: Bytes,
}

impl Place {
    fn new(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("`{url}` is no http URL"))?;
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = PathAndQuery::try_from(if path.is_empty() { "/" } else { path })?;
        Ok(Self { address: address.to_owned(), path, idle: Mutex::default() })
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        std::iter::from_fn(|| idle.pop()).find(|sender| sender.is_ready())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.ready().await?;
        Ok(sender)
    }

    async fn whole(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        answer: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer> {
        let status = answer.status().as_u16();
        let held = answer.headers().get(HELD).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answer.into_body().collect().await?.to_bytes();
        // The connection's task sees the end of the body a little later than its reader.
        if sender.ready().await.is_ok() {
            self.idle.lock().push(sender);
        }
        Ok(Answer { status, held: held.map(Duration::from_micros), body })
    }
}
