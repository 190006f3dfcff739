//! A scripted upstream, a door, and calls through it.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Command, FromArgMatches};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tidegate::{
    body::{self, Body},
    cluster::registry::{DestinationConfig, DestinationRecord, State},
    ids::{TenantId, TraceContext, TraceId},
    observe::{Ending, Observe, Subject, Trail},
    outbound::{
        CallTimeouts, Door, DoorParts, HostPatterns, OutboundCall, Resolve, Sender, SenderKind, TransportError,
    },
    settings::{ObserveSettings, OutboundSettings},
};
use tokio::net::{TcpListener, TcpStream};

pub type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// What an upstream saw.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub open: AtomicUsize,
    pub requests: AtomicUsize,
    pub in_flight: AtomicUsize,
    pub peak: AtomicUsize,
    pub arrivals: Mutex<Vec<Instant>>,
}

/// An HTTP server that does what a closure says.
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    pub async fn start<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serve(Arc::new(move |request| Box::pin(handler(request))), None).await
    }

    pub async fn start_tls<F, R>(handler: F, tls: rustls::ServerConfig) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serve(Arc::new(move |request| Box::pin(handler(request))), Some(Arc::new(tls))).await
    }

    async fn serve(handler: Handler, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let (handler, seen, tls) = (Arc::clone(&handler), Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    let _open = Counted(Arc::clone(&seen));
                    serve_one(stream, handler, seen, tls).await;
                });
            }
        });
        Self { address, seen, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub fn peak(&self) -> usize {
        self.seen.peak.load(Ordering::SeqCst)
    }
}

