//! An upstream: a limit, a latency, and outages on demand. It notes every request that reached it.
//!
//! Each has a thread of its own, so that it counts when requests come and not when a crowded machine lets it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
};

use crate::quota::Quota;

/// Header of an answer that says how long the upstream had the request, in microseconds.
pub(crate) const HELD: &str = "x-held-us";

/// What every good answer holds: all clients understand it, those of language models among them.
const ANSWER: &str = r#"{"id":"bench","object":"chat.completion","created":0,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves.
    Up,
    /// Every request gets a 503, at once.
    Unavailable,
    /// Every connection is accepted, noted and closed.
    Closing,
    /// Nobody listens.
    Refusing,
}

impl State {
    fn takes_requests(self) -> bool {
        matches!(self, State::Up | State::Unavailable)
    }
}

/// How long answers take: lognormal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) median: Duration,
    /// Standard deviation of the logarithm; 0: always the median.
    pub(crate) sigma: f64,
}

impl Latency {
    fn draw(self) -> Duration {
        // Box-Muller; 1 - f64() is never 0.
        let radius = (-2.0 * (1.0 - fastrand::f64()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * fastrand::f64()).cos();
        self.median.mul_f64((normal * self.sigma).exp())
    }
}

/// A request that reached it, or a connection that it closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    /// What it was answered; nothing where the connection was closed.
    pub(crate) status: Option<StatusCode>,
}

/// A running upstream; it lives as long as the process.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    state: watch::Sender<State>,
    quota: Option<Mutex<Quota>>,
    latency: Latency,
    slower: AtomicU32,
    seen: Mutex<Vec<Seen>>,
}

impl Upstream {
    /// Listens on the address from now on.
    pub(crate) fn start(address: SocketAddr, quota: Option<Quota>, latency: Latency) -> Result<Self> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            state: watch::Sender::new(State::Up),
            quota: quota.map(Mutex::new),
            latency,
            slower: AtomicU32::new(1),
            seen: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (upstream, (listens, listening)) = (Arc::clone(&shared), mpsc::channel());
        std::thread::Builder::new().name("upstream".into()).spawn(move || {
            if let Err(error) = runtime.block_on(listen(&upstream, address, &listens)) {
                eprintln!("the upstream on {address} ended: {error}");
            }
        })?;
        listening.recv().ok().with_context(|| format!("an upstream can't listen on {address}"))?;
        Ok(Self { shared })
    }

    /// It is so from now on. Connections end where it takes no requests.
    pub(crate) fn set(&self, state: State) {
        self.shared.state.send_replace(state);
    }

    /// Answers take so many times as long from now on.
    pub(crate) fn slow_down(&self, factor: u32) {
        self.shared.slower.store(factor, Ordering::Relaxed);
    }

    /// Everything that reached it, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// How many requests reached it.
    pub(crate) fn count(&self) -> usize {
        self.shared.seen.lock().len()
    }
}

const BACKLOG: u32 = 4_096;

/// A socket that holds the port, so that no connection of somebody else is given it, without listening.
fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn listen(shared: &Arc<Shared>, address: SocketAddr, listens: &mpsc::Sender<()>) -> std::io::Result<()> {
    let mut state = shared.state.subscribe();
    let mut listener = bound(address)?.listen(BACKLOG)?;
    // Somebody waits for it.
    let _ = listens.send(());
    loop {
        let refuses = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => shared.accepted(stream),
                    // Out of descriptors, or a connection that is gone already.
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                },
                refuses = state.wait_for(|state| *state == State::Refusing) => break refuses.is_ok(),
            }
        };
        drop(listener);
        let socket = bound(address)?;
        // The sender lives in `shared`.
        if !refuses || state.wait_for(|state| *state != State::Refusing).await.is_err() {
            return Ok(());
        }
        listener = socket.listen(BACKLOG)?;
    }
}

