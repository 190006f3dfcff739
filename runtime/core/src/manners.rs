//! Where the work of a function runs: on the threads that all requests share, or beside them.
//!
//! Almost all work can be interrupted every millisecond, and what computes for long goes on elsewhere then. A single
//! operation can't (filling a memory, giving a big heap back): it keeps its thread for as long as it lasts. So a function
//! that did such a thing does its work elsewhere from then on, for a time that grows with what it took: it has a hundredth
//! of a shared thread at most. One that nobody knows yet begins on a thread for newcomers.

use std::time::Duration;

use crate::Time;

/// Work that can be interrupted never keeps a thread for so long.
pub const OVERSTAY: Duration = Duration::from_millis(10);
/// For how many times what it took a function stays away.
const TIMES: u32 = 100;
/// For how long at most.
const MOST: Duration = Duration::from_secs(600);

/// What is known of a function's way to share its threads: the time until which it stays away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners(Time);

/// Threads that work may run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Those of all requests.
    Shared,
    /// Those of functions of which no request was answered yet.
    Newcomers,
    /// Those of long computations.
    Hogs,
}

impl Manners {
    /// Of a function that nobody knows.
    pub const NEW: Self = Self(Time::NEVER);
    /// Of one that kept its thread once since: to touch its code for the first time takes long as well.
    const DOUBTED: Self = Self(Time::from_nanos(u64::MAX - 1));

    /// As [`Self::to_nanos`] had it.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(Time::from_nanos(nanos))
    }

    /// As one number.
    pub const fn to_nanos(self) -> u64 {
        self.0.as_nanos()
    }

    /// It kept a thread for so long without a break, until now.
    #[must_use]
    pub fn after(self, stretch: Duration, now: Time) -> Self {
        if stretch <= OVERSTAY {
            return self;
        }
        let until = now + stretch.saturating_mul(TIMES).min(MOST);
        match self {
            Self::NEW => Self::DOUBTED,
            Self::DOUBTED => Self(until),
            Self(before) => Self(before.max(until)),
        }
    }

    /// One of its requests was answered, and did not keep its thread just now.
    #[must_use]
    pub fn known(self) -> Self {
        if self.is_new() { Self(Time::ZERO) } else { self }
    }

    /// Whether none of its requests was.
    pub fn is_new(self) -> bool {
        matches!(self, Self::NEW | Self::DOUBTED)
    }

    /// Whether there is nothing that would keep it from the shared threads, whatever the time.
    pub fn is_trusted(self) -> bool {
        self.0 == Time::ZERO
    }

    /// Where its work runs now.
    pub fn threads(self, now: Time) -> Threads {
        match self {
            Self::NEW | Self::DOUBTED => Threads::Newcomers,
            Self(until) if now < until => Threads::Hogs,
            Self(_) => Threads::Shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_stretches() {
        let now = Time::from_millis(1_000_000);
        let ms = Duration::from_millis;
        let at = |ms: u64| Time::from_millis(1_000_000 + ms);
        let new = Manners::NEW;
        let known = new.known();
        let away = known.after(ms(300), now);
        for (name, manners, time, threads) in [
            ("nobody knows it", new, now, Threads::Newcomers),
            ("short work makes nobody known", new.after(ms(10), now), now, Threads::Newcomers),
            ("a request was answered", known, now, Threads::Shared),
            ("short work", known.after(ms(10), now), now, Threads::Shared),
            ("it overstayed", known.after(ms(11), now), now, Threads::Hogs),
            ("a hundred times what it took", known.after(ms(11), now), at(1_099), Threads::Hogs),
            ("and no longer", known.after(ms(11), now), at(1_100), Threads::Shared),
            ("a newcomer may overstay once", new.after(ms(300), now), now, Threads::Newcomers),
            ("and is known after that, too", new.after(ms(300), now).known(), now, Threads::Shared),
            ("but not twice", new.after(ms(300), now).after(ms(11), now), now, Threads::Hogs),
            ("an answer forgives nothing", away.known(), at(29_999), Threads::Hogs),
            ("a shorter one takes nothing back", away.after(ms(11), at(5)), at(29_999), Threads::Hogs),
            ("a later one counts from then", away.after(ms(300), at(20_000)), at(49_999), Threads::Hogs),
            ("there is an end to it", known.after(Duration::from_secs(60), now), at(600_000), Threads::Shared),
        ] {
            assert_eq!(manners.threads(time), threads, "{name}");
        }
        assert_eq!(Manners::from_nanos(away.to_nanos()), away);
        assert!(known.is_trusted() && !new.is_trusted() && !away.is_trusted());
    }
}
