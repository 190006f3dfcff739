//! The decisions, as tables.

use super::*;
use crate::{
    policy::{On, RetryOn},
    signal::Source,
};

const NOW: Time = Time::from_millis(1_000_000);

fn answer(status: u16) -> Outcome {
    Outcome::Answer { status, signal: Signal::default() }
}

fn with(status: u16, signal: Signal) -> Outcome {
    Outcome::Answer { status, signal }
}

struct Case {
    outcome: Outcome,
    repeatable: bool,
    keyed: bool,
    in_doubt: bool,
    under_way: u8,
    costs: bool,
    replayable: bool,
    spent: u32,
    took_ms: u64,
    departed: bool,
    down: bool,
    owns: bool,
    elsewhere: bool,
    fallback: bool,
    resumes_ms: u64,
    deadline_ms: u64,
    budget: bool,
    retry_on: RetryOn,
}

fn case(outcome: Outcome) -> Case {
    Case {
        outcome,
        repeatable: true,
        keyed: false,
        in_doubt: false,
        under_way: 0,
        costs: false,
        replayable: true,
        spent: 0,
        took_ms: 20,
        departed: true,
        down: false,
        owns: false,
        elsewhere: false,
        fallback: false,
        resumes_ms: 2_000,
        deadline_ms: 60_000,
        budget: true,
        retry_on: RetryOn::default(),
    }
}

fn decide(case: &Case) -> Decision {
    let policy = Effective { retry_on: case.retry_on.clone(), ..Effective::default() };
    let attempt = Attempt {
        policy: &policy,
        repeatable: case.repeatable,
        costs: case.costs,
        replayable: case.replayable,
        keyed: case.keyed,
        spent: case.spent,
    };
    let facts = Facts {
        departed: case.departed,
        took: Duration::from_millis(case.took_ms),
        down: case.down,
        elsewhere: case.elsewhere,
        fallback: case.fallback,
        owns_refusal: case.owns,
        in_doubt: case.in_doubt,
        under_way: case.under_way,
        resumes: NOW + Duration::from_millis(case.resumes_ms),
        deadline: NOW + Duration::from_millis(case.deadline_ms),
    };
    let mut random = fastrand::Rng::with_seed(7);
    match after(&case.outcome, &attempt, &facts, || case.budget, &mut random, NOW) {
        Decision::Retry(_) => Decision::Retry(Duration::ZERO),
        Decision::Later(_) => Decision::Later(Duration::ZERO),
        other => other,
    }
}

#[test]
fn a_client_s_own_repetition_is_in_vain_where_the_call_was_repeated_for_it() {
    let late = Reason::NoTime { could_start_in: Duration::from_secs(2) };
    for (reason, class, failed, ends) in [
        (Reason::LastWord, Class::Denied, 0, true),
        (Reason::Hopeless, Class::Faulty, 0, true),
        (Reason::UpstreamSaysNo, Class::Refused, 0, true),
        (Reason::OwnRefusal, Class::Refused, 0, true),
        (Reason::BudgetSpent, Class::Down, 0, true),
        (Reason::AttemptsSpent { retries: 3 }, Class::Down, 3, true),
        // Whoever wants no repetition of the gate repeats by itself.
        (Reason::AttemptsSpent { retries: 0 }, Class::Down, 0, false),
        (late, Class::Down, 2, true),
        (late, Class::Down, 0, false),
        // A wait helps.
        (late, Class::Refused, 2, false),
        // What is under way may be done by then.
        (Reason::UnderWay, Class::Accepted, 0, false),
        // Its sender knows better.
        (Reason::NotRepeatable, Class::Down, 0, false),
        (Reason::NotReplayable, Class::Refused, 0, false),
        (Reason::NotListed, Class::Faulty, 0, false),
        (Reason::Final, Class::Accepted, 2, false),
        (Reason::Released, Class::Accepted, 0, false),
    ] {
        assert_eq!(reason.ends_it(class, failed), ends, "{reason}, {class:?}, {failed} failed");
    }
}

