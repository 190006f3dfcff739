//! What a million destinations at rest hold, everything counted, and how fast they admit: each was called by two regions
//! (two endpoints) and has learned a limit of each. Rates are per second of processor time, the best of several rounds, so
//! that they hold on a machine that is shared; the time of one admission is taken by the clock.
//!
//! `cargo run --release -p tidegate-benches --example at_rest [destinations]`
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a measurement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tidegate_core::{
    Attempt, Effective, Effects, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted, Time,
    endpoint::{EndpointSettings, Mask, Ranks, Ways},
    shard::Config,
};

/// The system's allocator, and how much of it is in use: by what was asked for, and by what that takes.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What a block of `size` takes of glibc's heap: 8 bytes more, in steps of 16, 32 at least.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

/// There is one thread: a count that others can't disturb costs what is measured least.
fn count(of: &AtomicUsize, change: impl Fn(usize, usize) -> usize, size: usize) {
    of.store(change(of.load(Ordering::Relaxed), size), Ordering::Relaxed);
}

// SAFETY: it passes everything on to the system's allocator, and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ASKED, usize::wrapping_add, layout.size());
        count(&TAKEN, usize::wrapping_add, taken(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(&ASKED, usize::wrapping_sub, layout.size());
        count(&TAKEN, usize::wrapping_sub, taken(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Calls in a round, rounds, and calls whose time is taken together.
const CALLS: usize = 1 << 18;
const ROUNDS: usize = 8;
const TOGETHER: usize = 128;

/// What is done with an admission before the next.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Nothing; all are released where no time is taken.
    Admissions,
    Released,
    /// It departs, is answered, and is released.
    Whole,
}

struct Rig {
    shard: Shard,
    config: Arc<Config>,
    policy: Effective,
    fx: Effects,
    now: Time,
}

/// A key as the host makes it: a hash.
fn key(number: u64) -> u128 {
    let mix = |n: u64| {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    u128::from(mix(number)) << 64 | u128::from(mix(!number))
}

impl Rig {
    fn submit(&mut self, number: u64, ways: Ways) -> Option<Permit> {
        let new = NewCall { ways, ..NewCall::by(self.now + Duration::from_secs(60)) };
        match self.shard.submit(self.now, key(number), &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => Some(permit),
            Submitted::Queued { call, .. } => {
                self.shard.release_call(self.now, call, &mut self.fx);
                None
            }
            Submitted::Refused(_) => None,
        }
    }

    fn answer(&mut self, permit: Permit, status: u16) {
        let outcome = Outcome::Answer { status, signal: Signal::default() };
        let attempt =
            Attempt { policy: &self.policy, repeatable: true, costs: false, replayable: true, keyed: false, spent: 0 };
        self.shard.report(self.now, permit, &outcome, &attempt, &mut self.fx);
        self.shard.release(self.now, permit, &mut self.fx);
    }

    /// Two dozen requests to each endpoint one after the other, then several at once that are refused, twice: a pace is
    /// learned.
    fn learn(&mut self, number: u64) {
        for index in 0..2 {
            let ways = Ways { allowed: Mask::of(index), preferred: Ranks::NONE };
            for _ in 0..2 {
                for _ in 0..24 {
                    self.now += Duration::from_millis(120);
                    if let Some(permit) = self.submit(number, ways) {
                        self.shard.departed(self.now, permit, &mut self.fx);
                        self.answer(permit, 200);
                    }
                }
                let at_once: Vec<Permit> = (0..4).filter_map(|_| self.submit(number, ways)).collect();
                for permit in &at_once {
                    self.shard.departed(self.now, *permit, &mut self.fx);
                }
                self.now += Duration::from_millis(1);
                at_once.into_iter().for_each(|permit| self.answer(permit, 429));
                self.now += Duration::from_secs(2);
            }
            for _ in 0..4 {
                self.now += Duration::from_secs(1);
                if let Some(permit) = self.submit(number, ways) {
                    self.shard.departed(self.now, permit, &mut self.fx);
                    self.answer(permit, 200);
                }
            }
        }
    }
}

/// Processor time of this thread.
fn busy() -> Duration {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    const THREAD: i32 = 3;
    let mut time = [0; 2];
    // SAFETY: two words are what a timespec is.
    unsafe { clock_gettime(THREAD, &raw mut time) };
    let [secs, nanos] = time.map(|part| u64::try_from(part).unwrap_or(0));
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn main() {
    let destinations: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let endpoints = (1..=2).map(|id| EndpointSettings { id, ..EndpointSettings::default() }).collect();
    let settings = Settings { endpoints, ..Settings::default() };
    let capacity = usize::try_from(destinations).unwrap();
    let mut rig = Rig {
        shard: Shard::with_capacity(1, capacity),
        config: Arc::new(Config::new(&settings).unwrap()),
        policy: Effective::default(),
        fx: Effects::default(),
        now: Time::from_millis(1_000_000),
    };
    let (asked, before) = (ASKED.load(Ordering::Relaxed), resident());
    let taken = TAKEN.load(Ordering::Relaxed);
    let started = Instant::now();
    for number in 0..destinations {
        // All of them live in the same time, and come to rest.
        rig.now = Time::from_millis(1_000_000);
        rig.learn(number);
    }
    rig.now = Time::from_millis(3_000_000);
    println!("made in {:?}", started.elapsed());
    let learned = (0..destinations)
        .filter(|number| rig.shard.snapshot(rig.now, key(*number)).is_some_and(|it| it.learned_rate.is_some()))
        .count();
    println!("{learned} of {destinations} learned a pace for each of two endpoints");
    let each = |bytes: usize| bytes as f64 / destinations as f64;
    println!(
        "{:.0} bytes each asked for, {:.0} with what the heap adds, {:.0} resident; an actor itself {}",
        each(ASKED.load(Ordering::Relaxed) - asked),
        each(TAKEN.load(Ordering::Relaxed) - taken),
        each(resident() - before),
        Shard::actor_size(),
    );
    let mut random = 1u64;
    let mut anyone = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % destinations
    };
    for kind in [Kind::Admissions, Kind::Released, Kind::Whole] {
        let (mut best, mut slowest) = (Duration::MAX, Duration::ZERO);
        let mut admitted = 0;
        for _ in 0..ROUNDS {
            let mut spent = Duration::ZERO;
            for _ in 0..CALLS / TOGETHER {
                let mut permits = [None; TOGETHER];
                let numbers = [(); TOGETHER].map(|()| anyone());
                let started = busy();
                for (permit, number) in permits.iter_mut().zip(numbers) {
                    rig.now = rig.now.plus_nanos(20_000);
                    *permit = rig.submit(number, Ways::ANY);
                    admitted += usize::from(permit.is_some());
                    let Some(given) = *permit else { continue };
                    match kind {
                        Kind::Admissions => continue,
                        Kind::Released => rig.shard.release(rig.now, given, &mut rig.fx),
                        Kind::Whole => {
                            rig.shard.departed(rig.now, given, &mut rig.fx);
                            rig.answer(given, 200);
                        }
                    }
                    *permit = None;
                }
                spent += busy() - started;
                permits.into_iter().flatten().for_each(|permit| rig.shard.release(rig.now, permit, &mut rig.fx));
            }
            (best, slowest) = (best.min(spent), slowest.max(spent));
        }
        let rate = |time: Duration| CALLS as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{kind:?}: {:.2} million a second, {:.2} in the slowest round; {admitted} of {} admitted",
            rate(best),
            rate(slowest),
            CALLS * ROUNDS,
        );
    }
    let mut took: Vec<u64> = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        rig.now = rig.now.plus_nanos(20_000);
        let (number, started) = (anyone(), Instant::now());
        let permit = rig.submit(number, Ways::ANY);
        took.push(u64::try_from(started.elapsed().as_nanos()).unwrap());
        permit.into_iter().for_each(|permit| rig.shard.release(rig.now, permit, &mut rig.fx));
    }
    println!("{:.0} bytes resident each after all that", each(resident() - before));
    took.sort_unstable();
    println!("one admission: p50 {} ns, p99 {} ns, by the clock", took[CALLS / 2], took[CALLS / 100 * 99]);
}
