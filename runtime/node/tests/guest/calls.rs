//! What guests send out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tidegate::{
    body,
    cluster::registry::{FunctionConfig, FunctionLimits},
    observe::{Ending, Subject},
    outbound::{HOP, Hops, TransportError},
};

use crate::support::{Host, Seen, collect, eventually, invocation, request, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_the_door_with_its_url_and_comes_back_with_its_answer() {
    let seen = Seen::default();
    let upstream = seen.clone();
    let host = Host::with_upstream(&[], move |call| {
        upstream.push(format!("{} {}", call.request.method(), call.request.uri()));
        Box::pin(async move {
            Ok(Response::builder().status(201).header("x-from", "upstream").body(body::full("made")).unwrap())
        })
    });
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy(guest).await;
        let response =
            host.get(&deployment, "/fetch?url=https%3A%2F%2Fapi.test%3A8443%2Fv1%2Fx%3Fq%3D1").await.unwrap();
        assert_eq!(response.headers()["x-upstream-status"], "201", "{guest}");
        assert_eq!(response.headers()["x-upstream-x-from"], "upstream", "{guest}");
        assert_eq!(collect(response.into_body()).await.unwrap(), "made", "{guest}");
    }
    assert_eq!(seen.all(), ["GET https://api.test:8443/v1/x?q=1", "GET https://api.test:8443/v1/x?q=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_on_how_many_gates_its_cause_has_passed() {
    let seen = Seen::default();
    let upstream = seen.clone();
    let host = Host::with_upstream(&[], move |call| {
        upstream.push(format!("{:?}", call.request.extensions().get::<Hops>().map(|hops| hops.0)));
        Box::pin(async { Ok(Response::new(body::empty())) })
    });
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy(guest).await;
        let mut request = request("/fetch?url=http%3A%2F%2Fup.test%2F");
        request.headers_mut().insert(HOP, "other, tidegate; hops=3".parse().unwrap());
        host.send(&deployment, request).await.unwrap();
    }
    assert_eq!(seen.all(), ["Some(3)", "Some(3)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_failure_is_an_error_code_of_its_kind() {
    let host = Host::with_upstream(&[], |call| {
        let host = call.request.uri().host().unwrap_or_default().to_owned();
        Box::pin(async move {
            Err(match host.as_str() {
                "dns.test" => TransportError::Dns { host, why: "no such name".into(), lasting: true },
                "tls.test" => TransportError::Tls { host, why: "expired".into(), certificate: true },
                _ => TransportError::Connect { host, why: "refused".into() },
            })
        })
    });
    let guest = host.deploy("misbehave").await;
    for (name, code) in [("dns.test", "DnsError"), ("tls.test", "TlsCertificateError"), ("x.test", "ConnectionRefused")]
    {
        let response = host.get(&guest, &format!("/fetch?url=http%3A%2F%2F{name}%2F")).await.unwrap();
        assert_eq!(response.status(), 502);
        let text = collect(response.into_body()).await.unwrap();
        assert!(String::from_utf8_lossy(&text).contains(code), "{name}: {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_beyond_the_bound_wait_in_line_and_all_are_answered() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&open), Arc::clone(&most));
    // None is answered before five are open; were they fewer at once, none ever would be.
    let five = Arc::new(tokio::sync::Barrier::new(5));
    let host = Host::with_upstream(&[], move |_| {
        let (counted, highest, five) = (Arc::clone(&counted), Arc::clone(&highest), Arc::clone(&five));
        Box::pin(async move {
            let _open = Open::new(&counted);
            highest.fetch_max(counted.load(Ordering::SeqCst), Ordering::SeqCst);
            five.wait().await;
            Ok(Response::new(body::full("ok")))
        })
    });
    let limits = FunctionLimits { concurrent_calls: Some(5), ..Default::default() };
    // `/calls` waits for all heads and reads no body; `/many` is `Promise.all`.
    for (guest, path, says) in [("misbehave", "/calls?n=20", "20 200\n"), ("probe-ts", "/many?n=100", "{\"200\":100}")]
    {
        most.store(0, Ordering::SeqCst);
        let deployment = host.deploy_with(guest, FunctionConfig { limits: limits.clone(), ..Default::default() }).await;
        let text = host.text(&deployment, &format!("{path}&url=http%3A%2F%2Fup.test%2F")).await;
        assert_eq!((text.as_str(), most.load(Ordering::SeqCst)), (says, 5), "{guest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_in_line_are_numbered_as_the_guest_makes_them() {
    let numbers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let handed = Arc::clone(&numbers);
    let host = Host::with_upstream(&[], move |call| {
        handed.lock().unwrap().push(call.trail.next_call());
        Box::pin(std::future::pending())
    });
    let limits = FunctionLimits { concurrent_calls: Some(2), ..Default::default() };
    let guest = host.deploy_with("misbehave", FunctionConfig { limits, ..Default::default() }).await;
    let asked = host.get(&guest, "/calls?n=7&url=http%3A%2F%2Fup.test%2F");
    let watch = eventually("the door knows of all", || numbers.lock().unwrap().len() == 7);
    tokio::select! {
        _ = asked => panic!("it is never answered"),
        () = watch => {}
    }
    assert!(numbers.lock().unwrap().is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_takes_its_calls_in_line_along() {
    let (host, open) = endless();
    let limits = FunctionLimits { concurrent_calls: Some(2), ..Default::default() };
    let guest = host.deploy_with("misbehave", FunctionConfig { limits, ..Default::default() }).await;
    let left = host.get(&guest, "/calls?n=20&url=http%3A%2F%2Fup.test%2F");
    let watch = eventually("two calls are under way", || open.load(Ordering::SeqCst) == 2);
    tokio::select! {
        _ = left => panic!("it is never answered"),
        () = watch => {}
    }
    eventually("all are gone", || open.load(Ordering::SeqCst) == 0 && guest.instances() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_bound_of_an_invocation_are_answered_429_and_never_reach_the_door() {
    let host = Host::new(&[]);
    let limits = FunctionLimits { outbound_calls: Some(3), ..Default::default() };
    let guest = host.deploy_with("misbehave", FunctionConfig { limits, ..Default::default() }).await;
    let text = host.text(&guest, "/calls?n=10&url=http%3A%2F%2Fup.test%2F").await;
    assert_eq!(text, "3 200\n7 429\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_told_without_the_key_in_its_query() {
    let host = Host::new(&[]);
    let limits = FunctionLimits { outbound_calls: Some(0), ..Default::default() };
    let guest = host.deploy_with("misbehave", FunctionConfig { limits, ..Default::default() }).await;
    let invocation = invocation();
    let trail = invocation.trail.clone();
    let asked = request("/calls?n=1&url=http%3A%2F%2Fup.test%2Fmodels%3Fkey%3DAIza-SECRET");
    let answer = host.host.invoke(&guest, asked, invocation).await.unwrap();
    assert_eq!(collect(answer.into_body()).await.unwrap(), "1 429\n");
    let tenant = tenant();
    let subject = Subject { tenant: tenant.as_str(), invocation: None };
    host.observe.trails.finish(&trail, subject, Ending::Status(200));
    let record = host.observe.trails.get(tenant.as_str(), trail.id()).unwrap();
    let told: Vec<_> = record.notes.iter().map(|(_, note)| note.to_string()).collect();
    assert!(told.iter().any(|line| line.contains("GET http://up.test/models refused")), "{told:?}");
    assert!(told.iter().all(|line| !line.contains("SECRET")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_calls_at_once_end_in_answers() {
    let host = Host::new(&[]);
    let guest = host.deploy("misbehave").await;
    // More handles than a guest may hold: it is ended, and nothing else is.
    let _ = host.get(&guest, "/calls?n=5000&url=http%3A%2F%2Fup.test%2F").await;
    assert_eq!(host.text(&guest, "/").await, "misbehave\n");
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A host whose calls never end, and the number of them that are open.
fn endless() -> (Host, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let host = Host::with_upstream(&[], move |_| {
        let count = Arc::clone(&count);
        Box::pin(async move {
            let _open = Open::new(&count);
            std::future::pending().await
        })
    });
    (host, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_calls_at_once_and_only_its_own() {
    let (host, open) = endless();
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy_reused(guest).await;
        let client = || {
            let (host, deployment) = (Arc::clone(&host.host), Arc::clone(&deployment));
            let invocation = invocation();
            let request = request("/fetch?url=http%3A%2F%2Fup.test%2F");
            tokio::spawn(async move { host.invoke(&deployment, request, invocation).await.map(drop) })
        };
        let calls = async |what, count| eventually(what, || open.load(Ordering::SeqCst) == count).await;
        let (first, second) = (client(), client());
        calls("both call", 2).await;
        first.abort();
        calls("one leaves", 1).await;
        // Were the call of the second gone too, there would never be two again.
        let third = client();
        calls("another calls", 2).await;
        third.abort();
        calls("it leaves", 1).await;
        second.abort();
        calls("the last leaves", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_at_the_gate_is_no_wall_time() {
    let host = Host::with_upstream(&[], |call| {
        Box::pin(async move {
            let waits = call.wait_clock.as_ref().map(|clock| clock.wait());
            // Twice the wall time that the guest has. Real time: what ends guests is a thread's own clock, and what is to
            // be seen is that it does nothing.
            tokio::time::sleep(Duration::from_millis(800)).await;
            drop(waits);
            Ok(Response::new(body::full("late, and not the guest's fault")))
        })
    });
    let limits = FunctionLimits {
        wall: Some(tidegate_core::units::Span(std::time::Duration::from_millis(400))),
        ..Default::default()
    };
    for guest in ["misbehave", "probe-p3"] {
        let config = FunctionConfig { limits: limits.clone(), ..Default::default() };
        let deployment = host.deploy_with(guest, config).await;
        host.text(&deployment, "/fetch?url=http%3A%2F%2Fup.test%2F").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_body_is_read_on_after_a_refusal() {
    let host = Host::new(&[]);
    let limits = FunctionLimits { outbound_calls: Some(0), ..Default::default() };
    let guest = host.deploy_with("probe-ts", FunctionConfig { limits, ..Default::default() }).await;
    for _ in 0..5 {
        let request = Request::post("http://example.test/upload?url=http%3A%2F%2Fup.test%2F")
            .body(body::full(vec![b'x'; 3 << 20]))
            .unwrap();
        let response = host.send(&guest, request).await.unwrap();
        assert_eq!(response.status(), 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_advisories_tell_of_ends_in_an_answer_or_an_error_of_the_guest() {
    let seen = Seen::default();
    let upstream = seen.clone();
    let host = Host::with_upstream(&[], move |call| {
        upstream.push(call.request.uri().to_string());
        let upstream = upstream.clone();
        Box::pin(async move {
            let body = call.request.into_body().collect().await;
            if let Ok(body) = body
                && let Some(trailers) = body.trailers()
            {
                upstream.push(format!("{trailers:?}"));
            }
            Ok(Response::new(body::full("ok")))
        })
    });
    let guest = host.deploy_reused("misbehave").await;
    let up = "url=http%3A%2F%2Fup.test%2F";
    for path in [
        format!("/absolute-form?{up}"),
        format!("/long-url?{up}&bytes=100000"),
        format!("/content-length?{up}&says=10&bytes=4"),
        format!("/content-length?{up}&says=4&bytes=10"),
        format!("/content-length?{up}&says=%2B5&bytes=5"),
        format!("/content-length?{up}&twice=1"),
        format!("/forbidden-headers?{up}"),
        format!("/forbidden-trailers?{up}&name=transfer-encoding"),
        format!("/zero-timeout?{up}"),
        "/response-trailers?name=connection".to_owned(),
        "/response-trailers?name=content-length".to_owned(),
    ] {
        if let Ok(response) = host.get(&guest, &path).await {
            let _ = collect(response.into_body()).await;
        }
        assert_eq!(host.text(&guest, "/").await, "misbehave\n", "after {path}");
    }
    for line in seen.all() {
        assert!(line.starts_with("http://up.test/") || line.starts_with('{'), "{line}");
        assert!(!line.contains("transfer-encoding"), "{line}");
    }
    let _ = request("/");
}
