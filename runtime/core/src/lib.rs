//! The rules of the gate: pure state machines without I/O, clock or runtime.
//!
//! Events and the time go in, effects come out; randomness comes from a seeded generator held in the state. So every
//! rule can be tested with time in the hand, and the host is a thin loop around it.
//!
//! Where to look:
//! - [`shard::Shard`] is what a host talks to: many destinations by key, one exact timer, admissions, outcomes.
//! - `actor` is one partition of a destination: queue, pace, slots, guard, budget.
//! - [`endpoint`] chooses among several equal ways to a destination.
//! - [`pace`] keeps configured limits, [`guard`] finds the limits nobody configured, [`budget`] bounds retries, `budgets` for all partitions of a destination.
//! - [`usage`] reads the tokens that an answer used from its body as it passes, and errors that come in its midst.
//! - [`signal`] reads what answers say, [`repeat`] decides what happens after an attempt.
//! - [`manners`] says on which threads a function's work runs.
//! - [`cache`] says when a stored answer may be used.
//! - [`split`] finds the names in a request's target that split a destination.
//! - [`policy`], [`limit`] and [`units`] are the shapes people write.
//! - [`refusal`] says why something waits or was refused.

mod actor;
pub mod budget;
mod budgets;
pub mod cache;
pub mod calls;
mod cells;
pub mod endpoint;
pub mod guard;
pub mod limit;
pub mod manners;
pub mod pace;
mod partitions;
pub mod policy;
mod queue;
pub mod refusal;
pub mod repeat;
mod rest;
pub mod shard;
mod shared;
pub mod signal;
mod slots;
pub mod snapshot;
pub mod split;
mod table;
pub mod time;
pub mod units;
pub mod usage;

pub use calls::{Call, Flow, NewCall, Permit, Ticket};
pub use limit::{Cost, Limit, Unit};
pub use policy::{Effective, Policy};
pub use refusal::{Refusal, Waiting};
pub use repeat::{Attempt, Outcome, Repeatable};
pub use shard::{Config, Effect, Effects, Settings, Shard, Submitted, Verdict};
pub use signal::Signal;
pub use snapshot::Snapshot;
pub use time::Time;
