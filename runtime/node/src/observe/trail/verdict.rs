//! Where the time went, in one sentence.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use tidegate_core::units::Rounded;

use super::{
    Ending, TrailRecord,
    timeline::{AttemptCame, CallSpan, Timeline, union},
};
use crate::observe::note::Came;

/// A part that is said: at least a hundredth of the whole, and long enough for a person.
const SHARE: u32 = 100;
const LEAST: Duration = Duration::from_millis(1);

/// Says how a trail ended and where its time went, such as `3.2 s in all: 2.9 s waiting for 10/s at api.openai.com; the
/// upstream itself took 300 ms`.
pub fn verdict(record: &TrailRecord) -> String {
    let summary = &record.summary;
    let took = summary.head.unwrap_or(summary.lasted);
    let timeline = Timeline::of(&record.notes);
    let mut said = beginning(record, &timeline, took);
    let mut parts = Vec::new();
    let is_worth = |time: Duration| time >= LEAST && time * SHARE >= took;
    if let Some((from, to)) = timeline.instance
        && is_worth(to - from)
    {
        parts.push(format!("{} waiting for an instance", Rounded(to - from)));
    }
    parts.extend(waits(&timeline).into_iter().filter(|(time, _)| is_worth(*time)).map(|(_, text)| text));
    let calls: Vec<_> = timeline.calls.values().collect();
    let attempts: Vec<_> = calls.iter().flat_map(|call| &call.attempts).collect();
    let upstream = union(attempts.iter().map(|attempt| (attempt.from, attempt.to)));
    if is_worth(upstream) {
        let who = if destinations(&calls) > 1 { "the upstreams" } else { "the upstream itself" };
        parts.push(format!("{who} took {}", Rounded(upstream)));
    }
    let vain = attempts
        .iter()
        .filter(|attempt| matches!(attempt.came, AttemptCame::Answer(400..) | AttemptCame::Failed(_)))
        .count();
    if vain > 0 && attempts.len() > 1 {
        parts.push(format!("{vain} of {} attempts were refused or failed", attempts.len()));
    }
    if summary.invocation.is_some() {
        let busy = calls.iter().map(|call| (call.from.min(took), call.to.min(took))).chain(timeline.instance);
        let own = took.saturating_sub(union(busy));
        if is_worth(own) {
            parts.push(format!("the function itself took {}", Rounded(own)));
        }
    }
    for (index, part) in parts.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = write!(said, "{}{part}", if index == 0 { ": " } else { "; " });
    }
    if summary.dropped > 0 {
        said.push_str("; not all that happened was kept");
    }
    said
}

/// How it ended.
fn beginning(record: &TrailRecord, timeline: &Timeline, took: Duration) -> String {
    let summary = &record.summary;
    let took = Rounded(took);
    let last = timeline.calls.values().next_back().filter(|_| summary.invocation.is_none());
    let why = last.and_then(|call| call.decided.as_deref()).unwrap_or_default();
    match (summary.ending, last.and_then(|call| call.came)) {
        (_, Some(Came::Refused(status))) => {
            let why = why.split_once(": ").map_or(why, |(_, why)| why);
            format!("refused with {status} after {took} ({why})")
        }
        (_, Some(Came::Failed)) => {
            format!("failed after {took} ({})", why.strip_prefix("failed: ").unwrap_or(why))
        }
        (Ending::Cancelled, _) => format!("given up by its sender after {took}"),
        (Ending::Cut(status), _) => {
            format!("{took} to an answer {status} that was cut after {}", Rounded(summary.lasted))
        }
        (Ending::Status(status @ 400..), _) => format!("{status} after {took}"),
        (Ending::Status(_), _) => format!("{took} in all"),
    }
}

/// The waits by what was waited for, the longest first.
fn waits(timeline: &Timeline) -> Vec<(Duration, String)> {
    let mut spans: BTreeMap<(&str, &str), Vec<(Duration, Duration)>> = BTreeMap::new();
    for call in timeline.calls.values() {
        for (from, to, why) in &call.waits {
            spans.entry((why, host(&call.destination))).or_default().push((*from, *to));
        }
    }
    let said = |((why, at), spans): ((&str, &str), Vec<_>)| {
        let time = union(spans.into_iter());
        let text = match why.starts_with("for ") {
            true => format!("{} waiting {why} at {at}", Rounded(time)),
            false => format!("{} waiting at {at} ({why})", Rounded(time)),
        };
        (time, text)
    };
    let mut waits: Vec<_> = spans.into_iter().map(said).collect();
    waits.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    waits
}

fn destinations(calls: &[&CallSpan]) -> usize {
    let mut labels: Vec<_> = calls.iter().map(|call| &call.destination).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.len()
}

