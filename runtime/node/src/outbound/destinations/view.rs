//! The live state of destinations, as `GET /v1/destinations` shows it.

use serde::Serialize;
use tidegate_core::{Snapshot, Time, shard::Brake, units::Rounded};

use crate::outbound::shards;

/// Some destinations of a tenant, and where to go on.
#[derive(Clone, Debug, Serialize)]
pub struct DestinationPage {
    /// Ordered by label.
    pub destinations: Vec<DestinationState>,
    /// Hand it in as `after` for the next page; nothing on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A destination and its partitions.
#[derive(Clone, Debug, Serialize)]
pub struct DestinationState {
    /// Configured name, or the origin.
    pub destination: String,
    /// Whether it is configured.
    pub configured: bool,
    /// What it stands for.
    pub r#match: String,
    /// What the cache did for its calls so far, where it stores answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<std::collections::BTreeMap<&'static str, u64>>,
    /// Partitions with live state. A destination without splitters has one, without a name, once it was used.
    pub partitions: Vec<PartitionState>,
}

/// A partition as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionState {
    /// What makes it one, such as `authorization=#9f2c01aa, /model=gpt-4o`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Limits in force.
    pub limits: Vec<String>,
    /// Most calls in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Pace of departures.
    pub pace: Pace,
    /// Calls that wait.
    pub queue: Queue,
    /// A pause, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// What an operator does to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Attempts from their admission to the end of their answers.
    pub in_flight: u32,
    /// Attempts without the head of an answer yet.
    pub unanswered: u32,
    /// Its endpoints, where several are configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointState>,
    /// Outcomes so far.
    pub outcomes: Outcomes,
    /// Time to the head of an answer, moving average, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// An endpoint as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointState {
    /// Its name.
    pub endpoint: String,
    /// Half of its answers took less, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Share of failures among its last attempts.
    pub failures: f64,
    /// Attempts without the head of an answer yet.
    pub unanswered: u32,
    /// A pause, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// How much longer it is left alone, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_ms: Option<f64>,
    /// Why it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected: Option<String>,
    /// Calls per second learned from refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_per_second: Option<f64>,
    /// Calls at once that it was found to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_at_once: Option<u32>,
}

/// How fast calls may leave.
#[derive(Clone, Debug, Serialize)]
pub struct Pace {
    /// Calls per second learned from refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_per_second: Option<f64>,
    /// Calls at once that it was found to take, by what it refuses or by answers that get slower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_at_once: Option<u32>,
    /// Calls that may be unanswered at once while little is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// When a call that came now could leave, milliseconds from now.
    pub next_in_ms: f64,
    /// First attempts of the last ten seconds.
    pub lately: u32,
    /// Retries of the last ten seconds.
    pub retries_lately: u32,
    /// Retries that the budget has now.
    pub retries_left: u32,
}

/// What waits.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// Calls.
    pub calls: usize,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Longest wait so far, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<f64>,
}

/// Why nothing leaves.
#[derive(Clone, Debug, Serialize)]
pub struct Pause {
    /// What is left, milliseconds.
    pub left_ms: f64,
    /// When it ends, milliseconds since 1970 by the node's clock.
    pub until_ms: u64,
    /// Why.
    pub why: String,
    /// Its number.
    pub number: u32,
}

/// How an operator holds it.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// `paused` or `draining`.
    pub state: &'static str,
    /// What is left, milliseconds; nothing: until it is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<f64>,
}

impl Held {
    fn of(brake: Brake) -> Option<Self> {
        let now = shards::now();
        let left = |until: Time| until.finite().map(|until| millis(until.since(now)));
        match brake {
            Brake::Off => None,
            Brake::Paused { until } => Some(Self { state: "paused", left_ms: left(until) }),
            Brake::Draining { until } => Some(Self { state: "draining", left_ms: left(until) }),
        }
    }
}

/// Outcomes so far, by class.
#[derive(Clone, Debug, Serialize)]
pub struct Outcomes {
    /// Answers below 400.
    pub succeeded: u64,
    /// Client errors that are no refusals.
    pub client_errors: u64,
    /// 429, and 503 or 529 that name a wait.
    pub refused: u64,
    /// Other server errors.
    pub server_errors: u64,
    /// Attempts without an answer.
    pub failed: u64,
    /// Attempts given up by their sender.
    pub cancelled: u64,
    /// Calls that the gate refused.
    pub turned_away: u64,
}

fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl PartitionState {
    /// `name` tells what an endpoint is called.
    pub(crate) fn new(partition: Option<&str>, snapshot: &Snapshot, name: impl Fn(u64) -> String) -> Self {
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let counts = &snapshot.counts;
        Self {
            partition: partition.map(str::to_owned),
            limits: snapshot.limits.iter().map(ToString::to_string).collect(),
            max_concurrency: snapshot.max_concurrency,
            pace: Pace {
                learned_per_second: snapshot.learned_rate.map(|rate| (rate * 100.0).round() / 100.0),
                learned_at_once: snapshot.learned_slots,
                window: snapshot.window,
                next_in_ms: millis(snapshot.next_in),
                lately: snapshot.lately.0,
                retries_lately: snapshot.lately.1,
                retries_left: snapshot.retries_left,
            },
            queue: Queue {
                calls: snapshot.queued,
                bytes: snapshot.queued_bytes,
                oldest_ms: snapshot.oldest_wait.map(millis),
            },
            paused: snapshot.paused.map(|(left, cause)| Pause {
                left_ms: millis(left),
                until_ms: now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                why: format!("for {} {cause}", Rounded(left)),
                number: snapshot.cuts,
            }),
            held: Held::of(snapshot.brake),
            in_flight: snapshot.in_flight,
            unanswered: snapshot.unanswered,
            endpoints: snapshot
                .endpoints
                .iter()
                .map(|it| EndpointState {
                    endpoint: name(it.id),
                    latency_ms: it.latency.map(millis),
                    failures: (f64::from(it.failures) * 100.0).round() / 100.0,
                    unanswered: it.unanswered,
                    paused: it.paused.map(|(left, cause)| format!("for {} {cause}", Rounded(left))),
                    ejected_ms: it.ejected.map(|(left, _)| millis(left)),
                    ejected: it.ejected.map(|(_, why)| why.to_string()),
                    learned_per_second: it.learned_rate.map(|rate| (rate * 100.0).round() / 100.0),
                    learned_at_once: it.learned_slots,
                })
                .collect(),
            outcomes: Outcomes {
                succeeded: counts.succeeded,
                client_errors: counts.client_errors,
                refused: counts.refused,
                server_errors: counts.server_errors,
                failed: counts.failed,
                cancelled: counts.cancelled,
                turned_away: counts.turned_away,
            },
            latency_ms: snapshot.latency.map(millis),
        }
    }
}
