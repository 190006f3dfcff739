//! Four ways in which upstreams count, as pure state: the time comes in, a verdict comes out.

use std::{collections::VecDeque, time::Duration};

use super::options::{LimiterKind, Quota};

/// What a limiter says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may pass.
    Passed(Room),
    /// It may not.
    Refused(Room),
}

/// What a limiter has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Requests that would pass right now.
    pub(super) remaining: u32,
    /// Time until the limiter is as if unused.
    pub(super) full_in: Duration,
    /// Time until one more request would pass; zero where one would now.
    pub(super) next_in: Duration,
}

/// One limiter.
#[derive(Debug)]
pub(super) struct Limiter {
    quota: Quota,
    count_refused: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Bucket { size: f64, tokens: f64, at: Duration },
    Sliding { times: VecDeque<Duration> },
    Fixed { window: u128, count: u32 },
    Concurrency { in_flight: u32 },
}

/// What a concurrency limit tells a client to wait: it can't know when a slot comes free.
const SLOT_HINT: Duration = Duration::from_secs(1);

impl Limiter {
    /// A limiter that is unused.
    pub(super) fn new(kind: LimiterKind, quota: Quota, burst: Option<u32>, count_refused: bool) -> Self {
        let size = f64::from(burst.unwrap_or(quota.count).max(1));
        let state = match kind {
            LimiterKind::TokenBucket => State::Bucket { size, tokens: size, at: Duration::ZERO },
            LimiterKind::SlidingWindow => State::Sliding { times: VecDeque::new() },
            LimiterKind::FixedWindow => State::Fixed { window: 0, count: 0 },
            LimiterKind::Concurrency => State::Concurrency { in_flight: 0 },
        };
        Self { quota, count_refused, state }
    }

    /// Asks for one request at `now`, a time that never falls.
    pub(super) fn ask(&mut self, now: Duration) -> Verdict {
        let Quota { count: quota, per } = self.quota;
        let count_refused = self.count_refused;
        match &mut self.state {
            State::Bucket { size, tokens, at } => {
                let rate = f64::from(quota) / per.as_secs_f64();
                *tokens = (*tokens + now.saturating_sub(*at).as_secs_f64() * rate).min(*size);
                *at = now;
                // A billionth below one is one: refilling in many small steps must not lose a token to rounding.
                let passes = *tokens >= 1.0 - 1e-9;
                if passes || count_refused {
                    *tokens = (*tokens - 1.0).max(-*size);
                }
                let room = Room {
                    remaining: tokens.max(0.0) as u32,
                    full_in: Duration::from_secs_f64((*size - *tokens) / rate),
                    next_in: Duration::from_secs_f64((1.0 - *tokens).max(0.0) / rate),
                };
                verdict(passes, room)
            }
            State::Sliding { times } => {
                while times.front().is_some_and(|first| *first + per <= now) {
                    times.pop_front();
                }
                let passes = times.len() < quota as usize;
                if !passes && count_refused {
                    times.pop_front();
                }
                if passes || count_refused {
                    times.push_back(now);
                }
                let until = |time: Option<&Duration>| time.map_or(Duration::ZERO, |time| (*time + per) - now);
                let remaining = quota.saturating_sub(times.len() as u32);
                let next_in = if remaining > 0 { Duration::ZERO } else { until(times.front()) };
                verdict(passes, Room { remaining, full_in: until(times.back()), next_in })
            }
            State::Fixed { window, count } => {
                let this = now.as_nanos() / per.as_nanos().max(1);
                if this != *window {
                    (*window, *count) = (this, 0);
                }
                let passes = *count < quota;
                if passes {
                    *count += 1;
                }
                let end = per.as_nanos() * (this + 1) - now.as_nanos();
                let end = Duration::from_nanos(u64::try_from(end).unwrap_or(u64::MAX));
                let remaining = quota - *count;
                let next_in = if remaining > 0 { Duration::ZERO } else { end };
                verdict(passes, Room { remaining, full_in: end, next_in })
            }
            State::Concurrency { in_flight } => {
                let passes = *in_flight < quota;
                if passes {
                    *in_flight += 1;
                }
                let remaining = quota - *in_flight;
                let hint = if remaining > 0 { Duration::ZERO } else { SLOT_HINT };
                verdict(passes, Room { remaining, full_in: hint, next_in: hint })
            }
        }
    }

