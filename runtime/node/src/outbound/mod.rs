//! Everything that leaves the node: the door, the shards that host the actors, the call loop, egress clients.
//!
//! Guests and programs at `/to` enter through one function, `Door::send`. There is no other way out: guests have no
//! sockets, and no other module opens one.

mod body;
mod call;
mod guard;
mod origin;
mod pool;
mod wait_clock;

pub use call::{CallTimeouts, OutboundCall, Sender, SenderKind, TransportError};
pub use guard::{AddressDenied, AddressGuard, HostPattern, HostPatterns, Kind as AddressKind, PatternError};
pub use origin::{Authority, Origin, Scheme};
pub use pool::{Resolve, SystemResolver};
pub use wait_clock::{WaitClock, WaitGuard};
