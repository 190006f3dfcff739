//! The functions as they serve: an immutable table of routes, swapped whole when the registry changes.
//!
//! A request takes the version it will run from the table once and keeps it; a redeploy swaps the table and touches no
//! request. The version before is held only by its open requests then, so its instances go with the last of them. A
//! version is opened before the table that lets it serve is shown.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::{Mutex, OnceCell, watch};

use super::route::name_below;
use crate::{
    cluster::registry::{Auth, FunctionRecord, RouteHost, RoutePattern, State, VersionNumber, VersionRecord},
    ids::{FunctionName, TenantId},
    problem::Problem,
};

/// What makes a version ready to run.
pub trait Open: Send + Sync + 'static {
    /// A version that is ready to run. What it holds ends when it is dropped.
    type Deployment: Send + Sync + 'static;

    /// Makes the version ready.
    fn open(&self, version: &Identity) -> impl Future<Output = Result<Self::Deployment, Problem>> + Send;
}

/// One version of a function, as an invocation needs to know it.
#[derive(Debug)]
pub struct Identity {
    /// Whose it is.
    pub tenant: TenantId,
    /// The function.
    pub name: FunctionName,
    /// The version.
    pub record: Arc<VersionRecord>,
    /// Its name as a header's value.
    pub name_header: HeaderValue,
    /// Its number as a header's value.
    pub version_header: HeaderValue,
    used: Arc<AtomicBool>,
}

/// A version that is kept; opened when it is to serve, or by the first request that names it.
pub struct LiveVersion<D> {
    identity: Identity,
    deployment: OnceCell<D>,
}

impl<D> LiveVersion<D> {
    fn new(function: &FunctionRecord, record: &Arc<VersionRecord>, used: Arc<AtomicBool>) -> Self {
        let name_header = HeaderValue::from_str(function.name.as_str());
        let identity = Identity {
            tenant: function.tenant.clone(),
            name: function.name.clone(),
            record: Arc::clone(record),
            name_header: name_header.unwrap_or(HeaderValue::from_static("")),
            version_header: HeaderValue::from(record.number),
            used,
        };
        Self { identity, deployment: OnceCell::new() }
    }

    /// Which version it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The version, ready to run; opens it if nobody has yet.
    ///
    /// # Errors
    /// When it can't be opened; the next request tries again.
    pub async fn deployment<O: Open<Deployment = D>>(&self, opener: &O) -> Result<&D, Problem> {
        // Read first: a cache line that nobody writes is shared by all threads.
        if !self.identity.used.load(Ordering::Relaxed) {
            self.identity.used.store(true, Ordering::Relaxed);
        }
        match self.deployment.get() {
            Some(deployment) => Ok(deployment),
            None => Box::pin(self.open_ahead(opener)).await,
        }
    }

    /// The version, where it is ready to run already.
    pub fn opened(&self) -> Option<&D> {
        self.deployment.get()
    }

    /// Opens it without it being used.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open_ahead<O: Open<Deployment = D>>(&self, opener: &O) -> Result<&D, Problem> {
        self.deployment.get_or_try_init(|| opener.open(&self.identity)).await
    }
}

/// A function with the versions that are kept.
pub struct LiveFunction<D> {
    record: Arc<FunctionRecord>,
    versions: BTreeMap<VersionNumber, Arc<LiveVersion<D>>>,
    used: Arc<AtomicBool>,
}

impl<D> LiveFunction<D> {
    /// Its name.
    pub fn name(&self) -> &FunctionName {
        &self.record.name
    }

    /// The version that serves, or the one asked for.
    pub fn version(&self, number: Option<VersionNumber>) -> Option<&Arc<LiveVersion<D>>> {
        self.versions.get(&number.or(self.record.active)?)
    }

    /// Whether anyone may invoke the version. One asked for by its number is never more open than the one that serves:
    /// what was public once is not, once its function wants tokens.
    pub fn is_public(&self, version: &LiveVersion<D>) -> bool {
        let of = |version: &LiveVersion<D>| version.identity.record.config.auth == Auth::Public;
        of(version) && self.version(None).is_none_or(|serving| of(serving))
    }

