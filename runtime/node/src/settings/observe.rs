//! What is kept for people to look at, and told to collectors.

use clap::Args;
use tidegate_core::units::Size;

use super::values::{count, percent};
use crate::observe::CallLog;

/// What is kept for people to look at.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Observing")]
pub struct ObserveSettings {
    /// Memory for finished trails
    #[arg(long, env = "TIDEGATE_TRAIL_BYTES", value_name = "SIZE", default_value = "64MiB")]
    pub trail_bytes: Size,
    /// Memory for failed and slow trails beside that, so that ordinary ones don't push them out. The oldest hour goes first
    #[arg(long, env = "TIDEGATE_TRAIL_NOTABLE_BYTES", value_name = "SIZE", default_value = "16MiB")]
    pub trail_notable_bytes: Size,
    /// Slowest trails of each hour and function, or destination of a program, that are kept there. Spread over 16 parts by trace id
    #[arg(long, env = "TIDEGATE_TRAIL_SLOWEST", value_name = "COUNT", default_value_t = 64, value_parser = count(0..=100_000))]
    pub trail_slowest: usize,
    /// Failed and refused trails of each hour and function, or destination of a program, that are kept there: the last ones. Spread likewise
    #[arg(long, env = "TIDEGATE_TRAIL_FAILURES", value_name = "COUNT", default_value_t = 256, value_parser = count(0..=100_000))]
    pub trail_failures: usize,
    /// Outbound calls that have a line in the node's log, with what they came to and how long they took and waited: off, failures or all. Failures are warnings, all others information (`log`)
    #[arg(
        long,
        env = "TIDEGATE_CALL_LOG",
        value_name = "WHICH",
        default_value = "all",
        value_enum,
        hide_possible_values = true
    )]
    pub call_log: CallLog,
    /// Of them each second: so many of calls that failed, and so many of others. How many were cut is told each second
    #[arg(long, env = "TIDEGATE_CALL_LOG_RATE", value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub call_log_rate: u32,
    /// Collector that gets traces by OTLP over HTTP, as JSON, such as http://127.0.0.1:4318. None: what OTEL_EXPORTER_OTLP_ENDPOINT says, if anything
    #[arg(long, env = "TIDEGATE_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Headers for it, NAME=VALUE,NAME=VALUE with values percent-encoded. None: what OTEL_EXPORTER_OTLP_HEADERS says
    #[arg(long, env = "TIDEGATE_OTLP_HEADERS", value_name = "HEADERS", hide_env_values = true)]
    pub otlp_headers: Option<String>,
    /// Percent of the traces that begin at this node which are sampled. Of others their caller has decided
    #[arg(long, env = "TIDEGATE_OTLP_SAMPLE", value_name = "PERCENT", default_value_t = 100.0, value_parser = percent)]
    pub otlp_sample: f64,
    /// Memory of trails that wait for the collector; further ones are dropped and counted
    #[arg(long, env = "TIDEGATE_OTLP_QUEUE_BYTES", value_name = "SIZE", default_value = "8MiB")]
    pub otlp_queue_bytes: Size,
    /// Memory for guest logs. Where it is full, the function that keeps most loses its oldest lines
    #[arg(long, env = "TIDEGATE_LOG_BYTES", value_name = "SIZE", default_value = "16MiB")]
    pub log_bytes: Size,
    /// Events a slow reader of logs may lag behind before it misses some
    #[arg(long, env = "TIDEGATE_FEED_LINES", value_name = "COUNT", default_value_t = 4_096, value_parser = count(1..=1_000_000))]
    pub feed_lines: usize,
    /// Memory of those events
    #[arg(long, env = "TIDEGATE_FEED_BYTES", value_name = "SIZE", default_value = "16MiB")]
    pub feed_bytes: Size,
}
