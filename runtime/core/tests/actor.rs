//! What one destination does, sentence by sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
use std::{sync::Arc, time::Duration};
use tidegate_core::{
    Attempt, Call, Cost, Effect, Effective, Effects, Limit, NewCall, Outcome, Permit, Refusal, Settings, Shard, Signal,
    Submitted, Ticket, Time, Unit, Verdict, Waiting,
    repeat::{Failure, Reason},
    shard::{Config, Departure, QueueBounds},
    signal::Source,
    units::Size,
};

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const KEY: u128 = 42;

struct Gate {
    shard: Shard,
    config: Arc<Config>,
    fx: Effects,
    now: Time,
    policy: Effective,
}

impl Gate {
    fn new(settings: Settings) -> Gate {
        Gate {
            shard: Shard::new(1),
            config: Arc::new(Config::new(&settings).unwrap()),
            fx: Effects::default(),
            now: Time::from_millis(500_000),
            policy: Effective::default(),
        }
    }

    fn ten_a_second() -> Gate {
        Gate::new(Settings { limits: vec![Limit::requests(10, SEC)], ..Settings::default() })
    }

    fn one_at_a_time() -> Gate {
        Gate::new(Settings { max_concurrency: Some(1), ..Settings::default() })
    }

    fn submit(&mut self, new: NewCall) -> Submitted {
        self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx)
    }

    fn call(&mut self, within: Duration) -> Submitted {
        self.submit(NewCall::by(self.now + within))
    }

    fn again(&mut self, within: Duration, ticket: Ticket) -> Submitted {
        self.submit(NewCall { returning: Some(ticket), ..NewCall::by(self.now + within) })
    }

    fn admitted(&mut self) -> Permit {
        match self.call(SEC * 60) {
            Submitted::Admitted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn queued(&mut self) -> Call {
        match self.call(SEC * 60) {
            Submitted::Queued { call, .. } => call,
            other => panic!("{other:?}"),
        }
    }

    fn sent(&mut self) -> Permit {
        let permit = self.admitted();
        assert_eq!(self.shard.departed(self.now, permit, &mut self.fx), Departure::Go);
        permit
    }

    fn report(&mut self, permit: Permit, outcome: Outcome) -> Verdict {
        let attempt = Attempt { policy: &self.policy, repeatable: true, replayable: true, spent: 0 };
        let verdict = self.shard.report(self.now, permit, &outcome, &attempt, &mut self.fx);
        self.shard.release(self.now, permit, &mut self.fx);
        verdict
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.fx.drain().collect()
    }

    /// Goes to the next timer and returns what it did.
    fn next(&mut self) -> Vec<Effect> {
        self.now = self.shard.next_wake().expect("a timer");
        self.shard.tick(self.now, &mut self.fx);
        self.effects()
    }
}

fn refused(wait: Option<Duration>) -> Outcome {
    let signal = Signal { wait: wait.map(|wait| (wait, Source::RetryAfter)), ..Signal::default() };
    Outcome::Answer { status: 429, signal }
}

fn fine() -> Outcome {
    Outcome::Answer { status: 200, signal: Signal::default() }
}

/// What ten a second leave between two departures: (1 s + 15.625 ms of jitter + 3 ms of slack) / 10.
const T: Duration = Duration::from_nanos(101_862_500);

#[test]
fn a_queued_call_says_what_for_and_when() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    let Submitted::Queued { expected, why, .. } = gate.call(SEC * 60) else { panic!() };
    assert_eq!(why.to_string(), "for 10/s");
    assert_eq!(expected.unwrap().since(gate.now), T);
    let Submitted::Queued { expected, why, .. } = gate.call(SEC * 60) else { panic!() };
    assert_eq!(why.to_string(), "for 10/s");
    assert_eq!(expected.unwrap().since(gate.now), 2 * T);
    match gate.next()[..] {
        [Effect::Admit { waited, why, .. }] => {
            assert_eq!(waited, T);
            assert_eq!(why.to_string(), "for 10/s");
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_make_its_deadline_is_refused_at_once_with_the_time_at_which_it_could() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    for _ in 0..20 {
        gate.queued();
    }
    let Submitted::Refused(refusal) = gate.call(SEC) else { panic!() };
    assert_eq!(refusal.kind(), "deadline-unreachable");
    assert_eq!(refusal.retry_after(), Some(21 * T));
    assert!(refusal.to_string().contains("for 10/s"), "{refusal}");
}

#[test]
fn a_429_pauses_the_destination_and_costs_no_attempt() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    gate.now += MS * 200;
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 12))) else { panic!() };
    let Submitted::Queued { why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert_eq!(why.to_string(), "paused for 12 s by Retry-After of a 429");
    let (left, _) = gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap();
    assert_eq!(left, SEC * 12);
    let paused_at = gate.now;
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(paused_at), SEC * 12);
}