    /// Whether it was invoked since this was asked last.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

type Routed<D> = Vec<(RoutePattern, Arc<LiveFunction<D>>)>;

/// Where each request goes.
pub struct Table<D> {
    revision: u64,
    by_name: HashMap<FunctionName, Arc<LiveFunction<D>>>,
    hosts: HashMap<Box<str>, Routed<D>>,
    // Longest host first.
    below: Routed<D>,
    any_host: Routed<D>,
}

impl<D> Table<D> {
    fn empty() -> Self {
        Self { revision: 0, by_name: HashMap::new(), hosts: HashMap::new(), below: Vec::new(), any_host: Vec::new() }
    }

    /// The function of this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<LiveFunction<D>>> {
        // FunctionName borrows as str, so nothing is allocated.
        self.by_name.get(name)
    }

    /// All of them.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<LiveFunction<D>>> {
        self.by_name.values()
    }

    /// The function that a host names below the domain, where it does.
    pub fn by_domain<'a>(&self, host: &'a str, domain: &str) -> Option<Result<&Arc<LiveFunction<D>>, &'a str>> {
        let name = name_below(host, domain)?;
        let found = self.by_name(name).or_else(|| self.by_name(&name.to_ascii_lowercase()));
        Some(found.ok_or(name))
    }

    /// The function with the longest route for exactly this host, if there is one.
    pub fn by_host(&self, host: &str, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        if self.hosts.is_empty() {
            return None;
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_host(&host.to_ascii_lowercase(), path);
        }
        self.hosts.get(host).and_then(|routes| first(routes, path))
    }

    /// The function with the longest route for hosts below the nearest `*.` that this one is below, if there is one.
    pub fn by_wildcard(&self, host: &str, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        if self.below.is_empty() {
            return None;
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_wildcard(&host.to_ascii_lowercase(), path);
        }
        let fits = |pattern: &RoutePattern| match &pattern.host {
            RouteHost::Below(below) => {
                host.strip_suffix(&**below).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            _ => false,
        };
        self.below.iter().find(|(pattern, _)| fits(pattern) && pattern.takes(path)).map(|(_, function)| function)
    }

    /// The function with the longest route for any host.
    pub fn by_path(&self, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        first(&self.any_host, path)
    }
}

fn first<'a, D>(routes: &'a Routed<D>, path: &str) -> Option<&'a Arc<LiveFunction<D>>> {
    routes.iter().find(|(pattern, _)| pattern.takes(path)).map(|(_, function)| function)
}

/// The live functions of a node.
pub struct Functions<O: Open> {
    opener: O,
    table: ArcSwap<Table<O::Deployment>>,
    one_at_a_time: Mutex<()>,
    shown: watch::Sender<u64>,
}

/// Whether versions that are to serve are opened before they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Yes: a redeploy must not slow the first request.
    Before,
    /// No: at the start, where the functions used lately are opened first and the others behind.
    Later,
}

impl<O: Open> Functions<O> {
    /// No functions yet.
    pub fn new(opener: O) -> Self {
        let (shown, _) = watch::channel(0);
        Self { opener, table: ArcSwap::from_pointee(Table::empty()), one_at_a_time: Mutex::new(()), shown }
    }

