//! Names to addresses, remembered for a moment.

use std::{
    collections::HashMap,
    ffi::CStr,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::ids::TenantId;

/// How long an answer is believed. Short: records move, and the guard judges each answer anew anyway.
const TTL: Duration = Duration::from_secs(5);
/// Names that the system is asked for at once, those included that nobody waits for any more.
const LOOKUPS: usize = 64;
/// How many of them may be one tenant's: names that nobody answers for keep nobody else from looking theirs up.
const TENANT_LOOKUPS: usize = 16;
/// Tenants whose look-ups are counted; beyond it those are forgotten that have none.
const TENANTS: usize = 4_096;
/// Names that are remembered at most.
const NAMES: usize = 4_096;

/// Looks names up. The system's resolver in a node, a table in tests.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name; [`io::ErrorKind::NotFound`] where there is no such name.
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
                found.map_err(typed)
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}

/// What `getaddrinfo` said, as a kind.
fn typed(error: io::Error) -> io::Error {
    let text = error.to_string();
    let says = |code| {
        // SAFETY: it returns a text that is never freed, whatever the code.
        let words = unsafe { libc::gai_strerror(code) };
        // SAFETY: the text ends with a zero.
        !words.is_null() && text.ends_with(&*unsafe { CStr::from_ptr(words) }.to_string_lossy())
    };
    match says(libc::EAI_NONAME) || says(libc::EAI_NODATA) {
        true => io::Error::new(io::ErrorKind::NotFound, error),
        false => error,
    }
}

/// Why a name has no address.
#[derive(Clone, Debug)]
pub(super) struct Unknown {
    pub(super) why: Arc<str>,
    /// There is no such name, and asking again would not change that.
    pub(super) lasting: bool,
}

type Answer = Result<Arc<[IpAddr]>, Unknown>;

struct Entry {
    asked: Instant,
    lookup: Arc<LookUp>,
}

/// One question, for all who ask it.
#[derive(Default)]
struct LookUp {
    answer: OnceCell<Answer>,
    /// Somebody asks.
    asked: AtomicBool,
}

