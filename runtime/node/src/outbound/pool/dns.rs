//! Names to addresses, remembered for a moment.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

/// How long an answer is believed. Short: records move, and the guard judges each answer anew anyway.
const TTL: Duration = Duration::from_secs(5);
/// Names that the system is asked for at once, those included that nobody waits for any more.
const LOOKUPS: usize = 64;
/// Names that are remembered at most.
const NAMES: usize = 4_096;

/// Looks names up. The system's resolver in a node, a table in tests.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, host: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// `getaddrinfo`, on tokio's blocking threads, but never on all of them: names that nobody answers for take seconds,
/// and it can't be stopped.
#[derive(Debug)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let threads = Arc::clone(&self.0);
        Box::pin(async move {
            let permit = threads.acquire_owned().await.map_err(io::Error::other)?;
            let look_up = move || {
                let found = (&*host, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
                drop(permit);
                found
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}

type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

struct Entry {
    asked: Instant,
    answer: Arc<OnceCell<Answer>>,
}

/// A resolver that asks once for all who ask at the same time, and not again for [`TTL`].
pub(crate) struct Dns {
    resolver: Arc<dyn Resolve>,
    names: Mutex<HashMap<Arc<str>, Entry>>,
}

impl Dns {
    pub(crate) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, names: Mutex::default() }
    }

    /// The addresses of a name, never none.
    pub(crate) async fn look_up(&self, host: &Arc<str>) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        // Such names never exist, and nobody is asked for them (RFC 6761 section 6.4).
        if host.trim_end_matches('.').rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("invalid")) {
            return Err("names under `invalid` never exist".into());
        }
        let cell = self.cell(host);
        let answer = cell.get_or_init(|| self.ask(host)).await.clone();
        if answer.is_err() {
            // A failure is shared by those who asked together, and forgotten.
            let mut names = self.names.lock();
            if names.get(host).is_some_and(|entry| Arc::ptr_eq(&entry.answer, &cell)) {
                names.remove(host);
            }
        }
        answer
    }

    async fn ask(&self, host: &Arc<str>) -> Answer {
        match self.resolver.resolve(Arc::clone(host)).await {
            Ok(found) if found.is_empty() => Err("the name has no address".into()),
            Ok(found) => Ok(found.into()),
            Err(error) => Err(error.to_string().into()),
        }
    }

    fn cell(&self, host: &Arc<str>) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        let mut names = self.names.lock();
        if let Some(entry) = names.get(host)
            && now.duration_since(entry.asked) < TTL
        {
            return Arc::clone(&entry.answer);
        }
        if names.len() >= NAMES {
            names.retain(|_, entry| now.duration_since(entry.asked) < TTL);
            if names.len() >= NAMES {
                names.clear();
            }
        }
        let answer = Arc::new(OnceCell::new());
        names.insert(Arc::clone(host), Entry { asked: now, answer: Arc::clone(&answer) });
        answer
    }
}
