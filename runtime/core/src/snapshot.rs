//! The live state of a destination partition, for people: `GET /v1/destinations`.

use crate::{limit::Limit, refusal::Cause, shard::Brake};
use std::{fmt, time::Duration};

/// Outcomes so far, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
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
    /// Attempts given up by their caller.
    pub cancelled: u64,
    /// Calls the gate itself refused.
    pub turned_away: u64,
}

/// Why an endpoint is left alone. Prints as the end of a sentence: "left alone for 30 s, being slow".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ejected {
    /// Its answers take far longer than those of the others.
    Slow,
    /// Most of its attempts fail, and another serves.
    Failing,
    /// It answers with little but client errors, and another serves.
    Declining,
    /// It says that no waiting helps.
    Denying,
}

impl fmt::Display for Ejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ejected::Slow => "being slow",
            Ejected::Failing => "failing most calls",
            Ejected::Declining => "answering little but client errors",
            Ejected::Denying => "saying that no waiting helps",
        })
    }
}

/// One endpoint of a partition as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Endpoint {
    /// [`crate::endpoint::EndpointSettings::id`].
    pub id: u64,
    /// Half of its answers took less.
    pub latency: Option<Duration>,
    /// Share of failures among its last attempts.
    pub failures: f32,
    /// Attempts without an answer head yet.
    pub unanswered: u32,
    /// What is left of a pause, and why.
    pub paused: Option<(Duration, Cause)>,
    /// How much longer it is left alone, and why.
    pub ejected: Option<(Duration, Ejected)>,
    /// Requests per second learned from refusals.
    pub learned_rate: Option<f64>,
    /// Requests at once that it was found to take, by what it refuses or by answers that get slower.
    pub learned_slots: Option<u32>,
}

/// One partition as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The key it is known by.
    pub key: u128,
    /// Configured limits.
    pub limits: Vec<Limit>,
    /// Configured concurrency.
    pub max_concurrency: Option<u32>,
    /// Requests per second learned from refusals.
    pub learned_rate: Option<f64>,
    /// Requests at once that it was found to take, by what it refuses or by answers that get slower.
    pub learned_slots: Option<u32>,
    /// Requests that may be unanswered at once while little is known; `None`: any number.
    pub window: Option<u32>,
    /// Calls that wait.
    pub queued: usize,
    /// Bytes of their bodies.
    pub queued_bytes: u64,
    /// How long the oldest of them has waited.
    pub oldest_wait: Option<Duration>,
    /// When a call that came now could leave at the earliest, as far as limits and pauses tell.
    pub next_in: Duration,
    /// Slots held: attempts from their admission to the end of their answers.
    pub in_flight: u32,
    /// Attempts without an answer head yet.
    pub unanswered: u32,
    /// What is left of a pause, and why.
    pub paused: Option<(Duration, Cause)>,
    /// What an operator does to it.
    pub brake: Brake,
    /// Pauses so far.
    pub cuts: u32,
    /// Its endpoints, where several are configured.
    pub endpoints: Vec<Endpoint>,
    /// Outcomes so far.
    pub counts: Counts,
    /// Time from departure to the answer head, moving average over about ten answers.
    pub latency: Option<Duration>,
    /// First attempts and retries of the last ten seconds.
    pub lately: (u32, u32),
    /// Retries that the budget has now.
    pub retries_left: u32,
}
