//! Several endpoints behind one destination, in a small seeded world: which of them calls take, and what becomes of calls
//! while one is slow, refuses or fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod choice;
mod failing;
mod slow;
mod world;