#[test]
fn the_table_of_decisions() {
    let retry = Decision::Retry(Duration::ZERO);
    let back = Decision::Return;
    let wait = Signal { wait: Some((Duration::from_secs(2), Source::RetryAfter)), ..Signal::default() };
    let no = Signal { should_retry: Some(false), ..Signal::default() };
    let yes = Signal { should_retry: Some(true), ..Signal::default() };
    let last = Signal { last_word: true, ..Signal::default() };
    let failed = Outcome::Failed;
    let on = RetryOn::of;
    let table = [
        ("200", case(answer(200)), back(Reason::Final)),
        ("404", case(answer(404)), back(Reason::Final)),
        ("400 that asks for a retry", case(with(400, yes)), retry),
        ("429", case(answer(429)), Decision::PutBack),
        ("429 of a POST", Case { repeatable: false, ..case(answer(429)) }, Decision::PutBack),
        ("429, body gone", Case { replayable: false, ..case(answer(429)) }, back(Reason::NotReplayable)),
        ("429 after the last attempt", Case { spent: 9, ..case(answer(429)) }, Decision::PutBack),
        ("429, no", case(with(429, no)), back(Reason::UpstreamSaysNo)),
        ("429, out of credit", case(with(429, last)), back(Reason::LastWord)),
        ("429, out of credit here", Case { elsewhere: true, spent: 9, ..case(with(429, last)) }, Decision::PutBack),
        (
            "429 of a POST, out of credit here",
            Case { elsewhere: true, repeatable: false, ..case(with(429, last)) },
            Decision::PutBack,
        ),
        (
            "429, out of credit here, body gone",
            Case { elsewhere: true, replayable: false, ..case(with(429, last)) },
            back(Reason::LastWord),
        ),
        (
            "429, out of credit here, no time for another",
            Case { elsewhere: true, deadline_ms: 1_500, ..case(with(429, last)) },
            back(Reason::NoTime { could_start_in: Duration::from_secs(2) }),
        ),
        ("429, its own", Case { owns: true, ..case(answer(429)) }, back(Reason::OwnRefusal)),
        (
            "429, pause beyond the deadline",
            Case { deadline_ms: 1_500, ..case(answer(429)) },
            back(Reason::NoTime { could_start_in: Duration::from_secs(2) }),
        ),
        ("503 with a wait", Case { spent: 9, ..case(with(503, wait)) }, Decision::PutBack),
        ("503 with a wait, of what costs", Case { costs: true, ..case(with(503, wait)) }, Decision::PutBack),
        ("503 with a wait, POST", Case { repeatable: false, ..case(with(503, wait)) }, back(Reason::NotRepeatable)),
        ("429 with a wait, POST", Case { repeatable: false, ..case(with(429, wait)) }, Decision::PutBack),
        ("503", case(answer(503)), retry),
        ("503 of a POST", Case { repeatable: false, ..case(answer(503)) }, back(Reason::NotRepeatable)),
        ("500", case(answer(500)), retry),
        ("501", case(answer(501)), back(Reason::NotListed)),
        ("501 of a POST", Case { repeatable: false, ..case(answer(501)) }, back(Reason::NotListed)),
        ("505", case(answer(505)), back(Reason::NotListed)),
        ("520", case(answer(520)), retry),
        ("520 of a POST", Case { repeatable: false, ..case(answer(520)) }, back(Reason::NotRepeatable)),
        ("524 while down", Case { down: true, spent: 9, ..case(answer(524)) }, Decision::PutBack),
        ("530", case(answer(530)), retry),
        ("409, listed", Case { retry_on: on(&[On::Status(409)]), ..case(answer(409)) }, retry),
        (
            "409 of a POST, listed",
            Case { retry_on: on(&[On::Status(409)]), repeatable: false, ..case(answer(409)) },
            back(Reason::NotRepeatable),
        ),
        (
            "409, listed, no",
            Case { retry_on: on(&[On::Status(409)]), ..case(with(409, no)) },
            back(Reason::UpstreamSaysNo),
        ),
        ("404, 4xx listed", Case { retry_on: on(&[On::Class(4)]), ..case(answer(404)) }, retry),
        ("200, 4xx listed", Case { retry_on: on(&[On::Class(4)]), ..case(answer(200)) }, back(Reason::Final)),
        ("501, 5xx listed", Case { retry_on: on(&[On::Class(5)]), ..case(answer(501)) }, retry),
        ("503, 500 listed", Case { retry_on: on(&[On::Status(500)]), ..case(answer(503)) }, back(Reason::NotListed)),
        ("408", case(answer(408)), retry),
        ("504 while down", Case { down: true, spent: 9, ..case(answer(504)) }, Decision::PutBack),
        ("504 that costs, while down", Case { down: true, costs: true, ..case(answer(504)) }, retry),
        (
            "504 that costs, while down, spent",
            Case { down: true, costs: true, spent: 3, ..case(answer(504)) },
            back(Reason::AttemptsSpent { retries: 3 }),
        ),
        ("503 to what costs, while down", Case { down: true, costs: true, ..case(answer(503)) }, Decision::PutBack),
        ("529 to what costs, while down", Case { down: true, costs: true, ..case(answer(529)) }, Decision::PutBack),
        ("502 to what costs, while down", Case { down: true, costs: true, ..case(answer(502)) }, Decision::PutBack),
        (
            "502 to what costs, at once no more, while down",
            Case { down: true, costs: true, took_ms: 4_000, ..case(answer(502)) },
            retry,
        ),
        ("broken, of what costs", Case { down: true, costs: true, ..case(failed(Failure::Broken)) }, Decision::PutBack),
        (
            "broken in the midst of what costs",
            Case { down: true, costs: true, took_ms: 4_000, ..case(failed(Failure::Broken)) },
            retry,
        ),
        (
            "no connection, of what costs, while down",
            Case { down: true, costs: true, departed: false, spent: 9, ..case(failed(Failure::Connect)) },
            Decision::PutBack,
        ),
        (
            "504, POST, while down",
            Case { down: true, repeatable: false, ..case(answer(504)) },
            back(Reason::NotRepeatable),
        ),
        ("500, spent", Case { spent: 3, ..case(answer(500)) }, back(Reason::AttemptsSpent { retries: 3 })),
        ("500, no budget", Case { budget: false, ..case(answer(500)) }, back(Reason::BudgetSpent)),
        ("500, no", case(with(500, no)), back(Reason::UpstreamSaysNo)),
        (
            "connect, POST, nothing left",
            Case { departed: false, repeatable: false, replayable: false, ..case(failed(Failure::Connect)) },
            retry,
        ),
        ("hopeless", Case { departed: false, ..case(failed(Failure::Hopeless)) }, back(Reason::Hopeless)),
        ("broken, POST", Case { repeatable: false, ..case(failed(Failure::Broken)) }, back(Reason::NotRepeatable)),
        ("unprocessed, POST", Case { repeatable: false, ..case(failed(Failure::Unprocessed)) }, retry),
        (
            "unprocessed, body gone",
            Case { replayable: false, ..case(failed(Failure::Unprocessed)) },
            back(Reason::NotReplayable),
        ),
        ("timed out", case(failed(Failure::TimedOut)), retry),
        ("429, stale answer", Case { fallback: true, ..case(answer(429)) }, back(Reason::Fallback)),
        (
            "403 that is a refusal, stale answer",
            Case { fallback: true, ..case(with(403, wait)) },
            back(Reason::Fallback),
        ),
        ("503, stale answer", Case { fallback: true, ..case(answer(503)) }, back(Reason::Fallback)),
        (
            "504 while down, stale answer",
            Case { fallback: true, down: true, ..case(answer(504)) },
            back(Reason::Fallback),
        ),
        ("520, stale answer", Case { fallback: true, ..case(answer(520)) }, back(Reason::Fallback)),
        ("500, stale answer", Case { fallback: true, ..case(answer(500)) }, back(Reason::Fallback)),
        ("timed out, stale answer", Case { fallback: true, ..case(failed(Failure::TimedOut)) }, back(Reason::Fallback)),
        ("408, stale answer", Case { fallback: true, ..case(answer(408)) }, retry),
        ("200, stale answer", Case { fallback: true, ..case(answer(200)) }, back(Reason::Final)),
        (
            "503, stale answer, another endpoint is free",
            Case { fallback: true, elsewhere: true, resumes_ms: 0, ..case(answer(503)) },
            retry,
        ),
        (
            "429, stale answer, another endpoint is free",
            Case { fallback: true, elsewhere: true, resumes_ms: 0, ..case(answer(429)) },
            Decision::PutBack,
        ),
        (
            "503, stale answer, another endpoint is paused",
            Case { fallback: true, elsewhere: true, ..case(answer(503)) },
            back(Reason::Fallback),
        ),
    ];
    for (name, case, expected) in table {
        assert_eq!(decide(&case), expected, "{name}");
    }
}

