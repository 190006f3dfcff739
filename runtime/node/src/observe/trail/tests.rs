//! What is kept, how much of it, and what it says.

use super::*;
use crate::observe::{
    heap,
    note::{Came, CopyKind, Stop},
};

fn store_of(bytes: u64) -> TrailStore {
    TrailStore::new(bytes, NotableBounds::default())
}

/// The newest trails of `t`.
fn recent(store: &TrailStore, limit: usize) -> Vec<TrailSummary> {
    store.search("t", &TrailQuery { limit, ..TrailQuery::default() })
}

const CALL: Subject<'static> = Subject { tenant: "t", invocation: None };

fn call_to(destination: &str, configured: bool) -> Note {
    let what = "GET https://api.test/v1".into();
    Note::Call { call: 1, what, destination: destination.into(), configured }
}

fn over(came: Came) -> Note {
    Note::Over { call: 1, came, took: Duration::from_secs(3), waited: Duration::from_millis(2_900), attempts: 2 }
}

fn finished(store: &TrailStore, id: u128) -> Trail {
    let trail = Trail::begin(TraceId(id));
    store.finish(&trail, CALL, Ending::Status(200));
    trail
}

#[test]
fn a_ring_forgets_the_oldest_trails_first_and_keeps_as_many_as_there_is_room_for() {
    for bound in [256 << 10, 1 << 20, 8 << 20] {
        let store = store_of(bound);
        let in_one_ring = |number: u128| number << 32 | 1;
        let forgets = |number: u128| {
            finished(&store, in_one_ring(number));
            number.is_multiple_of(50) && store.get("t", TraceId(1)).is_none()
        };
        let kept = (0..40_000).find(|number| forgets(*number)).unwrap();
        // A trail without notes takes less than 64 bytes, and one chunk of eight or more goes at a time.
        let room = u128::from(bound) / 16 * 7 / 8 / 64;
        assert!(kept >= room.max(1), "{bound}: {kept} {room}");
        let left = recent(&store, usize::MAX);
        assert!(left.iter().rev().map(|record| record.id.0 >> 32).is_sorted(), "the oldest went");
        assert!(store.get("t", TraceId(in_one_ring(kept))).is_some(), "the newest is there");
        assert!(store.held() <= bound);
    }
}

#[test]
fn a_trail_is_read_as_it_was_written() {
    let (store, id) = (store_of(1 << 20), TraceId::random());
    let notes = [
        Note::Instance { reused: true, waited: Duration::from_micros(3) },
        Note::Guest("é".into()),
        call_to("openai", true),
        Note::Queued { call: 1, why: String::new() },
        Note::Admitted { call: 1, waited: Duration::from_secs(7), why: None },
        Note::Admitted { call: u32::MAX, waited: Duration::MAX, why: Some("why".into()) },
        Note::Answered { call: 1, attempt: 2, status: 200, first_byte: Duration::from_nanos(1) },
        Note::Failed { call: 1, attempt: 2, why: "x".repeat(500) },
        Note::Copy { call: 1, attempt: 3, of: 2, kind: CopyKind::Race, to: Some("two".into()) },
        Note::Stopped { call: 1, attempt: 3, lasted: Duration::from_secs(1), why: Stop::Lost },
        Note::Broke("off".into()),
        Note::Decided { call: 1, what: "put back".into() },
        Note::Under { call: 1, span: u64::MAX },
        over(Came::Answer(200)),
        over(Came::Refused(429)),
        over(Came::Failed),
        over(Came::GivenUp),
    ];
    let invocation = Some(("agent", 1 << 40));
    for ending in [Ending::Status(599), Ending::Cut(200), Ending::Cancelled] {
        let trail = Trail::begin(id);
        notes.iter().for_each(|note| trail.note(note.clone()));
        store.finish(&trail, Subject { tenant: "t", invocation }, ending);
        let record = store.get("t", id).unwrap();
        let debug = |note: &Note| format!("{note:?}");
        assert_eq!(record.notes.iter().map(|(_, note)| debug(note)).collect::<Vec<_>>(), notes.each_ref().map(debug));
        assert!(record.notes.iter().map(|(at, _)| *at).is_sorted());
        assert_eq!(format!("{:?}", record.summary.ending), format!("{ending:?}"));
        assert_eq!(record.summary.invocation.as_ref().map(|(name, version)| (name.as_str(), *version)), invocation);
        assert_eq!((record.summary.began, record.summary.id), (trail.0.began_wall, id));
    }
    assert_eq!(store.of_trace("t", id, 10).len(), 3);
    assert!(store.of_trace("other", id, 10).is_empty());
}

