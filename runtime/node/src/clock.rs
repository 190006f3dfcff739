//! The clocks of the process, as what every request reads of them.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// A processor that was idle may be a tick behind the last one.
const TICKS: u64 = 2;

struct Base {
    instant: Instant,
    /// The same by the clock of the system, in nanoseconds, less [`TICKS`].
    monotonic: u64,
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let monotonic = nanos_of(clock_gettime(ClockId::Monotonic));
    let tick = nanos_of(clock_getres(ClockId::MonotonicCoarse));
    Base { instant: Instant::now(), monotonic: monotonic.saturating_sub(tick * TICKS) }
});

fn nanos_of(time: Timespec) -> u64 {
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Nanoseconds since the process first asked. Monotonic, for arithmetic in atomics.
pub(crate) fn nanos() -> u64 {
    nanos_at(Instant::now())
}

/// The same at an instant that was read already.
pub(crate) fn nanos_at(instant: Instant) -> u64 {
    instant.saturating_duration_since(BASE.instant).as_nanos() as u64
}

/// [`nanos`] as the system's last tick has it, with two ticks on top: bounds that are measured from here are hardly ever
/// passed before their time, and a few milliseconds after it. Costs a fifth of the exact one.
pub(crate) fn coarse() -> u64 {
    nanos_of(clock_gettime(ClockId::MonotonicCoarse)).saturating_sub(BASE.monotonic)
}

/// The time of day, or up to one tick of the system earlier.
pub(crate) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos_of(clock_gettime(ClockId::RealtimeCoarse)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_is_hardly_ever_early_and_little_late() {
        let tick = nanos_of(clock_getres(ClockId::MonotonicCoarse));
        let (mut early, mut late) = (0, 0);
        for _ in 0..100 {
            // Not all within one tick, which may be late.
            std::thread::sleep(Duration::from_millis(1));
            let (before, coarse, after) = (nanos(), coarse(), nanos());
            early += usize::from(coarse < before);
            late += usize::from(coarse > after + tick * TICKS);
        }
        assert!(early < 30 && late == 0, "{early} {late}");
        let off = wall().duration_since(SystemTime::now()).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(1), "{off:?}");
    }
}
