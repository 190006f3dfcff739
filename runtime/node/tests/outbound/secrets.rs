//! Where secrets go, and all the ways in which somebody might try to have one go elsewhere.

mod endpoints;
mod moved;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate::{
    body::{self, Body},
    cluster::registry::{DestinationConfig, DestinationRecord, Place, SecretBinding, SecretHead, SecretRecord, State},
    ids::TenantId,
    outbound::{DoorParts, HostPatterns, Sender, SenderKind},
    secrets::{HandleSeed, Handles, Keyring, SecretValue},
};

use crate::support::*;

const VALUE: &str = "sk-live-0123456789/abc+def";

/// What arrived: target and headers, as text that a leak would be found in.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<Vec<(String, HeaderMap, String)>>>);

impl Arrived {
    fn last(&self) -> (String, HeaderMap, String) {
        self.0.lock().pop().unwrap()
    }

    fn header(&self, name: &str) -> String {
        self.last().1[name].to_str().unwrap().to_owned()
    }

    fn count(&self) -> usize {
        self.0.lock().len()
    }
}

async fn upstream() -> (Upstream, Arrived) {
    let arrived = Arrived::default();
    let log = arrived.clone();
    let upstream = Upstream::start(move |request| {
        let log = log.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = String::from_utf8(read_incoming(body).await.to_vec()).unwrap();
            let target = parts.uri.path_and_query().unwrap().to_string();
            log.0.lock().push((target.clone(), parts.headers.clone(), body));
            let mut answer = text(200, "");
            // It repeats what it was sent, as some do.
            for name in ["authorization", "x-api-key"] {
                if let Some(value) = parts.headers.get(name) {
                    answer.headers_mut().insert("x-echo", value.clone());
                }
            }
            answer.headers_mut().insert("x-target", target.parse().unwrap());
            answer
        }
    })
    .await;
    (upstream, arrived)
}

/// A door, a function with the secrets KEY and OTHER, and a registry that can be changed under it.
struct World {
    gate: Gate,
    state: State,
    keys: Arc<Keyring>,
    handles: Handles,
    upstream: Upstream,
    arrived: Arrived,
}

impl World {
    /// KEY is bound to the function and to `bound`, which is the upstream.
    async fn new() -> Self {
        let keys = Arc::new(Keyring::new(["a key of this test, 32 characters at least"]).unwrap());
        // A first call may be copied.
        let mut gate =
            Gate::with(&["--hedge-share=100"], DoorParts { keys: Arc::clone(&keys), ..DoorParts::default() });
        let (upstream, arrived) = upstream().await;
        let handles = Handles::issue(Some(&HandleSeed::mint()), &["KEY".into(), "OTHER".into()]);
        gate.sender = function("agent", &handles);
        let mut world = Self { gate, state: State::default(), keys, handles, upstream, arrived };
        world.destination("bound", json!({"match": world.upstream.url("")}));
        world.bind("KEY", "agent", &[("bound", &world.upstream.url(""))], Place::usual());
        world
    }

    fn handle(&self) -> String {
        self.handles.variables().next().unwrap().1
    }

    fn show(&mut self) {
        self.state.revision += 1;
        self.gate.door.configure(&self.state);
    }

    fn destination(&mut self, name: &str, config: Value) {
        let config: DestinationConfig = serde_json::from_value(config).unwrap();
        let tenant = TenantId::default_tenant();
        let record = DestinationRecord {
            tenant: tenant.clone(),
            name: name.into(),
            config: Arc::new(config),
            steering: Default::default(),
            revision: 1,
        };
        self.state.destinations.insert((tenant, name.into()), Arc::new(record));
        self.show();
    }

    /// What a destination stands for now.
    fn stands(&self, name: &str) -> String {
        let record = &self.state.destinations[&(TenantId::default_tenant(), name.into())];
        tidegate::outbound::stands_for(&record.config).to_string()
    }

    fn record(
        &self,
        name: &str,
        function: &str,
        to: &[(&str, &str)],
        places: Vec<Place>,
        keys: &Keyring,
    ) -> SecretRecord {
        self.record_of(VALUE, name, function, to, places, keys)
    }

