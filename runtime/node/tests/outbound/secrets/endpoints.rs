//! Endpoints with a secret of their own: two accounts behind one destination.

use std::time::Duration;

use tidegate::{observe::CacheMetrics, outbound::Cache};

use super::*;

const API: &str = "http://api.example";

/// An account at the upstream: what it is sent is written down, and it answers after a time.
async fn account(name: &'static str, status: u16, after: Duration) -> (Upstream, Arrived) {
    let arrived = Arrived::default();
    let log = arrived.clone();
    let upstream = Upstream::start(move |request| {
        let (parts, _) = request.into_parts();
        let key = ["authorization", "api-key"].into_iter().find_map(|name| parts.headers.get(name)).cloned();
        log.0.lock().push((parts.uri.to_string(), parts.headers, String::new()));
        async move {
            tokio::time::sleep(after).await;
            let mut answer = if status == 429 { refusal("30") } else { text(status, name) };
            answer.headers_mut().insert("cache-control", "public, max-age=60".parse().unwrap());
            if let Some(key) = key {
                answer.headers_mut().insert("x-echo", key);
            }
            answer
        }
    })
    .await;
    (upstream, arrived)
}

/// All that arrived, as one text.
fn seen(arrived: &Arrived) -> String {
    format!("{:?}", arrived.0.lock())
}

fn value(name: &str) -> String {
    format!("value-of-{name}")
}

impl World {
    /// A world whose calls are a program's.
    async fn of_program() -> Self {
        let mut world = Self::new().await;
        world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
        world
    }

    /// The destination `api` with these endpoints, and whatever else is said of it.
    fn api(&mut self, endpoints: &Value, more: &Value) {
        let mut config = json!({"match": API, "endpoints": endpoints});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.destination("api", config);
    }

    /// Sets a secret to a value, bound to what `api` stands for now.
    fn set(&mut self, name: &str, value: &str) {
        let stands = self.stands("api");
        let places = [Place::usual(), places(&["query:key"])].concat();
        self.put(self.record_of(value, name, "agent", &[("api", &stands)], places, &self.keys));
    }

    async fn ask(&self, policy: &str) -> (Response<Body>, Vec<String>) {
        let headers = [("tidegate-policy", policy), ("authorization", "Bearer mine"), ("api-key", "mine")];
        let (answer, told) = self.gate.told(request(&format!("{API}/v1"), &headers)).await;
        let answer = answer.unwrap();
        assert!(!headers_of(&answer).contains("value-of") && !format!("{told:?}").contains("value-of"), "{told:?}");
        (answer, told)
    }
}

/// Each with a secret of its own name.
fn two(one: &Upstream, other: &Upstream) -> Value {
    json!([
        {"url": one.url(""), "name": "one", "region": "iad", "secret": "ONE"},
        {"url": other.url(""), "name": "other", "region": "lhr", "secret": "TWO", "inject": "api-key: {}"},
    ])
}

const QUICK: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_secs(1);

#[tokio::test]
async fn each_endpoint_is_given_its_own_secret_and_no_other_s_however_a_call_gets_there() {
    for (policy, status, after, answers) in [
        ("regions=iad, regions_only", 200, QUICK, "one"),
        ("regions=lhr, regions_only", 200, QUICK, "other"),
        ("regions=iad", 429, QUICK, "other"),
        ("regions=iad, retries=2", 503, QUICK, "other"),
        ("regions=iad, mode=hedge, hedge_after=0.2", 200, SLOW, "other"),
        ("regions=iad, mode=race", 200, SLOW, "other"),
    ] {
        let mut world = World::of_program().await;
        let ((one, at_one), (other, at_other)) =
            (account("one", status, after).await, account("other", 200, QUICK).await);
        world.api(&two(&one, &other), &json!({"secret": "USUAL"}));
        ["ONE", "TWO", "USUAL"].into_iter().for_each(|name| world.set(name, &value(name)));
        if policy.contains("hedge") {
            // A hedge is a share of the requests of the last ten seconds, whose first half may just be over.
            for _ in 0..3 {
                assert_eq!(read(world.ask("regions=lhr, regions_only").await.0).await, "other");
            }
        }
        let (answer, told) = world.ask(policy).await;
        assert_eq!(read(answer).await, answers, "{policy}: {told:?}");
        for (arrived, has, told_of) in [
            (&at_one, "Bearer value-of-ONE", "secret ONE put into authorization"),
            (&at_other, "value-of-TWO", "secret TWO put into api-key"),
        ] {
            for (_, headers, _) in arrived.0.lock().iter() {
                let said = format!("{headers:?}");
                let keys = ["authorization", "api-key"].into_iter().filter_map(|name| headers.get(name));
                assert_eq!(keys.collect::<Vec<_>>(), [has], "{policy}: {said}");
                assert!(told.iter().any(|line| line.contains(told_of)), "{policy}: {told:?}");
            }
        }
        let both = at_one.count() > 0 && at_other.count() > 0;
        assert_eq!(both, !policy.contains("regions_only"), "{policy}: {told:?}");
    }
}

