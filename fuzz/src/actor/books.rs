//! What was let go at each destination, beside what its limits say.

use tidegate_core::{Cost, Limit, Settings, Time, shard::Brake};

/// Something that left, or will unless it is given up.
#[derive(Debug, Clone, Copy)]
struct Left {
    at: Time,
    endpoint: u64,
    cost: Cost,
    /// Its number among the steps.
    step: usize,
}

/// A limit in force without a break since a step; of an endpoint, or of all.
#[derive(Debug)]
struct InForce {
    of: Option<u64>,
    limit: Limit,
    since: usize,
}

/// The books of one destination.
#[derive(Debug)]
pub(crate) struct Books {
    /// Which settings it follows.
    pub(crate) settings: usize,
    /// And since which step.
    pub(crate) since: usize,
    limits: Vec<InForce>,
    /// Endpoints with limits of their own, and since which step without a break.
    pub(crate) limited: Vec<(u64, usize)>,
    left: Vec<Left>,
}

/// Where something stands in the books.
pub(crate) type Page = usize;

impl Books {
    pub(crate) fn new(number: usize, settings: &Settings, step: usize) -> Books {
        let (limits, limited, left) = (Vec::new(), Vec::new(), Vec::new());
        let mut books = Books { settings: number, since: step, limits, limited, left };
        books.follow(number, settings, step);
        books
    }

    /// Other settings are in force from this step on.
    pub(crate) fn follow(&mut self, number: usize, settings: &Settings, step: usize) {
        (self.settings, self.since) = (number, step);
        let own = settings.endpoints.iter().flat_map(|it| it.limits.iter().map(|limit| (Some(it.id), *limit)));
        let new: Vec<_> = settings.limits.iter().map(|limit| (None, *limit)).chain(own).collect();
        let mut before = std::mem::take(&mut self.limits);
        for (of, limit) in new {
            let same = before.iter().position(|old| old.of == of && old.limit == limit);
            let kept = same.map(|at| before.swap_remove(at));
            self.limits.push(kept.unwrap_or(InForce { of, limit, since: step }));
        }
        before.iter().for_each(|old| self.holds(old));
        let limited = settings.endpoints.iter().filter(|it| !it.limits.is_empty() || it.max_concurrency.is_some());
        let since = |id| self.limited.iter().find(|(other, _)| *other == id).map_or(step, |(_, since)| *since);
        self.limited = limited.map(|it| (it.id, since(it.id))).collect();
    }

    /// It was admitted, and counts from then.
    pub(crate) fn leaves(&mut self, endpoint: u64, cost: Cost, at: Time, step: usize) -> Page {
        self.left.push(Left { at, endpoint, cost, step });
        self.left.len() - 1
    }

    /// It did not leave after all.
    pub(crate) fn stays(&mut self, page: Page) {
        self.left[page].cost = Cost { requests: 0, tokens: 0 };
    }

    /// It used so many tokens. Who used more than was charged had them let through by nobody.
    pub(crate) fn used(&mut self, page: Page, tokens: u32) {
        let cost = &mut self.left[page].cost;
        cost.tokens = cost.tokens.min(tokens);
    }

    pub(crate) fn hold(&self) {
        self.limits.iter().for_each(|limit| self.holds(limit));
    }

    /// No half-open window of the limit's length holds more than its quota.
    fn holds(&self, InForce { of, limit, since }: &InForce) {
        let counts = |left: &&Left| left.step >= *since && of.is_none_or(|endpoint| left.endpoint == endpoint);
        // Time goes on from one admission to the next.
        let left: Vec<_> = self.left.iter().filter(counts).collect();
        let (mut from, mut sum) = (0, 0);
        for it in &left {
            sum += it.cost.of(limit.unit);
            while it.at.since(left[from].at) >= limit.per.0 {
                sum -= left[from].cost.of(limit.unit);
                from += 1;
            }
            assert!(sum <= limit.quota, "{sum} of {limit} of {of:?} until {:?}: {left:?}", it.at);
        }
    }
}

/// What an operator keeps from leaving, and from coming.
pub(crate) fn brakes(settings: &Settings, now: Time) -> (bool, bool) {
    match settings.brake {
        Brake::Paused { until } => (now < until, false),
        Brake::Draining { until } => (false, now < until),
        Brake::Off => (false, false),
    }
}
