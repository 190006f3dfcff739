//! The settings between which a destination changes.

use std::{num::NonZeroU16, sync::Arc, sync::LazyLock, time::Duration};

use tidegate_core::{
    Limit, Settings, Time, Unit,
    budget::Budget,
    endpoint::EndpointSettings,
    shard::{Brake, Config, QueueBounds},
    units::Size,
};

use super::START;

pub(crate) static SETTINGS: LazyLock<Vec<(Settings, Arc<Config>)>> = LazyLock::new(|| {
    let compiled = |settings: Settings| (settings.clone(), Arc::new(Config::new(&settings).unwrap()));
    all().into_iter().map(compiled).collect()
});

fn requests(quota: u64, per_ms: u64, burst: u64) -> Limit {
    Limit { burst: Some(burst), ..Limit::requests(quota, Duration::from_millis(per_ms)) }
}

fn tokens(quota: u64, per_ms: u64) -> Limit {
    Limit { unit: Unit::Tokens, ..Limit::requests(quota, Duration::from_millis(per_ms)) }
}

fn endpoint(id: u64, weight: u16, limits: &[Limit], max_concurrency: Option<u32>) -> EndpointSettings {
    let weight = NonZeroU16::new(weight).unwrap();
    EndpointSettings { id, weight, home: id == 2, limits: limits.to_vec(), max_concurrency }
}

fn all() -> Vec<Settings> {
    let plain = Settings::default;
    let queue = |calls, bytes| QueueBounds { calls, bytes: Size(bytes) };
    let until = |seconds| START + Duration::from_secs(seconds);
    let three = vec![
        endpoint(1, 1, &[requests(3, 500, 1)], Some(2)),
        endpoint(2, 3, &[], None),
        endpoint(3, 1, &[tokens(90, 1_000)], Some(1)),
    ];
    let ten = vec![requests(10, 1_000, 1)];
    vec![
        plain(),
        Settings { limits: ten.clone(), ..plain() },
        Settings { limits: vec![tokens(200, 1_000), requests(5, 1_000, 3)], ..plain() },
        Settings { max_concurrency: Some(2), ..plain() },
        Settings { max_concurrency: Some(1), limits: ten.clone(), queue: queue(3, 500), ..plain() },
        Settings { endpoints: three.clone(), ..plain() },
        Settings { endpoints: vec![endpoint(2, 1, &[], None), endpoint(1, 1, &[], Some(1))], ..plain() },
        Settings { endpoints: vec![endpoint(1, 1, &[], None), endpoint(3, 1, &[], None)], ..plain() },
        Settings { limits: vec![requests(4, 120_000, 4)], max_concurrency: Some(3), ..plain() },
        Settings { limits: vec![requests(2, 90_000, 2), tokens(300, 2_000)], queue: queue(5, 2_000), ..plain() },
        Settings { limits: ten.clone(), brake: Brake::Paused { until: Time::NEVER }, ..plain() },
        Settings { brake: Brake::Paused { until: until(5) }, ..plain() },
        Settings { brake: Brake::Draining { until: until(3) }, endpoints: three, ..plain() },
        Settings { brake: Brake::Draining { until: Time::NEVER }, limits: ten, ..plain() },
        Settings {
            max_pause: Duration::from_secs(2),
            believed_pause: Duration::from_secs(1),
            retry_budget: Budget { share: 0.0, per_second: 0, hedges: 1.0 },
            queue: queue(2, 1_000),
            ..plain()
        },
        Settings {
            endpoints: vec![endpoint(3, 2, &[requests(2, 300, 2)], Some(2))],
            max_concurrency: Some(4),
            retry_budget: Budget { share: 1.0, per_second: 100, hedges: 1.0 },
            ..plain()
        },
    ]
}