#[test]
fn the_rule_of_a_destination_decides_about_posts() {
    for (rule, post, keyed, put) in [
        (Repeatable::Never, false, false, true),
        (Repeatable::Keyed, false, true, true),
        (Repeatable::Always, true, true, true),
    ] {
        assert_eq!(rule.allows(&Method::POST, false), post, "{rule:?}");
        assert_eq!(rule.allows(&Method::POST, true), keyed, "{rule:?}");
        assert_eq!(rule.allows(&Method::PUT, false), put, "{rule:?}");
        assert!(rule.allows(&Method::GET, false));
    }
}

#[test]
fn the_backoff_grows_and_is_capped() {
    let mut random = fastrand::Rng::with_seed(1);
    for (n, most) in [(0, 100), (1, 600), (2, 3_600), (3, 5_000), (200, 5_000)] {
        for _ in 0..50 {
            let delay = backoff(BACKOFF_CAP, n, &mut random);
            assert!((most / 2..=most).contains(&(delay.as_millis() as u64)), "{n}: {delay:?}");
        }
    }
}

#[test]
fn a_key_that_is_in_use_is_waited_for_after_an_attempt_in_doubt() {
    let later = Decision::Later(Duration::ZERO);
    let back = Decision::Return;
    let no = Signal { should_retry: Some(false), ..Signal::default() };
    let told = || Case { keyed: true, in_doubt: true, ..case(answer(409)) };
    let table = [
        ("of its own attempt before", told(), later),
        ("after all retries", Case { spent: 9, ..told() }, later),
        ("of another's request", Case { in_doubt: false, ..told() }, back(Reason::Final)),
        ("without a key", Case { keyed: false, ..told() }, back(Reason::Final)),
        ("another conflict", Case { outcome: answer(422), ..told() }, back(Reason::Final)),
        ("no", Case { outcome: with(409, no), ..told() }, back(Reason::Final)),
        ("body gone", Case { replayable: false, ..told() }, back(Reason::Final)),
        // It may be done when its sender comes back, whatever kept the gate from asking again.
        ("no budget", Case { budget: false, ..told() }, back(Reason::UnderWay)),
        ("seven times", Case { under_way: 7, ..told() }, later),
        ("eight times", Case { under_way: 8, ..told() }, back(Reason::UnderWay)),
        ("no time", Case { deadline_ms: 1, ..told() }, back(Reason::UnderWay)),
    ];
    for (name, case, expected) in table {
        assert_eq!(decide(&case), expected, "{name}");
    }
}

