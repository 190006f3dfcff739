//! What is counted of the calls to each destination.
//!
//! Configured destinations count by their names, all others together as `other`: no caller can make a node hold a series
//! for each URL it invents.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use tidegate_core::repeat::Class;

use super::{
    cached::{Cached, CachedCounts},
    times::Times,
};

/// Outcomes of calls, as the label says them.
const OUTCOMES: [&str; 7] = ["2xx", "3xx", "4xx", "5xx", "refused", "failed", "cancelled"];

/// What attempts came to, as the core tells it apart.
const CLASSES: [(Class, &str); 5] = [
    (Class::Accepted, "accepted"),
    (Class::Refused, "refused"),
    (Class::Denied, "denied"),
    (Class::Down, "down"),
    (Class::Faulty, "faulty"),
];

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// With an answer of the upstream.
    Answer(u16),
    /// The gate refused it, for a kind of problem.
    Refused(&'static str),
    /// Without an answer.
    Failed,
    /// Its sender went away.
    Cancelled,
}

/// The counts of one destination.
#[derive(Debug, Default)]
pub struct DestinationCounts {
    calls: [AtomicU64; OUTCOMES.len()],
    turned_away: Mutex<BTreeMap<&'static str, u64>>,
    attempts: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    came: [AtomicU64; CLASSES.len()],
    refusals: Mutex<BTreeMap<u16, u64>>,
    stream_errors: AtomicU64,
    tokens: AtomicU64,
    cached: CachedCounts,
    queued: AtomicI64,
    waits: Times,
    upstream: Times,
}

/// A call that waits, as long as this lives.
pub struct QueuedCall<'a>(&'a DestinationCounts);

impl Drop for QueuedCall<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Relaxed);
    }
}

impl DestinationCounts {
    /// A call ended after it had waited so long.
    pub fn call(&self, ended: Ended, waited: Duration) {
        let index = match ended {
            Ended::Answer(..300) => 0,
            Ended::Answer(300..400) => 1,
            Ended::Answer(400..500) => 2,
            Ended::Answer(500..) => 3,
            Ended::Refused(kind) => {
                *self.turned_away.lock().entry(kind).or_default() += 1;
                4
            }
            Ended::Failed => 5,
            Ended::Cancelled => 6,
        };
        if let Some(count) = self.calls.get(index) {
            count.fetch_add(1, Relaxed);
        }
        self.waits.observe(waited);
    }

    /// An attempt leaves the node.
    pub fn attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    /// A call is sent again at the cost of an attempt.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// A copy of a call under way is sent.
    pub fn hedge(&self) {
        self.hedges.fetch_add(1, Relaxed);
    }

    /// An attempt came to this; with a status where it was answered.
    pub fn came(&self, class: Class, status: Option<u16>) {
        let index = CLASSES.iter().position(|(known, _)| *known == class);
        if let Some(count) = index.and_then(|index| self.came.get(index)) {
            count.fetch_add(1, Relaxed);
        }
        if let (Class::Refused | Class::Denied, Some(status)) = (class, status) {
            *self.refusals.lock().entry(status).or_default() += 1;
        }
    }

    /// The head of an upstream's answer took this long.
    pub fn answered(&self, first_byte: Duration) {
        self.upstream.observe(first_byte);
    }

    /// An answer that began well says in its midst that it failed.
    pub fn stream_error(&self) {
        self.stream_errors.fetch_add(1, Relaxed);
    }

    /// An answer says that it used so many tokens.
    pub fn used(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Relaxed);
    }

    /// The cache did this for a call.
    pub fn cache(&self, how: Cached) {
        self.cached.count(how);
    }

    /// A call waits.
    pub fn queued(&self) -> QueuedCall<'_> {
        self.queued.fetch_add(1, Relaxed);
        QueuedCall(self)
    }
}

/// The counts of all destinations.
#[derive(Clone, Default)]
pub(super) struct ByDestination(Arc<RwLock<BTreeMap<String, Arc<DestinationCounts>>>>);

impl ByDestination {
    /// Those of one; it has some from now on.
    pub(super) fn of(&self, destination: &str) -> Arc<DestinationCounts> {
        if let Some(known) = self.0.read().get(destination) {
            return Arc::clone(known);
        }
        Arc::clone(self.0.write().entry(destination.to_owned()).or_default())
    }

    /// Forgets those of a destination that is gone.
    pub(super) fn forget(&self, destination: &str) {
        self.0.write().remove(destination);
    }
}

impl fmt::Debug for ByDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.read().keys()).finish()
    }
}

type All<'a> = &'a BTreeMap<String, Arc<DestinationCounts>>;

/// Series by destination alone.
fn plain(
    encoder: &mut DescriptorEncoder<'_>,
    all: All<'_>,
    (name, help): (&str, &str),
    of: impl Fn(&DestinationCounts) -> u64,
) -> fmt::Result {
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (destination, counts) in all {
        let labels = [("destination", destination.as_str())];
        series.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&of(counts), None)?;
    }
    Ok(())
}

