//! The table as it follows the registry.

use std::sync::{Weak, atomic::AtomicU64};

use super::*;
use crate::{
    cluster::registry::{Command, FunctionConfig, World},
    ids::Digest,
};

/// Opens by counting, except where the environment says that it can't; a deployment is just something to hold.
#[derive(Default)]
struct Counting(AtomicU64);

impl Open for Counting {
    type Deployment = Arc<u64>;

    async fn open(&self, version: &Identity) -> Result<Arc<u64>, Problem> {
        if version.record.config.env.contains_key("BROKEN") {
            return Err(Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, "module-missing", "Missing", "broken"));
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(version.record.number))
    }
}

/// Makes the change as the control API does: what is to serve is opened first.
async fn change(functions: &Arc<Functions<Counting>>, state: &mut State, command: Command) {
    let mut next = state.clone();
    next.apply(command.clone()).unwrap();
    let (tenant, name) = (TenantId::default_tenant(), FunctionName::from("f"));
    let record = next.functions.get(&(tenant.clone(), name.clone())).and_then(|function| function.active_version());
    let prepared = functions.prepare(&tenant, &name, record.unwrap()).await.unwrap();
    state.apply(command).unwrap();
    functions.show(state);
    drop(prepared);
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
        handles: None,
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
async fn a_version_that_was_prepared_serves_when_it_is_shown_and_nothing_but_its_requests_holds_the_old_one() {
    let (functions, mut state) = (Arc::new(Functions::new(Counting::default())), State::default());
    change(&functions, &mut state, add("f", &[])).await;
    assert_eq!(functions.opener().0.load(Ordering::Relaxed), 1);
    let request = Arc::clone(functions.table().by_name("f").unwrap().version(None).unwrap());
    assert!(request.is_open(), "before anybody asked for it");
    let first = held(&functions, "f", None).await.unwrap();
    change(&functions, &mut state, add("f", &[])).await;
    assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 2);
    assert_eq!(functions.opener().0.load(Ordering::Relaxed), 2, "each was opened once");
    assert!(first.upgrade().is_some(), "the open request still runs it");
    drop(request);
    assert!(first.upgrade().is_none(), "nothing else holds it");
    assert!(held(&functions, "f", Some(1)).await.is_some(), "and it can be asked for by its number");
}

#[tokio::test]
async fn a_change_that_was_not_shown_leaves_nothing_open() {
    let functions = Arc::new(Functions::new(Counting::default()));
    let (tenant, name) = (TenantId::default_tenant(), FunctionName::from("f"));
    let mut state = State::default();
    state.apply(add("f", &[])).unwrap();
    let record = Arc::clone(state.functions[&(tenant.clone(), name.clone())].active_version().unwrap());
    drop(functions.prepare(&tenant, &name, &record).await.unwrap());
    functions.show(&state);
    assert!(!functions.table().by_name("f").unwrap().version(None).unwrap().is_open());
}

#[tokio::test]
async fn a_version_that_nobody_prepared_serves_when_it_is_open_and_until_then_the_one_before_it() {
    let (functions, mut state) = (Arc::new(Functions::new(Counting::default())), State::default());
    change(&functions, &mut state, add("f", &["/one/*"])).await;
    let first = held(&functions, "f", None).await.unwrap();
    let broken = FunctionConfig { env: [("BROKEN".to_owned(), String::new())].into(), ..FunctionConfig::default() };
    state.apply(add_configured("f", broken)).unwrap();
    state.apply(add("g", &[])).unwrap();
    functions.show(&state);
    assert_eq!(functions.opener().0.load(Ordering::Relaxed), 1, "showing opens nothing");
    assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 1);
    assert!(functions.table().by_path("/one/x").is_some(), "at its own routes");
    let awaited = Arc::clone(functions.table().by_name("f").unwrap().awaited().unwrap());
    assert!(awaited.open_ahead(functions.opener()).await.is_err());
    assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 1, "it can't be opened");

    state.apply(add("f", &[])).unwrap();
    functions.show(&state);
    assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 1);
    let awaited = Arc::clone(functions.table().by_name("f").unwrap().awaited().unwrap());
    awaited.open_ahead(functions.opener()).await.unwrap();
    assert_eq!(*held(&functions, "f", None).await.unwrap().upgrade().unwrap(), 3, "from the moment it is open");
    functions.show(&state);
    assert!(first.upgrade().is_none(), "and then the other is let go");
}

#[tokio::test]
async fn a_version_that_was_public_is_not_once_its_function_wants_tokens() {
    let (functions, mut state) = (Arc::new(Functions::new(Counting::default())), State::default());
    let with = |auth| add_configured("f", FunctionConfig { auth, ..FunctionConfig::default() });
    for (auth, public) in
        [(Auth::Public, [true, true, true]), (Auth::Token, [false, false, false]), (Auth::Public, [true, false, true])]
    {
        state.apply(with(auth)).unwrap();
        functions.show(&state);
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
    let (functions, mut state) = (Arc::new(Functions::new(Counting::default())), State::default());
    change(&functions, &mut state, add("f", &[])).await;
    let first = held(&functions, "f", None).await.unwrap();
    state.apply(add("g", &[])).unwrap();
    functions.show(&state);
    assert_eq!(functions.opener().0.load(Ordering::Relaxed), 1);
    let gone = Command::DeleteFunction { tenant: TenantId::default_tenant(), name: "f".into(), if_revision: None };
    state.apply(gone).unwrap();
    functions.show(&state);
    assert!(first.upgrade().is_none());
    assert!(held(&functions, "f", None).await.is_none());
}

#[tokio::test]
async fn the_longest_route_of_the_nearest_host_wins() {
    let (functions, mut state) = (Arc::new(Functions::new(Counting::default())), State::default());
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
    functions.show(&state);
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