#[test]
fn a_pause_ends_with_one_probe_and_not_with_a_herd() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC)));
    for _ in 0..50 {
        gate.queued();
    }
    let effects = gate.next();
    let [Effect::Admit { permit: probe, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(gate.shard.departed(gate.now, probe, &mut gate.fx), Departure::Go);
    let Submitted::Queued { why, .. } = gate.call(SEC * 60) else { panic!() };
    assert!(matches!(why, Waiting::Probe(_)), "{why:?}");
    gate.now += MS * 20;
    gate.report(probe, fine());
    assert!(gate.effects().len() <= 2);
}

#[test]
fn a_refused_probe_pauses_again_and_longer() {
    let mut gate = Gate::new(Settings::default());
    let mut permit = gate.sent();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        gate.now += MS;
        let Verdict::PutBack(ticket) = gate.report(permit, refused(None)) else { panic!() };
        let at = gate.now;
        assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
        assert!(matches!(gate.again(SEC * 600, ticket), Submitted::Queued { .. }));
        let admitted = loop {
            if let [Effect::Admit { permit, .. }] = gate.next()[..] {
                break permit;
            }
        };
        pauses.push(gate.now.since(at));
        permit = admitted;
        gate.shard.departed(gate.now, permit, &mut gate.fx);
    }
    assert!(pauses[0] >= MS * 125 && pauses[0] <= MS * 250, "{pauses:?}");
    assert!(pauses[8] >= SEC * 15 && pauses[8] <= SEC * 30, "{pauses:?}");
}

#[test]
fn a_pause_is_extended_and_never_shortened_and_only_the_first_refusal_cuts() {
    let mut gate = Gate::new(Settings::default());
    let permits: Vec<Permit> = (0..3).map(|_| gate.sent()).collect();
    gate.now += MS * 10;
    let left = |gate: &Gate| gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap().0;
    gate.report(permits[0], refused(Some(SEC * 5)));
    assert_eq!(left(&gate), SEC * 5);
    gate.report(permits[1], refused(Some(SEC)));
    assert_eq!(left(&gate), SEC * 5);
    gate.report(permits[2], refused(Some(SEC * 9)));
    assert_eq!(left(&gate), SEC * 9);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().cuts, 1);
}

#[test]
fn a_lying_header_pauses_no_longer_than_max_pause() {
    let mut gate = Gate::new(Settings { max_pause: SEC * 30, ..Settings::default() });
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 86_400)));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap().0, SEC * 30);
}

#[test]
fn a_long_pause_for_which_one_header_speaks_is_tried_and_a_success_ends_it() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 86_400))) else { panic!() };
    let begin = gate.now;
    let Submitted::Queued { call: first, why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert_eq!(why.to_string(), "paused for 10m by Retry-After of a 429");
    let second = gate.queued();
    let [Effect::Admit { call, permit: probe, .. }] = gate.next()[..] else { panic!() };
    assert_eq!(call, second, "the first was refused itself");
    let tried = gate.now.since(begin);
    assert!(tried >= SEC * 2 && tried <= SEC * 3, "{tried:?}");
    assert_eq!(gate.shard.departed(gate.now, probe, &mut gate.fx), Departure::Go);
    // One probe, however long its answer takes; the pause is still to be seen.
    gate.now += SEC * 20;
    gate.shard.tick(gate.now, &mut gate.fx);
    assert!(gate.effects().is_empty());
    assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
    gate.report(probe, fine());
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, first);
    let now = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((now.paused, now.window), (None, Some(2)));
}

