//! Bodies on their way through the door.
//!
//! The door owns the request body. It takes it from its sender into a bounded buffer of its own, keeps it while it is
//! small enough to be sent again, and goes on reading it after an early answer, a refusal or a cancellation, because a
//! guest whose body is closed under it aborts. The answer's body is wrapped so that its end or its drop, whichever
//! comes first, gives everything back.

mod answer;
mod kept;
mod memory;
mod plain;
mod pump;
mod usage;

use answer::request_trailers;
pub(crate) use answer::{Idle, discard, wrap};
pub(crate) use kept::{KeptBody, OutBody};
pub(crate) use memory::ReplayMemory;
pub(crate) use plain::{Unread, plain};
pub(crate) use pump::{Pump, Shared, Start, drain};
pub(crate) use usage::{Known, Watch, Watched, first_trouble};
