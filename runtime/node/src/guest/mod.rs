//! Guests: modules that become code, code that becomes instances, instances that serve requests.
//!
//! An upload is checked and compiled by a child process with its own bounds ([`modules`]), kept by its digest, and
//! mapped from disk when a version of a function is opened ([`Deployment`]). A request gets an instance, fresh or used
//! before ([`pool`], [`serve02`], [`serve03`]), whose store bounds what it may use of guest and host memory ([`state`]).
//! Time is bounded from outside the store: the epoch thread interrupts ([`engine`]), permits share out what long
//! computations may have ([`hogs`]), timers of their own thread end what takes too long ([`watch`]). The only way out
//! of a guest is [`hooks`], which hands every request to the door ([`Egress`]).

mod answer;
mod bodies;
mod client;
mod deployment;
mod egress;
mod engine;
mod error;
mod failure;
mod hogs;
mod hooks;
mod host;
mod limits;
mod linker;
mod logs;
mod meter;
mod modules;
mod pool;
mod running;
mod serve02;
mod serve03;
mod sockets;
mod state;
#[cfg(test)]
mod testing;
mod timers;
mod watch;

pub use deployment::{Deployment, FunctionIdentity};
pub use egress::Egress;
pub use error::InvokeError;
pub use host::{GuestHost, StartError};
pub use limits::{Bound, Limits};
pub use modules::{Flaw, ModuleError, ModuleInfo, compile_worker};
pub use running::Invocation;