#[test]
fn a_long_pause_that_its_probe_confirms_turns_away_who_cannot_make_it_and_is_still_tried() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let wait = Some(SEC * 300);
    let Verdict::PutBack(ticket) = gate.report(permit, refused(wait)) else { panic!() };
    gate.again(SEC * 600, ticket);
    assert!(matches!(gate.call(SEC * 600), Submitted::Queued { .. }));
    let waiting = gate.queued();
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    assert!(matches!(gate.report(probe, refused(wait)), Verdict::PutBack(_)));
    let [Effect::Refuse { call, refusal }] = gate.effects()[..] else { panic!() };
    assert_eq!((call, refusal.kind()), (waiting, "deadline-unreachable"));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().cuts, 1, "the same pause");
    let Submitted::Refused(refusal) = gate.call(SEC * 60) else { panic!() };
    assert_eq!(refusal.retry_after(), wait);
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    let Submitted::Refused(_) = gate.call(SEC * 60) else { panic!() };
    gate.report(probe, fine());
    gate.sent();
}

#[test]
fn only_a_pause_that_a_header_made_long_is_tried_before_its_end() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 15))) else { panic!() };
    let begin = gate.now;
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(begin), SEC * 15);
}

#[test]
fn how_long_a_header_is_believed_is_a_setting() {
    for (believed, earliest, latest) in [(SEC * 600, SEC * 30, SEC * 30), (SEC * 29, SEC * 2, SEC * 3)] {
        let mut gate = Gate::new(Settings { believed_pause: believed, ..Settings::default() });
        let permit = gate.sent();
        let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 30))) else { panic!() };
        let begin = gate.now;
        gate.again(SEC * 60, ticket);
        let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
        let tried = gate.now.since(begin);
        assert!(tried >= earliest && tried <= latest, "{believed:?}: {tried:?}");
    }
}

#[test]
fn doubts_about_a_pause_end_with_it() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 60)));
    // Nobody called until it was over.
    gate.now += SEC * 61;
    let probe = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(probe, refused(Some(SEC))) else { panic!() };
    let begin = gate.now;
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(begin), SEC);
}

#[test]
fn a_probe_given_up_before_the_end_of_a_long_pause_leaves_its_place_to_the_next() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 600)));
    let (_, second) = (gate.queued(), gate.queued());
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.release(gate.now, probe, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, second);
}

#[test]
fn calls_that_can_no_longer_make_it_are_refused_when_the_pause_begins() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    let calls: Vec<(Duration, Call)> = [SEC * 2, SEC * 30, SEC * 4, SEC * 5 + MS * 150]
        .into_iter()
        .map(|within| match gate.call(within) {
            Submitted::Queued { call, .. } => (within, call),
            other => panic!("{other:?}"),
        })
        .collect();
    gate.report(permit, refused(Some(SEC * 5)));
    let mut refused: Vec<Call> = Vec::new();
    for effect in gate.effects() {
        match effect {
            Effect::Refuse { call, refusal: Refusal::DeadlineUnreachable { could_start_in, .. } } => {
                assert!(could_start_in >= SEC * 5);
                refused.push(call);
            }
            other => panic!("{other:?}"),
        }
    }
    // The first and third by the pause. The last could start 5.1 s from now behind the one that stays: it stays too.
    refused.sort_unstable();
    assert_eq!(refused, [calls[0].1, calls[2].1]);
}

#[test]
fn places_behind_others_count_when_a_pause_begins() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    let calls: Vec<Call> = (0..5)
        .map(|_| match gate.call(SEC * 5 + MS * 250) {
            Submitted::Queued { call, .. } => call,
            other => panic!("{other:?}"),
        })
        .collect();
    gate.report(permit, refused(Some(SEC * 5)));
    // At 5.0, 5.1 and 5.2 s three of them can start.
    let refused: Vec<Call> = gate
        .effects()
        .iter()
        .map(|e| if let Effect::Refuse { call, .. } = e { *call } else { panic!("{e:?}") })
        .collect();
    assert_eq!(refused, calls[3..]);
}

