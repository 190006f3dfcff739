//! Failed and slow trails, kept apart from the others: a flood of ordinary ones would push them out before anybody looks.
//!
//! Of each hour and subject (a function, a configured destination, all other destinations of a tenant together) a few
//! are kept: those that failed last, and the slowest of the others. What is beyond the bound in bytes goes hour by hour,
//! the oldest first; within the only hour that is left the subject that keeps most gives way.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How much is kept apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotableBounds {
    /// Bytes in all.
    pub bytes: u64,
    /// Slowest trails of an hour and subject.
    pub slowest: usize,
    /// Failed ones.
    pub failures: usize,
}

impl NotableBounds {
    /// The share of one of so many parts, rounded up: who asks for one gets one.
    pub(super) fn part(self, of: usize) -> Self {
        Self { bytes: self.bytes / of as u64, slowest: self.slowest.div_ceil(of), failures: self.failures.div_ceil(of) }
    }
}

/// What a trail takes besides its bytes: its count of references, its place, what the allocator adds.
const TRAIL_OVERHEAD: u64 = 64;
/// What a subject of an hour takes besides its trails, its share of a table that has just grown included.
const SUBJECT_OVERHEAD: u64 = 320;
/// What an hour takes besides its subjects.
const HOUR_OVERHEAD: u64 = 640;
/// One trail takes at most this part of the bytes.
const LARGEST: u64 = 8;

/// A trail that asks to be kept.
pub(super) struct Candidate<'a> {
    /// The hour in which it ended, since 1970.
    pub(super) hour: u64,
    /// Whose it is, as a hash.
    pub(super) subject: u64,
    /// Whether it failed or was refused.
    pub(super) failed: bool,
    /// What is compared.
    pub(super) took: Duration,
    /// What is kept.
    pub(super) bytes: &'a [u8],
}

/// Those that are kept.
#[derive(Default)]
pub(super) struct Notable {
    /// The oldest first.
    hours: VecDeque<Hour>,
    bytes: u64,
}

#[derive(Default)]
struct Hour {
    number: u64,
    subjects: HashMap<u64, Few>,
}

#[derive(Default)]
struct Few {
    slow: Vec<(Duration, Arc<[u8]>)>,
    failed: VecDeque<Arc<[u8]>>,
    bytes: u64,
}

fn cost(trail: &[u8]) -> u64 {
    trail.len() as u64 + TRAIL_OVERHEAD
}

impl Few {
    /// Keeps a trail where it is one of the few; how many bytes that takes more.
    fn offer(&mut self, trail: &Candidate<'_>, bounds: &NotableBounds) -> i64 {
        let before = self.bytes;
        if trail.failed {
            if bounds.failures == 0 {
                return 0;
            }
            if self.failed.len() >= bounds.failures
                && let Some(oldest) = self.failed.pop_front()
            {
                self.bytes -= cost(&oldest);
            }
            self.failed.reserve_exact(1);
            self.failed.push_back(trail.bytes.into());
        } else if self.slow.len() < bounds.slowest {
            self.slow.reserve_exact(1);
            self.slow.push((trail.took, trail.bytes.into()));
        } else {
            let fastest = self.slow.iter_mut().min_by_key(|(took, _)| *took);
            let Some(fastest) = fastest.filter(|(took, _)| *took < trail.took) else { return 0 };
            self.bytes -= cost(&fastest.1);
            *fastest = (trail.took, trail.bytes.into());
        }
        self.bytes += cost(trail.bytes);
        self.bytes as i64 - before as i64
    }

    /// Gives up one trail: the failed one that is oldest, then the fastest of the slow; how many bytes that frees.
    fn shrink(&mut self) -> u64 {
        let gone = self.failed.pop_front().or_else(|| {
            let (fastest, _) = self.slow.iter().enumerate().min_by_key(|(_, (took, _))| *took)?;
            Some(self.slow.swap_remove(fastest).1)
        });
        let freed = gone.map_or(0, |trail| cost(&trail));
        self.bytes -= freed;
        freed
    }
}

