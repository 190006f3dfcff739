//! What a person can see of a node: trails, guest logs, a live feed, metrics.
//!
//! Every concern reports here and none waits here: stores are rings with a bound in bytes, the feed drops what a slow
//! reader does not take, and all of it is cheap when nobody looks.

mod cached;
mod feed;
#[cfg(test)]
mod heap;
mod invocations;
mod logs;
mod metrics;
mod note;
mod trail;

use std::sync::Arc;

pub use cached::{CacheMetrics, Cached};
pub use feed::{CallLine, Feed, FeedEvent, FeedEvents, FeedItem, FeedReader, NoEvent, TraceIdText};
pub use invocations::{Invocations, Outcome};
pub use logs::{LogFilter, LogLine, LogStore, LogStream};
pub use metrics::{DestinationLabel, DestinationLabels, Metrics};
pub use note::Note;
pub(crate) use note::cut;
pub use trail::{Ending, Subject, Trail, TrailRecord, TrailStore, TrailSummary, Waits};

use crate::settings::ObserveSettings;

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
}

impl Observe {
    /// Observers with the bounds of the settings.
    pub fn new(settings: &ObserveSettings) -> Arc<Self> {
        Arc::new(Self {
            trails: TrailStore::new(settings.trail_bytes.get()),
            logs: LogStore::new(settings.log_bytes.get()),
            feed: Feed::new(settings.feed_lines, settings.feed_bytes.get()),
            metrics: Metrics::new(),
        })
    }
}
