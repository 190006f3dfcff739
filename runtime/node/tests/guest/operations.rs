//! Single operations that nothing can interrupt.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tidegate::{
    cluster::registry::{FunctionConfig, FunctionLimits},
    guest::{Deployment, InvokeError},
};
use tidegate_core::units::{Size, Span};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::support::{Host, eventually, handler, invocation, request};

async fn deploy(host: &Host, module: &str, cpu: Duration) -> Arc<Deployment> {
    let limits = FunctionLimits { cpu: Some(Span(cpu)), memory: Some(Size::mib(256)), ..Default::default() };
    let info = host.admit_bytes(&handler(module)).await.unwrap();
    host.open("long", info, FunctionConfig { limits, ..Default::default() }).await.unwrap()
}

/// Fills 200 MiB.
const FILL: &str = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 209715200))";

fn filling(body: &str) -> String {
    format!("(memory 3200) (func (export \"h\") (param i32 i32) {body})")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processor_time_holds_where_every_operation_is_long() {
    let host = Host::new(&["--guest-wall", "30s"]);
    let copying = "(memory.copy (i32.const 0) (i32.const 104857600) (i32.const 104857600))";
    let list = "(type $n (struct (field (ref null $n)))) (func (export \"h\") (param i32 i32) (local $p (ref null $n))
        (local $i i32) (loop $all (local.set $i (i32.const 100000))
            (loop $one (local.set $p (struct.new $n (local.get $p)))
                (br_if $one (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
            (local.set $p (ref.null $n)) (br $all)))";
    let array = "(type $a (array (mut i32))) (func (export \"h\") (param i32 i32) (local $a (ref $a))
        (local.set $a (array.new_default $a (i32.const 25000000)))
        (loop $l (array.fill $a (local.get $a) (i32.const 0) (i32.const 1) (i32.const 25000000)) (br $l)))";
    for (what, module) in [
        ("fills", filling(&format!("(loop $l {FILL} (br $l))"))),
        ("copies", filling(&format!("(loop $l {copying} (br $l))"))),
        ("collects garbage", list.to_owned()),
        ("fills arrays", array.to_owned()),
    ] {
        let long = deploy(&host, &module, Duration::from_secs(1)).await;
        let before = process_time();
        let error = host.get(&long, "/").await.unwrap_err();
        assert!(matches!(error, InvokeError::Cpu(_)), "{what}: {error:?}");
        let took = process_time() - before;
        assert!(took < Duration::from_secs(2), "{what}: {took:?} on a processor, and one second was allowed");
    }
}

/// Of all threads of this process, as nextest runs one test in each.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long others on the guests' one thread got to do nothing at a time until the request was answered, and how long that
/// took. Requests of a listener are on that thread, too: from elsewhere they would be sent there first.
async fn longest_wait(host: &Host, long: &Arc<Deployment>) -> (Duration, Duration) {
    let runtime = host.host.runtime_handle();
    let (began, (answered, mut answer)) = (Instant::now(), oneshot::channel::<()>());
    let watch = runtime.spawn(async move {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while answer.try_recv() == Err(TryRecvError::Empty) {
            tokio::task::yield_now().await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    });
    let (host, long) = (Arc::clone(&host.host), Arc::clone(long));
    let asks = runtime.spawn(async move {
        let _ = host.invoke(&long, request("/"), invocation()).await;
        drop(answered);
    });
    asks.await.unwrap();
    (watch.await.unwrap(), began.elapsed())
}

#[tokio::test]
async fn an_operation_keeps_nobody_else_waiting_be_it_the_first_of_its_function_or_a_later_one() {
    let host = Host::new(&["--guest-threads", "1"]);
    let long = deploy(&host, &filling(FILL), Duration::from_secs(5)).await;
    for request in 1..=3 {
        let (longest, all) = longest_wait(&host, &long).await;
        assert!(longest < all / 2, "request {request} took {all:?}, and others waited for {longest:?} of that");
    }
}

#[tokio::test]
async fn a_function_that_is_known_to_keep_nobody_waiting_answers_where_it_was_asked() {
    let host = Host::new(&["--guest-threads", "1"]);
    let short = host.deploy("hello-rust").await;
    host.text(&short, "/").await;
    // Its answer may be here a moment before it is done.
    eventually("its instance rests", || short.idle_instances() == 1).await;
    let (runtime, host) = (host.host.runtime_handle().clone(), Arc::clone(&host.host));
    let at_once = async move {
        // Another thread may now and then be as fast, but not each time.
        (0..50).all(|_| host.invoke(&short, request("/"), invocation()).now_or_never().is_some_and(|it| it.is_ok()))
    };
    assert!(runtime.spawn(at_once).await.unwrap(), "no thread is changed");
}