/// Series by destination and something else.
fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    all: All<'_>,
    (name, help, label): (&str, &str, &str),
    of: impl Fn(&DestinationCounts) -> Vec<(String, u64)>,
) -> fmt::Result {
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (destination, counts) in all {
        for (value, count) in of(counts) {
            let labels = [("destination", destination.as_str()), (label, value.as_str())];
            series.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    all: All<'_>,
    (name, help): (&str, &str),
    of: impl Fn(&DestinationCounts) -> &Times,
) -> fmt::Result {
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (destination, counts) in all {
        let sum = of(counts).sum();
        let labels = [("destination", destination.as_str())];
        let mut family = series.encode_family(&labels)?;
        family.encode_histogram::<NoLabelSet>(sum.seconds(), sum.count(), &sum.buckets(), None)?;
    }
    Ok(())
}

impl Collector for ByDestination {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (all, encoder) = (&*self.0.read(), &mut encoder);
        labelled(encoder, all, ("calls", "Outbound calls by destination and outcome", "outcome"), |counts| {
            let counted = OUTCOMES.iter().zip(&counts.calls);
            counted.map(|(outcome, count)| ((*outcome).to_owned(), count.load(Relaxed))).collect()
        })?;
        labelled(encoder, all, ("turned_away", "Calls that the gate refused, by kind of problem", "kind"), |counts| {
            counts.turned_away.lock().iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
        })?;
        let attempts = ("attempts", "Attempts that left the node, by destination");
        plain(encoder, all, attempts, |counts| counts.attempts.load(Relaxed))?;
        let retries = ("retries", "Calls that were sent again at the cost of an attempt, by destination");
        plain(encoder, all, retries, |counts| counts.retries.load(Relaxed))?;
        let hedges = ("hedges", "Further copies of calls under way, by destination");
        plain(encoder, all, hedges, |counts| counts.hedges.load(Relaxed))?;
        labelled(encoder, all, ("attempt_outcomes", "What attempts came to, by destination", "outcome"), |counts| {
            let counted = CLASSES.iter().zip(&counts.came);
            counted.map(|((_, outcome), count)| ((*outcome).to_owned(), count.load(Relaxed))).collect()
        })?;
        labelled(encoder, all, ("refusals", "Refusals of upstreams, by destination and status", "status"), |counts| {
            counts.refusals.lock().iter().map(|(status, count)| (status.to_string(), *count)).collect()
        })?;
        let errors = ("stream_errors", "Errors in the midst of answers of language models, by destination");
        plain(encoder, all, errors, |counts| counts.stream_errors.load(Relaxed))?;
        let tokens = ("tokens", "Tokens that answers of language models say they used, by destination");
        plain(encoder, all, tokens, |counts| counts.tokens.load(Relaxed))?;
        let help = "Calls to destinations that store answers, by destination and outcome";
        labelled(encoder, all, ("cache_answers", help, "outcome"), |counts| {
            let counted = Cached::ALL.iter().zip(counts.cached.all()).filter(|(_, count)| *count > 0);
            counted.map(|(outcome, count)| ((*outcome).to_owned(), count)).collect()
        })?;
        let help = "Calls that wait, by destination";
        {
            let mut series = encoder.encode_descriptor("queued_calls", help, None, MetricType::Gauge)?;
            for (destination, counts) in all {
                let labels = [("destination", destination.as_str())];
                series.encode_family(&labels)?.encode_gauge(&counts.queued.load(Relaxed))?;
            }
        }
        histogram(encoder, all, ("wait_seconds", "Seconds calls waited at the gate, by destination"), |counts| {
            &counts.waits
        })?;
        let help = "Seconds from the departure of an attempt to the head of its answer, by destination";
        histogram(encoder, all, ("upstream_seconds", help), |counts| &counts.upstream)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn what_became_of_calls_is_counted_by_destination() {
        let all = ByDestination::default();
        let counts = all.of("openai");
        counts.call(Ended::Answer(200), Duration::from_millis(40));
        counts.call(Ended::Refused("queue-full"), Duration::ZERO);
        counts.attempt();
        counts.came(Class::Refused, Some(429));
        counts.came(Class::Accepted, Some(200));
        counts.answered(Duration::from_millis(300));
        counts.used(21);
        counts.cache(Cached::Hit);
        counts.stream_error();
        let waits = counts.queued();
        let text = |all: &ByDestination| {
            let mut registry = Registry::with_prefix("tidegate");
            registry.register_collector(Box::new(all.clone()));
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let shown = text(&all);
        for line in [
            "tidegate_calls_total{destination=\"openai\",outcome=\"2xx\"} 1",
            "tidegate_turned_away_total{destination=\"openai\",kind=\"queue-full\"} 1",
            "tidegate_attempts_total{destination=\"openai\"} 1",
            "tidegate_retries_total{destination=\"openai\"} 0",
            "tidegate_hedges_total{destination=\"openai\"} 0",
            "tidegate_attempt_outcomes_total{destination=\"openai\",outcome=\"refused\"} 1",
            "tidegate_refusals_total{destination=\"openai\",status=\"429\"} 1",
            "tidegate_stream_errors_total{destination=\"openai\"} 1",
            "tidegate_cache_answers_total{destination=\"openai\",outcome=\"hit\"} 1",
            "tidegate_tokens_total{destination=\"openai\"} 21",
            "tidegate_queued_calls{destination=\"openai\"} 1",
            "tidegate_wait_seconds_count{destination=\"openai\"} 2",
            "tidegate_upstream_seconds_bucket{le=\"0.5\",destination=\"openai\"} 1",
        ] {
            assert!(shown.lines().any(|known| known == line), "{line}\n{shown}");
        }
        drop(waits);
        assert!(text(&all).contains("tidegate_queued_calls{destination=\"openai\"} 0"));
        all.forget("openai");
        assert!(!text(&all).contains("openai"));
    }
}