    fn record_of(
        &self,
        value: &str,
        name: &str,
        function: &str,
        to: &[(&str, &str)],
        places: Vec<Place>,
        keys: &Keyring,
    ) -> SecretRecord {
        let binding = SecretBinding {
            functions: [function.into()].into(),
            destinations: to.iter().map(|(name, origin)| ((*name).into(), (*origin).to_owned())).collect(),
            places,
        };
        let tenant = TenantId::default_tenant();
        let head = SecretHead { tenant, name: name.into(), binding, follows: 0, set_ms: 0 };
        head.seal(keys, &SecretValue::new(value.into()).unwrap()).unwrap()
    }

    fn put(&mut self, record: SecretRecord) {
        self.state.secrets.insert((record.tenant.clone(), record.name.clone()), Arc::new(record));
        self.show();
    }

    fn bind(&mut self, name: &str, function: &str, to: &[(&str, &str)], places: Vec<Place>) {
        self.put(self.record(name, function, to, places, &self.keys));
    }

    fn unset(&mut self, name: &str) {
        self.state.secrets.remove(&(TenantId::default_tenant(), name.into()));
        self.show();
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
        request(&self.upstream.url(path), headers)
    }

    /// Sends what must be refused with this kind, for this reason, and sees that nothing left.
    async fn refused(&self, request: Request<Body>, kind: &str, says: &str) {
        let before = self.arrived.count();
        let (answer, told) = self.gate.told(request).await;
        let answer = answer.unwrap();
        let status = answer.status();
        let problem: Value = serde_json::from_str(&read(answer).await).unwrap();
        assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
        assert_eq!(status.as_u16(), if kind == "secret-sealed" { 503 } else { 403 });
        assert!(problem["detail"].as_str().unwrap().contains(says), "{says}: {problem}");
        assert_eq!(problem["secret"], "KEY");
        let said = format!("{problem} {told:?}");
        assert!(!said.contains(VALUE) && !said.contains("sk-live"), "{said}");
        assert_eq!(self.arrived.count(), before, "something left");
    }
}

fn function(name: &str, handles: &Handles) -> Arc<Sender> {
    let allowed_hosts = Some(HostPatterns::parse(&["*:*".to_owned()]).unwrap());
    sender(SenderKind::Function { name: name.into(), version: 1, allowed_hosts, handles: handles.clone() })
}

fn sender(kind: SenderKind) -> Arc<Sender> {
    let tenant = TenantId::default_tenant();
    let flow = Sender::flow_of(&tenant, &kind, 1);
    Arc::new(Sender { tenant, kind, flow, policy: Default::default() })
}

