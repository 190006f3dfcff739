//! The Tidegate host: a node that runs WASM handlers and sends every outbound call through a per-URL actor.
//!
//! The rules live in `tidegate-core`, which has no I/O and no clock. This crate is the thin loop around them: sockets,
//! instances, files, threads. ARCHITECTURE.md is the map.

#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod alarm;
mod bell;
pub mod body;
pub mod cli;
mod client;
mod clock;
pub mod cluster;
pub mod control;
pub mod guest;
pub mod ids;
pub mod ingress;
pub mod node;
pub mod observe;
pub mod outbound;
pub mod problem;
pub mod secrets;
pub mod settings;
mod threads;