    /// The table now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table<O::Deployment>>> {
        self.table.load()
    }

    /// What opens versions.
    pub fn opener(&self) -> &O {
        &self.opener
    }

    /// Shows the registry's state: opens what is to serve, then swaps the table.
    pub async fn show(&self, state: &State, opening: Opening) {
        let _one = self.one_at_a_time.lock().await;
        let old = self.table.load_full();
        if state.revision <= old.revision && old.revision > 0 {
            return;
        }
        let mut table = Table { revision: state.revision, ..Table::empty() };
        // One tenant for now: names of another would need a host of their own.
        for function in state.functions.values().filter(|function| function.tenant == TenantId::default_tenant()) {
            let live = self.live(function, old.by_name(function.name.as_str()));
            if opening == Opening::Before
                && let Some(version) = live.version(None)
                && let Err(problem) = version.open_ahead(&self.opener).await
            {
                tracing::error!(function = %function.name, version = version.identity.record.number,
                    why = problem.detail, "the version that is to serve can't be opened");
            }
            self.add(&mut table, live);
        }
        sort(&mut table);
        self.table.store(Arc::new(table));
        self.shown.send_replace(state.revision);
    }

    /// Tells which revision of the registry the table shows.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    /// The function with what is open of it. The version that served before is closed for newcomers: those who run it
    /// hold it.
    fn live(
        &self,
        function: &Arc<FunctionRecord>,
        old: Option<&Arc<LiveFunction<O::Deployment>>>,
    ) -> Arc<LiveFunction<O::Deployment>> {
        if let Some(old) = old
            && Arc::ptr_eq(&old.record, function)
        {
            return Arc::clone(old);
        }
        let used = old.map_or_else(|| Arc::new(AtomicBool::new(false)), |old| Arc::clone(&old.used));
        let retired = old.and_then(|old| old.record.active).filter(|before| function.active != Some(*before));
        let kept = |number: &VersionNumber, record: &Arc<VersionRecord>| {
            let before = old.and_then(|old| old.versions.get(number)).filter(|_| retired != Some(*number));
            match before.filter(|before| Arc::ptr_eq(&before.identity.record, record)) {
                Some(before) => Arc::clone(before),
                None => Arc::new(LiveVersion::new(function, record, Arc::clone(&used))),
            }
        };
        let versions = function.versions.iter().map(|(number, record)| (*number, kept(number, record))).collect();
        Arc::new(LiveFunction { record: Arc::clone(function), versions, used: Arc::clone(&used) })
    }

    fn add(&self, table: &mut Table<O::Deployment>, live: Arc<LiveFunction<O::Deployment>>) {
        let routes = live.record.active_version().map(|version| version.config.routes.clone()).unwrap_or_default();
        for route in routes {
            // A route that a later release wrote and we can't read is not served; it stays in storage.
            let Ok(pattern) = RoutePattern::parse(&route) else { continue };
            let list = match &pattern.host {
                RouteHost::Any => &mut table.any_host,
                RouteHost::Below(_) => &mut table.below,
                RouteHost::Exact(host) => table.hosts.entry(host.clone()).or_default(),
            };
            list.push((pattern, Arc::clone(&live)));
        }
        table.by_name.insert(live.record.name.clone(), live);
    }
}

