//! Everything that leaves the node: the door, the shards that host the actors, the call loop, egress clients.
//!
//! Guests and programs at `/to` enter through one function, [`Door::send`]. There is no other way out: guests have no
//! sockets, and no other module opens one.
//!
//! A call passes, in this order: `origin` (what is dialled, in one normal form), `guard` (allowed hosts), `headers`
//! (what ends at the gate), `body` (taken into the door's own buffer), `destinations` (which actor, which policy),
//! `shards` (when it may go), `pool` (a connection to an address that the guard lets pass), and `door` is the loop
//! around them. `secrets` puts values into a request as it leaves. `cache` answers before the shards are asked, for
//! destinations that want it. `to` reads the paths of `/to`, `redirect` keeps who follows a `Location` on them.

mod body;
mod cache;
mod call;
mod cookie;
mod destinations;
mod door;
mod guard;
mod headers;
mod origin;
mod pool;
mod redirect;
mod refuse;
mod said;
mod secrets;
mod shards;
#[cfg(test)]
mod testing;
mod to;
mod wait_clock;

pub use cache::Cache;
pub use call::{CallTimeouts, OutboundCall, Sender, SenderKind, TransportError};
pub use destinations::{
    CompiledDestination, DestinationPage, DestinationState, PartitionState, Profile, compile, injected, stands_for,
};
pub use door::{DestinationGauges, Door, DoorParts};
pub use guard::{AddressDenied, AddressGuard, HostPattern, HostPatterns, Kind as AddressKind, PatternError};
pub use headers::{HOP, Hops};
pub(crate) use headers::{Preferences, has_any, has_foreign_coding, strip_connection, trailer_names};
pub use origin::{Authority, Origin, Scheme};
pub(crate) use pool::system_roots;
pub use pool::{Liveness, Resolve, SystemResolver};
pub(crate) use redirect::Mount;
pub(crate) use said::Said;
pub use to::{Routed, ToError, scope_of};
pub use wait_clock::{WaitClock, WaitGuard};
