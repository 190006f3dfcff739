//! A scripted upstream that remembers what it saw.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::oneshot};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Status it got.
    pub status: u16,
}

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Script = dyn Fn(Request<Incoming>) -> Answering + Send + Sync;

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    in_flight: AtomicUsize,
}

/// A server on a free loopback port, ended when dropped. It runs on a thread of its own: a limit that is counted late,
/// because the clients of the test had to run first, is no limit.
pub struct Upstream {
    address: String,
    state: Arc<State>,
    /// Its server ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// An answer with a text.
pub fn text(status: u16, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

/// What an upstream allows.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// At most `count` in each sliding `per`.
    Sliding {
        /// How many.
        count: usize,
        /// In which time.
        per: Duration,
    },
    /// A bucket of `burst` that refills at `rate` a second.
    Bucket {
        /// Size of the bucket.
        burst: f64,
        /// Refill a second.
        rate: f64,
    },
}

impl Upstream {
    /// Answers every request with this text.
    pub async fn answering(body: &'static str) -> Self {
        Self::scripted(move |_| async move { text(200, body) }).await
    }

    /// Answers by a limit: 200, or 429 with the given `Retry-After` or none.
    pub async fn limited(limit: Limit, retry_after: Option<&'static str>, latency: Duration) -> Self {
        struct Limiter {
            times: VecDeque<Instant>,
            tokens: f64,
            last: Instant,
        }
        let tokens = if let Limit::Bucket { burst, .. } = limit { burst } else { 0.0 };
        let limiter = Arc::new(Mutex::new(Limiter { times: VecDeque::new(), tokens, last: Instant::now() }));
        Self::scripted(move |_| {
            let limiter = Arc::clone(&limiter);
            async move {
                let allowed = {
                    let mut limiter = limiter.lock();
                    let now = Instant::now();
                    match limit {
                        Limit::Sliding { count, per } => {
                            while limiter.times.front().is_some_and(|time| now - *time >= per) {
                                limiter.times.pop_front();
                            }
                            let allowed = limiter.times.len() < count;
                            if allowed {
                                limiter.times.push_back(now);
                            }
                            allowed
                        }
                        Limit::Bucket { burst, rate } => {
                            let refill = (now - limiter.last).as_secs_f64() * rate;
                            limiter.last = now;
                            limiter.tokens = (limiter.tokens + refill).min(burst);
                            let allowed = limiter.tokens >= 1.0;
                            if allowed {
                                limiter.tokens -= 1.0;
                            }
                            allowed
                        }
                    }
                };
                tokio::time::sleep(latency).await;
                if allowed {
                    return text(200, "done");
                }
                let mut answer = text(429, "slow down");
                if let Some(after) = retry_after {
                    answer.headers_mut().insert("retry-after", after.parse().unwrap());
                }
                answer
            }
        })
        .await
    }

    /// Answers by a function.
    pub async fn scripted<F, R>(script: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let script: Arc<Script> = Arc::new(move |request| Box::pin(script(request)) as Answering);
        let (alive, ended) = oneshot::channel::<()>();
        let server = {
            let state = Arc::clone(&state);
            async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, state, script) => {}
                    _ = ended => {}
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime.block_on(server));
        Self { address, state, _alive: alive }
    }

    /// A URL of this upstream.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything it saw.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// How many of the answers had this status.
    pub fn count(&self, status: u16) -> usize {
        self.state.seen.lock().iter().filter(|seen| seen.status == status).count()
    }

    /// Connections it accepted in all.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Requests whose answer has not begun.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, script: Arc<Script>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (state, script) = (Arc::clone(&state), Arc::clone(&script));
        connections.spawn(async move {
            state.connections.fetch_add(1, Ordering::SeqCst);
            state.open.fetch_add(1, Ordering::SeqCst);
            let open = OnDrop(Arc::clone(&state), |state| &state.open);
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let (state, script) = (Arc::clone(&state), Arc::clone(&script));
                async move {
                    state.in_flight.fetch_add(1, Ordering::SeqCst);
                    let _in_flight = OnDrop(Arc::clone(&state), |state| &state.in_flight);
                    let mut seen = Seen {
                        at: Instant::now(),
                        method: request.method().clone(),
                        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
                        headers: request.headers().clone(),
                        status: 0,
                    };
                    let answer = script(request).await;
                    seen.status = answer.status().as_u16();
                    state.seen.lock().push(seen);
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            drop(open);
        });
    }
}

struct OnDrop(Arc<State>, fn(&State) -> &AtomicUsize);

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst);
    }
}