impl Notable {
    /// Keeps a trail where it is one of the few of its subject and hour.
    pub(super) fn offer(&mut self, trail: &Candidate<'_>, bounds: &NotableBounds) {
        if cost(trail.bytes) + SUBJECT_OVERHEAD + HOUR_OVERHEAD > bounds.bytes / LARGEST {
            return;
        }
        // A trail that ends while the hour changes may come a moment late.
        let newest = self.hours.back().map_or(0, |hour| hour.number);
        if self.hours.is_empty() || newest < trail.hour {
            self.hours.push_back(Hour { number: trail.hour, ..Hour::default() });
            self.bytes += HOUR_OVERHEAD;
        }
        let Some(hour) = self.hours.back_mut() else { return };
        let subject = hour.subjects.entry(trail.subject).or_insert_with(|| {
            self.bytes += SUBJECT_OVERHEAD;
            Few::default()
        });
        let more = subject.offer(trail, bounds);
        self.bytes = self.bytes.saturating_add_signed(more);
        while self.bytes > bounds.bytes && self.make_room() {}
    }

    /// Gives something up; whether there was anything.
    fn make_room(&mut self) -> bool {
        if self.hours.len() > 1
            && let Some(oldest) = self.hours.pop_front()
        {
            let subjects = oldest.subjects.values().map(|few| few.bytes + SUBJECT_OVERHEAD);
            self.bytes -= subjects.sum::<u64>() + HOUR_OVERHEAD;
            return true;
        }
        let Some(hour) = self.hours.back_mut() else { return false };
        let Some((&subject, few)) = hour.subjects.iter_mut().max_by_key(|(_, few)| few.bytes) else { return false };
        self.bytes -= few.shrink();
        if few.slow.is_empty() && few.failed.is_empty() {
            hour.subjects.remove(&subject);
            self.bytes -= SUBJECT_OVERHEAD;
        }
        true
    }

    /// All that are kept, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        let few = self.hours.iter().flat_map(|hour| hour.subjects.values());
        few.flat_map(|few| few.failed.iter().chain(few.slow.iter().map(|(_, trail)| trail)))
    }

    /// Their memory, bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: NotableBounds = NotableBounds { bytes: 64 << 10, slowest: 2, failures: 3 };

    fn trail(hour: u64, subject: u64, millis: u64, failed: bool, bytes: &[u8]) -> Candidate<'_> {
        Candidate { hour, subject, failed, took: Duration::from_millis(millis), bytes }
    }

    fn kept(notable: &Notable) -> Vec<String> {
        let mut all: Vec<_> = notable.all().map(|trail| String::from_utf8_lossy(trail).into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn the_slowest_and_the_last_failures_of_each_hour_and_subject_stay() {
        let mut notable = Notable::default();
        for hour in [7, 8] {
            for subject in [1, 2] {
                for number in 0..5_u64 {
                    let slow = format!("{hour}/{subject} took {number}");
                    notable.offer(&trail(hour, subject, number * 7 % 5, false, slow.as_bytes()), &BOUNDS);
                    let failed = format!("{hour}/{subject} failed {number}");
                    notable.offer(&trail(hour, subject, 1, true, failed.as_bytes()), &BOUNDS);
                }
            }
        }
        let of =
            |name: &str| ["failed 2", "failed 3", "failed 4", "took 2", "took 4"].map(|what| format!("{name} {what}"));
        let wanted: Vec<_> = ["7/1", "7/2", "8/1", "8/2"].into_iter().flat_map(of).collect();
        assert_eq!(kept(&notable), wanted);
    }

    #[test]
    fn the_oldest_hour_goes_first_and_then_the_subject_that_keeps_most_gives_way() {
        let mut notable = Notable::default();
        let large = [b'x'; 4_000];
        notable.offer(&trail(1, 1, 9, true, b"old"), &BOUNDS);
        notable.offer(&trail(2, 1, 9, true, b"small"), &BOUNDS);
        for subject in 2..40 {
            for _ in 0..3 {
                notable.offer(&trail(2, subject, 9, true, &large), &BOUNDS);
            }
        }
        assert!(notable.held() <= BOUNDS.bytes && notable.held() > BOUNDS.bytes / 2);
        let kept = kept(&notable);
        assert!(!kept.contains(&"old".to_owned()) && kept.contains(&"small".to_owned()));
    }

    #[test]
    fn none_is_kept_where_none_is_asked_for_and_none_that_would_push_out_all_others() {
        let mut notable = Notable::default();
        notable.offer(&trail(1, 1, 9, true, b"x"), &NotableBounds { failures: 0, ..BOUNDS });
        notable.offer(&trail(1, 1, 9, false, b"x"), &NotableBounds { slowest: 0, ..BOUNDS });
        notable.offer(&trail(1, 1, 9, true, &[0; 10_000]), &BOUNDS);
        notable.offer(&trail(1, 1, 9, true, b"x"), &NotableBounds::default());
        assert!(kept(&notable).is_empty());
    }
}
