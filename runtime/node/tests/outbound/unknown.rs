//! Limits that nobody configured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::support::*;

/// An upstream that allows `rate` a second with a burst of `burst`, and says by what header when there is room again.
async fn limited(rate: f64, burst: f64, header: Option<&'static str>) -> (Upstream, Arc<AtomicUsize>) {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let bucket = parking_lot::Mutex::new((burst, Instant::now()));
    let upstream = Upstream::start(move |_| {
        let wait = {
            let mut bucket = bucket.lock();
            let now = Instant::now();
            bucket.0 = (bucket.0 + now.duration_since(bucket.1).as_secs_f64() * rate).min(burst);
            bucket.1 = now;
            if bucket.0 >= 1.0 {
                bucket.0 -= 1.0;
                None
            } else {
                Some((1.0 - bucket.0) / rate)
            }
        };
        if wait.is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            match (wait, header) {
                (None, _) => text(200, ""),
                (Some(_), None) => text(429, ""),
                (Some(wait), Some(header)) => {
                    let mut response = text(429, "");
                    let unit = if header == "retry-after" { 1.0 } else { 1e3 };
                    let wait = (wait * unit).ceil() as u64;
                    response.headers_mut().insert(header, wait.to_string().parse().unwrap());
                    response
                }
            }
        }
    })
    .await;
    (upstream, refused)
}

async fn hundred_at_once(upstream: &Upstream) {
    let gate = Arc::new(Gate::new(&[]));
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
            tokio::spawn(async move { gate.send(post(&url, "x")).await.unwrap().status() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_hundred_at_once_towards_an_unknown_limit_all_succeed_with_few_refusals() {
    let (upstream, refused) = limited(50.0, 5.0, Some("retry-after-ms")).await;
    hundred_at_once(&upstream).await;
    let refused = refused.load(Ordering::SeqCst);
    println!("{refused} refusals for 100 calls with a hint");
    assert!(refused < 18, "{refused} refusals for 100 calls");
}

#[tokio::test]
async fn a_hundred_at_once_towards_bare_429s_all_succeed() {
    let (upstream, refused) = limited(50.0, 5.0, None).await;
    hundred_at_once(&upstream).await;
    println!("{} refusals for 100 calls without a hint", refused.load(Ordering::SeqCst));
}

/// The numbers that people will see with `tidegate mock-llm --limit 10/s`.
#[tokio::test]
#[ignore = "takes a minute"]
async fn a_hundred_at_once_towards_ten_a_second() {
    for (burst, header) in [(1.0, Some("retry-after-ms")), (10.0, Some("retry-after")), (1.0, None), (10.0, None)] {
        let (upstream, refused) = limited(10.0, burst, header).await;
        let begin = Instant::now();
        hundred_at_once(&upstream).await;
        let refused = refused.load(Ordering::SeqCst);
        println!("burst {burst}, {header:?}: {refused} refusals, {:.1?}", begin.elapsed());
    }
}