fn sort<D>(table: &mut Table<D>) {
    let host = |pattern: &RoutePattern| match &pattern.host {
        RouteHost::Below(below) => below.len(),
        _ => 0,
    };
    // A path itself before all paths that begin with it.
    let rank = |pattern: &RoutePattern| std::cmp::Reverse((host(pattern), pattern.path.len(), !pattern.open));
    for list in table.hosts.values_mut().chain([&mut table.below, &mut table.any_host]) {
        list.sort_by_key(|(pattern, _)| rank(pattern));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Weak, atomic::AtomicU64};

    use super::*;
    use crate::{
        cluster::registry::{Command, FunctionConfig, World},
        ids::Digest,
    };

    /// Opens by counting; a deployment is just something to hold.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Open for Counting {
        type Deployment = Arc<u64>;

        async fn open(&self, version: &Identity) -> Result<Arc<u64>, Problem> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(version.record.number))
        }
    }

    fn add(name: &str, routes: &[&str]) -> Command {
        let routes = routes.iter().map(|route| (*route).to_owned()).collect();
        add_configured(name, FunctionConfig { routes, ..FunctionConfig::default() })
    }

    fn add_configured(name: &str, config: FunctionConfig) -> Command {
        let version = VersionRecord {
            number: 0,
            digest: Digest([1; 32]),
            size: 1,
            world: World::Http02,
            reuse_safe: false,
            config: Arc::new(config),
            created_ms: 0,
            message: None,
        };
        let (tenant, name) = (TenantId::default_tenant(), name.into());
        Command::AddVersion { tenant, name, version, activate: true, if_revision: None, keep: 10 }
    }

    async fn held(functions: &Functions<Counting>, name: &str, version: Option<u64>) -> Option<Weak<u64>> {
        let table = functions.table();
        let version = Arc::clone(table.by_name(name)?.version(version)?);
        Some(Arc::downgrade(version.deployment(functions.opener()).await.unwrap()))
    }

    #[tokio::test]
    async fn a_redeploy_opens_the_new_version_first_and_nothing_but_its_requests_holds_the_old_one() {
        let (functions, mut state) = (Functions::new(Counting::default()), State::default());
        state.apply(add("f", &[])).unwrap();
        functions.show(&state, Opening::Before).await;
        assert_eq!(functions.opener().0.load(Ordering::Relaxed), 1);
        let request = Arc::clone(functions.table().by_name("f").unwrap().version(None).unwrap());
        let first = held(&functions, "f", None).await.unwrap();
        state.apply(add("f", &[])).unwrap();
        functions.show(&state, Opening::Before).await;
        assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 2);
        assert!(first.upgrade().is_some(), "the open request still runs it");
        drop(request);
        assert!(first.upgrade().is_none(), "nothing else holds it");
        assert!(held(&functions, "f", Some(1)).await.is_some(), "and it can be asked for by its number");
    }

    #[tokio::test]
    async fn a_version_that_was_public_is_not_once_its_function_wants_tokens() {
        let (functions, mut state) = (Functions::new(Counting::default()), State::default());
        let with = |auth| add_configured("f", FunctionConfig { auth, ..FunctionConfig::default() });
        for (auth, public) in [
            (Auth::Public, [true, true, true]),
            (Auth::Token, [false, false, false]),
            (Auth::Public, [true, false, true]),
        ] {
            state.apply(with(auth)).unwrap();
            functions.show(&state, Opening::Later).await;
            let table = functions.table();
            let function = table.by_name("f").unwrap();
            let number = function.record.active.unwrap();
            for (version, public) in [Some(1), Some(2.min(number)), None].into_iter().zip(public) {
                assert_eq!(function.is_public(function.version(version).unwrap()), public, "{version:?} of {number}");
            }
        }
    }

    #[tokio::test]
    async fn a_change_elsewhere_opens_nothing_again_and_a_deleted_function_is_let_go() {
        let (functions, mut state) = (Functions::new(Counting::default()), State::default());
        state.apply(add("f", &[])).unwrap();
        state.apply(add("g", &[])).unwrap();
        functions.show(&state, Opening::Before).await;
        let first = held(&functions, "f", None).await.unwrap();
        state.apply(add("g", &[])).unwrap();
        functions.show(&state, Opening::Before).await;
        assert_eq!(functions.opener().0.load(Ordering::Relaxed), 3);
        let gone = Command::DeleteFunction { tenant: TenantId::default_tenant(), name: "f".into(), if_revision: None };
        state.apply(gone).unwrap();
        functions.show(&state, Opening::Before).await;
        assert!(first.upgrade().is_none());
        assert!(held(&functions, "f", None).await.is_none());
    }

    #[tokio::test]
    async fn the_longest_route_of_the_nearest_host_wins() {
        let (functions, mut state) = (Functions::new(Counting::default()), State::default());
        for (name, routes) in [
            ("all", &["api.example.com/*"][..]),
            ("v1", &["api.example.com/v1/*"]),
            ("exact", &["api.example.com/v1/me"]),
            ("wild", &["*.example.com/*"]),
            ("near", &["*.eu.example.com/*"]),
            ("hooks", &["/hooks/*"]),
        ] {
            state.apply(add(name, routes)).unwrap();
        }
        functions.show(&state, Opening::Later).await;
        assert_eq!(functions.opener().0.load(Ordering::Relaxed), 0, "opened later");
        let table = functions.table();
        for (host, path, name) in [
            ("api.example.com", "/", Some("all")),
            ("API.example.com", "/v1/x", Some("v1")),
            ("api.example.com", "/v1/me", Some("exact")),
            ("www.example.com", "/v1/me", Some("wild")),
            ("a.eu.example.com", "/", Some("near")),
            ("example.com", "/", None),
            ("badexample.com", "/", None),
        ] {
            let found = table.by_host(host, path).or_else(|| table.by_wildcard(host, path));
            let found = found.map(|function| function.name().as_str());
            assert_eq!(found, name, "{host}{path}");
        }
        assert_eq!(table.by_path("/hooks/a").map(|function| function.name().as_str()), Some("hooks"));
        assert!(table.by_path("/other").is_none());
    }
}
