//! Connections to upstreams, kept apart by tenant and origin.
//!
//! A call that finds no idle connection dials one of its own, so there are never more than there are calls at once, and
//! the connection used last is used next, so that those beyond the need grow old and are closed. Where TLS may bring
//! HTTP/2, one pioneer dials and everyone else waits to hear which protocol it is.

mod dial;
mod dns;
mod h1;
mod h2;
mod lease;
mod socket;
mod tls;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidegate_core::units::Size;
use tokio::sync::Notify;

pub(crate) use self::dial::DialError;
pub use self::dns::{Resolve, SystemResolver};
pub(crate) use self::lease::{Broken, Exchanged, Lease, Peeked, Streaming, Upload};
pub(crate) use self::tls::system_roots;
use self::{dns::Dns, h1::H1, h2::H2, socket::Socket, tls::Tls};
use super::{Origin, Scheme, TransportError, guard::AddressGuard};
use crate::{ids::TenantId, observe::Observe};

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(1);

/// What a pool is made of.
pub(crate) struct PoolParts {
    pub(crate) guard: AddressGuard,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) roots: Option<Arc<rustls::RootCertStore>>,
    pub(crate) observe: Arc<Observe>,
    pub(crate) heads: HeadBounds,
    pub(crate) liveness: Liveness,
    /// How long what was sent may stay unread by its peer (setting `body_idle_timeout`).
    pub(crate) unread: Duration,
    /// Idle connections kept (setting `max_idle_connections`).
    pub(crate) max_idle: usize,
    /// How long an idle connection is kept (setting `connection_idle`).
    pub(crate) idle_time: Duration,
}

/// What the head of an answer may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBounds {
    /// Headers (setting `max_answer_headers`).
    pub(crate) headers: usize,
    /// Its size (setting `max_answer_head`).
    pub(crate) bytes: Size,
}

/// How a peer that is gone without a word (a NAT that forgot the connection, a machine without power) is told from one that
/// thinks: over HTTP/2 it is asked, while calls wait for it. Any peer answers in a round trip, and ten seconds cost nobody
/// anything.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// Silence after which it is asked.
    pub every: Duration,
    /// How long its answer is waited for.
    pub within: Duration,
}

impl Default for Liveness {
    /// 10 s and 5 s.
    fn default() -> Self {
        Self { every: Duration::from_secs(10), within: Duration::from_secs(5) }
    }
}

/// All connections of a node.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    upstreams: Mutex<HashMap<(TenantId, Origin), Arc<Upstream>>>,
    idle_time: Duration,
}

/// What all upstreams use.
struct Shared {
    guard: AddressGuard,
    dns: Dns,
    tls: Tls,
    observe: Arc<Observe>,
    heads: HeadBounds,
    liveness: Liveness,
    unread: Duration,
    max_idle: usize,
    idle: AtomicUsize,
}

/// Connections of one tenant to one origin.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    tenant: TenantId,
    origin: Origin,
    state: Mutex<State>,
    /// A dial ended, a stream came free, the peer's settings came.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Idle HTTP/1.1 connections, the one used last at the end.
    idle: Vec<H1>,
    h2: Vec<Arc<H2>>,
    /// What the last handshake brought; nothing before the first.
    speaks_h1: Option<bool>,
    /// Number of the pioneer's dial in progress.
    pioneer: Option<u64>,
    dials: u64,
    /// Number of the last pioneer that failed, and why: those who waited for it share its failure.
    failed: Option<(u64, DialError)>,
}

/// Counts a connection while it lives.
pub(crate) struct OpenConnection(Arc<Observe>);

impl OpenConnection {
    fn new(observe: &Arc<Observe>) -> Self {
        observe.metrics.connections_opened.inc();
        observe.metrics.connections_open.inc();
        Self(Arc::clone(observe))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.connections_open.dec();
    }
}

/// What a call does next to get a connection.
enum Step {
    Use(Lease),
    /// Dial one of its own.
    Dial,
    /// Dial for everyone.
    Pioneer(u64),
    /// Wait for the pioneer with this number, or for a stream.
    Wait(Option<u64>),
    Fail(DialError),
}

impl Pool {
    /// A pool and the thread that sweeps it, which ends when the last reference to the pool does. A thread of its own:
    /// closing thousands of sockets takes longer than those who pace departures or run guests can wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(parts: PoolParts) -> std::io::Result<Arc<Self>> {
        let shared = Shared {
            guard: parts.guard,
            dns: Dns::new(parts.resolver),
            tls: Tls::new(parts.roots),
            observe: parts.observe,
            heads: parts.heads,
            liveness: parts.liveness,
            unread: parts.unread,
            max_idle: parts.max_idle,
            idle: AtomicUsize::new(0),
        };
        let pool = Self { shared: Arc::new(shared), upstreams: Mutex::default(), idle_time: parts.idle_time };
        let pool = Arc::new(pool);
        let swept = Arc::downgrade(&pool);
        let sweep = move || {
            while let Some(pool) = swept.upgrade() {
                pool.sweep();
                drop(pool);
                std::thread::sleep(SWEEP);
            }
        };
        std::thread::Builder::new().name("tidegate-sweep".into()).spawn(sweep)?;
        Ok(pool)
    }

    /// The connections of a tenant to an origin.
    pub(crate) fn upstream(&self, tenant: &TenantId, origin: &Origin) -> Arc<Upstream> {
        let mut upstreams = self.upstreams.lock();
        let key = (tenant.clone(), origin.clone());
        let upstream = upstreams.entry(key).or_insert_with(|| {
            Arc::new(Upstream {
                shared: Arc::clone(&self.shared),
                tenant: tenant.clone(),
                origin: origin.clone(),
                state: Mutex::default(),
                changed: Notify::new(),
            })
        });
        Arc::clone(upstream)
    }

    /// Closes what was idle for too long or was closed by its peer, and forgets upstreams without connections.
    fn sweep(&self) {
        let Some(oldest) = Instant::now().checked_sub(self.idle_time) else { return };
        let all: Vec<_> = self.upstreams.lock().values().cloned().collect();
        for upstream in all {
            upstream.sweep(oldest);
        }
        self.upstreams.lock().retain(|_, upstream| Arc::strong_count(upstream) > 1 || !upstream.is_empty());
    }
}