    /// A request that had passed is over.
    pub(super) fn release(&mut self) {
        if let State::Concurrency { in_flight } = &mut self.state {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// The quota it keeps.
    pub(super) fn quota(&self) -> Quota {
        self.quota
    }
}

fn verdict(passes: bool, room: Room) -> Verdict {
    if passes { Verdict::Passed(room) } else { Verdict::Refused(room) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limiter(kind: LimiterKind, count: u32, burst: Option<u32>) -> Limiter {
        Limiter::new(kind, Quota { count, per: Duration::from_secs(1) }, burst, false)
    }

    fn passes(limiter: &mut Limiter, at_ms: u64) -> bool {
        matches!(limiter.ask(Duration::from_millis(at_ms)), Verdict::Passed(_))
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = limiter(LimiterKind::TokenBucket, 10, Some(2));
        assert!(passes(&mut bucket, 0) && passes(&mut bucket, 0));
        let Verdict::Refused(room) = bucket.ask(Duration::ZERO) else { panic!("a third at once passed") };
        assert_eq!(room.next_in, Duration::from_millis(100));
        assert!(!passes(&mut bucket, 99));
        assert!(passes(&mut bucket, 100));
    }

    #[test]
    fn a_sliding_window_forgets_each_request_after_its_own_period() {
        let mut window = limiter(LimiterKind::SlidingWindow, 2, None);
        assert!(passes(&mut window, 0) && passes(&mut window, 900));
        let Verdict::Refused(room) = window.ask(Duration::from_millis(950)) else { panic!("a third passed") };
        assert_eq!(room.next_in, Duration::from_millis(50));
        assert!(passes(&mut window, 1_000));
        assert!(!passes(&mut window, 1_100));
    }

    #[test]
    fn a_fixed_window_lets_twice_the_quota_pass_around_its_edge() {
        let mut window = limiter(LimiterKind::FixedWindow, 2, None);
        assert!(passes(&mut window, 999) && passes(&mut window, 999) && !passes(&mut window, 999));
        assert!(passes(&mut window, 1_000) && passes(&mut window, 1_000));
    }

    #[test]
    fn a_concurrency_limit_counts_what_is_in_flight() {
        let mut slots = limiter(LimiterKind::Concurrency, 1, None);
        assert!(passes(&mut slots, 0) && !passes(&mut slots, 10_000));
        slots.release();
        assert!(passes(&mut slots, 10_001));
    }

    #[test]
    fn where_refusals_count_a_client_that_never_pauses_never_passes_again() {
        let quota = Quota { count: 2, per: Duration::from_secs(1) };
        for kind in [LimiterKind::SlidingWindow, LimiterKind::TokenBucket] {
            let mut limiter = Limiter::new(kind, quota, None, true);
            assert!(passes(&mut limiter, 0) && passes(&mut limiter, 0));
            for step in 1..100 {
                assert!(!passes(&mut limiter, step * 100), "{kind:?} at {step}");
            }
        }
    }

    proptest! {
        /// Whoever waits as long as an honest limiter says is never refused, and never could have gone a millisecond earlier.
        #[test]
        fn the_wait_it_names_is_exact(
            gaps in prop::collection::vec(0_u64..400, 1..60),
            kind in prop::sample::select(vec![
                LimiterKind::TokenBucket, LimiterKind::SlidingWindow, LimiterKind::FixedWindow,
            ]),
        ) {
            let mut subject = limiter(kind, 5, None);
            let mut now = Duration::ZERO;
            for gap in gaps {
                now += Duration::from_millis(gap);
                if let Verdict::Refused(room) = subject.ask(now) {
                    let early = room.next_in.saturating_sub(Duration::from_millis(1));
                    prop_assert!(matches!(subject.ask(now + early), Verdict::Refused(_)));
                    now += room.next_in + Duration::from_nanos(2);
                    prop_assert!(matches!(subject.ask(now), Verdict::Passed(_)));
                }
            }
        }
    }
}