impl Shared {
    fn accepted(self: &Arc<Self>, stream: TcpStream) {
        if !self.state.borrow().takes_requests() {
            self.note(None);
            return;
        }
        // Small answers, each at once.
        let _ = stream.set_nodelay(true);
        let (shared, mut state) = (Arc::clone(self), self.state.subscribe());
        tokio::spawn(async move {
            let of_connection = Arc::clone(&shared);
            let service = service_fn(move |request| Arc::clone(&of_connection).answer(request));
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                _ = state.wait_for(|state| !state.takes_requests()) => {}
            }
        });
    }

    fn note(&self, status: Option<StatusCode>) {
        self.seen.lock().push(Seen { at: Instant::now(), status });
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let came = Instant::now();
        let status = self.judge(came);
        self.seen.lock().push(Seen { at: came, status: Some(status) });
        // A client that breaks off gets no answer either way.
        let _ = request.into_body().collect().await;
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = status;
        if status == StatusCode::OK {
            let factor = self.slower.load(Ordering::Relaxed);
            tokio::time::sleep(self.latency.draw() * factor).await;
            let held = came.elapsed().as_micros() as u64;
            answer.headers_mut().insert(HELD, held.into());
            let json = http::HeaderValue::from_static("application/json");
            answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
            *answer.body_mut() = Full::new(Bytes::from_static(ANSWER.as_bytes()));
        }
        Ok(answer)
    }

    fn judge(&self, now: Instant) -> StatusCode {
        if *self.state.borrow() == State::Unavailable {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let passes = self.quota.as_ref().is_none_or(|quota| quota.lock().take(now - self.began));
        if passes { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{Client, Retry},
        quota::Kind,
    };

    const QUICK: Latency = Latency { median: Duration::from_millis(1), sigma: 0.0 };

    fn upstream(quota: Option<Quota>) -> (Upstream, Client) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&[format!("http://{free}/v1/models")], http::Method::GET, &[], Retry::Never).unwrap();
        (Upstream::start(free, quota, QUICK).unwrap(), client)
    }

    async fn status(client: &Client) -> Option<u16> {
        client.call(Instant::now()).await.status
    }

    #[tokio::test]
    async fn an_upstream_goes_away_in_each_way_and_comes_back() {
        let (upstream, client) = upstream(None);
        assert_eq!(status(&client).await, Some(200));
        upstream.set(State::Unavailable);
        assert_eq!(status(&client).await, Some(503));
        upstream.set(State::Closing);
        while status(&client).await.is_some() {}
        let count = upstream.count();
        assert_eq!(status(&client).await, None);
        assert_eq!(upstream.count(), count + 1, "a connection that it closes is noted");
        upstream.set(State::Refusing);
        while client.connects().await {}
        let count = upstream.count();
        assert_eq!(status(&client).await, None);
        assert_eq!(upstream.count(), count, "nobody was there to note it");
        upstream.set(State::Up);
        while status(&client).await.is_none() {}
        assert_eq!(status(&client).await, Some(200));
    }

    #[tokio::test]
    async fn a_refusal_says_nothing_but_429() {
        let (upstream, client) = upstream(Some(Quota::new(Kind::Sliding, 1)));
        assert_eq!(status(&client).await, Some(200));
        assert_eq!(status(&client).await, Some(429));
        let seen: Vec<_> = upstream.seen().iter().map(|seen| seen.status.unwrap().as_u16()).collect();
        assert_eq!(seen, [200, 429]);
    }

    #[test]
    fn latencies_have_the_median_they_were_given() {
        fastrand::seed(7);
        let latency = Latency { median: Duration::from_millis(100), sigma: 0.3 };
        let values: Vec<_> = (0..10_000).map(|_| latency.draw()).collect();
        let at = |share| crate::measure::percentile_ms(values.clone(), share);
        assert!((97.0..103.0).contains(&at(0.5)), "{}", at(0.5));
        // exp(2.326 * 0.3) is 2.01.
        assert!((185.0..217.0).contains(&at(0.99)), "{}", at(0.99));
    }
}
