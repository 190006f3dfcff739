//! What an admission costs: uniform over many destinations, so that the memory is as cold as in life.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{hint::black_box, time::Duration};
use tidegate_benches::Rig;
use tidegate_core::{Limit, Settings, Shard};

fn admissions(c: &mut Criterion) {
    println!("an actor at rest: {} bytes", Shard::actor_size());
    let limited =
        Settings { limits: vec![Limit::requests(100_000_000, Duration::from_secs(1))], ..Settings::default() };
    let mut group = c.benchmark_group("core");
    group
        .throughput(Throughput::Elements(1))
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    for destinations in [1u64, 10_000, 1_000_000] {
        let mut rig = Rig::new(destinations, &limited);
        group.bench_function(BenchmarkId::new("admission", destinations), |b| {
            b.iter(|| {
                let key = rig.anyone();
                black_box(rig.admission(key))
            });
        });
        group.bench_function(BenchmarkId::new("whole call", destinations), |b| {
            b.iter(|| {
                let key = rig.anyone();
                black_box(rig.whole_call(key))
            });
        });
    }
    let slow = Settings { limits: vec![Limit::requests(1_000, Duration::from_secs(1))], ..Settings::default() };
    let mut rig = Rig::new(1, &slow);
    for _ in 0..9_000 {
        rig.queue();
    }
    group.bench_function("one in, one out of a queue of 9000", |b| {
        b.iter(|| {
            let left = rig.tick();
            for _ in 0..left {
                rig.queue();
            }
            black_box(left)
        });
    });
    group.finish();
}

criterion_group!(benches, admissions);
criterion_main!(benches);
