//! What is written is read, times as well as promised.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq)]
struct All {
    times: [Time; 2],
    more: (Time, Option<Time>),
    small: u8,
    number: u32,
    below: i32,
    maybe: Option<Box<u32>>,
    part: f32,
    held: Option<f64>,
    yes: bool,
    no: bool,
    one: u32,
    two: u32,
    long: Duration,
    many: Box<[u16]>,
    none: Option<u8>,
    not: u8,
}
at_rest!(All { times, more, small, number, below, maybe, part, held, long, many }
    counts { one, two } flags { yes, no } else { none: None } beside { not });

fn written<T: Rest>(state: &T, now: Time) -> Vec<u8> {
    let mut bytes = vec![0xaa; length(state)];
    write(state, now, &mut bytes);
    bytes
}

fn rested(at: Time, now: Time) -> Time {
    let mut read = Time::from_millis(3);
    super::read(&written(&at, now), &mut read);
    read
}

/// What the last of 24 bits of a number is worth, or more.
fn step(of: u64) -> u64 {
    of >> 23
}

proptest! {
    #[test]
    fn what_is_written_is_read_whatever_was_there(
        now in 1u64 << 40..1 << 62, passed in prop::array::uniform3(0u64..1 << 24), small: u8, number: u32, below: i32,
        maybe: Option<u32>, held: Option<u16>, part in -1e6f32..1e6, (yes, no) in any::<(bool, bool)>(), long: u32,
        many in prop::collection::vec(any::<u16>(), 0..40),
    ) {
        let now = Time::from_nanos(now);
        let [a, b, c] = passed.map(|passed| Duration::from_nanos(passed << (passed % 16)));
        for (one, other) in [(now - a, now + b), (Time::ZERO, Time::NEVER), (now, now - a)] {
            let all = All {
                times: [one, other],
                more: (now - c, held.map(|_| now + b)),
                small,
                number,
                below,
                maybe: maybe.map(Box::new),
                part,
                held: held.map(f64::from),
                yes,
                no,
                one: number >> (below & 31),
                two: [0, u32::MAX, u32::from(u16::MAX), u32::from(u16::MAX) - 1][usize::from(small % 4)],
                long: Duration::from_micros(long.into()),
                many: many.clone().into(),
                none: None,
                not: 0,
            };
            let bytes = written(&all, now);
            let mut read = All::default();
            super::read(&bytes, &mut read);
            prop_assert_eq!(&read, &all);
            let mut read = All {
                times: [now; 2],
                more: (now, None),
                maybe: Some(Box::new(3)),
                many: [1, 2].into(),
                none: Some(1),
                not: 9,
                ..All::default()
            };
            super::read(&bytes, &mut read);
            prop_assert_eq!(&read, &All { not: 9, ..all });
        }
    }

    #[test]
    fn a_time_is_read_as_another_by_a_sixteen_millionth_of_what_passed(now in 0..LAST, passed: i64, less in 1u32..64) {
        let at = Time::from_nanos(now.saturating_add(passed >> less).clamp(0, LAST / 4 * 3) as u64);
        let now = Time::from_nanos(now as u64);
        let error = rested(at, now).as_nanos().abs_diff(at.as_nanos());
        let passed = now.as_nanos().abs_diff(at.as_nanos());
        prop_assert!(error <= step(passed) / 2 + 1, "{error} of {passed}");
    }

    #[test]
    fn no_time_is_read_as_before_one_that_was_before_it(now: u64, passed: i64, more: u64, less in 0u32..40) {
        let at = now.saturating_add_signed(passed >> less);
        let later = at.saturating_add(more >> less);
        let [now, at, later] = [now, at, later].map(Time::from_nanos);
        prop_assert!(rested(at, now) <= rested(later, now));
    }

    #[test]
    fn a_thousand_rests_move_a_time_by_no_more_than_chance_does(start in 1u64 << 40..1 << 60, seed: u64, less in 10u32..40) {
        let mut random = fastrand::Rng::with_seed(seed);
        let at = Time::from_nanos(start);
        let (mut now, mut moved) = (at, at);
        for _ in 0..1000 {
            now = now.plus_nanos(random.u64(..1 << 50) >> less);
            moved = rested(moved, now);
        }
        // As many errors of one side would be 500 steps.
        let passed = now.as_nanos() - at.as_nanos();
        let error = moved.as_nanos().abs_diff(at.as_nanos());
        prop_assert!(error <= 60 * step(passed).max(1), "{error} of {passed}");
    }
}

#[test]
fn counts_take_as_much_as_the_largest_needs() {
    let all = |one| All { one, ..All::default() };
    let least = length(&all(0));
    for (count, more) in [(1, 4), (65_534, 4), (65_535, 8), (u32::MAX - 1, 8), (u32::MAX, 4)] {
        assert_eq!(length(&all(count)), least + more, "{count}");
    }
}
