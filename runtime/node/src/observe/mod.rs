//! What a person can see of a node: trails, guest logs, a live feed, metrics.
//!
//! Every concern reports here and none waits here: stores are rings with a bound in bytes, the feed drops what a slow
//! reader does not take, and all of it is cheap when nobody looks.

mod call_log;
mod feed;
#[cfg(test)]
mod heap;
mod invocations;
mod logs;
mod metrics;
mod note;
mod trail;

use std::sync::Arc;

pub use call_log::{CallLog, LoggedCall};
pub use feed::{CallLine, Feed, FeedEvent, FeedEvents, FeedItem, FeedReader, NoEvent, TraceIdText};
pub use invocations::{Invocations, Outcome};
pub use logs::{LogFilter, LogLine, LogStore, LogStream};
pub use metrics::{DestinationLabel, DestinationLabels, Metrics};
pub use note::{Came, Note};
pub(crate) use note::cut;
pub(crate) use trail::tags_of;
pub use trail::{
    CallSpan, Cursor, Ending, Marks, NotableBounds, Order, StatusFilter, Step, StepKind, Subject, TAG, Timeline, Trail,
    TrailQuery, TrailRecord, TrailStore, TrailSummary, Waits, verdict,
};

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
    /// Which outbound calls have a line in the node's log.
    pub call_log: CallLog,
}

impl Observe {
    /// Observers with the bounds of the settings.
    pub fn new(settings: &ObserveSettings) -> Arc<Self> {
        Arc::new(Self {
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
            metrics: Metrics::new(),
            call_log: settings.call_log,
        })
    }
}