fn request(url: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = get(url);
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

fn places(texts: &[&str]) -> Vec<Place> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn headers_of(answer: &Response<Body>) -> String {
    format!("{:?}", answer.headers())
}

#[tokio::test]
async fn a_handle_becomes_the_value_on_its_way_to_the_destination_and_nothing_tells_the_value() {
    let world = World::new().await;
    let handle = world.handle();
    for (name, value, expected) in [
        ("authorization", format!("Bearer {handle}"), format!("Bearer {VALUE}")),
        ("x-api-key", handle.clone(), VALUE.to_owned()),
        ("authorization", format!("Token token={handle}, v=1"), format!("Token token={VALUE}, v=1")),
        ("authorization", basic(&format!("{handle}:")), basic(&format!("{VALUE}:"))),
        ("authorization", basic(&format!("api:{handle}")), basic(&format!("api:{VALUE}"))),
    ] {
        let (answer, told) = world.gate.told(world.get("/v1", &[(name, &value)])).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{value}");
        assert_eq!(world.arrived.header(name), expected);
        let note = format!("call 1: secret KEY put into {name}");
        assert!(told.contains(&note), "{told:?}");
        assert!(!told.join(" ").contains("sk-live"), "{told:?}");
        // Nor does an upstream that repeats it.
        let echo = answer.headers()["x-echo"].to_str().unwrap();
        assert!(echo.contains("[secret KEY]") && !echo.contains(VALUE) && !echo.contains(&basic(VALUE)), "{echo}");
    }
    let shown = world.gate.state().to_string();
    assert!(!shown.contains("sk-live"), "{shown}");
}

#[tokio::test]
async fn a_query_takes_a_value_only_in_the_parameters_that_the_secret_names() {
    let mut world = World::new().await;
    let (handle, url) = (world.handle(), world.upstream.url(""));
    let target = format!("/v1?a=1&key={handle}&b=%2F");
    world.refused(world.get(&target, &[]), "secret-place", "--in query:key").await;
    world.bind("KEY", "agent", &[("bound", &url)], places(&["query:key"]));
    let answer = world.gate.send(world.get(&target, &[])).await.unwrap();
    let encoded = "sk-live-0123456789%2Fabc%2Bdef";
    assert_eq!(world.arrived.last().0, format!("/v1?a=1&key={encoded}&b=%2F"));
    assert!(!headers_of(&answer).contains(encoded) && headers_of(&answer).contains("[secret KEY]"));
    for wrong in
        [format!("/?key=x{handle}"), format!("/?{handle}=key"), format!("/?other={handle}"), format!("/?{handle}")]
    {
        world.refused(world.get(&wrong, &[]), "secret-place", "query:key").await;
    }
    // The usual headers were not named this time.
    world
        .refused(
            world.get("/", &[("authorization", &format!("Bearer {handle}"))]),
            "secret-place",
            "header:authorization",
        )
        .await;
}

#[tokio::test]
async fn a_handle_that_is_sent_anywhere_else_leaves_with_nothing() {
    let mut world = World::new().await;
    let (handle, own) = (world.handle(), world.upstream.url(""));
    let bearer = format!("Bearer {handle}");
    let (other, seen) = upstream().await;
    let theft = || request(&other.url("/steal"), &[("authorization", &bearer)]);
    // Another host that the function may send to, also where a redirect leads it there.
    world.refused(theft(), "secret-unbound", "destinations put NAME --match http://127.0.0.1").await;
    world.destination("other", json!({"match": other.url("")}));
    world.refused(theft(), "secret-unbound", "secrets bind KEY --destination other").await;
    // The same host in another scheme or at another port is another destination.
    let port = world.upstream.address.port();
    world
        .refused(
            request(&format!("https://127.0.0.1:{port}/"), &[("authorization", &bearer)]),
            "secret-unbound",
            "https://",
        )
        .await;
    // A destination that is led elsewhere after the secret was bound to it.
    world.destination("other", json!({"match": "https://gone.example"}));
    world.destination("bound", json!({"match": other.url("")}));
    world.refused(theft(), "secret-unbound", "binds it anew").await;
    // And one that got another way since.
    world.destination("bound", json!({"match": own, "endpoints": [{"url": own}, {"url": other.url("")}]}));
    let to_own = || request(&format!("{own}/"), &[("authorization", &bearer)]);
    world.refused(to_own(), "secret-unbound", "binds it anew").await;
    world.destination("bound", json!({"match": own}));
    assert_eq!(seen.count(), 0, "the other upstream saw nothing");
    // Places in which an upstream repeats what it is sent, or writes it down.
    for name in ["x-request-id", "origin", "user-agent", "cookie", "idempotency-key", "referer"] {
        let says = format!("header:{name}");
        world.refused(world.get("/", &[(name, &handle)]), "secret-place", &says).await;
    }
    world.refused(world.get(&format!("/bot{handle}/send"), &[]), "secret-place", "in the path").await;
    for name in [handle.clone(), format!("x-{handle}-id")] {
        world.refused(world.get("/", &[(&name, "1")]), "secret-place", "in the name of a header").await;
    }
    let mut named = world.get("/", &[]);
    *named.method_mut() = http::Method::from_bytes(handle.as_bytes()).unwrap();
    world.refused(named, "secret-place", "in the method").await;
    let host = request(&format!("http://{handle}.example/"), &[]);
    world.refused(host, "secret-unbound", "destinations put NAME").await;
    world
        .refused(
            world.get("/", &[("authorization", &basic(&format!("x{handle}:")))]),
            "secret-place",
            "must be all of one",
        )
        .await;
    let mut trace = world.get("/", &[("authorization", &bearer)]);
    *trace.method_mut() = http::Method::TRACE;
    world.refused(trace, "secret-place", "is a TRACE").await;
    // One place that is fine does not open another.
    let both = [("authorization", bearer.as_str()), ("x-request-id", handle.as_str())];
    world.refused(world.get("/", &both), "secret-place", "header:x-request-id").await;
}

#[tokio::test]
async fn a_secret_that_is_gone_rebound_or_sealed_with_another_key_stays_at_once() {
    let mut world = World::new().await;
    let (bearer, own) = (format!("Bearer {}", world.handle()), world.upstream.url(""));
    let ask = |world: &World| world.get("/", &[("authorization", &bearer)]);
    assert_eq!(world.gate.send(ask(&world)).await.unwrap().status(), 200);
    world.unset("KEY");
    world.refused(ask(&world), "secret-unbound", "secrets set KEY --function agent --destination bound").await;
    world.bind("KEY", "another", &[("bound", &own)], Place::usual());
    world.refused(ask(&world), "secret-unbound", "secrets bind KEY --function agent").await;
    world.bind("KEY", "agent", &[], Place::usual());
    world.refused(ask(&world), "secret-unbound", "nowhere yet").await;
    let strange = Keyring::new(["another key than the node's, 32 characters"]).unwrap();
    world.put(world.record("KEY", "agent", &[("bound", &own)], Place::usual(), &strange));
    world.refused(ask(&world), "secret-sealed", "TIDEGATE_SECRET_KEY").await;
    // Somebody who writes to the registry's file can't lead a value elsewhere either.
    let mut moved = serde_json::to_value(world.record("KEY", "agent", &[], Place::usual(), &world.keys)).unwrap();
    moved["binding"]["destinations"] = json!({"bound": own});
    world.put(serde_json::from_value(moved).unwrap());
    world.refused(ask(&world), "secret-sealed", "belongs to something else").await;
    world.bind("KEY", "agent", &[("bound", &own)], Place::usual());
    assert_eq!(world.gate.send(ask(&world)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_no_handle_of_the_sender_goes_out_as_it_stands() {
    let mut world = World::new().await;
    let handle = world.handle();
    let (half, rest) = handle.split_at(20);
    let literal = async |world: &World, headers: &[(&str, &str)]| {
        assert_eq!(world.gate.send(world.get("/", headers)).await.unwrap().status(), 200, "{headers:?}");
        let (target, seen, _) = world.arrived.last();
        assert!(!format!("{target} {seen:?}").contains("sk-live"), "{headers:?}");
        seen
    };
    let escaped = handle.replace('_', "%5f");
    for value in [handle.to_uppercase(), half.to_owned(), format!("{half} {rest}"), escaped, STANDARD.encode(&handle)] {
        let seen = literal(&world, &[("authorization", &value)]).await;
        assert_eq!(seen["authorization"], value.as_str());
    }
    literal(&world, &[("authorization", half), ("authorization", rest)]).await;
    // A body is the guest's own: nothing in it is replaced.
    world.gate.send(post(&world.upstream.url("/"), &format!(r#"{{"key": "{handle}"}}"#))).await.unwrap();
    assert_eq!(world.arrived.last().2, format!(r#"{{"key": "{handle}"}}"#));
    // Another function, another version and a program have no use for it.
    let foreign = Handles::issue(Some(&HandleSeed::mint()), &["KEY".into()]);
    let program = sender(SenderKind::Program { token: Some("t".into()) });
    for sender in [function("another", &Handles::default()), function("agent", &foreign), program] {
        world.gate.sender = sender;
        let seen = literal(&world, &[("authorization", &format!("Bearer {handle}"))]).await;
        assert_eq!(seen["authorization"], format!("Bearer {handle}").as_str());
    }
}

#[tokio::test]
async fn a_secret_that_goes_while_a_call_waits_does_not_leave_with_it() {
    let mut world = World::new().await;
    let (bearer, own) = (format!("Bearer {}", world.handle()), world.upstream.url(""));
    let limits = json!([{"unit": "requests", "quota": 1, "per": "1s", "burst": 1}]);
    world.destination("bound", json!({"match": own, "limits": limits}));
    let send = |world: &World| {
        let call = world.gate.call(world.get("/", &[("authorization", &bearer)])).1;
        tokio::spawn(world.gate.door.send(call))
    };
    assert_eq!(send(&world).await.unwrap().unwrap().status(), 200);
    let waits = send(&world);
    until("the second waits", || world.gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
    world.unset("KEY");
    let answer = waits.await.unwrap().unwrap();
    assert_eq!(answer.status(), 403);
    assert!(read(answer).await.contains("/problems/secret-unbound"));
    assert_eq!(world.arrived.count(), 1);
}

#[tokio::test]
async fn calls_with_one_key_are_one_partition_whatever_handle_stands_for_it() {
    let mut world = World::new().await;
    let own = world.upstream.url("");
    world.destination("bound", json!({"match": own, "split_by": ["header:authorization"]}));
    for seed in [HandleSeed::mint(), HandleSeed::mint()] {
        let handles = Handles::issue(Some(&seed), &["KEY".into()]);
        let bearer = format!("Bearer {}", handles.variables().next().unwrap().1);
        world.gate.sender = function("agent", &handles);
        assert_eq!(world.gate.send(world.get("/", &[("authorization", &bearer)])).await.unwrap().status(), 200);
    }
    let shown = world.gate.state();
    assert_eq!(shown["destinations"][0]["partitions"].as_array().unwrap().len(), 1, "{shown}");
}

#[tokio::test]
async fn a_program_is_given_the_destinations_secret_in_the_place_of_its_own_keys() {
    let mut world = World::new().await;
    let own = world.upstream.url("");
    world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
    let places = places(&["header:authorization", "header:x-api-key", "header:x-own", "header:x-mine", "query:key"]);
    world.bind("KEY", "agent", &[("bound", &own)], places);
    let keys =
        [("authorization", "Bearer of-the-caller"), ("x-api-key", "of-the-caller"), ("api-key", "of-the-caller")];
    for (inject, name, expected) in [
        (json!(null), "authorization", format!("Bearer {VALUE}")),
        (json!("x-api-key: {}"), "x-api-key", VALUE.to_owned()),
        (json!("x-own: Key {}!"), "x-own", format!("Key {VALUE}!")),
    ] {
        world.destination("bound", json!({"match": own, "secret": "KEY", "inject": inject}));
        let (answer, told) = world.gate.told(world.get("/?key=x", &keys)).await;
        let answer = answer.unwrap();
        assert!(!headers_of(&answer).contains(VALUE));
        let (target, seen, _) = world.arrived.last();
        assert_eq!((seen[name].to_str().unwrap(), target.as_str()), (expected.as_str(), "/?key=x"));
        assert!(!format!("{seen:?}").contains("of-the-caller"), "{seen:?}");
        assert!(told.iter().any(|line| line.ends_with(&format!("secret KEY put into {name}"))), "{told:?}");
    }
    world.destination("bound", json!({"match": own, "secret": "KEY", "inject": "?key={}"}));
    world.gate.send(world.get("/v1?a=1&key=of-the-caller&keys=2", &keys)).await.unwrap();
    assert_eq!(world.arrived.last().0, "/v1?a=1&keys=2&key=sk-live-0123456789%2Fabc%2Bdef");
    // Nor do keys go where only the destination knows that they stand.
    let keys_in = json!(["header:x-mine", "query:token"]);
    world.destination("bound", json!({"match": own, "secret": "KEY", "keys": keys_in}));
    let mine = [keys[0], ("x-mine", "of-the-caller")];
    world.gate.send(world.get("/v1?a=1&%74oken=of-the-caller&key=x", &mine)).await.unwrap();
    let (target, seen, _) = world.arrived.last();
    assert_eq!((seen["x-mine"].to_str().unwrap(), target.as_str()), (VALUE, "/v1?a=1&key=x"));
    assert!(!format!("{seen:?}").contains("of-the-caller"), "{seen:?}");
    // Other destinations of the same caller are given nothing, and its own keys stay its own.
    let (other, seen) = upstream().await;
    world.gate.send(request(&other.url("/"), &keys)).await.unwrap();
    assert_eq!(seen.header("authorization"), "Bearer of-the-caller");
    // Nor is this one, where the secret is not bound to it, or it stands for something else by now.
    world.destination("bound", json!({"match": other.url(""), "secret": "KEY"}));
    world.refused(request(&other.url("/"), &keys), "secret-unbound", "binds it anew").await;
    world.destination("bound", json!({"match": own, "secret": "KEY"}));
    world.bind("KEY", "agent", &[], Place::usual());
    world.refused(world.get("/", &keys), "secret-unbound", "--destination bound").await;
    world.unset("KEY");
    world.refused(world.get("/", &keys), "secret-unbound", "secrets set KEY --destination bound").await;
    assert_eq!(seen.count(), 0);
    // A function is given nothing that it did not ask for.
    world.bind("KEY", "agent", &[("bound", &own)], Place::usual());
    world.gate.sender = function("agent", &world.handles);
    world.gate.send(world.get("/", &[("authorization", "Bearer its-own")])).await.unwrap();
    assert_eq!(world.arrived.header("authorization"), "Bearer its-own");
}

#[tokio::test]
async fn a_configuration_moves_no_secret_to_where_it_may_not_stand_and_leads_it_nowhere_else() {
    let mut world = World::new().await;
    let own = world.upstream.url("");
    world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
    let bind = |world: &mut World, texts: &[&str]| {
        let stands = world.stands("bound");
        world.bind("KEY", "agent", &[("bound", &stands)], places(texts));
    };
    for (may, config, place) in [
        ("header:authorization", json!({"inject": "x-request-id: {}"}), "header:x-request-id"),
        ("header:authorization", json!({"inject": "cookie: a={}"}), "header:cookie"),
        ("header:authorization", json!({"inject": "user-agent: {}"}), "header:user-agent"),
        ("header:authorization", json!({"inject": "?k={}"}), "query:k"),
        ("query:key", json!({"inject": "key: {}"}), "header:key"),
        ("query:key", json!({"inject": "?keys={}"}), "query:keys"),
        ("header:authorization", json!({"keys": ["header:x-trace", "header:authorization"]}), "header:x-trace"),
        ("header:authorization", json!({"profile": "anthropic"}), "header:x-api-key"),
        (
            "header:authorization",
            json!({"inject": "authorization: {}", "endpoints": [{"url": own, "secret": "KEY", "inject": "x-id: {}"}]}),
            "header:x-id",
        ),
    ] {
        let mut whole = json!({"match": own, "secret": "KEY"});
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        world.destination("bound", whole);
        bind(&mut world, &[may]);
        world.refused(world.get("/", &[]), "secret-place", &format!("bind KEY --in {place}")).await;
        // By the word of whoever binds it, it does.
        bind(&mut world, &[place]);
        assert_eq!(world.gate.send(world.get("/", &[])).await.unwrap().status(), 200, "{place}");
    }
    for more in [json!({"url": format!("{own}/debug")}), json!({"strip": "/v1"}), json!({"query": {"echo": "1"}})] {
        world.destination("bound", json!({"match": own, "secret": "KEY", "endpoints": [{"url": own}]}));
        bind(&mut world, &["header:authorization"]);
        assert_eq!(world.gate.send(world.get("/", &[])).await.unwrap().status(), 200);
        let mut endpoint = json!({"url": own});
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.destination("bound", json!({"match": own, "secret": "KEY", "endpoints": [endpoint]}));
        world.refused(world.get("/", &[]), "secret-unbound", "binds it anew").await;
    }
}

#[tokio::test]
async fn an_upstream_that_repeats_a_key_in_a_name_or_in_other_letters_teaches_nobody() {
    const KEY: &str = "sk-Live-0123456789-abc";
    let mut world = World::new().await;
    let repeats = Upstream::start(|request| async move {
        let said = request.headers()["authorization"].to_str().unwrap();
        let key = said.strip_prefix("Bearer ").unwrap();
        let mut answer = text(200, "");
        for (name, value) in [
            (format!("x-{key}-id"), "1".to_owned()),
            ("x-capitals".to_owned(), said.to_uppercase()),
            ("x-small".to_owned(), said.to_lowercase()),
        ] {
            answer.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        answer
    })
    .await;
    world.destination("repeats", json!({"match": repeats.url("")}));
    let bound = repeats.url("");
    world.put(world.record_of(KEY, "KEY", "agent", &[("repeats", &bound)], Place::usual(), &world.keys));
    let bearer = format!("Bearer {}", world.handle());
    let answer = world.gate.send(request(&repeats.url("/"), &[("authorization", &bearer)])).await.unwrap();
    let said = headers_of(&answer).to_lowercase();
    assert!(!said.contains(&KEY.to_lowercase()), "{said}");
    assert_eq!(answer.headers()["x-capitals"], "BEARER [secret KEY]");
    assert_eq!(answer.headers()["x-small"], "bearer [secret KEY]");
}

#[tokio::test]
async fn the_body_of_an_upstream_that_repeats_what_it_is_sent_is_passed_on_as_it_came() {
    // What SECURITY.md says of upstreams that repeat what they are sent.
    let mut world = World::new().await;
    let repeats = Upstream::start(|request| async move {
        let said = request.headers()["authorization"].to_str().unwrap().to_owned();
        Response::new(body::full(said))
    })
    .await;
    world.destination("repeats", json!({"match": repeats.url("")}));
    world.bind("KEY", "agent", &[("repeats", &repeats.url(""))], Place::usual());
    let bearer = format!("Bearer {}", world.handle());
    let answer = world.gate.send(request(&repeats.url("/"), &[("authorization", &bearer)])).await.unwrap();
    assert_eq!(read(answer).await, format!("Bearer {VALUE}"));
}
