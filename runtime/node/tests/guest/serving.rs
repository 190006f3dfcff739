//! Requests, instances, answers.

use http::Request;
use http_body::Body as _;
use http_body_util::{BodyExt, StreamBody};
use tidegate::{
    body::{self, BodyError},
    cluster::registry::{FunctionConfig, FunctionLimits, Isolation},
    guest::InvokeError,
};

use crate::support::{Host, collect, eventually, invocation, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_02_guest_answers_with_its_settings() {
    let host = Host::new(&[]);
    let config = FunctionConfig { env: [("GREETING".to_owned(), "Good tide".to_owned())].into(), ..Default::default() };
    let hello = host.deploy_with("hello-rust", config).await;
    assert_eq!(host.text(&hello, "/").await, "Good tide\n");
    assert_eq!(host.text(&hello, "/").await, "Good tide\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_03_guest_answers_many_at_once_on_one_instance() {
    let host = Host::new(&[]);
    let probe = host.deploy("probe-p3").await;
    assert_eq!(probe.isolation(), Isolation::Function);
    assert_eq!(host.text(&probe, "/").await, "probe-p3\n");
    let sleeps = (0..10).map(|_| host.text(&probe, "/sleep?ms=200"));
    let began = std::time::Instant::now();
    let texts = futures::future::join_all(sleeps).await;
    assert!(texts.iter().all(|text| text == "slept 200 ms\n"));
    assert!(began.elapsed() < std::time::Duration::from_millis(1_500), "{:?}", began.elapsed());
    assert!(probe.instances() <= 3, "{} instances for ten sleepers", probe.instances());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_guest_answers_again_and_again_on_one_instance() {
    let host = Host::new(&[]);
    let probe = host.deploy_reused("probe-ts").await;
    let count = async || host.text(&probe, "/count").await;
    assert_eq!(count().await, "{\"served\":1,\"ticks\":0}");
    // Where nobody knows the function yet, it is answered a moment before its instance rests.
    eventually("it rests", || probe.idle_instances() == 1).await;
    for served in 2..10 {
        assert_eq!(count().await, format!("{{\"served\":{served},\"ticks\":0}}"));
    }
    assert_eq!(probe.instances(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn globals_do_not_survive_where_instances_are_not_reused() {
    let host = Host::new(&[]);
    let config = FunctionConfig { isolation: Some(Isolation::Request), ..Default::default() };
    let probe = host.deploy_with("probe-ts", config).await;
    for _ in 0..3 {
        assert_eq!(host.text(&probe, "/count").await, "{\"served\":1,\"ticks\":0}");
    }
    eventually("instances are dropped after their request", || probe.instances() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn body_headers_method_and_trailers_pass_both_ways() {
    let host = Host::new(&[]);
    for (guest, method) in [("misbehave", "Method::Post"), ("probe-p3", "Method::Post")] {
        let echo = host.deploy(guest).await;
        let frames = (0..50).map(|number| Ok(http_body::Frame::data(format!("chunk {number};").into()))).chain([Ok::<
            _,
            BodyError,
        >(
            http_body::Frame::trailers([("x-end".parse().unwrap(), "yes".parse().unwrap())].into_iter().collect()),
        )]);
        let body = StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())).boxed_unsync();
        let request = Request::post("http://example.test/echo?x=1").header("x-mine", "kept").body(body).unwrap();
        let response = host.send(&echo, request).await.unwrap();
        assert_eq!(response.headers()["x-echo-x-mine"], "kept", "{guest}");
        assert_eq!(response.headers()["x-echo-method"], method, "{guest}");
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        assert_eq!(text.matches("chunk").count(), 50, "{guest}");
        assert_eq!(trailers.unwrap()["x-end"], "yes", "{guest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_scheme_authority_and_query() {
    let host = Host::new(&[]);
    let guest = host.deploy("misbehave").await;
    let request = Request::get("https://shop.test:8443/headers?a=b").body(body::empty()).unwrap();
    let response = host.send(&guest, request).await.unwrap();
    let text = String::from_utf8(collect(response.into_body()).await.unwrap().to_vec()).unwrap();
    assert!(text.contains("scheme: Some(Scheme::Https)"), "{text}");
    assert!(text.contains("shop.test:8443"), "{text}");
    assert!(text.contains("/headers?a=b"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_event_by_event() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-ts"] {
        let guest_ = host.deploy_reused(guest).await;
        let path = if guest == "misbehave" { "/stream?n=3&ms=150" } else { "/sse?n=3&ms=150" };
        let mut body = host.get(&guest_, path).await.unwrap().into_body();
        let mut arrivals = Vec::new();
        while let Some(frame) = body.frame().await {
            if frame.unwrap().is_data() {
                arrivals.push(std::time::Instant::now());
            }
        }
        assert_eq!(arrivals.len(), 3, "{guest}");
        assert!(arrivals[2] - arrivals[0] > std::time::Duration::from_millis(200), "{guest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_instance_that_serves_only_it() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy_reused(guest).await;
        // Before the head.
        let left = host.get(&deployment, "/sleep?ms=60000");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(300), left).await.is_err());
        let began = std::time::Instant::now();
        eventually("the instance is dropped", || deployment.instances() == 0).await;
        assert!(began.elapsed() < std::time::Duration::from_millis(100), "{guest}: {:?}", began.elapsed());
    }
    // In the middle of the body.
    let deployment = host.deploy_reused("misbehave").await;
    let mut body = host.get(&deployment, "/stream?n=1000&ms=50").await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    eventually("the instance is dropped", || deployment.instances() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_shared_instance_leaves_its_neighbours_alone() {
    let host = Host::new(&[]);
    let probe = host.deploy("probe-p3").await;
    let stays = host.text(&probe, "/sleep?ms=600");
    let leaves = async {
        let left = host.get(&probe, "/sleep?ms=60000");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), left).await.is_err());
    };
    let (text, ()) = futures::future::join(stays, leaves).await;
    assert_eq!(text, "slept 600 ms\n");
    assert_eq!(host.text(&probe, "/").await, "probe-p3\n");
    // What was left behind ends with the instance, a second later at most.
    eventually("nothing but an idle instance is left", || probe.instances() <= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_fails_is_retired_and_the_next_request_gets_a_new_instance() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy_reused(guest).await;
        host.text(&deployment, "/").await;
        let error = host.get(&deployment, "/trap").await.unwrap_err();
        assert!(matches!(&error, InvokeError::Trap(why) if why.contains("unreachable")), "{error:?}");
        host.text(&deployment, "/").await;
    }
    let deployment = host.deploy_reused("misbehave").await;
    let error = host.get(&deployment, "/exit").await.unwrap_err();
    assert!(matches!(error, InvokeError::Exit(0)), "{error:?}");
    let error = host.get(&deployment, "/no-answer").await.unwrap_err();
    assert!(matches!(error, InvokeError::NoAnswer), "{error:?}");
    host.text(&deployment, "/").await;
    assert!(host.logs().iter().any(|line| line.contains("wasm backtrace")), "{:?}", host.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_never_looks_whole() {
    let host = Host::new(&[]);
    let guest = host.deploy_reused("misbehave").await;
    for path in ["/half", "/short"] {
        let response = host.get(&guest, path).await.unwrap();
        assert!(collect(response.into_body()).await.is_err(), "{path}");
    }
    host.text(&guest, "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_as_long_as_it_promised_is_cut_and_its_function_is_told() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "misbehave-p3"] {
        let deployment = host.deploy(guest).await;
        for (promised, sent) in [(9, 5), (2, 5), (100_000, 70_000), (70_000, 100_000), (1, 0)] {
            // Whose body is asked first is a matter of chance.
            for _ in 0..10 {
                let what = format!("{guest}: {sent} of {promised}");
                let answer = host.get(&deployment, &format!("/length?promised={promised}&n={sent}")).await.unwrap();
                let mut body = answer.into_body();
                let mut given = 0;
                let error = loop {
                    assert!(!body.is_end_stream(), "{what}: it does not look whole");
                    match body.frame().await.unwrap_or_else(|| panic!("{what}: it ended as if it were whole")) {
                        Ok(frame) => given += frame.data_ref().map_or(0, bytes::Bytes::len),
                        Err(error) => break error.to_string(),
                    }
                };
                assert!(given < promised || sent < promised, "{what}: what was given is no whole answer: {given}");
                assert!(error.contains(&format!("promised {promised} bytes (content-length)")), "{what}: {error}");
                let told = format!("promised {promised} bytes (content-length)");
                assert!(host.logs().iter().any(|line| line.contains(&told)), "{what}: {:?}", host.logs());
            }
        }
        for length in [0, 5, 100_000] {
            let path = format!("/length?promised={length}&n={length}");
            assert_eq!(host.text(&deployment, &path).await.len(), length, "{guest}");
        }
    }
    let deployment = host.deploy("misbehave").await;
    let answer = host.get(&deployment, "/length?promised=5&n=0&status=204").await.unwrap();
    assert!(!answer.headers().contains_key("content-length"), "a 204 has none");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_lost_with_an_instance_by_the_work_of_another_that_was_answered_may_come_again() {
    let host = Host::new(&[]);
    let guest = host.deploy("misbehave-p3").await;
    assert_eq!(host.text(&guest, "/after?do=trap&ms=1000").await, "answered\n");
    let error = host.get(&guest, "/never").await.unwrap_err();
    assert!(matches!(error, InvokeError::Neighbour(_)), "{error:?}");
    // Whoever is alone is told what it did, be there others before it that have nothing left to do.
    host.text(&guest, "/").await;
    let error = host.get(&guest, "/trap").await.unwrap_err();
    assert!(matches!(error, InvokeError::Trap(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reused_instances_are_retired_by_count() {
    let host = Host::new(&["--instance-reuse", "10"]);
    let probe = host.deploy_reused("probe-ts").await;
    let mut served = Vec::new();
    for _ in 0..30 {
        served.push(host.text(&probe, "/count").await);
    }
    let fresh = served.iter().filter(|text| text.contains("\"served\":1,")).count();
    assert!((2..=5).contains(&fresh), "{fresh} instances for 30 requests");
    assert!(served.iter().all(|text| !text.contains("\"served\":13")), "within 20 %");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_go_when_another_function_needs_their_place() {
    let host = Host::new(&["--max-instances", "3"]);
    let (one, two, other) = (
        host.deploy_reused("misbehave").await,
        host.deploy_reused("probe-ts").await,
        host.deploy_reused("hello-rust").await,
    );
    let both = futures::future::join(host.get(&one, "/sleep?ms=100"), host.get(&one, "/sleep?ms=100")).await;
    assert!(both.0.is_ok() && both.1.is_ok());
    host.text(&two, "/count").await;
    eventually("all are idle", || (one.idle_instances(), two.idle_instances()) == (2, 1)).await;
    host.text(&other, "/").await;
    assert_eq!((one.instances(), two.instances(), other.instances()), (1, 1, 1), "of who held most");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_go_when_another_function_needs_their_memory() {
    for (idle, path) in [("probe-ts", "/count"), ("hello-rust-p3", "/"), ("hello-rust", "/")] {
        let hold = "/hold?mib=16&ms=200";
        let (rests, holds) = {
            let host = Host::new(&[]);
            let deployment = host.deploy_reused(idle).await;
            host.text(&deployment, path).await;
            let rests = host.observe.metrics.guest_memory.get();
            let host = Host::new(&[]);
            let deployment = host.deploy("misbehave").await;
            let grown = eventually("it holds memory", || host.observe.metrics.guest_memory.get() > 16 << 20);
            let holds = async {
                grown.await;
                host.observe.metrics.guest_memory.get()
            };
            (rests, futures::future::join(host.text(&deployment, hold), holds).await.1)
        };
        // Enough for the one or the other.
        let total = format!("{}B", 2 * holds + rests / 2);
        let host = Host::new(&["--total-guest-memory", &total]);
        let (resting, wants) = (host.deploy_reused(idle).await, host.deploy("misbehave").await);
        host.text(&resting, path).await;
        eventually("it rests", || resting.idle_instances() == 1).await;
        let mut answer = host.get(&wants, hold).await;
        if matches!(&answer, Err(InvokeError::TotalMemory(_))) && idle == "hello-rust-p3" {
            // Instances of 0.3 end a little later: the next one finds room.
            eventually("it ended", || resting.instances() == 0).await;
            answer = host.get(&wants, hold).await;
        }
        assert!(answer.is_ok(), "{idle}: {answer:?}");
        drop(answer);
        eventually("all memory came back", || host.observe.metrics.guest_memory.get() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_function_never_holds_the_last_place_and_its_own_bound_is_named() {
    let host = Host::new(&["--max-instances", "8", "--instance-wait", "200ms"]);
    let limits = FunctionLimits { instances: Some(2), ..Default::default() };
    let bounded = host.deploy_with("misbehave", FunctionConfig { limits, ..Default::default() }).await;
    let sleeps = (0..3).map(|_| host.get(&bounded, "/sleep?ms=1000"));
    let refused: Vec<_> = futures::future::join_all(sleeps).await.into_iter().filter_map(Result::err).collect();
    let [error] = &refused[..] else { panic!("{refused:?}") };
    assert!(error.to_string().contains("all 2 are taken (setting limits.instances)"), "{error}");
    let greedy = host.deploy("hello-rust").await;
    assert_eq!((greedy.limits().instances.value, greedy.limits().instances.setting), (7, "max_instances"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_deadline_bounds_the_wait_for_an_instance() {
    let host = Host::new(&["--max-instances", "1", "--instance-wait", "60s"]);
    for guest in ["misbehave", "probe-p3"] {
        let config = FunctionConfig { isolation: Some(Isolation::Request), ..Default::default() };
        let deployment = host.deploy_with(guest, config).await;
        let mut waits = invocation();
        let busy = host.get(&deployment, "/sleep?ms=60000");
        let refused = async {
            eventually("the place is taken", || deployment.instances() == 1).await;
            waits.deadline = Some(std::time::Instant::now() + std::time::Duration::from_millis(100));
            host.host.invoke(&deployment, request("/"), waits).await
        };
        let error = tokio::select! {
            _ = busy => panic!("it sleeps"),
            refused = refused => refused.unwrap_err(),
        };
        let problem = tidegate::problem::Problem::from(error);
        assert_eq!((problem.status.as_u16(), problem.setting.as_deref()), (503, Some("Prefer: wait")), "{guest}");
        assert!(problem.retry_after.is_some());
        eventually("the place is free", || deployment.instances() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_an_instance_and_then_get_503() {
    let host = Host::new(&["--max-instances", "1", "--instance-wait", "300ms"]);
    let guest = host.deploy("misbehave").await;
    let waits = futures::future::join(host.get(&guest, "/sleep?ms=100"), host.get(&guest, "/")).await;
    assert!(waits.0.is_ok() && waits.1.is_ok());
    let refused = futures::future::join(host.get(&guest, "/sleep?ms=2000"), async {
        eventually("the place is taken", || guest.instances() == 1).await;
        host.get(&guest, "/").await
    });
    let (_, error) = refused.await;
    let problem = tidegate::problem::Problem::from(error.unwrap_err());
    assert_eq!(problem.status, 503);
    assert_eq!(problem.setting.as_deref(), Some("instance_wait"));
    assert!(problem.retry_after.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_short_answer_has_a_known_length() {
    let host = Host::new(&[]);
    let guest = host.deploy_reused("misbehave").await;
    // A guest that is interrupted on a busy machine has not finished when its head goes out.
    let mut lengths = Vec::new();
    while lengths.last() != Some(&Some(10)) && lengths.len() < 20 {
        let response = host.get(&guest, "/").await.unwrap();
        lengths.push(http_body::Body::size_hint(response.body()).exact());
    }
    assert_eq!(lengths.last(), Some(&Some(10)), "{lengths:?}");
    let response = host.send(&guest, request("/big?bytes=1000000")).await.unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap().len(), 1_000_000);
}