struct Counted(Arc<Seen>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve_one(stream: TcpStream, handler: Handler, seen: Arc<Seen>, tls: Option<Arc<rustls::ServerConfig>>) {
    let service = service_fn(move |request| {
        let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
        async move {
            seen.requests.fetch_add(1, Ordering::SeqCst);
            seen.arrivals.lock().push(Instant::now());
            let now = seen.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            seen.peak.fetch_max(now, Ordering::SeqCst);
            let response = handler(request).await;
            seen.in_flight.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, io::Error>(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // How a connection ends is seen from its other side.
    let _ = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
}

pub fn text(status: u16, text: &str) -> Response<Body> {
    Response::builder().status(status).body(body::full(text.to_owned())).unwrap()
}

pub fn refusal(retry_after: &str) -> Response<Body> {
    Response::builder().status(429).header("retry-after", retry_after).body(body::full("too many requests")).unwrap()
}

pub fn settings(flags: &[&str]) -> OutboundSettings {
    let command = OutboundSettings::augment_args(Command::new("test"));
    let matches = command.get_matches_from(["test"].iter().chain(flags));
    OutboundSettings { region: "local".into(), ..OutboundSettings::from_arg_matches(&matches).unwrap() }
}

/// A resolver that answers from a list, in turn.
pub struct Scripted(pub Mutex<Vec<Vec<IpAddr>>>);

impl Resolve for Scripted {
    fn resolve(&self, _: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Box::pin(async move { Ok(answer) })
    }
}

/// A door that may reach this machine, with its observers and a sender.
pub struct Gate {
    pub door: Arc<Door>,
    pub observe: Arc<Observe>,
    pub sender: Arc<Sender>,
}

impl Gate {
    pub fn new(flags: &[&str]) -> Self {
        Self::with(flags, DoorParts::default())
    }

    pub fn with(flags: &[&str], parts: DoorParts) -> Self {
        let mut all = vec!["--egress-allow=127.0.0.0/8"];
        all.extend(flags);
        Self::bare(&all, parts)
    }

    /// With exactly these flags.
    pub fn bare(flags: &[&str], parts: DoorParts) -> Self {
        let command = ObserveSettings::augment_args(Command::new("test"));
        let observe = ObserveSettings::from_arg_matches(&command.get_matches_from(["test"])).unwrap();
        let observe = Observe::new(&observe);
        let door = Door::with_parts(&settings(flags), Arc::clone(&observe), parts).unwrap();
        let sender = Sender {
            tenant: TenantId::default_tenant(),
            kind: SenderKind::Program { token: None },
            policy: Default::default(),
            flow: Default::default(),
        };
        Self { door, observe, sender: Arc::new(sender) }
    }

    /// The sender becomes a function that may send to these hosts.
    pub fn function(mut self, allowed: &[&str]) -> Self {
        let allowed: Vec<_> = allowed.iter().map(|host| (*host).to_owned()).collect();
        let kind = SenderKind::Function {
            name: "agent".into(),
            version: 1,
            allowed_hosts: Some(HostPatterns::parse(&allowed).unwrap()),
            handles: Default::default(),
        };
        let tenant = TenantId::default_tenant();
        self.sender =
            Arc::new(Sender { flow: Sender::flow_of(&tenant, &kind, 1), tenant, kind, policy: Default::default() });
        self
    }

    /// The same gate, for the bearer of another token.
    pub fn program(&self, token: &str) -> Self {
        let (tenant, kind) = (TenantId::default_tenant(), SenderKind::Program { token: Some(token.to_owned()) });
        let sender = Sender { flow: Sender::flow_of(&tenant, &kind, 1), tenant, kind, policy: Default::default() };
        Self { door: Arc::clone(&self.door), observe: Arc::clone(&self.observe), sender: Arc::new(sender) }
    }

    pub fn configure(&self, destinations: &[(&str, serde_json::Value)]) {
        let tenant = TenantId::default_tenant();
        let mut state = State::default();
        for (name, config) in destinations {
            let config: DestinationConfig = serde_json::from_value(config.clone()).unwrap();
            tidegate::outbound::compile(&config, self.door.settings()).unwrap();
            let record = DestinationRecord {
                tenant: tenant.clone(),
                name: (*name).into(),
                config: Arc::new(config),
                steering: Default::default(),
                revision: 1,
            };
            state.destinations.insert((tenant.clone(), (*name).into()), Arc::new(record));
        }
        self.door.configure(&state);
    }

    pub fn call(&self, request: Request<Body>) -> (Trail, OutboundCall) {
        let id = TraceId::random();
        let trail = Trail::begin(id);
        let call = OutboundCall {
            request,
            sender: Arc::clone(&self.sender),
            timeouts: CallTimeouts::default(),
            trail: trail.clone(),
            trace: TraceContext { trace: id, ..TraceContext::begin() },
            wait_clock: None,
        };
        (trail, call)
    }

    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        self.door.send(self.call(request).1).await
    }

    pub async fn get(&self, url: &str) -> Result<Response<Body>, TransportError> {
        self.send(get(url)).await
    }

    /// Sends, and gives the answer with the sentences of its trail.
    pub async fn told(&self, request: Request<Body>) -> (Result<Response<Body>, TransportError>, Vec<String>) {
        let (trail, call) = self.call(request);
        let answer = self.door.send(call).await;
        (answer, self.sentences(&trail))
    }

    pub fn sentences(&self, trail: &Trail) -> Vec<String> {
        let tenant = self.sender.tenant.as_str();
        self.observe.trails.finish(trail, Subject { tenant, invocation: None }, Ending::Status(0));
        let record = self.observe.trails.get(tenant, trail.id()).unwrap();
        record.notes.iter().map(|(_, note)| note.to_string()).collect()
    }

    pub fn state(&self) -> serde_json::Value {
        serde_json::to_value(self.door.destinations(&self.sender.tenant, None, 100)).unwrap()
    }
}

pub fn get(url: &str) -> Request<Body> {
    Request::get(url).body(body::empty()).unwrap()
}

pub fn post(url: &str, text: &str) -> Request<Body> {
    Request::post(url).body(body::full(text.to_owned())).unwrap()
}

pub async fn read(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn read_incoming(body: Incoming) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

/// Waits until something holds, for at most five seconds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(5), "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A body whose frames are handed in through a channel.
pub fn channel_body() -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, ChannelBody(receiver).boxed_unsync())
}

struct ChannelBody(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, body::BodyError>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}