#[test]
fn a_call_that_was_refused_lets_those_go_first_that_were_not() {
    let mut gate = Gate::one_at_a_time();
    let first = gate.sent();
    let second = gate.queued();
    gate.now += MS;
    let paused = gate.now;
    let verdict = gate.shard.report(
        gate.now,
        first,
        &refused(Some(SEC)),
        &Attempt { policy: &gate.policy, repeatable: true, replayable: true, spent: 0 },
        &mut gate.fx,
    );
    gate.shard.release(gate.now, first, &mut gate.fx);
    let Verdict::PutBack(ticket) = verdict else { panic!() };
    let Submitted::Queued { call: back, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    let [Effect::Admit { call, permit, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now.since(paused)), (second, SEC));
    gate.report(permit, fine());
    let admitted = loop {
        match gate.next()[..] {
            [Effect::Admit { call, .. }] => break call,
            ref none => assert!(none.is_empty()),
        }
    };
    // Half a second for them, by half of it more or less.
    assert_eq!(admitted, back);
    assert!(gate.now.since(paused) < SEC * 2);
}

#[test]
fn nothing_departs_into_a_pause_that_began_after_its_admission() {
    let mut gate = Gate::new(Settings::default());
    let (first, connecting) = (gate.sent(), gate.admitted());
    gate.report(first, refused(Some(SEC)));
    let Departure::PutBack(ticket) = gate.shard.departed(gate.now, connecting, &mut gate.fx) else { panic!() };
    gate.shard.release(gate.now, connecting, &mut gate.fx);
    assert!(matches!(gate.again(SEC * 60, ticket), Submitted::Queued { .. }));
}

#[test]
fn the_queue_is_bounded_by_calls_and_bytes_and_names_both() {
    let queue = QueueBounds { calls: 2, bytes: Size(100) };
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1, SEC)], queue, ..Settings::default() });
    gate.admitted();
    gate.queued();
    let big = NewCall { bytes: 101, ..NewCall::by(gate.now + SEC * 60) };
    let Submitted::Refused(refusal) = gate.submit(big) else { panic!() };
    assert_eq!(
        (refusal.kind(), refusal.value().as_str(), refusal.limit()),
        ("queue-full", "100B", "bytes waiting for one destination")
    );
    gate.queued();
    let Submitted::Refused(refusal) = gate.call(SEC * 60) else { panic!() };
    assert_eq!(
        (refusal.kind(), refusal.value().as_str(), refusal.limit()),
        ("queue-full", "2", "calls waiting for one destination")
    );
    assert!(refusal.retry_after().is_some());
}

#[test]
fn a_call_that_comes_back_to_a_full_queue_displaces_the_newest() {
    let queue = QueueBounds { calls: 2, bytes: Size(1 << 20) };
    let mut gate = Gate::new(Settings { max_concurrency: Some(1), queue, ..Settings::default() });
    let first = gate.sent();
    let (_, newest) = (gate.queued(), gate.queued());
    let attempt = Attempt { policy: &gate.policy, repeatable: true, replayable: true, spent: 0 };
    let verdict = gate.shard.report(gate.now, first, &refused(Some(SEC)), &attempt, &mut gate.fx);
    let Verdict::PutBack(ticket) = verdict else { panic!() };
    gate.shard.release(gate.now, first, &mut gate.fx);
    assert!(matches!(gate.again(SEC * 60, ticket), Submitted::Queued { .. }));
    let [Effect::Refuse { call, refusal: Refusal::QueueFull { .. } }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, newest);
}

#[test]
fn a_call_that_costs_more_than_the_quota_is_refused_at_once() {
    let limit = Limit { unit: Unit::Tokens, ..Limit::requests(1000, SEC * 60) };
    let mut gate = Gate::new(Settings { limits: vec![limit], ..Settings::default() });
    let cost = Cost { requests: 1, tokens: 1001 };
    let Submitted::Refused(refusal) = gate.submit(NewCall { cost, ..NewCall::by(gate.now + SEC * 60) }) else {
        panic!()
    };
    assert_eq!(refusal.to_string(), "costs 1001 tokens, more than the whole quota of 1000");
}

#[test]
fn a_permit_dropped_before_departure_gives_everything_back() {
    let mut gate = Gate::new(Settings {
        limits: vec![Limit::requests(1, SEC * 10)],
        max_concurrency: Some(1),
        ..Settings::default()
    });
    let permit = gate.admitted();
    let waiting = gate.queued();
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
}

#[test]
fn a_slot_is_held_until_the_body_has_ended() {
    let mut gate = Gate::one_at_a_time();
    let permit = gate.sent();
    let waiting = gate.queued();
    let attempt = Attempt { policy: &gate.policy, repeatable: true, replayable: true, spent: 0 };
    let verdict = gate.shard.report(gate.now, permit, &fine(), &attempt, &mut gate.fx);
    assert_eq!(verdict, Verdict::Return(Reason::Final));
    assert!(gate.effects().is_empty(), "the head is not the end");
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
}