#[tokio::test]
async fn the_caller_s_own_key_and_the_destination_s_go_where_an_endpoint_has_none() {
    let mut world = World::of_program().await;
    let ((one, _), (other, at_other)) = (account("one", 200, QUICK).await, account("other", 200, QUICK).await);
    let mut endpoints = two(&one, &other);
    for key in ["secret", "inject"] {
        endpoints[1].as_object_mut().unwrap().remove(key);
    }
    for (more, key) in [(json!({}), "Bearer mine"), (json!({"secret": "USUAL"}), "Bearer value-of-USUAL")] {
        world.api(&endpoints, &more);
        ["ONE", "USUAL"].into_iter().for_each(|name| world.set(name, &value(name)));
        let (answer, _) = world.ask("regions=lhr, regions_only").await;
        assert_eq!((read(answer).await.as_str(), at_other.header("authorization").as_str()), ("other", key));
        let (answer, _) = world.ask("regions=iad, regions_only").await;
        assert_eq!(read(answer).await, "one");
    }
}

#[tokio::test]
async fn a_secret_of_an_endpoint_that_changes_while_a_call_waits_is_looked_up_again() {
    for rotated in [true, false] {
        let mut world = World::of_program().await;
        let (one, at_one) = account("one", 200, QUICK).await;
        let endpoints = json!([{"url": one.url(""), "name": "one", "secret": "ONE"}]);
        world.api(&endpoints, &json!({"limits": [{"quota": 1, "per": "1s", "burst": 1}]}));
        world.set("ONE", "before-before");
        world.ask("").await;
        let call = tokio::spawn(world.gate.door.send(world.gate.call(request(API, &[])).1));
        until("it waits", || world.gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
        match rotated {
            true => world.set("ONE", "after-after"),
            false => world.unset("ONE"),
        }
        let answer = call.await.unwrap().unwrap();
        if rotated {
            assert_eq!(read(answer).await, "one");
            assert_eq!(at_one.header("authorization"), "Bearer after-after");
        } else {
            let problem = read(answer).await;
            assert!(problem.contains("secret-unbound") && problem.contains("no secret `ONE`"), "{problem}");
            assert_eq!(at_one.count(), 1);
        }
    }
}

#[tokio::test]
async fn an_endpoint_whose_secret_is_withheld_is_left_out_and_the_others_serve() {
    let mut world = World::of_program().await;
    let ((one, at_one), (other, at_other)) = (account("one", 200, QUICK).await, account("other", 200, QUICK).await);
    world.api(&two(&one, &other), &json!({}));
    world.set("TWO", &value("TWO"));
    for policy in ["", "regions=iad", "mode=race", "regions=iad, mode=hedge, hedge_after=0.01"] {
        let (answer, told) = world.ask(policy).await;
        assert_eq!(read(answer).await, "other", "{policy}");
        let why = "endpoint one is left out: there is no secret `ONE`";
        assert!(told.iter().any(|line| line.contains(why)), "{policy}: {told:?}");
    }
    // Where a call may only go there, it is refused as by a destination without its secret.
    for policy in ["regions=iad, regions_only", ""] {
        let (answer, _) = world.ask(policy).await;
        assert_eq!(answer.status(), 403);
        let problem = read(answer).await;
        assert!(problem.contains("secret-unbound") && problem.contains("no secret `ONE`"), "{problem}");
        world.unset("TWO");
    }
    // Bound to what the destination stood for before, it stays, too.
    ["ONE", "TWO"].into_iter().for_each(|name| world.set(name, &value(name)));
    let (thief, at_thief) = account("thief", 200, QUICK).await;
    world.api(&two(&one, &thief), &json!({}));
    let (answer, _) = world.ask("").await;
    let problem = read(answer).await;
    assert!(problem.contains("binds it anew"), "{problem}");
    assert_eq!((at_one.count(), at_other.count(), at_thief.count()), (0, 4, 0));
}

#[tokio::test]
async fn a_call_whose_endpoint_lost_its_secret_is_tried_again_where_another_has_one() {
    let mut world = World::of_program().await;
    let ((one, at_one), (other, _)) = (account("one", 503, SLOW / 2).await, account("other", 200, QUICK).await);
    world.api(&two(&one, &other), &json!({"policy": {"reroute_on": []}}));
    ["ONE", "TWO"].into_iter().for_each(|name| world.set(name, &value(name)));
    let headers = [("tidegate-policy", "regions=iad, retries=3")];
    let call = tokio::spawn(world.gate.door.send(world.gate.call(request(API, &headers)).1));
    until("it is sent", || one.requests() == 1).await;
    world.unset("ONE");
    assert_eq!(read(call.await.unwrap().unwrap()).await, "other");
    assert_eq!(at_one.count(), 1);
}

#[tokio::test]
async fn a_function_is_given_no_secret_of_an_endpoint() {
    let mut world = World::new().await;
    let ((one, at_one), (other, at_other)) = (account("one", 200, QUICK).await, account("other", 200, QUICK).await);
    world.api(&two(&one, &other), &json!({}));
    ["ONE", "TWO"].into_iter().for_each(|name| world.set(name, &value(name)));
    for region in ["iad", "lhr"] {
        let policy = format!("regions={region}, regions_only");
        let headers = [("tidegate-policy", policy.as_str()), ("authorization", "Bearer mine")];
        assert_eq!(world.gate.send(request(API, &headers)).await.unwrap().status(), 200);
    }
    for arrived in [&at_one, &at_other] {
        let said = seen(arrived);
        assert!(said.contains("Bearer mine") && !said.contains("value-of"), "{said}");
    }
}

#[tokio::test]
async fn callers_of_accounts_that_are_the_endpoints_own_are_limited_together() {
    let mut world = World::of_program().await;
    let ((one, _), (other, _)) = (account("one", 200, QUICK).await, account("other", 200, QUICK).await);
    world.api(&two(&one, &other), &json!({"split_by": ["header:authorization"]}));
    ["ONE", "TWO"].into_iter().for_each(|name| world.set(name, &value(name)));
    for key in ["a", "b"] {
        let own = format!("Bearer {key}");
        assert_eq!(world.gate.send(request(API, &[("authorization", &own)])).await.unwrap().status(), 200);
    }
    let partitions = world.gate.state()["destinations"][0]["partitions"].clone();
    assert_eq!(partitions.as_array().unwrap().len(), 1, "{partitions}");
    assert_eq!(partitions[0]["partition"], "authorization=none");
}

#[tokio::test]
async fn stored_answers_are_of_the_accounts_that_the_endpoints_have() {
    let mut world = World::of_program().await;
    let cache = Cache::open(&settings(&[]), None, CacheMetrics::default()).await;
    let parts = DoorParts { cache, keys: Arc::clone(&world.keys), ..DoorParts::default() };
    world.gate = Gate::with(&[], parts);
    world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
    let (one, _) = account("one", 200, QUICK).await;
    for inject in ["api-key: {}", "?key={}"] {
        let endpoints = json!([{"url": one.url(""), "secret": "ONE", "inject": inject}]);
        world.api(&endpoints, &json!({"cache": {"enabled": true}}));
        for (value, asked) in [("the-first-key", 1), ("another-key", 1), ("the-first-key", 0)] {
            world.set("ONE", value);
            let before = one.requests();
            for _ in 0..2 {
                let (answer, told) = world.ask("").await;
                assert_eq!(read(answer).await, "one", "{told:?}");
            }
            assert_eq!(one.requests() - before, asked, "{inject} {value}");
        }
    }
}
