//! Limits as the upstream counts them: by when a request reaches it, and not by when it was let go. Connecting takes its
//! time, about as long for one as for another; some never leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tidegate_core::{
    Call, Cost, Effect, Effects, Limit, NewCall, Permit, Settings, Shard, Submitted, Time, Unit,
    pace::gcra::jitter,
    shard::{Config, Departure},
};

const MS: Duration = Duration::from_millis(1);

/// A call that comes so long after the one before.
#[derive(Debug, Clone)]
struct Comes {
    after_ms: u64,
    tokens: u32,
    /// Which part of what connecting may differ by it takes, in 256ths.
    late: u8,
    leaves: bool,
}

fn comes() -> impl Strategy<Value = Comes> {
    (0u64..400, 0u32..30, any::<u8>(), prop::bool::weighted(0.85)).prop_map(|(after_ms, tokens, late, leaves)| Comes {
        after_ms: after_ms.saturating_sub(200),
        tokens,
        late,
        leaves,
    })
}

fn limit() -> impl Strategy<Value = Limit> {
    let per = prop::sample::select(vec![50u64, 500, 1_000, 10_000, 90_000]);
    (any::<bool>(), 1u64..12, per, prop::option::of(1u64..12)).prop_map(|(tokens, quota, per_ms, burst)| {
        let (unit, quota) = if tokens { (Unit::Tokens, quota * 30) } else { (Unit::Requests, quota) };
        Limit { unit, quota, per: (MS * per_ms as u32).into(), burst: burst.map(|burst| burst.min(quota)) }
    })
}

struct Wire {
    shard: Shard,
    fx: Effects,
    now: Time,
    calls: Vec<Comes>,
    waiting: BTreeMap<Call, usize>,
    connecting: BTreeMap<(Time, usize), Permit>,
    connect: Duration,
    spread: Duration,
    /// When each left, and what it cost.
    left: Vec<(Time, Cost)>,
}

impl Wire {
    fn admitted(&mut self, call: usize, permit: Permit) {
        let Comes { late, leaves, .. } = self.calls[call];
        if leaves {
            let late = self.spread * u32::from(late) / 256;
            self.connecting.insert((self.now + self.connect + late, call), permit);
        } else {
            self.shard.release(self.now, permit, &mut self.fx);
        }
        self.heed();
    }

    fn heed(&mut self) {
        let effects: Vec<_> = self.fx.drain().collect();
        for effect in effects {
            match effect {
                Effect::Admit { call, permit, .. } => {
                    let call = self.waiting.remove(&call).unwrap();
                    self.admitted(call, permit);
                }
                Effect::Refuse { call, .. } => _ = self.waiting.remove(&call),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything until then.
    fn until(&mut self, end: Time) {
        loop {
            let leaves = self.connecting.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            let next = leaves.min(self.shard.next_wake().unwrap_or(Time::NEVER));
            if next > end || next.is_never() {
                break;
            }
            self.now = self.now.max(next);
            self.shard.tick(self.now, &mut self.fx);
            self.heed();
            while let Some(entry) = self.connecting.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let ((_, call), permit) = entry.remove_entry();
                assert_eq!(self.shard.departed(self.now, permit, &mut self.fx), Departure::Go);
                self.left.push((self.now, Cost { requests: 1, tokens: self.calls[call].tokens }));
                self.shard.release(self.now, permit, &mut self.fx);
                self.heed();
            }
        }
        self.now = self.now.max(end);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(500), ..ProptestConfig::default() })]
    #[test]
    fn no_window_holds_more_than_its_quota_where_it_is_counted(
        limits in prop::collection::vec(limit(), 1..4), connect_ms in 0u32..300, differs: bool, seed: u64,
        calls in prop::collection::vec(comes(), 1..120),
    ) {
        let config = Arc::new(Config::new(&Settings { limits: limits.clone(), ..Settings::default() }).unwrap());
        // As much as limits are kept in hand for.
        let paced = limits.iter().filter(|limit| limit.per.0 <= Limit::LONGEST_PACED);
        let spread = paced.map(|limit| jitter(limit.per.0)).min().unwrap_or(MS * 25);
        let mut wire = Wire {
            shard: Shard::new(seed),
            fx: Effects::default(),
            now: Time::from_millis(10_000_000),
            calls,
            waiting: BTreeMap::new(),
            connecting: BTreeMap::new(),
            connect: MS * connect_ms,
            spread: if differs { spread } else { Duration::ZERO },
            left: Vec::new(),
        };
        for call in 0..wire.calls.len() {
            let Comes { after_ms, tokens, .. } = wire.calls[call];
            wire.until(wire.now + MS * after_ms as u32);
            let cost = Cost { requests: 1, tokens };
            let new = NewCall { cost, ..NewCall::by(wire.now + MS * 1_000_000) };
            match wire.shard.submit(wire.now, 7, &config, new, &mut wire.fx) {
                Submitted::Admitted(permit) => wire.admitted(call, permit),
                Submitted::Queued { call: waits, .. } => _ = wire.waiting.insert(waits, call),
                Submitted::Refused(_) => {}
            }
            wire.heed();
        }
        wire.until(wire.now + MS * 1_002_000);
        prop_assert!(wire.waiting.is_empty() && wire.connecting.is_empty());
        for limit in &limits {
            for (from, (start, _)) in wire.left.iter().enumerate() {
                let inside = wire.left[from..].iter().take_while(|(at, _)| at.since(*start) < limit.per.0);
                let sum: u64 = inside.map(|(_, cost)| cost.of(limit.unit)).sum();
                prop_assert!(sum <= limit.quota, "{} of {} ({:?}) from {:?}", sum, limit, limit.burst, start);
            }
        }
    }
}