#[test]
fn a_slot_whose_answer_nobody_reads_lapses_and_one_that_flows_is_kept() {
    let mut gate = Gate::one_at_a_time();
    let permit = gate.sent();
    let attempt = Attempt { policy: &gate.policy, repeatable: true, replayable: true, spent: 0 };
    gate.shard.report(gate.now, permit, &fine(), &attempt, &mut gate.fx);
    let begin = gate.now;
    gate.shard.flows(gate.now, permit, begin + SEC * 2, &mut gate.fx);
    let waiting = gate.queued();
    gate.now += SEC;
    gate.shard.flows(gate.now, permit, begin + SEC * 4, &mut gate.fx);
    assert!(gate.next().is_empty(), "the slot was kept meanwhile");
    let [Effect::Admit { call, permit: second, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now), (waiting, begin + SEC * 4));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().in_flight, 2);
    // It flows again: that is one more than the maximum, and nobody else may leave until one of them ends.
    gate.shard.flows(gate.now, permit, begin + SEC * 60, &mut gate.fx);
    gate.queued();
    gate.shard.release(gate.now, second, &mut gate.fx);
    assert!(gate.effects().is_empty());
    gate.shard.release(gate.now, permit, &mut gate.fx);
    assert!(matches!(gate.effects()[..], [Effect::Admit { .. }]));
}

#[test]
fn a_call_put_back_is_counted_as_one_request_by_the_budget() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC))) else { panic!() };
    gate.again(SEC * 60, ticket);
    assert!(matches!(gate.next()[..], [Effect::Admit { .. }]));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().lately, (1, 0));
}

#[test]
fn a_waiting_call_is_refused_at_its_deadline_at_the_latest() {
    let mut gate = Gate::one_at_a_time();
    let _held = gate.sent();
    let Submitted::Queued { call: waiting, .. } = gate.call(SEC * 3) else { panic!() };
    let asked = gate.now;
    let [Effect::Refuse { call, refusal }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now.since(asked)), (waiting, SEC * 3));
    assert_eq!(refusal.to_string(), "its deadline passed after it waited 3 s (for one of 1 slots (max_concurrency))");
}

#[test]
fn a_new_limit_takes_effect_on_the_live_queue() {
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1, SEC * 20)], ..Settings::default() });
    gate.admitted();
    gate.queued();
    gate.queued();
    let old = gate.config.clone();
    let faster = Settings { limits: vec![Limit::requests(100, SEC)], ..Settings::default() };
    gate.config = Arc::new(Config::new(&faster).unwrap());
    gate.shard.reconfigure(gate.now, &old, &gate.config.clone(), &mut gate.fx);
    let changed = gate.now;
    let mut admitted = gate.effects().len();
    while gate.shard.next_wake().is_some() {
        admitted += gate.next().len();
    }
    assert_eq!(admitted, 2);
    assert!(gate.now.since(changed) < MS * 100, "{:?}", gate.now.since(changed));
}