#[test]
fn who_reads_keeps_what_is_read_and_nobody_waits_for_it() {
    let store = store_of(1 << 20);
    let first = finished(&store, 1);
    let in_its_ring = |number: u128| finished(&store, number << 32 | 1);
    // Enough for its chunk to be full.
    (1..300).for_each(|number| drop(in_its_ring(number)));
    let reading = store::full_chunks(&store, first.id());
    assert!(store.get("t", first.id()).is_some());
    (300..20_000).for_each(|number| drop(in_its_ring(number)));
    assert!(store.get("t", first.id()).is_none(), "it is written over");
    assert!(reading.iter().any(|chunk| store::ids(chunk).contains(&first.id())), "but not for who reads");
}

#[test]
fn the_newest_come_first_whatever_ring_they_are_in() {
    let store = store_of(1 << 20);
    let ids: Vec<_> = (1..=100).map(|number| finished(&store, number << 8 | 1).id()).collect();
    let recent: Vec<_> = recent(&store, 30).iter().map(|record| record.id).collect();
    assert_eq!(recent, ids.into_iter().rev().take(30).collect::<Vec<_>>());
    assert!(store.search("other", &TrailQuery { limit: 30, ..TrailQuery::default() }).is_empty());
}

#[test]
fn what_is_noted_after_the_head_is_kept_and_after_the_end_is_not() {
    let (store, trail) = (store_of(1 << 20), Trail::begin(TraceId::random()));
    trail.note(Note::Guest("before".into()));
    let waits = trail.answered();
    trail.note(Note::Guest("streaming".into()));
    store.finish(&trail, CALL, Ending::Cut(200));
    trail.note(Note::Guest("late".into()));
    let kept = store.get("t", trail.id()).unwrap();
    assert_eq!(kept.notes.len(), 2);
    assert_eq!(kept.summary.head, Some(waits.total));
    assert!(kept.summary.lasted >= waits.total);
    assert!(trail.0.open.lock().notes.is_empty(), "what nobody will read is not held");
}

#[test]
fn notes_keep_their_order_and_read_as_sentences() {
    let trail = Trail::begin(TraceId::random());
    let call = trail.next_call();
    trail.note(Note::Queued { call, why: "10/s".into() });
    trail.note(Note::Decided { call, what: "put back at no cost".into() });
    let store = store_of(1 << 20);
    store.finish(&trail, CALL, Ending::Status(200));
    let kept = store.get("t", trail.id()).unwrap();
    let texts: Vec<_> = kept.notes.iter().map(|(_, note)| note.to_string()).collect();
    assert_eq!(texts, ["call 1: queued, 10/s", "call 1: put back at no cost"]);
}

#[test]
fn trails_are_looked_through_for_those_that_are_wanted_before_they_are_counted() {
    let store = store_of(8 << 20);
    let rare = Subject { tenant: "t", invocation: Some(("rare", 1)) };
    store.finish(&Trail::begin(TraceId(1)), rare, Ending::Status(200));
    for number in 2..2_000 {
        finished(&store, number << 8 | 1);
    }
    let found = store.search("t", &TrailQuery { function: Some("rare".into()), limit: 1, ..TrailQuery::default() });
    assert_eq!(found.len(), 1);
}

/// A trail that began so long ago, and whose calls were let go at these times after these waits, all in milliseconds.
fn waits(began: u64, admitted: &[(u64, u32, u64)]) -> Waits {
    let millis = Duration::from_millis;
    let trail = Trail::begin_at(Instant::now() - millis(began), TraceContext::of(TraceId(1)));
    for &(at, call, waited) in admitted {
        trail.0.open.lock().write(millis(at), Note::Admitted { call, waited: millis(waited), why: None });
    }
    trail.answered()
}

#[test]
fn the_time_at_the_gate_is_that_in_which_a_call_waited_and_never_more_than_the_whole() {
    for (admitted, gate) in [
        (&[][..], 0),
        (&[(10, 1, 0)], 0),
        (&[(50, 1, 20)], 20),
        // One call that waited twice.
        (&[(20, 1, 20), (60, 1, 10)], 30),
        // A wait that holds the one before it is counted once.
        (&[(20, 1, 20), (60, 1, 60)], 60),
        // Calls that wait at the same time.
        (&[(50, 1, 50), (50, 2, 50), (55, 3, 45)], 55),
        (&[(30, 1, 20), (50, 2, 30), (90, 3, 10)], 50),
        (&[(30, 1, 10), (90, 2, 80)], 80),
        // Longer than there was time.
        (&[(40, 1, 4_000)], 40),
        (&[(40, 1, 40), (70, 1, 70), (95, 1, 95)], 95),
    ] {
        let waits = waits(100, admitted);
        assert_eq!(waits.gate, Duration::from_millis(gate), "{admitted:?}");
        assert!(waits.gate <= waits.total);
    }
}

