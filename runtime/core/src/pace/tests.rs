use super::*;
use std::time::Duration;

fn limits(list: &[(Unit, u64, u64)]) -> Limits {
    let list: Vec<Limit> = list
        .iter()
        .map(|&(unit, quota, secs)| Limit { unit, quota, per: Duration::from_secs(secs).into(), burst: None })
        .collect();
    Limits::new(&list).unwrap()
}

#[test]
fn the_table_of_settlements() {
    let now = Time::from_millis(100_000);
    // 1,000 tokens a window; each row: charged, used, then how many more may leave at once after quiet.
    for (per, charged, used, room) in [
        (60, 600, 600, 400),
        (60, 600, 100, 900),
        (60, 600, 0, 1000),
        (60, 100, 600, 400),
        (60, 600, 1_000_000, 0),
        (60, 0, 300, 700),
        (3600, 600, 100, 900),
        (3600, 100, 600, 400),
        (3600, 600, 4_000_000_000, 0),
    ] {
        let limits = Limits::new(&[Limit {
            unit: Unit::Tokens,
            quota: 1000,
            per: Duration::from_secs(per).into(),
            burst: Some(1000),
        }])
        .unwrap();
        let mut paces = Paces::new(&limits);
        let cost = Cost { requests: 1, tokens: charged };
        let charge = paces.charge(&limits, cost, now);
        paces.departed(&limits, cost, charge, now);
        paces.settle(&limits, charged, used, charge, now, now);
        let fits = |paces: &Paces, tokens| {
            let at = paces.when(&limits, now, Units::default(), Cost { requests: 1, tokens });
            at.is_none_or(|(at, _)| at <= now)
        };
        assert!(room == 0 || fits(&paces, room), "{charged} {used}: {room} fit");
        assert!(!fits(&paces, room + 1), "{charged} {used}: no more than {room} fit");
    }
}

#[test]
fn what_came_after_a_call_that_is_given_back_still_counts() {
    let limits = limits(&[(Unit::Tokens, 1000, 60)]);
    let now = Time::from_millis(100_000);
    let mut paces = Paces::new(&limits);
    let [one, two] = [600, 300].map(|tokens| {
        let cost = Cost { requests: 1, tokens };
        let charge = paces.charge(&limits, cost, now);
        paces.departed(&limits, cost, charge, now);
        charge
    });
    paces.settle(&limits, 600, 0, one, now, now);
    let at = |paces: &Paces, tokens| {
        paces.when(&limits, now, Units::default(), Cost { requests: 1, tokens }).map_or(now, |(at, _)| at)
    };
    assert!(at(&paces, 1) > now, "300 of a burst of 50 are ahead");
    paces.settle(&limits, 300, 0, two, now, now);
    assert_eq!(at(&paces, 1), now);
}

#[test]
fn a_burst_of_a_long_period_is_kept_and_so_is_its_quota() {
    for (quota, per, burst, at_once, then) in [
        (100, 3600, Some(5), 5, Some(36)),
        (100, 3600, Some(1), 1, Some(36)),
        (1000, 86_400, Some(50), 50, Some(87)),
        // Whoever states none may use it up at once, and who states all of it no more.
        (100, 3600, None, 100, None),
        (100, 3600, Some(100), 100, None),
    ] {
        let secs = Duration::from_secs;
        let limit = Limit { unit: Unit::Requests, quota, per: secs(per).into(), burst };
        let limits = Limits::new(&[limit]).unwrap();
        assert_eq!(limits.iter().collect::<Vec<_>>(), [&limit], "it is one limit to people");
        let mut paces = Paces::new(&limits);
        let mut now = Time::from_millis(200_000_000);
        let start = now;
        let mut left = Vec::new();
        while now.since(start) < secs(per) {
            paces.charge(&limits, Cost::ONE, now);
            left.push(now);
            now = paces.when(&limits, now, Units::default(), Cost::ONE).map_or(now, |(at, _)| at.max(now));
        }
        assert_eq!(left.iter().filter(|at| **at == start).count(), at_once, "{limit:?}");
        let gap = left.get(at_once).map(|at| at.since(start).as_secs_f64().ceil() as u64);
        assert_eq!(gap, then, "{limit:?}");
        assert!(left.len() <= quota as usize, "{limit:?}: {}", left.len());
    }
}

