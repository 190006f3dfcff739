//! Everything that leaves the node: the door, the shards that host the actors, the call loop, egress clients.
//!
//! Guests and programs at `/to` enter through one function, `Door::send`. There is no other way out: guests have no
//! sockets, and no other module opens one.

mod call;
mod wait_clock;

pub use call::{CallTimeouts, OutboundCall, Sender, SenderKind, TransportError};
pub use wait_clock::{WaitClock, WaitGuard};