#[test]
fn a_trail_that_is_written_keeps_notes_up_to_its_bound_and_counts_the_others() {
    let trail = Trail::begin(TraceId(1));
    for call in 0..1_000 {
        trail.note(Note::Call {
            call,
            what: "x".repeat(300),
            destination: "https://example.com".into(),
            configured: false,
        });
        for _ in 0..3 {
            trail.note(Note::Decided { call, what: "let go after 100 ms, as ever".into() });
        }
    }
    assert_eq!(trail.0.open.lock().dropped, 0, "a thousand calls fit");
    let before = heap::held();
    for call in 0..10_000 {
        trail.note(Note::Decided { call, what: "x".repeat(60_000) });
    }
    let open = trail.0.open.lock();
    assert!(open.dropped > 5_000 && open.notes.len() + open.dropped as usize == 14_000);
    assert!((heap::held() - before).unsigned_abs() as u64 <= NOTE_BYTES);
}

#[test]
fn many_notes_of_long_paths_stay_within_the_store() {
    let (bound, before) = (1 << 20, heap::held());
    let store = store_of(bound);
    for number in 0..5_000_u32 {
        let trail = Trail::begin(TraceId(u128::from(number) << 8 | 1));
        trail.note(Note::Call {
            call: 1,
            what: format!("GET http://10.0.0.1/{}", "a".repeat(60_000)),
            destination: "http://10.0.0.1".into(),
            configured: false,
        });
        trail.note(Note::Decided { call: 1, what: "refused".into() });
        store.finish(&trail, CALL, Ending::Status(403));
    }
    assert!((heap::held() - before) as u64 <= bound);
    assert!(!recent(&store, 1).is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]

    #[test]
    fn what_a_store_counts_covers_what_it_holds(
        trails in proptest::collection::vec(proptest::collection::vec(0_usize..700, 0..40), 1..80),
        bound in 1_u64 << 12..1 << 20,
    ) {
        // What a thread takes once is no trail's.
        ended(&store_of(1 << 12), CALL, Duration::ZERO, vec![call_to("a", true)], Ending::Status(200));
        let before = heap::held();
        let store = TrailStore::new(bound / 2, NotableBounds { bytes: bound / 2, slowest: 64, failures: 64 });
        for (number, texts) in trails.iter().enumerate() {
            let trail = Trail::begin(TraceId((number as u128) << 8 | 1));
            for length in texts {
                // Grown as `format!` grows them.
                let what = std::iter::repeat_n("x", *length).collect();
                trail.note(Note::Decided { call: 1, what });
            }
            trail.tag(["a", "thread-42"].map(|tag| Some(tag.into())).into_iter());
            store.finish(&trail, CALL, Ending::Status(if number % 3 == 0 { 500 } else { 200 }));
        }
        let held = (heap::held() - before) as u64;
        let counted: u64 = store.held();
        proptest::prop_assert!(held <= counted && counted <= bound, "{held} held, {counted} counted, bound {bound}");
    }
}

/// A trail of this subject that began a moment ago and ended so.
fn ended(store: &TrailStore, subject: Subject<'_>, began: Duration, notes: Vec<Note>, ending: Ending) -> TraceId {
    let trail = Trail::begin_at(Instant::now() - began, TraceContext::begin());
    notes.into_iter().for_each(|note| trail.note(note));
    trail.answered();
    store.finish(&trail, subject, ending);
    trail.id()
}

