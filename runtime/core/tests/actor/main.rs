//! What one destination does, sentence by sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod brakes;
mod doubts;
mod fair;
mod gate;
mod herd;
mod pauses;
mod queue;
mod retries;
mod spared;
mod state;
mod stated;
mod usage;