/// An origin without its scheme.
fn host(label: &str) -> &str {
    label.split_once("://").map_or(label, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::TraceId,
        observe::{NotableBounds, Note, Subject, Trail, TrailStore},
    };

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// The verdict on a trail of these notes, each at its millisecond, whose head was there after so many.
    fn of(function: bool, head: u64, ending: Ending, notes: Vec<(u64, Note)>) -> String {
        let store = TrailStore::new(1 << 20, NotableBounds::default());
        let trail = Trail::begin(TraceId(1));
        let invocation = function.then_some(("agent", 1));
        store.finish(&trail, Subject { tenant: "t", invocation }, ending);
        let mut record = store.get("t", TraceId(1)).unwrap();
        record.summary.head = Some(millis(head));
        record.notes = notes.into_iter().map(|(at, note)| (millis(at), note)).collect();
        verdict(&record)
    }

    fn call(call: u32, destination: &str) -> Note {
        Note::Call { call, what: "GET https://x/".into(), destination: destination.into(), configured: false }
    }

    fn queued(call: u32, why: &str) -> Note {
        Note::Queued { call, why: why.into() }
    }

    fn admitted(call: u32, waited: u64) -> Note {
        Note::Admitted { call, waited: millis(waited), why: None }
    }

    fn answered(call: u32, attempt: u32, status: u16, time: u64) -> Note {
        Note::Answered { call, attempt, status, first_byte: millis(time) }
    }

    fn over(call: u32, came: Came, took: u64) -> Note {
        Note::Over { call, came, took: millis(took), waited: Duration::ZERO, attempts: 1 }
    }

    #[test]
    fn a_verdict_says_in_one_sentence_where_the_time_went() {
        let limited = vec![
            (0, call(1, "https://api.openai.com")),
            (0, queued(1, "for 10/s")),
            (2_900, admitted(1, 2_900)),
            (3_200, answered(1, 1, 200, 300)),
            (3_200, over(1, Came::Answer(200), 3_200)),
        ];
        assert_eq!(
            of(false, 3_200, Ending::Status(200), limited),
            "3.2 s in all: 2.9 s waiting for 10/s at api.openai.com; the upstream itself took 300 ms"
        );
        let paused = vec![
            (0, call(1, "openai")),
            (0, admitted(1, 0)),
            (50, answered(1, 1, 429, 50)),
            (50, queued(1, "paused for 2 s by Retry-After of a 429")),
            (2_050, admitted(1, 2_000)),
            (2_150, answered(1, 2, 200, 100)),
            (2_150, over(1, Came::Answer(200), 2_150)),
        ];
        assert_eq!(
            of(false, 2_150, Ending::Status(200), paused),
            "2.15 s in all: 2 s waiting at openai (paused for 2 s by Retry-After of a 429); the upstream itself took \
             150 ms; 1 of 2 attempts were refused or failed"
        );
    }

    #[test]
    fn calls_side_by_side_count_once_and_what_is_left_is_the_functions_own() {
        let notes = vec![
            (100, Note::Instance { reused: false, waited: millis(100) }),
            (200, call(1, "a")),
            (200, call(2, "b")),
            (200, queued(1, "for 10/s")),
            (200, queued(2, "for 10/s")),
            (600, admitted(1, 400)),
            (700, admitted(2, 500)),
            (900, answered(1, 1, 200, 300)),
            (900, over(1, Came::Answer(200), 700)),
            (1_000, answered(2, 1, 200, 300)),
            (1_000, over(2, Came::Answer(200), 800)),
        ];
        assert_eq!(
            of(true, 1_500, Ending::Status(200), notes),
            "1.5 s in all: 100 ms waiting for an instance; 500 ms waiting for 10/s at b; 400 ms waiting for 10/s at a; \
             the upstreams took 400 ms; the function itself took 600 ms"
        );
    }

    #[test]
    fn a_refusal_and_a_failure_say_why() {
        let refused = |what: &str| {
            vec![
                (0, call(1, "openai")),
                (0, Note::Decided { call: 1, what: what.into() }),
                (0, over(1, Came::Refused(429), 0)),
            ]
        };
        assert_eq!(
            of(
                false,
                0,
                Ending::Status(429),
                refused("refused with 429 queue-full: could start in 3 s at the earliest")
            ),
            "refused with 429 after 0 ms (could start in 3 s at the earliest)"
        );
        let failed = vec![
            (0, call(1, "openai")),
            (0, admitted(1, 0)),
            (5_000, Note::Failed { call: 1, attempt: 1, why: "x".into() }),
            (5_000, Note::Decided { call: 1, what: "failed: no connection to a within 5 s".into() }),
            (5_000, over(1, Came::Failed, 5_000)),
        ];
        assert_eq!(
            of(false, 5_000, Ending::Status(504), failed),
            "failed after 5 s (no connection to a within 5 s): the upstream itself took 5 s"
        );
        assert_eq!(
            of(true, 12, Ending::Cancelled, vec![]),
            "given up by its sender after 12 ms: the function itself took 12 ms"
        );
        assert_eq!(of(true, 0, Ending::Status(404), vec![]), "404 after 0 ms");
    }
}
