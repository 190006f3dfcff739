//! What a person can see of a node: trails, guest logs, a live feed, metrics.
//!
//! Every concern reports here and none waits here: stores are rings with a bound in bytes, the feed drops what a slow
//! reader does not take, and all of it is cheap when nobody looks.

mod cached;
mod call_log;
mod destinations;
mod feed;
#[cfg(test)]
mod heap;
mod invocations;
mod log_queue;
mod logs;
mod metrics;
mod note;
mod otlp;
mod times;
mod trail;

use std::sync::Arc;

pub use cached::{CacheMetrics, Cached, CachedCounts};
pub use call_log::{CallLines, CallLog, LoggedCall};
pub use destinations::{DestinationCounts, Ended, QueuedCall};
pub use feed::{CallLine, Feed, FeedEvent, FeedEvents, FeedItem, FeedReader, NoEvent, TraceIdText};
pub use invocations::{Invocations, InvocationsSum, Outcome};
pub use log_queue::{LogEnd, LogQueue};
pub use logs::{LogFilter, LogLine, LogStore, LogStream};
pub use metrics::{Metrics, OTHER};
pub(crate) use note::cut;
pub use note::{Came, CopyKind, Note, Stop};
pub use otlp::{Endpoint, EndpointError, Exporter};
pub use trail::{
    AttemptCame, CallSpan, Cursor, Ending, Marks, NotableBounds, Order, StatusFilter, Step, StepKind, Subject, TAG,
    Timeline, Trail, TrailQuery, TrailRecord, TrailStore, TrailSummary, Waits, verdict,
};
pub(crate) use trail::{TAG_LENGTH, TAGS, tags_of};

use crate::{ids::TraceId, settings::ObserveSettings};

/// The node's observers, shared by all concerns.
pub struct Observe {
    /// Trails of invocations and calls.
    pub trails: TrailStore,
    /// What guests print.
    pub logs: LogStore,
    /// Calls and log lines as they happen, for `tidegate dev` and `logs -f`.
    pub feed: Feed,
    /// Counters and histograms for Prometheus.
    pub metrics: Metrics,
    /// Which outbound calls have a line in the node's log.
    pub call_log: CallLines,
    /// Of traces that begin here, those up to this many of 2^64 are sampled.
    sampled: u64,
}

impl Observe {
    /// Observers with the bounds of the settings.
    pub fn new(settings: &ObserveSettings) -> Arc<Self> {
        Arc::new(Self::bare(settings))
    }

    /// Observers that tell a collector, and who sends to it.
    pub fn exporting(settings: &ObserveSettings, endpoint: Endpoint, region: &str) -> (Arc<Self>, Exporter) {
        let queue = Arc::new(otlp::Queue::new(settings.otlp_queue_bytes.get()));
        let mut observe = Self::bare(settings);
        let counts = observe.metrics.export_counts();
        observe.trails = observe.trails.export(Arc::clone(&queue), Arc::clone(&counts));
        observe.sampled = (settings.otlp_sample / 100.0 * u64::MAX as f64) as u64;
        let resource = vec![
            ("service.name", "tidegate".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("cloud.region", region.to_owned()),
        ];
        (Arc::new(observe), Exporter::new(queue, counts, endpoint, resource))
    }

    /// Whether a trace that begins here is sampled. All are where there is no collector: others may want to know.
    pub fn samples(&self, trace: TraceId) -> bool {
        // The lowest bit is always set.
        (trace.0 >> 8) as u64 <= self.sampled
    }

    fn bare(settings: &ObserveSettings) -> Self {
        let metrics = Metrics::new();
        Self {
            trails: TrailStore::new(
                settings.trail_bytes.get(),
                NotableBounds {
                    bytes: settings.trail_notable_bytes.get(),
                    slowest: settings.trail_slowest,
                    failures: settings.trail_failures,
                },
            ),
            logs: LogStore::new(settings.log_bytes.get()),
            feed: Feed::new(settings.feed_lines, settings.feed_bytes.get()),
            call_log: CallLines::new(settings.call_log, settings.call_log_rate, metrics.call_lines_cut.clone()),
            metrics,
            sampled: u64::MAX,
        }
    }
}
