//! What end-to-end tests are built from: a node, guests, a scripted upstream, a client.
//!
//! ```no_run
//! # async fn example() {
//! use tidegate_tests::{Gate, Upstream};
//! let upstream = Upstream::answering("hello").await;
//! let gate = Gate::serve().start().await;
//! gate.deploy("misbehave", serde_json::json!({"allowed_hosts": ["127.0.0.1:*"]})).await;
//! let answer = gate.get(&format!("/f/misbehave/fetch?url={}", upstream.url("/x"))).await;
//! assert_eq!(answer.status, 200);
//! # }
//! ```
//!
//! Everything listens on loopback, on free ports, and ends by itself when it is dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod bombs;
mod client;
mod gate;
mod raw;
mod siege;
mod upstream;

pub use client::{Answer, Client, eventually};
pub use gate::{Gate, GateBuilder, TOKEN, guest, program};
pub use raw::{RawUpstream, frame, h2_preface, say};
pub use siege::{assert_names_its_bound, besieged, contained};
pub use upstream::{Body, Limit, Seen, Upstream, text};
