//! Limits, a line each, as people write them or in JSON; a blank line; then choices: what asks to leave, and when it does.

use std::time::Duration;

use tidegate_core::{
    Cost, Limit, Settings, Time,
    pace::{Charge, Limits, Paces, Units, gcra::jitter},
    shard::Config,
};

use crate::bytes::{Choices, halves};

pub(crate) fn run(bytes: &[u8]) {
    let (text, choices) = halves(bytes);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let limits: Vec<Limit> = text.lines().filter_map(read).collect();
    match Config::new(&Settings { limits: limits.clone(), ..Settings::default() }) {
        Ok(_) => leave(&limits, Choices::of(choices)),
        Err(error) => {
            let names = ["limits", ".quota", ".per", ".burst"].iter().any(|field| error.key.ends_with(field));
            assert!(names && !error.problem.to_string().is_empty(), "{error}");
        }
    }
}

/// Read as text and as JSON; what reads is written in JSON and reads the same.
fn read(line: &str) -> Option<Limit> {
    let limit = line.parse::<Limit>().ok().or_else(|| serde_json::from_str(line).ok())?;
    let json = serde_json::to_string(&limit).unwrap();
    assert_eq!(serde_json::from_str::<Limit>(&json).ok(), Some(limit), "{json}");
    let _ = limit.to_string();
    Some(limit)
}

/// What was charged and has not left yet.
struct Admitted {
    cost: Cost,
    charge: Charge,
    at: Time,
    /// Its place in the log.
    index: usize,
}

fn leave(limits: &[Limit], mut choices: Choices<'_>) {
    let compiled = Limits::new(limits).unwrap();
    let mut paces = Paces::new(&compiled);
    let mut now = Time::from_millis(10_000_000);
    let mut admitted: Vec<Admitted> = Vec::new();
    // When each was admitted and when it left, with what it cost in the end.
    let mut log: Vec<(Time, Option<Time>, Cost)> = Vec::new();
    let (mut latest, mut soonest) = (Duration::ZERO, Duration::MAX);
    while !choices.is_empty() && log.len() < 300 {
        match choices.below(8) {
            0 | 1 => now += choices.time(),
            2..=4 => {
                let cost = Cost { requests: 1, tokens: u32::from(choices.byte()) };
                let at = paces.when(&compiled, now, Units::default(), cost).map_or(now, |(at, _)| at);
                if compiled.never(cost).is_some() || at.is_never() {
                    continue;
                }
                if at > now {
                    if choices.below(2) == 0 {
                        continue;
                    }
                    now = at;
                    let again = paces.when(&compiled, now, Units::default(), cost).map_or(now, |(at, _)| at);
                    assert!(again <= now, "it was to leave at {at:?}, then at {again:?}");
                }
                let charge = paces.charge(&compiled, cost, now);
                admitted.push(Admitted { cost, charge, at: now, index: log.len() });
                log.push((now, None, cost));
            }
            5 if !admitted.is_empty() => {
                let it = admitted.remove(if choices.below(4) == 0 { choices.below(admitted.len()) } else { 0 });
                let late = now.since(it.at);
                (latest, soonest) = (latest.max(late), soonest.min(late));
                paces.departed(&compiled, it.cost, it.charge, now);
                log[it.index].1 = Some(now);
                if choices.below(4) == 0 {
                    // It used less than it was taken to.
                    let used = it.cost.tokens / 2;
                    paces.settle(&compiled, it.cost.tokens, used, it.charge, now, now);
                    log[it.index].2.tokens = used;
                }
            }
            6 if !admitted.is_empty() => {
                let it = admitted.remove(choices.below(admitted.len()));
                paces.refund(&compiled, it.cost, it.charge, now);
                log[it.index].2 = Cost { requests: 0, tokens: 0 };
            }
            _ => now += Duration::from_micros(u64::from(choices.byte())),
        }
    }
    for limit in limits {
        holds(limit, log.iter().map(|(at, _, cost)| (*at, *cost)).collect());
        // As the upstream sees it: as far as lateness is made up for.
        let all = log.iter().all(|(_, left, cost)| left.is_some() || cost.requests == 0);
        let counted = limit.per.0 > Limit::LONGEST_PACED;
        let late = if counted { latest } else { latest.saturating_sub(soonest) };
        if all && late <= if counted { limit.per.0 } else { jitter(limit.per.0) } {
            holds(limit, log.iter().filter_map(|(_, left, cost)| Some(((*left)?, *cost))).collect());
        }
    }
}

/// No half-open window of the limit's length holds more than its quota.
fn holds(limit: &Limit, mut log: Vec<(Time, Cost)>) {
    log.sort_by_key(|(at, _)| *at);
    for (from, (start, _)) in log.iter().enumerate() {
        let inside = log[from..].iter().take_while(|(at, _)| at.since(*start) < limit.per.0);
        let sum: u64 = inside.map(|(_, cost)| cost.of(limit.unit)).sum();
        assert!(sum <= limit.quota, "{sum} of {limit} ({:?}) from {start:?}: {log:?}", limit.burst);
    }
}
