//! A guest that takes more than its share harms only itself.

use std::time::{Duration, Instant};

use tidegate::{
    cluster::registry::{FunctionConfig, FunctionLimits},
    guest::InvokeError,
    problem::Problem,
};
use tidegate_core::units::{Size, Span};

use crate::support::{Host, collect, eventually, guest_settings};

fn limits(change: impl FnOnce(&mut FunctionLimits)) -> FunctionConfig {
    let mut limits = FunctionLimits::default();
    change(&mut limits);
    FunctionConfig { limits, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_spins_ends_at_its_processor_time() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-p3"] {
        let config = limits(|limits| limits.cpu = Some(Span(std::time::Duration::from_millis(300))));
        let spinner = host.deploy_with(guest, config).await;
        let began = Instant::now();
        let error = host.get(&spinner, "/spin").await.unwrap_err();
        assert!(matches!(error, InvokeError::Cpu(_)), "{guest}: {error:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{guest}: {:?}", began.elapsed());
        let problem = Problem::from(error);
        assert_eq!(problem.setting.as_deref(), Some("limits.cpu"));
        assert_eq!(problem.value.as_deref(), Some("300ms"));
        eventually("its instance is gone", || spinner.instances() == 0).await;
        host.text(&spinner, "/").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wall_time_holds_for_guests_that_spin_and_for_guests_that_sleep() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-p3"] {
        let config = limits(|limits| limits.wall = Some(Span(std::time::Duration::from_millis(200))));
        let slow = host.deploy_with(guest, config).await;
        for path in ["/sleep?ms=60000", "/spin"] {
            let began = Instant::now();
            let error = host.get(&slow, path).await.unwrap_err();
            assert!(matches!(error, InvokeError::Wall(_)), "{guest}{path}: {error:?}");
            assert!(began.elapsed() < Duration::from_secs(2), "{guest}{path}: {:?}", began.elapsed());
            eventually("its instance is gone", || slow.instances() == 0).await;
        }
        assert_eq!(Problem::from(host.get(&slow, "/sleep?ms=60000").await.unwrap_err()).status, 504);
        let told = host.logs().iter().filter(|line| line.contains("within 200ms (setting limits.wall)")).count();
        assert!(told >= 3, "{guest}: the function's log tells of it: {:?}", host.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_allocates_ends_at_its_memory() {
    let host = Host::new(&[]);
    let greedy = host.deploy_with("misbehave", limits(|limits| limits.memory = Some(Size::mib(16)))).await;
    let error = host.get(&greedy, "/alloc").await.unwrap_err();
    assert!(matches!(error, InvokeError::Memory(_)), "{error:?}");
    let problem = Problem::from(error);
    assert_eq!((problem.value.as_deref(), problem.setting.as_deref()), (Some("16MiB"), Some("limits.memory")));
    host.text(&greedy, "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_may_have_half_of_what_all_may_have_together_whatever_its_own_bound_says() {
    let host = Host::new(&["--total-guest-memory", "32MiB"]);
    for guest in ["misbehave", "misbehave-p3"] {
        let greedy = host.deploy_with(guest, limits(|limits| limits.memory = Some(Size::mib(64)))).await;
        let error = host.get(&greedy, "/alloc").await.unwrap_err();
        assert!(matches!(error, InvokeError::Memory(_)), "{guest}: {error:?}");
        let problem = Problem::from(error);
        assert_eq!(
            (problem.value.as_deref(), problem.setting.as_deref()),
            (Some("16MiB"), Some("total_guest_memory")),
            "{guest}"
        );
        eventually("its instance is gone", || greedy.instances() == 0).await;
        assert_eq!(host.observe.metrics.guest_memory.get(), 0, "{guest}: all came back");
    }
    assert_eq!(host.observe.metrics.guest_memory_bound.get(), 32 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_guest_that_traps_exits_or_is_left_comes_back() {
    let host = Host::new(&["--total-guest-memory", "256MiB"]);
    for guest in ["misbehave", "misbehave-p3"] {
        let deployment = host.deploy(guest).await;
        for path in ["/trap", "/exit", "/recurse"] {
            let _ = host.get(&deployment, path).await;
            eventually("its instance is gone", || deployment.instances() == 0).await;
            assert_eq!(host.observe.metrics.guest_memory.get(), 0, "{guest}{path}");
        }
        let path = if guest == "misbehave" { "/sleep?ms=60000" } else { "/never" };
        let left = tokio::time::timeout(Duration::from_millis(100), host.get(&deployment, path)).await;
        assert!(left.is_err());
        assert!(deployment.instances() == 0 || host.observe.metrics.guest_memory.get() > 0, "{guest}");
        eventually("its instance is gone", || deployment.instances() == 0).await;
        eventually("and its memory", || host.observe.metrics.guest_memory.get() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_recurses_traps() {
    let host = Host::new(&[]);
    let guest = host.deploy("misbehave").await;
    let error = host.get(&guest, "/recurse").await.unwrap_err();
    assert!(matches!(&error, InvokeError::Trap(why) if why.contains("call stack")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_end_is_cut_and_says_how_much() {
    let host = Host::new(&[]);
    let config = limits(|limits| {
        limits.cpu = Some(Span(std::time::Duration::from_millis(200)));
        limits.log_bytes = Some(Size(64 << 10));
    });
    let chatty = host.deploy_with("misbehave", config).await;
    assert!(host.get(&chatty, "/log").await.is_err());
    eventually("the cut is told", || host.logs().iter().any(|line| line.contains("bytes of log were cut"))).await;
    let lines = host.logs();
    let bytes: usize = lines.iter().filter(|line| line.starts_with('x')).map(String::len).sum();
    assert!(bytes <= 64 << 10, "{bytes}");
    assert!(lines.iter().any(|line| line.contains("limits.log_bytes")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fields_bomb_goes_off_inside_its_own_bounds() {
    let host = Host::new(&[]);
    let bomb = host.deploy("misbehave").await;
    let before = resident();
    for path in ["/fields?n=20000&bytes=120000", "/fields?n=20000&bytes=30000", "/handles?n=1000000", "/random"] {
        // Refused, answered or ended: all the same, as long as the node is well.
        let _ = host.get(&bomb, path).await;
    }
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 300, "the node grew by {grown} MiB");
    host.text(&bomb, "/").await;
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stands_still_or_never_ends_is_cut_with_its_reason() {
    let host = Host::new(&[]);
    let still = host
        .deploy_with(
            "misbehave",
            limits(|limits| limits.stream_idle = Some(Span(std::time::Duration::from_millis(200)))),
        )
        .await;
    let response = host.get(&still, "/stream?n=2&ms=60000").await.unwrap();
    let error = collect(response.into_body()).await.unwrap_err();
    assert!(error.to_string().contains("limits.stream_idle"), "{error}");
    eventually("its instance is gone", || still.instances() == 0).await;
    let long = host
        .deploy_with(
            "misbehave",
            limits(|limits| limits.stream_total = Some(Span(std::time::Duration::from_millis(300)))),
        )
        .await;
    let response = host.get(&long, "/stream?n=10000&ms=20").await.unwrap();
    let error = collect(response.into_body()).await.unwrap_err();
    assert!(error.to_string().contains("limits.stream_total"), "{error}");
    for setting in ["limits.stream_idle", "limits.stream_total"] {
        let told = || host.logs().iter().any(|line| line.contains(setting));
        eventually("the function's log tells of it", told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_others_on_its_instance_gives_no_time_back_to_one_that_computes_now_and_then() {
    let host = Host::new(&["--instance-reuse", "1000000"]);
    let config = limits(|limits| {
        limits.cpu = Some(Span(std::time::Duration::from_millis(300)));
        limits.wall = Some(Span(std::time::Duration::from_secs(60)));
    });
    let shared = host.deploy_with("misbehave-p3", config).await;
    let others = async {
        loop {
            // Those that meet its end are lost with it. They come one a millisecond and not without a pause, or the node
            // had no time for the one that is looked at.
            let _ = host.get(&shared, "/").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let error = tokio::select! {
        answer = host.get(&shared, "/work?ms=2") => answer.unwrap_err(),
        () = others => unreachable!(),
    };
    assert!(matches!(error, InvokeError::Cpu(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_do_not_hold_up_another_function() {
    // Nothing is timed: who is held up waits until the spinners end, and they outlast every answer.
    let host = Host::new(&["--guest-wall", "60s", "--guest-cpu", "60s"]);
    let (spinner, hello) = (host.deploy("misbehave").await, host.deploy("hello-rust").await);
    host.text(&hello, "/").await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let spinners: Vec<_> = (0..2 * cores)
        .map(|_| {
            let (host, spinner) = (std::sync::Arc::clone(&host.host), std::sync::Arc::clone(&spinner));
            let invocation = crate::support::invocation();
            tokio::spawn(
                async move { host.invoke(&spinner, crate::support::request("/spin"), invocation).await.map(drop) },
            )
        })
        .collect();
    eventually("they spin", || spinner.instances() == 2 * cores).await;
    for _ in 0..200 {
        host.text(&hello, "/").await;
        assert_eq!(spinner.instances(), 2 * cores, "they still spin");
    }
    for spinner in spinners {
        spinner.abort();
    }
}

#[test]
fn a_function_may_ask_for_what_the_node_gives_at_most_and_not_for_more() {
    let flags = ["--guest-wall", "5s", "--max-guest-wall", "10s", "--max-guest-memory", "512MiB"];
    let with_total = |total| guest_settings(&[&flags[..], &["--total-guest-memory", total]].concat());
    let node = with_total("1GiB");
    let own = FunctionLimits {
        wall: Some(Span(std::time::Duration::from_secs(60))),
        cpu: Some(Span(std::time::Duration::from_secs(1))),
        memory: Some(Size::mib(400)),
        ..Default::default()
    };
    let limits = tidegate::guest::Limits::resolve(&own, &node);
    assert_eq!((limits.wall.value, limits.wall.setting), (Duration::from_secs(10), "max_guest_wall"));
    assert_eq!((limits.cpu.value, limits.cpu.setting), (Duration::from_secs(1), "limits.cpu"));
    assert_eq!((limits.memory.value, limits.memory.setting), (400 << 20, "limits.memory"));
    let limits = tidegate::guest::Limits::resolve(&own, &with_total("600MiB"));
    assert_eq!((limits.memory.value, limits.memory.setting), (300 << 20, "total_guest_memory"), "half of all");
}