#[test]
fn all_limits_pass_or_none_is_charged() {
    let limits = limits(&[(Unit::Requests, 10, 1), (Unit::Tokens, 1000, 60)]);
    let mut paces = Paces::new(&limits);
    let now = Time::from_millis(100_000);
    let cost = Cost { requests: 1, tokens: 50 };
    assert!(paces.when(&limits, now, Units::default(), cost).is_some_and(|(at, _)| at == now));
    paces.charge(&limits, cost, now);
    // The tokens bind: 50 more wait far longer than one more request.
    let (at, limit) = paces.when(&limits, now, Units::default(), cost).unwrap();
    assert_eq!(limit.unit, Unit::Tokens);
    assert!(at.since(now) > Duration::from_secs(2));
    // A call without tokens is not held by them.
    let (at, limit) = paces.when(&limits, now, Units::default(), Cost::ONE).unwrap();
    assert_eq!(limit.unit, Unit::Requests);
    assert!(at.since(now) <= Duration::from_millis(102));
}

#[test]
fn the_queue_ahead_is_counted() {
    let limits = limits(&[(Unit::Requests, 10, 1)]);
    let paces = Paces::new(&limits);
    let ahead = Units { requests: 99, tokens: 0 };
    let now = Time::from_millis(1_000);
    // 99 intervals of 101.8625 ms from now.
    let at = paces.when(&limits, now, ahead, Cost::ONE).unwrap().0;
    assert_eq!(at, Time::from_nanos(1_000_000_000 + 99 * 101_862_500));
}

#[test]
fn a_cost_above_the_quota_never_passes() {
    let limits = limits(&[(Unit::Tokens, 1000, 60)]);
    assert!(limits.never(Cost { requests: 1, tokens: 1001 }).is_some());
    assert!(limits.never(Cost { requests: 1, tokens: 1000 }).is_none());
}

#[test]
fn a_new_limit_takes_effect_and_keeps_what_was_charged() {
    let (slow, fast) = (limits(&[(Unit::Requests, 1, 10)]), limits(&[(Unit::Requests, 10, 1)]));
    let mut paces = Paces::new(&slow);
    let now = Time::from_millis(50_000);
    paces.charge(&slow, Cost::ONE, now);
    paces.reconfigure(&slow, &fast, now);
    let (at, _) = paces.when(&fast, now, Units::default(), Cost::ONE).unwrap();
    assert!(at > now && at.since(now) < Duration::from_millis(102), "{at:?}");
}

#[test]
fn a_limit_put_before_another_takes_nothing_from_it() {
    let (day, both) =
        (limits(&[(Unit::Requests, 10, 86_400)]), limits(&[(Unit::Requests, 10, 1), (Unit::Requests, 10, 86_400)]));
    let now = Time::from_millis(200_000_000);
    let held = |paces: &Paces, limits: &Limits| {
        let (at, limit) = paces.when(limits, now, Units::default(), Cost::ONE).unwrap();
        (at.since(now) > Duration::from_secs(60), limit.per.0.as_secs())
    };
    let mut paces = Paces::new(&day);
    (0..10).for_each(|_| _ = paces.charge(&day, Cost::ONE, now));
    paces.reconfigure(&day, &both, now);
    assert_eq!(held(&paces, &both), (true, 86_400));
    paces.reconfigure(&both, &day, now);
    assert_eq!(held(&paces, &day), (true, 86_400));
    // Two of one kind that change places, and a third that is new.
    let of = |secs: &[u64]| limits(&secs.iter().map(|secs| (Unit::Requests, 1, *secs)).collect::<Vec<_>>());
    let (before, after) = (of(&[1, 30]), of(&[5, 30, 1]));
    let mut paces = Paces::new(&before);
    paces.charge(&before, Cost::ONE, now);
    paces.reconfigure(&before, &after, now);
    let (at, limit) = paces.when(&after, now, Units::default(), Cost::ONE).unwrap();
    assert_eq!(limit.per.0.as_secs(), 30);
    assert!(at.since(now) > Duration::from_secs(29));
}