impl Upstream {
    /// Where the connections lead.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A connection: an idle one, a stream of a shared one, or a new one.
    ///
    /// # Errors
    /// What kept a new one from being made. The caller bounds the time.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, DialError> {
        match self.step(None) {
            Step::Use(lease) => return Ok(lease),
            Step::Fail(error) => return Err(error),
            Step::Dial => return Box::pin(self.dial(None)).await,
            Step::Pioneer(number) => return Box::pin(self.dial(Some(number))).await,
            Step::Wait(_) => {}
        }
        Box::pin(self.lease_later()).await
    }

    /// As [`Self::lease`], where somebody else's dial or stream must be waited for.
    async fn lease_later(self: &Arc<Self>) -> Result<Lease, DialError> {
        let mut waited_for = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that no change between look and wait is missed.
            changed.as_mut().enable();
            match self.step(waited_for) {
                Step::Use(lease) => return Ok(lease),
                Step::Fail(error) => return Err(error),
                Step::Dial => return self.dial(None).await,
                Step::Pioneer(number) => return self.dial(Some(number)).await,
                Step::Wait(number) => waited_for = number.or(waited_for),
            }
            changed.await;
        }
    }

    fn step(self: &Arc<Self>, waited_for: Option<u64>) -> Step {
        let mut state = self.state.lock();
        while let Some(mut connection) = state.idle.pop() {
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            if connection.is_usable() {
                drop(state);
                return Step::Use(Lease::h1(connection, Arc::clone(self)));
            }
        }
        state.h2.retain(|connection| connection.is_open());
        if let Some(stream) = state.h2.iter().find_map(|connection| connection.take(self)) {
            return Step::Use(Lease::h2(stream));
        }
        if state.speaks_h1 == Some(true) || self.origin.scheme == Scheme::Http {
            return Step::Dial;
        }
        if let (Some(mine), Some((number, error))) = (waited_for, &state.failed)
            && mine == *number
        {
            return Step::Fail(error.clone());
        }
        if let Some(number) = state.pioneer {
            return Step::Wait(Some(number));
        }
        if state.h2.iter().any(|connection| connection.awaits_settings()) {
            return Step::Wait(None);
        }
        state.dials += 1;
        state.pioneer = Some(state.dials);
        Step::Pioneer(state.dials)
    }

    async fn dial(self: &Arc<Self>, pioneer: Option<u64>) -> Result<Lease, DialError> {
        let mut end = PioneerEnd { upstream: self, number: pioneer, failed: None };
        let made = self.make().await;
        if let Err(error) = &made {
            end.failed = Some(error.clone());
        }
        drop(end);
        made
    }

    async fn make(self: &Arc<Self>) -> Result<Lease, DialError> {
        let stream = dial::dial(&self.tenant, &self.origin, &self.shared.dns, &self.shared.guard).await?;
        dial::prepare(&stream, self.shared.unread);
        let open = OpenConnection::new(&self.shared.observe);
        let socket = match self.origin.scheme {
            Scheme::Http => Socket::Plain(stream),
            Scheme::Https => Socket::Tls(Box::new(self.shared.tls.connect(&self.tenant, &self.origin, stream).await?)),
        };
        let failed = |error: hyper::Error| {
            let host = self.origin.authority().to_string();
            DialError::Failed(TransportError::Connect { host, why: error.to_string() })
        };
        if socket.speaks_http2() {
            let connection = H2::handshake(socket, open, self).await.map_err(failed)?;
            let mut state = self.state.lock();
            let stream = connection.take(self);
            state.speaks_h1 = Some(false);
            state.h2.push(connection);
            return stream.map(Lease::h2).ok_or_else(|| {
                let host = self.origin.authority().to_string();
                DialError::Failed(TransportError::Protocol { host, why: "no streams are allowed".into() })
            });
        }
        self.state.lock().speaks_h1 = Some(true);
        let connection = H1::handshake(socket, open, self.shared.heads).await.map_err(failed)?;
        Ok(Lease::h1(connection, Arc::clone(self)))
    }

    fn sweep(&self, oldest: Instant) {
        let mut state = self.state.lock();
        let before = state.idle.len();
        state.idle.retain_mut(|connection| connection.idle_since >= oldest && connection.is_usable());
        self.shared.idle.fetch_sub(before - state.idle.len(), Ordering::Relaxed);
        state
            .h2
            .retain(|connection| connection.is_open() && connection.idle_since().is_none_or(|since| since >= oldest));
    }

    fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.idle.is_empty() && state.h2.is_empty() && state.pioneer.is_none()
    }

    /// Takes an idle connection back.
    fn put(&self, connection: H1) {
        if self.shared.idle.fetch_add(1, Ordering::Relaxed) >= self.shared.max_idle {
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.state.lock().idle.push(connection);
    }
}

/// Ends a pioneer's dial, also when its call is dropped.
struct PioneerEnd<'a> {
    upstream: &'a Upstream,
    number: Option<u64>,
    failed: Option<DialError>,
}

impl Drop for PioneerEnd<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.upstream.state.lock();
        state.pioneer = None;
        if let Some(error) = self.failed.take() {
            state.failed = Some((number, error));
        }
        drop(state);
        self.upstream.changed.notify_waiters();
    }
}