#[test]
fn trails_are_found_by_what_is_known_of_them() {
    let store = store_of(1 << 20);
    let agent = Subject { tenant: "t", invocation: Some(("agent", 3)) };
    let second = Duration::from_secs(1);
    let ordinary = ended(&store, agent, Duration::ZERO, vec![], Ending::Status(200));
    let slow = ended(&store, agent, 3 * second, vec![call_to("openai", true)], Ending::Status(200));
    let refused = ended(&store, CALL, second, vec![over(Came::Refused(429))], Ending::Status(429));
    let inside =
        ended(&store, agent, second, vec![over(Came::Answer(503)), call_to("other", true)], Ending::Status(200));
    let cut = ended(&store, CALL, second, vec![Note::Broke("off".into())], Ending::Cut(200));
    let cancelled = ended(&store, CALL, second, vec![], Ending::Cancelled);
    let tagged = Trail::begin(TraceId::random());
    tagged.tag(["thread-42", "a", "thread-42"].map(|tag| Some(tag.into())).into_iter());
    store.finish(&tagged, CALL, Ending::Status(200));

    let all = || TrailQuery { limit: 100, ..TrailQuery::default() };
    let status = |text: &str| TrailQuery { status: Some(text.parse().unwrap()), ..all() };
    let long_ago = SystemTime::now() - Duration::from_secs(3_600);
    for (what, query, wanted) in [
        ("function", TrailQuery { function: Some("agent".into()), ..all() }, vec![inside, slow, ordinary]),
        ("destination", TrailQuery { destination: Some("openai".into()), ..all() }, vec![slow]),
        ("origin", TrailQuery { destination: Some("https://api.test".into()), ..all() }, vec![inside, slow]),
        ("tag", TrailQuery { tag: Some("thread-42".into()), ..all() }, vec![tagged.id()]),
        ("slow", TrailQuery { slower_than: Some(2 * second), ..all() }, vec![slow]),
        ("slowest", TrailQuery { order: Order::Slowest, limit: 1, ..TrailQuery::default() }, vec![slow]),
        ("429", status("429"), vec![refused]),
        ("4xx", status("4xx"), vec![refused]),
        ("refused", status("refused"), vec![refused]),
        ("failed", status("failed"), vec![cut, inside]),
        ("cancelled", status("cancelled"), vec![cancelled]),
        ("since", TrailQuery { until: Some(long_ago), ..all() }, vec![]),
        ("both", TrailQuery { function: Some("agent".into()), ..status("failed") }, vec![inside]),
    ] {
        let found: Vec<_> = store.search("t", &query).iter().map(|trail| trail.id).collect();
        assert_eq!(found, wanted, "{what}");
    }
    let since = TrailQuery { since: Some(long_ago), ..all() };
    assert_eq!(store.search("t", &since).len(), 7);
    let found = store.search("t", &TrailQuery { tag: Some("a".into()), ..all() });
    assert_eq!(found.first().unwrap().tags, ["thread-42", "a"]);
}

#[test]
fn pages_follow_one_another_without_a_gap_or_a_repetition() {
    let store = TrailStore::new(1 << 20, NotableBounds { bytes: 1 << 20, slowest: 64, failures: 64 });
    let ids: Vec<_> = (1..=100).map(|number| finished(&store, number << 8 | 1).id()).collect();
    let (mut shown, mut after) = (Vec::new(), None);
    loop {
        let page = store.search("t", &TrailQuery { after, limit: 7, ..TrailQuery::default() });
        shown.extend(page.iter().map(|trail| trail.id));
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
    }
    assert_eq!(shown, ids.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn failures_and_the_slowest_outlive_a_flood_of_ordinary_ones() {
    let store = TrailStore::new(256 << 10, NotableBounds { bytes: 1 << 20, slowest: 16, failures: 16 });
    let agent = Subject { tenant: "t", invocation: Some(("agent", 3)) };
    let second = Duration::from_secs(1);
    let failed = ended(&store, agent, Duration::ZERO, vec![over(Came::Failed)], Ending::Status(200));
    let slow = ended(&store, CALL, 9 * second, vec![call_to("openai", true)], Ending::Status(200));
    for number in 0..40_000_u128 {
        finished(&store, number << 8 | 1);
    }
    assert!(recent(&store, usize::MAX).len() < 20_000, "most went");
    assert!(store.get("t", failed).is_some() && store.get("t", slow).is_some());
    let status = Some(StatusFilter::Failed);
    let found = store.search("t", &TrailQuery { status, limit: 9, ..TrailQuery::default() });
    assert_eq!(found.iter().map(|trail| trail.id).collect::<Vec<_>>(), [failed]);
}

#[test]
fn a_trail_keeps_so_many_tags_and_no_more() {
    let (store, trail) = (store_of(1 << 20), Trail::begin(TraceId::random()));
    let many: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    trail.tag(many.iter().map(|tag| Some(tag.into())).chain([None, Some("0".into())]));
    assert_eq!(trail.answered().unkept, 13, "of those that are new");
    store.finish(&trail, CALL, Ending::Status(200));
    assert_eq!(store.get("t", trail.id()).unwrap().summary.tags.len(), tags::MOST);
}