#[test]
fn a_retry_waits_with_jitter_and_spends_the_budget() {
    let mut gate = Gate::new(Settings {
        retry_budget: tidegate_core::budget::Budget { share: 0.0, per_second: 1 },
        ..Settings::default()
    });
    let failed = Outcome::Answer { status: 500, signal: Signal::default() };
    let (mut retries, mut returned) = (0, 0);
    for _ in 0..30 {
        let permit = gate.sent();
        match gate.report(permit, failed) {
            Verdict::Retry(ticket) => {
                retries += 1;
                assert!(ticket.not_before().since(gate.now) <= MS * 50);
            }
            Verdict::Return(Reason::BudgetSpent) => returned += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((retries, returned), (10, 20));
}

#[test]
fn a_retry_leaves_after_its_delay_and_lets_others_pass() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let failed = Outcome::Answer { status: 500, signal: Signal::default() };
    let Verdict::Retry(ticket) = gate.report(permit, failed) else { panic!() };
    let Submitted::Queued { call, why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert!(matches!(why, Waiting::Backoff { .. }), "{why}");
    gate.admitted();
    let [Effect::Admit { call: later, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((later, gate.now), (call, ticket.not_before()));
}

#[test]
fn a_destination_that_never_answered_fails_after_its_attempts_and_one_that_lived_is_waited_for() {
    for lived in [false, true] {
        let mut gate = Gate::new(Settings::default());
        if lived {
            let permit = gate.sent();
            gate.report(permit, fine());
        }
        let mut permit = gate.admitted();
        let last = (0..).find_map(|spent| {
            // Nothing left the node: not even a POST is in danger.
            let attempt = Attempt { policy: &gate.policy, repeatable: false, replayable: true, spent };
            let outcome = Outcome::Failed(Failure::Connect);
            let verdict = gate.shard.report(gate.now, permit, &outcome, &attempt, &mut gate.fx);
            gate.shard.release(gate.now, permit, &mut gate.fx);
            let Verdict::Retry(ticket) = verdict else { return Some(verdict) };
            gate.again(SEC * 60, ticket);
            let [Effect::Admit { permit: next, .. }] = gate.next()[..] else { panic!() };
            permit = next;
            None
        });
        match (lived, last) {
            (false, Some(Verdict::Return(Reason::AttemptsSpent { retries: 3 }))) => {}
            (true, Some(Verdict::PutBack(_))) => assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some()),
            (lived, other) => panic!("lived: {lived}, {other:?}"),
        }
    }
}

#[test]
fn the_snapshot_shows_what_a_person_wants_to_know() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    gate.now += MS * 40;
    gate.report(permit, fine());
    let waiting = gate.queued();
    gate.queued();
    gate.now += MS * 30;
    let now = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((now.queued, now.in_flight, now.counts.succeeded), (2, 0, 1));
    assert_eq!((now.oldest_wait, now.latency), (Some(MS * 30), Some(MS * 40)));
    assert_eq!(now.limits, [Limit::requests(10, SEC)]);
    // The third departure from the start, of which 70 ms have passed.
    assert_eq!(now.next_in, 3 * T - MS * 70);
    assert_eq!(now.lately, (1, 0));
    gate.shard.release_call(gate.now, waiting, &mut gate.fx);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().queued, 1);
    assert_eq!(gate.shard.snapshot(gate.now, 7), None);
}

#[test]
fn an_actor_at_rest_is_small_and_the_number_of_them_is_bounded() {
    println!("an actor at rest: {} bytes", Shard::actor_size());
    assert!(Shard::actor_size() <= 448, "{}", Shard::actor_size());
    let mut shard = Shard::with_capacity(1, 10);
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    let (mut fx, mut now) = (Effects::default(), Time::from_millis(1));
    for key in 0..100 {
        now += SEC;
        let Submitted::Admitted(permit) = shard.submit(now, key, &config, NewCall::by(now + SEC), &mut fx) else {
            panic!()
        };
        shard.release(now, permit, &mut fx);
    }
    assert_eq!((shard.destinations(), shard.calls()), (10, 0));
    let mut known: std::collections::BTreeSet<u128> = (0..100).collect();
    for effect in fx.drain() {
        let Effect::Forgot { key } = effect else { panic!("{effect:?}") };
        assert!(known.remove(&key), "{key} was forgotten twice");
    }
    assert_eq!(known, shard.keys().collect(), "whoever keeps books hears of each that went");
    // Busy ones are never forgotten.
    let mut shard = Shard::with_capacity(1, 2);
    let new = NewCall::by(now + SEC);
    assert!(matches!(shard.submit(now, 1, &config, new, &mut fx), Submitted::Admitted(_)));
    assert!(matches!(shard.submit(now, 2, &config, new, &mut fx), Submitted::Admitted(_)));
    let Submitted::Refused(refusal) = shard.submit(now, 3, &config, new, &mut fx) else { panic!() };
    assert_eq!((refusal.kind(), refusal.value().as_str()), ("too-many-destinations", "2"));
}

#[test]
fn what_was_learned_survives_idling() {
    let mut gate = Gate::new(Settings::default());
    for _ in 0..10 {
        let permit = gate.sent();
        gate.now += MS * 200;
        gate.report(permit, fine());
    }
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC))) else { panic!() };
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    gate.report(probe, fine());
    let learned = gate.shard.snapshot(gate.now, KEY).unwrap().learned_rate.unwrap();
    // Ten in two seconds, and what they taught is kept a little below.
    assert!(learned > 4.5 && learned < 5.0, "{learned}");
    gate.now += SEC * 3_600;
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().learned_rate, Some(learned));
}
