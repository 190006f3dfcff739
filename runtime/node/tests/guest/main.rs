//! The guest host against real guests: `cargo xtask guests` builds them into guests/build.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod calls;
mod limits;
mod modules;
mod operations;
mod passing;
mod serving;
mod support;
mod transport;