#[test]
fn what_leaves_a_doubt_may_have_been_processed() {
    let wait = Signal { wait: Some((Duration::from_secs(2), Source::RetryAfter)), ..Signal::default() };
    for (outcome, doubt) in [
        (answer(200), false),
        (answer(404), false),
        (answer(409), false),
        (answer(429), false),
        (with(403, wait), false),
        (with(503, wait), true),
        (answer(500), true),
        (answer(504), true),
        (Outcome::Failed(Failure::Connect), false),
        (Outcome::Failed(Failure::Unprocessed), false),
        (Outcome::Failed(Failure::Broken), true),
        (Outcome::Failed(Failure::TimedOut), true),
    ] {
        assert_eq!(outcome.leaves_doubt(), doubt, "{outcome:?}");
    }
}

#[test]
fn copies_are_made_of_what_the_first_can_not_spoil() {
    for (rule, method, copies) in [
        (Repeatable::Keyed, Method::GET, true),
        (Repeatable::Never, Method::HEAD, true),
        (Repeatable::Keyed, Method::PUT, false),
        (Repeatable::Keyed, Method::DELETE, false),
        (Repeatable::Keyed, Method::POST, false),
        (Repeatable::Always, Method::POST, true),
    ] {
        assert_eq!(rule.copies(&method), copies, "{rule:?} {method}");
    }
}

#[test]
fn an_answer_that_another_attempt_may_have_caused_settles_nothing() {
    let last = Signal { last_word: true, ..Signal::default() };
    for (outcome, safe, settles) in [
        (answer(200), false, true),
        (answer(400), false, true),
        (answer(404), true, true),
        (answer(404), false, false),
        (answer(409), false, false),
        (answer(410), false, false),
        (answer(412), false, false),
        (answer(429), true, false),
        (with(429, last), true, false),
        (answer(503), true, false),
        (Outcome::Failed(Failure::Broken), true, false),
    ] {
        assert_eq!(outcome.settles(safe), settles, "{outcome:?}, safe: {safe}");
    }
}

#[test]
fn reasons_print_as_people_say_them() {
    for (retries, said) in
        [(0, "its policy has no retries"), (1, "its one retry is spent"), (3, "all 3 retries are spent")]
    {
        assert_eq!(Reason::AttemptsSpent { retries }.to_string(), said);
    }
}
