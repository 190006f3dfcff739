//! What the upstream saw.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

/// What the upstream saw since it began or was reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Requests to the limited paths.
    pub requests: u64,
    /// Those that passed the limit.
    pub accepted: u64,
    /// Those that were answered 429.
    pub refused: u64,
    /// Those that were answered with a server error.
    pub failed: u64,
    /// Those that stalled before the head.
    pub slow: u64,
    /// Those whose connection was closed without an answer.
    pub dropped: u64,
    /// Those whose client went away before the answer's end.
    pub cancelled: u64,
    /// Those that got their whole answer, whatever it was.
    pub finished: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Most requests in flight at once.
    pub max_in_flight: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Most requests that passed in any half-open period of the limit (of a second, without one).
    pub busiest_period: u64,
    /// The first request, milliseconds since the beginning.
    pub first_ms: Option<u64>,
    /// The last request, milliseconds since the beginning.
    pub last_ms: Option<u64>,
    /// Requests that passed in each second since the beginning, the first hour.
    pub accepted_per_second: Vec<u32>,
}

/// One request, as `GET /__stats?requests=1` lists it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Seen {
    /// Arrival, microseconds since the beginning.
    pub(super) at_us: u64,
    /// How it was met.
    pub(super) outcome: Outcome,
}

/// How a request was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// Let through the limit.
    Accepted,
    /// 429.
    Refused,
}

/// Requests that are remembered one by one.
const MAX_SEEN: usize = 100_000;
/// Seconds that are counted one by one.
const MAX_SECONDS: usize = 3_600;

/// The book that requests are entered in.
#[derive(Clone)]
pub(super) struct Book(Arc<Inner>);

struct Inner {
    period: Duration,
    page: Mutex<Page>,
}

struct Page {
    began: Instant,
    /// Rises with each reset, so that a request from before one is not counted out of the new page.
    era: u64,
    stats: Stats,
    seen: Vec<Seen>,
    /// Arrivals that passed within the last period, for the busiest one.
    window: std::collections::VecDeque<Duration>,
}

impl Book {
    /// An empty book whose busiest period is this long.
    pub(super) fn new(period: Duration) -> Self {
        let page = Page {
            began: Instant::now(),
            era: 0,
            stats: Stats::default(),
            seen: Vec::new(),
            window: std::collections::VecDeque::new(),
        };
        Self(Arc::new(Inner { period, page: Mutex::new(page) }))
    }

    /// Enters a request.
    pub(super) fn arrive(&self) -> Ticket {
        let mut page = self.0.page.lock();
        let at = page.began.elapsed();
        let stats = &mut page.stats;
        stats.requests += 1;
        stats.in_flight += 1;
        stats.max_in_flight = stats.max_in_flight.max(stats.in_flight);
        stats.first_ms.get_or_insert(at.as_millis() as u64);
        stats.last_ms = Some(at.as_millis() as u64);
        Ticket { book: self.clone(), era: page.era, number: page.stats.requests, finished: false, release: None }
    }

    /// Enters a connection.
    pub(super) fn connection(&self) {
        self.0.page.lock().stats.connections += 1;
    }

    /// The page as it stands.
    pub(super) fn stats(&self) -> Stats {
        self.0.page.lock().stats.clone()
    }

    /// The first requests, one by one.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.page.lock().seen.clone()
    }

    /// Turns to an empty page.
    pub(super) fn reset(&self) {
        let mut page = self.0.page.lock();
        page.began = Instant::now();
        page.era += 1;
        page.stats = Stats::default();
        page.seen = Vec::new();
        page.window.clear();
    }
}

/// One request between its arrival and its end. Dropped before [`Ticket::finished`], its client went away.
pub(super) struct Ticket {
    book: Book,
    era: u64,
    number: u64,
    finished: bool,
    release: Option<Box<dyn FnOnce() + Send>>,
}

impl Ticket {
    /// Number of the request, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Runs when the request is over, however it ends.
    pub(super) fn at_end(&mut self, release: impl FnOnce() + Send + 'static) {
        self.release = Some(Box::new(release));
    }

    /// The limit let it pass.
    pub(super) fn accepted(&self) {
        let period = self.book.0.period;
        self.on_page(|page| {
            let at = page.began.elapsed();
            page.stats.accepted += 1;
            let second = at.as_secs() as usize;
            if second < MAX_SECONDS {
                if page.stats.accepted_per_second.len() <= second {
                    page.stats.accepted_per_second.resize(second + 1, 0);
                }
                if let Some(count) = page.stats.accepted_per_second.get_mut(second) {
                    *count += 1;
                }
            }
            while page.window.front().is_some_and(|first| *first + period <= at) {
                page.window.pop_front();
            }
            // Without a limit a long period could hold any number of requests.
            if page.window.len() < MAX_SEEN {
                page.window.push_back(at);
            }
            page.stats.busiest_period = page.stats.busiest_period.max(page.window.len() as u64);
            page.enter(at, Outcome::Accepted);
        });
    }

    /// The limit refused it.
    pub(super) fn refused(&self) {
        self.on_page(|page| {
            page.stats.refused += 1;
            let at = page.began.elapsed();
            page.enter(at, Outcome::Refused);
        });
    }

    /// It is answered with a server error.
    pub(super) fn failed(&self) {
        self.on_page(|page| page.stats.failed += 1);
    }

    /// It stalls.
    pub(super) fn slow(&self) {
        self.on_page(|page| page.stats.slow += 1);
    }

    /// Its connection is closed on purpose.
    pub(super) fn dropped(mut self) {
        self.finished = true;
        self.on_page(|page| page.stats.dropped += 1);
    }

    /// The last byte of its answer was handed over.
    pub(super) fn finished(mut self) {
        self.finished = true;
        self.on_page(|page| page.stats.finished += 1);
    }

    fn on_page(&self, change: impl FnOnce(&mut Page)) {
        let mut page = self.book.0.page.lock();
        if page.era == self.era {
            change(&mut page);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
        let cancelled = !self.finished;
        self.on_page(|page| {
            page.stats.in_flight = page.stats.in_flight.saturating_sub(1);
            page.stats.cancelled += u64::from(cancelled);
        });
    }
}

impl Page {
    fn enter(&mut self, at: Duration, outcome: Outcome) {
        if self.seen.len() < MAX_SEEN {
            self.seen.push(Seen { at_us: at.as_micros() as u64, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_dropped_unanswered_was_cancelled_and_leaves_nothing_in_flight() {
        let book = Book::new(Duration::from_secs(1));
        let (first, second) = (book.arrive(), book.arrive());
        first.accepted();
        first.finished();
        drop(second);
        let stats = book.stats();
        assert_eq!((stats.requests, stats.accepted, stats.finished, stats.cancelled), (2, 1, 1, 1));
        assert_eq!((stats.in_flight, stats.max_in_flight, stats.busiest_period), (0, 2, 1));
    }

    #[test]
    fn a_request_from_before_a_reset_does_not_count_after_it() {
        let book = Book::new(Duration::from_secs(1));
        let old = book.arrive();
        book.reset();
        old.accepted();
        drop(old);
        assert_eq!(book.stats(), Stats::default());
    }
}