/// A resolver that asks once for all who ask at the same time, and not again for [`TTL`].
pub(crate) struct Dns {
    resolver: Arc<dyn Resolve>,
    names: Mutex<HashMap<Arc<str>, Entry>>,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl Dns {
    pub(crate) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, names: Mutex::default(), tenants: Mutex::default() }
    }

    /// The addresses of a name, never none.
    pub(super) async fn look_up(&self, tenant: &TenantId, host: &Arc<str>) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        // Such names never exist, and nobody is asked for them (RFC 6761 section 6.4).
        if host.trim_end_matches('.').rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("invalid")) {
            return Err(Unknown { why: "names under `invalid` never exist".into(), lasting: true });
        }
        let cell = self.cell(host);
        let answer = match cell.answer.get() {
            Some(answer) => answer.clone(),
            None => {
                // Before the cell is taken: a tenant that has used its share up must not keep others from asking. Who
                // waits for what somebody asks already needs none, unless that one leaves.
                let share = match cell.asked.load(Ordering::Relaxed) {
                    true => None,
                    false => self.share(tenant).acquire_owned().await.ok(),
                };
                let asking = async || {
                    cell.asked.store(true, Ordering::Relaxed);
                    let share = match share {
                        Some(share) => Some(share),
                        None => self.share(tenant).acquire_owned().await.ok(),
                    };
                    self.ask(host, share).await
                };
                cell.answer.get_or_init(asking).await.clone()
            }
        };
        if answer.is_err() {
            // A failure is shared by those who asked together, and forgotten.
            let mut names = self.names.lock();
            if names.get(host).is_some_and(|entry| Arc::ptr_eq(&entry.lookup, &cell)) {
                names.remove(host);
            }
        }
        answer
    }

    async fn ask(&self, host: &Arc<str>, share: Option<OwnedSemaphorePermit>) -> Answer {
        let asked = self.resolver.resolve(Arc::clone(host));
        // In a task, as it can't be stopped: the share is taken for as long as somebody works on it.
        let asked = tokio::spawn(async move {
            let found = asked.await;
            drop(share);
            found
        });
        match asked.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(found) if found.is_empty() => Err(Unknown { why: "the name has no address".into(), lasting: true }),
            Ok(found) => Ok(found.into()),
            Err(error) => {
                let lasting = error.kind() == io::ErrorKind::NotFound;
                Err(Unknown { why: error.to_string().into(), lasting })
            }
        }
    }

    /// The look-ups that a tenant may have under way.
    fn share(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock();
        if tenants.len() >= TENANTS {
            tenants.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(TENANT_LOOKUPS)));
        Arc::clone(share)
    }

    fn cell(&self, host: &Arc<str>) -> Arc<LookUp> {
        let now = Instant::now();
        let mut names = self.names.lock();
        if let Some(entry) = names.get(host)
            && now.duration_since(entry.asked) < TTL
        {
            return Arc::clone(&entry.lookup);
        }
        if names.len() >= NAMES {
            names.retain(|_, entry| now.duration_since(entry.asked) < TTL);
            if names.len() >= NAMES {
                names.clear();
            }
        }
        let lookup = Arc::<LookUp>::default();
        names.insert(Arc::clone(host), Entry { asked: now, lookup: Arc::clone(&lookup) });
        lookup
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Answers for `good.test`; nobody answers for other names, and all who ask are counted.
    #[derive(Default)]
    struct Deaf(Arc<AtomicUsize>);

    impl Resolve for Deaf {
        fn resolve(&self, host: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                match &*host {
                    "good.test" => Ok(vec![IpAddr::from([192, 0, 2, 1])]),
                    _ => std::future::pending().await,
                }
            })
        }
    }

    #[tokio::test]
    async fn a_tenant_whose_names_nobody_answers_for_keeps_no_other_from_looking_up() {
        let deaf = Deaf::default();
        let asked = Arc::clone(&deaf.0);
        let dns = Arc::new(Dns::new(Arc::new(deaf)));
        let (busy, other) = (TenantId::from("busy"), TenantId::from("other"));
        let stuck: Vec<_> = (0..TENANT_LOOKUPS + 5)
            .map(|number| {
                let (dns, busy) = (Arc::clone(&dns), busy.clone());
                tokio::spawn(async move { dns.look_up(&busy, &format!("{number}.deaf.test").into()).await.map(drop) })
            })
            .collect();
        while asked.load(Ordering::SeqCst) < TENANT_LOOKUPS {
            tokio::task::yield_now().await;
        }
        // It can't ask for this one any more, and others can, also while it tries.
        let waits = tokio::spawn({
            let (dns, busy) = (Arc::clone(&dns), busy.clone());
            async move { dns.look_up(&busy, &"good.test".into()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(dns.look_up(&other, &"good.test".into()).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), TENANT_LOOKUPS + 1);
        waits.abort();
        stuck.iter().for_each(|call| call.abort());
    }

    #[tokio::test]
    async fn many_who_wait_for_one_name_leave_the_others_of_their_tenant_alone() {
        let deaf = Deaf::default();
        let asked = Arc::clone(&deaf.0);
        let dns = Arc::new(Dns::new(Arc::new(deaf)));
        let tenant = TenantId::from("t");
        let ask = |name: &'static str| {
            let (dns, tenant) = (Arc::clone(&dns), tenant.clone());
            tokio::spawn(async move { dns.look_up(&tenant, &name.into()).await.map(drop) })
        };
        let first = ask("deaf.test");
        while asked.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..TENANT_LOOKUPS * 2).map(|_| ask("deaf.test")).collect();
        tokio::task::yield_now().await;
        let good = tokio::time::timeout(Duration::from_secs(5), ask("good.test")).await;
        assert!(good.expect("it is not kept waiting").unwrap().is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        waiting.iter().chain([&first]).for_each(|call| call.abort());
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_told_from_a_resolver_that_does_not_answer() {
        let text = |code| {
            // SAFETY: as above.
            let words = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned();
            typed(io::Error::other(format!("failed to lookup address information: {words}"))).kind()
        };
        assert_eq!(text(libc::EAI_NONAME), io::ErrorKind::NotFound);
        assert_eq!(text(libc::EAI_NODATA), io::ErrorKind::NotFound);
        assert_eq!(text(libc::EAI_AGAIN), io::ErrorKind::Other);
        let dns = Dns::new(Arc::new(Deaf::default()));
        let unknown = dns.look_up(&TenantId::default_tenant(), &"nobody.invalid".into()).await.unwrap_err();
        assert!(unknown.lasting);
    }
}
